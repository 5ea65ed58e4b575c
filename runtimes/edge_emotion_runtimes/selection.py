"""Which runtimes and variants run a bundle on this machine: probe, plan, load, prove; every choice says its reason."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from edge_emotion.bundle import Bundle, load_bundle, verify_files
from edge_emotion.errors import BundleError, RuntimeUnavailableError
from edge_emotion_runtimes.analyzer import Analyzer
from edge_emotion_runtimes.interfaces import AudioEncoder, LanguageModel
from edge_emotion_runtimes.llama_cpp_model import LlamaCppModel
from edge_emotion_runtimes.onnx_encoder import CPU_PROVIDER, OnnxEncoder

LOGGER = logging.getLogger("edge_emotion.selection")

_PROVIDERS = {"cpu": CPU_PROVIDER, "cuda": "CUDAExecutionProvider"}
_NO_LLM = "none"
# Decoding is bound by memory, so smaller weights are faster; the bundle's receipts say what they cost in accuracy.
_BEST_ON_CPU = {"encoder": "int8", "llm": "Q8_0"}


@dataclass(frozen=True)
class _Choice:
    file: str
    reason: str


def load(
    bundle: str | os.PathLike[str] = "nano",
    encoder: str = "auto",
    llm: str = "auto",
    device: str = "auto",
    strict: bool = False,
) -> Analyzer:
    """Open a bundle and what runs it. What was chosen, why, and every fallback is in the `runtime` of each result.

    Args:
        bundle: Name of a built-in bundle, or a bundle's folder.
        encoder: Precision of the audio encoder as the bundle names it, or `auto`.
        llm: Quantisation of the language model as the bundle names it, `auto`, or `none` for the encoder's head alone.
        device: `cpu`, `cuda`, or `auto`.
        strict: Anything but what was asked for is an error instead of a recorded fallback.

    Raises:
        BundleError: The bundle is missing, changed or too new, or has no such variant.
        RuntimeUnavailableError: A runtime is not installed, or under `strict` the device cannot be used.
    """
    provider, device_reason, fallbacks = _plan_device(device, needs_llm=llm != _NO_LLM)
    if strict and fallbacks:
        raise RuntimeUnavailableError("; ".join(fallbacks) + "; choose device 'cpu', or load without strict")
    opened = load_bundle(bundle, verify=False)
    manifest = opened.manifest
    encoder_choice = _choose("encoder", encoder, [(v.precision, v.file) for v in manifest.encoder.variants], opened)
    llm_choice = None
    if llm != _NO_LLM:
        llm_choice = _choose("llm", llm, [(v.quantisation, v.file) for v in manifest.llm.variants], opened)
    choices = [choice for choice in (encoder_choice, llm_choice) if choice]
    verify_files(opened.path, manifest, [choice.file for choice in choices])
    loaded_encoder, loaded_llm = _load_both(
        lambda: OnnxEncoder(opened.path / encoder_choice.file, providers=(provider,), strict=strict),
        lambda: llm_choice and LlamaCppModel(opened.path / llm_choice.file, manifest.llm.context_tokens),
    )
    try:
        _prove(opened, loaded_encoder, loaded_llm)
        selection = {
            "device": device_reason,
            "chosen": {"encoder": encoder_choice.reason, "llm": llm_choice.reason if llm_choice else "none: asked for"},
            "fallbacks": fallbacks,
        }
        LOGGER.info("running %s: %s", manifest.name, selection)
        return Analyzer(opened, loaded_encoder, loaded_llm, selection)
    except BaseException:
        _close(loaded_encoder, loaded_llm)
        raise


def _plan_device(device: str, needs_llm: bool) -> tuple[str, str, list[str]]:
    """Execution provider of the encoder, the reason, and what cannot be had."""
    if device == "auto":
        return CPU_PROVIDER, "cpu: the device that this version runs both parts on", []
    if device not in _PROVIDERS:
        raise RuntimeUnavailableError(f"unknown device {device!r}; allowed: auto, {', '.join(_PROVIDERS)}")
    fallbacks = []
    if device != "cpu" and needs_llm:
        fallbacks.append(f"language model: {device} was asked for, this version runs llama.cpp on the processor only")
    return _PROVIDERS[device], f"{device}: asked for", fallbacks


def _choose(part: str, asked: str, variants: Sequence[tuple[str, str]], bundle: Bundle) -> _Choice:
    """The variant asked for, or the best for a processor, or the bundle's first."""
    files = dict(variants)
    if asked != "auto":
        if asked not in files:
            known = [*files, *([_NO_LLM] if part == "llm" else [])]
            raise BundleError(
                f"bundle {bundle.manifest.name!r} has no {part} {asked!r}; it has: {', '.join(known)}, or give auto"
            )
        return _Choice(files[asked], f"{asked}: asked for")
    best = _BEST_ON_CPU[part]
    if best in files:
        return _Choice(files[best], f"{best}: preferred on a processor among {', '.join(files)}")
    first = variants[0][0]
    return _Choice(files[first], f"{first}: the bundle's preferred variant, it has no {best}")


def _load_both(
    load_encoder: Callable[[], AudioEncoder], load_llm: Callable[[], LanguageModel | None]
) -> tuple[AudioEncoder, LanguageModel | None]:
    """Load encoder and language model side by side; if one fails, the other is closed."""
    with ThreadPoolExecutor(2) as pool:
        futures: list[Any] = [pool.submit(load_encoder), pool.submit(load_llm)]
    failure = next((future.exception() for future in futures if future.exception()), None)
    if failure:
        _close(*(future.result() for future in futures if not future.exception()))
        raise failure
    return futures[0].result(), futures[1].result()


def _close(*parts: AudioEncoder | LanguageModel | None) -> None:
    for part in parts:
        if part:
            part.close()


def _prove(bundle: Bundle, encoder: AudioEncoder, llm: LanguageModel | None) -> None:
    """Compare what was loaded with what the manifest says and with each other."""
    manifest = bundle.manifest
    of_encoder = encoder.describe()
    facts = [
        ("embeddings of the encoder", of_encoder["embedding_dim"], manifest.encoder.embedding_dim),
        ("labels of the encoder", of_encoder["labels"], list(manifest.labels)),
        ("sample rate of the encoder", of_encoder["sample_rate_hz"], manifest.encoder.sample_rate_hz),
    ]
    if llm:
        facts.append(
            ("embeddings of the language model", llm.describe()["embedding_dim"], manifest.encoder.embedding_dim)
        )
    # None: the file does not say; the first recording will show it.
    wrong = [f"{what}: {found}, the manifest says {said}" for what, found, said in facts if found not in (None, said)]
    if wrong:
        raise BundleError(f"bundle {manifest.name!r} does not fit together ({'; '.join(wrong)}); export it again")
