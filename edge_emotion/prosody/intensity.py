"""Intensity contour as Praat's "To Intensity": squared signal under a Kaiser window of 64 ms (32 ms effective)."""

from __future__ import annotations

import functools

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edge_emotion.speech import FRAME_SAMPLES, LEVEL_FLOOR_DB, SAMPLE_RATE_HZ

# Praat's window for a lowest pitch of 100 Hz: 6.4 periods in all, Kaiser-20.
WINDOW_SAMPLES = round(6.4 * SAMPLE_RATE_HZ / 100.0)
KAISER_BETA = np.pi * np.sqrt(5.0) * 2.9
BLOCK_FRAMES = 200


def intensity_db(samples: np.ndarray) -> np.ndarray:
    """(frames,) mean power in dB re full scale around each 10 ms frame, not below -150.

    Args:
        samples: (n,) at 16 kHz, finite, of a peak near 1.
    """
    frames = -(-len(samples) // FRAME_SAMPLES)
    margin = (WINDOW_SAMPLES - FRAME_SAMPLES) // 2
    padded = np.zeros(frames * FRAME_SAMPLES + 2 * margin, dtype=np.float32)
    padded[margin : margin + len(samples)] = samples
    weights = _window()
    # sum w (x - m)^2 = sum w x^2 - m^2, with m = sum w x and sum w = 1.
    mean = sliding_window_view(padded, WINDOW_SAMPLES)[::FRAME_SAMPLES]
    square = sliding_window_view(padded**2, WINDOW_SAMPLES)[::FRAME_SAMPLES]
    power = np.concatenate(
        [
            square[start : start + BLOCK_FRAMES] @ weights - (mean[start : start + BLOCK_FRAMES] @ weights) ** 2
            for start in range(0, frames, BLOCK_FRAMES)
        ]
    )
    return 10.0 * np.log10(np.maximum(power.astype(np.float64), 10.0 ** (LEVEL_FLOOR_DB / 10.0)))


@functools.cache
def _window() -> np.ndarray:
    window = np.kaiser(WINDOW_SAMPLES, KAISER_BETA)
    return (window / window.sum()).astype(np.float32)
