"""How many bytes a language model and its working memory take, from its shape; and the shapes of published models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_emotion.errors import BundleError, ConfigError
from edge_emotion.gguf_header import read_gguf_keys


@dataclass(frozen=True)
class LlmShape:
    """Sizes of a decoder; `key_value_dim` is key-value heads times head size."""

    layers: int
    dim: int
    key_value_dim: int
    feed_forward: int
    vocabulary: int
    tied: bool = False

    @property
    def parameters(self) -> int:
        """Weights in its matrices; norms and biases are a thousandth of them."""
        of_layer = 2 * self.dim**2 + 2 * self.dim * self.key_value_dim + 3 * self.dim * self.feed_forward
        return self.layers * of_layer + self.vocabulary * self.dim * (1 if self.tied else 2)

    def kv_cache_bytes(self, tokens: int, bytes_per_value: int = 2) -> int:
        """Keys and values of every layer for so many tokens: 2 x layers x key_value_dim x tokens x bytes.

        llama.cpp's cache holds f16 unless told otherwise, ONNX Runtime's here fp32.
        """
        return 2 * self.layers * self.key_value_dim * tokens * bytes_per_value


# Bits per weight of GGUF's blocks: bytes of a block of so many weights (ggml-common.h).
_BITS = {
    "F32": 32.0, "F16": 16.0, "Q8_0": 34 * 8 / 32, "Q6_K": 210 * 8 / 256, "Q5_K": 176 * 8 / 256,
    "Q4_K": 144 * 8 / 256, "IQ4_NL": 18 * 8 / 32,
}  # fmt: skip
# llama.cpp's mixtures (llama-quant.cpp): most matrices; values and second feed-forward matrix of the layers that
# matter more; output. The token embeddings are as most.
_MIXTURES: Mapping[str, tuple[str, str, str]] = {
    "F32": ("F32", "F32", "F32"),
    "F16": ("F16", "F16", "F16"),
    "Q8_0": ("Q8_0", "Q8_0", "Q8_0"),
    "Q6_K": ("Q6_K", "Q6_K", "Q6_K"),
    "Q5_K_M": ("Q5_K", "Q6_K", "Q6_K"),
    "Q4_K_M": ("Q4_K", "Q6_K", "Q6_K"),
    "IQ4_NL": ("IQ4_NL", "Q5_K", "Q6_K"),
}
QUANTISATIONS = tuple(_MIXTURES)


def gguf_bytes(shape: LlmShape, quantisation: str) -> int:
    """Bytes of a GGUF file of a model whose widths are multiples of 256; within 1 % (tests/export/test_sizes.py).

    Raises:
        ConfigError: The quantisation is unknown.
    """
    if quantisation not in _MIXTURES:
        raise ConfigError(f"unknown quantisation {quantisation!r}; known: {', '.join(_MIXTURES)}")
    most, more, output = (_BITS[kind] for kind in _MIXTURES[quantisation])
    bits = 0.0
    for layer in range(shape.layers):
        better = more if _gets_more_bits(layer, shape.layers, quantisation) else most
        # IQ4_NL spends more on the values of every layer where several heads share them.
        value_bits = more if quantisation == "IQ4_NL" and shape.dim >= 4 * shape.key_value_dim else better
        bits += (2 * shape.dim**2 + shape.dim * shape.key_value_dim + 2 * shape.dim * shape.feed_forward) * most
        bits += shape.dim * shape.key_value_dim * value_bits + shape.dim * shape.feed_forward * better
    table = shape.vocabulary * shape.dim
    bits += table * output if shape.tied else table * (most + output)
    norms_and_biases = shape.layers * (3 * shape.dim + 2 * shape.key_value_dim) + shape.dim
    # The tokenizer: 152,000 texts with their kinds and merges are about 6 MB.
    return round(bits / 8) + 4 * norms_and_biases + 40 * shape.vocabulary


def _gets_more_bits(layer: int, layers: int, quantisation: str) -> bool:
    """llama.cpp's `use_more_bits`: the first and last eighth, and every third layer between."""
    first = layers // 8
    if quantisation == "IQ4_NL":
        return layer < first
    return layer < first or layer >= 7 * layers // 8 or (layer - first) % 3 == 2


def shape_of_gguf(path: Path) -> LlmShape:
    """The shape of the model in a GGUF file, or of the base of the adapter in it.

    Raises:
        BundleError: The file cannot be read, or names no sizes.
    """
    keys = read_gguf_keys(path)
    prefix = keys.get("general.architecture", "")
    try:
        dim, heads = int(keys[f"{prefix}.embedding_length"]), int(keys[f"{prefix}.attention.head_count"])
        head_dim = int(keys.get(f"{prefix}.attention.key_length", dim // heads))
        return LlmShape(
            layers=int(keys[f"{prefix}.block_count"]),
            dim=dim,
            key_value_dim=int(keys.get(f"{prefix}.attention.head_count_kv", heads)) * head_dim,
            feed_forward=int(keys[f"{prefix}.feed_forward_length"]),
            vocabulary=int(keys.get("tokenizer.ggml.tokens") or keys[f"{prefix}.vocab_size"]),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BundleError(f"{path.name}: its header names no {error}; export the bundle again") from error


@dataclass(frozen=True)
class FullSize:
    """A published model: its decoder, and bytes of its audio tower in each precision."""

    name: str
    llm: LlmShape
    encoder_bytes: Mapping[str, int]
    context_tokens: int


# The tower of 637,672,448 parameters as benchmarks/export_scale.py wrote it.
_TOWER = {"fp32": 2_552_200_000, "fp16": 1_276_900_000, "int8": 666_800_000}
# 750 rows of audio, the prompt, 512 tokens of thinking and the answer, rounded up as the exporter does.
_CONTEXT_TOKENS = 1536
FULL_SIZES: Mapping[str, FullSize] = {
    "3b": FullSize("Qwen2.5-Omni 3B", LlmShape(36, 2048, 256, 11008, 151_936), _TOWER, _CONTEXT_TOKENS),
    "7b": FullSize("Qwen2.5-Omni 7B", LlmShape(28, 3584, 512, 18_944, 152_064), _TOWER, _CONTEXT_TOKENS),
}
