"""The audio tower of a Qwen2.5-Omni as an ONNX file in fp32, fp16 or int8, its weights streamed from the checkpoint.

The graph is traced without weights; each is read when the file is written, one after the other, so that 640 million
parameters need about as much memory as the largest of their matrices. Only tracing in float16 needs room for all of
them once, in that type, because torch copies what it halves.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
import torch
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniAudioEncoderConfig

from edge_emotion.errors import ExportError

from .omni_checkpoint import AUDIO_PREFIX, OmniCheckpoint, audio_shapes
from .omni_encoder import ChunkTower
from .onnx_encoder import INPUT_NAME, MAX_SAMPLES, MIN_SAMPLES, quiet

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
OUTPUT_NAME = "embeddings"
# Above this the weights lie in a file of their own: it is mapped at load, and a graph may not be larger than 2 GB.
MAX_INLINE_BYTES = 64 * 2**20
ZERO_POINT = 128
# Constants below this many values get distinct ones while tracing, or the exporter would take equal ones for the same.
_FILLED_VALUES = 2**20
_TYPES: Mapping[str, tuple[ir.DataType, np.dtype]] = {
    "fp32": (ir.DataType.FLOAT, np.dtype(np.float32)),
    "fp16": (ir.DataType.FLOAT16, np.dtype(np.float16)),
    "int8": (ir.DataType.FLOAT, np.dtype(np.float32)),
}


def data_file(path: Path) -> Path:
    """Where the weights of a large graph lie."""
    return path.with_name(path.name + ".data")


def write_encoder(checkpoint: OmniCheckpoint, path: Path, precision: Precision, metadata: Mapping[str, str]) -> int:
    """Writes one variant, a large one with its weights in `data_file(path)`; the graph appears last.

    Args:
        checkpoint: Where the weights come from.
        path: File to write.
        precision: `fp16` computes in float16 but for the front end; `int8` stores the matrices of the layers as uint8
            around 128 with a scale per output (int8 saturates on processors without VNNI), and quantises what is
            multiplied by them as it comes. Front end, convolutions, attention and the last projection stay float32.
        metadata: Goes into `metadata_props`.

    Returns:
        The opset of the graph.

    Raises:
        ExportError: The graph is not what the runtime expects, or a weight does not fit into float16.
    """
    model = _trace(checkpoint.audio.to_json_string(), half=precision == "fp16").clone()
    _attach_weights(model, checkpoint, precision)
    if precision == "int8":
        _quantise(model, checkpoint)
    _check_interface(model)
    model.metadata_props.update(metadata)
    model.producer_name, model.producer_version = "edge-emotion", metadata.get("version", "")
    model.graph.name = "audio_encoder"
    _save(model, path)
    return int(model.opset_imports[""])


@functools.lru_cache(maxsize=2)
def _trace(config: str, half: bool) -> ir.Model:
    """The graph of a tower with these sizes; in float32 its large matrices are memory asked for but never touched."""
    tower = ChunkTower(Qwen2_5OmniAudioEncoderConfig(**json.loads(config))).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in tower.parameters():
        if parameter.numel() < _FILLED_VALUES:
            parameter.uniform_(-1.0, 1.0, generator=generator)
    samples = torch.export.Dim("samples", min=MIN_SAMPLES, max=MAX_SAMPLES)
    with quiet():
        program = torch.onnx.export(
            tower.halve() if half else tower,
            (torch.zeros((1, 57600)),),
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamo=True,
            dynamic_shapes=({1: samples},),
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned no program")
    _strip_traces(program.model)
    return program.model


def _strip_traces(model: ir.Model) -> None:
    """Names nodes by the module they come from, and removes stack traces: they name files of this machine."""
    seen: dict[str, int] = {}
    for node in model.graph.all_nodes():
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]").strip("[]").replace("'", "").split(", ")
        name = f"{scopes[-2] if len(scopes) > 1 else ''}/{node.op_type}"
        seen[name] = seen.get(name, 0) + 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
        node.metadata_props.clear()
        node.doc_string = None
    for part in (model, model.graph, *model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        part.metadata_props.clear()
        part.doc_string = None
    model.graph.inputs[0].shape = ir.Shape([1, "samples"])
    width = model.graph.outputs[0].shape
    model.graph.outputs[0].shape = ir.Shape([1, "tokens", width[2] if width is not None else None])


def _attach_weights(model: ir.Model, checkpoint: OmniCheckpoint, precision: Precision) -> None:
    """Each parameter of the graph becomes a promise of the checkpoint's tensor."""
    kind, dtype = _TYPES[precision]
    for stored, shape in audio_shapes(checkpoint.audio).items():
        name = stored.removeprefix(AUDIO_PREFIX)
        turned = len(shape) == 2
        shape = shape[::-1] if turned else shape
        value = model.graph.initializers.get(name)
        if value is None or value.shape is None or tuple(value.shape) != shape:
            raise ExportError(f"the traced graph has no weight {name} {shape}: this version of torch cannot be used")
        value.const_value = ir.LazyTensor(_reader(checkpoint, stored, dtype, turned), kind, ir.Shape(shape), name=name)


def _reader(checkpoint: OmniCheckpoint, name: str, dtype: np.dtype, turned: bool) -> Callable[[], ir.TensorProtocol]:
    def read() -> ir.TensorProtocol:
        values = checkpoint.rows(name).numpy()
        if not np.isfinite(values).all():
            raise ExportError(f"{name} holds NaN or infinity; the checkpoint is damaged: fetch it again")
        if dtype == np.float16 and np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
            raise ExportError(f"{name} holds values beyond float16; export fp32 and int8 only")
        return ir.Tensor(np.ascontiguousarray((values.T if turned else values).astype(dtype, copy=False)))

    return read


def _quantise(model: ir.Model, checkpoint: OmniCheckpoint) -> None:
    """Products with a layer's matrix become products of uint8, in the nodes that ONNX Runtime fuses into one."""
    quantised: dict[ir.Value, list[ir.Value]] = {}
    for node in list(model.graph):
        weight = node.inputs[1].name if node.op_type == "MatMul" and node.inputs[1] is not None else None
        values, product = node.inputs[0], node.outputs[0]
        if weight is None or weight not in model.graph.initializers or not weight.startswith("layers.") or not values:
            continue
        if values not in quantised:
            of_values = ir.node("DynamicQuantizeLinear", [values], num_outputs=3, name=f"{node.name}/quantise")
            model.graph.insert_before(node, of_values)
            quantised[values] = list(of_values.outputs)
        numbers, scale, zero = quantised[values]
        stored, stored_zero, stored_scale = _store_quantised(model, checkpoint, weight)
        whole = ir.node("MatMulInteger", [numbers, stored, zero, stored_zero], name=f"{node.name}/integer")
        floats = ir.node("Cast", [whole.outputs[0]], {"to": int(ir.DataType.FLOAT)}, name=f"{node.name}/float")
        scales = ir.node("Mul", [scale, stored_scale], name=f"{node.name}/scale")
        result = ir.node("Mul", [floats.outputs[0], scales.outputs[0]], name=node.name)
        model.graph.insert_before(node, [whole, floats, scales, result])
        name, product.name = product.name, None
        result.outputs[0].name, result.outputs[0].shape, result.outputs[0].type = name, product.shape, product.type
        product.replace_all_uses_with(result.outputs[0])
        model.graph.remove(node, safe=True)
        del model.graph.initializers[weight]


def _store_quantised(model: ir.Model, checkpoint: OmniCheckpoint, name: str) -> tuple[ir.Value, ir.Value, ir.Value]:
    """The matrix `(in, out)` as uint8, its zero points and its scales, as promises."""
    outputs, inputs = checkpoint.shape(AUDIO_PREFIX + name)

    def scales() -> np.ndarray:
        largest = checkpoint.rows(AUDIO_PREFIX + name).abs().amax(dim=1).numpy()
        return (np.maximum(largest, 1e-12) / 127.0).astype(np.float32)

    def numbers() -> np.ndarray:
        values = checkpoint.rows(AUDIO_PREFIX + name).numpy() / scales()[:, None]
        return np.ascontiguousarray((np.rint(values) + ZERO_POINT).astype(np.uint8).T)

    parts = (
        (".uint8", numbers, ir.DataType.UINT8, (inputs, outputs)),
        (".zero", lambda: np.full(outputs, ZERO_POINT, np.uint8), ir.DataType.UINT8, (outputs,)),
        (".scale", scales, ir.DataType.FLOAT, (outputs,)),
    )
    values = []
    for suffix, compute, kind, shape in parts:
        promise = ir.LazyTensor(lambda compute=compute: ir.Tensor(compute()), kind, ir.Shape(shape), name=name + suffix)
        value = ir.Value(name=name + suffix, shape=ir.Shape(shape), type=ir.TensorType(kind), const_value=promise)
        model.graph.register_initializer(value)
        values.append(value)
    return values[0], values[1], values[2]


def _check_interface(model: ir.Model) -> None:
    def axes(value: ir.Value) -> tuple[str, ...]:
        shape = tuple(value.shape or ())
        return tuple("n" if place == 2 and isinstance(axis, int) else str(axis) for place, axis in enumerate(shape))

    found = {value.name: axes(value) for value in (*model.graph.inputs, *model.graph.outputs)}
    wanted = {INPUT_NAME: ("1", "samples"), OUTPUT_NAME: ("1", "tokens", "n")}
    if found != wanted:
        raise ExportError(f"the exported graph has {found}; the encoder contract is {wanted}")


def _save(model: ir.Model, path: Path) -> None:
    """The weights appear first, the graph that names them last."""
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    partial = path.with_name(path.name + ".partial")
    if size <= MAX_INLINE_BYTES:
        ir.save(model, partial)
        onnx.checker.check_model(str(partial), full_check=True)
    else:
        ir.save(model, partial, external_data=data_file(path).name, size_threshold_bytes=4096)
        onnx.checker.check_model(str(partial))
    partial.rename(path)
