"""How the pitch of an utterance lies and moves, in semitones: level, range and slope."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from edge_emotion.speech import FRAME_S

# Of each voice, pitch below 0.75 times its lower quartile or above twice its upper one is taken for an error of octave
# or for creak, and left out (after Hirst and De Looze 2021, whose top is 1.5 for calm and 2.5 for lively speech).
LOWEST_OF_LOWER_QUARTILE = 0.75
HIGHEST_OF_UPPER_QUARTILE = 2.0
FEWEST_FRAMES = 3
SLOPE_POINTS = 200


@dataclass(frozen=True)
class Intonation:
    """Statistics of the voiced frames of an utterance.

    Attributes:
        median_hz: Median F0.
        p5_hz: 5th percentile of F0.
        p95_hz: 95th percentile of F0.
        range_st: From the 5th to the 95th percentile, in semitones.
        std_st: Standard deviation in semitones.
        slope_st_per_s: Robust slope over the whole utterance.
        voiced_s: Voiced time that this rests on.
        span_s: Time from the first to the last voiced frame.
    """

    median_hz: float
    p5_hz: float
    p95_hz: float
    range_st: float
    std_st: float
    slope_st_per_s: float
    voiced_s: float
    span_s: float


def describe_intonation(f0_hz: np.ndarray, voiced: np.ndarray) -> Intonation | None:
    """Describe the pitch of an utterance.

    Args:
        f0_hz: (frames,) pitch of each 10 ms frame.
        voiced: (frames,) bool, frames that count; elsewhere `f0_hz` means nothing.

    Returns:
        None if fewer than 3 frames count.
    """
    if voiced.sum() < FEWEST_FRAMES:
        return None
    median = np.median(f0_hz[voiced])
    kept = usable_frames(f0_hz, voiced)
    p5, p95 = np.percentile(f0_hz[kept], (5, 95))
    time_s = np.flatnonzero(kept) * FRAME_S
    semitones = 12.0 * np.log2(f0_hz[kept] / median)
    return Intonation(
        median_hz=float(median),
        p5_hz=float(p5),
        p95_hz=float(p95),
        range_st=float(12.0 * np.log2(p95 / p5)),
        std_st=float(semitones.std()),
        slope_st_per_s=_robust_slope(time_s, semitones),
        voiced_s=len(time_s) * FRAME_S,
        span_s=float(time_s[-1] - time_s[0]),
    )


def usable_frames(f0_hz: np.ndarray, voiced: np.ndarray) -> np.ndarray:
    """(frames,) the voiced frames whose pitch is taken for the voice's own; all of them where too few would be left."""
    lower, upper = np.percentile(f0_hz[voiced], (25, 75))
    kept = voiced & (f0_hz >= LOWEST_OF_LOWER_QUARTILE * lower) & (f0_hz <= HIGHEST_OF_UPPER_QUARTILE * upper)
    return kept if kept.sum() >= FEWEST_FRAMES else voiced


def _robust_slope(time_s: np.ndarray, semitones: np.ndarray) -> float:
    """Theil-Sen: the median slope over all pairs of (at most 200) points, so errors of octave do not tip it."""
    points = np.linspace(0, len(time_s) - 1, min(len(time_s), SLOPE_POINTS)).round().astype(int)
    time_s, semitones = time_s[points], semitones[points]
    later, earlier = _pairs(len(points))
    return float(np.median((semitones[later] - semitones[earlier]) / (time_s[later] - time_s[earlier])))


@functools.lru_cache(maxsize=8)
def _pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Both indices of every pair of `count` points, the later one first."""
    return np.tril_indices(count, -1)
