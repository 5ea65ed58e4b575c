"""The keys at the start of a GGUF file, read without its library: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

from edge_emotion.errors import BundleError

# GGUF's value types that are one number each, as `struct` names them; 8 is a text, 9 an array.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_MOST_KEYS, _MOST_ITEMS, _MOST_TEXT_BYTES = 4096, 2**22, 2**26


def read_gguf_keys(path: Path) -> dict[str, Any]:
    """Key -> value of every key; of an array only its length, since nothing here needs the items.

    Raises:
        BundleError: The file cannot be read or is no GGUF of version 2 or 3.
    """
    try:
        with path.open("rb") as file:
            magic, version, _, count = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF" or version not in (2, 3) or count > _MOST_KEYS:
                raise ValueError(f"magic {magic!r}, version {version}, {count} keys")
            return {_text(file): _value(file, _number(file, "I")) for _ in range(count)}
    except (OSError, ValueError, struct.error) as error:
        raise BundleError(f"{path.name}: no GGUF header that can be read ({error}); get the bundle again") from error


def _number(file: BinaryIO, kind: str) -> Any:
    return struct.unpack(f"<{kind}", file.read(struct.calcsize(f"<{kind}")))[0]


def _text(file: BinaryIO) -> str:
    length = _number(file, "Q")
    if length > _MOST_TEXT_BYTES:
        raise ValueError(f"a text of {length} bytes")
    return file.read(length).decode("utf-8", "replace")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind in _NUMBERS:
        return _number(file, _NUMBERS[kind])
    if kind == _TEXT:
        return _text(file)
    if kind != _ARRAY:
        raise ValueError(f"value of type {kind}")
    item, length = _number(file, "I"), _number(file, "Q")
    if length > _MOST_ITEMS or item not in (*_NUMBERS, _TEXT):
        raise ValueError(f"an array of {length} items of type {item}")
    if item == _TEXT:
        for _ in range(length):
            file.seek(min(_number(file, "Q"), _MOST_TEXT_BYTES), 1)
    else:
        file.seek(length * struct.calcsize(f"<{_NUMBERS[item]}"), 1)
    return length
