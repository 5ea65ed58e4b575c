"""One optimisation profile of an engine at work: its context, its stream, and memory on both sides of the copies."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_emotion.errors import BundleError, EdgeEmotionError, RuntimeUnavailableError
from edge_emotion_runtimes import cuda_api

LOGGER = logging.getLogger("edge_emotion.tensorrt")
FLOAT_BYTES = 4


@dataclass(frozen=True)
class _Buffer:
    """Room for the largest value of a tensor on both sides."""

    device: int
    host: cuda_api.Pinned

    def view(self, shape: tuple[int, ...]) -> np.ndarray:
        """The first values of the host's side."""
        size = int(np.prod(shape)) * FLOAT_BYTES
        return self.host.array[:size].view(np.float32).reshape(shape)


class Execution:
    """Runs sounds of one profile's lengths; sounds of the same length one after the other as a CUDA graph.

    Args:
        engine: TensorRT's engine, of float32 inputs and outputs.
        logger: As `tensorrt_api.create_logger` makes it.
        file: Name of the graph, for messages.
        profile: Number of the profile.
        most_samples: Its longest sound.
        input_name: Of the sound `(1, samples)`.
        output_names: In the order in which `run` returns them.

    Raises:
        RuntimeUnavailableError: The GPU's memory is full, or TensorRT refuses; nothing stays allocated.
    """

    def __init__(
        self,
        engine: Any,
        logger: Any,
        file: str,
        profile: int,
        most_samples: int,
        input_name: str,
        output_names: Sequence[str],
    ) -> None:
        self.notes: list[str] = []
        self.launches = 0
        self._logger, self._file = logger, file
        self._input, self._outputs = input_name, tuple(output_names)
        self._buffers: dict[str, _Buffer] = {}
        self._stream: Any = None
        self._context: Any = None
        self._graph: Any = None
        self._samples = self._runs = 0
        self._recordable = True
        try:
            self._allocate(engine, profile, most_samples)
        except BaseException:
            self.close()
            raise

    def _allocate(self, engine: Any, profile: int, most_samples: int) -> None:
        self._stream = cuda_api.create_stream()
        self._context = engine.create_execution_context()
        if self._context is None:
            raise RuntimeUnavailableError(
                f"TensorRT has no room to run {self._file} ({self._logger.recent()}): stop what else uses the GPU, or "
                "choose a smaller variant"
            )
        self._accept(self._context.set_optimization_profile_async(profile, int(self._stream)), "the profile")
        cuda_api.synchronize(self._stream)
        self._set_length(most_samples)
        shapes = {self._input: (1, most_samples)} | {name: self._shape(name) for name in self._outputs}
        for name, shape in shapes.items():
            size = int(np.prod(shape)) * FLOAT_BYTES
            pointer = cuda_api.allocate(size)
            try:
                self._buffers[name] = _Buffer(pointer, cuda_api.allocate_pinned(size))
            except BaseException:
                cuda_api.free(pointer)
                raise
            self._accept(self._context.set_tensor_address(name, pointer), f"the address of {name}")

    def run(self, samples: np.ndarray) -> list[np.ndarray]:
        """The outputs for float32 samples `(n,)`, in memory of their own.

        Raises:
            RuntimeUnavailableError: CUDA or TensorRT failed.
        """
        if len(samples) != self._samples:
            self._set_length(len(samples))
        views = {name: self._buffers[name].view(self._shape(name)) for name in self._outputs}
        self._buffers[self._input].view(samples.shape)[:] = samples
        # The first run of a length lets TensorRT prepare itself, the second is recorded, the others replay it.
        if self._runs == 1 and self._recordable:
            self._record(views)
        if self._graph is not None:
            cuda_api.launch(self._graph, self._stream)
            self.launches += 1
        else:
            self._enqueue(views)
        cuda_api.synchronize(self._stream)
        self._runs += 1
        return [view.copy() for view in views.values()]

    def _enqueue(self, views: dict[str, np.ndarray]) -> None:
        sound = self._buffers[self._input]
        cuda_api.copy_to_device(sound.device, sound.host, self._samples * FLOAT_BYTES, self._stream)
        self._accept(self._context.execute_async_v3(int(self._stream)), "the run")
        for name, view in views.items():
            buffer = self._buffers[name]
            cuda_api.copy_to_host(buffer.host, buffer.device, view.nbytes, self._stream)

    def _record(self, views: dict[str, np.ndarray]) -> None:
        """Records a run as a CUDA graph; an engine that cannot be recorded runs as before."""
        problem: EdgeEmotionError | None = None
        try:
            cuda_api.begin_capture(self._stream)
        except EdgeEmotionError as error:
            self._give_up_recording(error)
            return
        try:
            self._enqueue(views)
        except EdgeEmotionError as error:
            problem = error
        try:
            graph = cuda_api.end_capture(self._stream)  # ends a recording that failed, too
            if problem is None:
                self._graph = graph
                return
            cuda_api.destroy_graph(graph)
        except EdgeEmotionError as error:
            problem = problem or error
        self._give_up_recording(problem)

    def _give_up_recording(self, problem: EdgeEmotionError) -> None:
        self._recordable = False
        self.notes.append(f"no CUDA graph: {problem}")

    def _set_length(self, samples: int) -> None:
        self._forget_graph()
        self._accept(self._context.set_input_shape(self._input, (1, samples)), f"{samples} samples")
        self._samples, self._runs = samples, 0

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(int(size) for size in self._context.get_tensor_shape(name))
        if min(shape) < 0:
            raise BundleError(f"{self._file}: the length of {name} does not follow from that of the sound")
        return shape

    def _accept(self, accepted: bool, what: str) -> None:
        if not accepted:
            raise RuntimeUnavailableError(f"TensorRT refuses {what} for {self._file}: {self._logger.recent()}")

    def _forget_graph(self) -> None:
        if self._graph is not None:
            graph, self._graph = self._graph, None
            cuda_api.destroy_graph(graph)

    def close(self) -> None:
        """Frees everything; what the driver says to that cannot be mended."""
        buffers, self._buffers = self._buffers, {}
        steps = [self._forget_graph]
        for buffer in buffers.values():
            steps += [lambda b=buffer: cuda_api.free(b.device), lambda b=buffer: cuda_api.free_pinned(b.host)]
        self._context = None  # before its stream
        if self._stream is not None:
            steps.append(lambda stream=self._stream: cuda_api.destroy_stream(stream))
            self._stream = None
        for step in steps:
            try:
                step()
            except EdgeEmotionError as error:
                LOGGER.info("while closing %s: %s", self._file, error)
