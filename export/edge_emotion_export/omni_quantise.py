"""K-quants of a GGUF file by llama.cpp's own quantiser, which keeps what matters on real audio prompts most exact."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import LlamaFileType

from edge_emotion.errors import ExportError
from edge_emotion_runtimes import llama_cpp_bindings as bindings

from .omni_checkpoint import OmniCheckpoint, text_shapes

QUANTISATIONS: Mapping[str, LlamaFileType] = {
    "Q6_K": LlamaFileType.MOSTLY_Q6_K,
    "Q5_K_M": LlamaFileType.MOSTLY_Q5_K_M,
    "Q4_K_M": LlamaFileType.MOSTLY_Q4_K_M,
    "IQ4_NL": LlamaFileType.MOSTLY_IQ4_NL,
}
# Values that share one set of scales; rows of another width are stored in an older, larger type instead.
BLOCKS: Mapping[str, int] = {"Q6_K": 256, "Q5_K_M": 256, "Q4_K_M": 256, "IQ4_NL": 32, "Q8_0": 32}


def quantise(
    source: Path,
    path: Path,
    quantisation: str,
    importance: Mapping[str, np.ndarray] | None = None,
    threads: int = 1,
) -> None:
    """Writes one variant; it appears under its name when it is complete.

    Args:
        source: The F16 file.
        path: File to write.
        quantisation: One of `QUANTISATIONS`.
        importance: Mean square of what each matrix is multiplied with, float32 `(width,)` by llama.cpp's tensor names.
        threads: Processor threads.

    Raises:
        ExportError: The quantisation is unknown, or llama.cpp refuses.
    """
    if quantisation not in QUANTISATIONS:
        raise ExportError(f"unknown quantisation {quantisation!r}; choose from {', '.join(QUANTISATIONS)}")
    library = bindings.library()
    parameters = library.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = int(QUANTISATIONS[quantisation]), threads
    kept = {name: np.ascontiguousarray(values, np.float32) for name, values in (importance or {}).items()}
    # An entry without a name ends the list; the arrays in `kept` must live until the call returns.
    entries = (library.llama_model_imatrix_data * (len(kept) + 1))()
    for entry, (name, values) in zip(entries, kept.items(), strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if kept:
        parameters.imatrix = ctypes.cast(entries, ctypes.POINTER(library.llama_model_imatrix_data))
    partial = path.with_name(path.name + ".partial")
    bindings.recent_errors()
    code = library.llama_model_quantize(str(source).encode(), str(partial).encode(), ctypes.byref(parameters))
    if code != 0:
        partial.unlink(missing_ok=True)
        reason = bindings.recent_errors() or f"code {code}"
        raise ExportError(f"llama.cpp cannot quantise {source.name} to {quantisation} ({reason}); is the disk full?")
    partial.rename(path)


def odd_widths(checkpoint: OmniCheckpoint, quantisation: str) -> dict[int, int]:
    """Widths of rows that do not fit a quantisation's blocks, and how many matrices have them."""
    counts: dict[int, int] = {}
    for shape in text_shapes(checkpoint.text, checkpoint.tied).values():
        if len(shape) == 2 and shape[1] % BLOCKS.get(quantisation, 1):
            counts[shape[1]] = counts.get(shape[1], 0) + 1
    return counts


def width_note(checkpoint: OmniCheckpoint, quantisation: str) -> str:
    """What a receipt says of widths that do not fit; empty where all do."""
    counts = odd_widths(checkpoint, quantisation)
    if not counts:
        return ""
    of_widths = ", ".join(f"{count} matrices of width {width}" for width, count in sorted(counts.items()))
    return (
        f"{of_widths} are no multiple of {BLOCKS[quantisation]}: llama.cpp stores those in a larger type with "
        f"blocks of 32 (see types), so this variant is larger than a {quantisation} elsewhere"
    )
