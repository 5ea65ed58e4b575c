"""What a step has done so far, on disk: a journal while it runs, the published output afterwards.

A line of the journal is `key TAB record TAB failures`, the last two as JSON, which holds no bare tab. It is only ever
appended to; a line that was cut off by a crash is dropped when it is opened again. The published output has a key file
beside it that says which line was made from which input, so that a later run takes over what has not changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NamedTuple

from edge_emotion.errors import LabellingError

from .records import Failure, json_line

SYNC_EVERY_S = 5.0
NO_FAILURES = "[]"


class Entry(NamedTuple):
    """Where the result of one record lies.

    Attributes:
        path: File that holds its line.
        offset: First byte of the line.
        length: Bytes of the line without its end; None where the record is lost.
        failures: What went wrong, as JSON.
    """

    path: Path
    offset: int
    length: int | None
    failures: str


class Journal:
    """Results in the order in which they were ready.

    Args:
        path: The file; made if it does not exist.
        settings: Hash of everything that results depend on beside the input.

    Raises:
        LabellingError: The file belongs to a run with other settings, or cannot be opened.
    """

    def __init__(self, path: Path, settings: str) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self._synced_at = time.monotonic()
        header = settings.encode() + b"\n"
        try:
            # Unbuffered: nothing may be left in memory when a disk is full or the process is killed.
            self._file = path.open("ab", buffering=0)
            self._size = self._read(header)
            self._file.truncate(self._size)
        except OSError as error:
            raise _cannot_write(path, error) from None
        if self._size == 0:
            self._write(header)

    def append(self, key: str, line: str | None, failures: Iterable[Failure]) -> None:
        """Adds a result; it survives the death of this process from now on, and that of the machine seconds later.

        Raises:
            LabellingError: The disk is full or failing.
        """
        text = json_line([failure.to_dict() for failure in failures])
        record = (line or "").encode()
        entry = Entry(self.path, self._size + len(key) + 1, len(record) or None, text)
        self._write(b"\t".join((key.encode(), record, text.encode())) + b"\n")
        self.entries[key] = entry

    def close(self) -> None:
        """Closes the file and leaves it where it is."""
        self._file.close()

    def _write(self, content: bytes) -> None:
        try:
            written = 0
            while written < len(content):
                written += self._file.write(content[written:])
            if time.monotonic() - self._synced_at > SYNC_EVERY_S:
                os.fsync(self._file.fileno())
                self._synced_at = time.monotonic()
        except OSError as error:
            raise _cannot_write(self.path, error) from None  # half a line is dropped when it is opened again
        self._size += len(content)

    def _read(self, header: bytes) -> int:
        """Reads what is there; returns up to which byte it is whole."""
        with self.path.open("rb") as file:
            first = file.readline()
            if not first.endswith(b"\n"):
                return 0
            if first != header:
                raise LabellingError(
                    f"{self.path} holds the results of a run with other settings that did not finish; finish it with "
                    "its own settings, choose another folder, or give --force to throw it away"
                )
            size = len(first)
            for raw in file:
                parts = raw.rstrip(b"\n").split(b"\t")
                if not raw.endswith(b"\n") or len(parts) != 3:
                    break
                key, line, failures = parts
                self.entries[key.decode()] = Entry(self.path, size + len(key) + 1, len(line) or None, failures.decode())
                size += len(raw)
        return size


class Published(NamedTuple):
    """An output of an earlier run.

    Attributes:
        settings: Hash of its settings.
        entries: Key to result, in the order of its source.
    """

    settings: str
    entries: dict[str, Entry]


def publish(output: Path, settings: str, results: Iterable[tuple[str, Entry]]) -> str:
    """Writes an output and its key file, so that a crash at any moment leaves the old or the new pair.

    Args:
        output: For example `measured.jsonl`.
        settings: Hash of the settings.
        results: Key and result of each record, in the order of the source.

    Returns:
        SHA-256 of the output.

    Raises:
        LabellingError: The disk is full or failing; what was there before is untouched.
    """
    part, keys_part = _part(output), _part(keys_path(output))
    digest = hashlib.sha256()
    open_files: dict[Path, IO[bytes]] = {}
    try:
        with contextlib.ExitStack() as stack:
            lines, keys = (stack.enter_context(path.open("wb")) for path in (part, keys_part))
            for key, entry in results:
                keys.write(f"{key}\t{'' if entry.length is None else entry.length}\t{entry.failures}\n".encode())
                if entry.length is None:
                    continue
                if entry.path not in open_files:
                    open_files[entry.path] = stack.enter_context(entry.path.open("rb"))
                open_files[entry.path].seek(entry.offset)
                line = open_files[entry.path].read(entry.length) + b"\n"
                digest.update(line)
                lines.write(line)
            keys.write(json.dumps({"settings": settings, "output_sha256": digest.hexdigest()}).encode() + b"\n")
            for file in (lines, keys):
                file.flush()
                os.fsync(file.fileno())
        part.replace(output)
        keys_part.replace(keys_path(output))
    except OSError as error:
        raise _cannot_write(output, error) from None
    return digest.hexdigest()


def read_published(output: Path) -> Published | None:
    """An output with its key file; None where there is no output.

    Raises:
        LabellingError: The output is not what its key file says.
    """
    if not output.exists():
        return None
    actual = file_sha256(output)
    # A crash between the two renames leaves the new key file under its temporary name.
    for path in (keys_path(output), _part(keys_path(output))):
        try:
            *rows, footer = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
            about = json.loads(footer)
        except (OSError, ValueError):
            continue
        if about.get("output_sha256") == actual:
            if path != keys_path(output):
                path.replace(keys_path(output))
            return Published(about["settings"], dict(_published_entries(output, rows)))
    raise LabellingError(
        f"{output} was changed, or was not written here, so it cannot be continued; "
        "choose another folder, or give --force to make it anew"
    )


def published_failures(output: Path) -> list[dict[str, Any]]:
    """What went wrong on the way to an output, in the order of its source; nothing where there is no key file."""
    try:
        rows = keys_path(output).read_text(encoding="utf-8").rstrip("\n").split("\n")[:-1]
    except OSError:
        return []
    texts = (row.split("\t")[2] for row in rows)
    return [failure for text in texts if text != NO_FAILURES for failure in json.loads(text)]


def _published_entries(output: Path, rows: Iterable[str]) -> Iterator[tuple[str, Entry]]:
    offset = 0
    for row in rows:
        key, length, failures = row.split("\t")
        yield key, Entry(output, offset, int(length) if length else None, failures)
        offset += int(length) + 1 if length else 0


def keys_path(output: Path) -> Path:
    """The file beside an output that says which line was made from which input."""
    return output.with_name(f".{output.stem}.keys")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def code_sha256(*modules: ModuleType) -> str:
    """SHA-256 of the source of modules and of all in packages: results are taken over from the same code only."""
    digest = hashlib.sha256()
    for module in modules:
        folders = getattr(module, "__path__", None)
        files = sorted(Path(folders[0]).rglob("*.py")) if folders else [Path(str(module.__file__))]
        for file in files:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Writes a small file under a temporary name and renames it.

    Raises:
        LabellingError: The disk is full or failing.
    """
    try:
        with _part(path).open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _part(path).replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from None


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name.lstrip('.')}.part")


def _cannot_write(path: Path, error: OSError) -> LabellingError:
    return LabellingError(
        f"{path} cannot be written: {error.strerror or error}. What is done so far is kept: make room, then give the "
        "same command again to go on"
    )
