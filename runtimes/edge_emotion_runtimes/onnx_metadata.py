"""The metadata of an ONNX file, read without loading its graph: neither the onnx package nor a session is needed."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from pathlib import Path

from edge_emotion.audio import SAMPLE_RATE_HZ
from edge_emotion.errors import BundleError

# Field numbers of ModelProto and StringStringEntryProto (onnx.proto).
_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2
_FIXED_SIZES = {1: 8, 5: 4}
_VARINT, _BYTES = 0, 2


def read_metadata(path: Path) -> dict[str, str]:
    """The file's `metadata_props`.

    Raises:
        BundleError: The file is missing or damaged.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            entries = [
                dict(_fields(data, *place)) for field, place in _fields(data, 0, len(data)) if field == _METADATA_PROPS
            ]
            return {_text(data, entry.get(_KEY)): _text(data, entry.get(_VALUE)) for entry in entries}
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise BundleError(f"{path}: not an ONNX file that can be read ({error}); fetch or export it again") from error


def rate_and_labels(metadata: dict[str, str], path: Path) -> tuple[int, tuple[str, ...]]:
    """Sample rate and labels, where the exporter wrote them into the file.

    Raises:
        BundleError: They cannot be read.
    """
    try:
        labels = json.loads(metadata.get("labels", "[]"))
        return int(metadata.get("sample_rate", SAMPLE_RATE_HZ)), tuple(map(str, labels))
    except (ValueError, TypeError) as error:
        raise BundleError(
            f"{path}: metadata sample_rate or labels cannot be read ({error}); export it again"
        ) from error


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Number and place of each field of a message; a varint's place is empty."""
    while start < end:
        tag, start = _varint(data, start)
        kind = tag & 7
        if kind == _VARINT:
            _, after = _varint(data, start)
            place = (start, start)
        elif kind == _BYTES:
            size, start = _varint(data, start)
            place, after = (start, start + size), start + size
        elif kind in _FIXED_SIZES:
            place, after = (start, start), start + _FIXED_SIZES[kind]
        else:
            raise ValueError(f"unknown wire type {kind}")
        if after > end:
            raise ValueError("it is cut off")
        yield tag >> 3, place
        start = after


def _varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        byte = data[start + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, start + place + 1
    raise ValueError("a number is too long")


def _text(data: mmap.mmap, place: tuple[int, int] | None) -> str:
    return data[place[0] : place[1]].decode() if place else ""
