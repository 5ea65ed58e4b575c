"""The sound of a record: the file, or the part of it that the record names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import soundfile

from edge_emotion.audio import SAMPLE_RATE_HZ, load_audio
from edge_emotion_train.augment import Samples

from .records import Record


def load_clip(record: Record) -> Samples:
    """The samples of a record, 16 kHz mono.

    Raises:
        AudioError: The file cannot be read.
        ValueError: The part lies outside the file.
    """
    samples = load_audio(record.audio).samples
    start = round((record.start_s or 0.0) * SAMPLE_RATE_HZ)
    end = len(samples) if record.end_s is None else round(record.end_s * SAMPLE_RATE_HZ)
    if not 0 <= start < min(end, len(samples)):
        raise ValueError(f"the part from {record.start_s} to {record.end_s} s lies outside the recording")
    return samples[start:end]


def is_part(record: Record) -> bool:
    """Whether the record is a part of a longer recording."""
    return record.start_s is not None or record.end_s is not None


def write_clip(record: Record, path: Path) -> None:
    """Cut the part out into a FLAC file of 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, load_clip(record), SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")


def plain_name(record_id: str) -> str:
    """A file name without suffix: short, of plain letters, and another for each id."""
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in record_id)[-60:]
    return f"{plain}.{hashlib.sha256(record_id.encode('utf-8', 'surrogateescape')).hexdigest()[:10]}"
