"""Which runtime and variant of the audio encoder runs a bundle on this machine, opened and proved."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge_emotion.bundle import Bundle, verify_files
from edge_emotion.errors import BundleError, EdgeEmotionError, RuntimeUnavailableError
from edge_emotion.targets import TARGETS
from edge_emotion_runtimes import cuda_api, engine_cache, tensorrt_api
from edge_emotion_runtimes.interfaces import AudioEncoder
from edge_emotion_runtimes.onnx_encoder import OnnxEncoder
from edge_emotion_runtimes.onnx_session import CUDA_PROVIDER, TENSORRT_PROVIDER
from edge_emotion_runtimes.tensorrt_builder import profiles
from edge_emotion_runtimes.tensorrt_encoder import TensorrtEncoder

LOGGER = logging.getLogger("edge_emotion.selection")

DEVICES = ("auto", "cpu", "cuda")
ONNXRUNTIME, TENSORRT, ONNXRUNTIME_TENSORRT = "onnxruntime", "tensorrt", "onnxruntime-tensorrt"
ENCODER_RUNTIMES = (ONNXRUNTIME, TENSORRT, ONNXRUNTIME_TENSORRT)
BEST_ON_CPU = "int8"
# float16 first: int8 is seldom faster at these sizes, and costs accuracy. int8 of the processor is not among them.
_BEST_ON_GPU = ("fp16", "fp32", "int8-qdq")
_PROVIDERS = {ONNXRUNTIME: (CUDA_PROVIDER,), ONNXRUNTIME_TENSORRT: (TENSORRT_PROVIDER, CUDA_PROVIDER)}
_MEASURED_S, _MEASURED_RUNS = 3.0, 3


@dataclass(frozen=True)
class OpenedEncoder:
    """What runs.

    Attributes:
        encoder: The encoder.
        device: `cpu` or `cuda`, and why.
        reason: Its precision and runtime, and why.
        fallbacks: What was asked for before it and does not run here.
    """

    encoder: AudioEncoder
    device: str
    reason: str
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    runtime: str
    device: str
    precision: str
    file: str
    reason: str
    asked: bool
    """Whether running something else is a fallback; else it is only another choice."""


def open_encoder(bundle: Bundle, asked: str = "auto", device: str = "auto", strict: bool = False) -> OpenedEncoder:
    """Opens the best encoder that can be had.

    Args:
        bundle: The bundle; the files that are opened are verified.
        asked: `auto`; a precision as the bundle names it; a runtime (`onnxruntime`, `tensorrt`,
            `onnxruntime-tensorrt`); or both, as `tensorrt/fp16`.
        device: `cpu`, `cuda`, `cuda:1` for the second GPU, or `auto`, which on a machine with a GPU measures both and
            takes the faster.
        strict: Anything but what was asked for is an error instead of a recorded fallback.

    Raises:
        BundleError: The bundle has no such variant, or a file is damaged.
        RuntimeUnavailableError: Nothing can be opened, or under `strict` not what was asked for.
    """
    device, gpu = read_device(device)
    runtime, precision = _read(asked, bundle)
    why_cpu = "asked for"
    if device == "auto":
        absent = _why_no_gpu(gpu)
        if absent and runtime not in (TENSORRT, ONNXRUNTIME_TENSORRT):
            device, why_cpu = "cpu", f"no GPU that CUDA can use ({absent})"
    on_cpu = _on_cpu(bundle, precision, device == "cpu", why_cpu)
    if device == "cpu" and runtime not in (TENSORRT, ONNXRUNTIME_TENSORRT):
        candidates = [on_cpu]
    else:
        candidates = [*_on_gpu(bundle, runtime, precision, device == "cuda" or runtime != ""), on_cpu]
    measured = device == "auto" and runtime == "" and len(candidates) > 1
    opened = _first(candidates, bundle, strict, gpu)
    if measured and opened.device.startswith("cuda"):
        return _faster(opened, lambda: _first([on_cpu], bundle, strict, gpu))
    return opened


def read_device(device: str) -> tuple[str, int]:
    """Kind of a device and number of the GPU.

    Raises:
        RuntimeUnavailableError: There is no such kind.
    """
    kind, colon, number = device.partition(":")
    if kind not in DEVICES or (colon and not (kind == "cuda" and number.isdecimal() and number.isascii())):
        raise RuntimeUnavailableError(f"unknown device {device!r}; allowed: {', '.join(DEVICES)}, cuda:1")
    return kind, int(number or 0)


def may_build(asked: str, device: str) -> bool:
    """Whether opening it may build an engine, which wants the memory for itself."""
    kind, gpu = read_device(device)
    runtime = asked.partition("/")[0]
    return runtime in (TENSORRT, ONNXRUNTIME_TENSORRT) or (kind != "cpu" and not _why_no_gpu(gpu))


def _read(asked: str, bundle: Bundle) -> tuple[str, str]:
    """Runtime and precision asked for; empty where that is left open."""
    precisions = [variant.precision for variant in bundle.manifest.encoder.variants]
    if asked == "auto":
        return "", ""
    runtime, slash, precision = asked.partition("/")
    if not slash and asked in precisions:
        return "", asked
    if runtime not in ENCODER_RUNTIMES or (slash and precision not in precisions):
        known = ", ".join([*precisions, *ENCODER_RUNTIMES])
        raise BundleError(f"bundle {bundle.manifest.name!r} has no encoder {asked!r}; it has: {known}, or give auto")
    return runtime, precision


def _why_no_gpu(gpu: int) -> str:
    """Empty where there is one."""
    try:
        cuda_api.device(gpu)
    except RuntimeUnavailableError as error:
        return str(error)
    return ""


def _files(bundle: Bundle) -> dict[str, str]:
    return {variant.precision: variant.file for variant in bundle.manifest.encoder.variants}


def _on_cpu(bundle: Bundle, precision: str, asked: bool, why: str) -> _Candidate:
    """The variant asked for, or the best for a processor, or the bundle's first."""
    files = _files(bundle)
    if precision:
        reason = f"{precision}: asked for"
    elif BEST_ON_CPU in files:
        precision, reason = BEST_ON_CPU, f"{BEST_ON_CPU}: preferred on a processor among {', '.join(files)}"
    else:
        precision = next(iter(files))
        reason = f"{precision}: the bundle's preferred variant, it has no {BEST_ON_CPU}"
    return _Candidate(ONNXRUNTIME, f"cpu: {why}", precision, files[precision], reason, asked)


def _on_gpu(bundle: Bundle, runtime: str, precision: str, asked: bool) -> list[_Candidate]:
    """TensorRT where it is installed or asked for, then onnxruntime."""
    files = _files(bundle)
    if not precision:
        precision = next((name for name in _BEST_ON_GPU if name in files), next(iter(files)))
        why = f"preferred on a GPU among {', '.join(files)}"
    else:
        why = "asked for"
    runtimes = [runtime] if runtime else [*([TENSORRT] * tensorrt_api.is_installed()), ONNXRUNTIME]
    return [
        _Candidate(name, "cuda: asked for", precision, files[precision], f"{precision} on {name}: {why}", asked)
        for name in runtimes
    ]


def _first(candidates: Sequence[_Candidate], bundle: Bundle, strict: bool, gpu: int) -> OpenedEncoder:
    """The first candidate that runs where it is meant to, and the fallbacks on the way to it."""
    fallbacks: list[str] = []
    problem: EdgeEmotionError | None = None
    for place, candidate in enumerate(candidates):
        verify_files(bundle.path, bundle.manifest, bundle.files_of(candidate.file))
        last = place == len(candidates) - 1
        try:
            encoder = _open(candidate, bundle, gpu)
        except (RuntimeUnavailableError, BundleError) as error:
            # A file that does not match the manifest was refused above: here a runtime cannot take a good file.
            if last:
                raise problem or error from error
            if strict and candidate.asked and not _may_still_be_had(candidates[place + 1 :]):
                raise
            problem = problem or error
            fallbacks += [f"encoder: {candidate.file} was to run on {candidate.runtime}: {error}"] * candidate.asked
            continue
        return OpenedEncoder(encoder, candidate.device, candidate.reason, tuple(fallbacks))
    raise problem or RuntimeUnavailableError(f"bundle {bundle.manifest.name!r} has no encoder that can be opened")


def _may_still_be_had(others: Sequence[_Candidate]) -> bool:
    """Whether another candidate is what was asked for, too."""
    return any(candidate.asked for candidate in others)


def _open(candidate: _Candidate, bundle: Bundle, gpu: int) -> AudioEncoder:
    """An encoder that runs on the device that it is meant for.

    Raises:
        RuntimeUnavailableError: It does not.
        BundleError: The runtime cannot take the file.
    """
    path, spec = bundle.path / candidate.file, bundle.manifest.encoder
    digests = [bundle.manifest.files[name].sha256 for name in bundle.files_of(candidate.file)]
    shortest, longest = (round(value * spec.sample_rate_hz) for value in (spec.min_window_s, spec.max_window_s))
    if candidate.runtime == TENSORRT:
        return TensorrtEncoder(path, gpu, shortest, longest, digests=digests)
    if candidate.device.startswith("cpu"):
        return OnnxEncoder(path)
    options = provider_options(bundle.manifest.provenance, digests, profiles(shortest, longest))
    return OnnxEncoder(path, None, _PROVIDERS[candidate.runtime], True, options, gpu)


def provider_options(
    provenance: Mapping[str, Any], digests: Sequence[str], ranges: Sequence[tuple[int, int, int]]
) -> dict[str, dict[str, str]]:
    """Options of onnxruntime's providers: those of the target that the bundle was exported for, else a desktop's.

    TensorRT's engines are kept in a folder of this graph's: onnxruntime names them without what is in it.
    """
    target = provenance.get("target")
    given = target.get("provider_options") if isinstance(target, Mapping) else None
    base = given if isinstance(given, Mapping) else TARGETS["desktop-cuda"].provider_options
    options = {name: {str(key): str(value) for key, value in dict(values).items()} for name, values in base.items()}
    folder = str(engine_cache.default_folder() / "onnxruntime" / "-".join(digest[:16] for digest in digests))
    shapes = {
        f"trt_profile_{name}_shapes": ",".join(f"waveform:1x{range_[place]}" for range_ in ranges)
        for place, name in enumerate(("min", "opt", "max"))
    }
    own = {"trt_engine_cache_path": folder, "trt_timing_cache_path": folder, **shapes}
    options[TENSORRT_PROVIDER] = own | options.get(TENSORRT_PROVIDER, {})
    return options


def _faster(on_gpu: OpenedEncoder, open_on_cpu: Callable[[], OpenedEncoder]) -> OpenedEncoder:
    """Of both, the one that encodes a short sound sooner; the other is closed."""
    on_cpu = open_on_cpu()
    times_ms = [1000 * _seconds(opened.encoder) for opened in (on_gpu, on_cpu)]
    on_device = f"{times_ms[0]:.1f} ms for {_MEASURED_S:g} s of sound, {times_ms[1]:.1f} ms on the processor"
    LOGGER.info("measured: %s", on_device)
    kept, dropped = (on_gpu, on_cpu) if times_ms[0] <= times_ms[1] else (on_cpu, on_gpu)
    dropped.encoder.close()
    name = "cuda" if kept is on_gpu else "cpu"
    return replace(kept, device=f"{name}: the faster, {on_device}")


def _seconds(encoder: AudioEncoder) -> float:
    """Median time of a few runs after the first, which prepares."""

    def runs() -> Iterator[float]:
        samples = np.random.default_rng(0).normal(0, 0.1, round(_MEASURED_S * 16000)).astype(np.float32)
        for _ in range(_MEASURED_RUNS + 1):
            started = time.perf_counter()
            encoder.encode(samples)
            yield time.perf_counter() - started

    return statistics.median([*runs()][1:])
