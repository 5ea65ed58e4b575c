"""The step `calibrate`: measures to levels, by thresholds of the speaker, the corpus or a population.

A listener who knows a voice judges it by how it usually sounds, so a speaker's own thresholds come first, where there
are enough clips of them. Pitch falls back on a population at once, since a corpus of deep voices must not make an
average voice high; what else is measured depends on microphone, room and language, and falls back on the corpus first.
Levels that hold for everybody have fixed cuts; loudness has thresholds only among recordings of one gain.

Thresholds are percentiles, so that all levels are about equally frequent in their group (`even_cuts`), save that "none"
means none and "rising" never a fall. They lie in `thresholds.json` beside the data, and can be used again for other
clips, were it a single one.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_emotion import cues
from edge_emotion.bundle import load_bundle
from edge_emotion.claims import MIN_RELIABILITY
from edge_emotion.cues import CUE_BY_NAME, CUES, FIXED_CUTS, Cue, Thresholds, level_of
from edge_emotion.errors import LabellingError

from .records import Level, Record
from .store import code_sha256

POPULATION = "population"
# By thresholds from 20 of a speaker's clips in EmoDB, 87 % of the others have the level that all clips give them where
# a cue has three levels, and 98 % lie in it or no further outside it than the measure is uncertain (5 clips: 73 and
# 89 %; 30 clips: 90 and 99 %). Pitch, with five levels: 76 and 87 %. `benchmarks/data_engine.py` prints it.
SPEAKER_CLIPS = 20
CORPUS_CLIPS = 50
# Fewer voices are no population: then the thresholds of the nano bundle, of 8 speakers of EmoDB, stand for it.
POPULATION_SPEAKERS = 8
# Cues of speech: laughs, sighs and growls have a pitch and a tone, but no pace and no melody of a sentence.
SPEECH_CUES = ("rate", "pitch_slope", "pitch_turn", "dynamics", "pauses")
NO_LANGUAGE = "zxx"  # ISO 639: there are no words


def even_cuts(cue: Cue, positions: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    """Cut points at even quantiles, so that each level is equally frequent.

    Args:
        cue: Whose levels.
        positions: Measured values on the cue's own scale.

    Returns:
        Rising values in the cue's unit.
    """
    quantiles = np.quantile(positions, np.arange(1, len(cue.levels)) / len(cue.levels))
    return tuple(round(float(100.0 * 2 ** (q / 12) if cue.scale == "semitones" else q), 3) for q in quantiles)


@dataclass(frozen=True)
class ThresholdGroups:
    """Thresholds of groups of clips.

    Attributes:
        groups: Thresholds by key: `speaker:NAME`, `corpus:NAME`, `population`. A group has cuts only for the cues that
            enough of its clips were measured for, and that they differ in.
        clips: Number of clips that each group's cuts rest on.
    """

    groups: Mapping[str, Thresholds]
    clips: Mapping[str, int] = field(default_factory=dict)

    def key_for(self, record: Record, cue: Cue) -> str | None:
        """The group that tells the level of a cue of a clip; None where none does."""
        keys = [] if cue.name in FIXED_CUTS or record.speaker is None else [f"speaker:{record.speaker}"]
        if cue.name not in FIXED_CUTS and not cue.unknown_without_cuts and cue.name != "pitch":
            keys.append(f"corpus:{record.corpus}")
        if not cue.unknown_without_cuts:
            keys.append(POPULATION)
        return next((key for key in keys if key in self.groups and cue.name in self.groups[key].cuts), None)

    def levels(self, record: Record) -> dict[str, Level]:
        """The level of every cue.

        Raises:
            LabellingError: The clip has not been measured.
        """
        if record.measures is None:
            raise LabellingError(f"{record.id} has no measures; `edge-emotion label measure` makes them")
        return {cue.name: self._level(record, cue) for cue in CUES}

    def _level(self, record: Record, cue: Cue) -> Level:
        measure = (record.measures or {}).get(cue.measure)
        if measure is None or measure.value is None:
            return Level(None, 0.0, None, "was not measured" if measure is None else measure.reason)
        if record.language == NO_LANGUAGE and cue.name in SPEECH_CUES:
            return Level(None, measure.reliability, None, "no words are spoken, and this is a cue of speech")
        if measure.reliability < MIN_RELIABILITY:
            return Level(None, measure.reliability, None, f"reliability is below {MIN_RELIABILITY:g}")
        key = self.key_for(record, cue)
        if key is None:
            reason = cue.unknown_without_cuts or "no group of clips that differ enough in it gives thresholds"
            return Level(None, measure.reliability, None, reason)
        return Level(level_of(cue, measure.value, self.groups[key]), measure.reliability, key)

    def to_json(self) -> str:
        """The content of `thresholds.json`."""
        groups = {key: {**group.to_dict(), "clips": self.clips.get(key)} for key, group in self.groups.items()}
        return json.dumps({"schema_version": 1, "groups": groups}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> ThresholdGroups:
        """From a file that `to_json` filled.

        Raises:
            LabellingError: There is no such file, or it holds something else.
        """
        try:
            groups = json.loads(path.read_text(encoding="utf-8"))["groups"]
            clips = {key: group["clips"] for key, group in groups.items() if group.get("clips") is not None}
            return cls({key: Thresholds.from_dict(group) for key, group in groups.items()}, clips)
        except OSError as error:
            raise LabellingError(f"{path} cannot be read: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LabellingError(
                f"{path} holds no thresholds ({type(error).__name__}: {error}); give a thresholds.json that "
                "`edge-emotion label calibrate` wrote"
            ) from None


@dataclass(frozen=True)
class Levelling:
    """The step, as `run_step` takes it."""

    thresholds: ThresholdGroups

    @property
    def settings(self) -> Mapping[str, Any]:
        """What results depend on beside the measures."""
        sha256 = hashlib.sha256(self.thresholds.to_json().encode()).hexdigest()
        return {"thresholds_sha256": sha256, "code_sha256": code_sha256(sys.modules[__name__], cues)}

    def __call__(self, record: Record) -> Record:
        return replace(record, levels=self.thresholds.levels(record))


def fit_groups(
    records: Iterable[Record],
    speaker_clips: int = SPEAKER_CLIPS,
    corpus_clips: int = CORPUS_CLIPS,
    held_out: Iterable[str] = (),
    same_gain: Iterable[str] = (),
) -> ThresholdGroups:
    """Finds the thresholds of all groups that measured clips allow.

    Args:
        records: Measured; gone through once, of which only the numbers are kept.
        speaker_clips: Fewest clips for a speaker's own thresholds.
        corpus_clips: Fewest clips for those of a corpus.
        held_out: Speakers whose clips count for nobody's thresholds but their own: test speakers.
        same_gain: Corpora whose recordings have one gain throughout and were not normalised: only in them does a
            speaker's level say how loud they spoke.

    Raises:
        LabellingError: A number of clips is below 3, or a held-out speaker or a corpus of one gain has no clips.
    """
    if min(speaker_clips, corpus_clips) < 3:
        raise LabellingError(f"thresholds need 3 clips at least, given {speaker_clips} and {corpus_clips}")
    held_out, same_gain = set(held_out), set(same_gain)
    positions: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    clips: dict[str, int] = defaultdict(int)
    voices: set[str] = set()
    speakers: set[str] = set()
    corpora: set[str] = set()
    for record in records:
        speakers.add(record.speaker or "")
        corpora.add(record.corpus)
        if record.language != NO_LANGUAGE and record.speaker and record.speaker not in held_out:
            voices.add(record.speaker)
        for key in _groups_of(record, held_out):
            clips[key] += 1
            for cue, position in measured_positions(record, record.corpus in same_gain and key.startswith("speaker:")):
                positions[key][cue.name].append(position)
    if unknown := sorted((held_out - speakers) | (same_gain - corpora)):
        raise LabellingError(
            f"no clip of {', '.join(unknown)}; speakers: {', '.join(sorted(speakers)[:20])}; "
            f"corpora: {', '.join(sorted(corpora))}"
        )
    fewest = {"speaker": speaker_clips, "corpus": corpus_clips, POPULATION: corpus_clips}
    groups = {}
    for key in sorted(positions):
        if key == POPULATION and len(voices) < POPULATION_SPEAKERS:
            continue
        cuts = _cuts(positions[key], fewest[key.partition(":")[0]])
        if cuts:
            groups[key] = Thresholds(cuts, f"percentiles of {clips[key]} clips")
    own = groups.pop(POPULATION, None)
    population = own or load_bundle("nano", verify=False).manifest.thresholds
    cuts = {name: _signed(CUE_BY_NAME[name], cuts) for name, cuts in population.cuts.items()}
    groups[POPULATION] = replace(population, cuts={**cuts, **FIXED_CUTS})
    return ThresholdGroups(groups, {key: clips[key] for key in groups if key != POPULATION or own})


def measured_positions(record: Record, same_gain: bool = False) -> Iterator[tuple[Cue, float]]:
    """The cues that thresholds are found for and that were measured reliably, with their positions."""
    for cue in CUES:
        if cue.name in FIXED_CUTS or (cue.unknown_without_cuts and not same_gain):
            continue
        if record.language == NO_LANGUAGE and cue.name in SPEECH_CUES:
            continue
        measure = (record.measures or {}).get(cue.measure)
        if measure is not None and measure.value is not None and measure.reliability >= MIN_RELIABILITY:
            yield cue, cue.position(measure.value)


def _groups_of(record: Record, held_out: set[str]) -> Iterator[str]:
    if record.speaker is not None:
        yield f"speaker:{record.speaker}"
    if record.speaker not in held_out:
        yield f"corpus:{record.corpus}"
        if record.language != NO_LANGUAGE:
            yield POPULATION


def _cuts(positions: Mapping[str, Sequence[float]], fewest: int) -> dict[str, tuple[float, ...]]:
    """Cuts of the cues that enough clips were measured for and whose levels are wider than the measure is uncertain."""
    cuts = {}
    for cue in CUES:
        values = np.array(positions.get(cue.name, ()))
        found = _cuts_of(cue, values, fewest) if len(values) >= fewest else ()
        places = [cue.position(cut) for cut in found]
        if places and all(high - low >= cue.uncertainty for low, high in itertools.pairwise(places)):
            cuts[cue.name] = found
    return cuts


def _cuts_of(cue: Cue, values: np.ndarray, fewest: int) -> tuple[float, ...]:
    """Even cuts, except where the name of a level says something that percentiles would make untrue."""
    if cue.name == "pauses":
        # "None" means none; the others are the halves of the clips that have pauses.
        paused = values[values > cue.uncertainty]
        return (cue.uncertainty, round(float(np.median(paused)), 3)) if len(paused) >= fewest else ()
    return _signed(cue, even_cuts(cue, values))


def _signed(cue: Cue, cuts: tuple[float, ...]) -> tuple[float, ...]:
    """Most speech falls: but a melody that falls less than most does not rise."""
    if cue.name == "pitch_slope":
        return min(cuts[0], -cue.uncertainty), max(cuts[1], cue.uncertainty)
    return cuts
