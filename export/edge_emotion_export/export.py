"""Checkpoint to bundle: writes every artefact beside the target, holds it to its gate, and publishes all or nothing."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

import edge_emotion
from edge_emotion.bundle import (
    Calibration,
    EncoderSpec,
    EncoderVariant,
    LlmSpec,
    LlmVariant,
    Manifest,
    write_manifest,
)
from edge_emotion.errors import ExportError
from edge_emotion.targets import find_target
from edge_emotion_runtimes.interfaces import LanguageModel
from edge_emotion_runtimes.language_models import open_language_model
from edge_emotion_runtimes.llama_cpp_model import LlamaCppModel
from edge_emotion_runtimes.onnx_encoder import OnnxEncoder
from edge_emotion_runtimes.verify import ENCODER_TAPS
from edge_emotion_train.checkpoint import Checkpoint, load_checkpoint
from edge_emotion_train.frontend import SAMPLE_RATE_HZ
from edge_emotion_train.model import ENCODER_FRAMES_PER_S, TOKENS_PER_S

from .adapter import ADAPTER_NAME, quantisation_of, write_adapter
from .card import FileMetadata, write_licences, write_readme
from .clips import load_clips
from .for_target import record_target, wanted_for, with_gpu_encoders
from .gguf_llm import ARCHITECTURE, Quantisation, export_gguf
from .golden import ReferenceClip, choose_golden, end_token, run_reference, save_golden
from .measure import (
    encoder_figures,
    end_to_end_figures,
    golden_tolerances,
    language_model_figures,
    tokenizer_figures,
)
from .omni_checkpoint import is_omni_checkpoint
from .omni_export import export_omni
from .onnx_decoder import Precision
from .onnx_encoder import MAX_SAMPLES, MIN_SAMPLES, export_onnx, quantise_int8
from .onnx_llm import export_onnx_llm
from .parity import LIMITS, check
from .publishing import names_in, prove, published, report, sizes_in, talk

# A built-in bundle must be small enough to come with the package; variants that are only a convenience yield to that.
MAX_BUNDLE_BYTES = 40_000_000
DISPENSABLE = ("llm.fp32.onnx", "llm.F16.gguf", "encoder.fp32.onnx")
# The preferred one first; it is what runs where nothing was compiled.
LLM_FILES = {"int8": "llm.int8.onnx", "Q8_0": "llm.Q8_0.gguf", "F16": "llm.F16.gguf", "fp32": "llm.fp32.onnx"}
ENCODER_FILES = {"int8": "encoder.int8.onnx", "fp32": "encoder.fp32.onnx"}
# A window of 30 s, thought and answer fit; a published model's own context would reserve memory for whole books.
MOST_CONTEXT_TOKENS = 512
GOLDEN_NAME = "golden.npz"
LLM_TAPS = ("first_logits", "text")


def export_all(
    checkpoint_folder: Path,
    output_folder: Path,
    clips: Sequence[Path],
    force: bool = False,
    name: str = "nano",
    version: str | None = None,
    base: Path | None = None,
) -> Manifest:
    """Writes a whole bundle.

    Args:
        checkpoint_folder: What training wrote.
        output_folder: The bundle's folder; it appears complete or not at all.
        clips: Recordings, or folders of them, that parity is measured on; three of them become the golden clips.
        force: Replace a bundle that is there.
        name: Name of the bundle.
        version: Its version; the package's by default.
        base: Base model of a checkpoint of adapters, where it is in no usual place.

    Returns:
        The manifest as written.

    Raises:
        ExportError: An artefact failed its gate, clips are missing, or the target exists.
        ConfigError: The checkpoint is incomplete.
    """
    with published(output_folder, force) as folder:
        checkpoint, references = _prepare(checkpoint_folder, clips, base)
        labelled = FileMetadata(name, version or edge_emotion.__version__, checkpoint)
        opsets, parity = _write_encoders(checkpoint, references, folder, labelled)
        parity |= _write_language_models(checkpoint, references, folder, labelled)
        parity |= _check_end_to_end(checkpoint, references, folder)
        tolerances = _write_golden(checkpoint, [clip.waveform for clip in references], folder)
        _drop_what_does_not_fit(folder, parity, tolerances)
        receipts = _receipts(references, parity) | {"golden": {"tolerances": tolerances}}
        manifest = _manifest(checkpoint, labelled, folder, opsets, receipts)
        (folder / "README.md").write_text(write_readme(manifest, sizes_in(folder)), encoding="utf-8")
        (folder / "LICENSES").write_text(_licences(checkpoint, manifest.licence), encoding="utf-8")
        manifest = write_manifest(folder, manifest)
        prove(folder, checkpoint.base_path)
    report(output_folder)
    return manifest


def export_part(
    part: Literal["encoder", "llm"],
    checkpoint_folder: Path,
    output_folder: Path,
    clips: Sequence[Path],
    force: bool = False,
    base: Path | None = None,
) -> dict[str, Any]:
    """Writes only the encoder's or the language model's files, with `parity.json` beside them; returns its content.

    Raises:
        ExportError: As `export_all`.
        ConfigError: As `export_all`.
    """
    with published(output_folder, force) as folder:
        checkpoint, references = _prepare(checkpoint_folder, clips, base)
        labelled = FileMetadata(output_folder.resolve().name, edge_emotion.__version__, checkpoint)
        if part == "encoder":
            parity = _write_encoders(checkpoint, references, folder, labelled)[1]
        else:
            parity = _write_language_models(checkpoint, references, folder, labelled)
        receipts = _receipts(references, parity)
        (folder / "parity.json").write_text(json.dumps(receipts, indent=2) + "\n", encoding="utf-8")
    report(output_folder)
    return receipts


def main(
    part: Literal["all", "encoder", "llm"] = "all",
    *,
    checkpoint: Path,
    output: Path,
    clips: Sequence[Path] = (),
    force: bool = False,
    name: str | None = None,
    version: str | None = None,
    base: Path | None = None,
    target: str | None = None,
    **full_size: Any,
) -> int:
    """The command line's verb `export`: talks on stderr, returns 0 or raises an `EdgeEmotionError`.

    `full_size` holds the options of `export_omni` that only a Qwen2.5-Omni checkpoint has; a `target` chooses those of
    its variants that were not asked for.
    """
    if target and part != "all":
        raise ExportError(f"--target is for a whole bundle; leave it out with {part}")
    if is_omni_checkpoint(checkpoint):
        if target:
            full_size = wanted_for(target, checkpoint, full_size.get("adapters") or ()) | full_size
        export_omni(part, checkpoint, output, clips, force=force, name=name, version=version, **full_size)
        if target:
            record_target(output, find_target(target))
    elif full_size:
        given = ", ".join("--" + option.replace("_", "-") for option in full_size)
        raise ExportError(f"{given}: only for a Qwen2.5-Omni checkpoint, which {checkpoint} is not")
    elif target:
        with with_gpu_encoders(target, output, clips, force) as folder:
            export_all(checkpoint, folder, clips, name=name or "nano", version=version, base=base)
    elif part == "all":
        export_all(checkpoint, output, clips, force, name or "nano", version, base)
    else:
        export_part(part, checkpoint, output, clips, force, base)
    return 0


def _prepare(
    checkpoint_folder: Path, clips: Sequence[Path], base: Path | None
) -> tuple[Checkpoint, list[ReferenceClip]]:
    checkpoint = load_checkpoint(Path(checkpoint_folder), base)
    _check_context(checkpoint)
    waveforms = load_clips(clips, round(_max_window_s(checkpoint) * SAMPLE_RATE_HZ))
    talk(f"running the reference on {len(waveforms)} clips")
    return checkpoint, [run_reference(checkpoint, waveform) for waveform in waveforms]


def _max_window_s(checkpoint: Checkpoint) -> float:
    return min(MAX_SAMPLES / SAMPLE_RATE_HZ, checkpoint.sizes.max_frames / ENCODER_FRAMES_PER_S)


def _check_context(checkpoint: Checkpoint) -> None:
    """The longest window, thought and answer must fit, or a device would fail on long recordings only."""
    prompt = checkpoint.prompt
    labels = prompt.texts_of(checkpoint.labels)
    texts = (prompt.before_audio, prompt.after_audio, prompt.answer_open, max(labels, key=len))
    rows = sum(len(checkpoint.tokenizer.encode(text + prompt.answer_close).ids) for text in texts)
    audio_rows = checkpoint.sizes.evidence_tokens + math.ceil(_max_window_s(checkpoint) * TOKENS_PER_S)
    needed, context = rows + audio_rows + prompt.max_think_tokens, _context_tokens(checkpoint)
    if needed > context:
        raise ExportError(f"the longest window needs {needed} tokens of context, the language model has {context}")


def _context_tokens(checkpoint: Checkpoint) -> int:
    return min(MOST_CONTEXT_TOKENS, int(checkpoint.language_model.config.max_position_embeddings))


def _write_encoders(
    checkpoint: Checkpoint, references: Sequence[ReferenceClip], folder: Path, labelled: FileMetadata
) -> tuple[dict[str, int], dict[str, dict[str, float]]]:
    """Opset and parity figures of each precision."""
    full, small = folder / "encoder.fp32.onnx", folder / "encoder.int8.onnx"
    opsets, parity = {}, {}
    for precision, path in (("fp32", full), ("int8", small)):
        talk(f"encoder {precision}")
        if precision == "fp32":
            opsets[precision] = export_onnx(checkpoint.tower, path, labelled.onnx())
        else:
            opsets[precision] = quantise_int8(full, path, labelled.onnx())
        with OnnxEncoder(path, threads=1) as encoder:
            parity[precision] = _gated(precision, encoder_figures(references, encoder))
    return opsets, parity


def _write_language_models(
    checkpoint: Checkpoint, references: Sequence[ReferenceClip], folder: Path, labelled: FileMetadata
) -> dict[str, dict[str, float]]:
    """Parity figures of each file; the F32 one is only there to prove the other GGUF files' origin."""
    if checkpoint.base_model:
        return write_adapter(checkpoint, references, folder, labelled)
    parity: dict[str, dict[str, float]] = {}
    model, tokenizer, end = checkpoint.language_model, checkpoint.tokenizer, end_token(checkpoint)
    quantisations: tuple[Quantisation, ...] = ("F32", "Q8_0", "F16")
    for quantisation in quantisations:
        path = folder / f"llm.{quantisation}.gguf"
        export_gguf(model, tokenizer, path, quantisation, labelled.gguf(), end)
        parity |= _language_model_parity(checkpoint, references, path, quantisation, "tokenizer")
    (folder / "llm.F32.gguf").unlink()
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    for precision in precisions:
        path = folder / f"llm.{precision}.onnx"
        export_onnx_llm(model, tokenizer, path, precision, labelled.onnx_llm(), end)
        parity |= _language_model_parity(checkpoint, references, path, f"llm.{precision}", "llm.tokenizer")
    return parity


def _language_model_parity(
    checkpoint: Checkpoint, references: Sequence[ReferenceClip], path: Path, artefact: str, tokenizer: str
) -> dict[str, dict[str, float]]:
    """Figures of one file, and of its tokenizer where the file is exact: the others hold the same one."""
    talk(f"language model {path.name}")
    parity = {}
    exact = artefact in ("F32", "llm.fp32")
    with closing(_open_language_model(checkpoint, path, exact)) as model:
        if exact:
            parity[tokenizer] = _gated(tokenizer, tokenizer_figures(checkpoint, model))
        parity[artefact] = _gated(artefact, language_model_figures(checkpoint, references, model))
    return parity


def _open_language_model(checkpoint: Checkpoint, path: Path, exact: bool = False) -> LanguageModel:
    """The device's runtime as it runs by default, or with nothing rounded."""
    context_tokens = _context_tokens(checkpoint)
    if checkpoint.base_path:
        return open_language_model(checkpoint.base_path, context_tokens, threads=1, adapter=path)
    if exact and path.suffix == ".gguf":
        return LlamaCppModel(path, context_tokens, threads=1, kv_type="f32", flash_attention=False)
    return open_language_model(path, context_tokens, threads=1)


def _gated(artefact: str, figures: Mapping[str, float]) -> dict[str, float]:
    check(artefact, figures)
    return dict(figures)


def _check_end_to_end(
    checkpoint: Checkpoint, references: Sequence[ReferenceClip], folder: Path
) -> dict[str, dict[str, float]]:
    """Figures of the small encoder with the small language model of each runtime."""
    parity = {}
    pairs = (("end_to_end", "llm.Q8_0.gguf"), ("end_to_end", ADAPTER_NAME), ("llm.end_to_end", "llm.int8.onnx"))
    for artefact, name in pairs:
        if not (folder / name).is_file():
            continue
        talk(f"encoder.int8.onnx and {name} together")
        with (
            OnnxEncoder(folder / "encoder.int8.onnx", threads=1) as encoder,
            closing(_open_language_model(checkpoint, folder / name)) as model,
        ):
            parity[artefact] = _gated(artefact, end_to_end_figures(checkpoint, references, encoder, model))
    return parity


def _write_golden(checkpoint: Checkpoint, waveforms: Sequence[np.ndarray], folder: Path) -> dict[str, dict[str, float]]:
    """Writes the golden taps and returns the tolerances they are replayed with."""
    talk("golden clips")
    save_golden(folder / GOLDEN_NAME, choose_golden(checkpoint, waveforms))
    with np.load(folder / GOLDEN_NAME, allow_pickle=False) as archive:
        golden = {key: archive[key] for key in archive.files}
    with ExitStack() as opened:
        encoders = {
            precision: opened.enter_context(OnnxEncoder(folder / f"encoder.{precision}.onnx", threads=1))
            for precision in ("fp32", "int8")
        }
        models = {
            name: opened.enter_context(closing(_open_language_model(checkpoint, folder / file)))
            for name, file in _llm_files(folder, checkpoint).items()
        }
        return golden_tolerances(golden, checkpoint, encoders, models)


def _drop_what_does_not_fit(
    folder: Path, parity: dict[str, dict[str, float]], tolerances: dict[str, dict[str, float]]
) -> None:
    for name in DISPENSABLE:
        total = sum(sizes_in(folder).values())
        if total <= MAX_BUNDLE_BYTES:
            return
        if not (folder / name).is_file():
            continue
        talk(f"{total / 1e6:.1f} MB are more than {MAX_BUNDLE_BYTES / 1e6:.0f}: {name} is left out")
        (folder / name).unlink()
        part, variant = name.split(".")[:2]
        if part == "llm":
            parity.pop(f"llm.{variant}" if name.endswith(".onnx") else variant)
        # The figures of an encoder in fp32 stay: they are those of its int8 file's parent.
        for tap in ENCODER_TAPS if part == "encoder" else LLM_TAPS:
            tolerances[tap].pop(variant)


def _llm_files(folder: Path, checkpoint: Checkpoint) -> dict[str, str]:
    """Quantisation -> file of the language models in a folder, the preferred one first."""
    files = {quantisation_of(checkpoint): ADAPTER_NAME} if checkpoint.base_model else LLM_FILES
    return {quantisation: file for quantisation, file in files.items() if (folder / file).is_file()}


def _receipts(references: Sequence[ReferenceClip], parity: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    digest = hashlib.sha256(b"".join(clip.waveform.tobytes() for clip in references)).hexdigest()
    seconds = sum(len(clip.waveform) for clip in references) / SAMPLE_RATE_HZ
    limits = {artefact: {figure: asdict(limit) for figure, limit in LIMITS[artefact].items()} for artefact in parity}
    return {
        "clips": {"count": len(references), "seconds": round(seconds, 3), "samples_sha256": digest},
        "parity": {artefact: dict(figures) for artefact, figures in parity.items()},
        "limits": limits,
    }


def _manifest(
    checkpoint: Checkpoint, labelled: FileMetadata, folder: Path, opsets: Mapping[str, int], receipts: Mapping[str, Any]
) -> Manifest:
    sizes = checkpoint.sizes
    files = names_in(folder)
    packages = ("torch", "onnx", "onnxruntime", "gguf", "llama-cpp-python")
    return Manifest(
        name=labelled.name,
        version=labelled.version,
        licence=labelled.licence,
        languages=tuple(labelled.languages),
        labels=checkpoint.labels,
        files={},
        encoder=EncoderSpec(
            variants=tuple(EncoderVariant(f, key, opsets[key]) for key, f in ENCODER_FILES.items() if f in files),
            sample_rate_hz=SAMPLE_RATE_HZ,
            embedding_dim=sizes.embedding_dim,
            tokens_per_second=TOKENS_PER_S,
            summary_tokens=sizes.evidence_tokens,
            min_window_s=MIN_SAMPLES / SAMPLE_RATE_HZ,
            max_window_s=_max_window_s(checkpoint),
        ),
        llm=LlmSpec(
            variants=tuple(
                LlmVariant(file, key, checkpoint.base_model) for key, file in _llm_files(folder, checkpoint).items()
            ),
            architecture=ARCHITECTURE,
            context_tokens=_context_tokens(checkpoint),
        ),
        prompt=checkpoint.prompt,
        thresholds=checkpoint.thresholds,
        calibration={key: Calibration(**values) for key, values in checkpoint.calibration.items()},
        provenance=dict(checkpoint.provenance)
        | {"export_versions": {package: importlib.metadata.version(package) for package in packages}},
        receipts=dict(receipts),
    )


def _licences(checkpoint: Checkpoint, licence: str) -> str:
    return write_licences(licence, checkpoint.provenance.get("sources", {}))
