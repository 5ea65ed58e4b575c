"""Hugging Face's audiofolder: recordings below `audio/`, and `metadata.jsonl` with a line for each.

Where a record is a part of a longer recording the part is cut out, because a line has no place for a span. Read on the
machine that wrote it, a record names its original recording again; anywhere else, the copy.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .clips import is_part, plain_name, write_clip
from .records import Outcome, Record
from .sources import record_of

log = logging.getLogger(__name__)

METADATA = "metadata.jsonl"
CORPUS = "audiofolder"


def audiofolder_row(record: Record) -> dict[str, Any]:
    """A record as a line of `metadata.jsonl`."""
    return {
        "file_name": file_name(record),
        "id": record.id,
        "corpus": record.corpus,
        "speaker": record.speaker,
        "emotion": record.emotion,
        "gender": record.gender,
        "language": record.language,
        "text": record.text,
        "reasoning": record.reasoning.text if record.reasoning else None,
        "source_audio": record.audio,
        "source_start_s": record.start_s,
        "source_end_s": record.end_s,
        "source_sha256": record.audio_sha256,
    }


def parse_audiofolder(row: Mapping[str, Any], folder: Path, place: str) -> Outcome:
    """A line of `metadata.jsonl` as a record."""
    source = {name: row.get(f"source_{name}") for name in ("audio", "start_s", "end_s", "sha256")}
    outcome = record_of({k: v for k, v in row.items() if not k.startswith("source_")}, folder, CORPUS, place)
    if outcome.record is None or not isinstance(source["audio"], str):
        return outcome
    part = source["start_s"] is not None or source["end_s"] is not None
    if not Path(source["audio"]).is_file():
        # The copy has the bytes of its source, unless it was cut out of it.
        return Outcome(replace(outcome.record, audio_sha256=None if part else source["sha256"]), outcome.failures)
    found = replace(
        outcome.record,
        audio=source["audio"],
        start_s=source["start_s"],
        end_s=source["end_s"],
        audio_sha256=source["sha256"],
    )
    return Outcome(found, outcome.failures)


def file_name(record: Record) -> str:
    """Where the recording of a record lies in the folder."""
    suffix = ".flac" if is_part(record) else Path(record.audio).suffix.lower()
    return f"audio/{plain_name(record.id)}{suffix}"


def place_audio(record: Record, folder: Path, link: bool) -> None:
    """Put the recording of a record into the folder.

    Args:
        record: The record.
        folder: Where `audio/` is.
        link: Link to the same bytes where the file system can, rather than copy them.

    Raises:
        OSError: The recording does not exist or the disk is full.
        AudioError: A part of it is wanted and it cannot be read.
        ValueError: The part lies outside it.
    """
    target = folder / file_name(record)
    target.parent.mkdir(exist_ok=True)
    if is_part(record):
        write_clip(record, target)
        return
    if link:
        try:
            os.link(os.path.realpath(record.audio), target)
            return
        except OSError as error:
            log.warning("%s cannot be linked (%s); it is copied", record.audio, error.strerror or error)
    shutil.copyfile(record.audio, target)
