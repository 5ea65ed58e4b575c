"""Audio encoder on TensorRT: the engine is built on this machine and kept; no torch, no copies that are not needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_emotion.errors import BundleError, RuntimeUnavailableError
from edge_emotion_runtimes import cuda_api, tensorrt_api, tensorrt_builder
from edge_emotion_runtimes.encoder_checks import check_finite, check_samples
from edge_emotion_runtimes.engine_cache import EngineCache, EngineFileError, EngineKey, default_folder, graph_digests
from edge_emotion_runtimes.interfaces import EncoderOutput
from edge_emotion_runtimes.onnx_metadata import rate_and_labels, read_metadata
from edge_emotion_runtimes.tensorrt_execution import Execution

INPUT_NAME = tensorrt_builder.INPUT_NAME
OUTPUT_NAMES = ("embeddings", "emotion_logits")
# Of the GPU's own memory, where it has its own: the engine under test, the weights it is made from.
_GPU_BUILD_FACTOR = 2


class TensorrtEncoder:
    """One engine from `waveform` `(1, samples)` at 16 kHz to `embeddings` and, if the file names labels, to
    `emotion_logits`.

    The first time, the engine is built from the ONNX file, which takes from seconds to many minutes; then it is kept.
    Thread-safe: one call runs at a time.

    Args:
        path: The ONNX file, its weights beside it where they lie apart; precisions fp32, fp16 and int8-qdq.
        device: Number of the GPU.
        min_samples: Shortest sound.
        max_samples: Longest sound.
        cache: Where engines are kept; the user's cache folder by default.
        digests: SHA-256 of the ONNX file and of its weights, where they are known; else they are computed.

    Raises:
        BundleError: The file is missing, damaged, has other inputs and outputs than the contract, or TensorRT cannot
            take its graph.
        RuntimeUnavailableError: TensorRT, CUDA or a GPU is missing, of the wrong version, or out of memory; says which.
    """

    def __init__(
        self,
        path: str | Path,
        device: int = 0,
        min_samples: int = 4800,
        max_samples: int = 480_000,
        cache: EngineCache | None = None,
        digests: Sequence[str] = (),
    ) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise BundleError(f"{self.path}: no such file; an ONNX audio encoder was expected")
        self.sample_rate_hz, self.labels = rate_and_labels(read_metadata(self.path), self.path)
        self._tensorrt = tensorrt_api.library()
        self.device = cuda_api.device(device)
        cuda_api.use(device)
        self.fallbacks: tuple[str, ...] = ()
        self.notes: list[str] = []
        self._lock = threading.Lock()
        self._executions: dict[int, Execution] = {}
        self._ranges = tensorrt_builder.profiles(min_samples, max_samples)
        self._cache = cache or EngineCache(default_folder())
        self._logger = tensorrt_api.create_logger(self._tensorrt)
        self._runtime: Any = self._tensorrt.Runtime(self._logger)
        self._key = self._make_key(graph_digests(self.path, digests))
        self._engine: Any = self._load_or_build()
        self._outputs = self._check_signature()
        self.embedding_dim = self._last_axis("embeddings")
        if self.labels and self._last_axis("emotion_logits") not in (None, len(self.labels)):
            raise BundleError(f"{path}: another number of emotion logits than its {len(self.labels)} labels")

    def _make_key(self, digests: tuple[str, ...]) -> EngineKey:
        cuda, driver = cuda_api.versions()
        return EngineKey(
            onnx_sha256=digests,
            tensorrt=str(self._tensorrt.__version__),
            cuda=cuda,
            driver=driver,
            gpu=self.device.name,
            compute_capability=self.device.compute_capability,
            profiles=self._ranges,
            flags=tensorrt_builder.BuildOptions().flags(),
        )

    def _load_or_build(self) -> Any:
        """The engine: from the cache if it is whole and of this machine, else built, once for all processes."""
        if (engine := self._from_cache()) is not None:
            return engine
        with self._cache.building(self._key):
            if (engine := self._from_cache()) is not None:  # another process built it
                return engine
            built = self._build()
            engine = self._runtime.deserialize_cuda_engine(built)
            if engine is None:
                raise RuntimeUnavailableError(
                    f"TensorRT cannot load the engine that it just built from {self.path.name}: {self._logger.recent()}"
                )
            return engine

    def _from_cache(self) -> Any:
        try:
            found = self._cache.load(self._key)
        except EngineFileError as error:
            self.notes.append(f"a cached engine was not used and is built again: {error}")
            self._cache.discard(self._key)
            return None
        if found is None:
            return None
        engine = self._runtime.deserialize_cuda_engine(found[0])
        if engine is None:
            reason = self._logger.recent()
            self.notes.append(f"a cached engine was refused by TensorRT and is built again: {reason}")
            self._cache.discard(self._key)
        return engine

    def _build(self) -> bytes:
        files = (self.path, self.path.with_name(self.path.name + ".data"))
        weights = sum(file.stat().st_size for file in files if file.is_file())
        tensorrt_builder.check_memory(weights, tensorrt_builder.available_memory(), "memory")
        free = cuda_api.free_memory()
        if not self.device.shares_memory and _GPU_BUILD_FACTOR * weights > free:
            tensorrt_builder.check_memory(weights, free, f"the memory of {self.device.name}")
        timing = f"{self.device.compute_capability}-{self._tensorrt.__version__}.timing"
        built = tensorrt_builder.build_engine(
            self._tensorrt,
            self._logger,
            self.path,
            self._ranges,
            tensorrt_builder.BuildOptions(workspace_bytes=int(tensorrt_builder.WORKSPACE_SHARE * free)),
            self._cache.read_timing(timing),
        )
        self.notes.append(f"the engine was built in {built.parse_s + built.build_s:.0f} s")
        if built.timing:
            self._cache.store_timing(timing, built.timing)
        try:
            self._cache.store(self._key, built.engine, {"file": self.path.name, "build_s": round(built.build_s, 1)})
        except RuntimeUnavailableError as error:  # it runs all the same; the next start has to build again
            self.notes.append(str(error))
        return built.engine

    def _check_signature(self) -> list[str]:
        """The outputs, if inputs and outputs are those of the contract."""
        engine, trt = self._engine, self._tensorrt
        modes = {
            name: engine.get_tensor_mode(name) for name in map(engine.get_tensor_name, range(engine.num_io_tensors))
        }
        inputs = sorted(name for name, mode in modes.items() if mode == trt.TensorIOMode.INPUT)
        outputs = [name for name in OUTPUT_NAMES if modes.get(name) == trt.TensorIOMode.OUTPUT]
        wrong = [name for name in (*inputs, *outputs) if engine.get_tensor_dtype(name) != trt.DataType.FLOAT]
        if inputs != [INPUT_NAME] or "embeddings" not in outputs or wrong:
            raise BundleError(
                f"{self.path}: inputs {inputs}, outputs {outputs}; `waveform` and `embeddings`, float32, are needed"
            )
        if self.labels and "emotion_logits" not in outputs:
            raise BundleError(f"{self.path}: its metadata names labels, but it has no emotion_logits; export it again")
        return outputs

    def _last_axis(self, name: str) -> int | None:
        if name not in self._outputs:
            return None
        size = int(tuple(self._engine.get_tensor_shape(name))[-1])
        return size if size > 0 else None

    def __enter__(self) -> TensorrtEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the GPU's memory; a second call does nothing."""
        with self._lock:
            executions, self._executions = self._executions, {}
            if executions:
                cuda_api.use(self.device.index)
            for execution in executions.values():
                execution.close()
            self._engine = self._runtime = None

    def encode(self, samples: np.ndarray) -> EncoderOutput:
        """Run the engine once.

        Args:
            samples: float32 `(n,)` at 16 kHz, finite, as many as the engine was built for.

        Raises:
            AudioError: The samples are not of that kind.
            RuntimeUnavailableError: The encoder is closed, failed, or computed NaN or infinity.
        """
        if self._engine is None:
            raise RuntimeUnavailableError(f"the encoder {self.path.name} is closed; load it again")
        check_samples(samples, self._ranges[0][0], self._ranges[-1][2])
        with self._lock:
            if self._engine is None:
                raise RuntimeUnavailableError(f"the encoder {self.path.name} is closed; load it again")
            cuda_api.use(self.device.index)
            index = next(index for index, (_, _, most) in enumerate(self._ranges) if len(samples) <= most)
            if index not in self._executions:
                most = self._ranges[index][2]
                self._executions[index] = Execution(
                    self._engine, self._logger, self.path.name, index, most, INPUT_NAME, self._outputs
                )
            embeddings, *logits = self._executions[index].run(samples)
        check_finite(self.path.name, f"TensorRT on {self.device.name}", embeddings, *logits)
        return EncoderOutput(embeddings[0], logits[0][0] if logits else None)

    def describe(self) -> dict[str, Any]:
        """What runs here, read from the engine and the driver."""
        return {
            "runtime": "tensorrt",
            "version": str(self._tensorrt.__version__),
            "providers": [f"TensorRT on {self.device.name}"],
            "fallbacks": list(self.fallbacks),
            "notes": [*self.notes, *(note for execution in self._executions.values() for note in execution.notes)],
            "file": self.path.name,
            "device": self.device.index,
            "compute_capability": self.device.compute_capability,
            "cuda": self._key.cuda,
            "engine": self._key.name,
            "profiles": [list(range_) for range_ in self._ranges],
            "cuda_graph_launches": sum(execution.launches for execution in self._executions.values()),
            "sample_rate_hz": self.sample_rate_hz,
            "embedding_dim": self.embedding_dim,
            "labels": list(self.labels) or None,
        }
