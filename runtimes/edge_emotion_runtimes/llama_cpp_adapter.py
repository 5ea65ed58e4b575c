"""A LoRA adapter in GGUF on a language model that is loaded in llama.cpp: checked against the model, then put on it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from edge_emotion.errors import BundleError
from edge_emotion.gguf_header import GgufTensor, read_gguf_header
from edge_emotion_runtimes import llama_cpp_bindings as bindings

# ggml's numbers of the types that an adapter's matrices may have: F32, F16.
_FLOATS = {0: 4, 1: 2}


def check_adapter(path: Path, base: Path) -> None:
    """Refuses what is no LoRA adapter of this model before the C library sees it.

    Args:
        path: The adapter, GGUF.
        base: The language model it stands on, GGUF.

    Raises:
        BundleError: Says what is wrong: it is missing, no adapter, cut, or of another architecture or width.
    """
    bindings.check_gguf(path)
    keys, tensors = read_gguf_header(path)
    base_keys, base_tensors = read_gguf_header(base)
    kind = (keys.get("general.type"), keys.get("adapter.type"))
    architecture, wanted = keys.get("general.architecture"), base_keys.get("general.architecture")
    alpha = keys.get("adapter.lora.alpha")
    problem = ""
    if kind != ("adapter", "lora"):
        problem = f"it is a {kind[0]} of type {kind[1]}, not a LoRA adapter"
    elif architecture != wanted:
        problem = f"it is for the architecture {architecture!r}, {base.name} has {wanted!r}"
    elif not isinstance(alpha, float) or not math.isfinite(alpha) or alpha <= 0:
        problem = f"its adapter.lora.alpha is {alpha!r}, not a number above 0"
    else:
        problem = _tensor_problem(tensors, base_tensors, base.name) or _size_problem(path, tensors)
    if problem:
        raise BundleError(f"{path}: {problem}; export the bundle again, or get it again from where it came")


def _tensor_problem(tensors: Mapping[str, GgufTensor], base: Mapping[str, GgufTensor], base_name: str) -> str:
    for name, tensor in tensors.items():
        stem, _, part = name.rpartition(".lora_")
        other = tensors.get(f"{stem}.lora_{'b' if part == 'a' else 'a'}")
        if part not in ("a", "b") or other is None:
            return f"the tensor {name} is no half of an adapter's pair"
        if tensor.kind not in _FLOATS or len(tensor.shape) != 2 or 0 in tensor.shape:
            return f"the tensor {name} has type {tensor.kind} and shape {tensor.shape}, not F16 or F32 with two axes"
        if stem not in base:
            return f"it changes {stem}, which {base_name} does not have"
        if part == "a":
            (width, rank), (rank_b, rows) = tensor.shape, other.shape if len(other.shape) == 2 else (0, 0)
            if rank != rank_b or (width, rows) != base[stem].shape:
                return f"it changes {stem} from {width} to {rows} values, in {base_name} it has {base[stem].shape}"
    return ""


def _size_problem(path: Path, tensors: Mapping[str, GgufTensor]) -> str:
    least = sum(math.prod(tensor.shape) * _FLOATS[tensor.kind] for tensor in tensors.values())
    size = path.stat().st_size
    return f"{size:,} bytes are too few for its {len(tensors)} tensors" if size < least else ""


def put_on(lib: ModuleType, model: Any, context: Any, path: Path) -> None:
    """Adds a checked adapter to all that a context computes; it is freed with the model.

    Raises:
        BundleError: llama.cpp refuses it; says what it complained of.
    """
    bindings.recent_errors()
    adapter = lib.llama_adapter_lora_init(model, str(path).encode())
    if not adapter:
        reason = bindings.recent_errors() or "no reason given"
        raise BundleError(f"{path}: llama.cpp cannot load the adapter ({reason}); export the bundle again")
    adapters = (lib.llama_adapter_lora_p_ctypes * 1)(adapter)
    code = lib.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0))
    if code != 0:
        raise BundleError(f"{path}: llama.cpp returned {code} when the adapter was put on; export the bundle again")
