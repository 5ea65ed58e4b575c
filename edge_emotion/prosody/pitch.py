"""Fundamental frequency by autocorrelation, after P. Boersma (1993), as Praat's "To Pitch (ac)".

Each frame's autocorrelation is divided by that of its window; peaks are candidates; the path through them that costs
least decides voicing and octave. All frames go through one batched FFT.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edge_emotion.speech import FRAME_SAMPLES, SAMPLE_RATE_HZ

FLOOR_HZ = 60.0
CEILING_HZ = 600.0
# Three periods of the floor, the least that tells a period from its double.
WINDOW_SAMPLES = round(3 * SAMPLE_RATE_HZ / FLOOR_HZ)
LONGEST_LAG = round(SAMPLE_RATE_HZ / FLOOR_HZ)
SHORTEST_LAG = int(SAMPLE_RATE_HZ / CEILING_HZ)
# Praat's defaults.
SILENCE_THRESHOLD = 0.03
VOICING_THRESHOLD = 0.45
OCTAVE_COST = 0.01
OCTAVE_JUMP_COST = 0.35
VOICED_UNVOICED_COST = 0.14
CANDIDATES = 9

# Lags above 224 wrap around onto products of the window's two ends, where it is all but zero.
FFT_SIZE = 1024
SINC_DEPTH = 12
UPSAMPLING = 8
# Small enough for the memory cache.
BLOCK_FRAMES = 64

# The two bands of the spectral tilt; here because the spectrum is here.
TILT_BANDS_HZ = ((50.0, 1000.0), (1000.0, 5000.0))


@dataclass(frozen=True)
class PitchTrack:
    """Pitch of each 10 ms frame.

    Attributes:
        f0_hz: (frames,) fundamental frequency, 0 where unvoiced.
        periodicity: (frames,) normalised autocorrelation at the period, 0..1; the highest candidate's where unvoiced.
        band_power: (frames, 2) mean power in each of `TILT_BANDS_HZ`, re the loudest sample.
    """

    f0_hz: np.ndarray
    periodicity: np.ndarray
    band_power: np.ndarray


def track_pitch(samples: np.ndarray) -> PitchTrack:
    """Track the fundamental frequency.

    Args:
        samples: (n,) at 16 kHz, finite, n >= 1.

    Returns:
        One entry for each `ceil(n / 160)` frames, measured in 50 ms centred on the frame.
    """
    frames = -(-len(samples) // FRAME_SAMPLES)
    margin = (WINDOW_SAMPLES - FRAME_SAMPLES) // 2
    peak = float(np.max(np.abs(samples)))
    padded = np.zeros(frames * FRAME_SAMPLES + 2 * margin, dtype=np.float32)
    padded[margin : margin + len(samples)] = samples / (peak if peak > 0.0 else 1.0)
    windows = sliding_window_view(padded, WINDOW_SAMPLES)[::FRAME_SAMPLES]
    blocks = [_analyse(windows[start : start + BLOCK_FRAMES]) for start in range(0, frames, BLOCK_FRAMES)]
    lag, strength, relative_peak, band_power = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    f0_hz, periodicity = _best_path(lag, strength, relative_peak)
    return PitchTrack(f0_hz, periodicity, band_power)


def _analyse(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Candidates (frames, candidates) as lag in samples and strength, local peak (frames,), band power."""
    window, window_autocorrelation, bands, cosines = _tables()
    half = WINDOW_SAMPLES // 2
    central = windows[:, half - LONGEST_LAG : half + LONGEST_LAG]
    frames = windows - central.mean(axis=1, keepdims=True)
    nearby = frames[:, half - LONGEST_LAG // 2 : half + LONGEST_LAG // 2]
    relative_peak = np.maximum(nearby.max(axis=1), -nearby.min(axis=1))
    frames *= window
    spectrum = np.fft.rfft(frames, FFT_SIZE)
    power = spectrum.real**2 + spectrum.imag**2
    # The inverse transform, only at the lags that are needed: as a matrix product twice as fast as an FFT.
    autocorrelation = power @ cosines
    energy = autocorrelation[:, :1]
    autocorrelation = autocorrelation / np.where(energy > 0.0, energy, 1.0) / window_autocorrelation
    lag, strength = _candidates(autocorrelation)
    return lag, strength, relative_peak, power @ bands


def _candidates(autocorrelation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best peaks of each frame; lag 0 where there are fewer."""
    inner = autocorrelation[:, SHORTEST_LAG - 1 : LONGEST_LAG + 2]
    lags = np.arange(SHORTEST_LAG, LONGEST_LAG + 1)
    here = inner[:, 1:-1]
    is_peak = (here > 0.5 * VOICING_THRESHOLD) & (here > inner[:, :-2]) & (here >= inner[:, 2:])
    frame, column = np.nonzero(is_peak)
    score = here[frame, column] - OCTAVE_COST * np.log2(lags[column])
    order = np.lexsort((-score, frame))
    frame, column = frame[order], column[order]
    slot = np.arange(len(frame)) - np.searchsorted(frame, frame)
    best = slot < CANDIDATES
    frame, column, slot = frame[best], column[best], slot[best]
    shape = (len(here), CANDIDATES)
    lag, strength = np.zeros(shape), np.zeros(shape)
    lag[frame, slot], strength[frame, slot] = refine_peaks(autocorrelation, frame, lags[column])
    # A peak whose top lies just outside the range is no candidate.
    outside = (lag > SAMPLE_RATE_HZ / FLOOR_HZ) | (lag < SAMPLE_RATE_HZ / CEILING_HZ)
    lag[outside] = 0.0
    strength[outside] = 0.0
    return lag, strength


def refine_peaks(curves: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position and height of peaks between the samples, by band-limited interpolation.

    Args:
        curves: (curves, lags) sampled autocorrelations.
        rows: (peaks,) curve of each peak.
        columns: (peaks,) index of each peak's highest sample, at least 12 from both ends.

    Returns:
        (peaks,) fractional index and (peaks,) height, at most 1.
    """
    taps = np.arange(-SINC_DEPTH, SINC_DEPTH + 1)
    around = curves[rows[:, None], columns[:, None] + taps]
    fine = around @ _sinc_table()
    top = np.clip(np.argmax(fine, axis=1), 1, fine.shape[1] - 2)
    index = np.arange(len(top))
    left, middle, right = fine[index, top - 1], fine[index, top], fine[index, top + 1]
    curvature = 2.0 * middle - left - right
    shift = np.where(curvature > 0.0, 0.5 * (right - left) / np.where(curvature > 0.0, curvature, 1.0), 0.0)
    shift = np.clip(shift, -1.0, 1.0)
    height = middle + 0.25 * (right - left) * shift
    position = columns + (top + shift) / UPSAMPLING - 1.0
    return position, np.where(height > 1.0, 1.0 / np.maximum(height, 1.0), height)


def _best_path(lag: np.ndarray, strength: np.ndarray, relative_peak: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Viterbi over (frames, 1 + candidates) states, of which state 0 is unvoiced."""
    used = 1 + int(np.max(np.nonzero(lag)[1], initial=0))
    lag, strength = lag[:, :used], strength[:, :used]
    frames, candidates = lag.shape
    real = lag > 0.0
    octave = np.log2(np.where(real, SAMPLE_RATE_HZ / np.where(real, lag, 1.0), 1.0))
    gain = np.full((frames, candidates + 1), -1e9)
    loudness = relative_peak / (SILENCE_THRESHOLD / (1.0 + VOICING_THRESHOLD))
    gain[:, 0] = VOICING_THRESHOLD + np.maximum(0.0, 2.0 - loudness)
    gain[:, 1:][real] = (strength - OCTAVE_COST * (np.log2(CEILING_HZ) - octave))[real]
    # cost[t, j, i]: from candidate i at frame t to candidate j at frame t + 1.
    cost = np.full((max(frames - 1, 0), candidates + 1, candidates + 1), VOICED_UNVOICED_COST)
    cost[:, 0, 0] = 0.0
    cost[:, 1:, 1:] = OCTAVE_JUMP_COST * np.abs(octave[1:, :, None] - octave[:-1, None, :])
    came_from = np.zeros((frames, candidates + 1), dtype=np.int64)
    total = gain[0]
    for frame in range(1, frames):
        reach = total - cost[frame - 1]
        came_from[frame] = reach.argmax(axis=1)
        total = reach.max(axis=1) + gain[frame]
    state = int(total.argmax())
    path = np.zeros(frames, dtype=np.int64)
    for frame in range(frames - 1, -1, -1):
        path[frame] = state
        state = int(came_from[frame, state])
    index = np.arange(frames)
    voiced = path > 0
    chosen = np.maximum(path - 1, 0)
    f0_hz = np.where(voiced, 2.0 ** octave[index, chosen], 0.0)
    periodicity = np.where(voiced, strength[index, chosen], strength.max(axis=1))
    return f0_hz, np.clip(periodicity, 0.0, 1.0)


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Window, its normalised autocorrelation, (bins, bands) weights of power, (bins, lags) cosines."""
    position = (np.arange(WINDOW_SAMPLES) + 0.5) / WINDOW_SAMPLES
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * position)
    autocorrelation = np.fft.irfft(np.abs(np.fft.rfft(window, 2 * WINDOW_SAMPLES)) ** 2)
    lags = LONGEST_LAG + SINC_DEPTH + 2
    frequency_hz = np.fft.rfftfreq(FFT_SIZE, 1.0 / SAMPLE_RATE_HZ)
    inside = [(frequency_hz >= low) & (frequency_hz < high) for low, high in TILT_BANDS_HZ]
    bands = np.stack(inside, axis=1) * (2.0 / (FFT_SIZE * np.sum(window**2)))
    bins = np.arange(FFT_SIZE // 2 + 1)[:, None]
    # Bins between the first and the last stand for two, themselves and their mirror.
    twice = np.where((bins == 0) | (bins == FFT_SIZE // 2), 1.0, 2.0)
    cosines = twice * np.cos(2.0 * np.pi * bins * np.arange(lags) / FFT_SIZE) / FFT_SIZE
    return (
        window.astype(np.float32),
        (autocorrelation[:lags] / autocorrelation[0]).astype(np.float32),
        bands.astype(np.float32),
        cosines.astype(np.float32),
    )


@functools.cache
def _sinc_table() -> np.ndarray:
    """(taps, positions) weights of a windowed sinc at -1, -1 + 1/8, ..., 1 around the middle tap."""
    taps = np.arange(-SINC_DEPTH, SINC_DEPTH + 1)[:, None]
    positions = np.arange(-UPSAMPLING, UPSAMPLING + 1)[None, :] / UPSAMPLING
    distance = positions - taps
    taper = 0.5 + 0.5 * np.cos(np.pi * distance / (SINC_DEPTH + 2))
    return (np.sinc(distance) * taper).astype(np.float32)
