"""The shape of the melody: sweeps, arches, waves; what must not change it; and when there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_voices import RATE_HZ, silence, voice

from edge_emotion.audio import from_samples
from edge_emotion.prosody import Contour, measure_prosody
from edge_emotion.prosody.contour_shape import SHAPES, describe_shape, fit_melody, fold_octaves

MELODIES = {
    "rising": lambda x, size: size * (x - 0.5),
    "falling": lambda x, size: -size * (x - 0.5),
    "rising-falling": lambda x, size: size * (1.0 - 2.0 * np.abs(x - 0.5)),
    "falling-rising": lambda x, size: -size * (1.0 - 2.0 * np.abs(x - 0.5)),
    "flat": lambda x, size: 0.02 * size * np.sin(20.0 * x),
    "expressive": lambda x, size: 0.5 * (size + 6.0) * np.cos(8.0 * np.pi * x),
}


def contour_of(semitones: np.ndarray, f0_hz: float = 160.0) -> Contour:
    count = len(semitones)
    return Contour((np.arange(count) + 0.5) / 100.0, f0_hz * 2.0 ** (semitones / 12.0), np.full(count, -20.0))


def with_gaps(contour: Contour, gaps: list[tuple[int, int]]) -> Contour:
    f0_hz = contour.f0_hz.copy()
    for start, length in gaps:
        f0_hz[start : start + length] = np.nan
    return Contour(contour.times_s, f0_hz, contour.intensity_db)


def melody_samples(shape: str, size: float, f0_hz: float = 150.0, duration_s: float = 1.6) -> np.ndarray:
    position = np.linspace(0.0, 1.0, round(duration_s * RATE_HZ))
    return voice(f0_hz * 2.0 ** (MELODIES[shape](position, size) / 12.0), duration_s)


def shape_of(samples: np.ndarray) -> str | None:
    return describe_shape(measure_prosody(samples).contour).shape


@pytest.mark.parametrize("shape", MELODIES)
@pytest.mark.parametrize("size", [4.0, 6.0, 10.0])
@pytest.mark.parametrize("f0_hz", [95.0, 220.0])
def test_sweeps_are_told_from_the_sound(shape: str, size: float, f0_hz: float):
    found = describe_shape(measure_prosody(melody_samples(shape, size, f0_hz)).contour)
    assert found.shape == shape
    assert found.confidence > 0.8
    assert found.reason is None


@given(
    shape=st.sampled_from(tuple(MELODIES)),
    size=st.floats(4.0, 12.0),
    f0_hz=st.floats(80.0, 330.0),
    gaps=st.lists(st.tuples(st.integers(0, 150), st.integers(1, 8)), max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_unvoiced_gaps_do_not_change_the_shape(shape: str, size: float, f0_hz: float, gaps: list[tuple[int, int]]):
    plain = contour_of(MELODIES[shape](np.linspace(0.0, 1.0, 160), size), f0_hz)
    assert describe_shape(plain).shape == describe_shape(with_gaps(plain, gaps)).shape == shape


@pytest.mark.parametrize("shape", ["rising", "falling", "flat"])
def test_a_pause_is_no_valley(shape: str):
    contour = contour_of(MELODIES[shape](np.linspace(0.0, 1.0, 160), 6.0))
    pause = np.full(60, np.nan)
    halves = [
        np.concatenate([half[:80], pause, half[80:]])
        for half in (contour.f0_hz, np.full(160, -20.0))
    ]  # fmt: skip
    paused = Contour((np.arange(220) + 0.5) / 100.0, halves[0], np.nan_to_num(halves[1], nan=-90.0))
    assert describe_shape(paused).shape == shape
    line = fit_melody(paused.f0_hz, np.isfinite(paused.f0_hz))
    assert line is not None
    assert abs(line.turn_st) < 0.2


@given(
    shape=st.sampled_from(("rising", "falling", "rising-falling", "falling-rising", "flat")),
    start=st.integers(10, 130),
    length=st.integers(3, 12),
    factor=st.sampled_from((0.5, 2.0)),
)
@settings(max_examples=60, deadline=None)
def test_an_octave_error_does_not_change_the_shape(shape: str, start: int, length: int, factor: float):
    contour = contour_of(MELODIES[shape](np.linspace(0.0, 1.0, 160), 6.0))
    f0_hz = contour.f0_hz.copy()
    f0_hz[start : start + length] *= factor
    np.testing.assert_allclose(fold_octaves(f0_hz, np.isfinite(f0_hz)), contour.f0_hz)
    assert describe_shape(Contour(contour.times_s, f0_hz, contour.intensity_db)).shape == shape


def test_creak_at_the_end_is_no_turn():
    f0_hz = 200.0 * 2.0 ** (np.linspace(-2.0, 2.0, 160) / 12.0)
    f0_hz[150:] = 70.0
    creaky = Contour((np.arange(160) + 0.5) / 100.0, f0_hz, np.full(160, -20.0))
    assert describe_shape(creaky).shape == "rising"


def test_a_wide_leap_across_an_unvoiced_gap_is_no_octave_error():
    low, high, gap = np.full(30, 120.0), np.full(12, 240.0), np.full(6, np.nan)
    f0_hz = np.concatenate([low, gap, high, gap, low])
    voiced = np.isfinite(f0_hz)
    np.testing.assert_allclose(fold_octaves(f0_hz, voiced)[voiced], f0_hz[voiced])


@given(shape=st.sampled_from(tuple(MELODIES)), gain_db=st.floats(-30.0, 3.0), before_s=st.floats(0.0, 1.0))
@settings(max_examples=12, deadline=None)
def test_padding_and_gain_do_not_change_the_shape(shape: str, gain_db: float, before_s: float):
    samples = melody_samples(shape, 6.0)
    quiet = samples * np.float32(10.0 ** (gain_db / 20.0))
    padded = np.concatenate([silence(before_s), quiet, silence(0.3)])
    assert shape_of(padded) == shape_of(samples) == shape


@pytest.mark.parametrize("shape", MELODIES)
@pytest.mark.parametrize(("channels", "rate_hz"), [(2, 16_000), (1, 44_100), (2, 48_000), (6, 22_050)])
def test_channels_and_sample_rate_do_not_change_the_shape(shape: str, channels: int, rate_hz: int):
    import soxr

    samples = melody_samples(shape, 6.0)
    other = np.repeat(soxr.resample(samples, RATE_HZ, rate_hz)[:, None], channels, axis=1)
    assert shape_of(from_samples(other, rate_hz).samples) == shape


def test_silence_is_too_short_and_a_blip_has_too_little_voice():
    empty = describe_shape(measure_prosody(silence(1.0)).contour)
    assert (empty.shape, empty.confidence, empty.reason) == (None, 0.0, "too short")
    blip = describe_shape(measure_prosody(voice(150.0, 0.2)).contour)
    assert (blip.shape, blip.reason) == (None, "insufficient voiced")
    # Noise with a short vowel: long enough, but hardly any voice.
    noise = (0.02 * np.random.default_rng(0).standard_normal(RATE_HZ)).astype(np.float32)
    noise[6000:9200] += voice(150.0, 0.2)
    little = describe_shape(measure_prosody(noise).contour)
    assert (little.shape, little.reason) == (None, "insufficient voiced")


def test_a_melody_between_two_shapes_is_uncertain():
    rng = np.random.default_rng(3)
    wandering = np.interp(np.arange(60), np.arange(0, 60, 10), rng.normal(0.0, 3.0, 6))
    found = describe_shape(contour_of(wandering))
    assert found.confidence < 0.7
    if found.shape is None:
        assert found.reason == "uncertain"


@given(
    f0_hz=st.lists(st.one_of(st.just(float("nan")), st.floats(60.0, 600.0)), max_size=200),
    level=st.floats(-150.0, 0.0),
)
@settings(max_examples=80, deadline=None)
def test_any_contour_gives_a_shape_or_a_reason(f0_hz: list[float], level: float):
    contour = Contour(np.arange(len(f0_hz)) / 100.0, np.array(f0_hz), np.full(len(f0_hz), level))
    before = contour.f0_hz.copy()
    found = describe_shape(contour)
    assert (found.shape is None) == (found.reason is not None)
    assert found.shape is None or found.shape in SHAPES
    assert 0.0 <= found.confidence <= 1.0
    assert found == describe_shape(contour)
    np.testing.assert_array_equal(contour.f0_hz, before)


def test_the_turn_is_measured_in_semitones():
    for size, shape in ((6.0, "rising-falling"), (-6.0, "falling-rising")):
        measures = measure_prosody(melody_samples(shape, 6.0)).measures
        assert measures["f0_turn_st"].value == pytest.approx(size, abs=0.5)
        assert measures["f0_turn_position"].value == pytest.approx(0.5, abs=0.06)
    straight = measure_prosody(melody_samples("rising", 6.0)).measures
    assert straight["f0_turn_st"].value == pytest.approx(0.0, abs=0.2)
    assert straight["f0_turn_position"].value is None
