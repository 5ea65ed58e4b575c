"""Recordings and what is known of them, from wherever they lie, as records: `read_sources`.

    NAME=PATH or PATH, where PATH is
      a folder of a corpus that `corpora` reads, if NAME (or the folder's own name) is that corpus's
      a .jsonl or .csv file, one clip a line; audio is relative to the file's folder
      a folder with a `manifest.jsonl`, `metadata.jsonl` or `metadata.csv`
      any other folder: all recordings in it. If all of them lie in folders named after emotions, these are the labels
      one recording

Whatever cannot become a record is an `Outcome` with its cause, in its place, so that nothing is lost silently. A label
that is no emotion we know costs the label, not the clip.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_emotion.errors import CorpusError, LabellingError
from edge_emotion.labels import CORPORA, normalise_label
from edge_emotion_train.corpora import Clip, corpus_names, scan_corpus
from edge_emotion_train.corpus_layouts import AUDIO_SUFFIXES

from .field_names import GENDERS, WORD_FIELD_NAMES, known_fields
from .records import Failure, Outcome, Record, Word

TABLES = ("manifest.jsonl", "metadata.jsonl", "metadata.csv")
TABLE_SUFFIXES = (".jsonl", ".csv")
STEP = "source"
NO_LANGUAGE = "zxx"  # ISO 639: there are no words


@dataclass(frozen=True)
class SourceSpec:
    """A source as the user names it."""

    name: str
    path: Path

    @classmethod
    def parse(cls, text: str) -> SourceSpec:
        """From `NAME=PATH` or `PATH`, whose last part is then the name.

        Raises:
            LabellingError: The path does not exist.
        """
        name, separator, path = text.partition("=")
        if not separator or os.path.exists(text):
            name, path = "", text
        found = Path(path).expanduser()
        if not found.exists():
            raise LabellingError(
                f"{path} does not exist; give a folder of recordings, a .jsonl or .csv file, or a recording"
            )
        found = found.absolute()
        return cls(name or (found.name if found.is_dir() else found.stem), found)


def read_sources(specs: Sequence[SourceSpec], language: str | None = None) -> list[Record | Outcome]:
    """Every clip of the sources, in their order, as a record or as what is wrong with it.

    Args:
        specs: The sources.
        language: ISO 639 code of the speech, where a source does not tell.

    Raises:
        LabellingError: A source has nothing that could be read.
        CorpusError: A folder is not the corpus that it is said to be.
    """
    found: list[Record | Outcome] = []
    for spec in specs:
        before = len(found)
        found.extend(_read(spec, language))
        if len(found) == before:
            raise LabellingError(
                f"{spec.path} holds no recordings; allowed are {', '.join(AUDIO_SUFFIXES)}, or a table of them "
                f"({', '.join(TABLES)})"
            )
    return found


def record_of(row: Mapping[str, Any], folder: Path, corpus: str, place: str, language: str | None = None) -> Outcome:
    """A record from the fields of a line of a table, under whatever names (`field_names`).

    Args:
        row: Name to value.
        folder: What a relative path of a recording is relative to.
        corpus: Name of the source; a field of the row may say another.
        place: Where the row stands, for messages.
        language: Where the row does not tell.
    """
    known, extra = known_fields(row)
    corpus = str(known.get("corpus", corpus))
    audio = known.get("audio")
    if isinstance(audio, Mapping):  # as Hugging Face writes it
        audio = audio.get("path")
    if not isinstance(audio, str):
        cause = f"{place} names no recording; fields here: {', '.join(map(str, row)) or 'none'}"
        return Outcome(None, (Failure(place, STEP, cause),))
    clip_id = _clip_id(corpus, known.get("id"), audio, known.get("start_s"))
    times = {field: _seconds(known.get(field)) for field in ("start_s", "end_s")}
    for field, value in times.items():
        if value is None and field in known:
            cause = f"{place}: {field} must be seconds from 0 on, given {known[field]!r:.60}"
            return Outcome(None, (Failure(clip_id, STEP, cause),))
    fields, lost = _readable(known, corpus)
    for field in lost:
        extra.setdefault("label" if field == "emotion" else field, known[field])
    if "words" in known:
        extra["words"] = known["words"]  # with whatever else it says of each word
    if fields["speaker"] is not None:
        fields["speaker"] = _speaker(corpus, fields["speaker"])
    fields["language"] = fields["language"] or language
    path = os.path.join(folder, os.path.expanduser(audio))
    record = Record(id=clip_id, audio=path, corpus=corpus, extra=extra, **times, **fields)
    return Outcome(record, tuple(Failure(clip_id, STEP, f"{place}: {cause}", field) for field, cause in lost.items()))


def _readable(known: Mapping[str, Any], corpus: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields that say something we understand, None for the others; and why those do not."""
    fields: dict[str, Any] = dict.fromkeys(("speaker", "language", "text", "split", "emotion", "gender", "words"))
    lost = {}
    for field in ("speaker", "language", "text", "split"):
        if isinstance(known.get(field), (str, int, float)):
            fields[field] = str(known[field])
        elif field in known:
            lost[field] = f"{field} must be a text, given {known[field]!r:.60}"
    if "emotion" in known:
        try:
            fields["emotion"] = normalise_label(str(known["emotion"]), corpus if corpus in CORPORA else None)
        except ValueError as error:
            lost["emotion"] = str(error)
    if "gender" in known:
        fields["gender"] = GENDERS.get(str(known["gender"]).strip().casefold())
        if fields["gender"] is None:
            lost["gender"] = f"gender {known['gender']!r:.60} is neither female nor male"
    if "words" in known:
        fields["words"] = _words(known["words"])
        if fields["words"] is None:
            lost["words"] = "words must be a list of text, start and end in seconds"
    return fields, lost


def _read(spec: SourceSpec, language: str | None) -> Iterator[Record | Outcome]:
    corpus = spec.name.strip().casefold().replace("-", "").replace("_", "")
    if spec.path.is_file():
        if spec.path.suffix.lower() in TABLE_SUFFIXES:
            yield from _read_table(spec.path, spec.name, language)
        else:
            yield from _read_recordings(spec.path.parent, [spec.path], spec.path.parent.name, language)
    elif corpus in corpus_names():
        yield from _read_corpus(corpus, spec.path)
    elif table := next((spec.path / name for name in TABLES if (spec.path / name).is_file()), None):
        yield from _read_table(table, spec.name, language)
    else:
        yield from _read_recordings(spec.path, _recordings(spec.path), spec.name, language)


def _read_corpus(corpus: str, root: Path) -> Iterator[Record | Outcome]:
    try:
        report = scan_corpus(corpus, root)
    except CorpusError as error:
        raise CorpusError(f"{error}\n  if it is something else, name it otherwise: NAME={root}") from None
    for clip in report.clips:
        yield _record_of_clip(clip)
    for kind, details in report.problems.items():
        for detail in details:
            yield Outcome(None, (Failure(f"{corpus}/{detail}", STEP, f"{kind}: {detail}"),))


def _record_of_clip(clip: Clip) -> Record:
    return Record(
        id=clip.clip_id,
        audio=str(clip.path.absolute()),
        corpus=clip.corpus,
        speaker=clip.speaker,
        emotion=clip.emotion,
        language=clip.language,
        text=clip.text,
        gender=clip.gender,
        split=clip.split,
        extra=dict(clip.extra),
        words=_words(clip.extra.get("words")),
    )


def _read_table(path: Path, corpus: str, language: str | None) -> Iterator[Record | Outcome]:
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else json_rows(path)
    for number, row in rows:
        place = f"{path.name} line {number}"
        if isinstance(row, Mapping):
            yield record_of(row, path.parent.absolute(), corpus, place, language)
        else:
            yield Outcome(None, (Failure(f"{corpus}/{place}", STEP, f"{place}: {row}"),))


def json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Number and content of each line; a text that says what is wrong where it is no JSON object."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                # NaN is written by many tools for "not given".
                row = json.loads(line.decode("utf-8-sig"), parse_constant=lambda name: None)
            except ValueError as error:
                row = f"no JSON ({error})"
            yield number, row if isinstance(row, (dict, str)) else "one JSON object a line is needed"


def _csv_rows(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, restval="", restkey="more")
        try:
            for row in reader:
                yield reader.line_num, dict(row)
        except csv.Error as error:
            yield reader.line_num, f"no CSV ({error}); nothing after it could be read"


def _read_recordings(
    root: Path, files: Sequence[Path], corpus: str, language: str | None
) -> Iterator[Record | Outcome]:
    labels = [_emotion_of_folder(path) for path in files]
    labelled = all(labels)
    for path, label in zip(files, labels, strict=True):
        name = path.relative_to(root).as_posix()
        yield Record(
            id=_clip_id(corpus, None, name, None),
            audio=str(path.absolute()),
            corpus=corpus,
            emotion=label if labelled else None,
            language=language,
        )


def _recordings(root: Path) -> list[Path]:
    """Sorted, so that the order does not depend on the file system; links to folders are followed once."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(folder, name)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES
        ]
    return sorted(found)


def _emotion_of_folder(path: Path) -> str | None:
    try:
        return normalise_label(path.parent.name)
    except ValueError:
        return None


def _clip_id(corpus: str, given: Any, audio: str, start_s: Any) -> str:
    """The given id, or the path without its suffix and, for a part of a longer recording, where it starts."""
    if given is not None:
        name = str(given)
        return name if name.startswith(f"{corpus}/") else f"{corpus}/{name}"
    name = os.path.splitext(audio)[0].lstrip("./") + ("" if start_s is None else f"@{start_s}")
    return f"{corpus}/{name}"


def _speaker(corpus: str, speaker: str) -> str:
    return speaker if speaker.startswith(f"{corpus}_") else f"{corpus}_{speaker}"


def _seconds(value: Any) -> float | None:
    """Seconds; also as audformat and pandas write them, `0 days 00:00:01.500000`."""
    if value is None or isinstance(value, bool):
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        days, _, clock = str(value).rpartition("days")
        parts = clock.strip().split(":")
        if len(parts) != 3:
            return None
        try:
            seconds = float(days or 0) * 86400 + float(parts[0]) * 3600 + float(parts[1]) * 60 + float(parts[2])
        except ValueError:
            return None
    return seconds if math.isfinite(seconds) and seconds >= 0.0 else None


def _words(given: Any) -> tuple[Word, ...] | None:
    """Words with their times; what else is said of them stays in `extra`."""
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        return None
    words = []
    for item in given:
        known, _ = known_fields(item, WORD_FIELD_NAMES) if isinstance(item, Mapping) else ({}, {})
        if "text" not in known:
            return None
        words.append(Word(str(known["text"]), _seconds(known.get("start_s")), _seconds(known.get("end_s"))))
    return tuple(words)
