"""Perturbation of neighbouring glottal periods (jitter, shimmer) and harmonicity, without marking every period.

Praat marks each period of the recording and compares neighbours. Here two neighbouring periods around the middle of
every voiced frame are compared, many at once: their lengths by cross-correlation, their amplitudes peak to peak.
"""

from __future__ import annotations

import numpy as np

from edge_emotion.prosody.pitch import LONGEST_LAG, SINC_DEPTH, refine_peaks
from edge_emotion.speech import FRAME_SAMPLES, SAMPLE_RATE_HZ

# Neighbouring periods that differ by more than this are an error of tracking, not of the voice.
LARGEST_CHANGE = 0.15
BLOCK_FRAMES = 100
# Sizes that an FFT takes quickly, up to the two longest periods with their margins.
FFT_SIZES = (64, 96, 128, 192, 256, 320, 384, 480, 512, 576, 640, 768, 1024)
HIGHEST_HNR_DB = 40.0


def harmonics_to_noise_db(periodicity: np.ndarray) -> np.ndarray:
    """Harmonics-to-noise ratio in dB of each normalised autocorrelation 0..1, within +-40 dB."""
    bound = 1.0 / (1.0 + 10.0 ** (HIGHEST_HNR_DB / 10.0))
    ratio = np.clip(periodicity, bound, 1.0 - bound)
    return 10.0 * np.log10(ratio / (1.0 - ratio))


def perturbation(samples: np.ndarray, f0_hz: np.ndarray) -> tuple[float, float, int]:
    """Local jitter and shimmer.

    Args:
        samples: (n,) at 16 kHz, scaled to a peak of 1.
        f0_hz: (frames,) pitch of each 10 ms frame, 0 where unvoiced.

    Returns:
        Mean absolute difference of neighbouring periods over their mean length (0..1), the same of their amplitudes,
        and the number of pairs compared. NaN, NaN, 0 if no pair can be.
    """
    voiced = f0_hz > 0.0
    # Inside a voiced stretch only: a period that begins or ends in silence is no period.
    inside = voiced.copy()
    inside[1:] &= voiced[:-1]
    inside[:-1] &= voiced[1:]
    inside[[0, -1]] = False
    frame = np.flatnonzero(inside)
    if len(frame) == 0:
        return float("nan"), float("nan"), 0
    period = SAMPLE_RATE_HZ / f0_hz[frame]
    middle = frame * FRAME_SAMPLES + FRAME_SAMPLES // 2
    margin = 3 * LONGEST_LAG
    padded = np.pad(samples.astype(np.float32), margin)
    starts = np.concatenate((middle + margin - np.round(period).astype(int), middle + margin))
    length, repeats = _period_length(padded, starts, np.tile(period, 2))
    before_length, after_length = np.split(length, 2)
    valid = np.logical_and(*np.split(repeats, 2))
    valid &= np.abs(before_length - after_length) < LARGEST_CHANGE * period
    if not valid.any():
        return float("nan"), float("nan"), 0
    before, after = before_length[valid], after_length[valid]
    jitter = np.abs(after - before).mean() / (0.5 * (after + before)).mean()
    start = (middle + margin)[valid]
    first = _peak_to_peak(padded, start - np.round(before).astype(int), np.round(before).astype(int))
    second = _peak_to_peak(padded, start, np.round(after).astype(int))
    mean_amplitude = (0.5 * (first + second)).mean()
    shimmer = np.abs(second - first).mean() / mean_amplitude if mean_amplitude > 0.0 else float("nan")
    return float(jitter), float(shimmer), int(valid.sum())


def _period_length(padded: np.ndarray, start: np.ndarray, period: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lag at which the period that begins at `start` repeats best, near `period`; and whether it does."""
    lag, repeats = np.empty(len(start)), np.empty(len(start), dtype=bool)
    # Periods of one length together: a block is as wide as its longest.
    order = np.argsort(period, kind="stable")
    for first in range(0, len(start), BLOCK_FRAMES):
        block = order[first : first + BLOCK_FRAMES]
        lag[block], repeats[block] = _block_period_length(padded, start[block], period[block])
    return lag, repeats


def _block_period_length(padded: np.ndarray, start: np.ndarray, period: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reach = np.ceil((1.0 + LARGEST_CHANGE) * period).astype(int) + SINC_DEPTH + 1
    length = int((reach + np.round(period)).max()) + 1
    fft_size = next(size for size in FFT_SIZES if size >= length)
    sample = np.arange(length)
    following = padded[start[:, None] + sample]
    first = np.where(sample < np.round(period)[:, None], following, np.float32(0.0))
    product = np.fft.irfft(np.conj(np.fft.rfft(first, fft_size)) * np.fft.rfft(following, fft_size), fft_size)
    energy = np.cumsum(np.pad(following.astype(np.float64) ** 2, ((0, 0), (1, 0))), axis=1)
    span = np.round(period).astype(int)[:, None]
    lags = np.arange(int(reach.max()) + 1)
    lag_energy = np.take_along_axis(energy, np.minimum(lags + span, length), axis=1) - energy[:, lags]
    scale = np.sqrt(lag_energy * np.take_along_axis(energy, span, axis=1)).astype(np.float32)
    correlation = product[:, : len(lags)] / np.maximum(scale, 1e-12)
    near = np.abs(lags - period[:, None]) <= LARGEST_CHANGE * period[:, None]
    best = np.where(near, correlation, -np.inf).argmax(axis=1)
    best = np.clip(best, SINC_DEPTH, len(lags) - 1 - SINC_DEPTH)
    row = np.arange(len(best))
    lag, height = refine_peaks(correlation, row, best)
    return lag, (height > 0.5) & (np.abs(lag - period) < LARGEST_CHANGE * period)


def _peak_to_peak(padded: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    sample = np.arange(int(length.max()))
    values = padded[start[:, None] + sample]
    inside = sample < length[:, None]
    return np.where(inside, values, -np.inf).max(axis=1) - np.where(inside, values, np.inf).min(axis=1)
