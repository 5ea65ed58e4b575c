"""The words that travel with a bundle: metadata of its model files, README and licences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_emotion.bundle import SCHEMA_VERSION, Bundle, Manifest, load_bundle, write_manifest
from edge_emotion.errors import EdgeEmotionError
from edge_emotion_train.checkpoint import Checkpoint
from edge_emotion_train.frontend import HOP_SAMPLES, SAMPLE_RATE_HZ
from edge_emotion_train.model import TOKENS_PER_S

from .card_figures import figure_sections, weakest

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


def write_readme(manifest: Manifest, sizes: Mapping[str, int], results: Sequence[Mapping[str, Any]] = ()) -> str:
    """The model card, Markdown.

    Args:
        manifest: What the bundle says of itself; its `files` may still be empty.
        sizes: Bytes of each model file.
        results: What benchmarks found out about it; see `card_figures`.

    Raises:
        EdgeEmotionError: A result cannot be told of.
    """
    measured = figure_sections(results) or [
        "## Figures",
        "",
        "Not measured yet: `edge-emotion bundle card` adds what benchmarks find out.",
        "",
    ]
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        "A bundle of edge-emotion: which emotion a voice carries, and why, on the device and offline.",
        "",
        *_about_lines(manifest, sizes),
        *_use_lines(),
        *_making_lines(manifest.provenance),
        *measured,
        *_calibration_lines(manifest),
        *_limit_lines(manifest, weakest(results)),
        *_parity_lines(manifest.receipts),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def rewrite_card(bundle: Bundle, results: Mapping[str, Mapping[str, Any]]) -> Manifest:
    """Writes the card of a bundle that is there anew, with figures, and its manifest after it; model files stay.

    The manifest holds the card's hash, so the bundle's own hash changes. `provenance.card.figures_of` keeps the one
    that the figures were measured under: all files but the card are still the same.

    Args:
        bundle: The bundle.
        results: Contents of result files by file name.

    Returns:
        The manifest as written.

    Raises:
        EdgeEmotionError: A result is of another bundle, or cannot be told of.
    """
    check_results(bundle, results)
    manifest = bundle.manifest
    figures_of = [bundle.manifest_sha256, *_figures_of(manifest)]
    measured = next((sha for result in results.values() if (sha := _measured(result))), None)
    provenance = dict(manifest.provenance) | ({"card": {"figures_of": measured}} if measured else {})
    assert measured is None or measured in figures_of
    text = write_readme(replace(manifest, provenance=provenance), model_files(manifest), list(results.values()))
    card = bundle.path / "README.md"
    partial = card.with_name(f".{card.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(card)
    return write_manifest(bundle.path, replace(manifest, provenance=provenance), force=True)


def check_results(bundle: Bundle, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises EdgeEmotionError for a result that was measured on another bundle."""
    known = {bundle.manifest_sha256, *_figures_of(bundle.manifest)}
    for name, result in results.items():
        measured = _measured(result)
        if measured and measured not in known:
            raise EdgeEmotionError(
                f"{name} was measured on another bundle ({measured[:12]}...) than {bundle.path} "
                f"({bundle.manifest_sha256[:12]}...); run its benchmark on this one"
            )
        made_from = result.get("data_sha256")
        if made_from and made_from != bundle.manifest.provenance.get("data_sha256", made_from):
            raise EdgeEmotionError(f"{name} is of other training data than {bundle.path}; run `train eval` again")


def model_files(manifest: Manifest) -> dict[str, int]:
    """Bytes of each file of a bundle but its words."""
    return {name: entry.size for name, entry in manifest.files.items() if name not in ("README.md", "LICENSES")}


def write_card(bundle: str, results: Sequence[Path], output: Path | None, force: bool = False) -> str:
    """Runs `edge-emotion bundle card`; returns where the card was written.

    Raises:
        EdgeEmotionError: A result cannot be read or used, or `output` exists.
    """
    opened = load_bundle(bundle, verify=False)
    contents = {path.name: _read_result(path) for path in results}
    if output is None:
        rewrite_card(opened, contents)
        return str(opened.path / "README.md")
    if output.exists() and not force:
        raise EdgeEmotionError(f"{output} exists; give --force to replace it, or another --output")
    check_results(opened, contents)
    text = write_readme(opened.manifest, model_files(opened.manifest), list(contents.values()))
    partial = output.with_name(output.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(output)
    return str(output)


def _read_result(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EdgeEmotionError(f"{path} cannot be read as a result ({error}); run its benchmark again") from error
    if not isinstance(found, dict):
        raise EdgeEmotionError(f"{path} is no result of a benchmark")
    return found


def _measured(result: Mapping[str, Any]) -> str | None:
    return result.get("bundle", {}).get("sha256")


def _figures_of(manifest: Manifest) -> list[str]:
    known = manifest.provenance.get("card", {}).get("figures_of")
    return [known] if known else []


def _about_lines(manifest: Manifest, sizes: Mapping[str, int]) -> list[str]:
    encoder, llm = manifest.encoder, manifest.llm
    return [
        f"- Labels: {', '.join(manifest.labels)}",
        f"- Audio: {encoder.sample_rate_hz} Hz mono, {encoder.min_window_s:g} to {encoder.max_window_s:g} s at a time",
        f"- Audio tokens: {encoder.summary_tokens} of the whole clip and {encoder.tokens_per_second:g} a second, "
        f"of width {encoder.embedding_dim}",
        f"- Language model: {llm.architecture} architecture, {llm.context_tokens} tokens of context",
        f"- Languages it was made for: {', '.join(manifest.languages)}",
        f"- Licence: {manifest.licence}",
        "",
        "| file | MB |",
        "|---|---|",
        *(f"| {name} | {size / 1e6:.1f} |" for name, size in sizes.items()),
        "",
    ]


def _use_lines() -> list[str]:
    """What it is for. The articles are those of Regulation (EU) 2024/1689."""
    return [
        "## What it is for, and what not",
        "",
        "It describes how a voice sounds: for research, for accessibility, for sorting recordings that somebody then",
        "listens to, for devices that answer in a fitting tone. What a voice sounds like is not what a person feels:",
        "use it to describe voices, not to judge people.",
        "",
        "Do not use it to decide about a person (hiring, credit, insurance, policing, health, asylum), to detect lies,",
        "or to watch people who do not know of it. In the European Union the AI Act forbids inferring emotions of",
        "people at work and in education, but for medical or safety reasons (article 5(1)(f)); elsewhere it counts",
        "emotion recognition as high-risk (annex III, 1(c)) and requires that people are told (article 50(3)). Whoever",
        "puts this model to use is responsible for that, and for the law of other countries.",
        "",
    ]


def _making_lines(provenance: Mapping[str, Any]) -> list[str]:
    config = provenance.get("config") or {}
    stages = ["supervised training of projector and language model on explanations whose claims were measured"] * bool(
        config
    )
    reinforced = provenance.get("grpo")
    if reinforced:
        steps = reinforced.get("steps")
        stages.append(
            "GRPO-PTR, reinforcement by rewards for form, answer and reasoning" + f", {steps} steps" * bool(steps)
        )
    lines = ["## How it was made", ""]
    lines += [f"{number}. {stage}" for number, stage in enumerate(stages, 1)]
    lines += [""] * bool(stages)
    if not reinforced and config:
        lines += ["It was not reinforced.", ""]
    held_out = config.get("test_speakers")
    if held_out:
        lines += [f"No training step, threshold or choice has heard the test speakers {', '.join(held_out)}.", ""]
    sources = provenance.get("sources") or {}
    if sources:
        lines += [
            "| made from | licence |",
            "|---|---|",
            *(f"| {name} | {terms} |" for name, terms in sources.items()),
            "",
        ]
    facts = {
        "optimiser steps": config.get("steps"),
        "seed": provenance.get("seed"),
        "commit": provenance.get("commit"),
        "SHA-256 of the data": provenance.get("data_sha256"),
    }
    known = [f"- {name}: {value}" for name, value in facts.items() if value not in (None, "")]
    return [*lines, *known, *([""] if known else [])]


def _calibration_lines(manifest: Manifest) -> list[str]:
    return [
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
    ]


def _limit_lines(manifest: Manifest, least_found: str | None) -> list[str]:
    sources = " ".join(manifest.provenance.get("sources") or {})
    return [
        "## Limits",
        "",
        *(
            [
                "- Its emotions were learned from a few actors, who spoke ten German sentences in a studio. Everyday",
                "  emotions are weaker and mixed; other languages, ages, accents and noise were not measured.",
            ]
            if "EmoDB" in sources
            else ["- What it was not measured on, it may get wrong: other languages, ages, accents and noise."]
        ),
        *([f"- {least_found}"] if least_found else []),
        "- It answers with one of its labels even where none fits; a low confidence is called uncertain, and no more.",
        "- Its reasons name what can be heard, and are checked against the signal one by one. That a statement is true",
        "  does not prove that the answer follows from it.",
        "",
    ]


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
