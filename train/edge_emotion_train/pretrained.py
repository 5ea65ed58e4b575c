"""A published Llama-type language model as the text side of a speech model, changed by LoRA adapters only.

The adapters train on the weights that will run: a GGUF file is dequantised, so that on the device the same file and the
adapters are together what was trained.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaForCausalLM

from edge_emotion.base_models import SMOLLM2_135M, BaseModel, cache_folder, find_base_model
from edge_emotion.bundle import sha256_of
from edge_emotion.errors import ConfigError
from edge_emotion.prompt import Prompt

from .config import SftConfig
from .features import FeatureSet
from .model import AudioProjector, EvidenceProjector
from .sft import SpeechLanguageModel
from .tokenizer import SPLIT_PATTERN
from .warm_start import label_embeddings, level_embeddings, mean_words, start_audio, start_evidence

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# llama.cpp's name of a splitting of text -> the same in `tokenizers`, which the reader of GGUF files does not restore.
_SPLITTINGS = {
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "qwen2": [
        pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
}


def chatml_prompt(labels: tuple[str, ...]) -> Prompt:
    """The recording is the user's turn, the thinking a line of the assistant's, the answer the next line.

    Every tag is one token of the model's own vocabulary, and so is each label with the space before it.
    """
    return Prompt(
        before_audio="<|im_start|>user\n",
        after_audio="<|im_end|>\n<|im_start|>assistant\n",
        answer_open="\nEmotion:",
        answer_close="<|im_end|>",
        stop=("\n",),
        label_texts=tuple(f" {label}" for label in labels),
    )


def describe_base(path: Path) -> BaseModel:
    """A file by name, size and hash."""
    return BaseModel(path.name, path.stat().st_size, sha256_of(path))


def load_language_model(path: Path) -> tuple[LlamaForCausalLM, Tokenizer]:
    """Reads a GGUF file in float32, with its tokenizer.

    Reading one takes most of a minute, so it is kept as a Hugging Face folder in the user's cache folder.

    Raises:
        ConfigError: There is no such file, or it is no Llama in GGUF.
    """
    if not path.is_file() or path.suffix != ".gguf":
        raise ConfigError(
            f"no GGUF file at {path}: adapters are trained on the very file that will run on the device; give that"
        )
    folder = cache_folder() / f"language-model-{sha256_of(path)[:16]}"
    if not folder.is_dir():
        _convert(path, folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    if not isinstance(model, LlamaForCausalLM):
        raise ConfigError(f"{path} is a {type(model).__name__}; only a Llama can hear this project's audio tokens")
    return model.eval().requires_grad_(False), Tokenizer.from_file(str(folder / "tokenizer.json"))


def add_adapters(model: LlamaForCausalLM, rank: int) -> None:
    """Gives every projection of the model a LoRA adapter that trains; the model itself stays as it is."""
    model.add_adapter(
        LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=list(LORA_TARGETS), task_type="CAUSAL_LM"
        )
    )


class AdaptedSpeechLanguageModel(SpeechLanguageModel):
    """A `SpeechLanguageModel` that saves only what trains: projectors and adapters, not the base."""

    def learned(self) -> set[str]:
        """Names of the trained parameters and of the projectors' buffers."""
        names = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return names | {name for name, _ in self.named_buffers() if not name.startswith("language_model.")}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """As any module's, without the base."""
        whole: dict[str, Tensor] = super().state_dict(*args, **kwargs)
        learned = self.learned()
        return {name: tensor for name, tensor in whole.items() if name in learned}


def base_model_path(config: SftConfig) -> Path:
    """The pretrained language model's file.

    Raises:
        BundleError: None is given and SmolLM2-135M-Instruct is not on this machine.
    """
    return config.language_model or find_base_model(SMOLLM2_135M)


def build_adapted_model(config: SftConfig, encoder_dim: int) -> tuple[AdaptedSpeechLanguageModel, Tokenizer]:
    """Fresh projectors before a pretrained language model with fresh adapters, and its tokenizer.

    Raises:
        ConfigError: `embedding_dim` is not the width of the language model.
        BundleError: The language model is not on this machine.
    """
    path = base_model_path(config)
    language_model, tokenizer = load_language_model(path)
    dim = language_model.config.hidden_size
    if config.embedding_dim != dim:
        raise ConfigError(f"embedding_dim: must be {dim}, the width of {path.name}; given {config.embedding_dim}")
    add_adapters(language_model, config.lora_rank)
    model = AdaptedSpeechLanguageModel(
        EvidenceProjector(len(config.cues), len(config.labels), config.evidence_tokens, dim),
        AudioProjector(config.encoder_layers, encoder_dim, dim),
        language_model,
    )
    return model, tokenizer


def begin_in_words(
    model: SpeechLanguageModel,
    tokenizer: Tokenizer,
    config: SftConfig,
    features: FeatureSet,
    measured: Sequence[Mapping[str, str]],
    cue_values: np.ndarray,
    emotion_logits: np.ndarray,
) -> None:
    """Fits the projectors to the language model's words for what is heard and measured (`warm_start.py`).

    Args:
        model: Projectors and language model.
        tokenizer: The language model's.
        config: Cues, labels and the corpora that are explained.
        features: `n` rows.
        measured: Level of each measured cue of every row.
        cue_values: Out-of-fold cue values `(n, cues)`.
        emotion_logits: The same for the emotions, `(n, labels)`.
    """
    words: Any = model.language_model.get_input_embeddings()
    embeddings = words.weight.detach()
    levels = level_embeddings(embeddings, tokenizer, config.cues)
    labels = label_embeddings(embeddings, tokenizer, config.labels)
    spoken = [i for i, row in enumerate(features.rows) if row.corpus in config.text_corpora]
    unsaid = start_evidence(model.evidence, cue_values[spoken], emotion_logits[spoken], levels, labels)
    true_words = mean_words(
        [measured[i] for i in spoken],
        [features.rows[i].emotion for i in spoken],
        config.cues,
        config.labels,
        levels,
        labels,
    )
    unheard = start_audio(model.audio, features, spoken, true_words)
    sys.stderr.write(f"projectors begin in words; left of the variance: evidence {unsaid:.3f}, audio {unheard:.3f}\n")


def _convert(path: Path, folder: Path) -> None:
    options: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    config = GgufConfig(gguf_file=path.name, dequantize=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **options).backend_tokenizer
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, dtype=torch.float32, quantization_config=config, **options
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{path} cannot be read as a GGUF language model: {error}") from error
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    (partial / "tokenizer.json").write_text(_mend_tokenizer(tokenizer, path), encoding="utf-8")
    partial.rename(folder)


def _mend_tokenizer(tokenizer: Tokenizer, path: Path) -> str:
    """The tokenizer as JSON, splitting text as llama.cpp does and without what its reader added of its own."""
    from gguf import GGUFReader, TokenType

    reader = GGUFReader(path)
    splitting, tokens, kinds = (
        field.contents() if field else None
        for field in (reader.get_field(f"tokenizer.ggml.{key}") for key in ("pre", "tokens", "token_type"))
    )
    if splitting not in _SPLITTINGS or tokens is None or kinds is None:
        raise ConfigError(f"{path} splits text as {splitting!r}; known: {', '.join(_SPLITTINGS)}")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_SPLITTINGS[splitting])  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    stored = json.loads(tokenizer.to_str())
    own = [token for token in stored["added_tokens"] if tokens[token["id"] : token["id"] + 1] == [token["content"]]]
    words = {word: i for word, i in stored["model"]["vocab"].items() if kinds[i] != TokenType.UNUSED}
    mended = {"added_tokens": own, "post_processor": None, "model": stored["model"] | {"vocab": words}}
    return json.dumps(stored | mended, ensure_ascii=False)
