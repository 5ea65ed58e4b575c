"""A checkpoint becomes a bundle through the real code path, and a broken artefact never does."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import edge_emotion_export.export as export_module
from edge_emotion.bundle import Bundle, load_bundle
from edge_emotion.errors import ConfigError, ExportError
from edge_emotion_export import gguf_llm, onnx_llm
from edge_emotion_export.export import export_all, export_part, main
from edge_emotion_runtimes.verify import verify_bundle
from edge_emotion_train.checkpoint import Checkpoint


@pytest.fixture(scope="session")
def bundle(checkpoint_folder: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("export") / "tiny"
    export_all(checkpoint_folder, folder, [clips], name="tiny", version="1.2.3")
    return load_bundle(folder)


def test_bundle_is_complete_and_says_where_it_comes_from(bundle: Bundle, checkpoint: Checkpoint) -> None:
    manifest = bundle.manifest
    assert set(manifest.files) == {
        "encoder.fp32.onnx", "encoder.int8.onnx", "llm.Q8_0.gguf", "llm.F16.gguf", "llm.int8.onnx", "llm.fp32.onnx",
        "golden.npz", "README.md", "LICENSES",
    }  # fmt: skip
    assert (manifest.name, manifest.version, manifest.labels) == ("tiny", "1.2.3", checkpoint.labels)
    assert bundle.encoder_path().name == "encoder.int8.onnx"
    assert bundle.llm_path().name == "llm.int8.onnx"  # runs where nothing was compiled
    assert [variant.quantisation for variant in manifest.llm.variants] == ["int8", "Q8_0", "F16", "fp32"]
    assert manifest.encoder.max_window_s == 4.0  # 200 positions, 50 a second
    assert manifest.prompt == checkpoint.prompt
    assert manifest.provenance["commit"] == "0" * 40
    assert "noise: CC0-1.0" in (bundle.path / "LICENSES").read_text()
    assert "1.2.3" in (bundle.path / "README.md").read_text()


def test_receipts_hold_every_parity_figure_within_its_limit(bundle: Bundle) -> None:
    receipts = bundle.manifest.receipts
    assert receipts["clips"]["count"] == 5
    parity = receipts["parity"]
    assert set(parity) == {
        "fp32", "int8", "tokenizer", "F32", "F16", "Q8_0", "end_to_end",
        "llm.tokenizer", "llm.fp32", "llm.int8", "llm.end_to_end",
    }  # fmt: skip
    assert parity["fp32"]["embeddings_relative_max"] <= 1e-4
    assert parity["int8"]["embeddings_cosine_min"] >= 0.99
    assert parity["int8"]["embeddings_relative_max"] > parity["fp32"]["embeddings_relative_max"]
    assert parity["F32"]["logits_max"] <= 1e-4
    assert parity["F32"]["text_equal"] == 1.0
    assert parity["tokenizer"] == parity["llm.tokenizer"] == {"texts": 200, "texts_equal": 1.0}
    assert parity["llm.fp32"]["logits_max"] <= 1e-4
    assert parity["llm.fp32"]["text_equal"] == 1.0
    assert parity["llm.int8"]["logits_max"] > parity["llm.fp32"]["logits_max"]
    for artefact, figures in parity.items():
        for name, limit in receipts["limits"][artefact].items():
            assert figures[name] >= limit["value"] if limit["at_least"] else figures[name] <= limit["value"]


@pytest.mark.parametrize(("encoder", "llm"), [("fp32", "F16"), ("int8", "Q8_0"), ("int8", "int8"), ("fp32", "fp32")])
def test_golden_clips_replay(bundle: Bundle, encoder: str, llm: str) -> None:
    report = verify_bundle(bundle, encoder, llm)
    assert report.passed
    assert len(report.taps) == 3 * 4


def test_golden_clips_refuse_another_encoder(bundle: Bundle, tmp_path: Path) -> None:
    """The tolerances are tight enough to notice one wrong layer."""
    folder = tmp_path / "changed"
    shutil.copytree(bundle.path, folder)
    scale_one_layer(folder / "encoder.fp32.onnx", 1.2)
    (folder / "manifest.json").unlink()
    export_module.write_manifest(folder, bundle.manifest)
    report = verify_bundle(load_bundle(folder), "fp32", "F16")
    assert {tap.name for tap in report.taps if not tap.passed} >= {"embeddings"}


def test_model_files_hold_no_paths_of_this_machine(bundle: Bundle) -> None:
    for name in ("encoder.fp32.onnx", "encoder.int8.onnx", "llm.Q8_0.gguf", "llm.int8.onnx", "manifest.json"):
        content = (bundle.path / name).read_bytes()
        assert str(Path(export_module.__file__).parents[2]).encode() not in content
        assert b"stack_trace" not in content


def scale_one_layer(path: Path, factor: float) -> None:
    model = onnx.load(str(path))
    scale = next(item for item in model.graph.initializer if item.name == "encoder.layers.1.attention_norm.weight")
    scale.CopyFrom(numpy_helper.from_array(np.float32(factor) * numpy_helper.to_array(scale), scale.name))
    onnx.save(model, str(path))


def test_wrong_scale_in_one_layer_is_not_written(
    bundle: Bundle, checkpoint_folder: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_wrongly(tower: object, path: Path, metadata: object) -> int:
        shutil.copy(bundle.path / "encoder.fp32.onnx", path)
        scale_one_layer(path, 1.01)
        return 20

    monkeypatch.setattr(export_module, "export_onnx", export_wrongly)
    with pytest.raises(ExportError, match=r"fp32 is not like its parent.*embeddings_relative_max"):
        export_part("encoder", checkpoint_folder, tmp_path / "out", [clips])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pre", ["gpt-2", "default", "smollm"])
def test_wrong_pre_tokenizer_is_not_written(
    pre: str, checkpoint_folder: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_llm, "PRE_TOKENIZER", pre)
    with pytest.raises(ExportError, match="tokenizer is not like its parent"):
        export_part("llm", checkpoint_folder, tmp_path / "out", [clips / "0.wav"])
    assert list(tmp_path.iterdir()) == []


def test_query_rows_in_the_wrong_order_are_not_written(
    checkpoint_folder: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_llm, "interleave_rotary_rows", lambda weight, heads: weight)
    with pytest.raises(ExportError, match=r"F32 is not like its parent.*logits_max"):
        export_part("llm", checkpoint_folder, tmp_path / "out", [clips / "0.wav"])
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_rotation_in_the_onnx_decoder_is_not_written(
    checkpoint_folder: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = onnx_llm.decoder_sizes
    monkeypatch.setattr(onnx_llm, "decoder_sizes", lambda config: replace(sizes(config), rope_theta=9000.0))
    with pytest.raises(ExportError, match=r"llm\.fp32 is not like its parent.*logits_max"):
        export_part("llm", checkpoint_folder, tmp_path / "out", [clips / "0.wav"])
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_grows_too_large_leaves_the_conveniences_out(
    checkpoint_folder: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "MAX_BUNDLE_BYTES", 1)
    manifest = export_all(checkpoint_folder, tmp_path / "out", [clips / "0.wav", clips / "1.wav"])
    assert [variant.quantisation for variant in manifest.llm.variants] == ["int8", "Q8_0"]
    assert not {"llm.fp32", "F16"} & set(manifest.receipts["parity"])
    tolerances = manifest.receipts["golden"]["tolerances"]
    assert set(tolerances["text"]) == set(tolerances["first_logits"]) == {"int8", "Q8_0"}
    assert [variant.precision for variant in manifest.encoder.variants] == ["int8"]
    assert set(tolerances["embeddings"]) == {"int8"}
    assert "fp32" in manifest.receipts["parity"]  # the int8 file was compared through it


def test_language_model_alone(checkpoint_folder: Path, clips: Path, tmp_path: Path) -> None:
    assert main("llm", checkpoint=checkpoint_folder, output=tmp_path / "llm", clips=[clips / "0.wav"]) == 0
    assert sorted(path.name for path in (tmp_path / "llm").iterdir()) == [
        "llm.F16.gguf",
        "llm.Q8_0.gguf",
        "llm.fp32.onnx",
        "llm.int8.onnx",
        "parity.json",
    ]
    assert json.loads((tmp_path / "llm" / "parity.json").read_text())["parity"]["F32"]["logits_max"] <= 1e-4


def test_existing_target_is_kept_without_force(checkpoint_folder: Path, clips: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    main("llm", checkpoint=checkpoint_folder, output=target, clips=[clips / "0.wav"])
    before = (target / "llm.Q8_0.gguf").stat().st_mtime_ns
    with pytest.raises(ExportError, match="--force"):
        main("llm", checkpoint=checkpoint_folder, output=target, clips=[clips / "0.wav"])
    assert (target / "llm.Q8_0.gguf").stat().st_mtime_ns == before
    main("llm", checkpoint=checkpoint_folder, output=target, clips=[clips / "0.wav"], force=True)
    assert (target / "llm.Q8_0.gguf").stat().st_mtime_ns != before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_failed_export_keeps_the_earlier_one(
    checkpoint_folder: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    main("llm", checkpoint=checkpoint_folder, output=target, clips=[clips / "0.wav"])
    monkeypatch.setattr(gguf_llm, "interleave_rotary_rows", lambda weight, heads: weight)
    with pytest.raises(ExportError):
        main("llm", checkpoint=checkpoint_folder, output=target, clips=[clips / "0.wav"], force=True)
    assert (target / "parity.json").is_file()


def test_force_never_replaces_what_is_not_an_export(checkpoint_folder: Path, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="not an earlier export"):
        export_all(checkpoint_folder, tmp_path, [clips], force=True)
    assert (tmp_path / "thesis.txt").is_file()


def test_clips_are_needed_and_must_be_long_enough(checkpoint_folder: Path, clips: Path, tmp_path: Path) -> None:
    import soundfile

    with pytest.raises(ExportError, match="--clips"):
        export_all(checkpoint_folder, tmp_path / "out", [])
    soundfile.write(tmp_path / "short.wav", np.ones(1600), 16000)
    with pytest.raises(ExportError, match=r"short\.wav"):
        export_all(checkpoint_folder, tmp_path / "out", [tmp_path / "short.wav"])
    with pytest.raises(ConfigError, match="not a checkpoint"):
        export_all(tmp_path, tmp_path / "out", [clips])
