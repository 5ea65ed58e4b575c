"""Opening a bundle: what is chosen and why, what is refused, and that nothing is half open afterwards."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

import edge_emotion
from edge_emotion.bundle import load_bundle, write_manifest
from edge_emotion.errors import BundleError, RuntimeUnavailableError
from edge_emotion.manifest import Manifest
from edge_emotion_runtimes import selection

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
        ({"encoder": "int4"}, "has no encoder 'int4'; it has: fp32, int8, or give auto"),
        ({"llm": "Q2_K"}, "has no llm 'Q2_K'; it has: Q8_0, none, or give auto"),
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


def test_a_stop_text_of_several_tokens_is_refused(copy, monkeypatch):
    manifest = load_bundle(copy).manifest
    rewrite(copy, prompt=dataclasses.replace(manifest.prompt, stop=("and so on",)))
    closed = watch_closing(monkeypatch)
    with pytest.raises(BundleError, match="'and so on' is 8 tokens"):
        selection.load(copy)
    assert sorted(closed) == ["LlamaCppModel", "OnnxEncoder"]


def watch_closing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    closed: list[str] = []
    for kind in (selection.LlamaCppModel, selection.OnnxEncoder):

        def close(self: object, original=kind.close) -> None:
            closed.append(type(self).__name__)
            original(self)

        monkeypatch.setattr(kind, "close", close)
    return closed
