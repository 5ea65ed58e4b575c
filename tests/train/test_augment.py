"""Augmentation: prosody edits reach what they name, channel effects keep time and length, and both are reproducible."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import parselmouth
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion.audio import SAMPLE_RATE_HZ
from edge_emotion_train.augment import (
    CHANNEL_EFFECTS,
    DURATION_FACTOR,
    PEAK_LIMIT,
    PITCH_SHIFT_ST,
    RANGE_FACTOR,
    ProsodyEdit,
    Samples,
    apply_gain,
    apply_variant,
    augment,
    change_rate,
    draw_variant,
    edit_prosody,
    mu_law,
    pad_with_silence,
    resample_round_trip,
    scale_range,
    shift_pitch,
    speech_rms,
    take_out_delay,
    tilt_spectrum,
    track_pitch,
)

CLIPS = sorted((Path(__file__).parents[1] / "data").glob("emodb_*.flac"))


@pytest.fixture(scope="module", params=CLIPS, ids=lambda path: path.stem)
def speech(request: pytest.FixtureRequest) -> Samples:
    samples, rate = soundfile.read(request.param, dtype="float32")
    assert rate == SAMPLE_RATE_HZ
    return samples


def melody_st(samples: Samples) -> np.ndarray:
    f0_hz = track_pitch(parselmouth.Sound(samples.astype(np.float64), SAMPLE_RATE_HZ)).selected_array["frequency"]
    return 12.0 * np.log2(f0_hz[f0_hz > 0])


def delay_of(changed: Samples, original: Samples) -> int:
    length = 2 * len(original)
    spectrum = np.fft.rfft(changed, length) * np.conj(np.fft.rfft(original, length))
    delay = int(np.argmax(np.fft.irfft(spectrum, length)))
    return delay - length if delay > len(original) else delay


@pytest.mark.parametrize("semitones", [-4.0, 4.0])
def test_pitch_moves_by_what_was_asked_and_nothing_else(speech: Samples, semitones: float) -> None:
    shifted = shift_pitch(speech, semitones)
    assert len(shifted) == len(speech)
    assert np.median(melody_st(shifted)) - np.median(melody_st(speech)) == pytest.approx(semitones, abs=0.4)
    assert np.std(melody_st(shifted)) == pytest.approx(np.std(melody_st(speech)), rel=0.2)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_rate_changes_the_length_exactly_and_keeps_the_pitch(speech: Samples, factor: float) -> None:
    changed = change_rate(speech, factor)
    assert len(changed) == round(len(speech) / factor)
    assert np.median(melody_st(changed)) == pytest.approx(np.median(melody_st(speech)), abs=0.5)


def test_range_widens_and_narrows_around_the_median(speech: Samples) -> None:
    spread = {factor: np.std(melody_st(scale_range(speech, factor))) for factor in (0.6, 1.0, 1.5)}
    assert spread[0.6] / spread[1.0] == pytest.approx(0.6, abs=0.12)
    assert spread[1.5] / spread[1.0] == pytest.approx(1.5, abs=0.3)


def test_an_edit_of_nothing_changes_nothing(speech: Samples) -> None:
    np.testing.assert_array_equal(edit_prosody(speech, ProsodyEdit()), speech)


@pytest.mark.parametrize("edit", [ProsodyEdit(range_factor=0.0), ProsodyEdit(duration_factor=-1.0)])
def test_impossible_edits_are_refused(speech: Samples, edit: ProsodyEdit) -> None:
    with pytest.raises(ValueError, match="> 0"):
        edit_prosody(speech, edit)


def test_a_clip_too_short_for_an_edit_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"0\.1 s"):
        shift_pitch(np.ones(1599, np.float32), 2.0)
    with pytest.raises(ValueError, match="rate factor 0"):
        change_rate(np.ones(16_000, np.float32), 0.0)


@pytest.mark.parametrize("name", CHANNEL_EFFECTS)
@pytest.mark.parametrize("seed", range(6))
def test_channel_effects_change_the_sound_but_neither_length_nor_time(speech: Samples, name: str, seed: int) -> None:
    before = speech.copy()
    changed = CHANNEL_EFFECTS[name](speech, np.random.default_rng(seed))
    np.testing.assert_array_equal(speech, before)
    assert changed.shape == speech.shape
    assert changed.dtype == np.float32
    assert np.isfinite(changed).all()
    assert np.max(np.abs(changed)) <= 1.0
    assert not np.array_equal(changed, speech)
    assert abs(delay_of(changed, speech)) <= 1


@pytest.mark.parametrize("seed", range(8))
def test_noise_is_as_far_below_the_speech_as_promised(speech: Samples, seed: int) -> None:
    quiet = apply_gain(speech, -12.0)  # so that no peak limit changes the ratio
    hiss = CHANNEL_EFFECTS["noise"](quiet, np.random.default_rng(seed)) - quiet
    snr_db = 20.0 * np.log10(speech_rms(quiet) / np.sqrt(np.mean(hiss**2)))
    assert 19.9 <= snr_db <= 45.1


def test_tilt_is_a_slope_of_the_asked_size() -> None:
    time_s = np.arange(16_000) / SAMPLE_RATE_HZ
    tones = sum(0.1 * np.sin(2 * np.pi * hz * time_s) for hz in (500, 1000, 2000)).astype(np.float32)
    spectrum_db = 20.0 * np.log10(np.abs(np.fft.rfft(tilt_spectrum(tones, 3.0))) + 1e-9)
    assert spectrum_db[2000] - spectrum_db[1000] == pytest.approx(3.0, abs=0.1)
    assert spectrum_db[1000] - spectrum_db[500] == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize("delay", [0, 1, 576, 1105])
def test_a_codec_that_delays_is_put_right(speech: Samples, delay: int) -> None:
    late = np.pad(speech, (delay, 400))
    np.testing.assert_array_equal(take_out_delay(late, speech), speech)


def test_mu_law_is_telephone_quality_and_keeps_the_peak() -> None:
    ramp = np.linspace(-1.0, 1.0, 2001, dtype=np.float32)
    error = mu_law(ramp) - ramp
    assert mu_law(ramp)[[0, 1000, -1]].tolist() == pytest.approx([-1.0, 0.0, 1.0], abs=1e-6)
    assert 1e-4 < np.max(np.abs(error)) < 0.03


def test_null_edits(speech: Samples) -> None:
    np.testing.assert_allclose(apply_gain(apply_gain(speech, 6.0), -6.0), speech, atol=1e-6)
    assert np.max(np.abs(apply_gain(speech, 20 * np.log10(2.0)))) == pytest.approx(2 * np.max(np.abs(speech)), rel=1e-5)
    padded = pad_with_silence(speech, 0.2, 0.2)
    np.testing.assert_array_equal(padded[3200:-3200], speech)
    assert not padded[:3200].any()
    assert not padded[-3200:].any()
    back = resample_round_trip(speech)
    assert back.shape == speech.shape
    assert 10 * np.log10(np.sum(speech**2) / np.sum((back - speech) ** 2)) > 30.0


def test_the_same_variant_is_the_same_always_and_no_other_is(speech: Samples) -> None:
    np.testing.assert_array_equal(augment(speech, "emodb/a", 3), augment(speech, "emodb/a", 3))
    drawn = {repr(draw_variant(clip, index)) for clip in ("emodb/a", "emodb/b", "emogator/a") for index in range(50)}
    assert len(drawn) == 150


def test_the_draw_does_not_depend_on_this_version_of_anything() -> None:
    variant = draw_variant("emodb/03a01Fa", 1)
    assert variant.seed == 0xB04991D4299F2DBFF26B32E588FF76F3


def test_most_variants_have_an_edit_and_an_effect_and_all_stay_in_range() -> None:
    drawn = [draw_variant("clip", index) for index in range(600)]
    edits = [variant.edit for variant in drawn if variant.edit is not None]
    effects = Counter(len(variant.effects) for variant in drawn)
    assert 0.7 < len(edits) / len(drawn) < 0.9
    assert (effects[1] + effects[2]) / len(drawn) > 0.65
    assert effects[0] > 20
    assert {name for variant in drawn for name in variant.effects} == set(CHANNEL_EFFECTS)
    for edit in edits:
        assert PITCH_SHIFT_ST[0] <= edit.pitch_shift_st <= PITCH_SHIFT_ST[1]
        assert RANGE_FACTOR[0] <= edit.range_factor <= RANGE_FACTOR[1]
        assert DURATION_FACTOR[0] <= edit.duration_factor <= DURATION_FACTOR[1]
    # Each of the three is sometimes the only change, so that no cue is always tied to another.
    assert any(e.pitch_shift_st and e.range_factor == 1 and e.duration_factor == 1 for e in edits)


def test_variants_of_speech_are_sound_and_of_the_length_their_edit_says(speech: Samples) -> None:
    for index in range(12):
        variant = draw_variant("clip", index)
        changed = apply_variant(speech, variant)
        duration = variant.edit.duration_factor if variant.edit else 1.0
        assert len(changed) == round(len(speech) * duration)
        assert changed.dtype == np.float32
        assert 0.0 < np.max(np.abs(changed)) <= PEAK_LIMIT + 1e-6


@settings(max_examples=40, deadline=None)
@given(
    length=st.sampled_from([0, 1, 2, 159, 320, 1599, 1600, 1601, 8000]),
    kind=st.sampled_from(["silence", "dc", "noise", "nan", "infinite", "loud", "impulse"]),
    index=st.integers(0, 10_000),
)
def test_nothing_breaks_augmentation(length: int, kind: str, index: int) -> None:
    samples = np.zeros(length, np.float32)
    if kind in ("noise", "loud"):
        scale = 50.0 if kind == "loud" else 0.1
        samples = (scale * np.random.default_rng(index).standard_normal(length)).astype(np.float32)
    elif kind == "impulse":
        samples[: 1 if length else 0] = 1.0
    else:
        samples[:] = {"silence": 0.0, "dc": 0.5, "nan": np.nan, "infinite": np.inf}[kind]
    variant = draw_variant("odd", index)
    changed = apply_variant(samples, variant)
    assert np.isfinite(changed).all()
    assert np.max(np.abs(changed), initial=0.0) <= PEAK_LIMIT + 1e-6
    edited = variant.edit is not None and length >= 1600
    assert len(changed) == round(length * (variant.edit.duration_factor if edited and variant.edit else 1.0))
