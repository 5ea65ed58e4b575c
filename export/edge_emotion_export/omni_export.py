"""A published Qwen2.5-Omni checkpoint to a bundle, the checkpoint never in memory at once.

A break loses the file that was being written, nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

import edge_emotion
from edge_emotion.bundle import Manifest, load_bundle, write_manifest
from edge_emotion.errors import ExportError
from edge_emotion.prompt import Prompt
from edge_emotion_runtimes.onnx_encoder import OnnxEncoder
from edge_emotion_runtimes.verify import verify_bundle
from edge_emotion_train.frontend import HOP_SAMPLES, SAMPLE_RATE_HZ

from . import omni_quantise
from .card import write_licences, write_readme
from .clips import load_clips
from .golden import GOLDEN_CLIPS, GOLDEN_SECONDS, ReferenceClip, save_golden, smallest_lead
from .measure import end_to_end_figures, golden_tolerances
from .omni_bundle import make_manifest, receipts_of
from .omni_checkpoint import OmniCheckpoint, open_omni
from .omni_graph import PRECISIONS, Precision
from .omni_job import Job
from .omni_prompt import SPEECH_FILE, Speaker, Speech, read_speech
from .omni_reference import DEVICE_ENDS, AudioReference
from .omni_variants import LLM_VARIANTS, Sound, talk, write_encoders, write_language_models
from .omni_workspace import PARITY_NAME, workspace
from .onnx_encoder import MAX_SAMPLES
from .parity import check

# Tokens of thinking that are compared: each costs a row of the vocabulary for every clip.
PARITY_TOKENS = 32
GOLDEN_CANDIDATES = 6


def export_omni(
    part: Literal["all", "encoder", "llm"],
    checkpoint_folder: Path,
    output_folder: Path,
    clips: Sequence[Path],
    *,
    adapters: Sequence[Path] = (),
    encoders: Sequence[Precision] = PRECISIONS,
    llms: Sequence[str] | None = None,
    importance: bool = True,
    keep_failing: bool = False,
    force: bool = False,
    name: str | None = None,
    version: str | None = None,
) -> Manifest | None:
    """Writes a bundle, or one half of it with `parity.json` beside it.

    Args:
        part: What to write.
        checkpoint_folder: A Qwen2.5-Omni checkpoint, or a LoRA adapter whose base is a folder.
        output_folder: Appears complete or not at all.
        clips: Recordings, or folders of them, that parity is measured on and importance is collected on.
        adapters: LoRA adapters to merge.
        encoders: Precisions of the audio tower.
        llms: Quantisations of the language model; by default Q8_0, and Q4_K_M where the widths suit it.
        importance: Collect an importance matrix for the K-quants.
        keep_failing: Write variants below their gate, too, marked in the receipts.
        force: Replace an earlier export.
        name: Name of the bundle; the output folder's by default.
        version: Its version; the package's by default.

    Returns:
        The manifest of a whole bundle.

    Raises:
        ExportError: A conversion is wrong, no variant is good enough, clips are missing, or the target exists.
        ConfigError: The checkpoint cannot be exported; says why.
    """
    checkpoint, output = open_omni(checkpoint_folder, adapters), Path(output_folder)
    own = Path(checkpoint_folder)  # an adapter may say otherwise than its base
    speech = read_speech(own if (own / SPEECH_FILE).is_file() else checkpoint.folder)
    if checkpoint.own_ends() not in (None, sorted(DEVICE_ENDS)):
        talk(f"the checkpoint ends a text at {checkpoint.own_ends()}, the device at {sorted(DEVICE_ENDS)}")
    chosen = _choose_llms(checkpoint, llms)
    if unknown := sorted({*encoders} - {*PRECISIONS}):
        raise ExportError(f"unknown precision {', '.join(unknown)}; choose from {', '.join(PRECISIONS)}")
    waveforms = load_clips(clips, MAX_SAMPLES)
    name, version = name or output.resolve().name, version or edge_emotion.__version__
    options = [list(encoders), list(chosen), importance, keep_failing, name, version]
    with workspace(output, _key(checkpoint, speech, waveforms, options), force) as work:
        speaker = Speaker(_short(speech), checkpoint.tokenizer, speech.label_texts)
        job = Job(checkpoint, speech, speaker, work, name, version, keep_failing)
        sounds, shortened = _hear(job, waveforms)
        variants: dict[str, Any] = {}
        references: list[ReferenceClip] = []
        if part != "llm":
            variants |= write_encoders(job, [*sounds[: len(waveforms)], *shortened], encoders)
        if part != "encoder":
            llm_variants, references = write_language_models(job, sounds, chosen, importance)
            variants |= llm_variants
        receipts = receipts_of(waveforms, variants)
        if part != "all":
            (job.folder / PARITY_NAME).write_text(json.dumps(receipts, indent=2) + "\n", encoding="utf-8")
            manifest = None
        else:
            manifest = _finish(job, receipts, references, len(waveforms))
    _report(output)
    return manifest


def _choose_llms(checkpoint: OmniCheckpoint, asked: Sequence[str] | None) -> tuple[str, ...]:
    if asked is None:
        suits = not omni_quantise.odd_widths(checkpoint, "Q4_K_M")
        if not suits:
            talk(f"Q4_K_M is left out: {omni_quantise.width_note(checkpoint, 'Q4_K_M')}")
        return ("Q4_K_M", "Q8_0") if suits else ("Q8_0",)
    unknown = [name for name in asked if name not in LLM_VARIANTS]
    if unknown or not asked:
        raise ExportError(f"unknown quantisation {', '.join(unknown)!r}; choose from {', '.join(LLM_VARIANTS)}")
    return tuple(dict.fromkeys(asked))


def _short(speech: Speech) -> Prompt:
    """The prompt with as much thinking as parity is measured on, which no text ends."""
    return replace(speech.prompt, max_think_tokens=min(PARITY_TOKENS, speech.prompt.max_think_tokens), stop=())


def _key(checkpoint: OmniCheckpoint, speech: Speech, waveforms: Sequence[np.ndarray], options: Sequence[object]) -> str:
    """Changes with everything that a finished file may depend on."""
    sound = hashlib.sha256(b"".join(waveform.tobytes() for waveform in waveforms)).hexdigest()
    spoken = [speech.prompt.to_dict(), speech.labels]
    facts = [edge_emotion.__version__, checkpoint.fingerprint(), spoken, sound, options]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _hear(job: Job, waveforms: Sequence[np.ndarray]) -> tuple[list[Sound], list[Sound]]:
    """Clips with the checkpoint's own embeddings: those given and short cuts to choose golden clips from; and the first
    one with an even and with an odd number of frames, since only at an odd one does the padding reach what is kept.
    """
    samples = round(GOLDEN_SECONDS * SAMPLE_RATE_HZ)
    # Golden waveforms are stored in float16.
    cuts = [waveform[:samples].astype(np.float16).astype(np.float32) for waveform in waveforms[:GOLDEN_CANDIDATES]]
    pairs_of_frames = len(waveforms[0]) // (2 * HOP_SAMPLES)
    shortened = [waveforms[0][: (2 * pairs_of_frames - less) * HOP_SAMPLES] for less in (0, 1)]
    sounds = [*waveforms, *cuts, *shortened]

    def embed() -> dict[str, np.ndarray]:
        talk(f"audio tower of the checkpoint on {len(sounds)} clips")
        reference = AudioReference(job.checkpoint)
        return {str(index): reference.embed(waveform) for index, waveform in enumerate(sounds)}

    found = job.work.arrays("embeddings", embed)
    heard = [(waveform, found[str(index)]) for index, waveform in enumerate(sounds)]
    return heard[: -len(shortened)], heard[-len(shortened) :]


def _finish(job: Job, receipts: dict[str, Any], references: Sequence[ReferenceClip], clips: int) -> Manifest:
    """Golden clips, end-to-end labels, manifest, card; then the bundle is opened as a device does."""
    verdicts = receipts["variants"]
    encoders = [name for name in ("int8", "fp16", "fp32") if verdicts.get(f"encoder.{name}", {}).get("written")]
    llms = [name for name in reversed(LLM_VARIANTS) if verdicts.get(f"llm.{name}", {}).get("written")]
    if not encoders:
        raise ExportError("no variant of the encoder passed its gate; ask for fp32, too")
    golden = sorted(references[clips:], key=smallest_lead, reverse=True)[:GOLDEN_CLIPS]
    save_golden(job.folder / "golden.npz", golden, job.speaker.prompt.max_think_tokens)
    receipts["golden"] = {"tolerances": job.work.once("golden", lambda: _tolerances(job, encoders, llms))}
    receipts["parity"]["end_to_end"] = job.work.once(
        "end_to_end", lambda: _end_to_end(job, references[:clips], encoders[0], llms[0])
    )
    manifest = make_manifest(job, receipts, encoders, llms)
    sizes = {path.name: path.stat().st_size for path in sorted(job.folder.glob("[!.]*"))}
    source = {job.checkpoint.folder.resolve().name: manifest.licence}
    (job.folder / "README.md").write_text(write_readme(manifest, sizes), encoding="utf-8")
    (job.folder / "LICENSES").write_text(write_licences(manifest.licence, source), encoding="utf-8")
    manifest = write_manifest(job.folder, manifest, force=True)
    talk("verifying the finished bundle")
    report = verify_bundle(load_bundle(str(job.folder.resolve())), encoders[0], llms[0])
    if failed := [tap for tap in report.taps if not tap.passed]:
        raise ExportError(f"the finished bundle fails its own golden clips with {encoders[0]} and {llms[0]}: {failed}")
    return manifest


def _tolerances(job: Job, encoders: Sequence[str], llms: Sequence[str]) -> dict[str, dict[str, float]]:
    """What each tap may differ by on another device; two models are open at a time."""
    with np.load(job.folder / "golden.npz", allow_pickle=False) as archive:
        golden = {key: archive[key] for key in archive.files}
    tolerances: dict[str, dict[str, float]] = {}
    pairs = [*((name, llms[0]) for name in encoders), *((encoders[0], name) for name in llms[1:])]
    for precision, quantisation in pairs:
        talk(f"golden clips with {precision} and {quantisation}")
        with (
            OnnxEncoder(job.folder / f"encoder.{precision}.onnx", threads=1) as encoder,
            job.open(job.folder / f"llm.{quantisation}.gguf") as model,
        ):
            found = golden_tolerances(golden, job.speaker, {precision: encoder}, {quantisation: model})
        for tap, values in found.items():
            tolerances.setdefault(tap, {}).update(values)
    return {tap: values for tap, values in tolerances.items() if values}


def _end_to_end(job: Job, references: Sequence[ReferenceClip], precision: str, quantisation: str) -> dict[str, float]:
    talk(f"encoder {precision} and language model {quantisation} together")
    with (
        OnnxEncoder(job.folder / f"encoder.{precision}.onnx", threads=1) as encoder,
        job.open(job.folder / f"llm.{quantisation}.gguf") as model,
    ):
        figures = end_to_end_figures(job.speaker, references, encoder, model)
    if not job.keep_failing:
        check("end_to_end", figures)
    return figures


def _report(folder: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    for name, size in sizes.items():
        talk(f"  {name:24s} {size / 1e6:10.3f} MB")
    talk(f"  {'in all':24s} {sum(sizes.values()) / 1e6:10.3f} MB in {folder}")
