"""Pitch: known F0, missing fundamental, tilt, noise, sweeps, turns; and agreement with Praat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from synthetic_voices import RATE_HZ, silence, voice

from edge_emotion.prosody import measure_prosody
from edge_emotion.prosody.pitch import CEILING_HZ, FLOOR_HZ, track_pitch


def value(samples: np.ndarray, name: str) -> float:
    measured = measure_prosody(samples).measures[name].value
    assert measured is not None, name
    return measured


def sweep(start_st: float, end_st: float, duration_s: float = 1.2, f0_hz: float = 160.0) -> np.ndarray:
    return f0_hz * 2.0 ** (np.linspace(start_st, end_st, round(duration_s * RATE_HZ)) / 12.0)


@pytest.mark.parametrize("f0_hz", [80.0, 97.3, 120.0, 165.0, 220.0, 271.9, 330.0])
def test_f0_of_a_steady_voice_within_2_percent(f0_hz: float):
    samples = voice(f0_hz, 0.6)
    assert value(samples, "f0_median_hz") == pytest.approx(f0_hz, rel=0.02)
    assert value(samples, "f0_std_st") < 0.1
    assert value(samples, "voiced_share") > 0.95


def test_f0_does_not_follow_timbre():
    found = [value(voice(140.0, 0.6, tilt), "f0_median_hz") for tilt in (-3.0, -6.0, -12.0, -18.0)]
    assert max(found) / min(found) < 1.01


@pytest.mark.parametrize("f0_hz", [110.0, 190.0])
def test_missing_fundamental_within_3_percent(f0_hz: float):
    assert value(voice(f0_hz, 0.6, lowest_harmonic=3), "f0_median_hz") == pytest.approx(f0_hz, rel=0.03)


@pytest.mark.parametrize(("start", "end"), [(-4.0, 4.0), (4.0, -4.0), (-1.0, 1.0), (0.0, 0.0)])
def test_slope_of_a_sweep(start: float, end: float):
    slope = value(voice(sweep(start, end), 1.2), "f0_slope_st_per_s")
    assert slope == pytest.approx((end - start) / 1.2, abs=0.15)


def test_a_pause_is_no_valley_in_the_slope():
    contour = sweep(-3.0, 3.0)
    samples = voice(contour, 1.2)
    samples[7000:11000] = 0.0
    assert value(samples, "f0_slope_st_per_s") == pytest.approx(5.0, abs=0.3)


def test_range_and_turn_of_a_rising_falling_contour():
    time = np.linspace(0.0, 1.0, RATE_HZ)
    contour = 150.0 * 2.0 ** ((8.0 - 32.0 * (time - 0.5) ** 2) / 12.0)
    samples = voice(contour, 1.0)
    assert value(samples, "f0_turn_position") == pytest.approx(0.5, abs=0.05)
    assert value(samples, "f0_range_st") == pytest.approx(7.2, abs=0.5)
    straight = measure_prosody(voice(sweep(-4.0, 4.0), 1.2)).measures["f0_turn_position"]
    assert (straight.value, straight.reliability) == (None, 0.0)
    assert straight.reason


def test_an_octave_error_does_not_move_the_statistics():
    contour = np.full(RATE_HZ * 2, 200.0)
    contour[: RATE_HZ // 10] = 100.0
    samples = voice(contour, 2.0)
    assert value(samples, "f0_p5_hz") == pytest.approx(200.0, rel=0.02)
    assert value(samples, "f0_std_st") < 0.3


def test_white_noise_and_silence_have_no_pitch():
    noise = (0.1 * np.random.default_rng(1).standard_normal(RATE_HZ)).astype(np.float32)
    measures = measure_prosody(noise).measures
    assert measures["f0_median_hz"].value is None
    assert measures["f0_median_hz"].reason == "fewer than 3 voiced frames"
    assert measures["voiced_share"].value == pytest.approx(0.0, abs=0.05)
    assert not track_pitch(silence(0.2)).f0_hz.any()


def test_a_pure_tone_within_the_range_is_its_pitch():
    tone = (0.2 * np.sin(2.0 * np.pi * 250.0 * np.arange(RATE_HZ) / RATE_HZ)).astype(np.float32)
    assert value(tone, "f0_median_hz") == pytest.approx(250.0, rel=0.002)


def test_agrees_with_praat_on_a_synthetic_voice():
    parselmouth = pytest.importorskip("parselmouth", reason="Praat is the oracle: install the train extra")
    wobble = 180.0 * 2.0 ** (4.0 * np.sin(np.linspace(0.0, 9.0, 2 * RATE_HZ)) / 12.0)
    samples = voice(wobble, 2.0)
    samples[12000:16000] = 0.0
    samples += np.random.default_rng(2).normal(0.0, 0.002, len(samples)).astype(np.float32)
    sound = parselmouth.Sound(samples.astype(float), RATE_HZ)
    praat = sound.to_pitch_ac(0.01, FLOOR_HZ, 15, False, 0.03, 0.45, 0.01, 0.35, 0.14, CEILING_HZ)
    praat_hz = praat.selected_array["frequency"]
    ours = track_pitch(samples)
    index = np.round(praat.xs() / 0.01 - 0.5).astype(int)
    ours_hz = ours.f0_hz[index]
    both = (ours_hz > 0) & (praat_hz > 0)
    assert ((ours_hz > 0) == (praat_hz > 0)).mean() > 0.98
    np.testing.assert_allclose(ours_hz[both], praat_hz[both], rtol=0.005)
    np.testing.assert_allclose(ours.periodicity[index][both], praat.selected_array["strength"][both], atol=0.01)


def test_no_candidate_lies_outside_the_range():
    f0_hz = track_pitch(voice(sweep(-24.0, 30.0), 1.2)).f0_hz
    voiced = f0_hz[f0_hz > 0]
    assert voiced.min() >= FLOOR_HZ
    assert voiced.max() <= CEILING_HZ


@pytest.mark.parametrize(
    "clip", sorted((Path(__file__).parents[1] / "data").glob("emodb_*.flac")), ids=lambda clip: clip.stem
)
def test_agrees_with_praat_on_real_speech(clip: Path):
    parselmouth = pytest.importorskip("parselmouth", reason="Praat is the oracle: install the train extra")
    samples, _ = soundfile.read(clip, dtype="float32")
    samples = np.pad(samples, (0, -len(samples) % 160))
    sound = parselmouth.Sound(samples.astype(float), RATE_HZ)
    praat_hz = sound.to_pitch_ac(0.01, FLOOR_HZ, 15, False, 0.03, 0.45, 0.01, 0.35, 0.14, CEILING_HZ)
    praat_hz = praat_hz.selected_array["frequency"]
    measures = measure_prosody(samples).measures
    assert measures["f0_median_hz"].value == pytest.approx(np.median(praat_hz[praat_hz > 0]), rel=0.02)
    assert measures["f0_median_hz"].reliability == 1.0
