"""A Llama- or Qwen2-type decoder as an ONNX graph for ONNX Runtime, written tensor for tensor; no tracing, no torch.

The nodes are those of ONNX Runtime's own generator (`com.microsoft`: GroupQueryAttention, DynamicQuantizeMatMul,
SkipSimplifiedLayerNormalization, QuickGelu), which it has had since 1.20. GroupQueryAttention rotates queries and keys
and writes them into a cache of fixed size in place, so that a step costs no copy of what was said before: with plain
ONNX operators the nano model takes twice the time for a token.

inputs   token_ids int64 (batch, rows): -1 where the row is an embedding
         embeddings float32 (batch, rows, dim): read where the token id is -1
         last_index int32 (batch,): rows of the sequence before and with this call, less one
         total int32 (): last_index + 1
         key_0, value_0, key_1, ... float32 (batch, heads, capacity, head_dim)
outputs  logits float32 (batch, 1, vocabulary) of the last row; present_key_0, ... to be bound to the inputs' memory
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_emotion.errors import ExportError

Precision = Literal["fp32", "int8"]
OPSET, IR_VERSION = 18, 9  # ONNX Runtime 1.20 reads up to opset 21 and IR 10
CONTRIB = "com.microsoft"
ZERO_POINT = 128
MAX_GRAPH_BYTES = 2**31 - 2**20  # protobuf's limit, less the graph itself
# The product of gate and up has the widest range of all activations and makes two thirds of the error of int8 (nano: KL
# 2.4e-5 nats against 0.9e-5 with it in float32). Where that costs no more than a few megabytes, it stays float32.
MOST_EXACT_VALUES = 2**20
_EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class DecoderSizes:
    """Sizes of a decoder; `rope_theta` is the base of the rotary positions."""

    vocabulary: int
    dim: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    context_tokens: int
    rope_theta: float
    norm_epsilon: float
    tied: bool


def build_decoder(
    sizes: DecoderSizes, weight: Callable[[str], np.ndarray | None], precision: Precision
) -> onnx.ModelProto:
    """The graph with its weights.

    Args:
        sizes: The decoder's sizes.
        weight: Gives a tensor by its Hugging Face name, float32 `(out, in)` or `(dim,)`, None where the model has none.
        precision: `int8` stores matrices as uint8 around 128 with a scale per output (int8 saturates on processors
            without VNNI), embeddings too; activations are then quantised as they come. A small model's last product of
            each layer stays float32.

    Raises:
        ExportError: The sizes cannot be written.
    """
    if sizes.head_dim % 16:
        raise ExportError(f"heads of width {sizes.head_dim}; ONNX Runtime's attention needs a multiple of 16")
    graph = _Graph(weight, precision)
    _add_inputs(graph, sizes)
    residual, normed = _add_rows(graph, sizes)
    for layer in range(sizes.layers):
        residual, normed = _add_layer(graph, sizes, layer, residual, normed)
    graph.constant("last_row", np.array([-1], np.int64))
    last = graph.node("Gather", [normed, "last_row"], "last", axis=1)
    graph.node(*graph.product(last, "head"), "logits")
    return graph.model()


def save_decoder(model: onnx.ModelProto, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes the graph with its metadata; the file appears when it is complete."""
    helper.set_model_props(model, dict(metadata))
    model.producer_name, model.producer_version = "edge-emotion", metadata.get("version", "")
    partial = path.with_name(path.name + ".partial")
    onnx.save(model, str(partial))
    partial.rename(path)


class _Graph:
    """Nodes, constants and the ends of a graph while it is written."""

    def __init__(self, weight: Callable[[str], np.ndarray | None], precision: Precision) -> None:
        self._weight, self.precision = weight, precision
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._bytes = 0
        self._quantised: set[str] = set()
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self._nodes, "language_model", self.inputs, self.outputs, self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)

    def constant(self, name: str, value: np.ndarray) -> str:
        self._bytes += value.nbytes
        if self._bytes > MAX_GRAPH_BYTES:
            raise ExportError(f"more than {MAX_GRAPH_BYTES / 1e9:.1f} GB do not fit into one ONNX file; use GGUF")
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], outputs: str | list[str], **attributes: Any) -> str:
        names = [outputs] if isinstance(outputs, str) else outputs
        domain = CONTRIB if kind in _CONTRIB_KINDS else ""
        self._nodes.append(helper.make_node(kind, inputs, names, names[0], domain=domain, **attributes))
        return names[0]

    def value(self, name: str) -> np.ndarray:
        found = self._weight(name)
        if found is None:
            raise ExportError(f"the model has no tensor {name}")
        return np.asarray(found, np.float32)

    def stacked(self, names: list[str], kind: str) -> np.ndarray | None:
        """Tensors of several projections one under the other; None where none of them has that kind."""
        parts = [self._weight(f"{name}.{kind}") for name in names]
        if all(part is None for part in parts):
            return None
        if any(part is None for part in parts):
            raise ExportError(f"only some of {', '.join(names)} have a {kind}")
        return np.concatenate([np.asarray(part, np.float32) for part in parts])

    def store(self, name: str, matrix: np.ndarray, exact: bool = False) -> None:
        """A matrix `(out, in)`, transposed as a product needs it; in int8 with its scales, unless `exact`."""
        if self.precision == "fp32" or exact:
            self.constant(name, matrix.T)
            return
        self._quantised.add(name)
        scale = np.maximum(np.abs(matrix).max(axis=1), 1e-12) / (255 - ZERO_POINT)
        self.constant(name, (np.rint(matrix / scale[:, None]) + ZERO_POINT).astype(np.uint8).T)
        self.constant(name + ".scale", scale.astype(np.float32))
        self.constant(name + ".zero", np.full(len(scale), ZERO_POINT, np.uint8))

    def product(self, value: str, matrix: str) -> tuple[str, list[str]]:
        """Kind and inputs of the node that multiplies by a stored matrix."""
        if matrix not in self._quantised:
            return "MatMul", [value, matrix]
        return "DynamicQuantizeMatMul", [value, matrix, matrix + ".scale", matrix + ".zero"]

    def project(self, value: str, names: list[str], output: str, exact: bool = False) -> str:
        """A linear layer, or several of the same input as one; `exact` ones stay float32."""
        matrix = self.stacked(names, "weight")
        if matrix is None:
            raise ExportError(f"the model has no {names[0]}.weight")
        self.store(output + ".weight", matrix, exact)
        kind, inputs = self.product(value, output + ".weight")
        bias = self.stacked(names, "bias")
        if bias is None:
            return self.node(kind, inputs, output)
        return self.node(
            "Add", [self.node(kind, inputs, output + ".product"), self.constant(output + ".bias", bias)], output
        )


_CONTRIB_KINDS = ("GroupQueryAttention", "SkipSimplifiedLayerNormalization", "QuickGelu", "DynamicQuantizeMatMul")


def _add_inputs(graph: _Graph, sizes: DecoderSizes) -> None:
    def end(name: str, kind: int, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    graph.inputs += [
        end("token_ids", TensorProto.INT64, "batch", "rows"),
        end("embeddings", TensorProto.FLOAT, "batch", "rows", sizes.dim),
        end("last_index", TensorProto.INT32, "batch"),
        end("total", TensorProto.INT32),
    ]
    graph.outputs.append(end("logits", TensorProto.FLOAT, "batch", 1, sizes.vocabulary))
    for layer in range(sizes.layers):
        for part in ("key", "value"):
            cache = (TensorProto.FLOAT, "batch", sizes.key_value_heads, "capacity", sizes.head_dim)
            graph.inputs.append(end(f"{part}_{layer}", *cache))
            graph.outputs.append(end(f"present_{part}_{layer}", *cache))
    frequencies = sizes.rope_theta ** -(np.arange(0, sizes.head_dim, 2, dtype=np.float32) / sizes.head_dim)
    angles = np.arange(sizes.context_tokens, dtype=np.float32)[:, None] * frequencies.astype(np.float32)
    graph.constant("cos", np.cos(angles).astype(np.float32))
    graph.constant("sin", np.sin(angles).astype(np.float32))


def _add_rows(graph: _Graph, sizes: DecoderSizes) -> tuple[str, str]:
    """The rows, looked up or given, and normalised for the first layer.

    A tied table is stored once, as the output product needs it: one token is then a column of it.
    """
    table = "head" if sizes.tied else "table"
    graph.store("head", graph.value(_EMBEDDING if sizes.tied else "lm_head.weight"))
    if not sizes.tied:
        graph.store("table", graph.value(_EMBEDDING))
    graph.constant("zero", np.array(0, np.int64))
    graph.constant("last_axis", np.array([-1], np.int64))
    graph.node("Max", ["token_ids", "zero"], "known_ids")
    columns = graph.node("Gather", [table, "known_ids"], "columns", axis=1)
    if graph.precision == "int8":
        graph.constant("one", np.array(1, np.float32))
        graph.constant("middle", np.array(ZERO_POINT, np.uint8))
        columns = graph.node("DequantizeLinear", [columns, "one", "middle"], "columns.float")
    looked_up = graph.node("Transpose", [columns], "looked_up", perm=[1, 2, 0])
    if graph.precision == "int8":
        graph.node("Gather", [table + ".scale", "known_ids"], "scales")
        graph.node("Unsqueeze", ["scales", "last_axis"], "row_scales")
        looked_up = graph.node("Mul", [looked_up, "row_scales"], "looked_up.scaled")
    graph.node("Less", ["token_ids", "zero"], "given")
    graph.node("Unsqueeze", ["given", "last_axis"], "given_rows")
    rows = graph.node("Where", ["given_rows", "embeddings", looked_up], "rows")
    weight = graph.constant("norm_0", graph.value("model.layers.0.input_layernorm.weight"))
    return rows, graph.node(
        "SimplifiedLayerNormalization", [rows, weight], "normed", axis=-1, epsilon=sizes.norm_epsilon
    )


def _add_layer(graph: _Graph, sizes: DecoderSizes, layer: int, residual: str, normed: str) -> tuple[str, str]:
    """One layer, and the norm of the next; returns the residual stream and its normalised copy."""
    source, here = f"model.layers.{layer}", f"layer_{layer}/"
    last = layer == sizes.layers - 1
    qkv = graph.project(normed, [f"{source}.self_attn.{name}_proj" for name in "qkv"], here + "qkv")
    attended = graph.node(
        "GroupQueryAttention",
        [qkv, "", "", f"key_{layer}", f"value_{layer}", "last_index", "total", "cos", "sin"],
        [here + "attended", f"present_key_{layer}", f"present_value_{layer}"],
        num_heads=sizes.heads,
        kv_num_heads=sizes.key_value_heads,
        do_rotary=1,
    )
    mixed = graph.project(attended, [f"{source}.self_attn.o_proj"], here + "mixed")
    residual, normed = _add_norm(graph, sizes, here + "middle", residual, mixed, f"{source}.post_attention_layernorm")
    gate_up = graph.project(normed, [f"{source}.mlp.gate_proj", f"{source}.mlp.up_proj"], here + "gate_up")
    graph.node("Split", [gate_up], [here + "gate", here + "up"], axis=-1, num_outputs=2)
    graph.node("QuickGelu", [here + "gate"], here + "silu", alpha=1.0)
    graph.node("Mul", [here + "silu", here + "up"], here + "gated")
    exact = sizes.layers * sizes.dim**2 < MOST_EXACT_VALUES
    down = graph.project(here + "gated", [f"{source}.mlp.down_proj"], here + "down", exact)
    following = "model.norm" if last else f"model.layers.{layer + 1}.input_layernorm"
    return _add_norm(graph, sizes, here + "end", residual, down, following)


def _add_norm(graph: _Graph, sizes: DecoderSizes, name: str, residual: str, added: str, source: str) -> tuple[str, str]:
    weight = graph.constant(name + ".norm", graph.value(f"{source}.weight"))
    outputs = [name + ".normed", "", "", name + ".residual"]
    graph.node("SkipSimplifiedLayerNormalization", [residual, added, weight], outputs, epsilon=sizes.norm_epsilon)
    return name + ".residual", name + ".normed"
