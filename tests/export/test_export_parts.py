"""The pieces of the exporter: figures, limits, graph surgery, tokenizer checks, reference."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers

from edge_emotion.errors import ExportError
from edge_emotion_export import parity
from edge_emotion_export.gguf_llm import export_gguf, interleave_rotary_rows
from edge_emotion_export.golden import run_reference, stop_token_ids
from edge_emotion_export.onnx_encoder import _restore_floats, _store_halves
from edge_emotion_export.sample_texts import sample_texts
from edge_emotion_train.checkpoint import Checkpoint


def test_figures_of_equal_and_different_arrays() -> None:
    rows = np.array([[1.0, 2.0], [3.0, -4.0]], np.float32)
    assert parity.max_abs(rows, rows) == 0.0
    assert parity.relative_max(rows, rows + 0.4) == pytest.approx(0.1)
    assert parity.cosine_min(rows, 3 * rows) == pytest.approx(1.0)
    assert parity.cosine_min(rows, rows * [[1.0], [-1.0]]) == pytest.approx(-1.0)
    assert parity.max_abs(rows, rows[:1]) == float("inf")
    assert parity.cosine_min(rows, rows[:1]) == -1.0
    assert parity.agreement([1, 2, 3, 4], [1, 2, 3, 5]) == 0.75


def test_check_names_every_failed_and_missing_figure() -> None:
    parity.check("int8", {"embeddings_cosine_min": 0.99, "label_agreement": 0.98})
    with pytest.raises(ExportError, match=r"embeddings_cosine_min is 0\.9, must be >= 0\.99; label_agreement is nan"):
        parity.check("int8", {"embeddings_cosine_min": 0.9})
    with pytest.raises(ExportError, match="nan"):
        parity.check(
            "fp32", {"embeddings_relative_max": float("nan"), "emotion_logits_relative_max": 0, "label_agreement": 1}
        )


@given(heads=st.integers(1, 4), half=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_rotary_rows_become_neighbours(heads: int, half: int) -> None:
    rows = np.arange(heads * 2 * half)
    interleaved = interleave_rotary_rows(rows[:, None], heads)[:, 0].reshape(heads, half, 2)
    assert np.array_equal(interleaved[..., 1] - interleaved[..., 0], np.full((heads, half), half))
    assert sorted(interleaved.ravel()) == sorted(rows)


def graph_of(values: np.ndarray) -> onnx.ModelProto:
    node = helper.make_node("Add", ["x", "w"], ["y"], "add")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, list(values.shape)) for name in "xy")
    return helper.make_model(helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(values, "w")]))


def test_halves_are_stored_only_where_no_bit_is_lost() -> None:
    exact = np.random.default_rng(0).normal(size=2048).astype(np.float16).astype(np.float32)
    stored = _store_halves(graph_of(exact))
    assert stored.graph.initializer[0].data_type == TensorProto.FLOAT16
    restored = _restore_floats(stored)
    assert [node.op_type for node in restored.graph.node] == ["Add"]
    assert np.array_equal(numpy_helper.to_array(restored.graph.initializer[0]), exact)
    for inexact in (exact + np.float32(1e-6), exact * 1e6):
        assert _store_halves(graph_of(inexact)).graph.initializer[0].data_type == TensorProto.FLOAT


def test_sample_texts_are_many_different_and_always_the_same() -> None:
    texts = sample_texts(["<think>"], list(" abcdefghijklmnop"))
    assert len(set(texts)) > 190
    assert len(texts) == 200
    assert texts == sample_texts(["<think>"], list(" abcdefghijklmnop"))
    assert any("<think>" in text and len(text) > 10 for text in texts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tokenizer: setattr(tokenizer, "normalizer", normalizers.NFC()), "normaliser"),
        (lambda tokenizer: setattr(tokenizer, "model", models.WordLevel({"a": 0}, "a")), "byte-level BPE"),
        (lambda tokenizer: setattr(tokenizer, "model", models.BPE({"a": 0}, [])), "byte tokens"),
    ],
)
def test_tokenizers_that_llama_cpp_would_read_otherwise_are_refused(
    checkpoint: Checkpoint, tmp_path, change, message: str
) -> None:
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer.to_str())
    change(tokenizer)
    with pytest.raises(ExportError, match=message):
        export_gguf(checkpoint.language_model, tokenizer, tmp_path / "m.gguf", "F16", {}, "<|end|>")
    with pytest.raises(ExportError, match="end token"):
        export_gguf(checkpoint.language_model, checkpoint.tokenizer, tmp_path / "m.gguf", "F16", {}, "<nothing>")
    assert list(tmp_path.iterdir()) == []


def test_reference_logits_are_those_of_one_forward_pass(checkpoint: Checkpoint) -> None:
    """The cached step-by-step thought and the label scores equal the model run once on the whole text."""
    waveform = np.random.default_rng(1).normal(size=8000).astype(np.float32)
    clip = run_reference(checkpoint, waveform)
    prompt, tokenizer, model = checkpoint.prompt, checkpoint.tokenizer, checkpoint.language_model
    encode = lambda text: tokenizer.encode(text).ids  # noqa: E731
    embed = lambda ids: model.get_input_embeddings()(torch.tensor([ids]))  # noqa: E731
    audio = torch.from_numpy(clip.embeddings)[None]
    label = encode(checkpoint.labels[1] + prompt.answer_close)
    after = encode(prompt.after_audio)
    rest = [*clip.thought, *encode(prompt.answer_open), *label]
    with torch.inference_mode():
        logits = model(
            inputs_embeds=torch.cat([embed(encode(prompt.before_audio)), audio, embed([*after, *rest])], 1)
        ).logits
    tail = logits[0, -len(rest) - 1 :]
    torch.testing.assert_close(tail[: len(clip.logits)], torch.from_numpy(clip.logits), atol=1e-4, rtol=0)
    scores = tail.log_softmax(-1)[-len(label) - 1 : -1]
    assert float(scores[range(len(label)), label].sum()) == pytest.approx(clip.label_scores[1], abs=1e-3)
    assert not stop_token_ids(checkpoint) & set(clip.thought)


def test_context_must_hold_the_longest_window(checkpoint: Checkpoint) -> None:
    from edge_emotion_export.export import _check_context

    _check_context(checkpoint)
    greedy = dataclasses.replace(checkpoint, prompt=dataclasses.replace(checkpoint.prompt, max_think_tokens=220))
    with pytest.raises(ExportError, match="tokens of context"):
        _check_context(greedy)
