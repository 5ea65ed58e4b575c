"""Engines that TensorRT built on this machine, each in one file whose header says exactly what it is for.

An engine runs only with the TensorRT, CUDA, driver and GPU that it was built with, and TensorRT does not always notice.
So its file name is a hash of all of that, its header repeats it, and a checksum guards the rest. A file appears under
its name when it is complete. Two processes that want the same engine build it once: the second waits.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_emotion.errors import RuntimeUnavailableError

LOGGER = logging.getLogger("edge_emotion.tensorrt")
MAGIC = b"EDGE-EMOTION-ENGINE-1\n"
DEFAULT_MAX_BYTES = 8 * 2**30
_LARGEST_HEADER = 2**20
_LENGTH = struct.Struct("<I")


class EngineFileError(RuntimeUnavailableError):
    """A cached engine that is not whole, or not for this machine."""


@dataclass(frozen=True)
class EngineKey:
    """Everything that makes an engine valid.

    Attributes:
        onnx_sha256: Of the graph, and of its weights where they lie apart.
        tensorrt: Version of TensorRT.
        cuda: Version of the CUDA runtime.
        driver: Newest CUDA that the driver can do.
        gpu: Name of the GPU.
        compute_capability: Of the GPU.
        profiles: Fewest, usual and most samples of each optimisation profile.
        flags: How it was built.
    """

    onnx_sha256: tuple[str, ...]
    tensorrt: str
    cuda: str
    driver: str
    gpu: str
    compute_capability: str
    profiles: tuple[tuple[int, int, int], ...]
    flags: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return json.loads(json.dumps(asdict(self)))

    @property
    def name(self) -> str:
        """File name of its engine."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32] + ".engine"


def default_folder() -> Path:
    """Where engines are kept: EDGE_EMOTION_CACHE, else the user's cache folder."""
    given = os.environ.get("EDGE_EMOTION_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-emotion"
    return base / "engines"


class EngineCache:
    """A folder of engines.

    Args:
        folder: Where; made when the first engine is stored.
        max_bytes: Engines that were not used for longest are deleted when all together are larger than this.
    """

    def __init__(self, folder: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    def load(self, key: EngineKey) -> tuple[bytes, dict[str, Any]] | None:
        """The engine and its notes, or None if there is none.

        Raises:
            EngineFileError: It is damaged, or it is for something else than its name says; it is best discarded.
        """
        path = self.folder / key.name
        try:
            engine, header = read_engine(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EngineFileError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
        if differences := _differences(header.get("key", {}), key.to_dict()):
            raise EngineFileError(f"{path.name} was built for {differences}")
        with contextlib.suppress(OSError):
            os.utime(path)
        return engine, dict(header.get("notes", {}))

    def store(self, key: EngineKey, engine: bytes, notes: Mapping[str, Any]) -> Path:
        """Writes an engine; it appears when it is complete, and older ones make room for it.

        Raises:
            RuntimeUnavailableError: The folder cannot be written to, or the disk is full; nothing is left behind.
        """
        header = {"key": key.to_dict(), "notes": dict(notes), "size": len(engine), "sha256": _digest(engine)}
        text = json.dumps(header).encode()
        path = self.folder / key.name
        partial = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".", suffix=".partial", delete=False) as file:
                partial = Path(file.name)
                for part in (MAGIC, _LENGTH.pack(len(text)), text, engine):
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            if partial is not None:
                with contextlib.suppress(OSError):
                    partial.unlink()
            raise RuntimeUnavailableError(f"the engine cannot be kept in {self.folder}: {_reason(error)}") from error
        self._evict(keep=path)
        return path

    def discard(self, key: EngineKey) -> None:
        """Deletes an engine that turned out to be wrong."""
        with contextlib.suppress(OSError):
            (self.folder / key.name).unlink()

    @contextlib.contextmanager
    def building(self, key: EngineKey) -> Iterator[None]:
        """Only one process at a time is inside for a key; a lock whose owner died is free.

        Where the folder cannot be written to, nobody waits: each process builds for itself.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / f".{key.name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            LOGGER.info("no lock in %s: %s", self.folder, _reason(error))
            yield
            return
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                LOGGER.info("another process is building this engine; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def read_timing(self, name: str) -> bytes:
        """Timings of kernels that earlier builds measured; empty where there are none."""
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return b""

    def store_timing(self, name: str, timing: bytes) -> None:
        """Keeps timings for the next build; where that fails, it only takes longer."""
        partial = self.folder / f".{name}.{os.getpid()}.partial"
        try:
            partial.write_bytes(timing)
            os.replace(partial, self.folder / name)
        except OSError as error:
            LOGGER.info("timings are not kept: %s", _reason(error))
            with contextlib.suppress(OSError):
                partial.unlink()

    def _evict(self, keep: Path) -> None:
        """Deletes the engines that were unused for longest until the rest fits."""
        sizes = {}
        for path in self.folder.glob("*.engine"):
            with contextlib.suppress(OSError):
                status = path.stat()
                sizes[path] = (status.st_mtime_ns, status.st_size)
        total = sum(size for _, size in sizes.values())
        for path in sorted(sizes, key=lambda path: sizes[path]):
            if total <= self.max_bytes:
                return
            if path != keep:
                with contextlib.suppress(OSError):
                    path.unlink()
                    LOGGER.info("deleted the engine %s: the cache is larger than %d bytes", path.name, self.max_bytes)
                total -= sizes[path][1]


def read_engine(path: Path) -> tuple[bytes, dict[str, Any]]:
    """An engine and its header, if the file is whole.

    Raises:
        EngineFileError: It is not.
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        magic, length = file.read(len(MAGIC)), file.read(_LENGTH.size)
        size = _LENGTH.unpack(length)[0] if len(length) == _LENGTH.size else 0
        if magic != MAGIC or not 0 < size <= _LARGEST_HEADER:
            raise EngineFileError(f"{path.name} is damaged: it does not begin as an engine of edge-emotion does")
        try:
            header = json.loads(file.read(size))
            expected, digest = int(header["size"]), str(header["sha256"])
        except (ValueError, KeyError, TypeError) as error:
            raise EngineFileError(f"{path.name} is damaged: its header cannot be read") from error
        if os.fstat(file.fileno()).st_size != file.tell() + expected:
            raise EngineFileError(f"{path.name} is damaged: it is cut off, or longer than it says")
        engine = file.read()
    if _digest(engine) != digest:
        raise EngineFileError(f"{path.name} is damaged: its checksum is wrong")
    return engine, header


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What a header says that this machine is not."""
    if not isinstance(found, Mapping):
        return "something else"
    return ", ".join(
        f"{name} {_short(found.get(name))}, here it is {_short(value)}"
        for name, value in wanted.items()
        if found.get(name) != value
    )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; make room, or set EDGE_EMOTION_CACHE to a folder on another disk"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write there; set EDGE_EMOTION_CACHE to a folder that is yours"
    return error.strerror or str(error)


def graph_digests(path: Path, known: Sequence[str] = ()) -> tuple[str, ...]:
    """SHA-256 of a graph and, where its weights lie apart, of those; those already `known` are taken."""
    if known:
        return tuple(known)
    from edge_emotion.bundle import sha256_of

    return tuple(sha256_of(file) for file in (path, path.with_name(path.name + ".data")) if file.is_file())
