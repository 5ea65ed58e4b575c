"""The ONNX language model: damaged files, a missing library, agreement with llama.cpp, and what is particular to it."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_emotion.errors import BundleError, LanguageModelError, RuntimeUnavailableError
from edge_emotion_runtimes.onnx_language_model import OnnxLanguageModel

PROMPT = "<|audio|>the anger of the other<|/audio|><think>"
LABELS = ("anger", "boredom", "neutral")


def test_llama_cpp_computes_the_same(gguf_path, onnx_llm_path, tiny):
    """Two implementations over the same weights: logits, words and label scores."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    from edge_emotion_runtimes.llama_cpp_model import LlamaCppModel

    rows = np.random.default_rng(0).normal(size=(20, tiny.embedding_dim)).astype(np.float32)
    found = []
    for model in (
        OnnxLanguageModel(onnx_llm_path, threads=1),
        LlamaCppModel(gguf_path, threads=1, kv_type="f32", flash_attention=False),
    ):
        with model:
            model.prefill([model.tokenize("<|audio|>"), rows, model.tokenize("<|/audio|><think>")])
            found.append((model.logits(), [t.id for t in model.stream(30)], model.score_labels(LABELS, "</answer>")))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-4)
    assert found[0][1] == found[1][1]
    np.testing.assert_allclose(found[0][2], found[1][2], atol=1e-3)


def test_int8_computes_nearly_the_same(onnx_llm_path, tiny, tmp_path):
    small = tiny.write_onnx_language_model(tmp_path / "int8.onnx", precision="int8")
    assert small.stat().st_size < onnx_llm_path.stat().st_size
    with OnnxLanguageModel(onnx_llm_path, threads=1) as exact, OnnxLanguageModel(small, threads=1) as rounded:
        for model in (exact, rounded):
            model.prefill([model.tokenize(PROMPT)])
        left, right = exact.logits(), rounded.logits()
    assert np.abs(left - right).max() > 1e-4
    assert left @ right / np.linalg.norm(left) / np.linalg.norm(right) > 0.99


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_anywhere_is_an_error(onnx_llm_path, tmp_path, share):
    data = onnx_llm_path.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BundleError, match="again"):
        OnnxLanguageModel(path)


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "absent.onnx", tmp_path):
        with pytest.raises(BundleError, match="an ONNX language model was expected"):
            OnnxLanguageModel(path)


def test_an_encoder_is_no_language_model(onnx_path):
    with pytest.raises(BundleError, match="no language model of ours"):
        OnnxLanguageModel(onnx_path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"model_type": "something else"}, "metadata lacks edge-emotion-language-model"),
        ({"end_token": "-3"}, "end_token must be whole numbers"),
        ({"end_token": "100000"}, "more tokens than"),
        ({"context_tokens": "many"}, "context_tokens must be whole numbers"),
        ({"tokenizer": "{}"}, "not a tokenizer.json"),
        ({"tokenizer": "not JSON"}, "the tokenizer in it has"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused(tiny, tmp_path, metadata, message):
    path = tiny.write_onnx_language_model(tmp_path / "wrong.onnx", **metadata)
    with pytest.raises(BundleError, match=message):
        OnnxLanguageModel(path)


def test_missing_metadata_is_named(onnx_llm_path, tmp_path):
    model = onnx.load(str(onnx_llm_path))
    kept = [entry for entry in model.metadata_props if entry.key not in ("tokenizer", "parameters")]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, str(tmp_path / "bare.onnx"))
    with pytest.raises(BundleError, match="lacks tokenizer, parameters"):
        OnnxLanguageModel(tmp_path / "bare.onnx")


@pytest.mark.parametrize("options", [{"context_tokens": 0}, {"threads": 0}, {"context_tokens": 2049}])
def test_impossible_options_are_refused(onnx_llm_path, options):
    with pytest.raises(LanguageModelError):
        OnnxLanguageModel(onnx_llm_path, **options)


def test_no_memory_for_the_context_is_an_error(onnx_llm_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("edge_emotion_runtimes.onnx_language_model._make_caches", fail)
    with pytest.raises(RuntimeUnavailableError, match="smaller context_tokens"):
        OnnxLanguageModel(onnx_llm_path)


def test_a_missing_library_says_how_to_install_it(onnx_llm_path, monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *arguments):
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real_import(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(RuntimeUnavailableError, match="pip install onnxruntime"):
        OnnxLanguageModel(onnx_llm_path)


def test_nonsense_from_a_device_is_an_error_and_changes_nothing(onnx_llm_path, tmp_path):
    model = onnx.load(str(onnx_llm_path))
    head = next(value for value in model.graph.initializer if value.name == "head")
    values = onnx.numpy_helper.to_array(head).copy()
    values[:, 5] = np.nan
    head.CopyFrom(onnx.numpy_helper.from_array(values, "head"))
    onnx.save(model, str(tmp_path / "nan.onnx"))
    with OnnxLanguageModel(tmp_path / "nan.onnx", threads=1) as broken:
        with pytest.raises(LanguageModelError, match="NaN or infinity"):
            broken.prefill([[1, 2]])
        assert broken.position == 0


def test_a_failure_in_the_middle_leaves_the_sequence_as_it_was(onnx_llm_path, monkeypatch):
    with OnnxLanguageModel(onnx_llm_path, 1200, threads=1) as model:
        model.prefill([[1, 2, 3]])
        expected, real, calls = model.logits(), OnnxLanguageModel._run, []

        def fail_at_second(*arguments: object) -> np.ndarray:
            calls.append(arguments)
            if len(calls) == 2:
                raise LanguageModelError("planted")
            return real(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(OnnxLanguageModel, "_run", fail_at_second)
        with pytest.raises(LanguageModelError, match="planted"):
            model.prefill([[4] * 1100])
        assert model.position == 3
        np.testing.assert_array_equal(model.logits(), expected)
        monkeypatch.undo()
        model.prefill([[5]])
        continued = model.logits()
        model.reset()
        model.prefill([[1, 2, 3], [5]])
        np.testing.assert_allclose(continued, model.logits(), atol=1e-4)


def test_the_end_token_ends_the_text_and_is_never_shown(onnx_llm_path, tiny):
    with OnnxLanguageModel(onnx_llm_path, threads=1) as model:
        end = model.tokenize("<|end|>")
        assert len(end) == 1
        assert model.detokenize(end) == ""
        assert model.detokenize(end, special=True) == "<|end|>"
        assert len(model.tokenize("<|end|>", special=False)) > 1
        model.prefill([model.tokenize(PROMPT)])
        first = next(model.stream(1)).id
        model.reset()
        model.prefill([model.tokenize(PROMPT)])
        model._end = first
        assert list(model.stream(5)) == []


def test_models_come_and_go_without_growing(onnx_llm_path):
    def use() -> None:
        with OnnxLanguageModel(onnx_llm_path, threads=1) as model:
            model.prefill([[1, 2, 3]])
            model.score_labels(LABELS, "</answer>")

    for _ in range(10):
        use()
    before = resident_bytes()
    for _ in range(40):
        use()
    assert resident_bytes() - before < 4 * 2**20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
