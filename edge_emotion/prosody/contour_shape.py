"""The shape of an utterance's melody: which way it goes as a whole, or that it goes nowhere, and how sure that is.

A line with one bend is fitted to the voiced frames at their real times, so a pause is a gap and no valley. Stretches
that leap by an octave are folded back first, and what still lies far off counts less (Huber 1964). What the melody does
beside that line, its accents, says how uncertain the line is: the confidence is the share of equally likely lines that
have the same shape.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from edge_emotion.cues import LEAST_TURN_ST
from edge_emotion.prosody.intonation import FEWEST_FRAMES, usable_frames
from edge_emotion.prosody.records import Contour
from edge_emotion.speech import FRAME_S, LEVEL_FLOOR_DB

SHAPES = ("rising", "falling", "rising-falling", "falling-rising", "flat", "expressive")
# About the least that listeners call a rise or a fall of a whole utterance.
LEAST_CHANGE_ST = 2.0
# Of melodies that go nowhere: with a wider range than this they are expressive, else flat.
EXPRESSIVE_RANGE_ST = 6.0
RANGE_UNCERTAINTY_ST = 0.75
# A melody of which the line explains less than this swings about it rather than follow it.
LEAST_EXPLAINED = 0.25
EXPLAINED_UNCERTAINTY = 0.04
SHORTEST_SPEECH_S = 0.15
SHORTEST_SPAN_S = 0.3
LEAST_VOICED_S = 0.25
LEAST_CONFIDENCE = 0.5

LONGEST_GAP_S = 0.3
BENDS = np.linspace(0.2, 0.8, 13)
MOST_POINTS = 120
HUBER_ST = 3.0
HUBER_ROUNDS = 4
# Neighbouring frames are no independent evidence: each stretch of the melody on one side of the line counts once, and
# no stretch shorter than about half an accent does.
SHORTEST_WAVE_S = 0.12
SAMPLED_LINES = 512
# A stretch of voice is an octave off when folding it back brings it this near to its neighbours.
OCTAVE_ST = 12.0
LEAP_ST = 6.0
OCTAVE_TOLERANCE_ST = 4.0
NEIGHBOURHOOD_S = 0.3


@dataclass(frozen=True)
class ContourShape:
    """How the melody moves.

    Attributes:
        shape: One of `SHAPES`; None where it cannot be told.
        confidence: 0..1.
        reason: Why there is no shape: "too short", "insufficient voiced" or "uncertain"; None where there is one.
    """

    shape: str | None
    confidence: float
    reason: str | None = None


@dataclass(frozen=True)
class MelodyLine:
    """A line with one bend through the melody of an utterance.

    Attributes:
        values_st: (3,) its values at the start, the bend and the end, semitones re the utterance's median F0.
        bend_position: Where it bends, 0.2 to 0.8 of the time from the first to the last voiced frame.
        covariance: (3, 3) of the three values, from what the melody does beside the line.
        explained: Share of the melody's variance that the line explains, 0..1.
        range_st: From the 5th to the 95th percentile of the pitch itself, in semitones.
        voiced_s: Voiced time that this rests on.
        span_s: Time from the first to the last voiced frame.
    """

    values_st: np.ndarray
    bend_position: float
    covariance: np.ndarray
    explained: float
    range_st: float
    voiced_s: float
    span_s: float

    @property
    def change_st(self) -> float:
        """From the start to the end, in semitones."""
        return float(self.values_st[2] - self.values_st[0])

    @property
    def turn_st(self) -> float:
        """Depth of the turn: how far the bend lies above (> 0) or below (< 0) both ends; 0 where it lies between."""
        return float(_turn_st(self.values_st[None])[0])


def describe_shape(contour: Contour) -> ContourShape:
    """Tell the shape of the melody.

    Args:
        contour: From `measure_prosody`; F0 is NaN where there is no voice.
    """
    voiced = np.isfinite(contour.f0_hz)
    spoken_s = np.count_nonzero(contour.intensity_db > LEVEL_FLOOR_DB) * FRAME_S
    if spoken_s < SHORTEST_SPEECH_S:
        return ContourShape(None, 0.0, "too short")
    line = fit_melody(contour.f0_hz, voiced)
    if line is None or line.voiced_s < LEAST_VOICED_S or line.span_s < SHORTEST_SPAN_S:
        return ContourShape(None, 0.0, "insufficient voiced")
    shape, confidence = _most_likely(line)
    if confidence < LEAST_CONFIDENCE:
        return ContourShape(None, confidence, "uncertain")
    return ContourShape(shape, confidence)


def fit_melody(f0_hz: np.ndarray, voiced: np.ndarray) -> MelodyLine | None:
    """Fit a line with one bend to the melody.

    Args:
        f0_hz: (frames,) pitch of each 10 ms frame.
        voiced: (frames,) bool, frames that count; elsewhere `f0_hz` means nothing.

    Returns:
        None if fewer than 3 frames count.
    """
    if voiced.sum() < FEWEST_FRAMES:
        return None
    folded_hz = fold_octaves(f0_hz, voiced)
    kept = np.flatnonzero(usable_frames(folded_hz, voiced))
    semitones = 12.0 * np.log2(folded_hz[kept] / np.median(folded_hz[kept]))
    low, high = np.percentile(semitones, (5, 95))
    voiced_s = len(kept) * FRAME_S
    # In a longer gap nobody speaks: it must not weigh as if the melody had rested there.
    steps_s = np.minimum(np.diff(kept) * FRAME_S, LONGEST_GAP_S)
    time_s = np.concatenate([[0.0], np.cumsum(steps_s)])
    points = np.linspace(0, len(kept) - 1, min(len(kept), MOST_POINTS)).round().astype(int)
    position = time_s[points] / max(time_s[-1], FRAME_S)
    most_waves = max(1.0, voiced_s / SHORTEST_WAVE_S)
    values, bend, covariance, explained = _fit_bent_line(position, semitones[points], most_waves)
    return MelodyLine(values, bend, covariance, explained, float(high - low), voiced_s, float(time_s[-1]))


def _fit_bent_line(
    position: np.ndarray, semitones: np.ndarray, most_waves: float
) -> tuple[np.ndarray, float, np.ndarray, float]:
    """Values at start, bend and end; the bend; their covariance; share explained. All bends are tried at once."""
    bends = BENDS[:, None]
    before = np.clip(position / bends, 0.0, 1.0)
    after = np.clip((position - bends) / (1.0 - bends), 0.0, 1.0)
    # (bends, 3, points): how much each point takes from the values at the start, the bend and the end.
    basis = np.stack([1.0 - before, before - after, after], axis=1)
    products = (basis[:, :, None] * basis[:, None]).reshape(len(BENDS), 9, -1)
    weights = np.ones((len(BENDS), len(position), 1))
    # Ends without points are held by the mean, weakly.
    ridge = 1e-3 * np.eye(3)
    for _ in range(HUBER_ROUNDS):
        gram = (products @ weights).reshape(-1, 3, 3) + ridge
        values = np.linalg.solve(gram, basis @ (weights * semitones[:, None]))
        beside = semitones - (values.swapaxes(1, 2) @ basis)[:, 0]
        distance = np.abs(beside)
        weights = np.minimum(1.0, HUBER_ST / np.maximum(distance, 1e-9))[..., None]
    weights = weights[..., 0]
    loss = (weights * distance**2).sum(axis=1) / weights.sum(axis=1)
    best = int(loss.argmin())
    waves = min(most_waves, 1.0 + np.count_nonzero(np.diff(beside[best] > 0.0)))
    variance = loss[best] * len(position) / waves
    around = semitones - np.average(semitones, weights=weights[best])
    total = float(np.average(around**2, weights=weights[best]))
    explained = max(0.0, 1.0 - float(loss[best]) / total) if total > 0.0 else 0.0
    return values[best, :, 0], float(BENDS[best]), np.linalg.inv(gram[best]) * variance, explained


def _most_likely(line: MelodyLine) -> tuple[str, float]:
    """The shape that most of the equally likely lines have, and their share."""
    spread = np.linalg.cholesky(line.covariance + 1e-9 * np.eye(3))
    values = line.values_st + _normal_draws()[:, :3] @ spread.T
    range_st = line.range_st + RANGE_UNCERTAINTY_ST * _normal_draws()[:, 3]
    turn, change = _turn_st(values), values[:, 2] - values[:, 0]
    still = np.where(range_st > EXPRESSIVE_RANGE_ST, 5, 4)
    way = np.where(change >= LEAST_CHANGE_ST, 0, np.where(change <= -LEAST_CHANGE_ST, 1, still))
    shape = np.where(turn >= LEAST_TURN_ST, 2, np.where(turn <= -LEAST_TURN_ST, 3, way))
    explained = line.explained + EXPLAINED_UNCERTAINTY * _normal_draws()[:, 4]
    shape = np.where((explained < LEAST_EXPLAINED) & (still == 5), 5, shape)
    share = np.bincount(shape, minlength=len(SHAPES)) / SAMPLED_LINES
    return SHAPES[int(share.argmax())], float(share.max())


def _turn_st(values_st: np.ndarray) -> np.ndarray:
    """(lines,) signed depth of the turn of (lines, 3) values."""
    start, bend, end = values_st[:, 0], values_st[:, 1], values_st[:, 2]
    return np.maximum(bend - np.maximum(start, end), 0.0) + np.minimum(bend - np.minimum(start, end), 0.0)


@functools.cache
def _normal_draws() -> np.ndarray:
    """(lines, 5) always the same: a clip's confidence must not depend on what was measured before it."""
    return np.random.default_rng(0).standard_normal((SAMPLED_LINES, 5))


def fold_octaves(f0_hz: np.ndarray, voiced: np.ndarray) -> np.ndarray:
    """Pitch with stretches that leap an octave off their neighbours folded back, the shortest first.

    Only a leap within the voice is an error: across an unvoiced gap a melody may really move that far.
    """
    frames = np.flatnonzero(voiced)
    semitones = 12.0 * np.log2(f0_hz[frames])
    gaps = np.diff(frames) > 1
    leaps = ~gaps & (np.abs(np.diff(semitones)) > LEAP_ST)
    edges = np.flatnonzero(gaps | leaps) + 1
    starts, stops = np.concatenate([[0], edges]), np.concatenate([edges, [len(frames)]])
    leapt = np.concatenate([[False], leaps[edges - 1], [False]])
    suspect = np.flatnonzero(leapt[:-1] | leapt[1:])
    reach = round(NEIGHBOURHOOD_S / FRAME_S)
    lows = np.searchsorted(frames, frames[starts] - reach)
    highs = np.searchsorted(frames, frames[stops - 1] + reach, side="right")
    for index in suspect[np.argsort((stops - starts)[suspect], kind="stable")]:
        start, stop = starts[index], stops[index]
        near = np.concatenate([semitones[lows[index] : start], semitones[stop : highs[index]]])
        if len(near) < max(FEWEST_FRAMES, stop - start):
            continue
        stretch = semitones[start:stop]
        # An octave off is half an octave off on average, even beside as many others that are: the mean is cheap.
        if abs(stretch.mean() - near.mean()) < 0.5 * (OCTAVE_ST - OCTAVE_TOLERANCE_ST):
            continue
        offset = np.median(stretch) - np.median(near)
        if abs(abs(offset) - OCTAVE_ST) < OCTAVE_TOLERANCE_ST:
            stretch -= np.sign(offset) * OCTAVE_ST
    folded = f0_hz.copy()
    folded[frames] = 2.0 ** (semitones / 12.0)
    return folded
