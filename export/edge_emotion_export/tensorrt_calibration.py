"""How large what is multiplied with a transformer layer's matrices becomes on real recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from edge_emotion.errors import ExportError

from .onnx_encoder import INPUT_NAME
from .tensorrt_graph import load, quantisable


def largest_values(source: Path, waveforms: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Largest absolute value in each channel of each input of a product, over the recordings.

    Args:
        source: The fp32 graph.
        waveforms: float32 `(samples,)` at 16 kHz.

    Returns:
        By the value's name in the graph, float32 `(channels,)`.

    Raises:
        ExportError: No recordings are given, or a value is not finite.
    """
    if not waveforms:
        raise ExportError("int8 ranges are measured on real recordings: give some")
    model = load(source)
    names = list(dict.fromkeys(node.inputs[0].name or "" for node in quantisable(model) if node.inputs[0] is not None))
    watched = _watching(source, names)
    # Beside the graph, because its weights may lie in a file that is named relative to it.
    partial = source.with_name(f".{source.name}.watched.partial")
    partial.write_bytes(watched.SerializeToString())
    try:
        return _run(partial, names, waveforms)
    finally:
        partial.unlink(missing_ok=True)


def _watching(source: Path, names: Sequence[str]) -> onnx.ModelProto:
    """The graph with the largest absolute value of each channel as its only outputs."""
    model = onnx.load(str(source), load_external_data=False)
    del model.graph.output[:]
    ranks = {name: 3 for name in names}
    for name in names:
        axes = helper.make_tensor(f"{name}.axes", onnx.TensorProto.INT64, [2], list(range(ranks[name] - 1)))
        model.graph.initializer.append(axes)
        model.graph.node.extend(
            [
                helper.make_node("Abs", [name], [f"{name}.abs"]),
                helper.make_node("ReduceMax", [f"{name}.abs", axes.name], [f"{name}.largest"], keepdims=0),
            ]
        )
        model.graph.output.append(helper.make_tensor_value_info(f"{name}.largest", onnx.TensorProto.FLOAT, [None]))
    return model


def _run(path: Path, names: Sequence[str], waveforms: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs = [f"{name}.largest" for name in names]
    largest: dict[str, np.ndarray] = {}
    for waveform in waveforms:
        for name, values in zip(names, session.run(outputs, {INPUT_NAME: waveform[None]}), strict=True):
            found = np.asarray(values)
            largest[name] = np.maximum(largest[name], found) if name in largest else found
    if wrong := [name for name, values in largest.items() if not np.isfinite(values).all()]:
        raise ExportError(f"{', '.join(wrong[:3])} became NaN or infinite on the recordings; export fp32 again")
    return largest
