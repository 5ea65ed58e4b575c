"""The log-mel front end against Whisper's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from edge_emotion_train.frontend import LogMel, hold_highest_bands, mel_filter_bank

LOG_MEL = LogMel()
TRUSTED_BANDS = int((hold_highest_bands(mel_filter_bank()) == mel_filter_bank()).all(axis=1).sum())


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """Noise that is loudest in the middle, so that the edges do not set the level."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=samples) * (0.02 + 0.3 * np.hanning(samples))).astype(np.float32)


def features(waveform: np.ndarray) -> np.ndarray:
    return LOG_MEL(torch.from_numpy(waveform)[None])[0].numpy()


@pytest.mark.parametrize("bands", [80, 128])
def test_mel_filters_are_whispers(bands: int) -> None:
    theirs = WhisperFeatureExtractor(feature_size=bands).mel_filters.T
    np.testing.assert_allclose(mel_filter_bank(bands), theirs, atol=1e-7)


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_is_whispers_up_to_a_constant_away_from_the_edges(gain: float) -> None:
    waveform = noise(480_000) * np.float32(gain)
    theirs = np.asarray(WhisperFeatureExtractor()(waveform, sampling_rate=16000).input_features)[0]
    ours = features(waveform)
    assert ours.shape == theirs.shape == (80, 3000)
    shift = (theirs - ours)[:TRUSTED_BANDS, 2:-2]
    assert np.ptp(shift) < 2e-5
    # (x + 4) / 4: the loudest bin lies at 1.5 in ours, wherever the gain puts it in theirs.
    assert shift.mean() == pytest.approx(theirs[:TRUSTED_BANDS].max() - (1.5 + 4) / 4, abs=1e-5)


def test_what_lies_above_7_khz_is_not_heard() -> None:
    assert 70 < TRUSTED_BANDS < 80
    waveform = noise(16_000)
    spectrum = np.fft.rfft(waveform)
    spectrum[np.fft.rfftfreq(16_000, 1 / 16_000) > 7_300] = 0.0
    cut = np.fft.irfft(spectrum).astype(np.float32)
    cut *= np.abs(waveform).max() / np.abs(cut).max()
    np.testing.assert_allclose(features(cut)[:, 5:-5], features(waveform)[:, 5:-5], atol=0.05)
    np.testing.assert_array_equal(
        features(waveform)[TRUSTED_BANDS:], features(waveform)[[TRUSTED_BANDS - 1]].repeat(80 - TRUSTED_BANDS, 0)
    )


@pytest.mark.parametrize("gain", [2.0**-10, 0.25, 4.0])
def test_gain_changes_nothing(gain: float) -> None:
    waveform = noise(16_000)
    np.testing.assert_array_equal(features(waveform * np.float32(gain)), features(waveform))


@pytest.mark.parametrize("gain", [1e-5, 0.037, 0.9, 33.0])
def test_a_gain_that_rounds_changes_next_to_nothing(gain: float) -> None:
    waveform = noise(16_000)
    np.testing.assert_allclose(features(waveform * np.float32(gain)), features(waveform), atol=5e-6)


def test_loudest_bin_is_always_in_the_same_place() -> None:
    assert features(noise(8_000)).max() == pytest.approx((1.5 + 4) / 4)


def test_zeros_around_a_sound_only_add_frames() -> None:
    waveform = noise(8_000)
    padded = np.concatenate([np.zeros(1_600, np.float32), waveform, np.zeros(3_200, np.float32)])
    np.testing.assert_allclose(features(padded)[:, 10:60], features(waveform), atol=1e-5)
    floor = (1.5 + 4 - 8) / 4
    np.testing.assert_allclose(features(padded)[:, :8], floor, atol=1e-6)
    np.testing.assert_allclose(features(padded)[:, -8:], floor, atol=1e-6)


def test_silence_is_finite() -> None:
    assert np.isfinite(features(np.zeros(4_800, np.float32))).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(400, 4_000))
def test_a_frame_every_ten_milliseconds(samples: int) -> None:
    assert features(noise(samples)).shape == (80, samples // 160)


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    loud, quiet = noise(8_000, 1), noise(8_000, 2) * np.float32(1e-3)
    batch = LOG_MEL(torch.from_numpy(np.stack([loud, quiet])))
    np.testing.assert_allclose(batch[1].numpy(), features(quiet), atol=1e-6)
