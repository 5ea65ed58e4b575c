"""What is needed of CUDA, through NVIDIA's cuda-python; the only module that imports it. No torch.

Names are those that cuda-python has had from 12.6 (JetPack 6.1) on.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from edge_emotion.errors import RuntimeUnavailableError

INSTALL_LINE = "pip install 'cuda-python>=12.6,<13' (CUDA 12, JetPack 6) or 'cuda-python>=13' (CUDA 13, JetPack 7)"
# What each of the failures that people meet means for them.
_REMEDIES = {
    "cudaErrorInsufficientDriver": "no NVIDIA driver, or one older than cuda-python's CUDA: check nvidia-smi",
    "cudaErrorNoDevice": "no GPU is seen: check nvidia-smi, CUDA_VISIBLE_DEVICES, --runtime nvidia of a container",
    "cudaErrorInvalidDevice": "there is no GPU of that number",
    "cudaErrorMemoryAllocation": "the GPU's memory is full: stop what else uses it, or choose a smaller variant",
    "cudaErrorDevicesUnavailable": "another process holds the GPU alone: stop it",
    "cudaErrorNoKernelImageForDevice": "a library here was not built for this GPU",
    "cudaErrorSystemDriverMismatch": "driver and CUDA library are of different versions: reinstall the driver",
}


@dataclass(frozen=True)
class Device:
    """One GPU.

    Attributes:
        index: As CUDA counts them.
        name: As the driver calls it.
        compute_capability: "8.7" for Orin.
        memory_bytes: In all.
        shares_memory: Whether its memory is the processor's, as on a Jetson.
    """

    index: int
    name: str
    compute_capability: str
    memory_bytes: int
    shares_memory: bool


@dataclass(frozen=True)
class Pinned:
    """Memory of the host that the GPU copies from and to by itself; `array` is a view of it."""

    pointer: int
    array: np.ndarray


@functools.cache
def library() -> ModuleType:
    """CUDA's runtime API.

    Raises:
        RuntimeUnavailableError: cuda-python is not installed, or not whole.
    """
    problem: ImportError | None = None
    try:
        from cuda.bindings import runtime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        problem = error
    else:
        return runtime
    try:
        from cuda import cudart  # pyright: ignore[reportMissingImports]  # where it was until 12.8
    except ImportError:
        raise RuntimeUnavailableError(f"cuda-python cannot be imported ({problem}): {INSTALL_LINE}") from problem
    return cudart


def call(name: str, *arguments: Any) -> Any:
    """The result of a function of the runtime API.

    Raises:
        RuntimeUnavailableError: It failed; says what that means.
    """
    runtime = library()
    status, *results = getattr(runtime, name)(*arguments)
    if status != runtime.cudaError_t.cudaSuccess:
        code = status.name
        runtime.cudaGetLastError()  # or the next call would report it again
        reason = _REMEDIES.get(code) or _text(runtime.cudaGetErrorString(status)[1])
        raise RuntimeUnavailableError(f"CUDA refuses {name} ({code}): {reason}")
    return results[0] if len(results) == 1 else tuple(results)


def devices() -> list[Device]:
    """The GPUs that CUDA can use here.

    Raises:
        RuntimeUnavailableError: There is none, or no driver, or no cuda-python; says which.
    """
    return [_device(index) for index in range(call("cudaGetDeviceCount"))]


def device(index: int = 0) -> Device:
    """One GPU, by CUDA's number.

    Raises:
        RuntimeUnavailableError: There is no such GPU; lists those there are.
    """
    found = devices()
    if not 0 <= index < len(found):
        listed = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in found) or "none"
        raise RuntimeUnavailableError(f"there is no GPU {index} here; there are: {listed}")
    return found[index]


def _device(index: int) -> Device:
    properties = call("cudaGetDeviceProperties", index)
    return Device(
        index=index,
        name=_text(properties.name),
        compute_capability=f"{properties.major}.{properties.minor}",
        memory_bytes=int(properties.totalGlobalMem),
        shares_memory=bool(properties.integrated),
    )


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace").rstrip("\0") if isinstance(value, bytes) else str(value)


def versions() -> tuple[str, str]:
    """CUDA version of the runtime, and the newest that the driver can do; "0.0" without a driver."""
    return _version(call("cudaRuntimeGetVersion")), _version(call("cudaDriverGetVersion"))


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def use(index: int) -> None:
    """Makes a GPU this thread's: CUDA remembers it for each thread."""
    call("cudaSetDevice", index)


def free_memory() -> int:
    """Bytes that this thread's GPU has free."""
    return int(call("cudaMemGetInfo")[0])


def allocate(size: int) -> int:
    """Address of so many bytes of the GPU's memory."""
    return int(call("cudaMalloc", size))


def free(pointer: int) -> None:
    """Gives back what `allocate` gave."""
    call("cudaFree", pointer)


def allocate_pinned(size: int) -> Pinned:
    """So many bytes of the host's memory that are never paged out."""
    pointer = int(call("cudaMallocHost", size))
    return Pinned(pointer, np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer)))


def free_pinned(memory: Pinned) -> None:
    """Gives back what `allocate_pinned` gave; its array must not be used again."""
    call("cudaFreeHost", memory.pointer)


def create_stream() -> Any:
    """A queue of work for this thread's GPU."""
    return call("cudaStreamCreateWithFlags", library().cudaStreamNonBlocking)


def destroy_stream(stream: Any) -> None:
    """Ends a queue."""
    call("cudaStreamDestroy", stream)


def synchronize(stream: Any) -> None:
    """Waits until everything in the queue is done."""
    call("cudaStreamSynchronize", stream)


def copy_to_device(pointer: int, memory: Pinned, size: int, stream: Any) -> None:
    """Queues a copy from the host to the GPU."""
    kind = library().cudaMemcpyKind.cudaMemcpyHostToDevice
    call("cudaMemcpyAsync", pointer, memory.pointer, size, kind, stream)


def copy_to_host(memory: Pinned, pointer: int, size: int, stream: Any) -> None:
    """Queues a copy from the GPU to the host."""
    kind = library().cudaMemcpyKind.cudaMemcpyDeviceToHost
    call("cudaMemcpyAsync", memory.pointer, pointer, size, kind, stream)


def begin_capture(stream: Any) -> None:
    """From here to `end_capture`, what this thread queues is recorded instead of done."""
    call("cudaStreamBeginCapture", stream, library().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)


def end_capture(stream: Any) -> Any:
    """What was recorded, ready to be launched as a whole."""
    graph = call("cudaStreamEndCapture", stream)
    try:
        return call("cudaGraphInstantiate", graph, 0)
    finally:
        call("cudaGraphDestroy", graph)


def launch(graph: Any, stream: Any) -> None:
    """Queues what was recorded."""
    call("cudaGraphLaunch", graph, stream)


def destroy_graph(graph: Any) -> None:
    """Forgets what was recorded."""
    call("cudaGraphExecDestroy", graph)
