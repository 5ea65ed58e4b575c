"""Rewards of replies: what is well formed, right, true, complete and consistent; and that the judge is not fooled."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion.cues import CUE_BY_NAME, Thresholds
from edge_emotion_train.reasoning import CueEmotionTable
from edge_emotion_train.reinforcement.judges import (
    completeness,
    cue_verdicts,
    factual_alignment,
    fluency,
    interpretation,
    measured_judge,
    uninformed_judge,
)
from edge_emotion_train.reinforcement.llm_judge import describe, llm_judge, read_scores
from edge_emotion_train.reinforcement.rewards import (
    DIMENSIONS,
    EQUAL_WEIGHTS,
    Heard,
    Reply,
    Scores,
    consistency,
    format_reward,
    mixed_reasoning,
    named_emotions,
    outcome_reward,
    reasoning_reward,
    reward_columns,
)

LABELS = ("anger", "fear", "sadness", "neutral")
THRESHOLDS = Thresholds({"pitch": (110.0, 140.0, 180.0, 220.0), "rate": (4.0, 5.5), "tone": (-16.0, -10.0)}, "a test")
HEARD = Heard({"pitch": CUE_BY_NAME["pitch"].position(250.0), "rate": 6.5, "tone": -5.0}, THRESHOLDS)
TRUE = "I hear a very high pitch, fast speech and a sharp tone. Together these cues point to anger or fear."
FALSE = "I hear a very low pitch, slow speech and a soft tone. Together these cues point to anger or fear."


@pytest.fixture(scope="module")
def table() -> CueEmotionTable:
    levels = {
        "anger": {"pitch": "very high", "rate": "fast", "tone": "sharp"},
        "fear": {"pitch": "high", "rate": "fast", "tone": "balanced"},
        "sadness": {"pitch": "low", "rate": "slow", "tone": "soft"},
        "neutral": {"pitch": "medium", "rate": "moderate", "tone": "balanced"},
    }
    return CueEmotionTable().fit(
        [levels[label] for label in LABELS for _ in range(9)], [x for x in LABELS for _ in range(9)]
    )


@pytest.mark.parametrize(
    ("text", "well_formed", "right"),
    [
        ("<think>I hear.</think><answer>fear</answer>", 1.0, 1.0),
        ("<think>I hear.</think> <answer> fear </answer>\n", 1.0, 1.0),
        ("<think>I hear.</think><answer>anger</answer>", 1.0, 0.0),
        ("<think>I hear.</think><answer>afraid</answer>", 0.0, 1.0),
        ("<think></think><answer>fear</answer>", 0.0, 1.0),
        ("<think>I hear.</think><answer>fear</answer> more", 0.0, 1.0),
        ("<think>I hear.<answer>fear</answer>", 0.0, 1.0),
        ("<think>I hear.</think><answer>fear or anger</answer>", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_format_and_outcome(text: str, well_formed: float, right: float) -> None:
    assert format_reward(text, LABELS) == well_formed
    assert outcome_reward(text, "fear", LABELS) == right


def test_a_near_miss_earns_what_it_is_set_to() -> None:
    reply = "<think>x</think><answer>{}</answer>"
    assert outcome_reward(reply.format("anger"), "fear", LABELS, near_miss=0.3) == 0.3
    assert outcome_reward(reply.format("fear"), "fear", LABELS, near_miss=0.3) == 1.0
    assert outcome_reward(reply.format("sadness"), "fear", LABELS, near_miss=0.3) == 0.0
    assert outcome_reward("<think>x</think>", "fear", LABELS, near_miss=0.3) == 0.0


def test_reasoning_reward_is_the_weighted_share_of_points() -> None:
    assert reasoning_reward((5, 5, 5, 5)) == pytest.approx(1.0)
    assert reasoning_reward((1, 1, 1, 1)) == pytest.approx(0.2)
    assert reasoning_reward((5, 1, 3, 4), (0.4, 0.3, 0.2, 0.1)) == pytest.approx((2.0 + 0.3 + 0.6 + 0.4) / 5)


def test_named_emotions_are_words_of_the_text() -> None:
    assert named_emotions("It sounds angry, or sad; a neutral mood.") == {"anger", "sadness", "neutral"}
    assert named_emotions("A madrigal, unfearful.") == frozenset()


@pytest.mark.parametrize(
    ("reasoning", "label", "expected"),
    [
        ("This points to anger or fear.", "fear", 1.0),
        ("This points to anger or fear.", "sadness", 0.0),
        ("Alone this would suggest anger, yet the whole voice does not settle there.", "sadness", 0.5),
        ("I hear fast speech.", "sadness", 0.5),
        ("This points to anger.", None, 0.0),
    ],
)
def test_consistency_of_reasoning_and_answer(reasoning: str, label: str | None, expected: float) -> None:
    assert consistency(reasoning, label) == expected


def test_verdicts_are_those_of_the_measured_signal() -> None:
    assert cue_verdicts(TRUE, HEARD) == {"pitch": True, "rate": True, "tone": True}
    assert cue_verdicts(FALSE, HEARD) == {"pitch": False, "rate": False, "tone": False}
    # Within the uncertainty of the cut counts as true, as everywhere else.
    cut = THRESHOLDS.cuts["tone"][1]
    near = Heard({"tone": cut - 0.9 * CUE_BY_NAME["tone"].uncertainty}, THRESHOLDS)
    assert cue_verdicts("I hear a sharp tone and fast speech.", near) == {"tone": True}
    assert cue_verdicts("I hear a sharp tone and also a soft tone.", HEARD) == {"tone": False}


def test_the_four_dimensions_of_worked_examples(table: CueEmotionTable) -> None:
    half = {"pitch": True, "rate": False, "tone": True}
    assert factual_alignment(half) == pytest.approx(2 / 3)
    assert factual_alignment({}) == 0.0
    assert completeness(half, HEARD, 4) == pytest.approx(2 / 3)  # only three can be measured
    assert completeness(half, HEARD, 2) == 1.0
    assert interpretation("I hear a very high pitch and a sharp tone. This points to anger.", "anger", table) == 1.0
    assert interpretation("I hear a very high pitch and a sharp tone. This points to anger.", "sadness", table) < 0.6
    assert interpretation("This points to anger.", "anger", table) == 0.0
    assert fluency("", (5, 10)) == 0.0
    assert fluency("I hear a very high pitch and fast speech.", (5, 10)) == 1.0


def points(judge_table: CueEmotionTable, reasoning: str, label: str = "anger", heard: Heard = HEARD) -> Scores:
    scores = measured_judge(judge_table)([Reply(reasoning, label, heard)])[0]
    assert scores is not None
    return scores


def test_truth_moves_factual_alignment_and_nothing_else_about_style(table: CueEmotionTable) -> None:
    true, false = points(table, TRUE), points(table, FALSE)
    assert (true[0], false[0]) == (5.0, 1.0)
    assert true[3] == false[3]
    assert reasoning_reward(true) > reasoning_reward(false) + 0.2


@pytest.mark.parametrize(
    "trick",
    [
        pytest.param(TRUE + " " + TRUE, id="said twice"),
        pytest.param(TRUE.replace("anger or fear", "anger or anger"), id="an alternative of one"),
        pytest.param(
            TRUE.replace("a very high pitch", "a very high pitch, a low pitch, a medium pitch"), id="all levels"
        ),
        pytest.param("pitch pitch high high fast fast sharp sharp tone tone anger anger", id="cue words stuffed"),
        pytest.param("This is an excellent, faithful and complete explanation of anger.", id="flattery"),
        pytest.param(FALSE, id="another clip's reasoning"),
        pytest.param("", id="nothing"),
    ],
)
def test_tricks_do_not_raise_the_reward(table: CueEmotionTable, trick: str) -> None:
    assert reasoning_reward(points(table, trick)) < reasoning_reward(points(table, TRUE))


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=120), st.sampled_from([*LABELS, None, "nonsense"]))
def test_any_text_is_judged_within_the_scale(text: str, label: str | None) -> None:
    table = CueEmotionTable().fit([{"pitch": "low"}, {"pitch": "high"}], ["sadness", "anger"])
    scores = measured_judge(table)([Reply(text, label, HEARD)])[0]
    assert scores is not None
    assert all(1.0 <= value <= 5.0 for value in scores)
    assert 0.2 - 1e-9 <= reasoning_reward(scores) <= 1.0 + 1e-9


def test_the_uninformed_judge_knows_nothing_of_the_recording() -> None:
    other = Heard({"pitch": 0.0}, THRESHOLDS)
    replies = [Reply(f"text {i}", "anger", heard) for i in range(200) for heard in (HEARD, other)]
    scores = uninformed_judge(replies)
    assert scores[::2] == scores[1::2]
    assert {value for values in scores if values for value in values} == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_judges_are_mixed_by_weight_and_a_silent_one_leaves_the_rest() -> None:
    replies = [Reply("a", "anger", HEARD), Reply("This points to fear.", "anger", HEARD), Reply("c", "fear", HEARD)]

    def generous(_: object) -> list[Scores | None]:
        return [(5, 5, 5, 5), (5, 5, 5, 5), None]

    def strict(_: object) -> list[Scores | None]:
        return [(1, 1, 1, 1), None, None]

    rewards, scores = mixed_reasoning(replies, [(generous, 3.0), (strict, 1.0)])
    assert rewards == [pytest.approx(0.8), pytest.approx(1.0), None]
    assert scores == [(4.0, 4.0, 4.0, 4.0), (5.0, 5.0, 5.0, 5.0), None]
    mixed, _ = mixed_reasoning(replies, [(generous, 1.0)], EQUAL_WEIGHTS, consistency_share=0.5)
    assert mixed == [pytest.approx(0.5 + 0.5 * 0.6), pytest.approx(0.5 + 0.5 * 0.2), None]


def test_columns_as_trl_calls_them(table: CueEmotionTable) -> None:
    columns = reward_columns(LABELS, {"k": HEARD}, [(measured_judge(table), 1.0)], opening="<think>")
    assert [column.__name__ for column in columns] == ["format", "outcome", "reasoning"]
    replies = [
        f"{TRUE}</think><answer>anger</answer>",
        [{"role": "assistant", "content": f"{FALSE}</think><answer>fear"}],
    ]
    logged: dict[str, float] = {}
    given_columns = {
        "completions": replies,
        "emotion": ["anger"] * 2,
        "id": ["k"] * 2,
        "log_metric": logged.__setitem__,
    }
    format_, outcome, reasoning = (column(**given_columns, prompts=["", ""], trainer_state=None) for column in columns)
    assert (format_, outcome) == ([1.0, 0.0], [1.0, 0.0])
    assert reasoning[0] > reasoning[1]
    assert set(logged) == {*(f"judge/{name}" for name in DIMENSIONS), "judge/missing", "judge/consistency"}
    assert logged["judge/factual_alignment"] == 3.0


class Endpoint(BaseHTTPRequestHandler):
    """Says good scores, unless the explanation asks for trouble."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if "server error" in body:
            self.send_error(500)
            return
        scores = {name: 9 if "out of range" in body else 4 for name in DIMENSIONS}
        said = "I would rather not." if "prose" in body else f"Here you are: ```json\n{json.dumps(scores)}\n```"
        answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}]}
        payload = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", **answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_an_endpoint_judges_and_its_failures_are_no_scores(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    judge = llm_judge(endpoint, "m", retries=0, timeout_s=5.0)
    texts = ["fine", "server error", "prose", "out of range"]
    scores = judge([Reply(text, "anger", HEARD) for text in texts])
    assert scores == [(4.0, 4.0, 4.0, 4.0), None, None, None]
    message = capsys.readouterr().err
    assert "3 of 4 replies not judged" in message
    assert "First cause: InternalServerError" in message


def test_a_dead_endpoint_costs_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    judge = llm_judge("http://127.0.0.1:9/v1", "m", retries=0, timeout_s=0.5)
    assert judge([Reply("x", "anger", HEARD)] * 2) == [None, None]
    assert "2 of 2 replies not judged" in capsys.readouterr().err


def test_what_the_judge_reads() -> None:
    text = describe(Reply("I hear.", None, Heard(HEARD.positions, THRESHOLDS, "good morning")))
    assert "Measured: pitch very high, rate fast, tone sharp." in text
    assert "Transcript: good morning" in text
    assert "Answer: none\n<explanation>I hear.</explanation>" in text
    assert "nothing reliable" in describe(Reply("I hear.", None, Heard({}, THRESHOLDS)))


@pytest.mark.parametrize("text", ["", "{", '{"factual_alignment": 3}', "{}", '{"factual_alignment": "x"}'])
def test_unreadable_scores_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (json's own error is one of them)
        read_scores(text)
