"""The variants of a Qwen2.5-Omni bundle: each written, measured through the device's own runtime, and held to its gate.

A file that a conversion got wrong stops the export; a variant that is only too coarse is left out and said so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge_emotion.errors import ExportError
from edge_emotion_runtimes.interfaces import LanguageModel
from edge_emotion_runtimes.llama_cpp_model import LlamaCppModel
from edge_emotion_runtimes.onnx_encoder import OnnxEncoder

from . import omni_gguf, omni_graph, omni_quantise
from .golden import ReferenceClip
from .measure import language_model_figures, tokenizer_figures
from .omni_bundle import gguf_metadata, onnx_metadata
from .omni_checkpoint import OmniCheckpoint
from .omni_graph import PRECISIONS, Precision
from .omni_job import Job
from .omni_reference import Importance, run_reference
from .parity import check, cosine_min, failed_limits, relative_max

LLM_VARIANTS = ("F16", "Q8_0", *omni_quantise.QUANTISATIONS)
# Above this an exact file is cut to its first layers, which hold every kind of tensor; the others are gated by KL.
EXACT_MAX_BYTES = 4 * 10**9
EXACT_LAYERS = 2
EXACT_CLIPS = 2
PROGRESS_S = 5.0
Sound = tuple[np.ndarray, np.ndarray]
"""Waveform `(samples,)` and the checkpoint's own embeddings `(tokens, dim)`."""


def talk(message: str) -> None:
    """Tells the person at the terminal how far it is."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201 - the command line's progress


def write_encoders(job: Job, sounds: Sequence[Sound], precisions: Sequence[Precision]) -> dict[str, Any]:
    """Each precision's verdict.

    Raises:
        ExportError: The fp32 graph does not compute what the checkpoint does.
    """
    variants = {}
    for precision in PRECISIONS:
        if precision not in precisions:
            continue
        path = job.folder / f"encoder.{precision}.onnx"

        def write(precision: Precision = precision, path: Path = path) -> dict[str, Any]:
            talk(f"encoder {precision}")
            metadata = onnx_metadata(job.checkpoint, job.speech, job.name, job.version)
            opset = omni_graph.write_encoder(job.checkpoint, path, precision, metadata)
            with OnnxEncoder(path, threads=1) as encoder:
                pairs = [(theirs, encoder.encode(waveform).embeddings) for waveform, theirs in sounds]
            figures = {
                "clips": len(pairs),
                "embeddings_relative_max": max(relative_max(*pair) for pair in pairs),
                "embeddings_cosine_min": min(cosine_min(*pair) for pair in pairs),
            }
            return _gate(job, f"omni.{precision}", path, figures, exact=precision == "fp32") | {"opset": opset}

        variants[f"encoder.{precision}"] = job.work.once(f"encoder.{precision}", write)
    return variants


def _gate(job: Job, artefact: str, path: Path, figures: dict[str, Any], exact: bool = False) -> dict[str, Any]:
    """Figures of a variant with the verdict; one that is too coarse is removed unless it is to be kept."""
    if exact:
        check(artefact, figures)
    if failures := failed_limits(artefact, figures):
        kept, why = job.keep_failing, "; ".join(failures)
        talk(f"  {path.name} is below its gate and {'kept, marked' if kept else 'left out'}: {why}")
        if not kept:
            for file in (path, omni_graph.data_file(path)):
                file.unlink(missing_ok=True)
        return {"gate": artefact, "figures": figures, "passed": False, "written": kept, "why": why}
    return {"gate": artefact, "figures": figures, "passed": True, "written": True}


def write_language_models(
    job: Job, sounds: Sequence[Sound], chosen: Sequence[str], importance: bool
) -> tuple[dict[str, Any], list[ReferenceClip]]:
    """Each variant's verdict, and what the checkpoint says of the sounds.

    Raises:
        ExportError: The conversion is wrong, or no variant is good enough.
    """
    layers = _exact_layers(job.checkpoint)
    variants = {"llm.exact": job.work.once("llm.exact", lambda: _check_exactly(job, sounds[:EXACT_CLIPS], layers))}
    source = job.folder / "llm.F16.gguf"
    if not source.is_file():
        _write_gguf(job, source, "F16")
    with_importance = importance and any(name in omni_quantise.QUANTISATIONS for name in chosen)
    references, matrix = _run_reference(job, sounds, source)
    for name in LLM_VARIANTS:
        if name in chosen:
            path = job.folder / f"llm.{name}.gguf"

            def write(name: str = name, path: Path = path) -> dict[str, Any]:
                notes = _write_variant(job, source, path, name, matrix if with_importance else None)
                with job.open(path) as model:
                    figures = language_model_figures(job.speaker, references[: len(sounds)], model)
                return _gate(job, name, path, figures) | notes

            variants[f"llm.{name}"] = job.work.once(f"llm.{name}", write)
    if not any(variants[f"llm.{name}"]["written"] for name in chosen):
        raise ExportError("no variant of the language model passed its gate; ask for F16, too, and give more clips")
    if "F16" not in chosen:
        source.unlink(missing_ok=True)
    return variants, references


def _exact_layers(checkpoint: OmniCheckpoint) -> int | None:
    return None if 4 * checkpoint.parameters <= EXACT_MAX_BYTES else EXACT_LAYERS


def _write_gguf(job: Job, path: Path, kind: Literal["F32", "F16", "Q8_0"], layers: int | None = None) -> None:
    told = time.monotonic()

    def progress(share: float) -> None:
        nonlocal told
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            talk(f"  {path.name} {share:.0%}")

    talk(f"language model {kind}")
    metadata = gguf_metadata(job.checkpoint, job.speech, job.name, job.version)
    omni_gguf.write_gguf(job.checkpoint, path, kind, metadata, layers, progress)


def _check_exactly(job: Job, sounds: Sequence[Sound], layers: int | None) -> dict[str, Any]:
    """The conversion with nothing rounded: tokenizer, names, axes, positions; stops the export if it is wrong."""
    path = job.folder / "llm.F32.gguf"
    _write_gguf(job, path, "F32", layers)
    try:
        with LlamaCppModel(path, job.context_tokens(), threads=1, kv_type="f32", flash_attention=False) as model:
            texts = tokenizer_figures(job.speaker, model)
            check("tokenizer", texts)
            references = run_reference(
                job.checkpoint, job.speaker.prompt, job.speaker.labels, sounds, _drafter(job, model), layers
            )
            figures = language_model_figures(job.speaker, references, model)
            largest = max(float(np.abs(clip.logits).max()) for clip in references)
            figures["logits_relative_max"] = figures["logits_max"] / largest
            verdict = _gate(job, "omni.F32", path, figures, exact=True)
    finally:
        path.unlink(missing_ok=True)
    of_layers = "all" if layers is None else f"the first {layers} of {job.checkpoint.text.num_hidden_layers}"
    return verdict | {"written": False, "layers": of_layers, "tokenizer": texts}


def _run_reference(
    job: Job, sounds: Sequence[Sound], source: Path
) -> tuple[list[ReferenceClip], dict[str, np.ndarray]]:
    """What the checkpoint says of every sound, and how much each column of its matrices matters."""

    def run() -> dict[str, np.ndarray]:
        talk(f"language model of the checkpoint on {len(sounds)} clips, layer by layer")
        importance = Importance()
        with job.open(source) as model:
            clips = run_reference(
                job.checkpoint, job.speaker.prompt, job.speaker.labels, sounds, _drafter(job, model), None, importance
            )
        found: dict[str, np.ndarray] = {f"importance/{name}": value for name, value in importance.means().items()}
        for index, clip in enumerate(clips):
            found |= {f"{index}/thought": np.array(clip.thought, np.int64), f"{index}/logits": clip.logits}
            found |= {f"{index}/text": np.array(clip.text), f"{index}/label_scores": clip.label_scores}
        return found

    found = job.work.arrays("reference", run)
    clips = [
        ReferenceClip(
            waveform=waveform,
            embeddings=embeddings,
            emotion_logits=np.empty(0, np.float32),
            thought=tuple(found[f"{index}/thought"].tolist()),
            logits=found[f"{index}/logits"],
            text=str(found[f"{index}/text"]),
            label_scores=found[f"{index}/label_scores"],
        )
        for index, (waveform, embeddings) in enumerate(sounds)
    ]
    return clips, {name.partition("/")[2]: value for name, value in found.items() if name.startswith("importance/")}


def _drafter(job: Job, model: LanguageModel) -> Callable[[np.ndarray, Sequence[int]], list[int]]:
    prompt = job.speaker.prompt

    def draft(embeddings: np.ndarray, known: Sequence[int]) -> list[int]:
        model.reset()
        model.prefill([model.tokenize(prompt.before_audio), embeddings, model.tokenize(prompt.after_audio)])
        if known:
            model.prefill([list(known)])
        return [token.id for token in model.stream(prompt.max_think_tokens - len(known))]

    return draft


def _write_variant(
    job: Job, source: Path, path: Path, name: str, matrix: dict[str, np.ndarray] | None
) -> dict[str, Any]:
    """Writes one variant and tells of its tensors."""
    quantised = name in omni_quantise.QUANTISATIONS
    if quantised:
        talk(f"language model {name}")
        omni_quantise.quantise(source, path, name, matrix)
    elif name != "F16":
        _write_gguf(job, path, "Q8_0")
    note = omni_quantise.width_note(job.checkpoint, name)
    return {
        "types": omni_gguf.read_types(path),
        "importance": ("audio prompts" if matrix else "none") if quantised else "not used",
    } | ({"widths": note} if note else {})
