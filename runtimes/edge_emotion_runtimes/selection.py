"""Which runtimes and variants run a bundle on this machine: probe, plan, load, prove; every choice says its reason."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from edge_emotion.bundle import Bundle, load_bundle, verify_files
from edge_emotion.errors import BundleError, RuntimeUnavailableError
from edge_emotion.manifest import LLM_RUNTIMES, LlmVariant
from edge_emotion_runtimes.analyzer import Analyzer
from edge_emotion_runtimes.encoders import OpenedEncoder, may_build, open_encoder, read_device
from edge_emotion_runtimes.interfaces import AudioEncoder, LanguageModel
from edge_emotion_runtimes.language_models import is_installed, open_variant

LOGGER = logging.getLogger("edge_emotion.selection")

_NO_LLM = "none"
# Decoding is bound by memory, so smaller weights are faster; the bundle's receipts say what they cost in accuracy.
_BEST_ON_CPU = {"onnxruntime": "int8", "llama.cpp": "Q8_0"}
# What benchmarks/llm_runtimes.py measures: for nano (1 MB) onnxruntime is the faster; at 135 million parameters (140
# MB) it reads a prompt in half the time but writes more slowly than llama.cpp, and an explanation is mostly writing.
_ONNX_FASTER_BELOW_BYTES = 64 * 2**20


@dataclass(frozen=True)
class _Choice:
    file: str
    reason: str
    asked: bool = True
    """Whether running something else is a fallback; else it is only another choice."""


_OpenedLlm = tuple[LanguageModel | None, str, list[str]]
"""A language model, why it runs, and what could not."""


def load(
    bundle: str | os.PathLike[str] = "nano",
    encoder: str = "auto",
    llm: str = "auto",
    device: str = "auto",
    strict: bool = False,
    self_check: bool = False,
    base: str | os.PathLike[str] | None = None,
) -> Analyzer:
    """Open a bundle and what runs it. What was chosen, why, and every fallback is in the `runtime` of each result.

    Args:
        bundle: Name of a built-in bundle, or a bundle's folder.
        encoder: Precision of the audio encoder as the bundle names it, its runtime (`onnxruntime`, `tensorrt`,
            `onnxruntime-tensorrt`), both as `tensorrt/fp16`, or `auto`.
        llm: Runtime of the language model (`onnxruntime`, `llama.cpp`), or its quantisation as the bundle names it,
            `auto`, or `none` for the encoder's head alone.
        device: `cpu`, `cuda`, `cuda:1` for the second GPU, or `auto`, which on a machine with a GPU measures both and
            takes the faster.
        strict: Anything but what was asked for is an error instead of a recorded fallback.
        self_check: Replay the bundle's golden clips first, and refuse a device that computes something else.
        base: File or folder of the base language model of a bundle that holds adapters; None looks where it is
            usually found.

    Raises:
        BundleError: The bundle is missing, changed or too new, or has no such variant; or no golden clips to check by;
            or its base model is missing.
        RuntimeUnavailableError: A runtime is not installed, under `strict` the device cannot be used, or the self-check
            found a difference.
    """
    fallbacks = _plan_device(device, needs_llm=llm != _NO_LLM)
    if strict and fallbacks:
        raise RuntimeUnavailableError("; ".join(fallbacks) + "; choose device 'cpu', or load without strict")
    opened = load_bundle(bundle, verify=False)
    manifest = opened.manifest
    llm_choices = [] if llm == _NO_LLM else _choose_llm(llm, opened)
    on_device, (loaded_llm, llm_reason, llm_fallbacks) = _load_both(
        lambda: open_encoder(opened, encoder, device, strict),
        lambda: _open_first(llm_choices, opened, strict, base),
        together=not may_build(encoder, device),
    )
    loaded_encoder = on_device.encoder
    try:
        _prove(opened, loaded_encoder, loaded_llm)
        selection = {
            "device": on_device.device,
            "chosen": {"encoder": on_device.reason, "llm": llm_reason},
            "fallbacks": [*fallbacks, *on_device.fallbacks, *llm_fallbacks],
        }
        if self_check:
            selection["self_check"] = _check_itself(opened, loaded_encoder, loaded_llm)
        LOGGER.info("running %s: %s", manifest.name, selection)
        return Analyzer(opened, loaded_encoder, loaded_llm, selection)
    except BaseException:
        _close(loaded_encoder, loaded_llm)
        raise


def _check_itself(bundle: Bundle, encoder: AudioEncoder, llm: LanguageModel | None) -> dict[str, float]:
    """Whether what was loaded computes what the reference did."""
    from edge_emotion_runtimes import verify

    verify_files(bundle.path, bundle.manifest, [verify.GOLDEN_NAME])
    precision_of = {variant.file: variant.precision for variant in bundle.manifest.encoder.variants}
    quantisation_of = {variant.file: variant.quantisation for variant in bundle.manifest.llm.variants}
    quantisation = quantisation_of[llm.describe()["file"]] if llm else None
    return verify.self_check(bundle, encoder, llm, precision_of[encoder.describe()["file"]], quantisation)


def _plan_device(device: str, needs_llm: bool) -> list[str]:
    """What cannot be had of a device."""
    kind, _ = read_device(device)
    if kind == "cuda" and needs_llm:
        return [f"language model: {device} was asked for, this version runs it on the processor only"]
    return []


def _choose_llm(asked: str, bundle: Bundle) -> list[_Choice]:
    """What to run, and after it what can stand in where its runtime is not to be had."""
    best = _best_of_each_runtime(bundle)
    variants = {variant.quantisation: variant for variant in bundle.manifest.llm.variants}
    if asked == "auto":
        first, why = _faster(best, bundle)
    elif asked in LLM_RUNTIMES.values() and asked not in best:
        raise BundleError(
            f"bundle {bundle.manifest.name!r} has no language model for {asked}, only for {', '.join(best)}"
        )
    else:
        first, why = best.get(asked) or variants.get(asked), "asked for"
        if first is None:
            raise _no_such("llm", asked, [*variants, *best, _NO_LLM], bundle)
    others = [variant for runtime, variant in best.items() if runtime != first.runtime]
    return [
        _Choice(first.file, f"{first.quantisation}: {why}", asked != "auto" or is_installed(first.runtime)),
        *(_Choice(other.file, f"{other.quantisation}: {first.runtime} cannot be had here") for other in others),
    ]


def _best_of_each_runtime(bundle: Bundle) -> dict[str, LlmVariant]:
    """The best variant for a processor of each runtime that the bundle has files for, else its first of them."""
    best: dict[str, LlmVariant] = {}
    for variant in bundle.manifest.llm.variants:
        if variant.runtime not in best or variant.quantisation == _BEST_ON_CPU[variant.runtime]:
            best[variant.runtime] = variant
    return best


def _faster(best: Mapping[str, LlmVariant], bundle: Bundle) -> tuple[LlmVariant, str]:
    """The variant of the faster runtime for a model of this size, and why."""
    if len(best) == 1:
        ((runtime, variant),) = best.items()
        return variant, f"the bundle is for {runtime} only"
    size = bundle.manifest.files[best["onnxruntime"].file].size
    runtime = "onnxruntime" if size < _ONNX_FASTER_BELOW_BYTES else "llama.cpp"
    absent = [name for name in best if name != runtime and not is_installed(name)]
    also = f"; {', '.join(absent)} is not installed" if absent else ""
    return best[runtime], f"{runtime} is the faster for a model of {size / 1e6:.0f} MB{also}"


def _no_such(part: str, asked: str, known: Iterable[str], bundle: Bundle) -> BundleError:
    return BundleError(
        f"bundle {bundle.manifest.name!r} has no {part} {asked!r}; it has: {', '.join(known)}, or give auto"
    )


def _open_first(
    choices: Sequence[_Choice], bundle: Bundle, strict: bool, base: str | os.PathLike[str] | None
) -> _OpenedLlm:
    """The first language model whose runtime is to be had, why it runs, and the fallbacks on the way to it."""
    fallbacks: list[str] = []
    problem: RuntimeUnavailableError | None = None
    for choice in choices:
        verify_files(bundle.path, bundle.manifest, bundle.files_of(choice.file))
        try:
            model = open_variant(bundle, bundle.llm_variant_of(choice.file), base=base)
        except RuntimeUnavailableError as error:
            if strict and choice.asked:
                raise
            problem = problem or error
            fallbacks += [f"language model: {choice.file} was to run and does not: {error}"] * choice.asked
            continue
        return model, choice.reason, fallbacks
    if problem:
        raise problem
    return None, "none: asked for", []


def _load_both(
    load_encoder: Callable[[], OpenedEncoder], load_llm: Callable[[], _OpenedLlm], together: bool
) -> tuple[OpenedEncoder, _OpenedLlm]:
    """Load encoder and language model side by side, or the encoder first; if one fails, the other is closed."""
    with ThreadPoolExecutor(2 if together else 1) as pool:
        encoder, llm = pool.submit(load_encoder), pool.submit(load_llm)
    if failure := encoder.exception() or llm.exception():
        _close(None if encoder.exception() else encoder.result().encoder, None if llm.exception() else llm.result()[0])
        raise failure
    return encoder.result(), llm.result()


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
