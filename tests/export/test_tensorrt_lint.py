"""The lint names every node that TensorRT would refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_emotion.errors import ExportError
from edge_emotion_export.tensorrt_lint import check_for_tensorrt, lint

NANO = Path(__file__).parents[2] / "edge_emotion" / "bundles" / "nano"
DIM = 8


def write_layer(path: Path) -> Path:
    """A product, its bias, a residual sum, a norm."""
    random = np.random.default_rng(0)
    constants = {
        "weight": random.normal(size=(DIM, DIM)).astype(np.float32),
        "bias": random.normal(size=DIM).astype(np.float32),
        "norm.weight": np.ones(DIM, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"], "layers.0.query/MatMul"),
        helper.make_node("Add", ["product", "bias"], ["sum"], "layers.0.query/Add"),
        helper.make_node("Add", ["sum", "x"], ["residual"], "layers.0/Add"),
        helper.make_node("LayerNormalization", ["residual", "norm.weight"], ["y"], "layers.0.norm/LayerNormalization"),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "tokens", DIM])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "tokens", DIM])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    return write_layer(tmp_path / "layer.onnx")


def edited(path: Path, edit) -> Path:
    model = onnx.load(path)
    edit(model.graph)
    onnx.save(model, path)
    return path


def quantise_as_by_default(path: Path, target: Path) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Noise(CalibrationDataReader):
        def __init__(self) -> None:
            random = np.random.default_rng(1)
            self.rows = iter([{"x": random.normal(size=(1, 5, DIM)).astype(np.float32)} for _ in range(3)])

        def get_next(self):
            return next(self.rows, None)

    quantize_static(str(path), str(target), Noise())
    return target


def test_a_plain_layer_is_clean(layer):
    assert lint(layer) == []
    check_for_tensorrt(layer)


def test_the_encoder_that_is_shipped_in_fp32_is_clean():
    assert lint(NANO / "encoder.fp32.onnx") == []


def test_dynamic_quantisation_is_named_node_by_node():
    problems = lint(NANO / "encoder.int8.onnx")
    integers = {problem.node for problem in problems if problem.operator == "MatMulInteger"}
    assert "encoder.layers.0.query/MatMul_quant" in integers
    assert len(integers) == 8


def test_the_default_static_quantisation_of_onnxruntime_is_caught_with_its_nodes(layer, tmp_path):
    problems = lint(quantise_as_by_default(layer, tmp_path / "default.onnx"))
    quantised = [problem for problem in problems if "zero point" in problem.reason or "int8 around 0" in problem.reason]
    assert {problem.operator for problem in quantised} == {"QuantizeLinear", "DequantizeLinear"}
    assert all(problem.node for problem in quantised)
    # Sums with the residual are quantised, too, and that is what spoils a speech encoder.
    assert any(problem.node == "layers.0/Add" and "mumbles" in problem.reason for problem in problems)


def test_a_quantised_bias_is_caught(layer):
    def quantise_bias(graph: onnx.GraphProto) -> None:
        graph.initializer.extend(
            [
                numpy_helper.from_array(np.arange(DIM, dtype=np.int32), "bias.int32"),
                numpy_helper.from_array(np.float32(0.1), "bias.scale"),
            ]
        )
        node = helper.make_node("DequantizeLinear", ["bias.int32", "bias.scale"], ["bias.float"], "bias/dequantise")
        graph.node.insert(0, node)
        graph.node[2].input[1] = "bias.float"

    problems = lint(edited(layer, quantise_bias))
    assert ("bias/dequantise", "DequantizeLinear") in {(problem.node, problem.operator) for problem in problems}
    assert any("int32" in problem.reason for problem in problems)


@pytest.mark.parametrize(
    ("operator", "domain", "message"),
    [
        ("Unique", "", "do not all know"),
        ("STFT", "", "do not all know"),
        ("QuickGelu", "com.microsoft", "plugin"),
        ("DynamicQuantizeLinear", "", "QDQ"),
    ],
)
def test_a_planted_node_is_named(layer, operator, domain, message):
    def plant(graph: onnx.GraphProto) -> None:
        graph.node.append(helper.make_node(operator, ["y"], ["planted"], "planted/node", domain=domain))

    (problem,) = lint(edited(layer, plant))
    assert (problem.node, problem.operator) == ("planted/node", operator)
    assert message in problem.reason
    with pytest.raises(ExportError, match=r"layer\.onnx is not for TensorRT:\n  - planted/node"):
        check_for_tensorrt(layer)


def test_types_that_tensorrt_has_no_tensors_of(layer):
    def widen(graph: onnx.GraphProto) -> None:
        graph.node.append(helper.make_node("Cast", ["y"], ["wide"], "wide/Cast", to=TensorProto.DOUBLE))
        graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float64), "wide.constant"))
        graph.output.append(helper.make_tensor_value_info("wide", TensorProto.DOUBLE, None))

    assert {problem.node for problem in lint(edited(layer, widen))} == {"wide/Cast", "wide.constant", "wide"}


def test_an_opset_that_is_too_new(layer):
    model = onnx.load(layer)
    model.opset_import[0].version = 23
    onnx.save(model, layer)
    assert [problem.operator for problem in lint(layer)] == ["opset"]


def test_weights_that_are_not_there(layer):
    model = onnx.load(layer)
    onnx.save_model(
        model, layer, save_as_external_data=True, location="layer.onnx.data", size_threshold=0, convert_attribute=False
    )
    assert lint(layer) == []
    (layer.parent / "layer.onnx.data").unlink()
    assert {problem.node for problem in lint(layer)} == {"weight", "bias", "norm.weight"}


def qdq(graph: onnx.GraphProto, value: str, scale: np.ndarray, zero: np.ndarray | None) -> str:
    names = [f"{value}.scale", f"{value}.zero"]
    graph.initializer.append(numpy_helper.from_array(scale, names[0]))
    if zero is not None:
        graph.initializer.append(numpy_helper.from_array(zero, names[1]))
    inputs = names if zero is not None else names[:1]
    quantise = helper.make_node("QuantizeLinear", [value, *inputs], [f"{value}.q"], f"{value}/quantise")
    back = helper.make_node("DequantizeLinear", [f"{value}.q", *inputs], [f"{value}.dq"], f"{value}/dequantise")
    graph.node.insert(0, back)
    graph.node.insert(0, quantise)
    return f"{value}.dq"


@pytest.mark.parametrize(
    ("scale", "zero", "message"),
    [
        (np.float32(0.1), np.uint8(0), "uint8"),
        (np.float32(0.1), np.int8(3), "other than 0"),
        (np.float32(0.0), np.int8(0), "not positive"),
        (np.float32(np.nan), np.int8(0), "not positive"),
        (np.float32(0.1), None, "no zero point"),
    ],
)
def test_pairs_that_are_not_int8_around_zero(layer, scale, zero, message):
    def quantise(graph: onnx.GraphProto) -> None:
        graph.node[0].input[0] = qdq(graph, "x", np.array(scale), None if zero is None else np.array(zero))

    problems = [problem for problem in lint(edited(layer, quantise)) if message in problem.reason]
    assert problems
    assert problems[0].node == "x/quantise"


def test_half_a_pair_of_factors(layer):
    def quantise(graph: onnx.GraphProto) -> None:
        quantised = qdq(graph, "x", np.array(0.1, np.float32), np.array(0, np.int8))
        next(node for node in graph.node if node.op_type == "MatMul").input[0] = quantised

    (problem,) = lint(edited(layer, quantise))
    assert (problem.node, problem.operator) == ("layers.0.query/MatMul", "MatMul")
    assert "one of two" in problem.reason


def test_what_is_no_graph(tmp_path):
    (tmp_path / "noise.onnx").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(ExportError, match=r"noise\.onnx"):
        lint(tmp_path / "noise.onnx")
