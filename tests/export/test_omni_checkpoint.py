"""Reading published checkpoints: layouts, adapters, prompts, and every way a folder can be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edge_emotion.errors import ConfigError, ExportError
from edge_emotion_export import omni_quantise
from edge_emotion_export.gguf_llm import check_tokenizer
from edge_emotion_export.omni_checkpoint import canonical_name, is_omni_checkpoint, open_omni
from edge_emotion_export.omni_gguf import read_types, write_gguf
from edge_emotion_export.omni_prompt import emotionthinker_labels, read_speech
from edge_emotion_runtimes.llama_cpp_model import LlamaCppModel
from edge_emotion_train.thinker.dialogue import prompt_of
from tests.thinker.tiny_omni import build_thinker, published_state, save_published, save_shards, train_tokenizer

SHARD = "model-00002-of-00004.safetensors"


@pytest.fixture(scope="module")
def omni(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    tokenizer = train_tokenizer()
    thinker = build_thinker(tokenizer, hidden=96)
    folder = save_published(tmp_path_factory.mktemp("omni") / "tiny-omni", thinker, tokenizer)
    return SimpleNamespace(folder=folder, thinker=thinker, tokenizer=tokenizer)


@pytest.fixture
def copy(omni: SimpleNamespace, tmp_path: Path) -> Path:
    return shutil.copytree(omni.folder, tmp_path / "copy")


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def test_tensors_are_those_of_the_model(omni: SimpleNamespace) -> None:
    checkpoint = open_omni(omni.folder)
    assert is_omni_checkpoint(omni.folder)
    assert not checkpoint.tied
    state = omni.thinker.state_dict()
    torch.testing.assert_close(checkpoint.rows("lm_head.weight", 3, 9), state["lm_head.weight"][3:9], rtol=0, atol=0)
    for name, values in checkpoint.state("audio_tower."):
        torch.testing.assert_close(values, state[f"model.audio_tower.{name}"], rtol=0, atol=0)
    text = omni.thinker.model.language_model
    assert checkpoint.parameters == sum(p.numel() for p in [*text.parameters(), omni.thinker.lm_head.weight])


def test_a_thinker_alone_in_one_file_is_the_same(omni: SimpleNamespace, tmp_path: Path) -> None:
    save_file(published_state(omni.thinker, ""), tmp_path / "model.safetensors")
    omni.thinker.config.save_pretrained(tmp_path)
    omni.tokenizer.save(str(tmp_path / "tokenizer.json"))
    whole, alone = open_omni(omni.folder), open_omni(tmp_path)
    assert whole.text.to_dict() == alone.text.to_dict()
    for name, values in whole.state("model."):
        torch.testing.assert_close(values, alone.rows("model." + name), rtol=0, atol=0)


def test_what_transformers_saves_itself_is_read(omni: SimpleNamespace, tmp_path: Path) -> None:
    omni.thinker.save_pretrained(tmp_path)
    omni.tokenizer.save(str(tmp_path / "tokenizer.json"))
    reread = open_omni(tmp_path).rows("model.layers.1.mlp.down_proj.weight")
    torch.testing.assert_close(reread, omni.thinker.model.language_model.layers[1].mlp.down_proj.weight, rtol=0, atol=0)


def test_own_ends_of_text_are_read(copy: Path, omni: SimpleNamespace) -> None:
    assert open_omni(copy).own_ends() is None
    end = omni.tokenizer.token_to_id("<|im_end|>")
    for given in (end, [end]):
        (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": given}))
        assert open_omni(copy).own_ends() == ["<|im_end|>"]


def test_names_of_every_release_mean_the_same() -> None:
    names = (
        "thinker.model.layers.0.x",
        "model.layers.0.x",
        "model.language_model.layers.0.x",
        "thinker.model.language_model.layers.0.x",
    )
    assert {canonical_name(name) for name in names} == {"model.layers.0.x"}  # fmt: skip
    assert canonical_name("thinker.model.audio_tower.conv1.bias") == canonical_name("audio_tower.conv1.bias")
    assert canonical_name("thinker.lm_head.weight") == "lm_head.weight"


def set_model_type(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(model_type="qwen2_audio"))


def drop_audio_config(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config["thinker_config"].pop("audio_config"))


def drop_audio_tensors(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    edit_json(index, lambda data: [data["weight_map"].pop(n) for n in list(data["weight_map"]) if "audio_tower" in n])


def drop_one_tensor(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    edit_json(index, lambda data: data["weight_map"].pop("thinker.model.layers.1.mlp.up_proj.weight"))


def widen(folder: Path) -> None:
    edit_json(folder / "config.json", lambda c: c["thinker_config"]["text_config"].update(intermediate_size=640))


def use_yarn(folder: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0}
    edit_json(
        folder / "config.json",
        lambda c: c["thinker_config"]["text_config"].update(rope_scaling=scaling, rope_parameters=scaling),
    )


def cut_shard(folder: Path) -> None:
    content = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(content[: len(content) // 2])


def empty_shard(folder: Path) -> None:
    names = load_file(folder / SHARD)
    save_file(dict(list(names.items())[:1]), folder / SHARD)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / SHARD).unlink(), f"shards are missing: {SHARD}"),
        (cut_shard, "cut or damaged"),
        (empty_shard, "which the index says it holds"),
        (lambda folder: (folder / "model.safetensors.index.json").unlink(), "holds neither"),
        (lambda folder: (folder / "config.json").unlink(), "ddwang2000/EmotionThinker"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "AutoTokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json cannot be read"),
        (set_model_type, "model_type 'qwen2_audio'"),
        (drop_audio_config, "cannot hear"),
        (drop_audio_tensors, "no audio tower"),
        (drop_one_tensor, r"lacks 1 tensors, such as model\.layers\.1\.mlp\.up_proj"),
        (widen, r"config\.json says"),
        (use_yarn, "rotary positions of type 'yarn'"),
    ],
)
def test_a_wrong_folder_is_told(copy: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(copy)
    with pytest.raises(ConfigError, match=message):
        open_omni(copy)


def test_not_a_number_in_the_weights_is_told(omni: SimpleNamespace, tmp_path: Path) -> None:
    state = published_state(omni.thinker, "thinker.")
    state["thinker.model.layers.0.mlp.up_proj.weight"][5, 5] = torch.nan
    folder = shutil.copytree(omni.folder, tmp_path / "copy")
    save_shards(folder, state, shards=4)
    with pytest.raises(ExportError, match="NaN"):
        write_gguf(open_omni(folder), tmp_path / "llm.gguf", "F16", {})
    assert not (tmp_path / "llm.gguf").exists()


@pytest.fixture(scope="module")
def adapted(omni: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A LoRA adapter as PEFT saves it, and what PEFT's own merge gives."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4, lora_alpha=12, target_modules=r".*(language_model.*\.(q|v|down)_proj|audio_tower.*fc1)",
        rank_pattern={"down_proj": 2}, alpha_pattern={r"layers\.1\.mlp\.down_proj": 5}, use_rslora=True,
    )  # fmt: skip
    torch.manual_seed(1)
    model = get_peft_model(build_thinker(omni.tokenizer, hidden=96), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    merged = model.merge_and_unload().state_dict()
    return SimpleNamespace(folder=folder, merged=merged)


def test_merge_of_an_adapter_is_that_of_peft(omni: SimpleNamespace, adapted: SimpleNamespace) -> None:
    checkpoint = open_omni(omni.folder, [adapted.folder])
    changed = 0
    for theirs, values in adapted.merged.items():
        name = canonical_name(theirs)
        if name.startswith("visual."):
            continue
        torch.testing.assert_close(checkpoint.rows(name), values, atol=1e-6, rtol=1e-6)
        changed += not torch.equal(values, omni.thinker.state_dict()[theirs])
    assert changed == 3 * 2 + 2
    name = "model.layers.0.mlp.down_proj.weight"
    torch.testing.assert_close(checkpoint.rows(name, 7, 11), checkpoint.rows(name)[7:11], rtol=0, atol=0)


def test_an_adapter_finds_its_base(omni: SimpleNamespace, adapted: SimpleNamespace, tmp_path: Path) -> None:
    folder = shutil.copytree(adapted.folder, tmp_path / "adapter")
    edit_json(folder / "adapter_config.json", lambda config: config.update(base_model_name_or_path=str(omni.folder)))
    assert is_omni_checkpoint(folder)
    assert len(open_omni(folder).adapters) == 1
    edit_json(folder / "adapter_config.json", lambda config: config.update(base_model_name_or_path="Qwen/Nowhere"))
    with pytest.raises(ConfigError, match=r"adapter of Qwen/Nowhere.*--adapter"):
        open_omni(folder)


def cut_adapter(folder: Path) -> None:
    content = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(content[:-100])


def rename_tensors(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    renamed = {name.replace("layers.1", "layers.7"): value for name, value in tensors.items()}
    save_file(renamed, folder / "adapter_model.safetensors")


def drop_half(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    save_file(tensors, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut_adapter, "damaged"),
        (rename_tensors, "does not fit this checkpoint"),
        (drop_half, "lacks half of"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "is missing"),
        (lambda folder: edit_json(folder / "adapter_config.json", lambda c: c.update(peft_type="IA3")), "IA3 adapter"),
        (lambda folder: edit_json(folder / "adapter_config.json", lambda c: c.update(use_dora=True)), "DoRA"),
        (lambda folder: edit_json(folder / "adapter_config.json", lambda c: c.update(bias="all")), "trained biases"),
    ],
)
def test_a_wrong_adapter_is_told(
    omni: SimpleNamespace, adapted: SimpleNamespace, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    folder = shutil.copytree(adapted.folder, tmp_path / "adapter")
    spoil(folder)
    with pytest.raises(ConfigError, match=message):
        open_omni(omni.folder, [folder])


def test_widths_that_fit_no_block_are_told(omni: SimpleNamespace, tmp_path: Path) -> None:
    checkpoint = open_omni(omni.folder)
    write_gguf(checkpoint, tmp_path / "llm.F16.gguf", "F16", {})
    omni_quantise.quantise(tmp_path / "llm.F16.gguf", tmp_path / "llm.Q4_K_M.gguf", "Q4_K_M")
    types = read_types(tmp_path / "llm.Q4_K_M.gguf")
    assert types["Q5_0"] > types.get("Q4_K", 0)  # llama.cpp's larger type for rows of 96
    assert "matrices of width 96 are no multiple of 256" in omni_quantise.width_note(checkpoint, "Q4_K_M")
    assert omni_quantise.width_note(checkpoint, "IQ4_NL") == ""
    with pytest.raises(ExportError, match="unknown quantisation"):
        omni_quantise.quantise(tmp_path / "llm.F16.gguf", tmp_path / "x.gguf", "Q1")
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "llm.F16.gguf").read_bytes()[:5000])
    with pytest.raises(ExportError, match=r"cannot quantise cut\.gguf"):
        omni_quantise.quantise(tmp_path / "cut.gguf", tmp_path / "x.gguf", "Q4_K_M")
    assert not list(tmp_path.glob("x.gguf*"))


def test_importance_keeps_what_matters(omni: SimpleNamespace, tmp_path: Path) -> None:
    """A matrix whose first columns alone matter keeps those more exactly."""
    import gguf

    checkpoint, name = open_omni(omni.folder), "blk.0.ffn_down.weight"
    write_gguf(checkpoint, tmp_path / "llm.F16.gguf", "F16", {})
    weights = np.where(np.arange(512) % 32 < 4, 1.0, 1e-6).astype(np.float32)
    errors = {}
    for label, importance in {"plain": None, "weighted": {name: weights}}.items():
        path = tmp_path / f"{label}.gguf"
        omni_quantise.quantise(tmp_path / "llm.F16.gguf", path, "IQ4_NL", importance)
        tensor = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)
        stored = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        exact = checkpoint.rows("model.layers.0.mlp.down_proj.weight").numpy()
        errors[label] = float(((stored - exact) ** 2 * weights).sum())
    assert errors["weighted"] < 0.8 * errors["plain"]


def test_tied_output_is_written_once(omni: SimpleNamespace, tmp_path: Path) -> None:
    folder = shutil.copytree(omni.folder, tmp_path / "tied")
    edit_json(folder / "model.safetensors.index.json", lambda data: data["weight_map"].pop("thinker.lm_head.weight"))
    checkpoint = open_omni(folder)
    assert checkpoint.tied
    write_gguf(checkpoint, tmp_path / "llm.gguf", "F32", {})
    ids = omni.tokenizer.encode("The voice is high").ids
    with LlamaCppModel(tmp_path / "llm.gguf", 64, threads=1, kv_type="f32", flash_attention=False) as model:
        model.prefill([ids])
        logits = model.logits()
    states = omni.thinker.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    expected = states @ omni.thinker.model.language_model.embed_tokens.weight.T
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)


def test_prompt_of_emotionthinker_is_qwens_template_and_labels_are_ours(omni: SimpleNamespace) -> None:
    prompt, labels = prompt_of("emotionthinker", ()), emotionthinker_labels()
    assert labels == ("neutral", "happiness", "sadness", "anger", "disgust", "confused", "whisper", "surprise", "fear")
    assert prompt.texts_of(labels)[4] == ">contempt or disgust"
    text = prompt.before_audio + "<|AUDIO|>" + prompt.after_audio
    assert text.startswith("<|im_start|>system\nA conversation between User and Assistant.")
    assert "<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|><audio>What is the emotion" in text
    assert text.endswith("surprise, fear.<|im_end|>\n<|im_start|>assistant\n")
    # The label is read in the tokens that a model would write it in.
    whole = omni.tokenizer.encode("Sad.</think><answer>angry</answer>").ids
    parts = [omni.tokenizer.encode(part).ids for part in ("Sad.</think><answer", ">angry", "</answer>")]
    assert [identity for part in parts for identity in part] == whole


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"labels": ["a", "b"]}, "9 label_texts for 2 labels"),
        ({"speed": 3}, "must be an object with keys"),
        ({"prompt": {"stop": 3}}, "prompt must have exactly"),
        ({"calibration": {"head": {"temperature": 1.0, "ece": 0.1, "abstain_below": 0.1}}}, "exactly the key llm"),
    ],
)
def test_wrong_own_speech_is_told(tmp_path: Path, own: dict[str, Any], message: str) -> None:
    (tmp_path / "edge_emotion.json").write_text(json.dumps(own))
    with pytest.raises(ConfigError, match=message):
        read_speech(tmp_path)


def test_licence_is_read_from_the_model_card(tmp_path: Path) -> None:
    assert "not stated" in read_speech(tmp_path).licence
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- audio\n---\n# A model\n")
    assert read_speech(tmp_path).licence == "apache-2.0"


def test_only_the_known_normaliser_is_let_through(omni: SimpleNamespace) -> None:
    with pytest.raises(ExportError, match="normaliser"):
        check_tokenizer(omni.tokenizer, "<|im_end|>")
    assert check_tokenizer(omni.tokenizer, "<|im_end|>", normaliser="NFC") == omni.tokenizer.token_to_id("<|im_end|>")
