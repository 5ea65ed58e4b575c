"""Sizes of the models that are trained, counted on the classes themselves, built without memory on torch's meta device.

Nothing is downloaded: the published models are known by their widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig, Qwen2_5OmniThinkerConfig
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

from edge_emotion.errors import ConfigError

from .footprint import Decoder, Model, Tower
from .model import TOKENS_PER_S, AudioProjector, EvidenceProjector, build_language_model

# What distinguishes the published models; the audio and the vision tower are the same but for their last layer. Heads
# are counted apart from embeddings, as in the 7B: should the 3B tie them, it needs 0.3 billion parameters less.
PUBLISHED: Mapping[str, Mapping[str, int]] = {
    "3b": {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
           "intermediate_size": 11008, "vocab_size": 151936},
    "7b": {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
           "intermediate_size": 18944, "vocab_size": 152064},
}  # fmt: skip


def published_thinker(size: str) -> Model:
    """Qwen2.5-Omni's thinker of the size `3b` or `7b`.

    Raises:
        ConfigError: Another size.
    """
    widths = PUBLISHED.get(size.lower())
    if widths is None:
        raise ConfigError(f"no published Qwen2.5-Omni is called {size!r}; known sizes: {', '.join(PUBLISHED)}")
    config = Qwen2_5OmniThinkerConfig(
        text_config={**widths, "tie_word_embeddings": False},
        audio_config={"output_dim": widths["hidden_size"]},
        vision_config={"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": widths["hidden_size"]},
    )
    return thinker_sizes(config, f"Qwen2.5-Omni-{size.upper()}")


def thinker_of_folder(folder: Path) -> Model:
    """The thinker of a downloaded Qwen2.5-Omni, or of a model derived from it.

    Raises:
        ConfigError: The folder holds no such model.
    """
    try:
        config: Any = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} holds no model's config.json that can be read ({error})") from error
    config = getattr(config, "thinker_config", config)
    if not isinstance(config, Qwen2_5OmniThinkerConfig):
        raise ConfigError(f"{folder} is a {config.model_type}, no Qwen2.5-Omni thinker")
    return thinker_sizes(config, folder.name)


def thinker_sizes(config: Qwen2_5OmniThinkerConfig, name: str) -> Model:
    """Sizes of any thinker."""
    with torch.device("meta"):
        thinker = Thinker(config)
    audio: Any = config.audio_config
    text: Any = config.text_config
    tower = Tower(
        dim=audio.d_model,
        layers=audio.encoder_layers,
        heads=audio.encoder_attention_heads,
        inner=audio.encoder_ffn_dim,
        mel_bands=audio.num_mel_bins,
        parameters=count(thinker.model.audio_tower),
    )
    decoder = decoder_sizes(text, thinker.model.language_model, thinker.lm_head)
    return Model(name, decoder, tower, unused=count(thinker.model.visual))


def nano_sizes(dim: int, layers: int, vocabulary: int, encoder_layers: int, cues: int, labels: int,
               evidence_tokens: int, encoder_dim: int = 384) -> Model:  # fmt: skip
    """A nano model, which trains on cached features of the frozen encoder."""
    with torch.device("meta"):
        language_model = build_language_model(vocabulary, dim, layers, dim // 64)
        projectors = (EvidenceProjector(cues, labels, evidence_tokens, dim),
                      AudioProjector(encoder_layers, encoder_dim, dim))  # fmt: skip
    decoder = decoder_sizes(language_model.config, language_model.model, language_model.lm_head)
    return Model("nano", decoder, projector=sum(map(count, projectors)), tokens_per_s=TOKENS_PER_S)


def decoder_sizes(config: PretrainedConfig, backbone: nn.Module, head: nn.Module) -> Decoder:
    """Sizes of a causal language model; a head that is tied to the embeddings counts once."""
    sizes: Any = config
    tied = head.weight is backbone.get_input_embeddings().weight  # pyright: ignore[reportCallIssue]
    return Decoder(
        dim=sizes.hidden_size,
        layers=sizes.num_hidden_layers,
        heads=sizes.num_attention_heads,
        kv_heads=sizes.num_key_value_heads,
        head_dim=getattr(sizes, "head_dim", None) or sizes.hidden_size // sizes.num_attention_heads,
        inner=sizes.intermediate_size,
        vocabulary=sizes.vocab_size,
        parameters=count(backbone) + (0 if tied else count(head)),
        head_parameters=0 if tied else count(head),
    )


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
