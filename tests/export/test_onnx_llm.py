"""Decoders of transformers as ONNX: the same logits whatever their kind, and a refusal of what cannot be written."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from edge_emotion.errors import ExportError
from edge_emotion_export import onnx_decoder
from edge_emotion_export.onnx_llm import decoder_sizes, export_onnx_llm
from edge_emotion_runtimes.onnx_language_model import OnnxLanguageModel
from edge_emotion_train.checkpoint import Checkpoint

SIZES: dict[str, Any] = {
    "vocab_size": 410,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def build(kind: str, **changes: Any) -> Any:
    """A random model whose norms and biases are not at rest."""
    torch.manual_seed(1)
    model_type, config_type = {
        "llama": (LlamaForCausalLM, LlamaConfig),
        "qwen2": (Qwen2ForCausalLM, Qwen2Config),
        "qwen3": (Qwen3ForCausalLM, Qwen3Config),
    }[kind]
    model = model_type(config_type(**(SIZES | changes))).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.15)
    return model


def export(model: Any, tokenizer: Tokenizer, path: Path, precision: Any = "fp32") -> Path:
    export_onnx_llm(model, tokenizer, path, precision, {"name": "tiny"}, "<|end|>")
    return path


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"tie_word_embeddings": False, "num_key_value_heads": 4}),
        ("llama", {"head_dim": 32, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-3}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen2", {"tie_word_embeddings": False, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    ],
)
def test_logits_are_those_of_transformers(checkpoint: Checkpoint, tmp_path: Path, kind: str, changes: Any) -> None:
    """Tokens and embeddings mixed, in one call, in several, and by generation."""
    language_model = build(kind, **changes)
    rows = np.random.default_rng(0).normal(size=(9, 64)).astype(np.float32)
    ids = [5, 77, 300]
    embed = language_model.get_input_embeddings()
    with torch.inference_mode():
        parts = [embed(torch.tensor([ids])), torch.from_numpy(rows)[None], embed(torch.tensor([ids]))]
        expected = language_model(inputs_embeds=torch.cat(parts, 1)).logits[0].numpy()
    with OnnxLanguageModel(export(language_model, checkpoint.tokenizer, tmp_path / "m.onnx"), 64, threads=1) as model:
        model.prefill([ids, rows, ids])
        np.testing.assert_allclose(model.logits(), expected[-1], atol=1e-4)
        model.reset()
        model.prefill([ids, rows[:4]])
        np.testing.assert_allclose(model.logits(), expected[6], atol=1e-4)
        model.prefill([rows[4:]])
        np.testing.assert_allclose(model.logits(), expected[11], atol=1e-4)
        for token, wanted in zip(ids, expected[12:], strict=True):
            model.prefill([[token]])
            np.testing.assert_allclose(model.logits(), wanted, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_int8_quantises_the_embeddings_too(checkpoint: Checkpoint, tmp_path: Path, tied: bool) -> None:
    language_model = build("llama", tie_word_embeddings=tied)
    path = export(language_model, checkpoint.tokenizer, tmp_path / "m.onnx", "int8")
    kinds = {value.name: value.data_type for value in onnx.load(str(path)).graph.initializer}
    assert kinds["head"] == onnx.TensorProto.UINT8
    assert ("table" in kinds) != tied
    exact = language_model(torch.tensor([[7, 300, 20]])).logits[0, -1].detach().numpy()
    with OnnxLanguageModel(path, 64, threads=1) as model:
        model.prefill([[7, 300, 20]])
        logits = model.logits()
    assert logits @ exact / np.linalg.norm(logits) / np.linalg.norm(exact) > 0.99


def test_a_large_model_is_int8_in_every_matrix(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("llama")
    small = export(model, checkpoint.tokenizer, tmp_path / "small.onnx", "int8").stat().st_size
    monkeypatch.setattr(onnx_decoder, "MOST_EXACT_VALUES", 0)
    large = export(model, checkpoint.tokenizer, tmp_path / "large.onnx", "int8").stat().st_size
    assert small - large == pytest.approx(2 * 3 * 64 * 96, rel=0.1)  # 3 bytes more for a value, 2 layers


def test_the_file_says_what_it_holds_and_which_graph_it_is(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = export(build("qwen2"), checkpoint.tokenizer, tmp_path / "m.onnx")
    model = onnx.load(str(path))
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert (facts["name"], facts["architecture"], facts["precision"]) == ("tiny", "qwen2", "fp32")
    assert Tokenizer.from_str(facts["tokenizer"]).get_vocab() == checkpoint.tokenizer.get_vocab()
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 18), ("com.microsoft", 1)}
    assert [value.name for value in model.graph.input][:4] == ["token_ids", "embeddings", "last_index", "total"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: build("qwen3"), "model type 'qwen3'"),
        (lambda: build("llama", hidden_act="gelu"), "activation 'gelu'"),
        (lambda: build("llama", rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}), "'linear'"),
        (lambda: build("llama", hidden_size=32), "heads of width 8"),
        (lambda: build("llama", vocab_size=300), "the model only 300 rows"),
    ],
)
def test_what_the_graph_does_not_compute_is_refused(checkpoint: Checkpoint, tmp_path: Path, model, message) -> None:
    with pytest.raises(ExportError, match=message):
        export(model(), checkpoint.tokenizer, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_have_no_place_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = build("llama")
    model.register_parameter("extra", torch.nn.Parameter(torch.zeros(3)))
    with pytest.raises(ExportError, match="no place for extra"):
        export(model, checkpoint.tokenizer, tmp_path / "m.onnx")


def test_a_graph_that_no_file_can_hold_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_decoder, "MAX_GRAPH_BYTES", 100_000)
    with pytest.raises(ExportError, match="use GGUF"):
        export(build("llama"), checkpoint.tokenizer, tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tokenizer: setattr(tokenizer, "normalizer", normalizers.NFC()), "a normalizer"),
        (lambda tokenizer: setattr(tokenizer, "model", models.BPE({"a": 0}, [])), "byte tokens"),
    ],
)
def test_tokenizers_that_the_device_would_read_otherwise_are_refused(
    checkpoint: Checkpoint, tmp_path: Path, change, message
) -> None:
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer.to_str())
    change(tokenizer)
    with pytest.raises(ExportError, match=message):
        export(build("llama"), tokenizer, tmp_path / "m.onnx")
    with pytest.raises(ExportError, match="end token"):
        export_onnx_llm(build("llama"), checkpoint.tokenizer, tmp_path / "m.onnx", "fp32", {}, "<nothing>")


def test_sizes_are_read_from_a_configuration() -> None:
    config = json.loads(json.dumps(SIZES)) | {
        "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        "rope_parameters": {"rope_theta": 3e4}, "head_dim": None,
    }  # fmt: skip
    sizes = decoder_sizes(SimpleNamespace(**config))
    assert (sizes.head_dim, sizes.rope_theta, sizes.key_value_heads, sizes.tied) == (16, 3e4, 2, True)
