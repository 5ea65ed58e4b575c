"""A checkpoint of adapters becomes a bundle that runs on its base model, and on no other file."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

import edge_emotion
from edge_emotion.base_models import BaseModel
from edge_emotion.bundle import load_bundle
from edge_emotion.errors import BundleError, ConfigError, ExportError
from edge_emotion_export.adapter import ADAPTER_NAME
from edge_emotion_export.export import export_all
from edge_emotion_export.gguf_adapter import export_adapter
from edge_emotion_export.gguf_llm import export_gguf
from edge_emotion_runtimes.llama_cpp_model import LlamaCppModel
from edge_emotion_runtimes.verify import verify_bundle
from edge_emotion_train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edge_emotion_train.pretrained import add_adapters, describe_base, load_language_model

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of our own: neither the user's base models nor what is converted here touch each other."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def base(checkpoint: Checkpoint, home: Path) -> Path:
    """A tiny published model, in a quantisation as published ones are."""
    path = home / "edge-emotion" / "tiny.Q8_0.gguf"
    path.parent.mkdir()
    export_gguf(checkpoint.language_model, checkpoint.tokenizer, path, "Q8_0", {"general.name": "tiny"}, "<|end|>")
    return path


@pytest.fixture(scope="module")
def adapted(checkpoint: Checkpoint, base: Path) -> Checkpoint:
    """The tiny checkpoint whose language model is the base with adapters that change it."""
    model, tokenizer = load_language_model(base)
    torch.manual_seed(1)
    add_adapters(model, rank=2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return dataclasses.replace(
        checkpoint, language_model=model.eval(), tokenizer=tokenizer, base_model=describe_base(base), base_path=base
    )


@pytest.fixture(scope="module")
def adapted_folder(adapted: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    save_checkpoint(folder, adapted)
    return folder


@pytest.fixture(scope="module")
def bundle_folder(adapted_folder: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "adapted"
    export_all(adapted_folder, folder, [clips], name="adapted")
    return folder


def logits_of(model: LlamaForCausalLM, ids: list[int]) -> np.ndarray:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].numpy()


def test_the_base_is_read_as_llama_cpp_computes_it(base: Path):
    model, tokenizer = load_language_model(base)
    with LlamaCppModel(base, threads=1, kv_type="f32", flash_attention=False) as device:
        ids = device.tokenize("The voice is high and fast<think>")
        assert ids == tokenizer.encode("The voice is high and fast<think>").ids
        device.prefill([ids])
        # Q8_0 rounds activations too, so the two are near, not equal.
        assert np.abs(device.logits() - logits_of(model, ids)).max() < 0.05 * np.abs(device.logits()).max()


def test_the_adapters_are_a_plain_peft_folder(adapted: Checkpoint, adapted_folder: Path, base: Path):
    folder = adapted_folder / "language_model"
    assert (folder / "adapter_model.safetensors").stat().st_size < 200_000
    assert not (folder / "model.safetensors").exists()
    ids = [1, 2, 3, 4]
    wanted = logits_of(adapted.language_model, ids)
    plain, _ = load_language_model(base)
    assert np.abs(logits_of(plain, ids) - wanted).max() > 0.1, "the adapters change nothing"
    by_peft = PeftModel.from_pretrained(plain, str(folder)).eval()
    np.testing.assert_allclose(logits_of(by_peft, ids), wanted, atol=1e-5)
    ours = load_checkpoint(adapted_folder)
    np.testing.assert_allclose(logits_of(ours.language_model, ids), wanted, atol=1e-5)
    assert (ours.base_model, ours.base_path) == (describe_base(base), base)


def test_a_checkpoint_without_its_base_says_how_to_get_it(adapted_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BundleError, match=r"tiny.Q8_0.gguf .* is not on this machine; put the file of SHA-256"):
        load_checkpoint(adapted_folder)


def test_another_file_in_the_place_of_the_base_is_refused(adapted_folder: Path, base: Path, tmp_path: Path):
    other = tmp_path / "tiny.Q8_0.gguf"
    content = bytearray(base.read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    with pytest.raises(BundleError, match="is another file: it has another SHA-256"):
        load_checkpoint(adapted_folder, base=other)
    other.write_bytes(content[:-1])
    with pytest.raises(BundleError, match="bytes instead of"):
        load_checkpoint(adapted_folder, base=tmp_path)


def test_a_base_must_be_a_gguf_file(tmp_path: Path):
    for path in (tmp_path, tmp_path / "absent.gguf"):
        with pytest.raises(ConfigError, match="the very file that will run"):
            load_language_model(path)


def test_the_bundle_holds_the_adapters_only_and_proves_them(bundle_folder: Path, base: Path):
    bundle = load_bundle(str(bundle_folder))
    (variant,) = bundle.manifest.llm.variants
    assert (variant.file, variant.quantisation) == (ADAPTER_NAME, "Q8_0")
    assert variant.base == BaseModel(base.name, base.stat().st_size, describe_base(base).sha256)
    assert not any(name.endswith(".gguf") for name in bundle.manifest.files if name != ADAPTER_NAME)
    parity = bundle.manifest.receipts["parity"]
    assert parity["adapter.F32"]["logits_max"] < 1e-3
    assert parity["tokenizer"]["texts_equal"] == 1.0
    assert verify_bundle(bundle).passed


def test_it_analyses_on_the_base_and_says_so(bundle_folder: Path, base: Path, clips: Path):
    with edge_emotion.load(str(bundle_folder), base=base) as analyzer:
        result = analyzer.analyze(clips / "1.wav")
    assert result.label is not None
    assert result.runtime["llm"]["adapter"] == ADAPTER_NAME
    assert result.runtime["llm"]["file"] == base.name


def test_without_the_base_it_says_how_to_get_it_and_the_head_still_answers(
    bundle_folder: Path, clips: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BundleError, match=r"base language model is missing.*or give its path with --base"):
        edge_emotion.load(str(bundle_folder))
    with edge_emotion.load(str(bundle_folder), llm="none") as analyzer:
        assert analyzer.analyze(clips / "1.wav", explain=False).label is not None


def test_adapters_of_another_model_are_refused_before_the_library_sees_them(
    checkpoint: Checkpoint, bundle_folder: Path, base: Path, tmp_path: Path
):
    torch.manual_seed(0)
    from edge_emotion_train.model import build_language_model

    wider = build_language_model(checkpoint.tokenizer.get_vocab_size() + 3, dim=96, layers=2, heads=3)
    path = tmp_path / "wider.gguf"
    export_gguf(wider.eval(), checkpoint.tokenizer, path, "F32", {}, "<|end|>")
    with pytest.raises(BundleError, match=r"it changes blk\.0\.\S+ from 64 to \d+ values, in wider\.gguf it has"):
        LlamaCppModel(path, adapter=bundle_folder / ADAPTER_NAME)
    with pytest.raises(BundleError, match="not a LoRA adapter"):
        LlamaCppModel(base, adapter=base)
    with pytest.raises(BundleError, match="cannot be read"):
        LlamaCppModel(base, adapter=tmp_path / "absent.gguf")


@pytest.mark.parametrize("kept", [0.1, 0.4, 0.7, 0.99])
def test_a_cut_adapter_is_refused(bundle_folder: Path, base: Path, tmp_path: Path, kept: float):
    content = (bundle_folder / ADAPTER_NAME).read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(BundleError):
        LlamaCppModel(base, adapter=cut)


def write_adapter_file(path: Path, **changes: object) -> Path:
    """An adapter of one matrix of the tiny base, with something wrong."""
    facts = {"type": "adapter", "kind": "lora", "architecture": "llama", "alpha": 4.0, "name": "blk.0.attn_q.weight"}
    facts |= {"rank_a": 2, "rank_b": 2, "dtype": np.float32, "halves": "ab"} | changes
    writer = gguf.GGUFWriter(path, str(facts["architecture"]))
    writer.add_type(str(facts["type"]))
    writer.add_string("adapter.type", str(facts["kind"]))
    writer.add_float32("adapter.lora.alpha", facts["alpha"])
    halves = {"a": (facts["rank_a"], 64), "b": (64, facts["rank_b"])}
    for half in facts["halves"]:
        writer.add_tensor(f"{facts['name']}.lora_{half}", np.zeros(halves[half], facts["dtype"]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "other"}, "not a LoRA adapter"),
        ({"architecture": "qwen2"}, "for the architecture 'qwen2'"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": 0.0}, "alpha"),
        ({"rank_b": 3}, "it changes blk.0.attn_q.weight"),
        ({"name": "blk.9.attn_q.weight"}, "does not have"),
        ({"halves": "a"}, "no half of an adapter's pair"),
        ({"dtype": np.int32}, "not F16 or F32"),
    ],
)
def test_what_the_library_might_stop_at_is_refused_in_python(base: Path, tmp_path: Path, changes: dict, message: str):
    with LlamaCppModel(base, adapter=write_adapter_file(tmp_path / "good.gguf")):
        pass
    with pytest.raises(BundleError, match=message):
        LlamaCppModel(base, adapter=write_adapter_file(tmp_path / "wrong.gguf", **changes))


def test_models_with_adapters_come_and_go_without_growing(base: Path, bundle_folder: Path):
    def use() -> None:
        with LlamaCppModel(base, threads=1, adapter=bundle_folder / ADAPTER_NAME) as model:
            model.prefill([[1, 2, 3]])

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    for _ in range(5):
        use()
    before = resident_bytes()
    for _ in range(30):
        use()
    assert resident_bytes() - before < 4 * 2**20


def test_a_model_without_adapters_is_no_adapter_export(checkpoint: Checkpoint, tmp_path: Path):
    with pytest.raises(ExportError, match="no adapters"):
        export_adapter(checkpoint.language_model, tmp_path / "x.gguf", gguf.GGMLQuantizationType.F16, {})


def test_a_changed_manifest_is_refused(bundle_folder: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(bundle_folder, folder)
    manifest = (folder / "manifest.json").read_text()
    for wrong in ('"../tiny.Q8_0.gguf"', '"tiny.onnx"'):
        (folder / "manifest.json").write_text(manifest.replace('"tiny.Q8_0.gguf"', wrong))
        with pytest.raises(BundleError, match="base"):
            load_bundle(str(folder))
