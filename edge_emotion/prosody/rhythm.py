"""Syllable nuclei and pauses. Nuclei after N. de Jong and T. Wempe (2009): voiced peaks of the energy of the vowels'
band that stand out of the dips beside them."""

from __future__ import annotations

import numpy as np

from edge_emotion.prosody.pitch import BAND_EDGES_HZ
from edge_emotion.speech import FRAME_S, SpeechActivity

NUCLEUS_BAND_HZ = (300.0, 3300.0)
NUCLEUS_PROMINENCE_DB = 1.5
SMOOTHING_FRAMES = 2.0
SHORTEST_PAUSE_S = 0.15


def syllable_nuclei(band_power: np.ndarray, voiced: np.ndarray, speech: np.ndarray) -> np.ndarray:
    """Frames at which a syllable has its nucleus.

    Args:
        band_power: (frames, bands) as in `PitchTrack`.
        voiced: (frames,) bool.
        speech: (frames,) bool.
    """
    low, high = (BAND_EDGES_HZ.index(edge) for edge in NUCLEUS_BAND_HZ)
    power = band_power[:, low:high].sum(axis=1)
    envelope_db = 10.0 * np.log10(np.maximum(power, power.max(initial=0.0) * 1e-6 + 1e-30))
    envelope_db = _smooth(envelope_db, SMOOTHING_FRAMES)
    peaks = prominent_peaks(envelope_db, NUCLEUS_PROMINENCE_DB)
    return peaks[voiced[peaks] & speech[peaks]]


def prominent_peaks(curve: np.ndarray, prominence: float) -> np.ndarray:
    """Indices of the maxima that rise by `prominence` over the dips to both sides; the curve's ends count as dips."""
    inner = np.flatnonzero((curve[1:-1] > curve[:-2]) & (curve[1:-1] >= curve[2:])) + 1
    kept: list[int] = []
    for peak in inner.tolist():
        if kept:
            dip = curve[kept[-1] : peak + 1].min()
            if min(curve[kept[-1]], curve[peak]) - dip < prominence:
                if curve[peak] > curve[kept[-1]]:
                    kept[-1] = peak
                continue
        kept.append(peak)
    return np.array(kept, dtype=np.int64)


def pauses(activity: SpeechActivity) -> tuple[float, int]:
    """Share of silence between the first and the last speech (pauses of at least 150 ms) and number of pauses."""
    segments = activity.segments
    gaps = [start - end for (_, end), (start, _) in zip(segments, segments[1:], strict=False)]
    long_gaps = [gap for gap in gaps if gap >= SHORTEST_PAUSE_S - 0.5 * FRAME_S]
    return sum(long_gaps) / (segments[-1][1] - segments[0][0]), len(long_gaps)


def _smooth(curve: np.ndarray, deviation_frames: float) -> np.ndarray:
    reach = int(np.ceil(3.0 * deviation_frames))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation_frames) ** 2)
    return np.convolve(np.pad(curve, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
