"""Figures: answers in any words, claims checked against the sound itself, tasks with and without leeway."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_emotion.audio import load_audio
from edge_emotion.cues import CUE_BY_NAME, level_of
from edge_emotion.prosody import measure_prosody
from edge_emotion.wording import PHRASES
from edge_emotion_train.labelling.rows import checker_inputs
from edge_emotion_train.thinker.configs import EvaluationConfig
from edge_emotion_train.thinker.dialogue import ANSWERS, answer_for, known_or_same
from edge_emotion_train.thinker.evaluate import figures, judge, left_padded, replies
from edge_emotion_train.thinker.model import load_thinker
from edge_emotion_train.thinker.processor import load_processor
from edge_emotion_train.thinker.rows import paths_of, read_rows, speak
from tests.thinker.conftest import Data

CUES = ("pitch", "rate", "tone")


@pytest.fixture
def config(published: Path, data: Data) -> EvaluationConfig:
    return EvaluationConfig(model=published, rows=(data("grpo"),))


@pytest.fixture
def rows(data: Data) -> list[dict[str, Any]]:
    return read_rows([data("grpo"), data("grpo", "test")])


def truth_of(row: dict[str, Any]) -> str:
    """What a listener who hears exactly would say of a recording."""
    prosody, thresholds = checker_inputs(row)
    prosody = measure_prosody(load_audio(paths_of(row)[0]).samples)
    said = []
    for name in CUES:
        cue = CUE_BY_NAME[name]
        value = prosody.measures[cue.measure].value
        assert value is not None
        said.append(PHRASES[name][level_of(cue, value, thresholds)][0])
    return f"I hear {said[0]}, {said[1]} and {said[2]}."


def test_true_explanations_are_found_true_by_the_sound_and_not_by_the_row(
    rows: list[dict[str, Any]], config: EvaluationConfig
) -> None:
    """The rows' measures are made up here, so a checker that believed them would call these texts wrong."""
    texts = [f"<think>{truth_of(row)}</think><answer>{row['emotion']}</answer>" for row in rows]
    found = figures(rows, judge(rows, texts, config), config)["emotion"]
    assert found["faithfulness"] == 1.0
    assert found["checkable_claims_per_text"] == 3.0
    assert found["faithfulness_of_another_clip"] < 0.8
    assert (found["uar"], found["wa"], found["macro_f1"], found["format"], found["no_answer"]) == (1, 1, 1, 1, 0)
    exchanged = figures(rows, judge(rows, texts[1:] + texts[:1], config), config)["emotion"]
    assert exchanged["faithfulness"] < 0.8
    assert exchanged["uar"] == 0.0


def test_answers_count_in_any_words_and_none_counts_as_wrong(
    rows: list[dict[str, Any]], config: EvaluationConfig
) -> None:
    texts = ["<answer>Angry.</answer>", "happiness or neutral", "<think>Flat.</think><answer>neutral</answer>", "joy"]
    said = judge(rows, texts, config)
    assert [item.answer for item in said] == ["anger", None, "neutral", "happiness"]
    assert [item.well_formed for item in said] == [False, False, True, False]
    found = figures(rows, said, config)["emotion"]
    assert (found["wa"], found["uar"], found["no_answer"], found["format"]) == (0.5, 0.5, 0.25, 0.25)
    assert found["recall"] == {"anger": 1.0, "happiness": 0.0, "neutral": 1.0, "sadness": 0.0}


def test_emotionthinker_answers_in_its_own_words(rows: list[dict[str, Any]], config: EvaluationConfig) -> None:
    spoken, left_out = speak([*rows, rows[0] | {"emotion": "boredom", "id": "bored"}], "emotionthinker")
    assert [(item.id, item.reason) for item in left_out] == [("bored", "EmotionThinker has no answer for 'boredom'")]
    texts = [
        f"<think>It sounds so.</think><answer>{answer}</answer>" for answer in ("angry", "happy", "whisper", "sad")
    ]
    own = replace(config, dialogue="emotionthinker")
    said = judge(spoken, texts, own)
    assert [item.answer for item in said] == ["anger", "happiness", "whisper", "sadness"]
    found = figures(spoken, said, own)["emotion"]
    assert (found["format"], found["wa"]) == (1.0, 0.75)


def test_its_nine_answers_mean_emotions_of_ours_or_nothing() -> None:
    assert [known_or_same(answer) for answer in ANSWERS] == [
        "neutral", "happiness", "sadness", "anger", "disgust", "confused", "whisper", "surprise", "fear",
    ]  # fmt: skip
    assert answer_for("disgust") == "contempt or disgust"
    assert answer_for("joy") == "happy"


def test_tasks_are_counted_with_and_without_the_leeway_of_the_measurement(data: Data, config: EvaluationConfig) -> None:
    pitch, order = read_rows([data("prosody")])[0], read_rows([data("ordering")])[0]
    assert pitch["task"] == "pitch_level"
    near = pitch | {"answer": "high", "accepted": ["medium", "high"]}
    rows = [near, near, near, order, order]
    swapped = ", ".join(reversed(order["answer"].split(", ")))
    texts = ["<answer>High</answer>", "medium", "<answer>low</answer>", f"<answer>{order['answer']}</answer>", swapped]
    found = figures(rows, judge(rows, texts, config), config)
    assert found["emotion"] is None
    third = {"rows": 3, "accuracy": 0.3333, "chance": 0.3333, "accuracy_within_uncertainty": 0.6667}
    assert found["tasks"]["pitch_level"] == third
    assert found["tasks"][order["task"]]["accuracy"] == 0.5
    assert found["tasks"][order["task"]]["chance"] == 0.1667


def test_a_reply_is_the_same_alone_and_in_a_batch_of_longer_ones(published: Path, data: Data) -> None:
    rows = read_rows([data("grpo"), data("ordering")])[:5]
    model, processor = load_thinker(published).eval(), load_processor(published, 12.0)
    together = replies(model, processor, rows, 5, 8, progress=False)
    alone = replies(model, processor, rows, 1, 8, progress=False)
    assert together == alone
    assert len(set(together)) > 1
    padded, mask = left_padded([[1, 2, 3], [4]], 9)
    assert padded.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
