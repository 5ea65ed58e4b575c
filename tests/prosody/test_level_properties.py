"""What must not move a level: padding, gain, channels, sample rate, gaps, timbre; and that known values are found."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_voices import RATE_HZ, silence, syllables, voice

from edge_emotion.audio import from_samples
from edge_emotion.cues import CUES, FIXED_CUTS, Thresholds, level_of
from edge_emotion.prosody import Prosody, measure_prosody

# Cuts between which the speech of `spoken` lies well inside a level.
THRESHOLDS = Thresholds(
    {
        "pitch": (90.0, 120.0, 200.0, 260.0),
        "pitch_variation": (0.5, 6.0),
        "pitch_slope": (-20.0, 20.0),
        "rate": (2.5, 7.0),
        "dynamics": (0.5, 12.0),
        "pauses": (0.04, 0.3),
        **FIXED_CUTS,
    },
    "test",
)


def spoken(f0_hz: float = 150.0) -> np.ndarray:
    """Two phrases and a pause in a quiet room."""
    parts = [silence(0.2), syllables(7, 4.5, f0_hz), silence(0.3), syllables(5, 4.5, f0_hz * 1.1), silence(0.2)]
    clip = np.concatenate(parts)
    return clip + np.random.default_rng(0).normal(0.0, 2e-4, len(clip)).astype(np.float32)


def levels(prosody: Prosody) -> dict[str, str]:
    return {
        cue.name: level_of(cue, value, THRESHOLDS)
        for cue in CUES
        if cue.name in THRESHOLDS.cuts and (value := prosody.measures[cue.measure].value) is not None
    }


def value(samples: np.ndarray, name: str) -> float:
    found = measure_prosody(samples).measures[name].value
    assert found is not None, name
    return found


@given(f0_hz=st.floats(80.0, 330.0), tilt=st.floats(-15.0, -3.0))
@settings(max_examples=25, deadline=None)
def test_f0_within_2_percent_and_1_percent_of_itself_whatever_the_timbre(f0_hz: float, tilt: float):
    found = value(voice(f0_hz, 0.5, tilt), "f0_median_hz")
    assert found == pytest.approx(f0_hz, rel=0.02)
    assert found == pytest.approx(value(voice(f0_hz, 0.5), "f0_median_hz"), rel=0.01)


@given(f0_hz=st.floats(100.0, 260.0), lowest=st.integers(2, 3))
@settings(max_examples=15, deadline=None)
def test_missing_fundamental_within_3_percent(f0_hz: float, lowest: int):
    assert value(voice(f0_hz, 0.5, lowest_harmonic=lowest), "f0_median_hz") == pytest.approx(f0_hz, rel=0.03)


@given(before_s=st.floats(0.0, 2.0), after_s=st.floats(0.0, 2.0))
@settings(max_examples=12, deadline=None)
def test_padding_moves_energy_by_less_than_half_a_decibel_and_no_level(before_s: float, after_s: float):
    samples = spoken()
    padded = measure_prosody(np.concatenate([silence(before_s), samples, silence(after_s)]))
    plain = measure_prosody(samples)
    drift = padded.measures["level_dbfs"].value - plain.measures["level_dbfs"].value  # type: ignore[operator]
    assert abs(drift) < 0.5
    assert levels(padded) == levels(plain)


@given(gain_db=st.floats(-35.0, 10.0))
@settings(max_examples=12, deadline=None)
def test_gain_moves_the_energy_by_itself_and_no_other_level(gain_db: float):
    samples = spoken()
    plain, louder = measure_prosody(samples), measure_prosody(samples * np.float32(10.0 ** (gain_db / 20.0)))
    moved = louder.measures["level_dbfs"].value - plain.measures["level_dbfs"].value  # type: ignore[operator]
    assert moved == pytest.approx(gain_db, abs=0.2)
    assert levels(louder) == levels(plain)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 44_100, 48_000])
def test_channels_and_sample_rate_move_no_level(channels: int, rate_hz: int):
    samples = spoken()
    other = np.repeat(soxr.resample(samples, RATE_HZ, rate_hz)[:, None], channels, axis=1)
    assert levels(measure_prosody(from_samples(other, rate_hz).samples)) == levels(measure_prosody(samples))


@given(starts=st.lists(st.floats(0.3, 1.6), min_size=1, max_size=3), length_s=st.floats(0.02, 0.06))
@settings(max_examples=12, deadline=None)
def test_unvoiced_gaps_move_no_level_of_pitch(starts: list[float], length_s: float):
    samples = spoken()
    rng = np.random.default_rng(1)
    for start_s in starts:
        start, count = round(start_s * RATE_HZ), round(length_s * RATE_HZ)
        samples[start : start + count] = rng.normal(0.0, 0.03, count)
    plain, broken = levels(measure_prosody(spoken())), levels(measure_prosody(samples))
    for cue in ("pitch", "pitch_variation", "pitch_slope", "pitch_turn"):
        assert broken[cue] == plain[cue]


@pytest.mark.parametrize(("step_st", "f0_hz"), [(3.0, 110.0), (-3.0, 220.0), (6.0, 150.0)])
def test_an_audible_step_of_pitch_is_measured(step_st: float, f0_hz: float):
    low, high = (value(spoken(hz), "f0_median_hz") for hz in (f0_hz, f0_hz * 2.0 ** (step_st / 12.0)))
    assert 12.0 * np.log2(high / low) == pytest.approx(step_st, abs=0.5)


def test_the_level_of_loudness_follows_4_decibels():
    cuts = Thresholds({"loudness": (-22.0, -18.0)}, "speaker")
    cue = next(cue for cue in CUES if cue.name == "loudness")
    at_20_dbfs = voice(150.0, 1.0)
    at_20_dbfs *= np.float32(10.0 ** ((-20.0 - value(at_20_dbfs, "level_dbfs")) / 20.0))
    told = [
        level_of(cue, value(at_20_dbfs * np.float32(10.0 ** (gain / 20.0)), "level_dbfs"), cuts) for gain in (-4, 0, 4)
    ]
    assert told == ["quiet", "medium", "loud"]
