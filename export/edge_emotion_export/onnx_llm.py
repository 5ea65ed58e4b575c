"""A language model of transformers and its tokenizer as one ONNX file that `OnnxLanguageModel` opens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from edge_emotion.errors import ExportError
from edge_emotion_runtimes.bpe import BytePairTokenizer

from .onnx_decoder import DecoderSizes, Precision, build_decoder, save_decoder

ARCHITECTURES = ("llama", "qwen2")
MODEL_TYPE = "edge-emotion-language-model"


def export_onnx_llm(
    language_model: PreTrainedModel,
    tokenizer: Tokenizer,
    path: Path,
    precision: Precision,
    metadata: Mapping[str, str],
    end_token: str,
) -> int:
    """Writes one ONNX file.

    Args:
        language_model: A Llama- or Qwen2-type causal language model, with tied or own output weights.
        tokenizer: Byte-level BPE; it travels in the file's metadata.
        path: File to write.
        precision: Of the matrices.
        metadata: More `metadata_props`.
        end_token: Added token that ends a text.

    Returns:
        The opset of the graph.

    Raises:
        ExportError: The model or the tokenizer cannot be written so.
    """
    config = language_model.config
    state = language_model.state_dict()
    used: set[str] = set()

    def weight(name: str) -> np.ndarray | None:
        if name not in state:
            return None
        used.add(name)
        return state[name].detach().float().cpu().numpy()

    sizes = decoder_sizes(config)
    end = _check_tokenizer(tokenizer, end_token, sizes.vocabulary)
    model = build_decoder(sizes, weight, precision)
    if left := [name for name in state if name not in used and not (sizes.tied and name == "lm_head.weight")]:
        raise ExportError(f"the decoder graph has no place for {', '.join(left[:3])} ({len(left)} tensors in all)")
    facts = {
        "model_type": MODEL_TYPE,
        "architecture": str(config.model_type),
        "parameters": str(sum(parameter.numel() for parameter in language_model.parameters())),
        "context_tokens": str(sizes.context_tokens),
        "precision": precision,
        "tokenizer": json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")),
        "end_token": str(end),
    }
    save_decoder(model, path, dict(metadata) | facts)
    return model.opset_import[0].version


def decoder_sizes(config: Any) -> DecoderSizes:
    """Sizes of a Llama- or Qwen2-type configuration of transformers.

    Raises:
        ExportError: It is of another type, or computes something that the graph does not.
    """
    rope: dict[str, Any] = dict(getattr(config, "rope_parameters", None) or {})
    problems = {
        f"model type {config.model_type!r}; {' and '.join(ARCHITECTURES)} can be written": config.model_type
        not in ARCHITECTURES,
        f"activation {config.hidden_act!r}; only silu can be written": config.hidden_act != "silu",
        f"rope type {rope.get('rope_type')!r}; only 'default' can be written": rope.get("rope_type", "default")
        != "default",
        "sliding-window attention, which cannot be written": getattr(config, "use_sliding_window", False),
    }
    if wrong := [problem for problem, found in problems.items() if found]:
        raise ExportError(f"the language model has {'; '.join(wrong)}")
    heads = config.num_attention_heads
    return DecoderSizes(
        vocabulary=config.vocab_size,
        dim=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=heads,
        key_value_heads=config.num_key_value_heads or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        context_tokens=config.max_position_embeddings,
        rope_theta=float(rope.get("rope_theta", 10000.0)),
        norm_epsilon=float(config.rms_norm_eps),
        tied=bool(config.tie_word_embeddings),
    )


def _check_tokenizer(tokenizer: Tokenizer, end_token: str, vocabulary: int) -> int:
    """Refuses what the device would read otherwise than the Hugging Face library; the end token's id."""
    try:
        size = BytePairTokenizer(tokenizer.to_str()).size
    except ValueError as error:
        raise ExportError(f"the tokenizer has {error}; the device cannot read it") from error
    if size > vocabulary:
        raise ExportError(f"the tokenizer has ids up to {size - 1}, the model only {vocabulary} rows")
    end = tokenizer.token_to_id(end_token)
    if end is None:
        raise ExportError(f"the end token {end_token!r} is not in the tokenizer's vocabulary")
    return end
