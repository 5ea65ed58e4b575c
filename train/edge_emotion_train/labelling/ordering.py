"""The ordering task: one sentence three times, edited in pitch, energy or rate; in which order were they heard?

The three variants are joined in one recording with silence between. As three recordings the energy task could not be
learned, because every front end (ours too) brings each recording to one level; and the paper joined them as well. All
three are edited, the middle one too, so that traces of the edit tell nothing. What the edits did is measured back from
the bytes that are stored, by our own measures, which share no code with Praat, which makes the edits; a triple that was
not reached, or in which something else moved, is not used.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile

from edge_emotion.audio import SAMPLE_RATE_HZ, load_audio
from edge_emotion.claims import MIN_RELIABILITY
from edge_emotion.prosody import measure_prosody
from edge_emotion.speech import find_speech
from edge_emotion_train.augment import ProsodyEdit, Samples, apply_gain, clip_seed, edit_prosody, limit_peak

PLACES: Mapping[str, tuple[str, str, str]] = {
    "pitch": ("low", "medium", "high"),
    "energy": ("low", "medium", "high"),
    "speed": ("slow", "medium", "fast"),
}
QUALITIES: Mapping[str, str] = {"pitch": "pitch", "energy": "energy", "speed": "speaking rate"}
ORDER_QUESTION = (
    "The recording holds one sentence three times. Put the {quality} of the three in the order in which you hear them, "
    "using {places}."
)
UNITS: Mapping[str, str] = {"pitch": "st", "energy": "dB", "speed": "factor"}
# The paper gives no factors. These steps are audible (>= 3 st, >= 20 %, >= 4 dB) and leave PSOLA few artefacts.
STEP: Mapping[str, tuple[float, float]] = {"pitch": (3.0, 4.0), "energy": (4.0, 7.0), "speed": (1.22, 1.35)}
BASE: Mapping[str, tuple[float, float]] = {"pitch": (-1.0, 1.0), "energy": (-2.0, 2.0), "speed": (0.93, 1.07)}
# How far the edit may be from what was asked, and anything else from where it was.
TOLERANCE: Mapping[str, float] = {"pitch": 0.5, "energy": 0.5, "speed": 0.05}
DRIFT: Mapping[str, float] = {"pitch": 0.5, "energy": 1.0, "speed": 0.05}
SILENCE_S = 0.5
MARGIN_S = 0.1
LONGEST_S = 29.0
ATTEMPTS = 3


@dataclass(frozen=True)
class Variant:
    """One of the three.

    Attributes:
        place: `low`, `medium`, `high` (`slow`, `fast`).
        asked: Change against the source recording: semitones, decibels, or times as fast.
        measured: The same, measured in the stored recording.
        start_s: Where it begins in the recording.
        end_s: Where it ends.
    """

    place: str
    asked: float
    measured: float
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Triple:
    """Three variants in one recording: the bytes of a FLAC file, and the variants in the order heard."""

    attribute: str
    flac: bytes
    variants: tuple[Variant, Variant, Variant]

    @property
    def answer(self) -> str:
        """The places in the order heard: "low, high, medium"."""
        return order_answer([variant.place for variant in self.variants])


def order_question(attribute: str) -> str:
    """What is asked of a triple."""
    first, second, third = PLACES[attribute]
    return ORDER_QUESTION.format(quality=QUALITIES[attribute], places=f"{first}, {second} and {third}")


def order_answer(places: Sequence[str]) -> str:
    """Places in the order heard, as an answer: "low, high, medium"."""
    return ", ".join(places)


class NotReachedError(Exception):
    """No triple could be made of a recording; says why."""


def make_triple(samples: Samples, attribute: str, name: str, seed: int) -> Triple:
    """Edit a recording three times and check what was reached; up to 3 draws.

    Args:
        samples: float32 (n,) at 16 kHz.
        attribute: `pitch`, `energy` or `speed`.
        name: Name that no other recording has; with the seed it decides every draw.
        seed: Seed of the view.

    Raises:
        NotReachedError: The recording has too little voice, is too long, or no draw reached what it asked for.
    """
    source = _speech_only(samples)
    before = _measure(source)
    reason = ""
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng(clip_seed(f"{seed}\0{name}\0order {attribute}", attempt))
        asked, order = _draw(attribute, rng)
        if _joined_length_s(source, attribute, asked) > LONGEST_S:
            raise NotReachedError(f"three variants would last longer than {LONGEST_S:g} s")
        parts = _edit(source, attribute, [asked[place] for place in order], before["energy"])
        flac, spans = _join(parts)
        stored = load_audio(flac).samples
        try:
            after = [_measure(stored[start:end]) for start, end in spans]
        except NotReachedError as error:
            reason = str(error)
            continue
        reached = _changes(before, after, float(np.mean(asked)) if attribute == "energy" else 0.0)
        wanted = [asked[place] for place in order]
        reason = _unlike(attribute, wanted, reached)
        if not reason:
            variants = [
                Variant(PLACES[attribute][place], round(change, 4), round(found[attribute], 4), start, end)
                for place, change, found, (start, end) in zip(order, wanted, reached, _in_seconds(spans), strict=True)
            ]
            return Triple(attribute, flac, (variants[0], variants[1], variants[2]))
    raise NotReachedError(reason)


def _draw(attribute: str, rng: np.random.Generator) -> tuple[tuple[float, float, float], list[int]]:
    """The three changes, from low to high, and the order in which they will be heard."""
    step, base = float(rng.uniform(*STEP[attribute])), float(rng.uniform(*BASE[attribute]))
    low, high = (base / step, base * step) if attribute == "speed" else (base - step, base + step)
    return (low, base, high), [int(place) for place in rng.permutation(3)]


def _edit(source: Samples, attribute: str, changes: Sequence[float], level_db: float) -> list[Samples]:
    """Variants at a common scale: only for the energy task do their levels differ."""
    if attribute == "energy":
        parts = [apply_gain(source, change) for change in changes]
    else:
        edits = [
            ProsodyEdit(pitch_shift_st=change) if attribute == "pitch" else ProsodyEdit(duration_factor=1.0 / change)
            for change in changes
        ]
        parts = [_at_level(edit_prosody(source, edit), level_db) for edit in edits]
    # One factor for all three: limiting each by itself would undo the energy edit.
    lengths = np.cumsum([len(part) for part in parts])[:-1]
    return [np.asarray(part, np.float32) for part in np.split(limit_peak(np.concatenate(parts)), lengths)]


def _at_level(samples: Samples, level_db: float) -> Samples:
    activity = find_speech(samples)
    power = 10.0 ** (activity.level_db[activity.speech] / 10.0)
    return apply_gain(samples, level_db - 10.0 * math.log10(float(power.mean()))) if len(power) else samples


def _join(parts: Sequence[Samples]) -> tuple[bytes, list[tuple[int, int]]]:
    silence = np.zeros(round(SILENCE_S * SAMPLE_RATE_HZ), np.float32)
    pieces: list[Samples] = []
    spans: list[tuple[int, int]] = []
    for part in parts:
        start = sum(map(len, pieces)) + (len(silence) if pieces else 0)
        pieces += [silence, part] if pieces else [part]
        spans.append((start, start + len(part)))
    buffer = io.BytesIO()
    soundfile.write(buffer, np.concatenate(pieces), SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue(), spans


def _speech_only(samples: Samples) -> Samples:
    """From shortly before the first speech to shortly after the last."""
    segments = find_speech(samples).segments
    if not segments:
        raise NotReachedError("no speech found")
    start, end = segments[0][0] - MARGIN_S, segments[-1][1] + MARGIN_S
    cut = samples[max(0, round(start * SAMPLE_RATE_HZ)) : round(end * SAMPLE_RATE_HZ)]
    if len(cut) < 3 * MARGIN_S * SAMPLE_RATE_HZ:
        raise NotReachedError("too short to edit")
    return cut


def _measure(samples: Samples) -> dict[str, float]:
    """Median F0 in semitones above 100 Hz, level in dBFS, and seconds from the first to the last speech."""
    activity = find_speech(samples)
    segments, measures = activity.segments, measure_prosody(samples, activity).measures
    pitch, level = measures["f0_median_hz"], measures["level_dbfs"]
    if not segments or pitch.value is None or level.value is None or pitch.reliability < MIN_RELIABILITY:
        raise NotReachedError("too little voice to measure")
    return {
        "pitch": 12.0 * math.log2(pitch.value / 100.0),
        "energy": level.value,
        "speed": segments[-1][1] - segments[0][0],
    }


def _changes(
    before: Mapping[str, float], after: Sequence[Mapping[str, float]], mean_gain_db: float
) -> list[dict[str, float]]:
    """What each variant became against the source; the level all three have in common is taken for what was asked,
    because the peak limit moves them together."""
    common_db = float(np.mean([found["energy"] - before["energy"] for found in after])) - mean_gain_db
    return [
        {
            "pitch": found["pitch"] - before["pitch"],
            "energy": found["energy"] - before["energy"] - common_db,
            "speed": before["speed"] / found["speed"],  # the same words in less time
        }
        for found in after
    ]


def _unlike(attribute: str, asked: Sequence[float], reached: Sequence[Mapping[str, float]]) -> str:
    """What was not reached, in words; empty if all was."""
    for change, found in zip(asked, reached, strict=True):
        for name, value in found.items():
            wanted = change if name == attribute else (1.0 if name == "speed" else 0.0)
            distance = abs(value / wanted - 1.0) if name == "speed" else abs(value - wanted)
            if distance > (TOLERANCE if name == attribute else DRIFT)[name]:
                return f"{name} not reached" if name == attribute else f"{name} moved with {attribute}"
    return ""


def _in_seconds(spans: Sequence[tuple[int, int]]) -> list[tuple[float, float]]:
    return [(start / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ) for start, end in spans]


def _joined_length_s(source: Samples, attribute: str, asked: Sequence[float]) -> float:
    factors = [1.0 / change for change in asked] if attribute == "speed" else [1.0] * 3
    return len(source) / SAMPLE_RATE_HZ * sum(factors) + 2.0 * SILENCE_S
