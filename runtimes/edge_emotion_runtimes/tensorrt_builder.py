"""Builds a TensorRT engine from an ONNX file, with names only that TensorRT 10.3 to 11.4 all have.

Strongly typed: what is float16 or int8 is so in the graph. Three optimisation profiles, because an engine that is tuned
for 30 s is slow on 3 s.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edge_emotion.errors import BundleError, RuntimeUnavailableError

LOGGER = logging.getLogger("edge_emotion.tensorrt")
INPUT_NAME = "waveform"
# Longest sound of each profile; the last one is the longest window of a bundle.
PROFILES_S = (5.0, 15.0, 30.0)
OPTIMISATION_LEVEL = 3
# TensorRT holds the weights as it read them, as it tries them, and as it serialises them: people who build on Jetson
# report 3 to 4 times a model's size. TensorRT-RTX took 4.8 GB for the 1.28 GB of Qwen2.5-Omni's tower in fp16, and
# 3.1 GB for its 0.76 GB in int8 (benchmarks/tensorrt_compile.py). `edge-emotion plan` reckons with these, too.
BUILD_FACTOR, BUILD_BASE_BYTES = 4, 700_000_000
WORKSPACE_SHARE = 0.5


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built.

    Attributes:
        optimisation_level: TensorRT's, 0 to 5: more takes longer to build and may run faster.
        workspace_bytes: Most memory that one layer may use to work in; None leaves it to TensorRT.
        tf32: Let float32 layers round to 10 bits of mantissa; off, because the front end is in float32 on purpose.
    """

    optimisation_level: int = OPTIMISATION_LEVEL
    workspace_bytes: int | None = None
    tf32: bool = False

    def flags(self) -> tuple[tuple[str, str], ...]:
        """What an engine's key says of it; the workspace is left out, it changes speed only."""
        return (("optimisation_level", str(self.optimisation_level)), ("tf32", str(self.tf32)))


@dataclass(frozen=True)
class Built:
    """An engine as bytes, the kernel timings measured for it, and how long it took."""

    engine: bytes
    timing: bytes
    layers: int
    parse_s: float
    build_s: float


def profiles(min_samples: int, max_samples: int, sample_rate_hz: int = 16000) -> tuple[tuple[int, int, int], ...]:
    """Fewest, usual and most samples of each optimisation profile: each begins where the one before it ends."""
    ends = [round(end_s * sample_rate_hz) for end_s in PROFILES_S]
    ends = [end for end in ends if min_samples < end < max_samples] + [max_samples]
    starts = [min_samples, *(end + 1 for end in ends[:-1])]
    return tuple((start, (start + end) // 2, end) for start, end in zip(starts, ends, strict=True))


def check_memory(weights_bytes: int, available_bytes: int, where: str) -> None:
    """Refuses a build that would end in the system killing a process.

    Raises:
        RuntimeUnavailableError: Too little memory is available; says how much is needed.
    """
    needed = BUILD_FACTOR * weights_bytes + BUILD_BASE_BYTES
    if needed > available_bytes:
        raise RuntimeUnavailableError(
            f"building this engine takes about {needed / 2**30:.1f} GiB, {available_bytes / 2**30:.1f} GiB of {where} "
            "are available: stop what else runs, add swap, build it before the language model is loaded, or choose a "
            "smaller variant"
        )


def available_memory() -> int:
    """Bytes of the host's memory that could be had without swapping.

    On a Jetson that is the GPU's memory, too; what the GPU itself calls free leaves out what the system could drop.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        return 2**62  # unknown: nothing is refused


def build_engine(
    tensorrt: ModuleType,
    logger: Any,
    path: Path,
    ranges: Sequence[tuple[int, int, int]],
    options: BuildOptions | None = None,
    timing: bytes = b"",
) -> Built:
    """Parses and compiles a graph; takes from seconds to many minutes.

    Args:
        tensorrt: The bindings' module.
        logger: As `tensorrt_api.create_logger` makes it.
        path: The ONNX file; a file with its weights must lie beside it.
        ranges: As `profiles` gives them.
        options: How to build.
        timing: Kernel timings of earlier builds.

    Raises:
        BundleError: TensorRT cannot take the graph; names the nodes.
        RuntimeUnavailableError: The build failed; says TensorRT's reason.
    """
    options = options or BuildOptions()
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    started = time.monotonic()
    _parse(tensorrt, logger, network, path)
    parsed = time.monotonic()
    config = builder.create_builder_config()
    config.builder_optimization_level = options.optimisation_level
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if not options.tf32:
        config.clear_flag(tensorrt.BuilderFlag.TF32)
    for fewest, usual, most in ranges:
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT_NAME, (1, fewest), (1, usual), (1, most))
        if config.add_optimization_profile(profile) < 0:
            raise RuntimeUnavailableError(f"TensorRT refuses sounds of {fewest} to {most} samples: {logger.recent()}")
    cache = _timing_cache(config, timing)
    LOGGER.info("building an engine from %s; this may take minutes", path.name)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeUnavailableError(_why_not(path, logger.recent()))
    measured = bytes(cache.serialize()) if cache is not None else b""
    return Built(bytes(engine), measured, network.num_layers, parsed - started, time.monotonic() - parsed)


def _parse(tensorrt: ModuleType, logger: Any, network: Any, path: Path) -> None:
    parser = tensorrt.OnnxParser(network, logger)
    # From the file, not from bytes: weights in another file are found beside it.
    if parser.parse_from_file(str(path)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    # Its description of a node that is not supported may be just "false".
    nodes = [
        f"{error.node_name() or error.node()} ({error.node_operator()}): {error.desc().replace('false', 'unsupported')}"
        for error in errors
    ]
    listed = "; ".join(nodes[:5]) + (f"; and {len(nodes) - 5} more" if len(nodes) > 5 else "")
    raise BundleError(
        f"{path.name} is not for TensorRT ({listed or logger.recent()}); choose the precision fp16 or int8-qdq, or "
        "export them with `edge-emotion export`"
    )


def _timing_cache(config: Any, timing: bytes) -> Any:
    """Earlier timings, if TensorRT can use them, else an empty cache; None where this build keeps none."""
    for content in dict.fromkeys((timing, b"")):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _why_not(path: Path, reason: str) -> str:
    if "memory" in reason.lower():
        return (
            f"memory ran out while TensorRT built an engine from {path.name} ({reason}): stop what else uses the GPU, "
            "build before the language model is loaded, or choose a smaller variant"
        )
    return f"TensorRT cannot build an engine from {path.name}: {reason}"
