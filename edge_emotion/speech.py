"""Where somebody speaks: frame energy relative to the loud frames of the same recording.

A microphone's gain is unknown and files are cut at will, so every threshold is relative to the recording's own loud
frames, and digital silence before and after it changes no decision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

SAMPLE_RATE_HZ = 16000
FRAME_SAMPLES = 160
FRAME_S = FRAME_SAMPLES / SAMPLE_RATE_HZ
WINDOW_SAMPLES = 400
LEVEL_FLOOR_DB = -150.0

# Loudness of the recording: mean power of its loudest 0.3 s, which a few syllables already fill.
LOUD_FRAMES = 30
SPEECH_BELOW_LOUD_DB = 35.0
# Speech stands at least this far above the noise floor, but a threshold is never closer to the loud frames than
# NOISE_GUARD_LIMIT_DB: in a recording without pauses the "floor" is speech itself.
SPEECH_ABOVE_NOISE_DB = 6.0
NOISE_GUARD_LIMIT_DB = 15.0
# Quieter than this is no noise of a room but silence that was added, or what a resampler left in it.
SILENCE_BELOW_LOUD_DB = 60.0
QUIET_FRAMES = 10
BRIDGED_GAP_FRAMES = 6
SHORTEST_RUN_FRAMES = 5


@dataclass(frozen=True)
class SpeechActivity:
    """Speech or not, for each 10 ms of a recording.

    Attributes:
        frame_s: Length of a frame in seconds; frame i covers `[i, i + 1) * frame_s`.
        speech: (frames,) bool.
        level_db: (frames,) power of the 25 ms around each frame in dB re full scale, not below -150.
        segments: Stretches of speech as (start, end) in seconds.
    """

    frame_s: float
    speech: np.ndarray
    level_db: np.ndarray
    segments: tuple[tuple[float, float], ...]


def find_speech(samples: np.ndarray) -> SpeechActivity:
    """Find the stretches of speech in a recording.

    Args:
        samples: (n,) float32 at 16 kHz; finite.

    Returns:
        Decisions for `ceil(n / 160)` frames. Digital silence, or no samples at all, gives no segments.
    """
    frames = -(-len(samples) // FRAME_SAMPLES)
    speech = np.zeros(frames, dtype=bool)
    level_db = np.full(frames, LEVEL_FLOOR_DB)
    first, last = sounding_frames(samples)
    if first == last:
        return SpeechActivity(FRAME_S, speech, level_db, ())
    core = np.trim_zeros(samples[first * FRAME_SAMPLES : last * FRAME_SAMPLES].astype(np.float64), "b")
    # A constant offset of a cheap converter is no sound.
    core_db = frame_levels(core - core.mean())
    level_db[first:last] = core_db
    speech[first:last] = _clean_runs(core_db > _threshold_db(core_db))
    segments = tuple((first_ * FRAME_S, last_ * FRAME_S) for first_, last_ in runs_of(speech))
    return SpeechActivity(FRAME_S, speech, level_db, segments)


def sounding_frames(samples: np.ndarray) -> tuple[int, int]:
    """First frame that holds a non-zero sample and the frame after the last one; equal when all is digital silence."""
    sounding = np.flatnonzero(samples)
    if len(sounding) == 0:
        return 0, 0
    return int(sounding[0]) // FRAME_SAMPLES, int(sounding[-1]) // FRAME_SAMPLES + 1


def frame_levels(samples: np.ndarray) -> np.ndarray:
    """(frames,) mean power in dB of the 25 ms window centred on each 10 ms frame; zeros beyond the edges."""
    frames = -(-len(samples) // FRAME_SAMPLES)
    margin = (WINDOW_SAMPLES - FRAME_SAMPLES) // 2
    padded = np.zeros(frames * FRAME_SAMPLES + 2 * margin)
    padded[margin : margin + len(samples)] = samples
    windows = sliding_window_view(padded, WINDOW_SAMPLES)[::FRAME_SAMPLES]
    power = np.einsum("ij,ij->i", windows, windows) / WINDOW_SAMPLES
    return 10.0 * np.log10(np.maximum(power, 10.0 ** (LEVEL_FLOOR_DB / 10.0)))


def loud_level_db(level_db: np.ndarray) -> float:
    """Mean power in dB of the loudest 0.3 s (of all frames, if there are fewer)."""
    loudest = np.sort(level_db)[-LOUD_FRAMES:]
    return float(10.0 * np.log10(np.mean(10.0 ** (loudest / 10.0))))


def noise_floor_db(level_db: np.ndarray) -> float:
    """Mean level of the quietest 0.1 s that is not silence (a share of all frames would depend on padding)."""
    heard = level_db[level_db > loud_level_db(level_db) - SILENCE_BELOW_LOUD_DB]
    return float(np.sort(heard)[:QUIET_FRAMES].mean())


def runs_of(mask: np.ndarray) -> list[tuple[int, int]]:
    """(start, end) indices of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0]))))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _threshold_db(level_db: np.ndarray) -> float:
    loud_db = loud_level_db(level_db)
    above_noise_db = noise_floor_db(level_db) + SPEECH_ABOVE_NOISE_DB
    return min(max(loud_db - SPEECH_BELOW_LOUD_DB, above_noise_db), loud_db - NOISE_GUARD_LIMIT_DB)


def _clean_runs(speech: np.ndarray) -> np.ndarray:
    cleaned = speech.copy()
    for start, end in runs_of(~speech):
        if start > 0 and end < len(speech) and end - start < BRIDGED_GAP_FRAMES:
            cleaned[start:end] = True
    for start, end in runs_of(cleaned):
        if end - start < SHORTEST_RUN_FRAMES:
            cleaned[start:end] = False
    return cleaned
