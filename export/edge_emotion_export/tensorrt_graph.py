"""The encoder as TensorRT takes it: its transformer in float16, and on top of that its largest products in int8.

TensorRT, strongly typed, computes each layer in the type that the graph says. So the graph says it: front end, pooling
and heads in float32, the transformer in float16, and products with a layer's matrices in int8 between `QuantizeLinear`
and `DequantizeLinear`. Residual sums, layer norms and softmax stay out of int8: quantising them is what makes int8
speech encoders mumble. So do value and output projections, which make half of the error. Both graphs are made from
the fp32 graph of a bundle, weight by weight.

The few channels that are much larger than the others would leave the others few of the 255 levels, so each channel is
first divided by a power of its size, and the matrix multiplied by it (SmoothQuant, Xiao et al. 2023).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from edge_emotion.errors import ExportError

from .omni_graph import MAX_INLINE_BYTES, data_file

# How exporters here name a node of a transformer layer, and its products that are computed in int8.
IN_A_LAYER = re.compile(r"(encoder\.)?layers\.\d+\.")
IN_INT8 = re.compile(
    IN_A_LAYER.pattern + r"(self_attn\.)?(query|key|feed_forward_in|feed_forward_out|q_proj|k_proj|fc1|fc2)/"
)
LARGEST_INT8 = 127.0
# 0 leaves the channels as they are, 1 makes them equally large. Of 0.3 to 1.0, this gave nano the best lowest cosine on
# 80 clips of speakers that are not for testing (0.998; without: 0.991).
SMOOTHING = 0.8
# Other voices are louder in some channel than those that were measured. On sounds of another corpus (42 of EmoGator's)
# this raised nano's lowest cosine from 0.970 to 0.982 and cost 0.003 of it on clips of the same corpus.
HEADROOM = 1.15
FLOAT, HALF, INT8 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8


def write_fp16(source: Path, path: Path) -> int:
    """Writes an fp32 encoder with its transformer in float16; a large one with its weights in `data_file(path)`.

    Returns:
        The opset of the graph.

    Raises:
        ExportError: The graph has no transformer, or a weight does not fit into float16.
    """
    model = load(source)
    halve_transformer(model)
    save(model, path)
    return int(model.opset_imports[""])


def write_int8_qdq(source: Path, path: Path, largest: Mapping[str, np.ndarray]) -> int:
    """Writes an fp32 encoder with its transformer in float16 and the largest products of its layers in int8.

    Args:
        source: The fp32 graph.
        path: File to write.
        largest: Largest absolute value in each channel, float32 `(channels,)`, of each input of a product, by the name
            that it has in the graph (see `quantisable`). Few recordings make it too small: what is larger is clipped.

    Returns:
        The opset of the graph.

    Raises:
        ExportError: As `write_fp16`, or a range is missing or no positive number.
    """
    model = load(source)
    halve_transformer(model)
    _insert_pairs(model, largest)
    save(model, path)
    return int(model.opset_imports[""])


def load(source: Path) -> ir.Model:
    """A graph whose weights are read when they are needed, with every value's type, and none stored behind a Cast."""
    try:
        model = ir.load(source)
    except Exception as error:  # a damaged file ends in whatever the parser meets first
        raise ExportError(f"{source} cannot be read as ONNX ({error}); export it again") from error
    graph = model.graph
    for node in list(graph):
        stored = node.inputs[0] if node.op_type == "Cast" else None
        if stored is not None and stored.const_value is not None and node.attributes["to"].as_int() == FLOAT:
            value = _promise(graph, node.outputs[0].name or "", stored.const_value, np.dtype(np.float32), FLOAT)
            node.outputs[0].name = None
            node.outputs[0].replace_all_uses_with(value)
            graph.remove(node, safe=True)
            del graph.initializers[stored.name or ""]
    return ShapeInferencePass(check_type=False, data_prop=False)(model).model


def quantisable(model: ir.Model) -> list[ir.Node]:
    """Products that int8 is good enough for, in order."""
    return [node for node in products(model) if IN_INT8.match(node.name or "")]


def products(model: ir.Model) -> list[ir.Node]:
    """Products of something that is computed with a matrix of a transformer layer, in order."""
    return [
        node
        for node in model.graph
        if node.op_type == "MatMul"
        and IN_A_LAYER.match(node.name or "")
        and node.inputs[1] is not None
        and node.inputs[1].const_value is not None
    ]


def halve_transformer(model: ir.Model) -> None:
    """From the first convolution over features to the last product of a layer, compute in float16."""
    halved = _transformer(model)
    casts: dict[str, ir.Value] = {}
    for node in [node for node in model.graph if node in halved]:
        for place, value in enumerate(node.inputs):
            if value is not None and value.dtype == FLOAT and value.producer() not in halved:
                node.replace_input_with(place, _halved(model.graph, node, value, casts))
    for node in halved:
        for value in node.outputs:
            if value.dtype == FLOAT:
                value.dtype = HALF
        if node.op_type == "Cast" and node.attributes["to"].as_int() == FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", int(HALF))
    for node in halved:
        for value in node.outputs:
            outside = [use for use in value.uses() if use.node not in halved]
            if value.dtype != HALF or not outside:
                continue
            cast = ir.node("Cast", [value], {"to": int(FLOAT)}, name=f"{node.name}/float")
            cast.outputs[0].dtype = FLOAT
            model.graph.insert_after(node, cast)
            for use in outside:
                use.node.replace_input_with(use.idx, cast.outputs[0])


def _transformer(model: ir.Model) -> set[ir.Node]:
    """Nodes after the first convolution that hears more than one channel, and before a layer's last product."""
    matrices = products(model)
    first = next((node for node in model.graph if node.op_type == "Conv" and _channels(node) > 1), None)
    if first is None or not matrices:
        raise ExportError("the graph has no transformer as exporters here write it; export the fp32 encoder again")
    after, before = {first}, {matrices[-1]}
    for node in model.graph:
        if any(value is not None and value.producer() in after for value in node.inputs):
            after.add(node)
    for node in reversed(list(model.graph)):
        if any(use.node in before for value in node.outputs for use in value.uses()):
            before.add(node)
    return after & before


def _channels(node: ir.Node) -> int:
    weight = node.inputs[1]
    channels = weight.shape[1] if weight is not None and weight.shape is not None else 0
    return channels if isinstance(channels, int) else 0


def _halved(graph: ir.Graph, node: ir.Node, value: ir.Value, casts: dict[str, ir.Value]) -> ir.Value:
    """The value in float16: a constant as a constant, anything else behind a Cast."""
    name = value.name or ""
    if name not in casts:
        if value.const_value is not None and value.is_initializer():
            casts[name] = _promise(graph, name + ".fp16", value.const_value, np.dtype(np.float16), HALF)
        else:
            cast = ir.node("Cast", [value], {"to": int(HALF)}, name=f"{node.name}/half")
            cast.outputs[0].dtype = HALF
            graph.insert_before(node, cast)
            casts[name] = cast.outputs[0]
    return casts[name]


def _insert_pairs(model: ir.Model, largest: Mapping[str, np.ndarray]) -> None:
    """Before each product, its input and its matrix go through QuantizeLinear and DequantizeLinear."""
    graph = model.graph
    sharing: dict[ir.Value, list[ir.Node]] = {}
    for node in quantisable(model):
        sharing.setdefault(node.inputs[0], []).append(node)  # type: ignore[arg-type]
    for values, nodes in sharing.items():
        limits = largest.get(values.name or "", np.zeros(0))
        matrices = [_floats(node) for node in nodes]
        if limits.shape != matrices[0].shape[:1] or not np.isfinite(limits).all() or not limits.any():
            raise ExportError(f"no range of {values.name}, an input of {nodes[0].name}: calibrate with more clips")
        sizes = _sizes(limits, [np.abs(matrix).max(axis=1) for matrix in matrices])
        del matrices
        quantised = _pair(graph, nodes[0], values, sizes, HEADROOM * float((limits / sizes).max()))
        for node in nodes:
            node.replace_input_with(0, quantised)
            node.replace_input_with(1, _stored_in_int8(graph, node, sizes))


def _floats(node: ir.Node) -> np.ndarray:
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    return weight.const_value.numpy().astype(np.float32)


def _sizes(limits: np.ndarray, rows: Sequence[np.ndarray]) -> np.ndarray:
    """What each channel is divided by, float32 `(channels,)` that float16 holds; their geometric mean is 1."""
    limits = np.maximum(limits, limits.max() * 1e-4)
    weights = np.max(rows, axis=0)
    weights = np.maximum(weights, weights.max() * 1e-4)
    sizes = limits**SMOOTHING / weights ** (1.0 - SMOOTHING)
    return (sizes / np.exp(np.log(sizes).mean())).astype(np.float16).astype(np.float32)


def _pair(graph: ir.Graph, node: ir.Node, values: ir.Value, sizes: np.ndarray, limit: float) -> ir.Value:
    """Values, each channel over its size, rounded to 255 levels around 0."""
    factors = _constant(graph, f"{values.name}.factors", (1.0 / sizes).astype(np.float16))
    scale = _constant(graph, f"{values.name}.scale", np.array(limit / LARGEST_INT8, np.float16))
    zero = _constant(graph, f"{values.name}.zero", np.array(0, np.int8))
    smooth = ir.node("Mul", [values, factors], name=f"{node.name}/smooth")
    quantise = ir.node("QuantizeLinear", [smooth.outputs[0], scale, zero], name=f"{node.name}/quantise")
    dequantise = ir.node("DequantizeLinear", [quantise.outputs[0], scale, zero], name=f"{node.name}/dequantise")
    for made, kind in ((smooth, HALF), (quantise, INT8), (dequantise, HALF)):
        made.outputs[0].dtype = kind
    graph.insert_before(node, [smooth, quantise, dequantise])
    return dequantise.outputs[0]


def _stored_in_int8(graph: ir.Graph, node: ir.Node, sizes: np.ndarray) -> ir.Value:
    """The matrix `(in, out)`, each row times its channel's size, as int8 with a scale for each output."""
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    shape, read = weight.const_value.shape.numpy(), _reader(weight.const_value)
    outputs = shape[1]

    def scales() -> np.ndarray:
        limits = np.abs(read() * sizes[:, None]).max(axis=0) / LARGEST_INT8
        # Not below float16's smallest normal number: a matrix may have an output that is 0.
        return np.maximum(limits, np.finfo(np.float16).tiny).astype(np.float16)

    def numbers() -> np.ndarray:
        scaled = read() * sizes[:, None] / scales().astype(np.float32)
        return np.clip(np.rint(scaled), -LARGEST_INT8, LARGEST_INT8).astype(np.int8)

    stored = _register(graph, f"{weight.name}.int8", numbers, INT8, shape)
    scale = _register(graph, f"{weight.name}.int8.scale", scales, HALF, [outputs])
    zero = _register(graph, f"{weight.name}.int8.zero", lambda: np.zeros(outputs, np.int8), INT8, [outputs])
    dequantise = ir.node("DequantizeLinear", [stored, scale, zero], {"axis": 1}, name=f"{node.name}/weight")
    dequantise.outputs[0].dtype = HALF
    graph.insert_before(node, dequantise)
    return dequantise.outputs[0]


def _reader(tensor: ir.TensorProtocol) -> Callable[[], np.ndarray]:
    return lambda: tensor.numpy().astype(np.float32)


def _promise(graph: ir.Graph, name: str, tensor: ir.TensorProtocol, dtype: np.dtype, kind: ir.DataType) -> ir.Value:
    """A constant of another type, converted when it is written."""

    def convert() -> np.ndarray:
        values = tensor.numpy()
        if dtype == np.float16 and np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
            raise ExportError(f"{name} holds values beyond float16; export fp32 and int8 only")
        return np.ascontiguousarray(values.astype(dtype))

    return _register(graph, name, convert, kind, tensor.shape.numpy())


def _register(
    graph: ir.Graph, name: str, compute: Callable[[], np.ndarray], kind: ir.DataType, shape: Sequence[int]
) -> ir.Value:
    tensor = ir.LazyTensor(lambda: ir.Tensor(compute()), kind, ir.Shape(shape), name=name)
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind), const_value=tensor)
    graph.register_initializer(value)
    return value


def _constant(graph: ir.Graph, name: str, number: np.ndarray) -> ir.Value:
    kind = HALF if number.dtype == np.float16 else INT8
    return _register(graph, name, lambda: number, kind, number.shape)


def save(model: ir.Model, path: Path) -> None:
    """The weights of a large graph appear first, the graph that names them last; both complete or not at all."""
    for value in [*model.graph.initializers.values()]:
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[value.name or ""]
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    partial = path.with_name(path.name + ".partial")
    large = size > MAX_INLINE_BYTES
    try:
        if large:
            ir.save(model, partial, external_data=data_file(path).name, size_threshold_bytes=4096)
        else:
            ir.save(model, partial)
        onnx.checker.check_model(str(partial), full_check=not large)
        partial.rename(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if large:
            data_file(path).unlink(missing_ok=True)
        if problem := _own_error(error):
            raise problem from error
        raise


def _own_error(error: BaseException | None) -> ExportError | None:
    """What a constant's reader raised: the writer puts it into an error of its own."""
    while error is not None and not isinstance(error, ExportError):
        error = error.__cause__
    return error
