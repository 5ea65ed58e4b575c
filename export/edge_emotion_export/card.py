"""The words that travel with a bundle: metadata of its model files, README and licences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from edge_emotion.bundle import SCHEMA_VERSION, Manifest
from edge_emotion_train.checkpoint import Checkpoint
from edge_emotion_train.frontend import HOP_SAMPLES, SAMPLE_RATE_HZ
from edge_emotion_train.model import TOKENS_PER_S

_READABLE = {
    "embeddings_relative_max": "largest difference of the embeddings, relative to their largest value",
    "embeddings_cosine_min": "lowest cosine of an embedding",
    "emotion_logits_relative_max": "largest difference of the head's logits, relative to their largest value",
    "label_agreement": "share of equal labels",
    "logits_max": "largest difference of a logit",
    "logits_relative_max": "largest difference of a logit, relative to the largest",
    "logits_kl_mean": "mean KL divergence of the next token, nats",
    "logits_kl_max": "largest KL divergence of the next token, nats",
    "text_equal": "share of equal greedy texts",
    "texts_equal": "share of equally tokenised texts",
}


class FileMetadata:
    """What every model file says of itself and of where it comes from."""

    def __init__(self, name: str, version: str, checkpoint: Checkpoint) -> None:
        self.name, self.version = name, version
        self.licence = str(checkpoint.provenance.get("licence", "Apache-2.0"))
        self.commit = str(checkpoint.provenance.get("commit", "unknown"))
        self.languages = [str(language) for language in checkpoint.provenance.get("languages", ["en"])]
        self.checkpoint = checkpoint

    def onnx(self) -> dict[str, str]:
        """`metadata_props` of an encoder."""
        sizes = self.checkpoint.sizes
        return self._origin() | {
            "model_type": "edge-emotion-encoder",
            "sample_rate": str(SAMPLE_RATE_HZ),
            "n_mels": str(sizes.mel_bands),
            "hop_length": str(HOP_SAMPLES),
            "frame_rate": f"{TOKENS_PER_S:g}",
            "summary_tokens": str(sizes.evidence_tokens),
            "embedding_dim": str(sizes.embedding_dim),
            "labels": json.dumps(list(self.checkpoint.labels)),
        }

    def onnx_llm(self) -> dict[str, str]:
        """`metadata_props` of a language model; what its runtime needs is added by its exporter."""
        return self._origin() | {
            "labels": json.dumps(list(self.checkpoint.labels)),
            "prompt_sha256": self._prompt_sha256(),
        }

    def _origin(self) -> dict[str, str]:
        return {
            "name": self.name,
            "version": self.version,
            "source_commit": self.commit,
            "license": self.licence,
        }

    def _prompt_sha256(self) -> str:
        prompt = json.dumps(self.checkpoint.prompt.to_dict(), sort_keys=True)
        return hashlib.sha256(prompt.encode()).hexdigest()

    def gguf(self) -> dict[str, str | list[str]]:
        """GGUF keys of a language model."""
        parameters = sum(parameter.numel() for parameter in self.checkpoint.language_model.parameters())
        return {
            "general.type": "model",
            "general.name": f"edge-emotion {self.name}",
            "general.basename": f"edge-emotion-{self.name}",
            "general.size_label": f"{parameters / 1e6:.1f}M",
            "general.version": self.version,
            "general.license": self.licence,
            "general.languages": self.languages,
            "general.tags": ["speech-emotion-recognition", "explainability", "prosody"],
            "edge_emotion.schema": str(SCHEMA_VERSION),
            "edge_emotion.labels": list(self.checkpoint.labels),
            "edge_emotion.prompt_sha256": self._prompt_sha256(),
            "edge_emotion.source_commit": self.commit,
        }


def write_readme(manifest: Manifest, sizes: Mapping[str, int]) -> str:
    """The model card, Markdown.

    Args:
        manifest: What the bundle says of itself; its `files` may still be empty.
        sizes: Bytes of each model file.
    """
    encoder, llm = manifest.encoder, manifest.llm
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        "A bundle of edge-emotion: which emotion a voice carries, and why, on the device and offline.",
        "",
        f"- Labels: {', '.join(manifest.labels)}",
        f"- Audio: {encoder.sample_rate_hz} Hz mono, {encoder.min_window_s:g} to {encoder.max_window_s:g} s at a time",
        f"- Audio tokens: {encoder.summary_tokens} of the whole clip and {encoder.tokens_per_second:g} a second, "
        f"of width {encoder.embedding_dim}",
        f"- Language model: {llm.architecture} architecture, {llm.context_tokens} tokens of context",
        f"- Language of the explanations: {', '.join(manifest.languages)}",
        f"- Licence: {manifest.licence}",
        "",
        "| file | MB |",
        "|---|---|",
        *(f"| {name} | {size / 1e6:.1f} |" for name, size in sizes.items()),
        "",
        *_parity_lines(manifest.receipts),
        "## Calibration",
        "",
        "| answer of | temperature | expected calibration error | called uncertain below |",
        "|---|---|---|---|",
        *(
            f"| {name} | {value.temperature:.3g} | {'never measured' if value.ece is None else f'{value.ece:.3g}'} | "
            f"{value.abstain_below:.3g} |"
            for name, value in manifest.calibration.items()
        ),
        "",
        f"Levels of the cues come from: {manifest.thresholds.source}.",
        "",
        "What a voice sounds like is not what a person feels: use this to describe voices, not to judge people.",
    ]
    return "\n".join(lines) + "\n"


def _parity_lines(receipts: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| {artefact} | {_READABLE[name]} | {figure:.3g} |"
        for artefact, figures in receipts["parity"].items()
        for name, figure in figures.items()
        if name in _READABLE
    ]
    clips = receipts["clips"]
    return [
        "## Parity with the trained model",
        "",
        f"Measured on {clips['count']} recordings ({clips['seconds']:.0f} s) when this bundle was written.",
        "",
        "| artefact | figure | value |",
        "|---|---|---|",
        *rows,
        "",
    ]


def write_licences(licence: str, sources: Mapping[str, str]) -> str:
    """The text of LICENSES: the bundle's own, and those of what it was made from (source -> licence)."""
    lines = [f"This bundle: {licence}"]
    if sources:
        lines += ["", "Made from:", *(f"- {source}: {terms}" for source, terms in sources.items())]
    return "\n".join(lines) + "\n"
