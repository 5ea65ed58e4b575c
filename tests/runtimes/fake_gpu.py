"""A GPU, CUDA and TensorRT that exist only in memory, and check the protocol strictly.

Their names and parameters are those of the real bindings (`test_tensorrt_names.py` holds them to the list in
`tensorrt_names/`), and there is nothing else on them: a name that is not real ends in an AttributeError. Work that is
queued on a stream is done when the stream is waited for, not before. What a "kernel" computes, ONNX Runtime computes.
"""

from __future__ import annotations

import ctypes
import enum
import sys
import threading
import types
from collections.abc import Callable
from typing import Any


class Gpu:
    """What the fakes share: memory, streams, what is to go wrong, and what was done."""

    def __init__(self) -> None:
        self.name, self.capability, self.total, self.integrated = "Orin", (8, 7), 8 * 2**30, True
        self.count, self.driver, self.runtime = 1, 12060, 12060
        self.release = "10.3.0"
        self.failing: dict[str, str] = {}
        """Name of a function -> the error that it answers with."""
        self.refusing: set[str] = set()
        """What TensorRT answers None or False to."""
        self.memory: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.graphs: set[int] = set()
        self.builds = 0
        self.runs = 0
        self.captures = 0
        self.device_of_thread = threading.local()

    @property
    def live(self) -> int:
        """Allocations, streams and graphs that were not given back."""
        return len(self.memory) + len(self.pinned) + len(self.streams) + len(self.graphs)


class Stream:
    def __init__(self, gpu: Gpu, number: int) -> None:
        self.gpu, self.number = gpu, number
        self.queue: list[Callable[[], None]] = []
        self.recording: list[Callable[[], None]] | None = None
        self.spoiled = False

    def __int__(self) -> int:
        return self.number

    def add(self, work: Callable[[], None]) -> None:
        (self.queue if self.recording is None else self.recording).append(work)


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


OK = cudaError_t.cudaSuccess
INVALID = cudaError_t.cudaErrorInvalidValue


class CudaRuntime:
    """The functions of cuda.bindings.runtime that are used; each returns its status first."""

    cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode = cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode
    cudaStreamNonBlocking = 1

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._numbers = gpu, iter(range(1, 2**31))
        self._streams: dict[int, Stream] = {}
        self._graphs: dict[int, list[Callable[[], None]]] = {}

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        failing = object.__getattribute__(self, "_gpu").failing if name.startswith("cuda") else {}
        if name in failing:
            return lambda *_: (cudaError_t[failing[name]], None)
        return found

    def cudaGetLastError(self):
        return (OK,)

    def cudaGetErrorString(self, error):
        return OK, error.name.encode()

    def cudaRuntimeGetVersion(self):
        return OK, self._gpu.runtime

    def cudaDriverGetVersion(self):
        return OK, self._gpu.driver

    def cudaGetDeviceCount(self):
        return OK, self._gpu.count

    def cudaGetDeviceProperties(self, device):
        gpu = self._gpu
        major, minor = gpu.capability
        values = {"major": major, "minor": minor, "totalGlobalMem": gpu.total, "integrated": int(gpu.integrated)}
        return OK, types.SimpleNamespace(name=gpu.name.encode() + b"\0\0", **values)

    def cudaSetDevice(self, device):
        if not 0 <= device < self._gpu.count:
            return (cudaError_t.cudaErrorInvalidDevice,)
        self._gpu.device_of_thread.index = device
        return (OK,)

    def cudaMemGetInfo(self):
        return OK, self._gpu.total // 2, self._gpu.total

    def _allocate(self, size: int, where: dict[int, Any]):
        assert isinstance(size, int)
        assert size > 0
        assert hasattr(self._gpu.device_of_thread, "index"), "no GPU was chosen in this thread"
        block = ctypes.create_string_buffer(b"\x7f" * size, size)  # never zeros by chance
        where[ctypes.addressof(block)] = block
        return OK, ctypes.addressof(block)

    def cudaMalloc(self, size):
        return self._allocate(size, self._gpu.memory)

    def cudaMallocHost(self, size):
        return self._allocate(size, self._gpu.pinned)

    def cudaFree(self, devPtr):
        return (OK,) if self._gpu.memory.pop(devPtr, None) is not None else (INVALID,)

    def cudaFreeHost(self, ptr):
        return (OK,) if self._gpu.pinned.pop(ptr, None) is not None else (INVALID,)

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == self.cudaStreamNonBlocking
        number = next(self._numbers)
        self._gpu.streams.add(number)
        self._streams[number] = Stream(self._gpu, number)
        return OK, self._streams[number]

    def cudaStreamDestroy(self, stream):
        assert not stream.queue, "a stream was destroyed before its work was done"
        self._gpu.streams.remove(int(stream))
        del self._streams[int(stream)]
        return (OK,)

    def cudaStreamSynchronize(self, stream):
        if stream.recording is not None:
            stream.spoiled = True
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        queue, stream.queue = stream.queue, []
        for work in queue:
            work()
        return (OK,)

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        into, out_of = self._gpu.memory, self._gpu.pinned
        if kind == cudaMemcpyKind.cudaMemcpyDeviceToHost:
            into, out_of = out_of, into
        if count > len(into.get(dst, b"")) or count > len(out_of.get(src, b"")):
            return (INVALID,)
        stream.add(lambda: ctypes.memmove(dst, src, count) and None)
        return (OK,)

    def cudaStreamBeginCapture(self, stream, mode):
        assert mode == cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        assert stream.recording is None
        stream.recording, stream.spoiled = [], False
        return (OK,)

    def cudaStreamEndCapture(self, stream):
        assert stream.recording is not None
        recorded, stream.recording = stream.recording, None
        if stream.spoiled:
            return cudaError_t.cudaErrorStreamCaptureInvalidated, None
        self._gpu.captures += 1
        return self._graph(recorded)

    def _graph(self, recorded):
        number = next(self._numbers)
        self._gpu.graphs.add(number)
        self._graphs[number] = recorded
        return OK, number

    def cudaGraphInstantiate(self, graph, flags):
        assert flags == 0
        return self._graph(self._graphs[graph])

    def cudaGraphDestroy(self, graph):
        self._gpu.graphs.remove(graph)
        return (OK,)

    def cudaGraphExecDestroy(self, graphExec):
        return self.cudaGraphDestroy(graphExec)

    def cudaGraphLaunch(self, graphExec, stream):
        assert graphExec in self._gpu.graphs
        for work in self._graphs[graphExec]:
            stream.add(work)
        return (OK,)


def install(monkeypatch: Any, gpu: Gpu, place: str = "cuda.bindings.runtime") -> None:
    """Lets `import tensorrt` and `import cuda` find the fakes until the test ends."""
    from edge_emotion_runtimes import cuda_api, tensorrt_api

    from .fake_tensorrt import make_tensorrt

    cuda = CudaRuntime(gpu)
    parts = place.split(".")
    for count in range(1, len(parts)):
        package = types.ModuleType(".".join(parts[:count]))
        package.__path__ = []
        monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, place, cuda)
    monkeypatch.setattr(sys.modules[".".join(parts[:-1])], parts[-1], cuda, raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(gpu, cuda))
    forget = [cuda_api.library.cache_clear, tensorrt_api.library.cache_clear]
    for step in forget:
        step()
