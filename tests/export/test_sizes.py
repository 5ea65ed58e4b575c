"""The sizes that `edge-emotion plan` computes are those of llama.cpp's files; its gates are the exporter's."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from edge_emotion.model_sizes import LlmShape, gguf_bytes
from edge_emotion.planning import GATES
from edge_emotion_export.omni_quantise import QUANTISATIONS, quantise
from edge_emotion_export.parity import LIMITS

SHAPE = LlmShape(layers=16, dim=256, key_value_dim=64, feed_forward=512, vocabulary=512)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 in F16 whose widths are multiples of 256, four heads to a key."""
    path = tmp_path_factory.mktemp("sizes") / "llm.F16.gguf"
    random, shape = np.random.default_rng(0), SHAPE
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_context_length(128)
    writer.add_embedding_length(shape.dim)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(4)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{index}" for index in range(shape.vocabulary)])
    writer.add_token_types([1] * shape.vocabulary)
    table = (shape.vocabulary, shape.dim)
    shapes = {"token_embd": table, "output": table}
    for layer in range(shape.layers):
        square, key = (shape.dim, shape.dim), (shape.key_value_dim, shape.dim)
        wide, back = (shape.feed_forward, shape.dim), (shape.dim, shape.feed_forward)
        matrices = {"attn_q": square, "attn_k": key, "attn_v": key, "attn_output": square,
                    "ffn_gate": wide, "ffn_up": wide, "ffn_down": back}  # fmt: skip
        shapes |= {f"blk.{layer}.{name}": size for name, size in matrices.items()}
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(shape.dim, np.float32))
        for name, width in (("attn_q", shape.dim), ("attn_k", shape.key_value_dim), ("attn_v", shape.key_value_dim)):
            writer.add_tensor(f"blk.{layer}.{name}.bias", np.zeros(width, np.float32))
    for name, size in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.02, size).astype(np.float16))
    writer.add_tensor("output_norm.weight", np.ones(shape.dim, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("quantisation", ["F16", *QUANTISATIONS])
def test_computed_size_is_the_files(source: Path, quantisation: str, tmp_path: Path) -> None:
    path = source
    if quantisation != "F16":
        path = tmp_path / "llm.gguf"
        quantise(source, path, quantisation)
    # What is not weights: keys, tensor names and padding of a file of a few megabytes.
    overhead = 40_000
    assert gguf_bytes(SHAPE, quantisation) == pytest.approx(path.stat().st_size, rel=0.01, abs=overhead)


def test_gates_are_the_exporters() -> None:
    assert {name: LIMITS[name]["label_agreement"].value for name in GATES} == GATES
