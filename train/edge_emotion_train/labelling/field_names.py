"""The names that sources give to the fields of a record: one place for all readers.

A reader looks for each field under these names, the first one that is there and not empty counts, and what it does not
know travels in `Record.extra` under its own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIELD_NAMES: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "clip_id", "utterance_id", "utt_id"),
    "audio": ("audio", "audio_path", "path", "file", "file_name", "filename", "wav"),
    "speaker": ("speaker", "speaker_id", "spk"),
    "emotion": ("emotion", "gt", "groundtruth_emotion", "label"),
    "language": ("language", "lang"),
    "text": ("text", "transcription", "transcript", "sentence"),
    "gender": ("gender", "gender_new", "speaker_gender", "sex"),
    "split": ("split", "partition"),
    "corpus": ("corpus", "dataset"),
    "start_s": ("start_s", "start"),
    "end_s": ("end_s", "end"),
    "words": ("words",),
}
WORD_FIELD_NAMES: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "word"),
    "start_s": ("start_s", "start"),
    "end_s": ("end_s", "end"),
}
GENDERS: Mapping[str, str] = {
    "female": "female", "f": "female", "woman": "female", "w": "female",
    "male": "male", "m": "male", "man": "male",
}  # fmt: skip


def known_fields(
    row: Mapping[str, Any], names: Mapping[str, tuple[str, ...]] = FIELD_NAMES
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that we know under our names, and all others under theirs.

    Empty strings count as not given. A second name of a field that is filled already stays with the others.
    """
    known: dict[str, Any] = {}
    used = set()
    for field, aliases in names.items():
        for alias in aliases:
            if row.get(alias) not in (None, ""):
                known[field] = row[alias]
                used.add(alias)
                break
    empty = {alias for aliases in names.values() for alias in aliases if row.get(alias) in (None, "")}
    return known, {key: value for key, value in row.items() if key not in used and key not in empty}
