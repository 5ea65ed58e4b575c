"""What `manifest.json` of a bundle says, and the strict reading of it: every problem is listed at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from edge_emotion.base_models import BaseModel
from edge_emotion.cues import Thresholds
from edge_emotion.errors import BundleError
from edge_emotion.prompt import Prompt

SCHEMA_VERSION = 1
MAX_FILE_BYTES = 2**40
# How a language model's file name ends -> the runtime that reads it.
LLM_RUNTIMES: Mapping[str, str] = {".onnx": "onnxruntime", ".gguf": "llama.cpp"}

# One spelling per file: relative, "/" between folders, no "." or ".." parts, nothing a file system may read otherwise.
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MISSING = object()


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 (64 lower-case hex digits) of one file of the bundle."""

    size: int
    sha256: str


@dataclass(frozen=True)
class EncoderVariant:
    """One ONNX file of the audio encoder, for example with precision `fp32` or `int8`."""

    file: str
    precision: str
    opset: int


@dataclass(frozen=True)
class EncoderSpec:
    """The audio encoder and its variants, the preferred one first."""

    variants: tuple[EncoderVariant, ...]
    sample_rate_hz: int
    embedding_dim: int
    tokens_per_second: float
    summary_tokens: int
    min_window_s: float
    max_window_s: float


@dataclass(frozen=True)
class LlmVariant:
    """One file of the language model: ONNX with quantisation `int8`, or GGUF with `Q8_0`, for example.

    Where `base` is given, the file is a LoRA adapter in GGUF of that published model, which the bundle does not hold.
    """

    file: str
    quantisation: str
    base: BaseModel | None = None

    @property
    def runtime(self) -> str:
        """The runtime that reads the file, by its ending (see `LLM_RUNTIMES`)."""
        return LLM_RUNTIMES[self.file[self.file.rindex(".") :]]


@dataclass(frozen=True)
class LlmSpec:
    """The language model and its variants, the preferred one first."""

    variants: tuple[LlmVariant, ...]
    architecture: str
    context_tokens: int


@dataclass(frozen=True)
class Calibration:
    """How scores become probabilities.

    Attributes:
        temperature: Divides the logits before the softmax, > 0.
        ece: Expected calibration error that was left after it, 0..1; None where it was never measured.
        abstain_below: A result whose confidence is lower than this is called uncertain, 0..1.
    """

    temperature: float
    ece: float | None
    abstain_below: float


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says; `calibration` has the key `llm`, and `head` where the encoder has an emotion head."""

    name: str
    version: str
    licence: str
    languages: tuple[str, ...]
    labels: tuple[str, ...]
    files: Mapping[str, FileEntry]
    encoder: EncoderSpec
    llm: LlmSpec
    prompt: Prompt
    thresholds: Thresholds
    calibration: Mapping[str, Calibration]
    provenance: Mapping[str, Any]
    receipts: Mapping[str, Any]
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "schema_version": self.schema_version,
            "name": self.name,
            "version": self.version,
            "licence": self.licence,
            "languages": list(self.languages),
            "labels": list(self.labels),
            "files": {name: asdict(entry) for name, entry in self.files.items()},
            "encoder": asdict(self.encoder) | {"variants": [asdict(variant) for variant in self.encoder.variants]},
            "llm": asdict(self.llm) | {"variants": [_without_none(asdict(v)) for v in self.llm.variants]},
            "prompt": self.prompt.to_dict(),
            "thresholds": self.thresholds.to_dict(),
            "calibration": {name: asdict(calibration) for name, calibration in self.calibration.items()},
            "provenance": dict(self.provenance),
            "receipts": dict(self.receipts),
        }

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, data: object) -> Manifest:
        """Inverse of `to_dict`, strict.

        Raises:
            BundleError: Lists every missing, unknown and impossible entry; a newer schema is refused before that.
        """
        _refuse_newer_schema(data)
        problems: list[str] = []
        manifest = _read_manifest(_Object(data, "", problems, [field.name for field in fields(cls)]))
        if problems:
            raise BundleError("the manifest is not valid:\n" + bullets(problems) + "\nExport the bundle again.")
        return manifest


def bullets(problems: Sequence[str], limit: int = 20) -> str:
    """Problems as an indented list, one a line."""
    shown = [f"  - {problem}" for problem in problems[:limit]]
    return "\n".join(shown + ([f"  - and {len(problems) - limit} more"] if len(problems) > limit else []))


def _refuse_newer_schema(data: object) -> None:
    version = data.get("schema_version") if isinstance(data, Mapping) else None
    if isinstance(version, int) and not isinstance(version, bool) and version > SCHEMA_VERSION:
        raise BundleError(
            f"the manifest has schema_version {_short(version)}, this edge-emotion reads up to {SCHEMA_VERSION}: "
            "upgrade it with `pip install --upgrade edge-emotion`"
        )


def _short(value: object) -> str:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


class _Object:
    """A JSON object with exactly the given keys, `optional` ones left out; readers note problems instead of raising.

    Every reader returns a value of the asked type whatever was found; it is used only if no problem was noted.
    """

    def __init__(
        self, value: object, place: str, problems: list[str], keys: Iterable[str], optional: Sequence[str] = ()
    ) -> None:
        self.place, self.problems, self.members = place, problems, {}
        if not isinstance(value, Mapping):
            self._note(place or "manifest", f"expected an object, given {_short(value)}")
            return
        keys = list(keys)
        for key in [key for key in keys if key not in value and key not in optional]:
            self._note(key, "missing")
        for key in [key for key in value if key not in keys]:
            self._note(_short(key).strip('"'), f"unknown; known here: {', '.join(keys)}")
        self.members = value

    def _note(self, key: str, problem: str) -> None:
        self.problems.append(f"{self.place}.{key}: {problem}".lstrip("."))

    def _expected(self, key: str, what: str) -> None:
        value = self.members.get(key, _MISSING)
        if value is not _MISSING:
            self._note(key, f"expected {what}, given {_short(value)}")

    def text(self, key: str, pattern: re.Pattern[str] | None = None, what: str = "a text that is not empty") -> str:
        value = self.members.get(key)
        if isinstance(value, str) and value.strip() and (pattern is None or pattern.fullmatch(value)):
            return value
        self._expected(key, what)
        return ""

    def integer(self, key: str, low: int, high: int) -> int:
        value = self.members.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self._expected(key, f"a whole number from {low:,} to {high:,}")
        return low

    def number(self, key: str, low: float, high: float) -> float:
        value = self.members.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
            return float(value)
        self._expected(key, f"a number from {low:g} to {high:g}")
        return high

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.members.get(key)
        if isinstance(value, (list, tuple)) and value and all(isinstance(item, str) and item.strip() for item in value):
            if len(set(value)) == len(value):
                return tuple(value)
            self._note(key, f"holds the same text twice: {_short(list(value))}")
            return ()
        self._expected(key, "a list of texts, none of them empty")
        return ()

    def object(self, key: str, keys: Iterable[str]) -> _Object:
        place = f"{self.place}.{key}".lstrip(".")
        if key in self.members:
            return _Object(self.members[key], place, self.problems, keys)
        return _Object({}, place, [], ())  # noted as missing already

    def objects(self, key: str, keys: Sequence[str], optional: Sequence[str] = ()) -> list[_Object]:
        value = self.members.get(key)
        if not isinstance(value, (list, tuple)) or not value:
            self._expected(key, "a list of objects that is not empty")
            return []
        place = f"{self.place}.{key}".lstrip(".")
        return [_Object(item, f"{place}[{index}]", self.problems, keys, optional) for index, item in enumerate(value)]

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.members.get(key)
        if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
            try:
                json.dumps(value, allow_nan=False)
                return dict(value)
            except (TypeError, ValueError, RecursionError):
                pass
        self._expected(key, "an object that JSON can hold")
        return {}


def _without_none(plain: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plain.items() if value is not None}


def _names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def _read_manifest(top: _Object) -> Manifest:
    top.integer("schema_version", 1, SCHEMA_VERSION)
    files = _read_files(top)
    manifest = Manifest(
        name=top.text("name"),
        version=top.text("version"),
        licence=top.text("licence"),
        languages=top.texts("languages"),
        labels=top.texts("labels"),
        files=files,
        encoder=_read_encoder(top.object("encoder", _names(EncoderSpec)), files),
        llm=_read_llm(top.object("llm", _names(LlmSpec)), files),
        prompt=_read_own(top, "prompt", Prompt),
        thresholds=_read_own(top, "thresholds", Thresholds),
        calibration=_read_calibration(top),
        provenance=top.mapping("provenance"),
        receipts=top.mapping("receipts"),
    )
    return manifest


def _read_files(top: _Object) -> dict[str, FileEntry]:
    names = top.mapping("files")
    table = top.object("files", names)
    if not names:
        top._expected("files", "at least one file with its size and sha256")
    seen: dict[str, str] = {}
    entries = {}
    for name in names:
        if len(name) > 200 or not _FILE_NAME.fullmatch(name):
            table._note(_short(name), "must be a relative path in the folder, of the characters A-Z a-z 0-9 . _ - /")
        elif name.lower() in seen:
            table._note(name, f"differs from {seen[name.lower()]!r} in capitals only")
        seen[name.lower()] = name
        entry = table.object(name, _names(FileEntry))
        sha256 = entry.text("sha256", _SHA256, "64 lower-case hex digits")
        entries[name] = FileEntry(entry.integer("size", 0, MAX_FILE_BYTES), sha256)
    return entries


def _read_encoder(table: _Object, files: Mapping[str, FileEntry]) -> EncoderSpec:
    variants = [
        EncoderVariant(_listed_file(variant, files), variant.text("precision"), variant.integer("opset", 1, 1000))
        for variant in table.objects("variants", _names(EncoderVariant))
    ]
    _refuse_repeats(table, [variant.precision for variant in variants])
    spec = EncoderSpec(
        variants=tuple(variants),
        sample_rate_hz=table.integer("sample_rate_hz", 1000, 384_000),
        embedding_dim=table.integer("embedding_dim", 1, 2**17),
        tokens_per_second=table.number("tokens_per_second", 0.01, 1000.0),
        summary_tokens=table.integer("summary_tokens", 0, 10_000),
        min_window_s=table.number("min_window_s", 0.0, 3600.0),
        max_window_s=table.number("max_window_s", 0.1, 3600.0),
    )
    if spec.min_window_s >= spec.max_window_s and {"min_window_s", "max_window_s"} <= set(table.members):
        table._note("min_window_s", f"must be below max_window_s ({spec.max_window_s:g}), given {spec.min_window_s:g}")
    return spec


def _read_llm(table: _Object, files: Mapping[str, FileEntry]) -> LlmSpec:
    variants = [
        LlmVariant(_listed_file(variant, files, tuple(LLM_RUNTIMES)), variant.text("quantisation"), _read_base(variant))
        for variant in table.objects("variants", _names(LlmVariant), optional=("base",))
    ]
    _refuse_repeats(table, [variant.quantisation for variant in variants])
    return LlmSpec(tuple(variants), table.text("architecture"), table.integer("context_tokens", 1, 2**24))


def _read_base(variant: _Object) -> BaseModel | None:
    if "base" not in variant.members:
        return None
    table = variant.object("base", _names(BaseModel))
    file = table.text("file", _FILE_NAME, "a file name of the characters A-Z a-z 0-9 . _ -")
    if variant.members.get("file") and not (file.endswith(".gguf") and str(variant.members["file"]).endswith(".gguf")):
        table._note("file", "base and adapter must both end in .gguf: no runtime puts another adapter on")
    sha256 = table.text("sha256", _SHA256, "64 lower-case hex digits")
    return BaseModel(file, table.integer("size", 1, MAX_FILE_BYTES), sha256)


def _read_calibration(top: _Object) -> dict[str, Calibration]:
    given = top.members.get("calibration")
    names = ("llm", "head") if not isinstance(given, Mapping) or "head" in given else ("llm",)
    table, calibration = top.object("calibration", names), {}
    for name in names:
        entry = table.object(name, _names(Calibration))
        measured = "ece" not in entry.members or entry.members["ece"] is not None
        temperature, ece = entry.number("temperature", 1e-3, 1e3), entry.number("ece", 0.0, 1.0) if measured else None
        calibration[name] = Calibration(temperature, ece, entry.number("abstain_below", 0.0, 1.0))
    return calibration


def _read_own(top: _Object, key: str, kind: Any) -> Any:
    """A part whose class has its own `from_dict`."""
    value = top.mapping(key)
    if not value:
        top._expected(key, "an object that is not empty")
        return None
    try:
        part = kind.from_dict(value)
        json.dumps(part.to_dict(), allow_nan=False)
        return part
    except KeyError as error:
        top._note(key, f"{error.args[0]} is missing")
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        top._note(key, str(error))
    return None


def _listed_file(variant: _Object, files: Mapping[str, FileEntry], endings: tuple[str, ...] = ("",)) -> str:
    name = variant.text("file")
    if name and name not in files:
        variant._note("file", f"{_short(name)} is not listed under files")
    elif name and not name.endswith(endings):
        variant._note("file", f"{_short(name)} must end in {' or '.join(endings)}: no runtime reads another file")
    return name


def _refuse_repeats(table: _Object, names: Sequence[str]) -> None:
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        table._note("variants", f"{_short(name)} is there twice")
