"""Speech activity: what must not depend on gain, padding or a converter's offset."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_voices import RATE_HZ, silence, voice

from edge_emotion.speech import find_speech


def two_words(gap_s: float, noise: float = 1e-4) -> np.ndarray:
    word = voice(150.0, 0.5)
    samples = np.concatenate([silence(0.3), word, silence(gap_s), 0.3 * word, silence(0.3)])
    return samples + np.random.default_rng(0).normal(0.0, noise, len(samples)).astype(np.float32)


def test_finds_two_words_and_the_gap_between_them():
    (first, second) = find_speech(two_words(0.4)).segments
    assert first == pytest.approx((0.3, 0.8), abs=0.03)
    assert second == pytest.approx((1.2, 1.7), abs=0.03)


def test_bridges_a_short_gap_and_drops_a_click():
    assert len(find_speech(two_words(0.05)).segments) == 1
    click = silence(1.0)
    click[8000:8016] = 0.5
    assert len(find_speech(np.concatenate([two_words(0.05), click])).segments) == 1


@pytest.mark.parametrize("gain", [0.001, 0.5, 2.0])
def test_decisions_do_not_depend_on_gain(gain: float):
    samples = two_words(0.4)
    np.testing.assert_array_equal(find_speech(samples).speech, find_speech(samples * np.float32(gain)).speech)


@pytest.mark.parametrize("cut", [0, 37, 100])
@pytest.mark.parametrize("frames", [1, 20, 500])
def test_digital_silence_around_shifts_the_decisions_and_changes_none(frames: int, cut: int):
    samples = two_words(0.4)[: -cut or None]
    padding = silence(frames / 100)
    plain, padded = find_speech(samples), find_speech(np.concatenate([padding, samples, padding]))
    inside = slice(frames, frames + len(plain.speech))
    np.testing.assert_array_equal(padded.speech[inside], plain.speech)
    np.testing.assert_array_equal(padded.level_db[inside], plain.level_db)
    assert padded.speech.sum() == plain.speech.sum()


def test_speech_that_fills_the_recording_is_found_to_its_edges():
    assert find_speech(voice(150.0, 1.0)).segments == ((0.0, 1.0),)


def test_noise_is_not_speech_beside_speech():
    samples = two_words(0.4, noise=0.003)
    assert find_speech(samples).speech.sum() == pytest.approx(find_speech(two_words(0.4)).speech.sum(), abs=6)


def test_a_constant_offset_is_not_speech():
    samples = two_words(0.4) + np.float32(0.05)
    assert len(find_speech(samples).segments) == 2


@pytest.mark.parametrize("samples", [silence(0.0), silence(1.0), silence(0.001)])
def test_digital_silence_has_no_speech(samples: np.ndarray):
    activity = find_speech(samples)
    assert activity.segments == ()
    assert len(activity.speech) == -(-len(samples) * 100 // RATE_HZ)
    assert np.isfinite(activity.level_db).all()
