"""A Llama-type language model and its byte-level BPE tokenizer as a GGUF file that stock llama.cpp opens.

Follows llama.cpp's `convert_hf_to_gguf.py` tensor for tensor; written with `gguf.GGUFWriter` because that converter is
not a package and refuses tokenizers it does not know by hash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType
from tokenizers import Tokenizer, pre_tokenizers
from transformers import LlamaForCausalLM

from edge_emotion.errors import ExportError

Quantisation = Literal["F32", "F16", "Q8_0"]
QUANTISATIONS: Mapping[str, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "F32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "F16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "Q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
# llama.cpp's name for Qwen2's splitting of text before the merges, which our tokenizers are trained with.
PRE_TOKENIZER = "qwen2"
ARCHITECTURE = "llama"


def export_gguf(
    language_model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    path: Path,
    quantisation: Quantisation,
    metadata: Mapping[str, str | list[str]],
    end_token: str,
) -> None:
    """Writes one GGUF file.

    Args:
        language_model: Model with tied or own output weights, in evaluation mode.
        tokenizer: Byte-level BPE with Qwen2's splitting; its added tokens stay single tokens.
        path: File to write.
        quantisation: Type of the matrices; vectors stay F32.
        metadata: Full GGUF keys, for example `general.name` or `edge_emotion.labels`, with text or a list of texts.
        end_token: Added token that ends a text.

    Raises:
        ExportError: The tokenizer or the model's widths cannot be written as asked.
    """
    if quantisation not in QUANTISATIONS:
        raise ExportError(f"unknown quantisation {quantisation!r}; choose from {', '.join(QUANTISATIONS)}")
    end = check_tokenizer(tokenizer, end_token)
    partial = path.with_name(path.name + ".partial")
    writer = gguf.GGUFWriter(partial, ARCHITECTURE)
    add_sizes(writer, language_model, quantisation)
    for key, value in metadata.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    add_tokenizer(writer, tokenizer, language_model.config.vocab_size, end)
    _add_tensors(writer, language_model, quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)


def add_sizes(writer: gguf.GGUFWriter, language_model: LlamaForCausalLM, quantisation: Quantisation) -> None:
    """Writes the keys of a model's shape; of its matrices' type, too."""
    config = language_model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope: dict[str, Any] = dict(config.rope_parameters or {})
    if rope.get("rope_type", "default") != "default":
        raise ExportError(f"rope type {rope['rope_type']!r} is not supported by this exporter; only 'default' is")
    writer.add_file_type(QUANTISATIONS[quantisation][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(key_value_heads(language_model))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    writer.add_vocab_size(config.vocab_size)


def key_value_heads(language_model: LlamaForCausalLM) -> int:
    """Heads of keys and values; as many as of queries where the model does not say."""
    config = language_model.config
    return config.num_key_value_heads or config.num_attention_heads


def check_tokenizer(tokenizer: Tokenizer, end_token: str, normaliser: str | None = None) -> int:
    """Refuses what llama.cpp would silently tokenise otherwise than the Hugging Face library; the end token's id.

    Args:
        tokenizer: The tokenizer.
        end_token: Token that ends a text.
        normaliser: Kind of normaliser that may be there, because every text this project gives it is in that form.

    Raises:
        ExportError: It cannot be written for llama.cpp.
    """
    stored = json.loads(tokenizer.to_str())
    if stored["model"]["type"] != "BPE" or stored["model"].get("byte_fallback"):
        raise ExportError("only byte-level BPE tokenizers can be written as llama.cpp's `gpt2` model")
    if stored["normalizer"] is not None and stored["normalizer"].get("type") != normaliser:
        raise ExportError("the tokenizer has a normaliser, which llama.cpp would not apply; train it without one")
    missing = [byte for byte in pre_tokenizers.ByteLevel.alphabet() if tokenizer.token_to_id(byte) is None]
    if missing:
        raise ExportError(
            f"the tokenizer lacks {len(missing)} of the 256 byte tokens, so some texts cannot be written; "
            "train it with initial_alphabet=ByteLevel.alphabet()"
        )
    end = tokenizer.token_to_id(end_token)
    if end is None:
        raise ExportError(f"the end token {end_token!r} is not in the tokenizer's vocabulary")
    return end


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, vocabulary: int, end: int) -> None:
    """Writes tokens, their kinds and merges; `vocabulary` may be larger than the tokenizer, `end` ends a text."""
    texts = {identity: text for text, identity in tokenizer.get_vocab(with_added_tokens=True).items()}
    if max(texts) >= vocabulary:
        raise ExportError(f"the tokenizer has ids up to {max(texts)}, the model only {vocabulary} rows")
    added = tokenizer.get_added_tokens_decoder()

    def kind(identity: int) -> gguf.TokenType:
        if identity not in texts:
            return gguf.TokenType.UNUSED
        if identity == end or (identity in added and added[identity].special):
            return gguf.TokenType.CONTROL
        return gguf.TokenType.USER_DEFINED if identity in added else gguf.TokenType.NORMAL

    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list([texts.get(identity, f"[PAD{identity}]") for identity in range(vocabulary)])
    writer.add_token_types([kind(identity) for identity in range(vocabulary)])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    # llama.cpp invents ids for these three where a file does not name them.
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def _add_tensors(writer: gguf.GGUFWriter, language_model: LlamaForCausalLM, quantisation: Quantisation) -> None:
    config = language_model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for source, tensor in language_model.state_dict().items():
        if source == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ExportError(f"llama.cpp's {ARCHITECTURE} architecture has no tensor for {source}")
        values = tensor.detach().float().numpy()
        if source.endswith("q_proj.weight"):
            values = interleave_rotary_rows(values, config.num_attention_heads)
        if source.endswith("k_proj.weight"):
            values = interleave_rotary_rows(values, key_value_heads(language_model))
        kind = QUANTISATIONS[quantisation][0] if values.ndim > 1 else GGMLQuantizationType.F32
        if kind is GGMLQuantizationType.Q8_0 and values.shape[-1] % 32:
            raise ExportError(f"{source} has rows of {values.shape[-1]} values; {quantisation} needs a multiple of 32")
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)


def interleave_rotary_rows(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key matrix `(heads * head_dim, dim)` in llama.cpp's order.

    Hugging Face rotates row i of a head with row i + head_dim / 2, llama.cpp's `llama` architecture with its neighbour.
    """
    rows = weight.shape[0] // heads
    return weight.reshape(heads, 2, rows // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
