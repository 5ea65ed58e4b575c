"""Folders that hold a thinker, and folders that do not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from edge_emotion.errors import ConfigError
from edge_emotion_train.thinker.model import base_of, fingerprint, load_thinker, lora
from edge_emotion_train.thinker.processor import audio_token_ids, load_processor


@pytest.fixture
def copied(published: Path, tmp_path: Path) -> Path:
    return shutil.copytree(published, tmp_path / "copy")


@pytest.fixture
def adapter(copied: Path, tmp_path: Path) -> Path:
    """An adapter that changes what the model says."""
    model = get_peft_model(load_thinker(copied), lora(2))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_thinker_saved_alone_is_the_published_one(published: Path, tmp_path: Path) -> None:
    first = load_thinker(published)
    first.save_pretrained(tmp_path / "alone")
    second = load_thinker(tmp_path / "alone")
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())


def test_an_adapter_finds_its_base_or_is_told(adapter: Path, copied: Path, tmp_path: Path) -> None:
    assert base_of(adapter) == copied.resolve()
    here = load_thinker(adapter)
    moved = copied.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"is an adapter of .*copy, which is no folder here; say with --base"):
        load_thinker(adapter)
    there = load_thinker(adapter, moved)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(here(input_ids=ids).logits, there(input_ids=ids).logits)
        assert not torch.allclose(here(input_ids=ids).logits, load_thinker(moved)(input_ids=ids).logits)
    assert not any(parameter.requires_grad for parameter in there.parameters())
    trained = [name for name, p in load_thinker(adapter, moved, trainable=True).named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name and "language_model" in name for name in trained)


def _other_type(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))


def _no_shard(folder: Path) -> None:
    (folder / "model-00002-of-00004.safetensors").unlink()


def _cut_shard(folder: Path) -> None:
    path = folder / "model-00002-of-00004.safetensors"
    path.write_bytes(path.read_bytes()[:200])


def _no_tensor(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    lost = [name for name, file in content["weight_map"].items() if file == "model-00002-of-00004.safetensors"]
    content["weight_map"] = {name: file for name, file in content["weight_map"].items() if name not in lost}
    index.write_text(json.dumps(content))


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_no_config, "holds no config.json; give the folder of a Qwen2.5-Omni"),
        (_other_type, "says model_type 'qwen2'; a thinker is qwen2_5_omni or qwen2_5_omni_thinker"),
        (_no_shard, "cannot be loaded"),
        (_cut_shard, "cannot be loaded"),
        (_no_tensor, r"lacks \d+ tensors, such as"),
    ],
)
def test_a_folder_that_holds_no_whole_thinker_is_refused(
    copied: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(copied)
    with pytest.raises(ConfigError, match=said):
        load_thinker(copied)


def test_a_tokenizer_without_audio_is_refused(copied: Path) -> None:
    tokens = json.loads((copied / "tokenizer.json").read_text())
    tokens["added_tokens"] = [one for one in tokens["added_tokens"] if "audio" not in one["content"]]
    (copied / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(ConfigError, match=r"lacks <\|audio_bos\|>, <\|audio_eos\|>: it is none of a Qwen2.5-Omni"):
        load_processor(copied)


def test_placeholders_of_audio_are_known(published: Path) -> None:
    processor = load_processor(published)
    names = processor.tokenizer.convert_ids_to_tokens(audio_token_ids(processor))
    assert names == ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
    assert processor.tokenizer.eos_token == "<|im_end|>"


def test_the_fingerprint_follows_the_weights_and_not_the_place(published: Path, copied: Path, adapter: Path) -> None:
    assert fingerprint(published) == fingerprint(copied) != fingerprint(adapter)
    path = copied / "model-00001-of-00004.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert fingerprint(published) != fingerprint(copied)
