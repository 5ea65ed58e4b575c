"""TensorRT for the GPU of `fake_gpu`: builds, keeps and runs engines as the real one does, without computing fast."""

from __future__ import annotations

import base64
import ctypes
import enum
import json
import threading
import types

import numpy as np
import onnx
import onnxruntime

from edge_emotion_export.tensorrt_lint import OPERATORS

from .fake_gpu import CudaRuntime, Gpu


def make_tensorrt(gpu: Gpu, cuda: CudaRuntime) -> types.ModuleType:
    """The names of tensorrt that are used."""
    module = types.ModuleType("tensorrt")
    module.__version__ = gpu.release  # type: ignore[attr-defined]

    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class ILogger:
        def log(self, severity, msg):
            raise NotImplementedError

    ILogger.Severity = Severity  # type: ignore[attr-defined]

    class NetworkDefinitionCreationFlag(enum.IntEnum):
        STRONGLY_TYPED = 1

    class MemoryPoolType(enum.IntEnum):
        WORKSPACE = 0

    class BuilderFlag(enum.IntEnum):
        TF32 = 7

    class TensorIOMode(enum.IntEnum):
        NONE, INPUT, OUTPUT = range(3)

    class DataType(enum.IntEnum):
        FLOAT, HALF = range(2)

    class IHostMemory:
        def __init__(self, data: bytes) -> None:
            self._data = data

        def __bytes__(self) -> bytes:
            return self._data

        @property
        def nbytes(self) -> int:
            return len(self._data)

    class ITimingCache:
        def __init__(self, data: bytes) -> None:
            self._data = data

        def serialize(self):
            return IHostMemory(self._data + b"+")

    class IOptimizationProfile:
        def __init__(self) -> None:
            self._ranges: dict[str, list[list[int]]] = {}

        def set_shape(self, input, min, opt, max):
            assert all(low <= usual <= high for low, usual, high in zip(min, opt, max, strict=True))
            self._ranges[input] = [list(min), list(opt), list(max)]

    class IBuilderConfig:
        def __init__(self) -> None:
            self.builder_optimization_level = 3
            self._profiles: list[IOptimizationProfile] = []
            self._cache: ITimingCache | None = None
            self._flags = {BuilderFlag.TF32}

        def set_memory_pool_limit(self, pool, pool_size):
            assert isinstance(pool, MemoryPoolType)
            assert isinstance(pool_size, int)

        def clear_flag(self, flag):
            self._flags.discard(flag)

        def add_optimization_profile(self, profile):
            if not profile._ranges:
                return -1
            self._profiles.append(profile)
            return len(self._profiles) - 1

        def create_timing_cache(self, serialized_timing_cache):
            assert isinstance(serialized_timing_cache, bytes)
            return ITimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache, ignore_mismatch):
            assert ignore_mismatch is False
            if cache._data.startswith(b"other"):
                return False
            self._cache = cache
            return True

    class INetworkDefinition:
        def __init__(self) -> None:
            self._data, self._model = b"", None

        @property
        def num_layers(self) -> int:
            return len(self._model.graph.node)

    class ParserError:
        def __init__(self, node: onnx.NodeProto, index: int) -> None:
            self._node, self._index = node, index

        def node(self):
            return self._index

        def node_name(self):
            return self._node.name

        def node_operator(self):
            return self._node.op_type

        def desc(self):
            return "false"

    class OnnxParser:
        def __init__(self, network, logger):
            self._network, self._errors = network, []

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index):
            return self._errors[index]

        def parse_from_file(self, model):
            assert isinstance(model, str)
            with open(model, "rb") as file:
                self._network._data = file.read()
            self._network._model = parsed = onnx.load_from_string(self._network._data)
            self._errors = [
                ParserError(node, index)
                for index, node in enumerate(parsed.graph.node)
                if node.op_type not in OPERATORS
            ]
            return not self._errors

    class Builder:
        def __init__(self, logger):
            assert isinstance(logger, ILogger)
            self._logger = logger

        def create_network(self, flags):
            assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
            return INetworkDefinition()

        def create_builder_config(self):
            return IBuilderConfig()

        def create_optimization_profile(self):
            return IOptimizationProfile()

        def build_serialized_network(self, network, config):
            gpu.builds += 1
            if "build_serialized_network" in gpu.refusing:
                self._logger.log(Severity.ERROR, "[optimizer] Error Code 2: OutOfMemory (Requested size was 9 bytes)")
                return None
            assert BuilderFlag.TF32 not in config._flags
            plan = {
                "onnx": base64.b64encode(network._data).decode(),
                "profiles": [profile._ranges for profile in config._profiles],
                "for": [gpu.release, list(gpu.capability)],
            }
            return IHostMemory(json.dumps(plan).encode())

    class Runtime:
        def __init__(self, logger):
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine):
            try:
                plan = json.loads(serialized_engine)
            except ValueError:
                self._logger.log(Severity.ERROR, "Serialization assertion magic == kPLAN_MAGIC failed.")
                return None
            if plan["for"] != [gpu.release, list(gpu.capability)] or "deserialize_cuda_engine" in gpu.refusing:
                self._logger.log(Severity.ERROR, "The engine plan file is generated on an incompatible device.")
                return None
            return ICudaEngine(plan, self._logger)

    class ICudaEngine:
        def __init__(self, plan, logger) -> None:
            data = base64.b64decode(plan["onnx"])
            graph = onnx.load_from_string(data).graph
            self._profiles, self._logger = plan["profiles"], logger
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.enable_mem_pattern = False  # or each length would be kept
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            self._values = {value.name: (TensorIOMode.INPUT, value) for value in graph.input}
            self._values |= {value.name: (TensorIOMode.OUTPUT, value) for value in graph.output}

        @property
        def num_io_tensors(self) -> int:
            return len(self._values)

        def get_tensor_name(self, index):
            return list(self._values)[index]

        def get_tensor_mode(self, name):
            return self._values[name][0]

        def get_tensor_dtype(self, name):
            return DataType.FLOAT if self._values[name][1].type.tensor_type.elem_type == 1 else DataType.HALF

        def get_tensor_shape(self, name):
            return tuple(axis.dim_value or -1 for axis in self._values[name][1].type.tensor_type.shape.dim)

        def create_execution_context(self):
            return None if "create_execution_context" in gpu.refusing else IExecutionContext(self)

    class IExecutionContext:
        def __init__(self, engine) -> None:
            self._engine, self._profile, self._shape = engine, 0, None
            self._addresses: dict[str, int] = {}
            self._busy = threading.Lock()

        def set_optimization_profile_async(self, profile_index, stream_handle):
            assert stream_handle in gpu.streams
            if not 0 <= profile_index < len(self._engine._profiles):
                return False
            self._profile, self._shape = profile_index, None
            return True

        def set_input_shape(self, name, shape):
            low, _, high = self._engine._profiles[self._profile][name]
            if any(not least <= size <= most for least, size, most in zip(low, shape, high, strict=True)):
                self._engine._logger.log(Severity.ERROR, f"{shape} is not within {low} to {high}")
                return False
            self._shape = tuple(shape)
            return True

        def get_tensor_shape(self, name):
            if self._shape is None:
                return self._engine.get_tensor_shape(name)
            return self._compute(np.zeros(self._shape, np.float32))[name].shape

        def _compute(self, sound):
            names = [value.name for value in self._engine._session.get_outputs()]
            return dict(zip(names, self._engine._session.run(None, {"waveform": sound}), strict=True))

        def set_tensor_address(self, name, memory):
            assert memory in gpu.memory, "an address that is no GPU memory"
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle):
            stream, shape = cuda._streams[stream_handle], self._shape
            assert set(self._addresses) == set(self._engine._values), "a tensor has no address"
            assert self._busy.acquire(blocking=False), "one context is used by two threads"
            self._busy.release()
            if "capture" in gpu.refusing and stream.recording is not None:
                stream.spoiled = True
                return False

            def kernel() -> None:
                gpu.runs += 1
                address = self._addresses["waveform"]
                sound = np.frombuffer(gpu.memory[address], np.float32, int(np.prod(shape))).reshape(shape)
                for name, values in self._compute(sound.copy()).items():
                    data = np.ascontiguousarray(values, np.float32).tobytes()
                    assert len(data) <= len(gpu.memory[self._addresses[name]]), f"no room for {name}"
                    ctypes.memmove(self._addresses[name], data, len(data))

            stream.add(kernel)
            return True

    for kind in (
        ILogger, NetworkDefinitionCreationFlag, MemoryPoolType, BuilderFlag, TensorIOMode, DataType, IHostMemory,
        ITimingCache, IOptimizationProfile, IBuilderConfig, INetworkDefinition, ParserError, OnnxParser, Builder,
        Runtime, ICudaEngine, IExecutionContext,
    ):  # fmt: skip
        setattr(module, kind.__name__, kind)
    return module
