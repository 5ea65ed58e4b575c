"""Replays the golden clips of a bundle on this device and compares every tap with the reference.

`golden.npz` holds, for clip i, `clip{i}_waveform`, `clip{i}_embeddings`, `clip{i}_emotion_logits`,
`clip{i}_first_logits` (after the prompt) and `clip{i}_text` (greedy thinking, at most `max_think_tokens` long where
that is given); an encoder without an emotion head has no `emotion_logits`. The language model is given the
reference's embeddings, not this device's, so that a wrong tap names the half that is wrong. The exporter measures with
the same functions; `manifest.receipts["golden"]["tolerances"]` holds tap -> {variant: tolerance}.
"""

from __future__ import annotations

import difflib
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_emotion.bundle import Bundle, load_bundle, verify_files
from edge_emotion.errors import BundleError, RuntimeUnavailableError
from edge_emotion.metrics import softmax

if TYPE_CHECKING:
    from edge_emotion.prompt import Prompt
    from edge_emotion_runtimes.interfaces import AudioEncoder, LanguageModel

GOLDEN_NAME = "golden.npz"
# How each tap is compared; all are 0 for equal values and grow with the difference.
METRICS: Mapping[str, str] = {
    "embeddings": "relative error",
    "emotion_logits": "largest change of a probability",
    "first_logits": "KL divergence, nats",
    "text": "share of words that differ",
}
ENCODER_TAPS = ("embeddings", "emotion_logits")


@dataclass(frozen=True)
class Tap:
    """One comparison with the reference: how far off, and how far off it may be."""

    clip: int
    name: str
    metric: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; never for a difference that is not a number."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Report:
    """What a replay found; `encoder` and `llm` are the variants that ran."""

    bundle: str
    encoder: str
    llm: str
    taps: tuple[Tap, ...]

    @property
    def passed(self) -> bool:
        """Whether every tap passed."""
        return all(tap.passed for tap in self.taps)

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; a difference that is not finite becomes null."""
        taps = [
            asdict(tap) | {"difference": tap.difference if np.isfinite(tap.difference) else None, "passed": tap.passed}
            for tap in self.taps
        ]
        return {
            "bundle": self.bundle, "encoder": self.encoder, "llm": self.llm, "passed": self.passed, "taps": taps,
        }  # fmt: skip


def verify_bundle(
    bundle: str | Bundle = "nano",
    encoder: str = "auto",
    llm: str = "auto",
    base: str | os.PathLike[str] | None = None,
    open_encoder: Callable[[Path], AudioEncoder] | None = None,
) -> Report:
    """Loads both models of a bundle and replays its golden clips.

    Args:
        bundle: Name, folder, or an opened bundle.
        encoder: Precision of the encoder; "auto" takes the bundle's preferred one.
        llm: Quantisation of the language model, or a runtime, whose first variant is taken; "auto" takes the bundle's
            preferred one.
        base: File or folder of the base language model of a bundle that holds adapters; None looks where it is
            usually found.
        open_encoder: Opens the encoder's file; by default ONNX Runtime on the processor does.

    Raises:
        BundleError: A file differs from the manifest, the bundle has no golden clips or tolerances, or its base model
            is missing.
        RuntimeUnavailableError: A runtime is not installed here.
    """
    from edge_emotion_runtimes.language_models import open_variant

    if open_encoder is None:
        from edge_emotion_runtimes.onnx_encoder import OnnxEncoder as open_encoder

    opened = bundle if isinstance(bundle, Bundle) else load_bundle(bundle, verify=False)
    manifest = opened.manifest
    encoder_path = opened.encoder_path(None if encoder == "auto" else encoder)
    variant = opened.llm_variant(None if llm == "auto" else llm)
    precision = next(v.precision for v in manifest.encoder.variants if opened.path / v.file == encoder_path)
    quantisation = variant.quantisation
    used = [encoder_path.relative_to(opened.path).as_posix(), variant.file]
    verify_files(opened.path, manifest, [*(name for file in used for name in opened.files_of(file)), GOLDEN_NAME])
    with (
        closing(open_encoder(encoder_path)) as audio_encoder,
        closing(open_variant(opened, variant, base=base)) as language_model,
    ):
        taps = replay(opened, audio_encoder, language_model, precision, quantisation)
    return Report(manifest.name, precision, quantisation, taps)


def replay(
    bundle: Bundle, encoder: AudioEncoder, llm: LanguageModel | None, precision: str, quantisation: str | None
) -> tuple[Tap, ...]:
    """Compares loaded models with the reference on every golden clip.

    Args:
        bundle: What they were loaded from.
        encoder: Its encoder.
        llm: Its language model; None compares the encoder alone. What it holds is forgotten.
        precision: The encoder's variant, which has tolerances of its own.
        quantisation: The language model's variant.

    Raises:
        BundleError: The bundle has no golden clips or tolerances.
    """
    golden = read_golden(bundle)
    names = [name for name in _taps(bundle) if llm or name in ENCODER_TAPS]
    variants = {name: precision if name in ENCODER_TAPS else str(quantisation) for name in names}
    tolerances = {name: _tolerance(bundle, name, variant) for name, variant in variants.items()}
    return tuple(
        Tap(clip, name, METRICS[name], difference, tolerances[name])
        for clip, name, difference in measure_taps(golden, encoder, llm, bundle.manifest.prompt)
    )


def self_check(
    bundle: Bundle, encoder: AudioEncoder, llm: LanguageModel | None, precision: str, quantisation: str | None
) -> dict[str, float]:
    """Replays the golden clips and refuses to go on where this device computes something else.

    Returns:
        `taps` compared, `seconds` it took, and `worst`: the largest difference as a share of its tolerance.

    Raises:
        RuntimeUnavailableError: A tap is off; names the half that is wrong.
        BundleError: The bundle has no golden clips or tolerances.
    """
    start = time.perf_counter()
    taps = replay(bundle, encoder, llm, precision, quantisation)
    if llm:
        llm.reset()
    wrong = [tap for tap in taps if not tap.passed]
    if wrong:
        halves = {"encoder" if tap.name in ENCODER_TAPS else "language model" for tap in wrong}
        first = wrong[0]
        raise RuntimeUnavailableError(
            f"self-check: this device computes something else than the reference: {len(wrong)} of {len(taps)} taps of "
            f"the {' and the '.join(sorted(halves))} are off, the first is {first.name} of clip {first.clip} "
            f"({first.metric} {first.difference:.2e}, at most {first.tolerance:.2e}). Choose another variant, runtime "
            "or device; `edge-emotion verify --report FILE` tells which are right here"
        )
    worst = max((tap.difference / tap.tolerance for tap in taps if tap.tolerance), default=0.0)
    return {"taps": len(taps), "seconds": round(time.perf_counter() - start, 3), "worst": round(worst, 4)}


def read_golden(bundle: Bundle) -> dict[str, np.ndarray]:
    """The arrays of `golden.npz`.

    Raises:
        BundleError: It is missing, damaged or incomplete.
    """
    path = bundle.path / GOLDEN_NAME
    try:
        with np.load(path, allow_pickle=False) as archive:
            golden = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise BundleError(f"{path} is missing: this bundle cannot be verified; export it again") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} cannot be read ({error}); export the bundle again") from None
    count = _clip_count(golden)
    missing = [f"clip{i}_{name}" for i in range(count) for name in _taps(bundle) if f"clip{i}_{name}" not in golden]
    if not count or missing:
        raise BundleError(f"{path} lacks {', '.join(missing) or 'clips'}; export the bundle again")
    return golden


def measure_taps(
    golden: Mapping[str, np.ndarray], encoder: AudioEncoder, llm: LanguageModel | None, prompt: Prompt
) -> Iterator[tuple[int, str, float]]:
    """How far the models are from the reference: clip, tap and difference (see `METRICS`), one after the other."""
    longest = int(golden.get("max_think_tokens", prompt.max_think_tokens))
    prompt = replace(prompt, max_think_tokens=min(longest, prompt.max_think_tokens))
    for clip in range(_clip_count(golden)):
        reference = {name: golden[f"clip{clip}_{name}"] for name in METRICS if f"clip{clip}_{name}" in golden}
        output = encoder.encode(golden[f"clip{clip}_waveform"].astype(np.float32))
        yield clip, "embeddings", relative_error(output.embeddings, reference["embeddings"])
        if "emotion_logits" in reference:
            given = output.emotion_logits if output.emotion_logits is not None else np.empty(0)
            yield clip, "emotion_logits", probability_change(given, reference["emotion_logits"])
        if llm is None:
            continue
        first_logits, text = think(llm, prompt, reference["embeddings"].astype(np.float32))
        yield clip, "first_logits", divergence(reference["first_logits"], first_logits)
        yield clip, "text", word_difference(text, str(reference["text"]))


def think(llm: LanguageModel, prompt: Prompt, embeddings: np.ndarray) -> tuple[np.ndarray, str]:
    """Logits after the prompt `(vocabulary,)` and the greedy thinking, for embeddings `(tokens, dim)`."""
    llm.reset()
    llm.prefill([llm.tokenize(prompt.before_audio), embeddings, llm.tokenize(prompt.after_audio)])
    logits = llm.logits()
    # A tag of several tokens ends nothing here: reference and model then both write on.
    stop = {ids[0] for text in prompt.stop if len(ids := llm.tokenize(text)) == 1}
    return logits, "".join(token.text for token in llm.stream(prompt.max_think_tokens, stop))


def relative_error(measured: np.ndarray, reference: np.ndarray) -> float:
    """Norm of the difference over the norm of the reference; infinite where the shapes differ."""
    if measured.shape != reference.shape:
        return float("inf")
    reference = reference.astype(np.float64)
    return float(np.linalg.norm(measured - reference) / np.linalg.norm(reference))


def probability_change(measured: np.ndarray, reference: np.ndarray) -> float:
    """Largest change of a probability (0..1); infinite where the shapes differ."""
    if measured.shape != reference.shape:
        return float("inf")
    return float(np.abs(softmax(measured) - softmax(reference)).max())


def divergence(reference: np.ndarray, measured: np.ndarray) -> float:
    """Kullback-Leibler divergence in nats between the distributions of two rows of logits `(vocabulary,)`."""
    if measured.shape != reference.shape:
        return float("inf")
    log_p, log_q = _log_softmax(reference), _log_softmax(measured)
    # Rounding may leave a sum just below zero.
    return float(np.maximum(np.sum(np.exp(log_p) * (log_p - log_q)), 0.0))


def word_difference(measured: str, reference: str) -> float:
    """Share of words that two texts do not have in common, in order: 0 for equal texts, 1 for nothing in common."""
    return 1.0 - difflib.SequenceMatcher(None, measured.split(), reference.split(), autojunk=False).ratio()


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def _taps(bundle: Bundle) -> list[str]:
    return [name for name in METRICS if name != "emotion_logits" or "head" in bundle.manifest.calibration]


def _clip_count(golden: Mapping[str, np.ndarray]) -> int:
    return sum(name.startswith("clip") and name.endswith("_waveform") for name in golden)


def _tolerance(bundle: Bundle, tap: str, variant: str) -> float:
    try:
        return float(bundle.manifest.receipts["golden"]["tolerances"][tap][variant])
    except (KeyError, TypeError, ValueError):
        raise BundleError(
            f"bundle {bundle.manifest.name!r} says no tolerance of {tap} for {variant} (receipts.golden.tolerances); "
            "export it again with this version"
        ) from None
