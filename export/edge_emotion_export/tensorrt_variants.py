"""Encoders for TensorRT, each written only after parity with the fp32 encoder that it is made from.

Parity is measured on ONNX Runtime's processor provider, which runs the same graph: it takes int8 as int8, and float16
as float32 of rounded weights. What a GPU makes of it is for `edge-emotion verify` on the device.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge_emotion.audio import SAMPLE_RATE_HZ
from edge_emotion.bundle import Manifest, load_bundle, write_manifest
from edge_emotion.errors import ExportError
from edge_emotion.manifest import EncoderVariant
from edge_emotion_runtimes.onnx_encoder import OnnxEncoder
from edge_emotion_runtimes.verify import probability_change, read_golden, relative_error

from .card import write_readme
from .clips import load_clips
from .measure import TOLERANCE_FACTOR, TOLERANCE_FLOORS
from .omni_graph import data_file
from .parity import LIMITS, agreement, check, cosine_min, failed_limits, relative_max
from .tensorrt_calibration import largest_values
from .tensorrt_graph import write_fp16, write_int8_qdq
from .tensorrt_lint import check_for_tensorrt

TensorrtPrecision = Literal["fp16", "int8-qdq"]
TENSORRT_PRECISIONS: tuple[TensorrtPrecision, ...] = ("fp16", "int8-qdq")


def add_tensorrt_encoders(
    bundle: str | Path,
    output: Path,
    clips: Sequence[Path],
    precisions: Sequence[TensorrtPrecision] = TENSORRT_PRECISIONS,
    keep_failing: bool = False,
) -> Manifest:
    """Writes a copy of a bundle that also has encoders for TensorRT, with their receipts and tolerances.

    Args:
        bundle: Name of a built-in bundle, or a bundle's folder; it must have an fp32 encoder.
        output: Folder of the copy; appears complete or not at all.
        clips: Recordings, or folders of them: every second one gives the int8 ranges, the others the parity.
        precisions: Which encoders.
        keep_failing: Also write one that is below its gate, marked in the receipts.

    Returns:
        The manifest of the copy.

    Raises:
        ExportError: The target exists, clips are missing, the bundle has no fp32 encoder, or every encoder failed.
        BundleError: The bundle is damaged.
    """
    if output.exists():
        raise ExportError(f"{output} is there already; give another --output")
    opened = load_bundle(bundle)
    waveforms = load_clips(clips, round(opened.manifest.encoder.max_window_s * SAMPLE_RATE_HZ))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        folder = Path(scratch, "bundle")
        shutil.copytree(opened.path, folder, copy_function=_link_or_copy)
        verdicts = write_tensorrt_encoders(folder, waveforms, precisions, keep_failing)
        if not any(verdict["written"] for verdict in verdicts.values()):
            raise ExportError("no encoder for TensorRT passed its gate: " + "; ".join(map(_why, verdicts.values())))
        manifest = _extended(folder, load_bundle(folder, verify=False).manifest, verdicts)
        folder.rename(output)
    return manifest


def _link_or_copy(source: str, target: str) -> None:
    """Weights are never written to again, so a copy on one disk shares them; the texts are rewritten."""
    if source.endswith((".onnx", ".data", ".gguf")):
        try:
            os.link(source, target)
            return
        except OSError:  # another disk, or one without links
            pass
    shutil.copy2(source, target)


def write_tensorrt_encoders(
    folder: Path,
    waveforms: Sequence[np.ndarray],
    precisions: Sequence[TensorrtPrecision] = TENSORRT_PRECISIONS,
    keep_failing: bool = False,
) -> dict[str, dict[str, Any]]:
    """Writes `encoder.{precision}.onnx` beside `encoder.fp32.onnx`.

    Args:
        folder: Where the fp32 encoder is.
        waveforms: float32 `(samples,)` at 16 kHz: every second one gives the int8 ranges, the others the parity.
        precisions: Which encoders.
        keep_failing: Also write one that is below its gate.

    Returns:
        Each precision's verdict, as the other variants' (`gate`, `figures`, `passed`, `written`, `opset`).

    Raises:
        ExportError: There is no fp32 encoder, fewer than two recordings are given, or TensorRT would refuse the graph.
    """
    source = folder / "encoder.fp32.onnx"
    if not source.is_file():
        raise ExportError(f"{source} is missing: encoders for TensorRT are made from it; export fp32, too")
    if len(waveforms) < 2:
        raise ExportError("int8 ranges and parity are measured on different recordings: give at least two")
    verdicts = {}
    for precision in precisions:
        path = folder / f"encoder.{precision}.onnx"
        if precision == "fp16":
            opset = write_fp16(source, path)
        else:
            opset = write_int8_qdq(source, path, largest_values(source, waveforms[0::2]))
        check_for_tensorrt(path)
        verdicts[precision] = _verdict(source, path, waveforms[1::2], precision, keep_failing) | {"opset": opset}
    return verdicts


def _verdict(
    source: Path, path: Path, waveforms: Sequence[np.ndarray], precision: str, keep_failing: bool
) -> dict[str, Any]:
    figures = parity_figures(source, path, waveforms)
    gate = precision if "label_agreement" in figures else f"omni.{precision}"
    verdict: dict[str, Any] = {"gate": gate, "figures": figures}
    if failures := failed_limits(gate, figures):
        if not keep_failing:
            for file in (path, data_file(path)):
                file.unlink(missing_ok=True)
        return verdict | {"passed": False, "written": keep_failing, "why": "; ".join(failures)}
    check(gate, figures)
    return verdict | {"passed": True, "written": True}


def parity_figures(source: Path, path: Path, waveforms: Sequence[np.ndarray]) -> dict[str, float]:
    """Worst differences from the fp32 encoder and, where there is a head, the share of equal labels."""
    with OnnxEncoder(source, threads=1) as parent, OnnxEncoder(path, threads=1) as child:
        pairs = [(parent.encode(waveform), child.encode(waveform)) for waveform in waveforms]
    figures = {
        "clips": len(pairs),
        "embeddings_relative_max": max(relative_max(ours.embeddings, theirs.embeddings) for ours, theirs in pairs),
        "embeddings_cosine_min": min(cosine_min(ours.embeddings, theirs.embeddings) for ours, theirs in pairs),
    }
    heads = [(ours.emotion_logits, theirs.emotion_logits) for ours, theirs in pairs]
    logits = [(ours, theirs) for ours, theirs in heads if ours is not None and theirs is not None]
    if logits:
        labels = [(int(ours.argmax()), int(theirs.argmax())) for ours, theirs in logits]
        figures["emotion_logits_relative_max"] = max(relative_max(*pair) for pair in logits)
        figures["label_agreement"] = agreement(*zip(*labels, strict=True))
    return figures


def _extended(folder: Path, manifest: Manifest, verdicts: Mapping[str, dict[str, Any]]) -> Manifest:
    """Writes the manifest with the new variants at the end of the encoder's, and the README that lists them."""
    written = {precision: verdict for precision, verdict in verdicts.items() if verdict["written"]}
    added = tuple(
        EncoderVariant(f"encoder.{precision}.onnx", precision, verdict["opset"])
        for precision, verdict in written.items()
    )
    kept = tuple(variant for variant in manifest.encoder.variants if variant.precision not in written)
    receipts = dict(manifest.receipts)
    receipts["parity"] = dict(receipts.get("parity", {})) | {
        verdict["gate"]: verdict["figures"] for verdict in written.values()
    }
    limits = {
        verdict["gate"]: {k: asdict(v) for k, v in LIMITS[verdict["gate"]].items()} for verdict in written.values()
    }
    receipts["limits"] = dict(receipts.get("limits", {})) | limits
    receipts["tensorrt"] = {precision: dict(verdict) for precision, verdict in verdicts.items()}
    manifest = replace(manifest, encoder=replace(manifest.encoder, variants=(*kept, *added)), receipts=receipts)
    manifest = write_manifest(folder, manifest, force=True)
    receipts["golden"] = {"tolerances": _tolerances(folder, list(written))}
    manifest = replace(manifest, receipts=receipts)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("[!.]*"))}
    (folder / "README.md").write_text(write_readme(manifest, sizes), encoding="utf-8")
    return write_manifest(folder, manifest, force=True)


def _tolerances(folder: Path, precisions: Sequence[str]) -> dict[str, dict[str, float]]:
    """The bundle's tolerances with those of the new encoders, found as the exporter finds the others."""
    bundle = load_bundle(folder)
    tolerances = {tap: dict(values) for tap, values in bundle.manifest.receipts["golden"]["tolerances"].items()}
    golden = read_golden(bundle)
    for precision in precisions:
        worst: dict[str, float] = {}
        with OnnxEncoder(folder / f"encoder.{precision}.onnx", threads=1) as encoder:
            for name in [name.removesuffix("_waveform") for name in golden if name.endswith("_waveform")]:
                output = encoder.encode(golden[f"{name}_waveform"].astype(np.float32))
                found = {"embeddings": relative_error(output.embeddings, golden[f"{name}_embeddings"])}
                if output.emotion_logits is not None and f"{name}_emotion_logits" in golden:
                    expected = golden[f"{name}_emotion_logits"]
                    found["emotion_logits"] = probability_change(output.emotion_logits, expected)
                worst = {tap: max(worst.get(tap, 0.0), value) for tap, value in found.items()}
        for tap, value in worst.items():
            limit = max(TOLERANCE_FLOORS[tap][precision], TOLERANCE_FACTOR * value)
            tolerances.setdefault(tap, {})[precision] = min(limit, 1.0)
    return tolerances


def _why(verdict: Mapping[str, Any]) -> str:
    return str(verdict.get("why", ""))
