from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_emotion.claims import parse_claims
from edge_emotion.cli.app import run
from edge_emotion.errors import LabellingError
from edge_emotion_train.labelling import chat_endpoint
from edge_emotion_train.labelling.calibrate import ThresholdGroups
from edge_emotion_train.labelling.chat_endpoint import Allowance, ChatEndpoint, NoAnswerError
from edge_emotion_train.labelling.findings import Background, findings_of
from edge_emotion_train.labelling.llm_author import ChatAuthor, compose, read_answer
from edge_emotion_train.labelling.records import Outcome, RecordFile
from edge_emotion_train.labelling.text_checking import check_text
from edge_emotion_train.labelling.workers import StopRun
from edge_emotion_train.labelling.writing import Assignment, Writing, write
from tests.labelling.chat_server import breaks_off, chat_server, hangs, refuses, says, sends
from tests.labelling.listener import ALL_CUTS, BACKGROUND, GROUPS, make_record, make_table

LEVELS = {"pitch": "high", "rate": "fast", "tone": "sharp", "clarity": "rough"}
GOOD = (
    "What I hear first is a high pitch, and with it fast speech that leaves hardly a moment to think. The tone is "
    "sharp, and the voice sounds hoarse, as if it had been used hard. A sharp tone like this one leads away from "
    "sadness. Fear comes to mind, since the high pitch would go with it, but the hoarse voice does not. I settle on "
    "anger."
)
WRONG = GOOD.replace("fast speech", "slow speech").replace("high pitch", "low pitch")
HALF_WRONG = GOOD.replace("I settle on anger.", "The pauses are frequent. I settle on anger.")
QUIET = {"retries": 2, "timeout_s": 5.0, "sleep": lambda seconds: None}


def endpoint(url: str, **options: Any) -> ChatEndpoint:
    return ChatEndpoint(url, "model", **(QUIET | options))


def step(url: str, corrections: int = 0, **options: Any) -> Writing:
    author = ChatAuthor(endpoint(url, **options))
    return Writing(BACKGROUND, ThresholdGroups(GROUPS), author, "model", corrections=corrections)


def one(writing: Writing) -> Outcome:
    return writing(make_record(LEVELS))


def test_a_good_answer_becomes_the_reasoning():
    with chat_server(says(GOOD)) as chat:
        outcome = one(step(chat.url))
    assert outcome.failures == ()
    reasoning = outcome.record.reasoning
    assert (reasoning.text, reasoning.writer, reasoning.size, reasoning.repairs) == (GOOD, "model", "full", 0)
    assert {claim["cue"] for claim in reasoning.claims} == set(LEVELS)
    request = chat.requests[0]
    assert request["model"] == "model"
    assert request["path"] == "/v1/chat/completions"
    assert request["max_tokens"] > 0
    assert [message["role"] for message in request["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (refuses(429, "slow down"), "status 429: slow down"),
        (refuses(500, "oops"), "status 500: oops"),
        (refuses(503, "loading model"), "status 503"),
        (hangs(0.6), "no answer within 0.2 s"),
        (breaks_off, "no connection|no usable answer"),
        (sends('{"id": "1", "choi'), "no usable answer"),
        (sends("<html>Bad gateway</html>", "text/html"), "not JSON but '<html>"),
        (sends('{"choices": []}'), "no usable answer"),
        (sends("[]"), "no usable answer"),
        (says(""), "an empty text"),
        (says("   \n"), "an empty text"),
        (says("?!"), "no text in"),
        (says('{"reasoning": "I hear a high'), "half a JSON"),
        (says('```json\n{"reasoning": "I hear'), "half a JSON"),
        (says("<think>Let me see, the pitch"), "ends within its thoughts"),
        (says(GOOD, finish="length"), "cut off after"),
    ],
)
def test_an_endpoint_that_fails_is_asked_again_and_then_the_record_is_kept_with_the_cause(bad, cause):
    with chat_server(bad) as chat:
        outcome = one(step(chat.url, retries=1, timeout_s=0.2))
        assert len(chat.requests) == 2
    assert outcome.record == make_record(LEVELS)
    (failure,) = outcome.failures
    assert (failure.id, failure.step, failure.lost) == ("corpus/clip", "write", "reasoning")
    assert "no usable answer from model in 2 attempts" in failure.cause
    assert any(part in failure.cause for part in cause.split("|")), failure.cause
    with chat_server(bad, says(GOOD)) as chat:
        assert one(step(chat.url, retries=1, timeout_s=0.2)).record.reasoning.text == GOOD


def test_useless_answers_are_paid_for_twice_at_most():
    with chat_server(says("{")) as chat:
        outcome = one(step(chat.url, retries=9))
    assert len(chat.requests) == 2
    assert "in 2 attempts (no usable answer: half a JSON" in outcome.failures[0].cause


def test_waits_grow_and_the_endpoint_may_say_how_long():
    waits: list[float] = []
    with chat_server(refuses(500), refuses(500), refuses(500), says(GOOD)) as chat:
        endpoint(chat.url, retries=3, sleep=waits.append).ask([], read_answer)
    assert len(waits) == 3
    for attempt, wait_s in enumerate(waits):
        assert 0.5 * 2**attempt <= wait_s <= 2**attempt
    waits.clear()
    with chat_server(
        refuses(429, headers={"Retry-After": "7"}), refuses(429, headers={"Retry-After": "9999"}), says(GOOD)
    ) as chat:
        endpoint(chat.url, sleep=waits.append).ask([], read_answer)
    assert waits == [7.0, chat_endpoint.LONGEST_WAIT_S]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_an_endpoint_that_will_never_answer_ends_the_run(status: int):
    with chat_server(refuses(status, "not you")) as chat, pytest.raises(StopRun, match=f"status {status}: not you"):
        one(step(chat.url))
    with (
        chat_server(refuses(429, "pay first", code="insufficient_quota")) as chat,
        pytest.raises(StopRun, match="pay first"),
    ):
        one(step(chat.url))
    assert len(chat.requests) == 1


def test_a_request_that_is_refused_is_not_repeated():
    with chat_server(refuses(400, "too long")) as chat:
        outcome = one(step(chat.url))
    assert len(chat.requests) == 1
    assert "refused the request (status 400: too long)" in outcome.failures[0].cause


def test_options_that_an_endpoint_does_not_know_are_left_out():
    refusals = (
        refuses(400, "Unsupported parameter: use max_completion_tokens instead"),
        refuses(400, "temperature does not support 0.8"),
    )
    with chat_server(*refusals, says(GOOD)) as chat:
        asked = endpoint(chat.url, max_tokens=77)
        asked.ask([], read_answer)
        asked.ask([], read_answer)
    assert [sorted({"max_tokens", "max_completion_tokens", "temperature"} & set(r)) for r in chat.requests] == [
        ["max_tokens", "temperature"],
        ["max_completion_tokens", "temperature"],
        ["max_completion_tokens"],
        ["max_completion_tokens"],
    ]
    assert chat.requests[-1]["max_completion_tokens"] == 77


def test_nobody_is_asked_on_where_nobody_answers(monkeypatch):
    monkeypatch.setattr(chat_endpoint, "GIVE_UP_AFTER", 3)
    with chat_server(refuses(500)) as chat:
        writing = step(chat.url, retries=0)
        assert one(writing).failures
        assert one(writing).failures
        with pytest.raises(StopRun, match="nor for 2 other clips in a row"):
            one(writing)
    with chat_server(refuses(500), refuses(500), says("?"), refuses(500), refuses(500), says(GOOD)) as chat:
        writing = step(chat.url, retries=0)
        assert [bool(one(writing).failures) for _ in range(6)] == [True] * 5 + [False]


def test_a_text_that_contradicts_the_measures_is_mended_or_refused():
    with chat_server(says(WRONG)) as chat:
        outcome = one(step(chat.url))
    assert outcome.record.reasoning is None
    assert outcome.failures[0].lost == "reasoning"
    assert "the text was refused" in outcome.failures[0].cause
    assert "“low pitch”: measured 245 Hz is high" in outcome.failures[0].cause
    with chat_server(says(HALF_WRONG)) as chat:
        reasoning = one(step(chat.url)).record.reasoning
    assert (reasoning.text, reasoning.repairs) == (GOOD, 1)


def test_a_model_is_told_what_was_wrong_and_may_write_another():
    with chat_server(says(WRONG), says(GOOD)) as chat:
        outcome = one(step(chat.url, corrections=1))
    assert outcome.record.reasoning.text == GOOD
    told = chat.requests[1]["messages"]
    assert [message["role"] for message in told] == ["system", "user", "assistant", "user"]
    assert "low pitch" in told[-1]["content"]
    assert told[:2] == chat.requests[0]["messages"] or "Notes" in told[1]["content"]
    with chat_server(says("This is anger. " + GOOD), says(GOOD)) as chat:
        assert one(step(chat.url, corrections=1)).record.reasoning.text == GOOD
    assert "names anger before" in chat.requests[1]["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("  Plain text.\n\nTwo lines. ", "Plain text. Two lines."),
        ("<think>what now</think>\nThe text.", "The text."),
        ("<think>The text.</think><answer>anger</answer>", "The text."),
        ("```\nThe text.\n```", "The text."),
        ('```json\n{"reasoning": "The text."}\n```', "The text."),
        ('{"cot_analysis": "The text.", "label": "anger"}', "The text."),
        ('"The text."', "The text."),
        ('"A quote," he says. And "another"', '"A quote," he says. And "another"'),
        ("Here is the text:\n\nThe text.", "The text."),
        ("Sure! Here's a paragraph for you:\nThe **bold** text.", "The bold text."),
    ],
)
def test_what_models_put_around_a_text_is_taken_off(answer: str, text: str):
    assert read_answer(answer) == text


@pytest.mark.parametrize("answer", ["", "{}", '{"reasoning": 3}', "[1, 2]", '{"reasoning": "x"', "<think>hm", "123"])
def test_an_answer_without_a_text_is_none(answer: str):
    with pytest.raises(ValueError, match=r"text|JSON|thoughts"):
        read_answer(answer)


def assignment(**fields: Any) -> Assignment:
    record = make_record(LEVELS, **fields)
    return Assignment(findings_of(record, BACKGROUND), "anger", make_table(), "full", np.random.default_rng(0))


def test_the_prompt_tells_all_that_is_known_and_nothing_else():
    given = assignment(text="Geh weg!", gender="female", extra={"age": 34}, thresholds="speaker:corpus_anna")
    system, notes = (message["content"] for message in compose(given))
    assert "50 to 200 words" in system
    for name, level in LEVELS.items():
        assert f"- {name}: {level} (" in notes
    assert "relative to this speaker" in notes
    assert "“Geh weg!”" in notes
    assert "a woman in her thirties" in notes
    assert "arrive at in the end: anger" in notes
    bare = compose(assignment())[1]["content"]
    assert "the words are unknown" in bare
    assert "speaker" not in bare
    assert "melody" not in bare.split("Length")[0].replace(next(s for s in bare.splitlines() if "Length" in s), "")


def test_no_level_beyond_the_findings_is_in_the_notes():
    for seed in range(20):
        given = assignment()
        given = Assignment(given.findings, "anger", given.table, "full", np.random.default_rng(seed))
        notes = compose(given)[1]["content"]
        assert {(claim.cue, claim.level) for claim in parse_claims(notes)} <= set(LEVELS.items())


# --- what may be spent -----------------------------------------------------------------------------------------------


def test_an_allowance_is_never_overdrawn_by_threads():
    allowance = Allowance(requests=50, tokens=10_000)
    stopped = []

    def spend() -> None:
        try:
            while True:
                allowance.settle(allowance.set_aside(100, 100), 30, 20)
        except StopRun as stop:
            stopped.append(str(stop))

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert allowance.spent.requests == 50
    assert len(stopped) == 8
    assert "the allowance of requests (50) is used up" in stopped[0]


@pytest.mark.parametrize(
    ("limits", "requests", "match"),
    [
        ({"requests": 3}, 3, "requests"),
        ({"tokens": 6_000}, 5, "tokens"),
        ({"cost": 0.01, "prompt_price": 1.0, "completion_price": 10.0}, 4, "cost"),
    ],
)
def test_each_limit_ends_the_run_before_it_is_passed(limits, requests, match):
    usage = {"prompt_tokens": 900, "completion_tokens": 100}
    with chat_server(says(GOOD, usage=usage)) as chat:
        allowance = Allowance(**limits)
        asked = endpoint(chat.url, allowance=allowance, max_tokens=200)
        message = {"role": "user", "content": "x" * 900}
        with pytest.raises(StopRun, match=f"allowance of {match}"):
            [asked.ask([message], read_answer) for _ in range(100)]
    assert len(chat.requests) == requests == allowance.spent.requests
    assert allowance.spent.prompt_tokens + allowance.spent.completion_tokens <= limits.get("tokens", 1e9)
    assert allowance.spent.cost <= limits.get("cost", 1e9)


def test_repeated_requests_count_too():
    with chat_server(refuses(500)) as chat:
        asked = endpoint(chat.url, retries=9, allowance=Allowance(requests=4))
        with pytest.raises(StopRun, match="allowance of requests"):
            asked.ask([], read_answer)
    assert len(chat.requests) == 4


@pytest.mark.parametrize("limits", [{"requests": -1}, {"cost": 3.0}, {"prompt_price": -1.0}])
def test_an_allowance_that_makes_no_sense_is_refused(limits):
    with pytest.raises(LabellingError):
        Allowance(**limits)


def test_an_address_that_is_none_is_refused():
    with pytest.raises(LabellingError, match="it is a URL such as"):
        ChatEndpoint("localhost:8080", "model")


def test_nobody_listens():
    with pytest.raises(NoAnswerError, match="no connection"):
        ChatEndpoint("http://127.0.0.1:9/v1", "model", retries=0, timeout_s=2.0).ask([], read_answer)


# --- over a folder ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve calibrated clips of two emotions; the last has too few reliable cues."""
    records = [
        make_record(LEVELS if number < 11 else {}, id=f"corpus/{number}", emotion=("anger", "fear")[number % 2])
        for number in range(12)
    ]
    (tmp_path / "levelled.jsonl").write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")
    (tmp_path / "thresholds.json").write_text(ThresholdGroups(GROUPS).to_json(), encoding="utf-8")
    return tmp_path


def llm(folder: Path, url: str, *options: str) -> int:
    return run(["label", "write", str(folder), "--writer", "llm", "--endpoint", url, "--model", "m", *options])


def test_a_run_out_of_its_allowance_goes_on_and_asks_nobody_twice(folder: Path, capsys):
    neutral = GOOD.replace("I settle on anger.", "I settle on what it was.")
    with chat_server(says(neutral)) as chat:
        assert llm(folder, chat.url, "--max-requests", "4", "--threads", "2", "--corrections", "0") == 1
        said = capsys.readouterr().err
        assert "allowance of requests (4)" in said
        assert "give the same command again" in said
        assert "4 requests" in said
        assert not (folder / "labelled.jsonl").exists()
        assert llm(folder, chat.url, "--threads", "3", "--corrections", "0", "--json") == 0
        report = json.loads(capsys.readouterr().out)
        assert len(chat.requests) == 11
        asked = [request["messages"][1]["content"] for request in chat.requests]
        assert llm(folder, chat.url, "--corrections", "0") == 0
        assert len(chat.requests) == len(asked)
    assert report["clips"]["in"] == report["clips"]["out"] == 12
    assert (report["texts"]["written"], report["texts"]["not_written"]) == (11, 1)
    assert report["texts"]["claims"]["contradicted"] == 0
    records = list(RecordFile((folder / "labelled.jsonl",)))
    assert [record.id for record in records] == [f"corpus/{number}" for number in range(12)]
    assert [record.reasoning is None for record in records] == [False] * 11 + [True]
    failures = [json.loads(line) for line in (folder / "errors.jsonl").read_text().splitlines()]
    assert [failure["id"] for failure in failures] == ["corpus/11"]
    assert Background.from_dict(json.loads((folder / "background.json").read_text())).tables


def test_one_bad_answer_costs_no_other_clip(folder: Path, capsys):
    with chat_server(refuses(400, "bad"), says("{"), says(WRONG), says(HALF_WRONG), says(GOOD)) as chat:
        options = ("--threads", "1", "--retries", "0", "--corrections", "0", "--json")
        assert llm(folder, chat.url, *options) == 0
    texts = json.loads(capsys.readouterr().out)["texts"]
    assert texts["records"] == 12
    assert texts["refused"] == 1
    assert texts["repaired"] == 1
    assert texts["not_written"] == 3
    assert texts["claims"]["contradicted"] == texts["claims"]["not_measurable"] == 0
    assert texts["refused_share"] == pytest.approx(1 / 9)
    records = {record.id: record for record in RecordFile((folder / "labelled.jsonl",))}
    for record in records.values():
        if record.reasoning:
            checked = check_text(record.reasoning.text, record.prosody(), ALL_CUTS, record.emotion, "full", 4)
            assert (checked.problem, checked.removed) == (None, ())


def test_clips_without_a_text_are_tried_again_on_request(folder: Path, capsys):
    options = ("--threads", "1", "--retries", "0", "--corrections", "0", "--json")
    with chat_server(refuses(400, "bad"), says(WRONG), says(GOOD)) as chat:
        assert llm(folder, chat.url, *options) == 0
        assert json.loads(capsys.readouterr().out)["texts"]["written"] == 9
        first = (folder / "labelled.jsonl").read_text(encoding="utf-8").splitlines()
        assert llm(folder, chat.url, *options) == 0
        assert len(chat.requests) == 11
        assert llm(folder, chat.url, *options, "--retry-failed") == 0
        assert len(chat.requests) == 13
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["texts"]["written"], report["clips"]["skipped"]) == (11, 9)
    again = (folder / "labelled.jsonl").read_text(encoding="utf-8").splitlines()
    assert again[2:] == first[2:]
    assert [json.loads(line)["reasoning"] is None for line in again] == [False] * 11 + [True]


def test_a_key_is_read_from_the_environment_only(folder: Path, monkeypatch, capsys):
    with chat_server(says(GOOD)) as chat:
        assert llm(folder, chat.url, "--api-key-variable", "SOME_KEY") == 1
        assert "SOME_KEY is not set" in capsys.readouterr().err
        monkeypatch.setenv("SOME_KEY", "secret-value")
        assert llm(folder, chat.url, "--api-key-variable", "SOME_KEY", "--threads", "1") == 0
    assert {request["authorization"] for request in chat.requests} == {"Bearer secret-value"}
    for path in folder.iterdir():
        assert "secret-value" not in path.read_text(encoding="utf-8", errors="replace"), path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--writer", "llm"], "needs --endpoint and --model"),
        (["--writer", "llm", "--endpoint", "http://x/v1", "--model", "m", "-p", "2"], "give --threads"),
        (["--held-out", "nobody"], "no clip of the held-out speaker nobody"),
        (["--background", "nowhere.json"], "cannot be read"),
    ],
)
def test_wrong_options_are_told(folder: Path, capsys, options, said):
    assert run(["label", "write", str(folder), *options]) == 1
    assert said in capsys.readouterr().err


def test_the_built_in_writer_gives_the_same_bytes_in_processes(folder: Path):
    one_by_one, _ = write(folder, folder / "one", progress=False)
    together, report = write(folder, folder / "two", processes=2, progress=False)
    assert one_by_one.output_sha256 == together.output_sha256
    assert report["written"] == 11
    other, _ = write(folder, folder / "three", seed=1, progress=False)
    assert other.output_sha256 != one_by_one.output_sha256
    # A single clip, with what others taught.
    single = folder / "single"
    single.mkdir()
    first = (folder / "levelled.jsonl").read_text(encoding="utf-8").splitlines()[0]
    (single / "levelled.jsonl").write_text(first + "\n", encoding="utf-8")
    (single / "thresholds.json").write_bytes((folder / "thresholds.json").read_bytes())
    write(single, background=folder / "one" / "background.json", progress=False)
    assert (single / "labelled.jsonl").read_text(encoding="utf-8").splitlines() == (
        (folder / "one" / "labelled.jsonl").read_text(encoding="utf-8").splitlines()[:1]
    )
