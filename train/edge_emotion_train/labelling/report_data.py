"""What a report tells of: one pass over the records of a run, kept in columns of a few hundred bytes a clip."""

from __future__ import annotations

import hashlib
import heapq
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge_emotion.claims import MIN_RELIABILITY, check_claims, parse_claims
from edge_emotion.cues import CUE_BY_NAME, CUES, Thresholds
from edge_emotion_train.labelling.records import Record, Word
from edge_emotion_train.labelling.view_reasoning import record_thresholds
from edge_emotion_train.reasoning import CueEmotionTable

VARIETY_TEXTS = 2000
# With fewer clips of an emotion, a corpus says too little of how that emotion sounds in it.
ENOUGH_OF_AN_EMOTION = 20


class Names:
    """A column of names, kept as whole numbers; -1 where there is none."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._codes: dict[str, int] = {}
        self._column = array("i")

    def append(self, name: str | None) -> None:
        """Adds a row."""
        if name is not None and name not in self._codes:
            self._codes[name] = len(self.names)
            self.names.append(name)
        self._column.append(-1 if name is None else self._codes[name])

    def fill(self, rows: int) -> None:
        """Adds rows without a name until there are so many."""
        self._column.extend([-1] * (rows - len(self._column)))

    @property
    def codes(self) -> np.ndarray:
        """(clips,) index into `names`, or -1."""
        return np.array(self._column, dtype=np.int32)

    def is_name(self, name: str) -> np.ndarray:
        """(clips,) bool, the rows with this name."""
        return self.codes == self._codes.get(name, -2)

    def at(self, row: int) -> str | None:
        """The name of a row."""
        return self.names[self._column[row]] if self._column[row] >= 0 else None

    def counts(self) -> Counter[str | None]:
        """How many rows have each name."""
        counts = Counter(self._column)
        return Counter({self.names[code] if code >= 0 else None: count for code, count in counts.items()})


class Numbers:
    """A column of numbers; NaN where there is none."""

    def __init__(self) -> None:
        self._column = array("f")

    def append(self, value: float | None) -> None:
        """Adds a row."""
        self._column.append(np.nan if value is None else value)

    def fill(self, rows: int) -> None:
        """Adds rows without a number until there are so many."""
        self._column.extend([np.nan] * (rows - len(self._column)))

    @property
    def values(self) -> np.ndarray:
        """(clips,)"""
        return np.array(self._column)


@dataclass
class MeasureColumn:
    """A measure of all clips.

    Attributes:
        unit: Its unit.
        values: NaN where it has no value.
        reliability: NaN where the clip has no such measure.
        reasons: Why it has no value, and how often.
    """

    unit: str
    values: Numbers = field(default_factory=Numbers)
    reliability: Numbers = field(default_factory=Numbers)
    reasons: Counter[str] = field(default_factory=Counter)

    def reliable(self) -> np.ndarray:
        """(clips,) the values that may be relied on, NaN elsewhere."""
        return np.where(self.reliability.values >= MIN_RELIABILITY, self.values.values, np.nan)


@dataclass
class CueColumn:
    """The levels of a cue of all clips: which, by which group's thresholds, and why where there is none."""

    levels: Names = field(default_factory=Names)
    groups: Names = field(default_factory=Names)
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass
class WordColumns:
    """What is known of words.

    Attributes:
        clips: Clips with words; with times of all words; with prominence of any word.
        prominence: Of every word that has one.
        by_word: Lower-case word to how often it has a prominence and how often it is its clip's highest.
    """

    clips: int = 0
    timed: int = 0
    measured: int = 0
    prominence: Numbers = field(default_factory=Numbers)
    by_word: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))

    def add(self, words: Sequence[Word] | None) -> None:
        """Takes the words of a clip in."""
        known = [word for word in words or () if word.prominence is not None]
        self.clips += bool(words)
        self.timed += bool(words) and all(word.start_s is not None and word.end_s is not None for word in words or ())
        self.measured += bool(known)
        for word in known:
            self.prominence.append(word.prominence)
            self.by_word[word.text.casefold()][0] += 1
        if known:
            self.by_word[max(known, key=lambda word: word.prominence or 0.0).text.casefold()][1] += 1


@dataclass
class TextColumns:
    """What is known of the reasoning texts.

    Attributes:
        kinds: How many texts of each (writer, size).
        words: Words of each text.
        claims: Claims of each text, as the report parses them.
        repairs: How many texts have how many repaired sentences.
        verdicts: How many claims of each (cue, verdict), checked anew for the report.
        differing: Texts whose stored claims or verdicts are others than those.
        contradicted: Rows of the clips whose text has a contradicted claim.
        checked_anew: False where there are no thresholds, so that the stored claims are taken as they are.
    """

    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    words: Numbers = field(default_factory=Numbers)
    claims: Numbers = field(default_factory=Numbers)
    repairs: Counter[int] = field(default_factory=Counter)
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    differing: int = 0
    contradicted: list[int] = field(default_factory=list)
    checked_anew: bool = True
    _sample: list[tuple[int, int, str]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Texts."""
        return self.kinds.total()

    @property
    def sample(self) -> list[str]:
        """At most `VARIETY_TEXTS` of them, the same ones for the same data."""
        return [text for _, _, text in sorted(self._sample, key=lambda item: item[1])]

    def add(self, row: int, record: Record, thresholds: Mapping[str, Thresholds]) -> None:
        """Takes the text of a clip in."""
        if record.reasoning is None:
            return
        text = record.reasoning.text
        self.kinds[record.reasoning.writer, record.reasoning.size] += 1
        self.words.append(len(text.split()))
        self.repairs[record.reasoning.repairs] += 1
        self.checked_anew = bool(thresholds)
        claims = checked_claims(record, thresholds) if thresholds else record.reasoning.claims
        self.claims.append(len(claims))
        self.verdicts.update((str(claim.get("cue")), str(claim.get("verdict"))) for claim in claims)
        self.differing += _told(claims) != _told(record.reasoning.claims)
        if any(claim.get("verdict") == "contradicted" for claim in claims):
            self.contradicted.append(row)
        # Those whose hash is lowest: chosen without knowing how many there will be, and by nothing they say.
        item = (-stable_hash(record.id), row, text)
        heapq.heappush(self._sample, item) if len(self._sample) < VARIETY_TEXTS else heapq.heappushpop(
            self._sample, item
        )


@dataclass
class DataSet:
    """All clips of a run, one row each, in the order of the file."""

    rows: int = 0
    emotion: Names = field(default_factory=Names)
    speaker: Names = field(default_factory=Names)
    corpus: Names = field(default_factory=Names)
    language: Names = field(default_factory=Names)
    transcripts: int = 0
    duration_s: Numbers = field(default_factory=Numbers)
    measures: dict[str, MeasureColumn] = field(default_factory=dict)
    cues: dict[str, CueColumn] = field(default_factory=dict)
    shape: Names = field(default_factory=Names)
    shape_confidence: Numbers = field(default_factory=Numbers)
    shape_reasons: Counter[str] = field(default_factory=Counter)
    words: WordColumns = field(default_factory=WordColumns)
    texts: TextColumns = field(default_factory=TextColumns)
    recordings: Counter[bytes] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, records: Iterable[Record], thresholds: Mapping[str, Thresholds]) -> DataSet:
        """Goes through the records once.

        Args:
            records: Any number.
            thresholds: Group to thresholds, which the claims of the texts are checked with.
        """
        data = cls()
        for record in records:
            data._add(record, thresholds)
        return data

    def _add(self, record: Record, thresholds: Mapping[str, Thresholds]) -> None:
        self.emotion.append(record.emotion)
        self.speaker.append(record.speaker)
        self.corpus.append(record.corpus)
        self.language.append(record.language)
        self.transcripts += bool(record.text)
        self.warnings.update(without_particulars(warning, record.id) for warning in record.warnings)
        if record.audio_sha256:
            span = f"{record.audio_sha256} {record.start_s} {record.end_s}"
            self.recordings[hashlib.sha256(span.encode()).digest()[:12]] += 1
        self._add_measures(record)
        shape = record.intonation
        self.shape.append(shape.shape if shape else None)
        self.shape_confidence.append(shape.confidence if shape and shape.shape else None)
        if shape and not shape.shape:
            self.shape_reasons[shape.reason or "no reason given"] += 1
        self.words.add(record.words)
        self.texts.add(self.rows, record, thresholds)
        self.rows += 1

    def _add_measures(self, record: Record) -> None:
        for name, measure in (record.measures or {}).items():
            column = self.measures.setdefault(name, MeasureColumn(measure.unit))
            column.values.fill(self.rows)
            column.reliability.fill(self.rows)
            column.values.append(measure.value)
            column.reliability.append(measure.reliability)
            if measure.value is None:
                column.reasons[measure.reason or "no reason given"] += 1
        duration = (record.measures or {}).get("duration_s")
        self.duration_s.append(duration.value if duration else None)
        for name, level in (record.levels or {}).items():
            column = self.cues.setdefault(name, CueColumn())
            column.levels.fill(self.rows)
            column.groups.fill(self.rows)
            column.levels.append(level.level)
            column.groups.append(level.thresholds)
            if level.level is None:
                column.reasons[level.reason or "no reason given"] += 1

    def measure(self, name: str) -> np.ndarray:
        """(clips,) reliable values of a measure, NaN elsewhere."""
        column = self.measures.get(name)
        if column is None:
            return np.full(self.rows, np.nan)
        column.values.fill(self.rows)
        column.reliability.fill(self.rows)
        return column.reliable()

    def level_codes(self, cue: str) -> np.ndarray:
        """(clips,) index of the level in `Cue.levels`, -1 where there is none."""
        levels = CUE_BY_NAME[cue].levels
        column = self.cues.get(cue)
        if column is None:
            return np.full(self.rows, -1)
        column.levels.fill(self.rows)
        positions = np.array([levels.index(name) if name in levels else -1 for name in column.levels.names] + [-1])
        return positions[column.levels.codes]

    def group_uses(self, cue: str) -> Counter[str]:
        """How many levels of a cue each group of thresholds gave."""
        column = self.cues.get(cue)
        return Counter({key: count for key, count in column.groups.counts().items() if key}) if column else Counter()

    def label_fit(self) -> np.ndarray:
        """(clips,) how well the measured levels fit the emotion, beside the other emotions of the corpus.

        Probability of the emotion by `CueEmotionTable`, fitted on the same clips: a low one does not say that the label
        is wrong, but that the voice is unusual for it. NaN without an emotion or without a level.
        """
        codes = np.stack([self.level_codes(cue.name) for cue in CUES])
        levels = [
            {cue.name: cue.levels[code] for cue, code in zip(CUES, column, strict=True) if code >= 0}
            for column in codes.T.tolist()
        ]
        usable = [row for row in range(self.rows) if levels[row] and self.emotion.at(row) is not None]
        by_corpus: dict[str | None, list[int]] = defaultdict(list)
        for row in usable:
            by_corpus[self.corpus.at(row)].append(row)
        fit = np.full(self.rows, np.nan)
        for rows in by_corpus.values():
            emotions = Counter(self.emotion.at(row) for row in rows)
            learnt = rows if min(emotions.values()) >= ENOUGH_OF_AN_EMOTION else usable
            table = CueEmotionTable().fit(
                [levels[row] for row in learnt], [str(self.emotion.at(row)) for row in learnt]
            )
            for row in rows:
                fit[row] = dict(table.rank(levels[row]))[str(self.emotion.at(row))]
        return fit


def checked_claims(record: Record, thresholds: Mapping[str, Thresholds]) -> list[dict[str, Any]]:
    """The claims of a record's text, parsed and checked anew with the thresholds that its levels name.

    Returns:
        Dicts of `cue`, `level`, `start`, `end`, `verdict`, `reason` in the order of the text.
    """
    if record.reasoning is None:
        return []
    claims = parse_claims(record.reasoning.text)
    if record.measures is None:
        return [
            {"cue": c.cue, "level": c.level, "start": c.start, "end": c.end, "verdict": "not measurable",
             "reason": "the clip has not been measured"}
            for c in claims
        ]  # fmt: skip
    return [
        {"cue": item.claim.cue, "level": item.claim.level, "start": item.claim.start, "end": item.claim.end,
         "verdict": item.verdict, "reason": item.reason}
        for item in check_claims(claims, record.prosody(), record_thresholds(record, thresholds))
    ]  # fmt: skip


def without_particulars(cause: str, identity: str) -> str:
    """A cause without what differs from clip to clip: names, paths and numbers."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\S*[/\\]\S+|\d+(?:\.\d+)?", "…", cause.replace(identity, "…"))


def stable_hash(text: str) -> int:
    """The same for the same text in every process."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _told(claims: Iterable[Mapping[str, Any]]) -> Counter[tuple[Any, ...]]:
    return Counter((claim.get("cue"), claim.get("level"), claim.get("verdict")) for claim in claims)
