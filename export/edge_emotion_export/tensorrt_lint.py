"""What TensorRT 10.3 to 11.4 would refuse in a graph, or compute badly, told with the node's name and without TensorRT.

A pass is strong evidence, not proof: the compiler has the last word (`benchmarks/tensorrt_compile.py` asks one).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edge_emotion.errors import ExportError

# What the parser's `supports_operator` says yes to (TensorRT-RTX 1.7, which has the parser of 11.x), less what came
# after 10.3, the oldest release that is aimed at: window functions (10.4), STFT (10.5), attention and its kin.
_OPERATORS = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike Ceil Celu
Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout
Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax
Identity If InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
Loop LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression
NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike
Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Round Scan Scatter ScatterElements ScatterND Selu Shape
Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh
ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
OPERATORS = frozenset(_OPERATORS.split())
OPSETS = range(9, 21)
TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.INT32})
TYPES |= {TensorProto.INT64, TensorProto.BOOL}
QUANTISED = frozenset({"MatMul", "Gemm", "Conv"})
DYNAMIC = frozenset({"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv"})
_RECIPE = "write it with edge_emotion_export.tensorrt_graph"


@dataclass(frozen=True)
class Problem:
    """One thing that TensorRT refuses or that spoils the result; `node` is the node's name, or that of a value."""

    node: str
    operator: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node} ({self.operator}): {self.reason}"


def check_for_tensorrt(path: Path) -> None:
    """Holds a graph to what TensorRT takes.

    Raises:
        ExportError: Names every node that it would refuse, and why.
    """
    if problems := lint(path):
        listed = "\n".join(f"  - {problem}" for problem in problems[:20])
        more = f"\n  - and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ExportError(f"{path.name} is not for TensorRT:\n{listed}{more}\nFor an encoder, {_RECIPE}.")


def lint(path: Path) -> list[Problem]:
    """Every problem of a graph, in its order; weights in another file are not read.

    Raises:
        ExportError: It cannot be read.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # a damaged file ends in whatever the parser meets first
        raise ExportError(f"{path} cannot be read as ONNX ({error})") from error
    graph = model.graph
    constants = {constant.name: constant for constant in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    return [
        *(problem for node in graph.node for problem in _of_node(node, constants)),
        *_of_quantisation(graph, constants, producers),
        *_of_model(model, path),
    ]


def _of_model(model: onnx.ModelProto, path: Path) -> Iterator[Problem]:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset not in OPSETS:
        yield Problem(path.name, "opset", f"{opset}; TensorRT 10.3 reads {OPSETS[0]} to {OPSETS[-1]}")
    for constant in model.graph.initializer:
        if constant.data_type not in TYPES:
            yield Problem(
                constant.name, "constant", f"is {_type(constant.data_type)}, which TensorRT has no tensors of"
            )
        for entry in constant.external_data:
            if entry.key == "location" and not (path.parent / entry.value).is_file():
                yield Problem(constant.name, "constant", f"its values lie in {entry.value}, which is not there")
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type not in TYPES:
            yield Problem(value.name, "input or output", f"is {_type(value.type.tensor_type.elem_type)}")


def _of_node(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> Iterator[Problem]:
    name = _name(node)
    if node.domain not in ("", "ai.onnx"):
        yield Problem(name, node.op_type, f"is of the domain {node.domain}: TensorRT would need a plugin")
    elif node.op_type in DYNAMIC:
        yield Problem(name, node.op_type, "quantises as it runs, or computes in integers by itself; TensorRT wants QDQ")
    elif node.op_type not in OPERATORS:
        yield Problem(name, node.op_type, "TensorRT 10.3 to 11.4 do not all know this operator")
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i not in TYPES:
            yield Problem(name, node.op_type, f"casts to {_type(attribute.i)}, which TensorRT has no tensors of")
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type not in TYPES:
            yield Problem(name, node.op_type, f"holds {_type(attribute.t.data_type)}, which TensorRT has no tensors of")
    if node.op_type == "Pad" and len(node.input) > 3 and node.input[3]:
        yield Problem(name, node.op_type, "has axes as an input, which TensorRT 10.3 does not read")
    if node.op_type == "Range" and len({constants[x].data_type for x in node.input if x in constants}) > 1:
        yield Problem(name, node.op_type, "has limits of several types")


def _of_quantisation(
    graph: onnx.GraphProto, constants: Mapping[str, TensorProto], producers: Mapping[str, onnx.NodeProto]
) -> Iterator[Problem]:
    for node in graph.node:
        name = _name(node)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            yield from _of_pair(node, constants)
        dequantised = [
            place for place, value in enumerate(node.input) if _operator(producers.get(value)) == "DequantizeLinear"
        ]
        if not dequantised or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if node.op_type not in QUANTISED:
            yield Problem(
                name, node.op_type, "computes on quantised values: only MatMul, Gemm and Conv may, or it mumbles"
            )
        elif set(dequantised) & {0, 1} != {0, 1}:
            yield Problem(name, node.op_type, "has one of two factors quantised, so it would not run in int8")


def _of_pair(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> Iterator[Problem]:
    name = _name(node)
    scale = constants.get(node.input[1])
    if scale is None:
        yield Problem(name, node.op_type, "has a scale that is no constant")
    elif not scale.external_data and not (numpy_helper.to_array(scale).astype(np.float64) > 0).all():
        yield Problem(name, node.op_type, "has a scale that is not positive")
    stored = constants.get(node.input[0])
    if node.op_type == "DequantizeLinear" and stored is not None and stored.data_type != TensorProto.INT8:
        kind = _type(stored.data_type)
        yield Problem(name, node.op_type, f"reads {kind} (a bias, or asymmetric weights): TensorRT reads int8 only")
    zero = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if zero is None:
        if len(node.input) < 3 and node.op_type == "QuantizeLinear":
            yield Problem(name, node.op_type, "has no zero point and so makes uint8: TensorRT wants int8 around 0")
    elif zero.data_type != TensorProto.INT8:
        yield Problem(name, node.op_type, f"is quantised to {_type(zero.data_type)}: TensorRT wants int8 around 0")
    elif not zero.external_data and np.any(numpy_helper.to_array(zero)):
        yield Problem(name, node.op_type, "has a zero point other than 0: TensorRT wants int8 around 0")


def _operator(node: onnx.NodeProto | None) -> str:
    return node.op_type if node is not None else ""


def _name(node: onnx.NodeProto) -> str:
    return node.name or (node.output[0] if node.output else node.op_type)


def _type(number: int) -> str:
    return TensorProto.DataType.Name(number).lower()  # type: ignore[arg-type]
