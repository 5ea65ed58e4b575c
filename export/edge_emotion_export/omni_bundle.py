"""What the files of a full-size bundle say of themselves: metadata, receipts, manifest."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from edge_emotion.bundle import SCHEMA_VERSION, EncoderSpec, EncoderVariant, LlmSpec, LlmVariant, Manifest
from edge_emotion_train.frontend import HOP_SAMPLES, SAMPLE_RATE_HZ

from .omni_checkpoint import OmniCheckpoint
from .omni_encoder import TOKENS_PER_S
from .omni_gguf import ARCHITECTURE
from .omni_job import Job
from .omni_prompt import Speech
from .omni_reference import DEVICE_ENDS
from .onnx_encoder import MAX_SAMPLES, MIN_SAMPLES
from .parity import LIMITS

PACKAGES = ("torch", "transformers", "onnx", "onnxruntime", "gguf", "llama-cpp-python")


def onnx_metadata(checkpoint: OmniCheckpoint, speech: Speech, name: str, version: str) -> dict[str, str]:
    """`metadata_props` of an encoder; it names no labels, since it has no head."""
    return {
        "model_type": "edge-emotion-encoder",
        "name": name,
        "version": version,
        "sample_rate": str(SAMPLE_RATE_HZ),
        "n_mels": str(checkpoint.audio.num_mel_bins),
        "hop_length": str(HOP_SAMPLES),
        "frame_rate": f"{TOKENS_PER_S:g}",
        "summary_tokens": "0",
        "embedding_dim": str(checkpoint.audio.output_dim),
        "license": speech.licence,
    }


def gguf_metadata(checkpoint: OmniCheckpoint, speech: Speech, name: str, version: str) -> dict[str, str | list[str]]:
    """GGUF keys of a language model."""
    prompt = json.dumps(speech.prompt.to_dict(), sort_keys=True)
    return {
        "general.type": "model",
        "general.name": name,
        "general.basename": checkpoint.folder.resolve().name,
        "general.size_label": f"{checkpoint.parameters / 1e9:.2g}B",
        "general.version": version,
        "general.license": speech.licence,
        "general.languages": list(speech.languages),
        "general.tags": ["speech-emotion-recognition", "explainability", "prosody"],
        "edge_emotion.schema": str(SCHEMA_VERSION),
        "edge_emotion.labels": list(speech.labels),
        "edge_emotion.prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
    }


def receipts_of(waveforms: Sequence[np.ndarray], variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Clips, figures and limits of every variant, and of those that were left out why.

    Args:
        waveforms: The clips.
        variants: Verdict of each file, by its name without the ending.
    """
    digest = hashlib.sha256(b"".join(waveform.tobytes() for waveform in waveforms)).hexdigest()
    seconds = sum(map(len, waveforms)) / SAMPLE_RATE_HZ
    used = {str(verdict["gate"]): verdict for verdict in variants.values()}
    return {
        "clips": {"count": len(waveforms), "seconds": round(seconds, 3), "samples_sha256": digest},
        "parity": {gate: dict(verdict["figures"]) for gate, verdict in used.items()},
        "limits": {gate: {name: asdict(limit) for name, limit in LIMITS[gate].items()} for gate in used},
        "variants": {
            name: {key: value for key, value in verdict.items() if key != "figures"}
            for name, verdict in variants.items()
        },
    }


def make_manifest(job: Job, receipts: Mapping[str, Any], encoders: Sequence[str], llms: Sequence[str]) -> Manifest:
    """The manifest, without `files`.

    Args:
        job: What was exported.
        receipts: Figures and tolerances.
        encoders: Precisions that were written, the preferred one first.
        llms: Quantisations that were written, the preferred one first.
    """
    checkpoint, speech = job.checkpoint, job.speech
    opsets = {name: int(receipts["variants"][f"encoder.{name}"]["opset"]) for name in encoders}
    return Manifest(
        name=job.name,
        version=job.version,
        licence=speech.licence,
        languages=speech.languages,
        labels=speech.labels,
        files={},
        encoder=EncoderSpec(
            variants=tuple(EncoderVariant(f"encoder.{name}.onnx", name, opsets[name]) for name in encoders),
            sample_rate_hz=SAMPLE_RATE_HZ,
            embedding_dim=checkpoint.audio.output_dim,
            tokens_per_second=TOKENS_PER_S,
            summary_tokens=0,
            min_window_s=MIN_SAMPLES / SAMPLE_RATE_HZ,
            max_window_s=MAX_SAMPLES / SAMPLE_RATE_HZ,
        ),
        llm=LlmSpec(
            variants=tuple(LlmVariant(f"llm.{name}.gguf", name) for name in llms),
            architecture=ARCHITECTURE,
            context_tokens=job.context_tokens(),
        ),
        prompt=speech.prompt,
        thresholds=speech.thresholds,
        calibration=speech.calibration,
        provenance={
            "checkpoint": checkpoint.folder.resolve().name,
            "checkpoint_config_sha256": hashlib.sha256((checkpoint.folder / "config.json").read_bytes()).hexdigest(),
            "adapters": [adapter.folder.resolve().name for adapter in checkpoint.adapters],
            "parameters": checkpoint.parameters,
            "ends_of_text": {"device": sorted(DEVICE_ENDS), "checkpoint": checkpoint.own_ends()},
            "export_versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        },
        receipts=dict(receipts),
    )
