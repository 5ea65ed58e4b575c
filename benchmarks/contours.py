"""Melodies of known shape, pure and laid upon real speech, and how many of them a rule tells; for prosody_levels.py.

The rival is the rule of the reference pipeline (EmotionCoT's `prosody_features.py`, as its documentation gives it):
quarters and a parabola on the smoothed contour.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import common
import numpy as np
import parselmouth
from parselmouth.praat import call, run
from scipy.signal import medfilt, savgol_filter

from edge_emotion.audio import SAMPLE_RATE_HZ
from edge_emotion.prosody import Contour, measure_prosody
from edge_emotion.prosody.contour_shape import describe_shape
from edge_emotion.speech import FRAME_S
from edge_emotion_train.augment import track_pitch

Rule = Callable[[Contour], str | None]
SIZES_ST = (4.0, 6.0, 9.0)
BENDS = (0.35, 0.5, 0.65)
VOICES_HZ = (95.0, 150.0, 230.0)
# Parts of a pure melody, as shares of its time, that are not voiced: none, like consonants, and a pause.
GAPS: dict[str, tuple[tuple[float, float], ...]] = {
    "unbroken": (),
    "unvoiced gaps": tuple((start, start + 0.05) for start in np.arange(0.08, 0.95, 0.14)),
    "a pause": ((0.4, 0.62),),
}
DURATION_S = 1.6


class Melody(NamedTuple):
    """A melody in semitones over position 0..1, and the shape it has."""

    shape: str
    size_st: float
    semitones: Callable[[np.ndarray], np.ndarray]


def melodies() -> Iterator[Melody]:
    """Straight lines up and down, arches and dips with early, middle and late bends, level lines and waves."""
    for size in SIZES_ST:
        yield Melody("rising", size, lambda x, s=size: s * (x - 0.5))
        yield Melody("falling", size, lambda x, s=size: -s * (x - 0.5))
        for bend in BENDS:
            yield Melody(
                "rising-falling", size, lambda x, s=size, b=bend: s * np.interp(x, (0, b, 1), (-1.0, 0.0, -1.0))
            )
            yield Melody(
                "falling-rising", size, lambda x, s=size, b=bend: s * np.interp(x, (0, b, 1), (0.0, -1.0, 0.0))
            )
    for size in (0.0, 1.0):
        yield Melody("flat", size, lambda x, s=size: s * (x - 0.5))
    for size, waves in itertools.product((9.0, 12.0), (4.0, 5.0)):
        yield Melody("expressive", size, lambda x, s=size, w=waves: 0.5 * s * np.cos(2.0 * np.pi * w * x))


# --- pure ------------------------------------------------------------------------------------------------------------


def pure(melody: Melody, f0_hz: float, gaps: Sequence[tuple[float, float]]) -> np.ndarray:
    """A harmonic voice that does nothing but this melody."""
    position = np.linspace(0.0, 1.0, round(DURATION_S * SAMPLE_RATE_HZ))
    frequency = f0_hz * 2.0 ** (melody.semitones(position) / 12.0)
    phase = 2.0 * np.pi * np.cumsum(frequency) / SAMPLE_RATE_HZ
    tone = sum(
        10.0 ** (-9.0 * np.log2(number) / 20.0) * np.sin(number * phase + 0.7 * number**2) for number in range(1, 9)
    )
    samples = 0.3 * np.asarray(tone) / np.abs(tone).max()
    for start, stop in gaps:
        samples[(position >= start) & (position < stop)] = 0.0
    return samples.astype(np.float32)


def tell_pure(rules: Mapping[str, Rule]) -> dict[str, Any]:
    """Share of pure melodies that each rule tells, and what it took the others for."""
    told: dict[str, Any] = {}
    for gap_name, gaps in GAPS.items():
        pairs = [
            (melody, measure_prosody(pure(melody, f0_hz, gaps)).contour)
            for melody, f0_hz in itertools.product(melodies(), VOICES_HZ)
        ]
        told[gap_name] = tell(pairs, rules)
    return told


def with_octave_errors(contour: Contour, seed: int, share: float = 0.1) -> Contour:
    """The contour with stretches of 30 to 120 ms, a tenth of the voice in all, an octave too high or too low."""
    rng, f0_hz = np.random.default_rng(seed), contour.f0_hz.copy()
    voiced, spoilt = np.flatnonzero(np.isfinite(f0_hz)), 0
    while spoilt < share * len(voiced):
        start, length = rng.integers(len(voiced)), rng.integers(3, 13)
        f0_hz[voiced[start : start + length]] *= rng.choice((0.5, 2.0))
        spoilt += int(length)
    return Contour(contour.times_s, f0_hz, contour.intensity_db)


# --- laid upon real speech -------------------------------------------------------------------------------------------


def impose(samples: np.ndarray, melody: Melody, accents: float) -> np.ndarray | None:
    """Replace the melody of a recording by PSOLA, keeping `accents` (0..1) of its own beside the new one.

    None where there is too little voice for a melody.
    """
    sound = parselmouth.Sound(samples.astype(np.float64), SAMPLE_RATE_HZ)
    pitch = track_pitch(sound)
    times, f0_hz = pitch.xs(), pitch.selected_array["frequency"]
    voiced = np.flatnonzero(f0_hz > 0)
    if len(voiced) < 50:
        return None
    run("random_initializeWithSeedUnsafelyButPredictably (1)")
    manipulation = call([sound, pitch], "To Manipulation")
    tier = call("Create PitchTier", "melody", 0.0, sound.duration)
    median_hz = float(np.median(f0_hz[voiced]))
    own = 12.0 * np.log2(f0_hz[voiced] / median_hz)
    position = (voiced - voiced[0]) / (voiced[-1] - voiced[0])
    # Its own line is taken out, so that the shape asked is the shape that is there.
    own -= np.polyval(np.polyfit(position, own, 2), position)
    target = median_hz * 2.0 ** ((melody.semitones(position) + accents * own) / 12.0)
    for time_s, value_hz in zip(times[voiced], np.clip(target, 70.0, 500.0), strict=True):
        call(tier, "Add point", float(time_s), float(value_hz))
    call([manipulation, tier], "Replace pitch tier")
    return call(manipulation, "Get resynthesis (overlap-add)").values[0].astype(np.float32)


def imposed(recordings: Sequence[np.ndarray], accents: float) -> list[tuple[Melody, Contour]]:
    """Every recording with every fourth melody in turn; with accents, only melodies that go somewhere.

    Where a voice keeps its accents it is no longer flat, and no longer does what a wave does.
    """
    pairs: list[tuple[Melody, Contour]] = []
    every = [melody for melody in melodies() if accents == 0.0 or melody.shape not in ("flat", "expressive")]
    for number, samples in enumerate(common.with_progress(recordings, f"melodies on speech, accents {accents:g}")):
        for melody in every[number % 4 :: 4]:
            edited = impose(samples, melody, accents)
            if edited is not None:
                pairs.append((melody, measure_prosody(edited).contour))
    return pairs


def tell(pairs: Sequence[tuple[Melody, Contour]], rules: Mapping[str, Rule]) -> dict[str, Any]:
    """What each rule tells of the melodies."""
    return {name: summary([(melody, rule(contour)) for melody, contour in pairs]) for name, rule in rules.items()}


def report(recordings: Sequence[np.ndarray]) -> dict[str, Any]:
    """Pure melodies; melodies on real speech, with and without its accents, with and without errors of octave."""
    rules: dict[str, Rule] = {"ours": our_rule, "reference": reference_rule}
    document: dict[str, Any] = {f"pure, {name}": told for name, told in tell_pure(rules).items()}
    for accents in (0.0, 0.5, 1.0):
        pairs = imposed(recordings, accents)
        spoilt = [(melody, with_octave_errors(contour, seed)) for seed, (melody, contour) in enumerate(pairs)]
        document[f"on speech, accents times {accents:g}"] = tell(pairs, rules)
        document[f"on speech, accents times {accents:g}, octave errors in 10 %"] = tell(spoilt, rules)
    return document


def summary(pairs: Sequence[tuple[Melody, str | None]]) -> dict[str, Any]:
    """Share told rightly, share of those of which a shape was told at all, and the commonest errors."""
    right = sum(melody.shape == shape for melody, shape in pairs)
    told = sum(shape is not None for _, shape in pairs)
    wrong: dict[str, int] = {}
    for melody, shape in pairs:
        if melody.shape != shape:
            key = f"{melody.shape} of {melody.size_st:g} st as {shape}"
            wrong[key] = wrong.get(key, 0) + 1
    common_errors = dict(sorted(wrong.items(), key=lambda item: -item[1])[:6])
    return {
        "melodies": len(pairs),
        "right": round(right / len(pairs), 4),
        "right_of_those_told": round(right / max(told, 1), 4),
        "errors": common_errors,
    }


# --- rules -----------------------------------------------------------------------------------------------------------


def our_rule(contour: Contour) -> str | None:
    """The shape that the product tells."""
    return describe_shape(contour).shape


def reference_rule(contour: Contour) -> str | None:
    """The reference pipeline's rule on our pitch track."""
    voiced = np.isfinite(contour.f0_hz)
    if voiced.sum() * FRAME_S < 0.5:
        return None
    time_s = contour.times_s[voiced]
    semitones = 12.0 * np.log2(contour.f0_hz[voiced] / np.median(contour.f0_hz[voiced]))
    semitones = np.asarray(savgol_filter(medfilt(semitones, 5), 9, 2), dtype=float)
    position = (time_s - time_s[0]) / (time_s[-1] - time_s[0])
    change = float(np.median(semitones[position >= 0.75]) - np.median(semitones[position <= 0.25]))
    parabola, line = np.polyfit(position, semitones, 2), np.polyfit(position, semitones, 1)
    vertex = float(-0.5 * parabola[1] / parabola[0]) if parabola[0] else 0.0
    depth = abs(float(parabola[0])) * min(vertex, 1.0 - vertex) ** 2
    left = [np.var(semitones - np.polyval(curve, position)) for curve in (line, parabola)]
    gain = (left[0] - left[1]) / max(float(np.var(semitones)), 1e-12)
    pauses = int((np.diff(time_s) > 0.3).sum())
    trust = min(1.0, len(time_s) * FRAME_S) * 0.7**pauses
    if 0.25 <= vertex <= 0.75 and depth >= 2.0 and gain >= 0.05:
        shape, margin = ("falling-rising" if parabola[0] > 0 else "rising-falling"), depth / 2.0 - 1.0
    elif abs(change) >= 2.0:
        shape, margin = ("rising" if change > 0 else "falling"), abs(change) / 2.0 - 1.0
    else:
        low, high = np.percentile(12.0 * np.log2(contour.f0_hz[voiced]), (5, 95))
        shape, margin = ("expressive" if high - low > 9.0 else "flat"), 1.0 - abs(change) / 2.0
    return shape if min(1.0, max(0.0, margin)) * trust >= 0.15 else None
