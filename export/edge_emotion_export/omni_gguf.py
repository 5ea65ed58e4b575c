"""The language model of a Qwen2.5-Omni as a plain `qwen2` GGUF file, streamed: at most some rows of a matrix in memory.

With audio and text alone the three rotary positions of the thinker are equal, so it is a Qwen2 (transformers gives the
same logits for both, bit for bit); llama.cpp's own multi-position architecture would only add work for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import gguf
import numpy as np
from gguf import GGMLQuantizationType

from edge_emotion.errors import ExportError

from .gguf_llm import QUANTISATIONS, Quantisation, add_tokenizer, check_tokenizer
from .omni_checkpoint import EMBEDDING_NAME, HEAD_NAME, OmniCheckpoint, key_value_heads, rope_theta, text_shapes

ARCHITECTURE = "qwen2"
END_TOKEN = "<|im_end|>"
BLOCK_BYTES = 64 * 2**20  # float32 values that are held at once


def gguf_name(name: str, layers: int) -> str:
    """llama.cpp's name of a tensor of the language model."""
    found = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, layers).get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise ExportError(f"llama.cpp's {ARCHITECTURE} architecture has no tensor for {name}")
    return found


def write_gguf(
    checkpoint: OmniCheckpoint,
    path: Path,
    quantisation: Quantisation,
    metadata: Mapping[str, str | list[str]],
    layers: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Writes one file; it appears under its name when it is complete.

    Args:
        checkpoint: What to write.
        path: File to write.
        quantisation: Type of the matrices; vectors stay F32.
        metadata: Full GGUF keys with text or a list of texts.
        layers: Only the first layers, for a check of exactness that needs no file of the full size.
        progress: Told the share that is written, 0..1.

    Raises:
        ExportError: The tokenizer or a width cannot be written so, or a value does not fit into the type.
    """
    if quantisation not in QUANTISATIONS:
        raise ExportError(f"unknown quantisation {quantisation!r}; choose from {', '.join(QUANTISATIONS)}")
    # The published tokenizer composes accents (NFC), llama.cpp does not: our prompts and labels have none to compose.
    end = check_tokenizer(checkpoint.tokenizer, END_TOKEN, normaliser="NFC")
    count = checkpoint.text.num_hidden_layers if layers is None else layers
    partial = path.with_name(path.name + ".partial")
    writer = gguf.GGUFWriter(partial, ARCHITECTURE)
    _add_sizes(writer, checkpoint, quantisation, count)
    for key, value in metadata.items():
        writer.add_string(key, value) if isinstance(value, str) else writer.add_array(key, value)
    add_tokenizer(writer, checkpoint.tokenizer, checkpoint.text.vocab_size, end)
    tensors = [_Streamed(checkpoint, name, quantisation) for name in _names(checkpoint, count)]
    for tensor in tensors:
        # The writer takes bytes of quantised rows for their shape.
        writer.add_tensor_info(
            gguf_name(tensor.name, count), tensor.stored_shape, tensor.stored_type, tensor.nbytes, tensor.kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total, written = sum(tensor.nbytes for tensor in tensors), 0
    for tensor in tensors:
        writer.write_tensor_data(tensor)  # type: ignore[arg-type]
        written += tensor.nbytes
        progress(written / total)
    writer.close()
    partial.rename(path)


def read_types(path: Path) -> dict[str, int]:
    """How many tensors of each type a file holds, as llama.cpp will compute with them."""
    counts: dict[str, int] = {}
    for tensor in gguf.GGUFReader(path).tensors:
        counts[tensor.tensor_type.name] = counts.get(tensor.tensor_type.name, 0) + 1
    return counts


def _names(checkpoint: OmniCheckpoint, layers: int) -> list[str]:
    """Names in the order of the file: vocabulary first, layers, then what comes after them."""
    names = text_shapes(checkpoint.text, checkpoint.tied)
    kept = [name for name in names if not name.startswith("model.layers.") or int(name.split(".")[2]) < layers]
    return sorted(kept, key=lambda name: (name != EMBEDDING_NAME, name == HEAD_NAME))


def _add_sizes(writer: gguf.GGUFWriter, checkpoint: OmniCheckpoint, quantisation: Quantisation, layers: int) -> None:
    text = checkpoint.text
    writer.add_file_type(QUANTISATIONS[quantisation][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(text.max_position_embeddings)
    writer.add_embedding_length(text.hidden_size)
    writer.add_feed_forward_length(text.intermediate_size)
    writer.add_block_count(layers)
    writer.add_head_count(text.num_attention_heads)
    writer.add_head_count_kv(key_value_heads(text))
    writer.add_layer_norm_rms_eps(float(text.rms_norm_eps))
    writer.add_rope_freq_base(rope_theta(text))
    writer.add_vocab_size(text.vocab_size)


class _Streamed:
    """A tensor as the GGUF writer needs it (`nbytes`, `tofile`), read and converted some rows at a time."""

    def __init__(self, checkpoint: OmniCheckpoint, name: str, quantisation: Quantisation) -> None:
        self._checkpoint, self.name, self._label = checkpoint, name, quantisation
        self._shape: tuple[int, ...] = checkpoint.shape(name)
        *rows, width = self._shape
        self.kind = QUANTISATIONS[quantisation][0] if len(self._shape) > 1 else GGMLQuantizationType.F32
        if self.kind is GGMLQuantizationType.Q8_0 and width % 32:
            raise ExportError(f"{name} has rows of {width} values; {quantisation} needs a multiple of 32")
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        row_bytes = width // block * size
        self.nbytes = row_bytes * math.prod(rows)
        quantised = self.kind is GGMLQuantizationType.Q8_0
        self.stored_type = np.dtype(np.uint8 if quantised else np.float32)
        self.stored_shape = (*rows, row_bytes) if quantised else self._shape

    def tofile(self, file: BinaryIO) -> None:
        step = max(1, BLOCK_BYTES // (4 * math.prod(self._shape[1:])))
        for start in range(0, self._shape[0], step):
            values = self._checkpoint.rows(self.name, start, start + step).numpy()
            if not np.isfinite(values).all():
                raise ExportError(f"{self.name} holds NaN or infinity; the checkpoint is damaged: fetch it again")
            if self.kind is GGMLQuantizationType.F16 and np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
                raise ExportError(f"{self.name} holds values beyond float16; export it as Q8_0 only")
            gguf.quants.quantize(values, self.kind).tofile(file)
