"""audformat's CSV tables: an index of file, start and end (timedeltas), and one column for each thing that is known.

https://audeering.github.io/audformat: a segmented table; `end` is empty where the segment lasts to the end of the file.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .records import Outcome, Record
from .sources import record_of
from .store import write_atomically

INDEX = ("file", "start", "end")
CORPUS = "audformat"
NANOSECONDS = 10**9


def audformat_row(record: Record) -> dict[str, Any]:
    """A record as a line of a table; measures and levels are shown for those who work with tables."""
    row: dict[str, Any] = {
        "file": record.audio,
        "start": timedelta(record.start_s or 0.0),
        "end": "" if record.end_s is None else timedelta(record.end_s),
        "id": record.id,
        "corpus": record.corpus,
        "speaker": record.speaker,
        "emotion": record.emotion,
        "gender": record.gender,
        "language": record.language,
        "transcription": record.text,
    }
    # A byte of a file name that is no UTF-8 cannot stand in a table.
    row = {
        key: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for key, value in row.items()
    }
    row |= {name: measure.value for name, measure in (record.measures or {}).items()}
    return row | {f"level.{name}": level.level for name, level in (record.levels or {}).items()}


def parse_audformat(row: Mapping[str, Any], folder: Path, place: str) -> Outcome:
    """A line of a table as a record."""
    given = {key: value for key, value in row.items() if value not in (None, "", "NaT")}
    if _is_zero(given.get("start")):
        del given["start"]  # the whole file
    return record_of(given, folder, CORPUS, place)


def timedelta(seconds: float) -> str:
    """Seconds as pandas writes a timedelta: "0 days 00:00:01.500000000"."""
    total = round(seconds * NANOSECONDS)
    whole, nanoseconds = divmod(total, NANOSECONDS)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days} days {hour:02}:{minute:02}:{second:02}" + (f".{nanoseconds:09}" if nanoseconds else "")


def read_csv(path: Path) -> Iterator[tuple[int, Any]]:
    """Number and fields of each line."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the rest of a record is longer than csv's default of 128 KiB
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        for row in reader:
            yield reader.line_num, {key: value for key, value in row.items() if key is not None}


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], last: str) -> None:
    """All rows under the union of their columns: the index first, the column `last` last."""
    columns = dict.fromkeys([*INDEX, *(name for row in rows for name in row if name != last)])
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, [*columns, last], restval="", lineterminator="\r\n")  # as RFC 4180
    table.writeheader()
    table.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)
    write_atomically(path, buffer.getvalue())


def _is_zero(value: Any) -> bool:
    return value is not None and not any(digit in str(value) for digit in "123456789")
