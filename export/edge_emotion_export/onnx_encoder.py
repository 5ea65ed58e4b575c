"""The audio tower as one ONNX graph, waveform in, embeddings and emotion logits out: fp32, and int8 for CPUs.

The graph computes in the same float32 as training. Whisper's published weights are float16, so most of ours are exactly
representable in it: those are stored as float16 behind a Cast, which halves the file and changes no bit of the result.
"""

from __future__ import annotations

import logging
import re
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from edge_emotion.errors import ExportError
from edge_emotion_train.frontend import SAMPLE_RATE_HZ
from edge_emotion_train.model import AudioTower

# 0.3 s to the encoder's 30 s; shorter speech than that is skipped before it gets here.
MIN_SAMPLES = 4800
MAX_SAMPLES = 30 * SAMPLE_RATE_HZ
INPUT_NAME = "waveform"
OUTPUT_NAMES = ("embeddings", "emotion_logits")
# Below this an initializer is not worth a Cast.
MIN_HALVED_VALUES = 1024
_QUANTISED = re.compile(r"encoder\.layers\.\d+\.(query|key|feed_forward_in|feed_forward_out)/")


def export_onnx(tower: AudioTower, path: Path, metadata: Mapping[str, str]) -> int:
    """Writes the fp32 graph.

    Args:
        tower: Audio tower in evaluation mode.
        path: File to write.
        metadata: Goes into `metadata_props`, where runtimes without a manifest read it.

    Returns:
        The opset of the graph.

    Raises:
        ExportError: The graph has other inputs, outputs or axes than the encoder contract says.
    """
    model = _rename_axes(_strip_traces(_name_nodes_by_module(_trace(tower))))
    _check_interface(model)
    _save(_store_halves(model), path, metadata)
    return model.opset_import[0].version


def quantise_int8(source: Path, path: Path, metadata: Mapping[str, str]) -> int:
    """Writes the int8 variant of an exported graph and returns its opset.

    Weights of the transformer layers become uint8 per channel (int8 saturates on CPUs without VNNI), their activations
    are quantised as they come. Front end, convolutions, attention, heads and projectors stay float32: they are small,
    and set the precision of everything. So do value and output projections, which make half of the error otherwise.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = _restore_floats(onnx.load(str(source)))
    constants = {initializer.name for initializer in model.graph.initializer}
    nodes = [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and _QUANTISED.match(node.name) and node.input[1] in constants
    ]
    if not nodes:
        raise ExportError(f"{source.name} has no layers to quantise: export it with export_onnx first")
    with tempfile.TemporaryDirectory() as folder, quiet():
        plain, quantised = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, str(plain))
        quantize_dynamic(
            plain,
            quantised,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=nodes,
            per_channel=True,
            weight_type=QuantType.QUInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        model = onnx.load(str(quantised))
    _check_interface(model)
    _save(_store_halves(model), path, metadata)
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _trace(tower: AudioTower) -> onnx.ModelProto:
    samples = torch.export.Dim("samples", min=MIN_SAMPLES, max=MAX_SAMPLES)
    example = torch.randn((1, 23456), generator=torch.Generator().manual_seed(0))
    with quiet():
        program = torch.onnx.export(
            tower.eval(),
            (example,),
            input_names=[INPUT_NAME],
            output_names=list(OUTPUT_NAMES),
            dynamo=True,
            dynamic_shapes=({1: samples},),
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned no program")
    return program.model_proto


class quiet:
    """Keeps exporters' and quantisers' talk off stdout and the log for a while."""

    def __enter__(self) -> None:
        self._level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        self._stdout = redirect_stdout(StringIO())
        self._stdout.__enter__()
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *error: object) -> None:
        self._warnings.__exit__(*error)  # type: ignore[arg-type]
        self._stdout.__exit__(*error)  # type: ignore[arg-type]
        logging.disable(self._level)


def _name_nodes_by_module(model: onnx.ModelProto) -> onnx.ModelProto:
    """Nodes get the path of the module they come from, for example `encoder.layers.0.query/MatMul`."""
    seen: dict[str, int] = {}
    for node in model.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "[]")
        modules = [scope for scope in scopes.strip("[]").replace("'", "").split(", ")][:-1]
        name = f"{modules[-1] if modules else ''}/{node.op_type}"
        seen[name] = seen.get(name, 0) + 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
    return model


def _strip_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Removes stack traces: they name files of the machine that exported and are half of the graph's text."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]
    return model


def _rename_axes(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "samples"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "tokens"
    return model


def _check_interface(model: onnx.ModelProto) -> None:
    def axes(value: onnx.ValueInfoProto) -> tuple[str | int, ...]:
        return tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)

    found = {value.name: axes(value) for value in (*model.graph.input, *model.graph.output)}
    fixed = {name: tuple(axis if isinstance(axis, str) else "n" for axis in shape[1:]) for name, shape in found.items()}
    wanted = {INPUT_NAME: ("samples",), "embeddings": ("tokens", "n"), "emotion_logits": ("n",)}
    if fixed != wanted or any(shape[0] != 1 for shape in found.values()):
        raise ExportError(f"the exported graph has {found}; the encoder contract is {wanted} behind a batch of 1")


def _store_halves(model: onnx.ModelProto) -> onnx.ModelProto:
    """Stores float32 initializers that float16 holds exactly as float16 behind a Cast."""
    casts = []
    for initializer in model.graph.initializer:
        if initializer.data_type != onnx.TensorProto.FLOAT or np.prod(initializer.dims) < MIN_HALVED_VALUES:
            continue
        values = numpy_helper.to_array(initializer)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if np.array_equal(halves.astype(np.float32), values):
            name = initializer.name
            initializer.CopyFrom(numpy_helper.from_array(halves, name + ".half"))
            casts.append(onnx.helper.make_node("Cast", [name + ".half"], [name], name + "/Cast", to=1))
    for position, cast in enumerate(casts):
        model.graph.node.insert(position, cast)
    return model


def _restore_floats(model: onnx.ModelProto) -> onnx.ModelProto:
    """Inverse of `_store_halves`."""
    initializers = {initializer.name: initializer for initializer in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in initializers]:
        initializer = initializers[node.input[0]]
        values = numpy_helper.to_array(initializer).astype(np.float32)
        initializer.CopyFrom(numpy_helper.from_array(values, node.output[0]))
        model.graph.node.remove(node)
    return model


def _save(model: onnx.ModelProto, path: Path, metadata: Mapping[str, str]) -> None:
    onnx.helper.set_model_props(model, dict(metadata))
    model.producer_name, model.producer_version = "edge-emotion", metadata.get("version", "")
    model.graph.name = "audio_encoder"
    onnx.checker.check_model(model, full_check=True)
    partial = path.with_name(path.name + ".partial")
    onnx.save(model, str(partial))
    partial.rename(path)
