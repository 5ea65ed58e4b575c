"""Tests levels and shapes on speech whose prosody is known: python benchmarks/prosody_levels.py --data DIR

DIR holds EmoDB with `manifest.jsonl`. Pitch, rate and energy of hibari-tts are set, those of EmoDB are edited by Praat,
and two clips are compared: which is higher, faster, louder, or are they alike? Alike is said below half of an audible
step (3 semitones, 20 %, 4 dB). Steps in the other two quantities and another seed of the noise must change nothing.
Clips of other voices and other sentences are compared too. Rate is tested as it is heard and as it is reckoned where
the text is known; beside our pitch stands Praat's. Nothing is fitted here. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import common
import contours
import numpy as np
import parselmouth
import soundfile

from edge_emotion.audio import SAMPLE_RATE_HZ
from edge_emotion.errors import EdgeEmotionError
from edge_emotion.prosody import measure_prosody
from edge_emotion_train.augment import apply_gain, change_rate, clip_seed, shift_pitch, speech_rms, track_pitch
from edge_emotion_train.labelling.text_rate import rate_by_text
from edge_emotion_train.synthesis import (
    F0_MEDIAN_LIMITS_HZ,
    MARGIN_S,
    ProsodySpec,
    asked_median_hz,
    syllable_count,
    synthesise,
)
from edge_emotion_train.synthetic import draw_spec, draw_voice, sentences

TEST_SPEAKERS = ("emodb_15", "emodb_16")
SEED = 0
# The least audible step of each quantity, on the scale on which its steps are even: semitones, logarithm, dB.
STEPS = {
    "pitch": 3.0,
    "pitch, by Praat": 3.0,
    "rate, heard": math.log(1.2),
    "rate, by text": math.log(1.2),
    "energy": 4.0,
}
PITCH_STEPS_ST = (-6.0, -4.0, -3.0, 3.0, 4.0, 6.0)
RATE_FACTORS = (1 / 1.5, 1 / 1.25, 1 / 1.2, 1.2, 1.25, 1.5)
ENERGY_STEPS_DB = (-10.0, -6.0, -4.0, 4.0, 6.0, 10.0)
PLAIN_DBFS = -26.0
EMODB_EVERY = 8
TARGET = 0.95

Position = Mapping[str, float | None]
"""Pitch in semitones re 100 Hz, logarithm of the rate, energy in dBFS; None where it cannot be measured."""


class Recording(NamedTuple):
    """A clip of a corpus."""

    samples: np.ndarray
    text: str
    language: str


class Comparison(NamedTuple):
    """Two clips by known steps: quantity asked about, its true step on the scale of `STEPS`, and both measurements."""

    quantity: str
    kind: str
    step: float
    first: float | None
    second: float | None
    unit: int

    @property
    def right(self) -> bool:
        """Whether what is measured says rightly that the second is higher, lower or like the first."""
        if self.first is None or self.second is None:
            return False
        limit = 0.5 * STEPS[self.quantity]
        difference = self.second - self.first
        return (difference > limit) - (difference < -limit) == (self.step > limit) - (self.step < -limit)


def position_of(samples: np.ndarray, text: str, language: str) -> Position:
    """Measure a clip."""
    measures = measure_prosody(samples).measures
    pitch_hz, heard = measures["f0_median_hz"].value, measures["syllable_rate_per_s"].value
    reckoned = rate_by_text(measures, text, language)
    praat = track_pitch(parselmouth.Sound(samples.astype(np.float64), SAMPLE_RATE_HZ)).selected_array["frequency"]
    return {
        "pitch": 12.0 * math.log2(pitch_hz / 100.0) if pitch_hz else None,
        "pitch, by Praat": 12.0 * math.log2(np.median(praat[praat > 0]) / 100.0) if np.any(praat > 0) else None,
        "rate, heard": math.log(heard) if heard else None,
        "rate, by text": math.log(reckoned.value) if reckoned and reckoned.value else None,
        "energy": measures["level_dbfs"].value,
    }


# --- one clip and its edits ------------------------------------------------------------------------------------------


class Edits(NamedTuple):
    """A clip, what is said in it, and its edits: (what was edited, its true step, samples)."""

    plain: np.ndarray
    text: str
    language: str
    edits: list[tuple[str, float, np.ndarray]]


def synthetic_edits(number: int) -> Edits:
    """One voice and sentence of hibari-tts, spoken anew with other prosody and other noise."""
    every = sentences()
    text, voice = every[number % len(every)], draw_voice(number, SEED)

    def speak(spec: ProsodySpec) -> np.ndarray:
        return synthesise(text, spec, voice, seed=2)

    plain = synthesise(text, ProsodySpec(), voice, seed=1)
    edits = [("none", 0.0, speak(ProsodySpec()))]
    for step in PITCH_STEPS_ST:
        # The synthesiser keeps the median within a person's range: what it gives counts, not what was asked.
        given = 12.0 * math.log2(asked_median_hz(ProsodySpec(step), voice) / asked_median_hz(ProsodySpec(), voice))
        if abs(given) >= STEPS["pitch"] - 1e-9:
            edits.append(("pitch", given, speak(ProsodySpec(pitch_shift_st=step))))
    for factor in RATE_FACTORS:
        edited = speak(ProsodySpec(rate_factor=factor))
        edits.append(("rate", math.log(spoken_s(plain) / spoken_s(edited)), edited))
    edits += [("energy", step, speak(ProsodySpec())) for step in ENERGY_STEPS_DB]
    return Edits(plain, text, "en", edits)


def spoken_s(samples: np.ndarray) -> float:
    """Length of what is spoken in a clip of the synthesiser, which puts the same margin around each."""
    return len(samples) / SAMPLE_RATE_HZ - 2 * MARGIN_S


def real_edits(recording: Recording) -> Edits:
    """The same of a recording, by PSOLA and gain."""
    plain = recording.samples
    edits = [("none", 0.0, shift_pitch(plain, 0.1))]
    edits += [("pitch", step, shift_pitch(plain, step)) for step in PITCH_STEPS_ST]
    edits += [("rate", math.log(factor), change_rate(plain, factor)) for factor in RATE_FACTORS]
    edits += [("energy", step, plain) for step in ENERGY_STEPS_DB]
    return Edits(plain, recording.text, recording.language, edits)


def compare_edits(number: int, clip: Edits) -> Iterator[Comparison]:
    """Every quantity of every edit: the edited one must have its step, the others none."""
    plain = position_of(at_level(clip.plain, PLAIN_DBFS), clip.text, clip.language)
    for edited, step, samples in clip.edits:
        # A higher voice or a faster one may be louder too: the level is set, so that it is known.
        level_db = PLAIN_DBFS + (step if edited == "energy" else 0.0)
        changed = position_of(at_level(samples, level_db), clip.text, clip.language)
        for quantity in STEPS:
            stepped = quantity.startswith(edited)
            if stepped and abs(step) < STEPS[quantity] - 1e-9:
                continue
            kind, true = ("step", step) if stepped else ("alike", 0.0)
            yield Comparison(quantity, kind, true, plain[quantity], changed[quantity], number)


def at_level(samples: np.ndarray, level_db: float) -> np.ndarray:
    """The samples with their speech at this level, by another measure of level than the one that is tested."""
    return apply_gain(samples, level_db - 20.0 * math.log10(speech_rms(samples)))


# --- other voices and sentences --------------------------------------------------------------------------------------


def compare_clips(count: int) -> list[Comparison]:
    """All pairs of clips of different voices, sentences and ways of speaking that are an audible step apart."""
    known: list[tuple[dict[str, float], Position]] = []
    every = sentences()
    for number in range(count):
        rng = np.random.default_rng(clip_seed("prosody levels", number))
        voice, spec, text = draw_voice(number, SEED), draw_spec(rng), every[number % len(every)]
        samples = synthesise(text, spec, voice, number)
        level_db = float(rng.uniform(-40.0, -15.0))
        rate = math.log(syllable_count(text) / (spoken_s(samples) - spec.pause_s))
        pitch = 12.0 * math.log2(asked_median_hz(spec, voice) / 100.0)
        truth = {
            "pitch": pitch,
            "pitch, by Praat": pitch,
            "rate, heard": rate,
            "rate, by text": rate,
            "energy": level_db,
        }
        known.append((truth, position_of(at_level(samples, level_db), text, "en")))
    comparisons = []
    for (first, second), quantity in itertools.product(itertools.combinations(range(count), 2), STEPS):
        step = known[second][0][quantity] - known[first][0][quantity]
        if abs(step) >= STEPS[quantity]:
            pair = known[first][1][quantity], known[second][1][quantity]
            comparisons.append(Comparison(quantity, "order", step, *pair, first))
    return comparisons


def in_order(comparison: Comparison) -> bool:
    """Whether the one that is higher is measured higher, by however little."""
    if comparison.first is None or comparison.second is None:
        return False
    return (comparison.second - comparison.first) * comparison.step > 0.0


# --- what is told ----------------------------------------------------------------------------------------------------


def figures(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Share right of each quantity and kind, and how much of a step is measured."""
    groups: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        groups[comparison.quantity, comparison.kind].append(comparison)
    told: dict[str, Any] = {}
    for (quantity, kind), some in sorted(groups.items()):
        right = [in_order(one) if kind == "order" else one.right for one in some]
        told.setdefault(quantity, {})[kind] = by_unit(right, some)
        if kind == "step":
            followed = [
                (one.second - one.first) / one.step for one in some if one.first is not None and one.second is not None
            ]
            told[quantity]["step_measured"] = {
                "median": round(float(np.median(followed)), 3),
                "p5": round(float(np.percentile(followed, 5)), 3),
                "p95": round(float(np.percentile(followed, 95)), 3),
            }
            told[quantity]["order_of_step"] = by_unit([in_order(one) for one in some], some)
    return told


def by_unit(right: Sequence[bool], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Share with its interval; comparisons of one clip are drawn together."""
    hits: dict[int, int] = defaultdict(int)
    totals: dict[int, int] = defaultdict(int)
    for good, comparison in zip(right, comparisons, strict=True):
        hits[comparison.unit] += good
        totals[comparison.unit] += 1
    return common.share([hits[unit] for unit in totals], list(totals.values()))


def table(document: Mapping[str, Any]) -> str:
    """What a person reads."""
    rows = []
    for source, told in document["levels"].items():
        for quantity, kinds in told.items():
            for kind, item in kinds.items():
                if "share" in item:
                    low, high = item["interval_95"]
                    met = "" if kind == "order_of_step" else ("yes" if item["share"] >= TARGET else "no")
                    rows.append(
                        [source, quantity, kind, f"{item['share']:.1%} ({low:.1%} to {high:.1%})", str(item["of"]), met]
                    )
    levels = common.table_of(rows, ["speech", "quantity", "question", "right", "comparisons", ">= 95 %"])
    rows = [
        [name, rule, f"{item['right']:.1%}", f"{item['right_of_those_told']:.1%}", str(item["melodies"])]
        for name, rules in document["contours"].items()
        for rule, item in rules.items()
    ]
    return levels + "\n\n" + common.table_of(rows, ["melodies", "rule", "right", "right of those told", "of"])


def read_recordings(folder: Path) -> list[Recording]:
    """Every eighth clip of EmoDB's training speakers."""
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        raise EdgeEmotionError(f"{folder} has no manifest.jsonl; --data is the folder of EmoDB that holds it")
    records = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    chosen = [record for record in records if record["speaker"] not in TEST_SPEAKERS][::EMODB_EVERY]
    return [
        Recording(soundfile.read(folder / record["audio"], dtype="float32")[0], record["text"], record["language"])
        for record in chosen
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of EmoDB, with manifest.jsonl")
    parser.add_argument("--clips", type=int, default=40, help="synthetic clips of each kind (default: 40)")
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON document here")
    parser.add_argument("--force", action="store_true", help="replace the output file")
    parser.add_argument("--json", action="store_true", help="print the JSON document only, without the table")
    arguments = parser.parse_args()
    common.check_output(arguments.output, arguments.force)
    recordings = read_recordings(arguments.data)
    document = {
        "audible_steps": {"pitch_st": 3.0, "rate_factor": 1.2, "energy_db": 4.0},
        "pitch_range_of_synthetic_medians_hz": list(F0_MEDIAN_LIMITS_HZ),
        "levels": {
            "synthetic, one sentence": figures(
                [
                    comparison
                    for number in common.with_progress(range(arguments.clips), "synthetic speech")
                    for comparison in compare_edits(number, synthetic_edits(number))
                ]
            ),
            "EmoDB, edited by Praat": figures(
                [
                    comparison
                    for number in common.with_progress(range(len(recordings)), "EmoDB")
                    for comparison in compare_edits(number, real_edits(recordings[number]))
                ]
            ),
            "synthetic, other voices and sentences": figures(compare_clips(3 * arguments.clips)),
        },
        "contours": contours.report([recording.samples for recording in recordings]),
    }
    common.deliver(document, {}, table(document), arguments.output, arguments.json)
    return 0


if __name__ == "__main__":
    common.run(main)
