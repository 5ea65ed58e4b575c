"""Records in the formats of others, and back: `read_format`, `write_format`.

A format shows what it has fields for. What it cannot hold, or would change, goes into one more column, `edge_emotion`,
as JSON: the writer reads each row back as a stranger would and notes every field that came back different. So a round
trip loses nothing, and what somebody edits in a field that the format does hold is taken over.

    records      JSON lines as the data engine writes them
    emotioncot   JSONL of EmotionCoT (`cot_analysis`, or the `reasoning` of its API)
    messages     JSONL of conversations with audio parts, as trl and transformers' chat templates read them
    ms-swift     JSONL of conversations with `<audio>` in the text and `audios` beside them
    audiofolder  a folder of recordings with `metadata.jsonl`, as Hugging Face datasets reads it
    audformat    a CSV table indexed by file, start and end, as audformat reads it
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from edge_emotion.errors import EdgeEmotionError, LabellingError

from .folders import new_folder
from .format_audformat import audformat_row, parse_audformat, read_csv, write_csv
from .format_audiofolder import METADATA, audiofolder_row, parse_audiofolder, place_audio
from .format_conversations import message_row, ms_swift_row, parse_messages, parse_ms_swift
from .format_emotioncot import emotioncot_row, parse_emotioncot
from .records import Failure, Outcome, Record, json_line
from .sources import json_rows
from .store import write_atomically

REST = "edge_emotion"
STEP = "convert"
Row: TypeAlias = dict[str, Any]
Parse: TypeAlias = Callable[[Mapping[str, Any], Path, str], Outcome]


@dataclass(frozen=True)
class Format:
    """How one format shows a record and is read.

    Attributes:
        row: A record as a row.
        parse: A row, the folder that paths are relative to, and where the row stands, as a record.
        table: A CSV table instead of JSON lines.
        folder: A folder of recordings with a table of them.
    """

    row: Callable[[Record], Row]
    parse: Parse
    table: bool = False
    folder: bool = False


def _parse_record(row: Mapping[str, Any], folder: Path, place: str) -> Outcome:
    del folder, place
    return Outcome(Record.from_dict(row))


FORMATS: Mapping[str, Format] = {
    "records": Format(Record.to_dict, _parse_record),
    "emotioncot": Format(emotioncot_row, parse_emotioncot),
    "messages": Format(message_row, parse_messages),
    "ms-swift": Format(ms_swift_row, parse_ms_swift),
    "audiofolder": Format(audiofolder_row, parse_audiofolder, folder=True),
    "audformat": Format(audformat_row, parse_audformat, table=True),
}


@dataclass(frozen=True)
class Converted:
    """Records that were read, and what was wrong with the others or with fields of them."""

    records: tuple[Record, ...]
    failures: tuple[Failure, ...]


def read_format(path: Path, name: str) -> Converted:
    """Records from a file or folder in a format; a row that is none is a failure and costs no other row.

    Args:
        path: A file, or for `audiofolder` a folder.
        name: One of `FORMATS`.

    Raises:
        LabellingError: Unknown format, or the file does not exist or cannot be read.
    """
    chosen = check_format(name)
    file = path / METADATA if chosen.folder and path.is_dir() else path
    records, failures = [], []
    try:
        for number, row in read_csv(file) if chosen.table else json_rows(file):
            place = f"{file.name} line {number}"
            outcome = _restored(row, chosen, file.parent, place)
            failures.extend(outcome.failures)
            if outcome.record is not None:
                records.append(outcome.record)
    except (OSError, UnicodeDecodeError) as error:
        raise LabellingError(f"{file} cannot be read as {name}: {error}") from None
    return Converted(tuple(records), tuple(failures))


def write_format(
    records: Iterable[Record], path: Path, name: str, *, force: bool = False, link: bool = False
) -> tuple[Failure, ...]:
    """Write records in a format, whole or not at all.

    Args:
        records: In the order in which they shall stand.
        path: A file, or for `audiofolder` a folder.
        name: One of `FORMATS`.
        force: Replace what is there.
        link: For `audiofolder`, link to recordings rather than copy them.

    Returns:
        Recordings that could not be copied; their records are not in the folder.

    Raises:
        LabellingError: Unknown format, something is there already, or the disk is full.
    """
    chosen = check_format(name)
    if chosen.folder:
        with new_folder(path, METADATA, force) as folder:
            return _write_folder(records, folder, chosen, link)
    if path.exists() and not force:
        raise LabellingError(f"{path} exists already; choose another name, or give --force to replace it")
    rows = [_complete(chosen.row(record), record, chosen, path.parent) for record in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    if chosen.table:
        write_csv(path, rows, REST)
    else:
        write_atomically(path, _lines(rows))
    return ()


def _write_folder(records: Iterable[Record], folder: Path, chosen: Format, link: bool) -> tuple[Failure, ...]:
    rows, failures = [], []
    for record in records:
        try:
            place_audio(record, folder, link)
        except (OSError, ValueError, EdgeEmotionError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            failures.append(Failure(record.id, STEP, f"the recording could not be copied: {error}"))
        else:
            rows.append(_complete(chosen.row(record), record, chosen, folder))
    write_atomically(folder / METADATA, _lines(rows))
    return tuple(failures)


def _complete(row: Row, record: Record, chosen: Format, folder: Path) -> Row:
    """The row with `REST`: the fields that a reader of the row would not get, or not get right."""
    if chosen.row is Record.to_dict:
        return row
    true = record.to_dict()
    read = _parsed(chosen, row, folder, "", tolerant=True).record
    seen = read.to_dict() if read else {}
    rest = {
        field: value for field, value in true.items() if field not in seen or json_line(seen[field]) != json_line(value)
    }
    return {**row, REST: json_line(rest)}


def _restored(row: Any, chosen: Format, folder: Path, place: str) -> Outcome:
    """A record from a row; the fields of `REST` count before what the row shows."""
    if not isinstance(row, Mapping):
        return Outcome(None, (Failure(place, STEP, f"{place}: {row}"),))
    shown = {key: value for key, value in row.items() if key != REST}
    try:
        rest = json.loads(row[REST]) if row.get(REST) else {}
        outcome = _parsed(chosen, shown, folder, place, bool(rest))
        if not rest:
            return outcome
        seen = outcome.record.to_dict() if outcome.record else {}
        failures = tuple(failure for failure in outcome.failures if failure.lost and failure.lost not in rest)
        return Outcome(Record.from_dict({**seen, **rest}), failures)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return Outcome(None, (Failure(place, STEP, f"{place} is no row of this format ({error})"),))


def _parsed(chosen: Format, row: Mapping[str, Any], folder: Path, place: str, tolerant: bool) -> Outcome:
    """The row as a stranger reads it; nothing where that fails and `tolerant`, because then all is in `REST`."""
    try:
        return chosen.parse(row, folder, place)
    except (ValueError, TypeError, KeyError, AttributeError):
        if not tolerant:
            raise
        return Outcome(None)


def _lines(rows: Sequence[Row]) -> str:
    return "".join(json_line(row) + "\n" for row in rows)


def check_format(name: str) -> Format:
    """The format of a name.

    Raises:
        LabellingError: There is none.
    """
    if name not in FORMATS:
        raise LabellingError(f"unknown format {name!r}; formats are {', '.join(FORMATS)}")
    return FORMATS[name]
