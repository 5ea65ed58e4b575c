"""Which words stand out: the prominence of each word, from its pitch, loudness and length beside those around it.

Needs the times of the words and the measured contour, nothing of the language. The cues are those that listeners of
many languages use (Terken and Hermes 2000); how much each counts was learned from listeners' scores of EmoDB, without
its test speakers (`benchmarks/word_stress.py` fits and tests it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edge_emotion.prosody import Contour
from edge_emotion.prosody.contour_shape import fold_octaves
from edge_emotion.prosody.intonation import FEWEST_FRAMES, usable_frames
from edge_emotion.speech import FRAME_S, LEVEL_FLOOR_DB
from edge_emotion_train.labelling.records import Word

CUE_NAMES = ("pitch peak", "pitch rise", "loudness", "length")
# From `benchmarks/word_stress.py`: of the cues in standard deviations, and from their sum to listeners' scores of 0..1.
WEIGHTS = (0.86, 0.17, 0.80, 0.47)
SLOPE, INTERCEPT = 0.63, -0.92
# Three in four of the words above it have a score of 1.5 or more of 3 from listeners; of all those, three in four are.
STRESSED_ABOVE = 0.4
# Words beside a word, on either side, that it is compared with.
NEIGHBOURS = 7
FEWEST_WORDS = 2
# Words that differ by less are alike: semitones, semitones, share of the mean loudness, log of the length.
LEAST_DEVIATION = np.array([0.5, 0.5, 0.3, 0.1])
# Sound power to loudness, about (Stevens 1957).
LOUDNESS_EXPONENT = 0.3


def word_prominence(contour: Contour, words: Sequence[Word]) -> tuple[Word, ...]:
    """Measure how much each word stands out of those around it.

    Args:
        contour: From `measure_prosody` of the whole recording.
        words: In the order of speech.

    Returns:
        The same words with `prominence` 0..1. None where a word has no times or lies outside the recording, and
        everywhere if fewer than two words can be compared or fewer than 3 frames are voiced.
    """
    placed = [index for index, word in enumerate(words) if frames_of(contour, word) is not None]
    plain = [replace(word, prominence=None) for word in words]
    if len(placed) < FEWEST_WORDS or np.isfinite(contour.f0_hz).sum() < FEWEST_FRAMES:
        return tuple(plain)
    score = relative_cues(word_cues(contour, [words[index] for index in placed])) @ np.array(WEIGHTS)
    prominence = 1.0 / (1.0 + np.exp(-(SLOPE * score + INTERCEPT)))
    for index, value in zip(placed, prominence, strict=True):
        plain[index] = replace(words[index], prominence=round(float(value), 4))
    return tuple(plain)


def stressed_words(words: Sequence[Word]) -> tuple[Word, ...]:
    """The words of which listeners would say that they are stressed, in the order of speech; may be none."""
    return tuple(word for word in words if word.prominence is not None and word.prominence > STRESSED_ABOVE)


def word_cues(contour: Contour, words: Sequence[Word]) -> np.ndarray:
    """(words, 4) the cues of `CUE_NAMES` for words that lie within the contour.

    Pitch in semitones re the recording's median: the highest in the word, and how far it is above the word's first.
    Loudness times duration, in seconds of the loudness of full scale; natural logarithm of the duration in seconds. A
    word without voice has the pitch below which a quarter of the words lie.
    """
    voiced = np.isfinite(contour.f0_hz)
    folded_hz = fold_octaves(contour.f0_hz, voiced)
    voiced = usable_frames(folded_hz, voiced)
    semitones = np.full(len(voiced), np.nan)
    semitones[voiced] = 12.0 * np.log2(folded_hz[voiced] / np.median(folded_hz[voiced]))
    spoken = contour.intensity_db > LEVEL_FLOOR_DB
    loudness = np.where(spoken, 10.0 ** (LOUDNESS_EXPONENT * contour.intensity_db / 10.0), 0.0)
    cues = np.array(
        [_cues_of(semitones[part], loudness[part]) for part in map(_certain, [contour] * len(words), words)]
    )
    for column in (0, 1):
        missing = np.isnan(cues[:, column])
        cues[missing, column] = np.percentile(cues[~missing, column], 25) if (~missing).any() else 0.0
    return cues


def relative_cues(cues: np.ndarray) -> np.ndarray:
    """(words, 4) `word_cues` in standard deviations from the mean of the words around each, itself among them."""
    relative = np.empty_like(cues)
    for index in range(len(cues)):
        around = cues[max(0, index - NEIGHBOURS) : index + NEIGHBOURS + 1]
        unit = np.array([1.0, 1.0, max(float(around[:, 2].mean()), 1e-12), 1.0])
        deviation = np.hypot(around.std(axis=0), LEAST_DEVIATION * unit)
        relative[index] = (cues[index] - around.mean(axis=0)) / deviation
    return relative


def frames_of(contour: Contour, word: Word) -> slice | None:
    """The frames of a word; None where it has no times or lies outside the contour."""
    if word.start_s is None or word.end_s is None or not word.start_s < word.end_s:
        return None
    first, last = round(word.start_s / FRAME_S), round(word.end_s / FRAME_S)
    last = min(max(last, first + 1), len(contour.f0_hz))
    return slice(first, last) if 0 <= first < last else None


def _cues_of(semitones: np.ndarray, loudness: np.ndarray) -> tuple[float, float, float, float]:
    heard = semitones[np.isfinite(semitones)]
    peak = rise = np.nan
    if len(heard) >= FEWEST_FRAMES:
        peak = float(np.percentile(heard, 95))
        rise = max(0.0, peak - float(heard[0]))
    return peak, rise, float(loudness.sum()) * FRAME_S, float(np.log(len(loudness) * FRAME_S))


def _certain(contour: Contour, word: Word) -> slice:
    frames = frames_of(contour, word)
    if frames is None:
        raise ValueError(f"{word} does not lie within a recording of {len(contour.f0_hz) * FRAME_S:.2f} s")
    return frames
