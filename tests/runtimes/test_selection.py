"""Opening a bundle: what is chosen and why, what is refused, and that nothing is half open afterwards."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

import edge_emotion
from edge_emotion.bundle import load_bundle, write_manifest
from edge_emotion.errors import BundleError, RuntimeUnavailableError
from edge_emotion.manifest import Manifest
from edge_emotion_runtimes import language_models, llama_cpp_bindings, selection
from edge_emotion_runtimes.llama_cpp_model import LlamaCppModel
from edge_emotion_runtimes.onnx_encoder import OnnxEncoder
from edge_emotion_runtimes.onnx_language_model import OnnxLanguageModel

CLIP = Path(__file__).parent.parent / "data" / "emodb_14a04Aa.flac"


@pytest.fixture
def copy(bundle_path, tmp_path) -> Path:
    return Path(shutil.copytree(bundle_path, tmp_path / "copy"))


def rewrite(folder: Path, **changes: object) -> None:
    """Make the manifest fit the files again, with other entries: a bundle that is wrong, but not changed."""
    manifest = Manifest.from_dict(json.loads((folder / "manifest.json").read_text()))
    if encoder := {name: changes.pop(name) for name in list(changes) if hasattr(manifest.encoder, name)}:
        changes["encoder"] = dataclasses.replace(manifest.encoder, **encoder)
    write_manifest(folder, dataclasses.replace(manifest, **changes), force=True)


def test_auto_takes_int8_and_q8_and_says_why(bundle_path):
    with edge_emotion.load(str(bundle_path)) as analyzer:
        runtime = analyzer.analyze(CLIP).runtime
    assert runtime["encoder"]["file"] == "encoder.int8.onnx"
    assert runtime["llm"]["file"] == "llm.Q8_0.gguf"
    assert runtime["chosen"]["encoder"].startswith("int8: preferred on a processor")
    assert runtime["device"].startswith("cpu")
    assert runtime["fallbacks"] == []
    json.dumps(runtime)


def test_what_is_asked_for_is_taken(bundle_path):
    with selection.load(bundle_path, encoder="fp32", llm="none", device="cpu", strict=True) as analyzer:
        result = analyzer.analyze(CLIP)
    assert result.runtime["encoder"]["file"] == "encoder.fp32.onnx"
    assert result.runtime["chosen"] == {"encoder": "fp32: asked for", "llm": "none: asked for"}
    assert result.label
    assert result.reasoning == ""


def test_a_bundle_without_the_favourite_gives_its_own(copy):
    variants = load_bundle(copy).manifest.encoder.variants
    (copy / "encoder.int8.onnx").unlink()
    rewrite(copy, variants=variants[:1])
    with selection.load(copy, llm="none") as analyzer:
        chosen = analyzer.analyze(CLIP).runtime["chosen"]["encoder"]
    assert chosen == "fp32: the bundle's preferred variant, it has no int8"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "int4"}, "has no encoder 'int4'; it has: fp32, int8, onnxruntime, tensorrt, .*or give auto"),
        ({"llm": "Q2_K"}, "has no llm 'Q2_K'; it has: Q8_0, llama.cpp, none, or give auto"),
        ({"llm": "onnxruntime"}, "no language model for onnxruntime, only for llama.cpp"),
    ],
)
def test_unknown_variants_name_the_known(bundle_path, arguments, message):
    with pytest.raises(BundleError, match=message):
        selection.load(bundle_path, **arguments)


def test_unknown_device(bundle_path):
    with pytest.raises(RuntimeUnavailableError, match="unknown device 'tpu'; allowed: auto, cpu, cuda"):
        selection.load(bundle_path, device="tpu")


def test_a_device_that_cannot_be_had_is_a_fallback_in_every_result(bundle_path):
    with selection.load(bundle_path, device="cuda") as analyzer:
        fallbacks = analyzer.analyze(CLIP).runtime["fallbacks"]
        assert analyzer.analyze(CLIP, explain=False).runtime["fallbacks"] == fallbacks
    assert any(entry.startswith("language model: cuda was asked for") for entry in fallbacks)


def test_under_strict_it_is_an_error(bundle_path):
    with pytest.raises(RuntimeUnavailableError, match="choose device 'cpu'"):
        selection.load(bundle_path, device="cuda", strict=True)


def llm_of(path: Path, **asked: object) -> tuple[dict, str, list]:
    with selection.load(path, **asked) as analyzer:  # type: ignore[arg-type]
        result = analyzer.analyze(CLIP)
    assert result.reasoning
    return result.runtime["llm"], result.runtime["chosen"]["llm"], result.runtime["fallbacks"]


@pytest.fixture
def without_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device where llama-cpp-python was never installed."""
    monkeypatch.setattr(language_models.importlib.util, "find_spec", _find_anything_but("llama_cpp"))
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    llama_cpp_bindings.library.cache_clear()


def _find_anything_but(absent: str):
    find_spec = importlib.util.find_spec
    return lambda name, *more: None if name == absent else find_spec(name, *more)


@pytest.mark.parametrize(
    ("asked", "runtime", "reason"),
    [
        ("auto", "onnxruntime", "int8: onnxruntime is the faster for a model of 0 MB"),
        ("onnxruntime", "onnxruntime", "int8: asked for"),
        ("int8", "onnxruntime", "int8: asked for"),
        ("llama.cpp", "llama.cpp", "Q8_0: asked for"),
        ("Q8_0", "llama.cpp", "Q8_0: asked for"),
    ],
)
def test_runtimes_and_variants_can_be_asked_for(both_path, asked, runtime, reason):
    described, why, fallbacks = llm_of(both_path, llm=asked, strict=True)
    assert (described["runtime"], why, fallbacks) == (runtime, reason, [])
    assert described["file"] == {"onnxruntime": "llm.int8.onnx", "llama.cpp": "llm.Q8_0.gguf"}[runtime]


def test_both_runtimes_give_the_same_answer(both_path):
    answers = []
    for asked in ("onnxruntime", "llama.cpp"):
        with selection.load(both_path, llm=asked, strict=True) as analyzer:
            answers.append(analyzer.analyze(CLIP))
    assert answers[0].label == answers[1].label
    assert answers[0].reasoning == answers[1].reasoning
    assert list(answers[0].distribution.values()) == pytest.approx(list(answers[1].distribution.values()), abs=0.01)


def test_a_large_model_goes_to_llama_cpp(both_path, monkeypatch):
    monkeypatch.setattr(selection, "_ONNX_FASTER_BELOW_BYTES", 10)
    described, why, _ = llm_of(both_path)
    assert (described["runtime"], why) == ("llama.cpp", "Q8_0: llama.cpp is the faster for a model of 0 MB")


@pytest.mark.usefixtures("without_llama_cpp")
def test_without_llama_cpp_the_default_runs_and_says_so(both_path):
    described, why, fallbacks = llm_of(both_path, strict=True)
    assert described["runtime"] == "onnxruntime"
    assert why.endswith("; llama.cpp is not installed")
    assert fallbacks == []


@pytest.mark.usefixtures("without_llama_cpp")
def test_a_large_model_without_llama_cpp_runs_too(both_path, monkeypatch):
    monkeypatch.setattr(selection, "_ONNX_FASTER_BELOW_BYTES", 10)
    described, why, fallbacks = llm_of(both_path, strict=True)
    assert (described["runtime"], why, fallbacks) == ("onnxruntime", "int8: llama.cpp cannot be had here", [])


@pytest.mark.usefixtures("without_llama_cpp")
@pytest.mark.parametrize("asked", ["llama.cpp", "Q8_0"])
def test_llama_cpp_that_was_asked_for_and_is_absent_is_a_fallback(both_path, asked):
    described, why, fallbacks = llm_of(both_path, llm=asked)
    assert (described["runtime"], why) == ("onnxruntime", "int8: llama.cpp cannot be had here")
    assert len(fallbacks) == 1
    assert fallbacks[0].startswith("language model: llm.Q8_0.gguf was to run and does not: llama.cpp cannot be loaded")
    with pytest.raises(RuntimeUnavailableError, match="pip install"):
        selection.load(both_path, llm=asked, strict=True)


@pytest.mark.usefixtures("without_llama_cpp")
def test_a_bundle_for_llama_cpp_alone_says_how_to_install_it(bundle_path, monkeypatch):
    closed = watch_closing(monkeypatch)
    with pytest.raises(RuntimeUnavailableError, match="pip install"):
        selection.load(bundle_path)
    assert closed == ["OnnxEncoder"]


def test_a_language_model_that_no_runtime_reads_is_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["llm"]["variants"][0]["file"] = "encoder.int8.tflite"
    manifest["files"]["encoder.int8.tflite"] = manifest["files"]["encoder.int8.onnx"]
    with pytest.raises(BundleError, match=r"must end in \.onnx or \.gguf"):
        Manifest.from_dict(manifest)


def test_a_changed_byte_is_refused(copy):
    file = copy / "llm.Q8_0.gguf"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match=r"llm\.Q8_0\.gguf"):
        selection.load(copy)
    selection.load(copy, llm="none").close()


@pytest.mark.parametrize(
    ("file", "message"), [("llm.Q8_0.gguf", "llama.cpp cannot"), ("encoder.int8.onnx", "onnxruntime")]
)
def test_a_file_cut_in_half_before_the_manifest_was_written(copy, monkeypatch, file, message):
    path = copy / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    rewrite(copy)
    closed = watch_closing(monkeypatch)
    with pytest.raises(BundleError, match=message):
        selection.load(copy)
    assert closed == ["LlamaCppModel" if file.startswith("encoder") else "OnnxEncoder"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels": ("fear", "anger", "boredom", "disgust", "happiness", "neutral", "sadness")},
            "labels of the encoder",
        ),
        ({"embedding_dim": 64}, "embeddings of the encoder: 32, the manifest says 64"),
        ({"sample_rate_hz": 8000}, "sample rate"),
    ],
)
def test_parts_that_do_not_fit_are_refused(copy, monkeypatch, change, message):
    rewrite(copy, **change)
    closed = watch_closing(monkeypatch)
    with pytest.raises(BundleError, match=message):
        selection.load(copy)
    assert sorted(closed) == ["LlamaCppModel", "OnnxEncoder"]


def test_a_language_model_of_another_width_is_refused(copy, tiny):
    tiny.write_encoder(copy / "encoder.int8.onnx", embedding_dim=16)
    rewrite(copy, embedding_dim=16)
    with pytest.raises(BundleError, match="embeddings of the language model: 32, the manifest says 16"):
        selection.load(copy)


def test_a_prompt_that_cannot_be_used_closes_what_was_opened(copy, monkeypatch):
    manifest = load_bundle(copy).manifest
    rewrite(copy, prompt=dataclasses.replace(manifest.prompt, after_audio=""))
    closed = watch_closing(monkeypatch)
    with pytest.raises(BundleError, match="must not be empty"):
        selection.load(copy)
    assert sorted(closed) == ["LlamaCppModel", "OnnxEncoder"]


def watch_closing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    closed: list[str] = []
    for kind in (LlamaCppModel, OnnxLanguageModel, OnnxEncoder):

        def close(self: object, original=kind.close) -> None:
            closed.append(type(self).__name__)
            original(self)

        monkeypatch.setattr(kind, "close", close)
    return closed
