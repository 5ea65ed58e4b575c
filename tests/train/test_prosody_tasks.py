"""The prosody tasks: questions and answers agree with the views, other orders are other answers, figures are right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tokenizers import Tokenizer

from edge_emotion.cues import Thresholds
from edge_emotion.prompt import Prompt
from edge_emotion_train.corpora import Clip
from edge_emotion_train.features import FeatureRow, FeatureSet
from edge_emotion_train.prosody_features import Order, ProsodyFeatures, Shape, extract_prosody_features
from edge_emotion_train.prosody_tasks import (
    ORDER_TASKS,
    TASKS,
    Item,
    accuracy_with_interval,
    answer_items,
    arrangements,
    prosody_examples,
    prosody_items,
    wordings,
)
from edge_emotion_train.sft import SpeechLanguageModel

THRESHOLDS = Thresholds({"pitch": (120.0, 150.0, 180.0, 220.0), "rate": (4.0, 5.0), "tone": (-2.0, 3.0)}, "a test")
RECORDING = Path(__file__).parents[1] / "data" / "emodb_03a02Nc.flac"


@pytest.fixture
def features(make_row: Callable[..., FeatureRow]) -> FeatureSet:
    """Two rows: 100 Hz and slow, and 165 Hz, whose rate is measured no surer than to be medium or fast."""
    rows = [
        make_row("emodb_03", positions={"pitch": 0.0, "rate": 3.0}),
        make_row("emodb_08", positions={"pitch": 12 * np.log2(1.65), "rate": 5.1, "tone": 9.0}),
    ]
    frames = np.arange(2 * 8 * 2 * 16, dtype=np.float16).reshape(16, 2, 16) / 512
    return FeatureSet(rows, np.zeros((2, 128), np.float32), frames, np.array([0, 8, 16]))


@pytest.fixture
def prosody(make_row: Callable[..., FeatureRow]) -> ProsodyFeatures:
    """A sure and an unsure melody, and a triple of twelve frames."""
    frames = np.arange(12 * 2 * 16, dtype=np.float16).reshape(12, 2, 16) / 512
    triples = FeatureSet([make_row("emodb_03")], np.zeros((1, 128), np.float32), frames, np.array([0, 12]))
    shapes = [Shape("clip", 0, "falling", 0.9), Shape("clip", 1, "rising", 0.1)]
    return ProsodyFeatures(shapes, triples, [Order("pitch", ("low", "high", "medium"), (3, 7))], {})


def test_answers_are_what_was_measured(features: FeatureSet, prosody: ProsodyFeatures) -> None:
    items = prosody_items(features, prosody, THRESHOLDS)
    answers = {task: [(item.row, item.answer, item.accepted) for item in of_task] for task, of_task in items.items()}
    assert answers["pitch_level"] == [(0, "low", ("low",)), (1, "medium", ("medium",))]
    assert answers["speed_level"] == [(0, "slow", ("slow",)), (1, "fast", ("medium", "fast"))]
    assert answers["energy_level"] == [(1, "high", ("high",))]
    assert answers["intonation"] == [(0, "falling", ("falling",)), (1, "falling", ("falling",))]
    assert answers["order_pitch"] == [(0, "low, high, medium", ("low, high, medium",))]
    assert len(items["order_pitch"][0].options) == 6
    assert answers["order_speed"] == []


def test_nothing_is_asked_of_triples_of_other_clips(features: FeatureSet, prosody: ProsodyFeatures) -> None:
    """A held-out speaker's triples lie in the same cache."""
    other = FeatureRow(**{**vars(features.rows[0]), "clip": "another"})
    alone = FeatureSet([other], features.statistics[:1], features.frames[:8], features.offsets[:2])
    items = prosody_items(alone, prosody, THRESHOLDS)
    assert not items["order_pitch"]
    assert not items["intonation"]


def test_every_task_has_its_question_and_levels_have_three_wordings() -> None:
    asked = {task: wordings(task) for task in TASKS}
    assert [len(asked[task]) for task in TASKS] == [3, 3, 3, 3, 1, 1, 1]
    assert len({text for texts in asked.values() for text in texts}) == 15
    assert all("low" in text and "medium" in text and "high" in text for text in asked["order_energy"])


def test_other_orders_are_other_answers_and_other_frames(features: FeatureSet, prosody: ProsodyFeatures) -> None:
    item = prosody_items(features, prosody, THRESHOLDS)["order_pitch"][0]
    found = dict(arrangements(item, prosody.triples))
    assert found["low, high, medium"] == ((0, 3), (3, 7), (7, 12))
    assert found["medium, low, high"] == ((7, 12), (0, 3), (3, 7))
    assert len(found) == len(set(found.values())) == 6


def test_examples_ask_after_the_audio_and_only_the_answer_is_learned(
    features: FeatureSet, prosody: ProsodyFeatures, tokenizer: Tokenizer
) -> None:
    items = prosody_items(features, prosody, THRESHOLDS)
    zeros = np.zeros((2, 2)), np.zeros((2, 3))
    examples = prosody_examples(items, features, prosody, *zeros, tokenizer, Prompt(), 8.0)
    first = examples["pitch_level"][0].texts[0]
    said = tokenizer.decode(first.ids, skip_special_tokens=False)
    assert said == f"<|/audio|>{wordings('pitch_level')[0]}<answer>low</answer>"
    learned = [token for token, weight in zip(first.ids, first.weights, strict=True) if weight]
    assert tokenizer.decode(learned, skip_special_tokens=False) == "<answer>low</answer>"
    order = examples["order_pitch"][0]
    assert not order.evidence
    assert len(order.texts) == 6


def test_a_model_answers_from_the_options_and_hears_what_it_is_given(
    features: FeatureSet,
    prosody: ProsodyFeatures,
    speech_model: Callable[..., SpeechLanguageModel],
    tokenizer: Tokenizer,
) -> None:
    model, items = speech_model(), prosody_items(features, prosody, THRESHOLDS)
    evidence = np.array([[-3.0, -3.0], [3.0, 3.0]]), np.zeros((2, 3))

    def ask(task: str, **options: object) -> list[str]:
        return answer_items(model, tokenizer, Prompt(), items[task], features, prosody, *evidence, **options)  # type: ignore[arg-type]

    for task in ("pitch_level", *ORDER_TASKS):
        assert all(said in item.options for said, item in zip(ask(task), items[task], strict=True))
    both = ask("pitch_level")
    assert ask("pitch_level", audio_of=[1, 0]) == both[::-1]
    deaf = ask("pitch_level", evidence=False, frames=False)
    assert deaf[0] == deaf[1]


def test_figures_of_answers() -> None:
    options = ("slow", "medium", "fast")
    items = [Item("speed_level", i, options, "slow", ("slow", "medium") if i < 2 else ("slow",)) for i in range(4)]
    found = accuracy_with_interval(items, ["slow", "medium", "fast", "slow"], ["a", "a", "b", "b"])
    assert (found["accuracy"], found["within_uncertainty"]) == (0.5, 0.75)
    assert (found["chance"], found["majority"], found["questions"]) == (pytest.approx(1 / 3, abs=1e-4), 1.0, 4)
    assert accuracy_with_interval([], [], []) == {"accuracy": None, "questions": 0}


def test_triples_and_melodies_of_a_recording_are_cached(
    tmp_path: Path, transformers_encoder: Callable, write_weights: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, _ = soundfile.read(RECORDING, dtype="float32")
    path = tmp_path / "03a02Nc.wav"
    soundfile.write(path, samples, 16000)
    weights = write_weights(transformers_encoder(max_frames=1500, dim=64), tmp_path / "encoder.safetensors")
    clip = Clip(path, "emodb_03", "neutral", "emodb", "de", None, None, None, name="03a02Nc")
    found = extract_prosody_features([(clip, 0, 1)], weights, 2, tmp_path / "cache", 1)
    assert [(shape.clip, shape.variant) for shape in found.shapes] == [("emodb/03a02Nc", 0)]
    assert "energy" in [order.attribute for order in found.orders]
    for index, order in enumerate(found.orders):
        length = int(found.triples.offsets[index + 1] - found.triples.offsets[index])
        assert 0 < order.cuts[0] < order.cuts[1] < length
        assert sorted(order.places) == sorted(
            ("slow", "medium", "fast") if order.attribute == "speed" else ("low", "medium", "high")
        )
        assert length == pytest.approx(25 * found.triples.rows[index].duration_s, abs=1.5)
    monkeypatch.setattr("edge_emotion_train.prosody_features._run", lambda *_: pytest.fail("the cache was not used"))
    again = extract_prosody_features([(clip, 0, 1)], weights, 2, tmp_path / "cache", 1)
    assert again.orders == found.orders
