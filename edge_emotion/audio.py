"""Recordings of any kind -> 16 kHz mono float32; what was odd about them is said in warnings.

Decoded by libsndfile and resampled by soxr, block by block, so that no header decides how much memory is taken.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from edge_emotion.errors import AudioError

if TYPE_CHECKING:
    from soundfile import SoundFile

SAMPLE_RATE_HZ = 16000
MAX_DURATION_S = 2 * 3600.0
MAX_STREAM_BYTES = 2**30
MAX_CHANNELS = 256
SOURCE_RATES_HZ = (1000, 768_000)
FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3")

# Small, since libsndfile loses the whole block in which a damaged file ends.
_BLOCK_FRAMES = 8192
# More than a float recording in int16 units; squares of larger values would overflow further on.
_ABSURD = 1e6
_HEADROOM = 8.0
_NEAR_FULL_SCALE = 0.98
_CLIPPED_SHARE = 1e-4
# Sizes that mean "not known yet" in the header of a stream.
_UNKNOWN_BYTES = 0x7FFFF000
_ALLOWED = (
    "Allowed: WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF, AU, CAF, W64, RF64. "
    "Convert other formats with `ffmpeg -i INPUT -ac 1 -ar 16000 OUTPUT.wav`."
)
_CUT_SHORT = re.compile(r"^\s*(?:data|SSND|Data Size|Riff size|riff)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_KNOWN_STARTS = (
    (4, b"ftyp", "an MP4 or M4A file"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM file"),
    (0, b"\x30\x26\xb2\x75", "a WMA or WMV file"),
    (0, b"#!AMR", "an AMR file"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"%PDF", "a PDF"),
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself (run `git lfs pull`)"),
)


@dataclass(frozen=True, eq=False)
class Audio:
    """A recording, ready to be analysed.

    Attributes:
        samples: (n,) float32 at 16 kHz, n >= 1, finite; full scale is 1.
        duration_s: n / 16000.
        source: Path or name of where it came from.
        source_rate_hz: Sample rate before resampling.
        source_channels: Number of channels before averaging.
        warnings: What was odd: clipping, values that are no numbers, missing parts, a low sample rate.
    """

    samples: np.ndarray
    duration_s: float
    source: str
    source_rate_hz: int
    source_channels: int
    warnings: tuple[str, ...] = ()


def load_audio(source: str | os.PathLike[str] | bytes | IO[bytes]) -> Audio:
    """Reads a recording.

    Args:
        source: Path of a file, the file's content as bytes, or an open binary file object. Any sample rate, number of
            channels (they are averaged) and sample format of WAV, FLAC, OGG, MP3 and what else libsndfile reads.

    Raises:
        AudioError: There is no such file, it is no audio that can be read, holds no samples, or is longer than
            `MAX_DURATION_S`.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), "bytes")
    if isinstance(source, (str, os.PathLike)):
        return _load_path(os.fspath(source))
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        name = name if isinstance(name, str) else "stream"
        return _decode(_read_all(source, name), name)
    hint = "; use from_samples(samples, sample_rate_hz)" if isinstance(source, np.ndarray) else ""
    raise AudioError(f"expected a path, bytes or a binary file object, given {type(source).__name__}{hint}")


def from_samples(samples: Any, sample_rate_hz: float, source: str = "array") -> Audio:
    """Takes samples from memory.

    Args:
        samples: (n,) or (n, channels): floats with full scale 1, or int8, uint8, int16, uint16, int32, uint32 with
            their own full scale.
        sample_rate_hz: Their sample rate.
        source: Name for messages and results.

    Raises:
        AudioError: The array is empty, of another shape or type, or the rate is impossible.
    """
    try:
        array = np.asarray(samples)
    except (ValueError, TypeError) as error:
        raise AudioError(f"{source}: not an array of samples ({error})") from None
    rate_hz = _whole_rate(sample_rate_hz, source)
    if array.ndim == 1:
        array = array[:, np.newaxis]
    if array.ndim != 2 or not 1 <= array.shape[1] <= MAX_CHANNELS:
        hint = " (transpose it?)" if array.ndim == 2 and array.shape[0] <= MAX_CHANNELS else ""
        raise AudioError(
            f"{source}: expected samples of shape (n,) or (n, channels) with 1 to {MAX_CHANNELS} channels, "
            f"given {np.shape(samples)}{hint}"
        )
    blocks = (_to_float(array[at : at + _BLOCK_FRAMES], source) for at in range(0, len(array), _BLOCK_FRAMES))
    return _assemble(blocks, source, rate_hz, array.shape[1], _Findings())


@dataclass
class _Findings:
    """What was counted while the blocks went through."""

    values: int = 0
    broken: int = 0
    clipped: int = 0
    channel_power: float = 0.0
    mono_power: float = 0.0
    extra: list[str] = field(default_factory=list)


def _assemble(blocks: Iterable[np.ndarray], source: str, rate_hz: int, channels: int, findings: _Findings) -> Audio:
    """Blocks of float32 (frames, channels) -> mono at 16 kHz; only one block at a time is held at the source's size."""
    resample = _resampler(rate_hz)
    pieces: list[np.ndarray] = []
    frames = 0
    for block in blocks:
        frames += len(block)
        if frames > MAX_DURATION_S * rate_hz:
            raise _too_long(source, None)
        pieces.append(resample(_mono(block, findings), False))
    if frames == 0:
        raise AudioError(f"{source}: holds no samples (0 s), so there is nothing to analyse; record or copy it again")
    pieces.append(resample(np.zeros(0, np.float32), True))
    samples = np.concatenate(pieces)
    wanted = max(1, round(frames * SAMPLE_RATE_HZ / rate_hz))
    if len(samples) < wanted:
        samples = np.pad(samples, (0, wanted - len(samples)))
    samples = samples[:wanted]
    peak = float(max(samples.max(), -samples.min()))
    if peak > _HEADROOM:
        samples = samples / np.float32(peak)
    warnings = tuple(findings.extra + _warnings(findings, rate_hz, channels, peak))
    return Audio(samples.astype(np.float32, copy=False), wanted / SAMPLE_RATE_HZ, source, rate_hz, channels, warnings)


def _resampler(rate_hz: int) -> Any:
    if rate_hz == SAMPLE_RATE_HZ:
        return lambda block, last: block
    import soxr

    stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ")
    return lambda block, last: stream.resample_chunk(block, last=last)


def _mono(block: np.ndarray, findings: _Findings) -> np.ndarray:
    usable = np.abs(block) < _ABSURD  # False for NaN too
    if not usable.all():
        findings.broken += int(usable.size - np.count_nonzero(usable))
        block = np.where(usable, block, np.float32(0.0))
    findings.values += block.size
    findings.clipped += _count_clipped(block)
    channels = block.shape[1]
    if channels == 1:
        return np.ascontiguousarray(block[:, 0])
    mono = block @ np.full(channels, 1.0 / channels, dtype=np.float32)
    findings.channel_power += float(np.vdot(block, block)) / channels
    findings.mono_power += float(np.vdot(mono, mono))
    return mono


def _count_clipped(block: np.ndarray) -> int:
    """Samples in flat tops: three or more equal values in a row close to full scale, which no natural sound has."""
    near = np.abs(block) >= _NEAR_FULL_SCALE
    if len(block) < 3 or not near.any():
        return 0
    flat = near[1:] & (block[1:] == block[:-1])
    middle = flat[1:] & flat[:-1]
    clipped = np.zeros(block.shape, dtype=bool)
    for offset in range(3):
        clipped[offset : offset + len(middle)] |= middle
    return int(np.count_nonzero(clipped))


def _warnings(findings: _Findings, rate_hz: int, channels: int, peak: float) -> list[str]:
    warnings = []
    if findings.broken:
        warnings.append(
            f"{findings.broken:,} of {findings.values:,} samples are NaN, infinite or absurdly large; "
            "they were replaced by 0"
        )
    share = findings.clipped / findings.values
    if share >= _CLIPPED_SHARE:
        warnings.append(f"clipped: {100 * share:.2g} % of the samples are cut off at full scale; record with less gain")
    if peak > _HEADROOM:
        warnings.append(f"samples reach {peak:,.0f} times full scale; they were scaled to a peak of 1")
    if channels > 1 and findings.mono_power < findings.channel_power / (10 * channels):
        warnings.append("the channels cancel each other when they are averaged; give one channel alone")
    if rate_hz < SAMPLE_RATE_HZ:
        warnings.append(f"recorded at {rate_hz:,} Hz: sounds above {rate_hz // 2:,} Hz are missing")
    return warnings


def _to_float(block: np.ndarray, source: str) -> np.ndarray:
    kind, size = block.dtype.kind, block.dtype.itemsize
    if kind == "f":
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which is counted as broken
            return block.astype(np.float32)
    if kind in "iu" and size <= 4:
        half = 2.0 ** (8 * size - 1)
        return ((block.astype(np.float64) - (half if kind == "u" else 0.0)) / half).astype(np.float32)
    raise AudioError(
        f"{source}: samples of type {block.dtype} have no known full scale; "
        "give floats with full scale 1, or int8, uint8, int16, uint16, int32, uint32"
    )


def _whole_rate(rate_hz: Any, source: str) -> int:
    low, high = SOURCE_RATES_HZ
    try:
        whole = int(rate_hz)
        good = whole == rate_hz and low <= whole <= high
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise AudioError(f"{source}: the sample rate must be from {low:,} to {high:,} Hz, given {rate_hz!r:.40}")
    return int(rate_hz)


def _too_long(source: str, duration_s: float | None) -> AudioError:
    length = "lasts longer than" if duration_s is None else f"lasts {duration_s / 3600:,.1f} h by its header, more than"
    return AudioError(
        f"{source}: {length} the allowed {MAX_DURATION_S / 3600:g} h; cut it first, for example with "
        "`ffmpeg -i INPUT -f segment -segment_time 3600 PART%03d.wav`"
    )


def _load_path(path: str) -> Audio:
    name = os.fsencode(path).decode("utf-8", "replace") if isinstance(path, str) else repr(path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"{name} is a folder; give the recordings in it, for example {name}/*.wav")
        if stat.S_ISREG(mode):
            return _decode(os.fsencode(path), name, is_path=True)
        if stat.S_ISFIFO(mode):
            with open(path, "rb") as pipe:
                return _decode(_read_all(pipe, name), name)
        raise AudioError(f"{name} is neither a file nor a pipe; give a recording")
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError(f"{name} does not exist{_near_names(path)}") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte
        raise AudioError(f"{name!r:.200} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _near_names(path: str) -> str:
    folder, wanted = os.path.split(path)
    try:
        near = difflib.get_close_matches(wanted, os.listdir(folder or "."), n=3, cutoff=0.6)
    except OSError:
        return f"; there is no folder {folder} either" if folder else ""
    return f"; did you mean {' or '.join(near)}?" if near else f"; look into {folder or 'this folder'} for its name"


def _read_all(stream: IO[bytes], name: str) -> bytes:
    try:
        content = stream.read(MAX_STREAM_BYTES + 1)
    except (OSError, ValueError) as error:
        raise AudioError(f"{name} cannot be read: {error}") from None
    if not isinstance(content, (bytes, bytearray)):
        raise AudioError(f"{name}: its read() gives {type(content).__name__}; open it in binary mode ('rb')")
    if len(content) > MAX_STREAM_BYTES:
        raise AudioError(f"{name}: more than {MAX_STREAM_BYTES // 2**20} MiB in memory are not allowed; give a path")
    return bytes(content)


class _Content(io.BytesIO):
    """Stays where it is on an impossible seek, as a file does, since an exception would be printed by the C binding."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with contextlib.suppress(ValueError, OverflowError):
            super().seek(offset, whence)
        return self.tell()


def _decode(content: bytes, name: str, is_path: bool = False) -> Audio:
    """Decodes a file's content, or the file with this path."""
    import soundfile

    class ForwardOnly(soundfile.SoundFile):
        """Never seeks: soundfile seeks after each block it reads, and libsndfile's MP3 decoder loses sound by it."""

        def seekable(self) -> bool:
            return False

    opened: Any = content if is_path else _Content(content)
    try:
        file = ForwardOnly(opened)
    except (soundfile.SoundFileError, TypeError, ValueError, OSError) as error:
        raise AudioError(_not_audio(content, name, is_path, error)) from None
    with file:
        if file.format not in FORMATS or file.channels > MAX_CHANNELS:
            what = f"{file.format} with {file.channels} channels"
            raise AudioError(f"{name} is not audio that can be read (it looks like {what}). {_ALLOWED}")
        rate_hz = _whole_rate(file.samplerate, name)
        if file.frames > MAX_DURATION_S * rate_hz:
            raise _too_long(name, file.frames / rate_hz)
        findings = _Findings()
        return _assemble(_decoded_blocks(file, findings), name, rate_hz, file.channels, findings)


def _decoded_blocks(file: SoundFile, findings: _Findings) -> Iterator[np.ndarray]:
    import soundfile

    frames = 0
    try:
        while len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
            frames += len(block)
            yield block
    except soundfile.SoundFileError:
        pass  # a damaged file: what came before is kept, what is missing is said below
    promised = max(file.frames, frames)
    for said, there in _CUT_SHORT.findall(file.extra_info):
        if 0 < int(there) < int(said) < _UNKNOWN_BYTES:
            promised = max(promised, math.ceil(frames * int(said) / int(there)))
    missing = promised - frames
    if missing > max(0.02 * file.samplerate, 0.001 * promised):
        findings.extra.append(
            f"cut short or damaged: the header promises {promised / file.samplerate:.2f} s, "
            f"{frames / file.samplerate:.2f} s could be read ({100 * missing / promised:.0f} % missing)"
        )


def _not_audio(content: bytes, name: str, is_path: bool, error: Exception) -> str:
    start = content[:512]
    if is_path:
        with open(content, "rb") as file:
            start = file.read(512)
    if not start:
        return f"{name} is empty (0 bytes); record or copy it again"
    kind = next((kind for at, magic, kind in _KNOWN_STARTS if start[at : at + len(magic)] == magic), None)
    if kind is None and all(byte >= 32 or byte in b"\t\n\r" for byte in start):
        kind = "text"
    if isinstance(error, TypeError):
        kind = "raw PCM by its name, which has no header"
    looks = f"it looks like {kind}" if kind else str(getattr(error, "error_string", error)).rstrip(".")
    return f"{name} is not audio that can be read ({looks}). {_ALLOWED}"
