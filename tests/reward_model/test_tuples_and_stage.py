"""The tuples made of cached features, attacks on them, and the stage from features to a folder."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_emotion.claims import check_claims, parse_claims
from edge_emotion.cues import CUE_BY_NAME
from edge_emotion.errors import ConfigError
from edge_emotion_train.config import SftConfig, read_config_of
from edge_emotion_train.evidence import fit_thresholds
from edge_emotion_train.features import FeatureRow, FeatureSet
from edge_emotion_train.labelling.quality import find_mentions
from edge_emotion_train.reasoning import CueEmotionTable
from edge_emotion_train.recipe import measured_levels
from edge_emotion_train.reinforcement.rewards import DIMENSIONS
from edge_emotion_train.reward_model import stage
from edge_emotion_train.reward_model.attacks import ATTACKS
from edge_emotion_train.reward_model.checkpoint import load_reward_model
from edge_emotion_train.reward_model.config import RewardConfig
from edge_emotion_train.reward_model.tuples import (
    RewardTuple,
    load_tuples,
    make_tuples,
    record_of,
    row_key,
    save_tuples,
)

LABELS = ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness")
CUES = ("pitch", "pitch_variation", "pitch_slope", "rate", "tone", "clarity", "dynamics")
CENTRES = {"pitch": (10.0, 5.0), "pitch_variation": (3.0, 1.0), "pitch_slope": (-1.0, 2.0), "rate": (5.0, 1.0),
           "tone": (-10.0, 4.0), "clarity": (10.0, 2.0), "dynamics": (6.0, 1.0)}  # fmt: skip


@pytest.fixture(scope="module")
def voices() -> FeatureSet:
    """Seven clips of each of two speakers and one or two of others, with features that hold the measures."""
    rng = np.random.default_rng(2)
    rows, statistics = [], []
    for speaker in ("03", "08", "11", "13", "15"):
        for label in LABELS if speaker in ("03", "08") else LABELS[3:5]:
            positions = {name: float(rng.normal(*CENTRES[name])) for name in CUES}
            rows.append(
                FeatureRow(f"emodb/{speaker}{label}", "emodb", f"emodb_{speaker}", label, "a01", 0, 0.5, positions)
            )
            standard = [(positions[name] - CENTRES[name][0]) / CENTRES[name][1] for name in CUES]
            statistics.append([*standard, *rng.normal(size=2 * 4 * 16 - len(CUES))])
    lengths = np.full(len(rows), 12)
    frames = rng.normal(size=(int(lengths.sum()), 2, 16)).astype(np.float16)
    return FeatureSet(rows, np.array(statistics, dtype=np.float32), frames, np.concatenate([[0], np.cumsum(lengths)]))


@pytest.fixture(scope="module")
def make(voices: FeatureSet) -> Callable[..., list[RewardTuple]]:
    thresholds = fit_thresholds(voices.rows, CUES, "a test")
    table = CueEmotionTable().fit(
        [measured_levels(r, thresholds) for r in voices.rows], [str(r.emotion) for r in voices.rows]
    )

    @functools.cache
    def make(style: str = "nano", seed: int = 0, rows: tuple[int, ...] = (0, 1, 3, 8)) -> list[RewardTuple]:
        return list(make_tuples(voices, rows, thresholds, table, style, seed))

    return make


def test_a_row_becomes_a_record_with_its_measures(voices: FeatureSet) -> None:
    row, thresholds = voices.rows[3], fit_thresholds(voices.rows, CUES, "a test")
    record = record_of(row, thresholds)
    for name in CUES:
        measure = record.prosody().measures[CUE_BY_NAME[name].measure]
        assert CUE_BY_NAME[name].position(float(measure.value or 0.0)) == pytest.approx(row.positions[name])
    assert record.levels is not None
    assert {name: level.level for name, level in record.levels.items()} == measured_levels(row, thresholds)


@pytest.mark.parametrize("style", ["nano", "full"])
def test_tuples_say_of_each_claim_whether_it_is_true(
    make: Callable[..., list[RewardTuple]], voices: FeatureSet, style: str
) -> None:
    tuples, thresholds = make(style), fit_thresholds(voices.rows, CUES, "a test")
    rows = {row_key(row): row for row in voices.rows}
    kinds = {item.kind for item in tuples}
    assert {"original", "borrowed", *ATTACKS, *(f"{name}_worse" for name in ATTACKS)} <= kinds
    for item in tuples:
        checked = check_claims(
            parse_claims(item.reasoning), record_of(rows[item.key], thresholds).prosody(), thresholds
        )
        verdicts = {(one.claim.end, one.verdict == "supported") for one in checked if one.verdict != "not measurable"}
        mentions = find_mentions(item.reasoning)
        told = {mention.end: held for mention, held in ((m, dict(item.claims)[m.end]) for m in mentions)}
        assert set(item.claims) == verdicts | set(told.items())
        if item.kind == "borrowed":  # the lender's emotions are none of this clip's
            assert not any(told.values())
        if item.kind == "original":
            assert item.scores == (5, 5, 5, 5)
            assert all(held for _, held in item.claims)
    best = {item.scores[i] for item in tuples for i in range(4)}
    assert best == {1, 2, 3, 4, 5}


def test_a_seed_decides_every_text(make: Callable[..., list[RewardTuple]]) -> None:
    one, again, other = make(rows=(0, 8)), make.__wrapped__(rows=(0, 8)), make(seed=1, rows=(0, 8))  # type: ignore[attr-defined]
    assert one == again
    assert one != other


def test_no_attack_deserves_more_and_most_deserve_less(make: Callable[..., list[RewardTuple]]) -> None:
    tuples = make()
    for item in tuples:
        if item.kind in ATTACKS:
            assert sum(item.scores) < 20, item.kind
    stuffed = [item for item in tuples if item.kind == "stuffed"]
    assert np.mean([item.scores[2] for item in stuffed]) < 4.5, "a cue stated at two levels is not stated"


def test_a_borrowed_text_names_none_of_the_emotions_of_its_own(make: Callable[..., list[RewardTuple]]) -> None:
    borrowed = [item for item in make() if item.kind == "borrowed"]
    assert borrowed
    assert all(item.scores[1] == 1 for item in borrowed)


def test_tuples_are_read_as_they_were_written(make: Callable[..., list[RewardTuple]], tmp_path: Path) -> None:
    save_tuples(tmp_path / "new" / "tuples.jsonl", make())
    assert load_tuples(tmp_path / "new" / "tuples.jsonl") == make()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tuples.jsonl"]


# --- the stage -------------------------------------------------------------------------------------------------------


@pytest.fixture
def make_config(tmp_path: Path, voices: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RewardConfig]:
    monkeypatch.setattr(stage, "load_training_features", lambda sft: (voices, "a hash"))
    paths: dict[str, Any] = {"data": tmp_path, "encoder_weights": tmp_path}
    sft = SftConfig(**paths, test_speakers=("emodb_15",), evidence_tokens=3)
    monkeypatch.setattr(stage, "read_config", lambda *_: sft)
    (tmp_path / "sft.yaml").touch()
    numbers: dict[str, Any] = {"steps": 6, "batch_size": 8, "save_every": 3, "layers": 1, "embedding_dim": 64,
                               "vocabulary": 300, "full_share": 0.0}  # fmt: skip

    def make(**changes: Any) -> RewardConfig:
        given = {"held_out_speakers": ("emodb_13",), "sft": tmp_path / "sft.yaml", "output": tmp_path / "model"}
        return RewardConfig(**(paths | numbers | given | changes))

    return make


def test_the_stage_goes_from_features_to_a_folder(
    make_config: Callable[..., RewardConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.reward_stage(make_config())
    printed = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert set(printed["after"]) == set(DIMENSIONS)
    assert printed["speakers"] == ["emodb_11"]
    found = load_reward_model(tmp_path / "model")
    assert found.provenance["training_speakers"] == ["emodb_03", "emodb_08"]
    assert str(tmp_path) not in (tmp_path / "model" / "reward.json").read_text()
    tuples = load_tuples(tmp_path / "model" / "training" / "tuples.jsonl")
    assert {item.speaker for item in tuples} == {"emodb_03", "emodb_08", "emodb_11"}
    with pytest.raises(ConfigError, match="holds a run already; go on with --resume"):
        stage.reward_stage(make_config())
    with pytest.raises(ConfigError, match="layers: 1 is now 2"):
        stage.reward_stage(make_config(resume=True, layers=2))
    stage.reward_stage(make_config(resume=True))
    again = load_reward_model(tmp_path / "model")
    for name, value in found.model.state_dict().items():
        assert (again.model.state_dict()[name] - value).abs().max() < 1e-6


def test_evidence_of_training_speakers_is_out_of_fold(
    voices: FeatureSet, make_config: Callable[..., RewardConfig]
) -> None:
    config = make_config()
    sft = stage.read_config(config.sft)
    training, calibrating = stage.split_rows(voices, config, sft)
    assert {voices.rows[i].speaker for i in training} == {"emodb_03", "emodb_08"}
    assert {voices.rows[i].speaker for i in calibrating} == {"emodb_11"}
    found = stage.population_of(voices, training, sft)
    fitted = found.evidence.predict(voices.statistics)[0] * found.evidence.cue_scale + found.evidence.cue_mean
    others = [i for i in range(len(voices.rows)) if i not in training]
    assert np.abs(found.heard[training] - fitted[training]).max() > 0.05
    np.testing.assert_allclose(found.heard[others], fitted[others])


def test_speakers_are_checked(voices: FeatureSet, make_config: Callable[..., RewardConfig]) -> None:
    sft = stage.read_config(make_config().sft)
    for changes, message in (
        ({"held_out_speakers": ("emodb_99",)}, "nobody is called emodb_99"),
        ({"calibration_speakers": ("emodb_15",)}, "emodb_15 is for testing only"),
        ({"held_out_speakers": ("emodb_03", "emodb_08", "emodb_13")}, "nobody is left to train on"),
    ):
        with pytest.raises(ConfigError, match=message):
            stage.split_rows(voices, make_config(**changes), sft)


def test_the_configuration_is_strict(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").touch()
    file = tmp_path / "reward.yaml"
    head = f"data: {tmp_path}\nencoder_weights: {tmp_path}\nsft: {tmp_path}/sft.yaml\n"
    file.write_text(head + "clam_weight: 2\nstep: 3\n")
    with pytest.raises(
        ConfigError, match=r"(?s)'clam_weight'; did you mean 'claim_weight'.*'step'; did you mean 'steps'"
    ):
        read_config_of(RewardConfig, file)
    file.write_text(head + "steps: 0\nframes_dropped: 1.7\naudio_dropped: 1.0\nheld_out_speakers: [emodb_11]\n")
    with pytest.raises(
        ConfigError,
        match=r"(?s)emodb_11 cannot be both.*frames_dropped: must be in.*nothing would be heard.*steps: must be",
    ):
        read_config_of(RewardConfig, file)
