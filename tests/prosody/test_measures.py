"""The measures together: known values, invariance, reliability, and input that no voice made."""

from __future__ import annotations

import json
import math

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_voices import RATE_HZ, silence, syllables, voice

from edge_emotion.prosody import UNITS, Prosody, measure_prosody
from edge_emotion.speech import find_speech

GAIN_DEPENDENT = {"level_dbfs"}


def utterance(seed: int = 0, noise: float = 3e-4) -> np.ndarray:
    """Two phrases of eight and five syllables with a pause of 0.4 s, in a quiet room."""
    rng = np.random.default_rng(seed)
    spoken = np.concatenate(
        [silence(0.2), syllables(8, 5.0), silence(0.4), 0.5 * syllables(5, 5.0, 170.0), silence(0.2)]
    )
    return spoken + rng.normal(0.0, noise, len(spoken)).astype(np.float32)


def values(prosody: Prosody) -> dict[str, float | None]:
    return {name: measure.value for name, measure in prosody.measures.items()}


def check_valid(prosody: Prosody) -> None:
    assert set(prosody.measures) == set(UNITS)
    for name, measure in prosody.measures.items():
        assert measure.name == name
        assert measure.unit == UNITS[name]
        assert 0.0 <= measure.reliability <= 1.0
        assert (measure.value is None) == (measure.reason is not None)
        assert measure.value is None or math.isfinite(measure.value), name
        assert measure.value is not None or measure.reliability == 0.0
        assert 0.0 <= measure.start_s <= measure.end_s
    assert len(prosody.contour.times_s) == len(prosody.contour.f0_hz) == len(prosody.contour.intensity_db)
    assert np.isfinite(prosody.contour.intensity_db).all()
    json.loads(json.dumps(prosody.to_dict(), allow_nan=False))


def test_known_pause_and_durations():
    prosody = measure_prosody(utterance())
    found = values(prosody)
    assert found["duration_s"] == pytest.approx(3.4)
    assert found["pause_count"] == 1.0
    assert found["pause_share"] == pytest.approx(0.4 / 3.0, abs=0.03)
    assert found["speech_duration_s"] == pytest.approx(2.6, abs=0.08)
    check_valid(prosody)


def test_a_gap_shorter_than_150_ms_is_no_pause():
    phrase = syllables(4, 5.0)
    found = values(measure_prosody(np.concatenate([phrase, silence(0.1), phrase])))
    assert (found["pause_count"], found["pause_share"]) == (0.0, 0.0)


@pytest.mark.parametrize("per_second", [3.0, 4.0, 5.0, 6.0, 7.0])
def test_rate_of_bursts_like_syllables(per_second: float):
    samples = syllables(round(3 * per_second), per_second)
    assert values(measure_prosody(samples))["syllable_rate_per_s"] == pytest.approx(per_second, rel=0.25)


def test_rate_rises_with_tempo():
    rates = [values(measure_prosody(syllables(16, per_second)))["syllable_rate_per_s"] for per_second in (3, 4.5, 6, 8)]
    assert rates == sorted(rates)


def test_level_of_a_sine_is_its_power():
    sine = (0.5 * np.sin(2.0 * np.pi * 200.0 * np.arange(RATE_HZ) / RATE_HZ)).astype(np.float32)
    assert values(measure_prosody(sine))["level_dbfs"] == pytest.approx(20.0 * np.log10(0.5) - 3.01, abs=0.15)


def test_sharper_voice_has_a_higher_tilt():
    soft, sharp = (values(measure_prosody(voice(150.0, 1.0, tilt)))["spectral_tilt_db"] for tilt in (-15.0, -6.0))
    assert sharp > soft + 10.0


def test_noise_in_the_voice_lowers_harmonicity():
    clean = voice(150.0, 1.0)
    noise = np.random.default_rng(3).standard_normal(len(clean)).astype(np.float32)
    noisy = clean + noise * np.float32(np.sqrt(np.mean(clean**2)) * 10 ** (-10.0 / 20.0))
    found = values(measure_prosody(noisy))
    assert found["hnr_db"] == pytest.approx(10.0, abs=1.5)
    assert values(measure_prosody(clean))["hnr_db"] > 25.0


def test_jitter_and_shimmer_of_a_perturbed_voice():
    steady = values(measure_prosody(voice(120.0, 1.5)))
    rng = np.random.default_rng(4)
    pulses = np.zeros(round(1.5 * RATE_HZ), dtype=np.float32)
    periods = RATE_HZ / 120.0 * (1.0 + 0.02 * rng.standard_normal(170))
    resonance = np.exp(-np.arange(200) / 25.0) * np.sin(2.0 * np.pi * 600.0 * np.arange(200) / RATE_HZ)
    for start in np.cumsum(periods).round().astype(int):
        if start + 200 < len(pulses):
            pulses[start : start + 200] += (0.3 * (1.0 + 0.1 * rng.standard_normal()) * resonance).astype(np.float32)
    perturbed = values(measure_prosody(pulses))
    assert steady["jitter_local"] < 0.002
    assert steady["shimmer_local"] < 0.01
    # Differences of neighbours with independent deviations of 2 % and 10 %: 2 / sqrt(pi) times as much.
    assert perturbed["jitter_local"] == pytest.approx(0.0226, rel=0.3)
    assert perturbed["shimmer_local"] == pytest.approx(0.113, rel=0.4)


def test_snr_of_speech_in_noise():
    clean = utterance(noise=0.0)
    activity = find_speech(clean)
    level_db = np.mean(10.0 ** (activity.level_db[activity.speech] / 10.0))
    noise = np.random.default_rng(5).normal(0.0, np.sqrt(level_db) * 10 ** (-20.0 / 20.0), len(clean))
    snr = measure_prosody(clean + noise.astype(np.float32)).measures["snr_db"]
    assert snr.value == pytest.approx(20.0, abs=1.5)
    assert snr.reliability == 1.0


@pytest.mark.parametrize("gain_db", [-6.0, 6.0])
def test_gain_changes_the_level_alone(gain_db: float):
    samples = utterance()
    plain, louder = (
        values(measure_prosody(samples)),
        values(measure_prosody(samples * np.float32(10 ** (gain_db / 20)))),
    )
    assert louder["level_dbfs"] - plain["level_dbfs"] == pytest.approx(gain_db, abs=0.01)
    for name in set(UNITS) - GAIN_DEPENDENT:
        if plain[name] is None:
            assert louder[name] is None, name
        else:
            assert louder[name] == pytest.approx(plain[name], rel=1e-3, abs=1e-3), name


def test_digital_silence_around_changes_not_a_bit():
    samples = utterance()
    plain = measure_prosody(samples)
    padded = measure_prosody(np.concatenate([silence(0.2), samples, silence(0.2)]))
    for name in set(UNITS) - {"duration_s"}:
        assert padded.measures[name].value == plain.measures[name].value, name
        assert padded.measures[name].reliability == plain.measures[name].reliability
        assert padded.measures[name].start_s == pytest.approx(plain.measures[name].start_s + 0.2)
    np.testing.assert_array_equal(padded.contour.f0_hz[20:-20], plain.contour.f0_hz)


def test_a_detour_over_44_1_khz_changes_little():
    samples = utterance()
    plain = values(measure_prosody(samples))
    there = values(measure_prosody(soxr.resample(soxr.resample(samples, RATE_HZ, 44100), 44100, RATE_HZ)))
    for name, tolerance in {"f0_median_hz": 0.5, "f0_std_st": 0.05, "syllable_rate_per_s": 0.1, "spectral_tilt_db": 0.2,
                            "hnr_db": 0.3, "energy_std_db": 0.1, "pause_share": 0.005}.items():  # fmt: skip
        assert there[name] == pytest.approx(plain[name], abs=tolerance), name


def test_silence_has_reasons_instead_of_values():
    prosody = measure_prosody(silence(1.0))
    check_valid(prosody)
    assert prosody.measures["f0_median_hz"].reason == "no speech found"
    assert prosody.measures["speech_duration_s"].value == 0.0
    assert np.isnan(prosody.contour.f0_hz).all()


def test_a_tenth_of_a_second_is_measured_but_not_relied_on():
    prosody = measure_prosody(voice(150.0, 0.1))
    check_valid(prosody)
    assert prosody.measures["f0_median_hz"].value == pytest.approx(150.0, rel=0.02)
    for name in ("f0_median_hz", "f0_slope_st_per_s", "syllable_rate_per_s", "hnr_db"):
        assert prosody.measures[name].reliability < 0.5, name


def test_speech_under_loud_noise_is_not_relied_on():
    clean = utterance(noise=0.0)
    noisy = clean + np.random.default_rng(6).normal(0.0, clean.std(), len(clean)).astype(np.float32)
    assert (
        measure_prosody(noisy).measures["hnr_db"].reliability
        < 0.5
        < measure_prosody(clean).measures["hnr_db"].reliability
    )


def test_a_clean_vowel_without_any_pause_is_relied_on():
    measures = measure_prosody(voice(150.0, 1.0)).measures
    assert measures["snr_db"].reliability == 0.0
    assert measures["f0_median_hz"].reliability == measures["hnr_db"].reliability == 1.0


def test_a_known_activity_is_used():
    samples = utterance()
    assert values(measure_prosody(samples, find_speech(samples))) == values(measure_prosody(samples))


def test_ten_times_the_length_gives_the_same_voice():
    short, long = utterance(), np.tile(utterance(), 10)
    for name in ("f0_median_hz", "spectral_tilt_db", "hnr_db", "syllable_rate_per_s"):
        assert values(measure_prosody(long))[name] == pytest.approx(values(measure_prosody(short))[name], rel=0.05)


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        st.integers(0, 4000),
        elements=st.floats(-(2.0**127), 2.0**127, width=32, allow_nan=False, allow_infinity=False),
        fill=st.floats(-1.0, 1.0, width=32),
    )
)
def test_any_finite_samples_give_valid_measures(samples: np.ndarray):
    check_valid(measure_prosody(samples))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30000),
    st.sampled_from(["noise", "square", "impulses", "constant", "step"]),
    st.floats(1e-30, 1e30),
    st.integers(0, 2**32 - 1),
)
def test_signals_no_voice_made_give_valid_measures(count: int, kind: str, scale: float, seed: int):
    rng = np.random.default_rng(seed)
    index = np.arange(count)
    signal = {
        "noise": rng.standard_normal(count),
        "square": np.sign(np.sin(index * rng.uniform(0.001, 3.0))),
        "impulses": (rng.random(count) < 0.01).astype(float),
        "constant": np.ones(count),
        "step": (index > count // 2).astype(float),
    }[kind]
    check_valid(measure_prosody((signal * scale).astype(np.float32)))
