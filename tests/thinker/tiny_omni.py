"""A tiny random Qwen2.5-Omni saved as published: full model, `thinker.` before the names, talker beside it, shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>",
    "<|IMAGE|>", "<|VIDEO|>", "<|vision_bos|>",
)  # fmt: skip
SENTENCES = (
    "<think>The voice is high and fast.</think><answer>angry</answer>",
    "What is the emotion expressed in this audio clip? Please choose: neutral, happy, sad, surprise, fear.",
    "system user assistant A conversation between User and Assistant. The speech is slow, its tone is soft.",
)


def train_tokenizer() -> Tokenizer:
    """Byte-level BPE as Qwen2's, with its composing of accents and the Omni's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=350, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return tokenizer


def thinker_config(tokenizer: Tokenizer, hidden: int = 256, layers: int = 2) -> Qwen2_5OmniThinkerConfig:
    """Sizes of a toy; the vocabulary is padded, as published ones are."""
    identity, sections = tokenizer.token_to_id, [hidden // 32, hidden // 16, hidden // 32]
    return Qwen2_5OmniThinkerConfig(
        audio_config={
            "d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 128,
            "num_mel_bins": 128, "output_dim": hidden,
        },
        vision_config={
            "depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": hidden,
            "fullatt_block_indexes": [0],
        },
        text_config={
            "vocab_size": tokenizer.get_vocab_size() + 5, "hidden_size": hidden, "intermediate_size": 512,
            "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 4096, "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "rope_scaling": {"mrope_section": sections, "rope_type": "default", "type": "default"},
        },
        audio_token_index=identity("<|AUDIO|>"),
        image_token_index=identity("<|IMAGE|>"),
        video_token_index=identity("<|VIDEO|>"),
        audio_start_token_id=identity("<|audio_bos|>"),
        audio_end_token_id=identity("<|audio_eos|>"),
        vision_start_token_id=identity("<|vision_bos|>"),
    )  # fmt: skip


def build_thinker(tokenizer: Tokenizer, hidden: int = 256) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """Random weights, wide enough that logits are far from equal, rounded to bfloat16 as on disk."""
    torch.manual_seed(0)
    thinker = Qwen2_5OmniThinkerForConditionalGeneration(thinker_config(tokenizer, hidden)).eval()
    for name, parameter in thinker.named_parameters():
        wide = parameter.ndim > 1
        norm = "norm" in name or "ln_post" in name
        torch.nn.init.normal_(parameter, mean=float(norm and not name.endswith("bias")), std=0.12 if wide else 0.1)
        parameter.data = parameter.data.to(torch.bfloat16).to(torch.float32)
    return thinker.requires_grad_(False)


def published_state(thinker: Qwen2_5OmniThinkerForConditionalGeneration, prefix: str) -> dict[str, torch.Tensor]:
    """The thinker's tensors under their published names, in bfloat16."""
    renames = (
        ("model.audio_tower.", "audio_tower."),
        ("model.visual.", "visual."),
        ("model.language_model.", "model."),
    )
    state = {}
    for name, tensor in thinker.state_dict().items():
        for new, old in renames:
            name = name.replace(new, old) if name.startswith(new) else name
        state[prefix + name] = tensor.to(torch.bfloat16).contiguous().clone()
    return state


def save_published(folder: Path, thinker: Qwen2_5OmniThinkerForConditionalGeneration, tokenizer: Tokenizer) -> Path:
    """The full model's folder: four shards with an index, talker and vocoder present, bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    state = published_state(thinker, "thinker.")
    state["talker.model.embed_tokens.weight"] = torch.zeros(40, 8, dtype=torch.bfloat16)
    state["talker.thinker_to_talker_proj.weight"] = torch.zeros(8, 8, dtype=torch.bfloat16)
    state["token2wav.code2wav_dit_model.text_embed.codec_embed.weight"] = torch.zeros(8, 8)
    save_shards(folder, state, shards=4)
    config = {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "enable_audio_output": True,
        "thinker_config": thinker.config.to_dict(),
        "talker_config": {"model_type": "qwen2_5_omni_talker"},
        "token2wav_config": {"model_type": "qwen2_5_omni_token2wav"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def save_shards(folder: Path, state: Mapping[str, torch.Tensor], shards: int) -> None:
    """Tensors in `model-0000i-of-0000n.safetensors` with their index."""
    weight_map: dict[str, Any] = {}
    names = sorted(state)
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: state[name] for name in names[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
