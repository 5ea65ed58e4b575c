"""Which runtime reads a language-model file, whether it is installed, and opening the file with it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

from edge_emotion.base_models import find_base_model
from edge_emotion.bundle import Bundle
from edge_emotion.manifest import LLM_RUNTIMES, LlmVariant
from edge_emotion_runtimes.interfaces import LanguageModel

_LIBRARIES: Mapping[str, str] = {"onnxruntime": "onnxruntime", "llama.cpp": "llama_cpp"}


def is_installed(runtime: str) -> bool:
    """Whether a runtime's library is there; importing it may still fail."""
    return importlib.util.find_spec(_LIBRARIES[runtime]) is not None


def open_language_model(
    path: Path, context_tokens: int, threads: int | None = None, adapter: Path | None = None
) -> LanguageModel:
    """The language model in a file, on the runtime that reads such files; only that runtime is imported.

    Args:
        path: A file whose ending is in `LLM_RUNTIMES`.
        context_tokens: Tokens and embedding rows the sequence may hold.
        threads: Processor threads; None lets the runtime choose.
        adapter: A LoRA adapter in GGUF on a GGUF model.

    Raises:
        BundleError: The file is missing or damaged.
        RuntimeUnavailableError: Its runtime is not installed or cannot be loaded.
    """
    if LLM_RUNTIMES[path.suffix] == "onnxruntime":
        from edge_emotion_runtimes.onnx_language_model import OnnxLanguageModel

        return OnnxLanguageModel(path, context_tokens, threads)
    from edge_emotion_runtimes.llama_cpp_model import LlamaCppModel

    return LlamaCppModel(path, context_tokens, threads, adapter=adapter)


def open_variant(
    bundle: Bundle,
    variant: LlmVariant,
    threads: int | None = None,
    base: str | os.PathLike[str] | None = None,
) -> LanguageModel:
    """The language model of a bundle's variant; where that is an adapter, on the base model of this machine.

    Args:
        bundle: The bundle.
        variant: One of its variants.
        threads: As for `open_language_model`.
        base: The base model's file or folder; None looks where it is usually found.

    Raises:
        BundleError: A file is missing or damaged, or the base model is not on this machine.
        RuntimeUnavailableError: Its runtime is not installed or cannot be loaded.
    """
    path, context_tokens = bundle.path / variant.file, bundle.manifest.llm.context_tokens
    if variant.base is None:
        return open_language_model(path, context_tokens, threads)
    return open_language_model(find_base_model(variant.base, base), context_tokens, threads, adapter=path)
