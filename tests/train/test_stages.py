"""The stages: which clips are taken, what is cached, what the figures are made of. Training itself: test_end_to_end."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from edge_emotion.cues import CUE_BY_NAME, Thresholds
from edge_emotion.errors import ConfigError, CorpusError
from edge_emotion_train import stages, training_data
from edge_emotion_train.config import SftConfig
from edge_emotion_train.evaluate import (
    UNCALIBRATED,
    answer_calibration,
    claims_against,
    fold_summary,
    head_calibration,
    recordings_of,
)
from edge_emotion_train.evidence import EvidenceFit
from edge_emotion_train.features import FeatureRow, extract_features, speech_window
from edge_emotion_train.model import EvidenceProjector
from edge_emotion_train.recipe import TrainedModel, measured_levels, set_levels

Voice = Callable[[int, float], np.ndarray]


@pytest.fixture(scope="module")
def config(
    tmp_path_factory: pytest.TempPathFactory, voice: Voice, transformers_encoder: Callable, write_weights: Callable
) -> SftConfig:
    """Six short clips of three speakers in EmoDB's layout, and a small encoder."""
    folder = tmp_path_factory.mktemp("stages")
    (folder / "emodb" / "wav").mkdir(parents=True)
    for i, name in enumerate(("03a01Wa", "03a01Nc", "08a02Tb", "08a02Na", "15a01Wa", "15a05Nb")):
        padded = np.concatenate([np.zeros(4_000, np.float32), voice(i, 0.8)])
        soundfile.write(folder / "emodb" / "wav" / f"{name}.wav", padded, 16000)
    weights = write_weights(transformers_encoder(max_frames=150, dim=64), folder / "encoder.safetensors")
    return SftConfig(
        data=folder,
        encoder_weights=weights,
        cache=folder / "cache",
        output=folder / "model",
        labels=("anger", "neutral", "sadness"),
        test_speakers=("emodb_15",),
        emodb_variants=2,
        emogator_clips=0,
        synthetic_clips=0,
        processes=1,
    )


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_the_preset_says_whose_stage_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="unknown preset 'omnni'; did you mean 'omni'"):
        stages.run("sft", write(tmp_path, "preset: omnni\n"))
    with pytest.raises(ConfigError, match="no configuration at"):
        stages.run("sft", tmp_path / "absent.yaml")
    called: list[object] = []
    thinker = SimpleNamespace(run=lambda *given: called.append(given))
    monkeypatch.setitem(sys.modules, "edge_emotion_train.thinker", SimpleNamespace(stages=thinker))
    monkeypatch.setitem(sys.modules, "edge_emotion_train.thinker.stages", thinker)
    path = write(tmp_path, "preset: omni\n")
    stages.run("prosody", path, ["--steps", "3"])
    assert called == [("prosody", path, ["--steps", "3"])]


def test_unknown_stages_and_speakers_are_refused(config: SftConfig, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="unknown stage 'grop'; stages: features, prosody, sft, eval, calibrate, grpo"
    ):
        stages.run("grop", write(tmp_path, "steps: 3\n"))
    misspelt = dataclasses.replace(config, test_speakers=("emodb_15", "emodb-16"))
    with pytest.raises(ConfigError, match="nobody is called emodb-16"):
        training_data.load_training_features(misspelt)


def test_test_speakers_get_no_variants(config: SftConfig) -> None:
    variants = {(clip.speaker, count) for clip, count in training_data.collect_clips(config)}
    assert variants == {("emodb_03", 2), ("emodb_08", 2), ("emodb_15", 0)}


def test_features_are_those_of_the_devices_window_and_are_read_from_the_cache(
    config: SftConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, data_hash = training_data.load_training_features(config)
    assert len(features.rows) == 4 * 3 + 2
    assert len(data_hash) == 64
    assert sorted({row.speaker for row in features.rows}) == ["emodb_03", "emodb_08", "emodb_15"]
    for i, row in enumerate(features.rows):
        frames = int(features.offsets[i + 1] - features.offsets[i])
        assert frames == int(np.ceil(np.ceil(round(row.duration_s * 100) / 2) / 2))
    recording = next(row for row in features.rows if row.variant == 0)
    samples, _ = soundfile.read(config.data / "emodb" / "wav" / "03a01Nc.wav", dtype="float32")
    window = speech_window(samples)
    assert window is not None
    assert recording.clip == "emodb/03a01Nc"
    assert recording.duration_s == len(window) / 16000 < len(samples) / 16000 - 0.1

    monkeypatch.setattr("edge_emotion_train.features._run", lambda *_: pytest.fail("the cache was not used"))
    again, same_hash = training_data.load_training_features(config)
    assert same_hash == data_hash
    assert again.rows == features.rows
    np.testing.assert_array_equal(again.frames, features.frames)
    np.testing.assert_array_equal(again.statistics, features.statistics)


def test_a_corpus_of_silence_is_an_error(config: SftConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = training_data.collect_clips(config)
    failed = [([], f"{clip.path}: nobody speaks") for clip, _ in tasks]
    monkeypatch.setattr("edge_emotion_train.features._run", lambda *_: iter(failed))
    with pytest.raises(CorpusError, match=r"6 of 6 clips gave no features, first: .*nobody speaks"):
        extract_features(tasks, config.encoder_weights, 2, tmp_path)


THRESHOLDS = Thresholds({"pitch": (120.0, 150.0, 180.0, 220.0), "tone": (-2.0, 3.0)}, "a test")


def test_the_projector_learns_where_levels_begin() -> None:
    fit = EvidenceFit(
        ("tone", "pitch"), *(np.zeros(1),) * 2, np.array([1.0, 9.0]), np.array([2.0, 4.0]), *(np.zeros(1),) * 4
    )
    projector = EvidenceProjector(2, 3, tokens=1, dim=4)
    set_levels(projector, fit, THRESHOLDS, np.array([1.0, 2.0]))
    np.testing.assert_allclose(projector.cuts[0, :2], [-1.5, 1.0])
    pitch = CUE_BY_NAME["pitch"]
    np.testing.assert_allclose(projector.cuts[1], [(pitch.position(c) - 9) / 4 for c in THRESHOLDS.cuts["pitch"]], 1e-6)
    np.testing.assert_allclose(projector.deviation, [0.5, 0.5])


def test_levels_of_a_row_are_those_of_cues_with_thresholds(make_row: Callable[..., FeatureRow]) -> None:
    row = make_row(positions={"pitch": 0.0, "tone": 99.0, "rate": 4.0})
    assert measured_levels(row, THRESHOLDS) == {"pitch": "very low", "tone": "sharp"}


def test_recordings_are_the_speakers_own_without_variants(make_row: Callable[..., FeatureRow]) -> None:
    rows = [make_row("a"), make_row("a", variant=1), make_row("b"), make_row("c")]
    assert recordings_of(rows, ["a", "c"]).tolist() == [0, 3]


def test_claims_count_as_the_device_counts_them(make_row: Callable[..., FeatureRow]) -> None:
    text = "I hear a very low pitch and a sharp tone."
    pitch, tone = CUE_BY_NAME["pitch"], CUE_BY_NAME["tone"]
    near = {"pitch": pitch.position(120.0) + 0.9 * pitch.uncertainty, "tone": 3.0 - 1.1 * tone.uncertainty}
    figures = claims_against([text, text], [make_row(positions=near), make_row(positions={"tone": 9.0})], THRESHOLDS)
    assert figures["supported"] == pytest.approx(2 / 3, abs=1e-4)  # near the cut counts, beyond it does not
    assert figures["exact_level"] == pytest.approx(1 / 3, abs=1e-4)
    assert figures["by_cue"] == {"pitch": [1.0, 1], "tone": [0.5, 2]}
    assert figures["checkable_claims_per_text"] == 1.5


def make_fold(claims: float, supported: float | None) -> dict:
    figures = {"supported": supported, "exact_level": supported, "checkable_claims_per_text": claims}
    return {
        "truth": [0, 1, 2, 0],
        "speakers": ["a", "a", "b", "b"],
        "label_scores": [[0.0, -1, -2], [-1.0, 0, -2], [-2.0, -1, 0], [-3.0, 0, -1]],
        "head_logits": [[1.0, 0, 0]] * 4,
        "claims": figures,
        "claims_of_another_clip": figures | {"supported": 0.5},
        "answer_uar_with_another_clips_audio": 0.4,
    }


def test_folds_are_pooled() -> None:
    summary = fold_summary([make_fold(3.0, 0.9), make_fold(1.0, 0.5)])
    assert summary["answer"]["uar"] == pytest.approx((0.5 + 1 + 1) / 3, abs=1e-4)
    assert summary["answer"]["uar_per_speaker"] == {"a": 1.0, "b": 0.5}
    assert summary["head_same_folds"]["uar"] == pytest.approx(1 / 3, abs=1e-4)
    assert summary["claims_supported"] == pytest.approx((3 * 0.9 + 0.5) / 4)
    assert summary["checkable_claims_per_text"] == 2.0


def test_folds_without_any_claim_have_no_share() -> None:
    summary = fold_summary([make_fold(0.0, None), make_fold(0.0, None)])
    assert summary["claims_supported"] is None
    assert summary["checkable_claims_per_text"] == 0.0


def noisy_scores(seed: int, truth: np.ndarray) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(truth), 3)) + 2 * np.eye(3)[truth]


def test_head_is_calibrated_on_what_it_said_of_speakers_it_did_not_know(config: SftConfig) -> None:
    truth = np.arange(300) % 3
    figures = []
    for sharpness in (1.0, 4.0):
        trained = TrainedModel(
            *(None,) * 5,  # type: ignore[arg-type]
            held_out_emotion_logits=sharpness * noisy_scores(0, truth),
            held_out_emotions=[config.labels[i] for i in truth],
            history=[],
        )
        figures.append(head_calibration(trained, config))
    assert figures[1]["temperature"] == pytest.approx(4 * figures[0]["temperature"], rel=0.02)
    assert figures[1]["ece"] == pytest.approx(figures[0]["ece"], abs=0.01)


def eval_result(test_speaker_scores: list[float]) -> dict:
    """A result of `train eval`: a fold of a training speaker, and one of the test speaker with these scores."""
    truth = np.arange(30) % 3
    known = {"label_scores": noisy_scores(1, truth).tolist(), "truth": truth.tolist(), "speakers": ["emodb_03"] * 30}
    held = {"label_scores": [test_speaker_scores] * 20, "truth": [0] * 20, "speakers": ["emodb_15"] * 20}
    return {"folds": [known, held]}


def test_answers_are_calibrated_without_test_speakers(config: SftConfig) -> None:
    right, wrong = (answer_calibration(eval_result(scores), config) for scores in ([9.0, 0, 0], [0, 9.0, 0]))
    assert right == wrong
    nobody = dataclasses.replace(config, test_speakers=())
    assert answer_calibration(eval_result([9.0, 0, 0]), nobody) != answer_calibration(eval_result([0, 9.0, 0]), nobody)


def test_calibrate_rewrites_only_the_answers_calibration(config: SftConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="calibrate needs --calibration FILE"):
        stages.calibrate_stage(config)
    result = tmp_path / "folds.json"
    result.write_text(json.dumps(eval_result([9.0, 0, 0])))
    given = dataclasses.replace(config, calibration=result, output=tmp_path / "checkpoint")
    with pytest.raises(ConfigError, match="is not a checkpoint"):
        stages.calibrate_stage(given)
    given.output.mkdir()
    metadata = given.output / "metadata.json"
    metadata.write_text(json.dumps({"seed": 1, "calibration": {"head": UNCALIBRATED, "llm": UNCALIBRATED}}))
    stages.calibrate_stage(given)
    llm = answer_calibration(eval_result([9.0, 0, 0]), config)
    assert json.loads(metadata.read_text()) == {"seed": 1, "calibration": {"head": UNCALIBRATED, "llm": llm}}
