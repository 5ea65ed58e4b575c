"""`Record`: what is known of one clip. Every step of the engine reads records, adds its fields and writes records.

On disk a record is one JSON object a line. A field that a step could not fill is None; why stands in the field's own
`reason` or, as a `Failure`, in the run's errors file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_emotion.errors import LabellingError
from edge_emotion.prosody.records import Contour, Measure, Prosody

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Word:
    """A word of the transcript, where it is spoken.

    Attributes:
        text: The word as written.
        start_s: Start in the clip; None where unknown.
        end_s: End in the clip; None where unknown.
        prominence: How much it stands out of its neighbours, 0..1, by measurement; None where not measured.
    """

    text: str
    start_s: float | None = None
    end_s: float | None = None
    prominence: float | None = None


@dataclass(frozen=True)
class Level:
    """Which level of a cue a clip has.

    Attributes:
        level: One of the cue's levels; None where it cannot be told.
        reliability: Reliability of the measure, 0..1.
        thresholds: Key of the group of thresholds used: `speaker:NAME`, `corpus:NAME` or `population`.
        reason: Why there is no level; None where there is one.
    """

    level: str | None
    reliability: float
    thresholds: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class IntonationShape:
    """How the melody moves.

    Attributes:
        shape: rising, falling, rising-falling, falling-rising, flat or expressive; None where it cannot be told.
        confidence: 0..1.
        reason: Why there is no shape; None where there is one.
    """

    shape: str | None
    confidence: float
    reason: str | None = None


@dataclass(frozen=True)
class Reasoning:
    """A reasoning text that passed the claim checker.

    Attributes:
        text: The text, without tags.
        writer: `built-in`, or the model that wrote it.
        size: `full` (50-200 words) or `nano` (15-45 words).
        claims: Its acoustic claims: dicts of `cue`, `level`, `text`, `start`, `end`, `verdict`.
        repairs: Sentences that the checker took out or wrote anew.
    """

    text: str
    writer: str
    size: str
    claims: tuple[Mapping[str, Any], ...] = ()
    repairs: int = 0


@dataclass(frozen=True)
class Record:
    """One clip.

    Attributes:
        id: Unique over all inputs of a run: `corpus/name`.
        audio: Absolute path of the recording.
        corpus: Name of the corpus or of the source.
        speaker: Unique over all corpora; None where unknown.
        emotion: One of `EMOTIONS`; None where unknown.
        language: ISO 639 code; None where unknown.
        text: Transcript; None where unknown.
        gender: `female` or `male`; None where unknown.
        split: The source's own split; None where it has none.
        audio_sha256: Of the file's bytes; None before `measure`.
        start_s: Start of the clip within the file; None for the beginning.
        end_s: End of the clip within the file; None for the end.
        extra: Fields of the source that the engine does not read; they travel with the record.
        measures: Name to `Measure`, by `measure`.
        intonation: By `measure`.
        words: Words with times and prominence, by `measure` where times are given or can be aligned.
        warnings: What was odd about the recording (clipped, cut short, a low sample rate), by `measure`.
        levels: Cue name to `Level`, by `calibrate`.
        reasoning: By `write`.
    """

    id: str
    audio: str
    corpus: str
    speaker: str | None = None
    emotion: str | None = None
    language: str | None = None
    text: str | None = None
    gender: str | None = None
    split: str | None = None
    audio_sha256: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    measures: Mapping[str, Measure] | None = None
    intonation: IntonationShape | None = None
    words: tuple[Word, ...] | None = None
    warnings: tuple[str, ...] = ()
    levels: Mapping[str, Level] | None = None
    reasoning: Reasoning | None = None

    def prosody(self) -> Prosody:
        """The measures as the claim checker takes them, without a contour.

        Raises:
            ValueError: The clip has not been measured.
        """
        if self.measures is None:
            raise ValueError(f"{self.id} has no measures; run `edge-emotion label measure` first")
        nothing = np.zeros(0)
        return Prosody(self.measures, Contour(nothing, nothing, nothing))

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON, in the order of the fields."""
        return {"schema_version": SCHEMA_VERSION, **_plain(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """Inverse of `to_dict`.

        Raises:
            ValueError: A key is unknown or missing, or the schema is newer than this version reads.
        """
        given = dict(data)
        schema = given.pop("schema_version", SCHEMA_VERSION)
        if schema != SCHEMA_VERSION:
            raise ValueError(f"record of schema {schema}; this version reads {SCHEMA_VERSION}")
        unknown = sorted(set(given) - {item.name for item in fields(cls)})
        if unknown:
            raise ValueError(f"unknown fields {', '.join(unknown)} in a record")
        try:
            if given.get("measures") is not None:
                given["measures"] = {name: Measure(**measure) for name, measure in given["measures"].items()}
            if given.get("intonation") is not None:
                given["intonation"] = IntonationShape(**given["intonation"])
            if given.get("words") is not None:
                given["words"] = tuple(Word(**word) for word in given["words"])
            given["warnings"] = tuple(given.get("warnings") or ())
            if given.get("levels") is not None:
                given["levels"] = {name: Level(**level) for name, level in given["levels"].items()}
            if given.get("reasoning") is not None:
                reasoning = dict(given["reasoning"])
                given["reasoning"] = Reasoning(**{**reasoning, "claims": tuple(reasoning.get("claims", ()))})
            return cls(**given)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"not a record: {error}") from None

    def to_json(self) -> str:
        """One line, without the line break; the same record always gives the same bytes.

        Raises:
            ValueError: A number is NaN or infinite, which JSON does not have.
        """
        return json_line(self.to_dict())


@dataclass(frozen=True)
class Failure:
    """What went wrong with one clip in one step.

    Attributes:
        id: The clip's id, or where in the source it stands if it never got one.
        step: `source`, `measure`, `calibrate`, `write`, ...
        cause: What was given, what is allowed, what to do.
        lost: The field that is missing for it; None where the whole clip is.
    """

    id: str
    step: str
    cause: str
    lost: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {"id": self.id, "step": self.step, "cause": self.cause, "lost": self.lost}


@dataclass(frozen=True)
class Outcome:
    """What a step made of one clip where something went wrong that did not cost the whole clip.

    Attributes:
        record: The record with the fields that could be filled; None where the clip is lost.
        failures: What went wrong.
    """

    record: Record | None
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class RecordFile:
    """Records of one or several JSONL files, read anew each time they are gone through, one line in memory.

    Raises (while it is read):
        LabellingError: A file does not exist, or a line is no record.
    """

    paths: tuple[Path, ...]

    def __iter__(self) -> Iterator[Record]:
        for path in self.paths:
            try:
                with path.open(encoding="utf-8") as lines:
                    yield from _parse(lines, str(path))
            except (OSError, UnicodeDecodeError) as error:
                raise LabellingError(f"{path} cannot be read: {error}") from None


def read_records(lines: Iterable[str]) -> list[Record]:
    """Records from JSON lines; empty lines are skipped.

    Raises:
        LabellingError: A line is no record.
    """
    return list(_parse(lines, "records"))


def json_line(value: Any) -> str:
    """Strict JSON on one line. Characters that UTF-8 does not have (in names of files of old systems) are escaped.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return json.dumps(value, allow_nan=False) if _SURROGATE.search(line) else line


_SURROGATE = re.compile("[\ud800-\udfff]")


def _parse(lines: Iterable[str], name: str) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = Record.from_dict(json.loads(line, parse_constant=_refuse_constant))
        except (ValueError, TypeError) as error:
            raise LabellingError(
                f"{name}, line {number} is no record of the data engine ({error}); "
                "`edge-emotion label measure` makes records from recordings"
            ) from None
        yield record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _plain(value: Any) -> Any:
    """Dataclasses, mappings and tuples as dicts and lists; `dataclasses.asdict` refuses read-only mappings."""
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value
