"""Speech rate and pauses.

The rate combines a count of syllable nuclei (voiced peaks of the loudness envelope that stand out of the dips beside
them, after de Jong and Wempe 2009) with how fast the spectrum changes, because in quick speech neighbouring nuclei
merge (cf. Pfitzinger 1998, who sums syllable and phone rate). `benchmarks/syllable_rate.py` fits and tests the weights.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edge_emotion.speech import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE_HZ, SpeechActivity

WINDOW_SAMPLES = 400
FFT_SIZE = 512
BANDS = 17
LOWEST_HZ, HIGHEST_HZ = 80.0, 6000.0
# Bands of the vowels' first two formants, up to about 2.2 kHz.
VOWEL_BANDS = 10
# Anything 20 dB below the mean band power counts as silence, so that a recording's noise is no spectral change.
NOISE_SHARE = 0.01
SMOOTHING_FRAMES = 1.5
# On the cube root of power relative to its mean, which is about loudness: 1 on average.
NUCLEUS_PROMINENCE = 0.02
SHORT_LAG_FRAMES, LONG_LAG_FRAMES = 2, 12
SHORTEST_PAUSE_S = 0.15
BLOCK_FRAMES = 200

# Rate = intercept + weights @ (nuclei per second, spectral change within 20 ms, within 120 ms).
RATE_INTERCEPT = 0.43
RATE_WEIGHTS = (0.755, 9.57, -0.69)
RATE_RANGE = (0.5, 12.0)


def syllable_rate(samples: np.ndarray, voiced: np.ndarray, speech: np.ndarray) -> tuple[float, int]:
    """Syllables per second of speech.

    Args:
        samples: (frames * 160,) at 16 kHz, scaled to a peak of 1.
        voiced: (frames,) bool, a pitch was found.
        speech: (frames,) bool, at least one.

    Returns:
        Rate within 0.5..12 per second and the number of nuclei that were found; without any, the rate means nothing.
    """
    features, nuclei = rate_features(samples, voiced, speech)
    return float(np.clip(RATE_INTERCEPT + features @ np.array(RATE_WEIGHTS), *RATE_RANGE)), nuclei


def rate_features(samples: np.ndarray, voiced: np.ndarray, speech: np.ndarray) -> tuple[np.ndarray, int]:
    """(3,) nuclei per second of speech, spectral change within 20 ms and 120 ms; and the number of nuclei."""
    power = _mel_power(samples)
    power += NOISE_SHARE * power[speech].mean() + np.finfo(np.float32).tiny
    # Each band relative to its own mean: a microphone's frequency response must not count.
    relative = power / power[speech].mean(axis=0)
    loudness = _smooth(np.cbrt(relative[:, :VOWEL_BANDS]).mean(axis=1), SMOOTHING_FRAMES)
    peaks = prominent_peaks(loudness, NUCLEUS_PROMINENCE)
    nuclei = int((voiced & speech)[peaks].sum())
    spectrum = np.log(relative)
    change = [_change_within(spectrum, speech, lag) for lag in (SHORT_LAG_FRAMES, LONG_LAG_FRAMES)]
    return np.array([nuclei / (speech.sum() * FRAME_S), *change]), nuclei


def prominent_peaks(curve: np.ndarray, prominence: float) -> np.ndarray:
    """Indices of the maxima between which the curve dips by at least `prominence`; of two without a dip, the higher."""
    kept: list[int] = []
    for peak in (np.flatnonzero((curve[1:-1] > curve[:-2]) & (curve[1:-1] >= curve[2:])) + 1).tolist():
        if kept:
            dip = curve[kept[-1] : peak + 1].min()
            if min(curve[kept[-1]], curve[peak]) - dip < prominence:
                kept[-1] = max(kept[-1], peak, key=lambda index: curve[index])
                continue
        kept.append(peak)
    return np.array(kept, dtype=np.int64)


def pauses(activity: SpeechActivity) -> tuple[float, int]:
    """Share of silence between the first and the last speech (pauses of at least 150 ms) and number of pauses."""
    segments = activity.segments
    gaps = [start - end for (_, end), (start, _) in itertools.pairwise(segments)]
    long_gaps = [gap for gap in gaps if gap >= SHORTEST_PAUSE_S - 0.5 * FRAME_S]
    return sum(long_gaps) / (segments[-1][1] - segments[0][0]), len(long_gaps)


def _change_within(spectrum: np.ndarray, speech: np.ndarray, lag: int) -> float:
    """Mean squared change of the spectrum over `lag` frames of speech, re its variance: 0 constant, 1 unrelated."""
    pairs = speech[lag:] & speech[:-lag]
    spoken = spectrum[speech]
    variance = float(((spoken - spoken.mean(axis=0)) ** 2).sum(axis=1).mean())
    if not pairs.any() or variance < 1e-6:
        return 0.0
    return float(((spectrum[lag:] - spectrum[:-lag])[pairs] ** 2).sum(axis=1).mean()) / (2.0 * variance)


def _mel_power(samples: np.ndarray) -> np.ndarray:
    """(frames, bands) power in mel bands of the 25 ms centred on each frame."""
    window, weights = _tables()
    margin = (WINDOW_SAMPLES - FRAME_SAMPLES) // 2
    padded = np.pad(samples, margin).astype(np.float32)
    windows = sliding_window_view(padded, WINDOW_SAMPLES)[::FRAME_SAMPLES]
    blocks = []
    for start in range(0, len(windows), BLOCK_FRAMES):
        spectrum = np.fft.rfft(windows[start : start + BLOCK_FRAMES] * window, FFT_SIZE)
        blocks.append((spectrum.real**2 + spectrum.imag**2) @ weights)
    return np.concatenate(blocks)


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Hann window and (bins, bands) triangles of equal width in mel."""
    lowest, highest = (1127.0 * np.log1p(hz / 700.0) for hz in (LOWEST_HZ, HIGHEST_HZ))
    edges_hz = 700.0 * np.expm1(np.linspace(lowest, highest, BANDS + 2) / 1127.0)
    low, middle, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    frequency_hz = np.fft.rfftfreq(FFT_SIZE, 1.0 / SAMPLE_RATE_HZ)[:, None]
    triangles = np.minimum((frequency_hz - low) / (middle - low), (high - frequency_hz) / (high - middle))
    return np.hanning(WINDOW_SAMPLES).astype(np.float32), np.maximum(triangles, 0.0).astype(np.float32)


def _smooth(curve: np.ndarray, deviation_frames: float) -> np.ndarray:
    reach = int(np.ceil(3.0 * deviation_frames))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation_frames) ** 2)
    return np.convolve(np.pad(curve, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
