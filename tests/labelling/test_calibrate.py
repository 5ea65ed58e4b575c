"""Levels: by the speaker where the speaker is known, never guessed, and the same with thresholds that were stored."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_emotion.cues import CUE_BY_NAME, CUES, FIXED_CUTS
from edge_emotion.errors import LabellingError
from edge_emotion.prosody.records import UNITS, Measure
from edge_emotion_train.labelling.calibrate import POPULATION, ThresholdGroups, even_cuts, fit_groups
from edge_emotion_train.labelling.records import Record
from edge_emotion_train.labelling.steps import calibrate, measure

MEANS = {
    "f0_median_hz": 200.0, "f0_std_st": 3.0, "f0_slope_st_per_s": -2.0, "syllable_rate_per_s": 5.0,
    "spectral_tilt_db": -10.0, "hnr_db": 10.0, "energy_std_db": 6.0, "level_dbfs": -25.0, "f0_turn_st": 0.5,
}  # fmt: skip


def clip(
    number: int, speaker: str | None = "s0", pitch: float = 1.0, corpus: str = "c", language: str | None = "de",
    reliability: float = 1.0, **values: float | None,
) -> Record:  # fmt: skip
    """A clip whose measures are drawn around the means, its pitch times a factor."""
    drawn = np.random.default_rng(number).normal(1.0, 0.2, len(MEANS))
    measured: dict[str, float | None] = {
        name: mean * draw for (name, mean), draw in zip(MEANS.items(), drawn, strict=True)
    }
    measured = {**measured, "f0_median_hz": 200.0 * pitch * float(drawn[0]), "pause_share": 0.0, **values}
    measures = {
        name: Measure(name, value, UNITS[name], 0.0, 1.0, reliability, None if value is not None else "no voice")
        for name, value in measured.items()
    }
    return Record(f"{corpus}/{speaker}{number}", "/1.wav", corpus, speaker, language=language, measures=measures)


def test_even_cuts_make_levels_equally_frequent() -> None:
    cue = CUE_BY_NAME["pitch"]
    positions = np.random.default_rng(0).normal(10.0, 4.0, 5000)
    cuts = even_cuts(cue, positions)
    counts = np.histogram(positions, [-np.inf, *(cue.position(cut) for cut in cuts), np.inf])[0]
    assert np.allclose(counts, 1000, atol=5)


def test_a_high_voice_is_not_high_in_every_mood() -> None:
    low = [clip(n, "low", 0.5) for n in range(60)]
    high = [clip(n, "high", 1.5) for n in range(60)]
    groups = fit_groups([*low, *high])
    for speaker in (low, high):
        levels = [groups.levels(record)["pitch"] for record in speaker]
        assert {level.thresholds for level in levels} == {f"speaker:{speaker[0].speaker}"}
        assert Counter(level.level for level in levels) == dict.fromkeys(CUE_BY_NAME["pitch"].levels, 12)


def test_few_clips_fall_back_on_the_corpus_and_for_pitch_on_the_population() -> None:
    records = [clip(n, f"s{n % 40}") for n in range(200)]
    groups = fit_groups(records, speaker_clips=20)
    levels = groups.levels(records[0])
    assert levels["pitch"].thresholds == POPULATION
    assert levels["tone"].thresholds == "corpus:c"
    assert groups.clips[POPULATION] == 200
    assert fit_groups(records, speaker_clips=5).levels(records[0])["tone"].thresholds == "speaker:s0"


def test_a_single_clip_has_levels_by_the_population_of_the_nano_bundle() -> None:
    record = clip(1, None)
    groups = fit_groups([record])
    levels = groups.levels(record)
    assert {level.thresholds for level in levels.values() if level.level} == {POPULATION}
    assert levels["pitch"].level in CUE_BY_NAME["pitch"].levels
    assert "EmoDB" in groups.groups[POPULATION].source
    assert groups.clips == {}


def test_held_out_speakers_count_for_nobody_but_themselves() -> None:
    records = [clip(n, f"s{n % 8}") for n in range(240)]
    test = [clip(n, "test", 3.0, spectral_tilt_db=50.0) for n in range(100)]
    alone, both = fit_groups(records), fit_groups([*records, *test], held_out=["test"])
    for key in (POPULATION, "corpus:c"):
        assert both.groups[key].cuts == alone.groups[key].cuts
    assert both.levels(test[0])["pitch"].thresholds == "speaker:test"
    with pytest.raises(LabellingError, match="no clip of nobody"):
        fit_groups(records, held_out=["nobody"])


def test_loudness_is_told_of_speakers_in_recordings_of_one_gain_only() -> None:
    records = [clip(n, f"s{n % 2}", corpus=corpus) for n in range(60) for corpus in ("studio", "web")]
    plain, told = fit_groups(records), fit_groups(records, same_gain=["studio"])
    for record in records[:4]:
        assert plain.levels(record)["loudness"].level is None
        assert "gain is unknown" in str(plain.levels(record)["loudness"].reason)
    studio = [record for record in records if record.corpus == "studio"]
    only = fit_groups(studio, same_gain=["studio"])
    assert only.levels(studio[0])["loudness"].thresholds == "speaker:s0"
    assert "loudness" not in only.groups["corpus:studio"].cuts
    assert "loudness" not in told.groups[POPULATION].cuts


def test_what_cannot_be_told_is_none_with_a_reason() -> None:
    records = [clip(n, f"s{n % 8}") for n in range(160)]
    groups = fit_groups(records)
    unreliable = groups.levels(clip(0, "s0", reliability=0.4))
    assert {level.level for level in unreliable.values()} == {None}
    assert unreliable["pitch"].reason == "reliability is below 0.5"
    assert unreliable["pitch"].reliability == 0.4
    assert groups.levels(clip(0, "s0", hnr_db=None))["clarity"].reason == "no voice"
    assert groups.levels(clip(0, "s0"))["pauses"].reason == (
        "no group of clips that differ enough in it gives thresholds"
    )
    burst = groups.levels(clip(0, "s0", language="zxx"))
    assert {name for name, level in burst.items() if level.level is None} >= {"rate", "pitch_slope", "dynamics"}
    assert burst["tone"].level is not None
    with pytest.raises(LabellingError, match="has no measures"):
        groups.levels(Record("c/1", "/1.wav", "c"))


@given(st.lists(st.floats(-12.0, -0.1), min_size=30, max_size=60))
def test_a_falling_melody_is_never_called_rising(slopes: list[float]) -> None:
    records = [clip(n, f_, f0_slope_st_per_s=slope) for n, slope in enumerate(slopes) for f_ in ("a",)]
    groups = fit_groups(records)
    assert all(groups.levels(record)["pitch_slope"].level != "rising" for record in records)


def test_no_pauses_means_none() -> None:
    records = [clip(n, "s0", pause_share=0.02 * (n % 10)) for n in range(100)]
    groups = fit_groups(records)
    for record in records:
        share = (record.measures or {})["pause_share"].value
        assert share is not None
        assert (groups.levels(record)["pauses"].level == "none") == (share <= 0.02)


def test_a_speaker_who_never_varies_is_judged_by_the_corpus() -> None:
    monotone = [clip(n, "monotone", f0_std_st=0.5 + 0.001 * n) for n in range(40)]
    records = [clip(n, f"s{n % 8}") for n in range(160)]
    levels = [fit_groups([*records, *monotone]).levels(record)["pitch_variation"] for record in monotone]
    assert {level.level for level in levels} == {"narrow"}
    assert {level.thresholds for level in levels} == {"corpus:c"}


def test_every_level_is_one_of_its_cue_or_none_with_a_reason() -> None:
    records = [clip(n, f"s{n % 8}", reliability=0.3 + 0.01 * (n % 70)) for n in range(160)]
    groups = fit_groups(records)
    for record in records:
        levels = groups.levels(record)
        assert list(levels) == [cue.name for cue in CUES]
        for cue in CUES:
            level = levels[cue.name]
            assert level.level is None or level.level in cue.levels
            assert (level.level is None) == (level.reason is not None) == (level.thresholds is None)


def test_fixed_cuts_hold_for_everybody() -> None:
    groups = fit_groups([clip(n, "s0") for n in range(50)])
    assert {name: groups.groups[POPULATION].cuts[name] for name in FIXED_CUTS} == dict(FIXED_CUTS)
    assert groups.levels(clip(1, "s0", f0_turn_st=5.0))["pitch_turn"].level == "rising-falling"


def test_thresholds_can_be_loaded_again(tmp_path: Path) -> None:
    records = [clip(n, f"s{n % 8}") for n in range(240)]
    groups = fit_groups(records)
    (tmp_path / "thresholds.json").write_text(groups.to_json(), encoding="utf-8")
    again = ThresholdGroups.read(tmp_path / "thresholds.json")
    assert again.to_json() == groups.to_json()
    assert [again.levels(record) for record in records] == [groups.levels(record) for record in records]


@pytest.mark.parametrize("content", ["", "[]", '{"groups": 3}', '{"groups": {"population": {"cuts": {"pitch": [1]}}}}'])
def test_what_holds_no_thresholds_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(LabellingError, match="holds no thresholds"):
        ThresholdGroups.read(tmp_path / "t.json")
    with pytest.raises(LabellingError, match="cannot be read"):
        ThresholdGroups.read(tmp_path / "missing.json")


def test_too_few_clips_for_thresholds_are_refused() -> None:
    with pytest.raises(LabellingError, match="3 clips at least"):
        fit_groups([], speaker_clips=1)


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    lines = [clip(n, f"s{n % 3}").to_json() + "\n" for n in range(90)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/measured.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path / "in"


def test_the_step_on_folders(tmp_path: Path, measured: Path) -> None:
    counts = calibrate([measured], tmp_path / "out", progress=False)
    assert (counts.total, counts.out, counts.skipped) == (90, 90, 0)
    assert calibrate([measured], tmp_path / "out", progress=False).skipped == 90
    levels = json.loads((tmp_path / "out/levelled.jsonl").read_text().splitlines()[0])["levels"]
    assert levels["pitch"]["thresholds"] == "speaker:s0"
    with pytest.raises(LabellingError, match="holds other thresholds"):
        calibrate([measured], tmp_path / "out", speaker_clips=80, progress=False)
    calibrate([measured], tmp_path / "out", speaker_clips=80, force=True, progress=False)
    assert "speaker:s0" not in (tmp_path / "out/thresholds.json").read_text()


def test_one_clip_with_thresholds_of_others(tmp_path: Path, measured: Path) -> None:
    calibrate([measured], tmp_path / "all", progress=False)
    recording = Path(__file__).resolve().parents[1] / "data/emodb_03a02Nc.flac"
    measure([Record("c/new", str(recording), "c", "s1")], tmp_path / "one", progress=False)
    calibrate([tmp_path / "one"], tmp_path / "one", thresholds=tmp_path / "all/thresholds.json", progress=False)
    record = json.loads((tmp_path / "one/levelled.jsonl").read_text())
    assert record["levels"]["pitch"]["thresholds"] == "speaker:s1"
    assert record["levels"]["pitch"]["level"] == "very low"  # a man of 100 Hz among voices around 200 Hz


def test_an_input_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LabellingError, match="does not exist"):
        calibrate([tmp_path / "missing"], tmp_path / "out")
    with pytest.raises(LabellingError, match=r"holds no measured\.jsonl"):
        calibrate([tmp_path], tmp_path / "out")
