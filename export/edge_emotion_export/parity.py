"""How close an artefact is to its parent, and the gates: what fails one is not written.

Pure NumPy on pairs (reference, candidate). The limits are stated here once; both go into the receipts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_emotion.errors import ExportError


@dataclass(frozen=True)
class Limit:
    """Bound of one figure: a distance may be at most this, a likeness must be `at_least` this; nan never holds."""

    value: float
    at_least: bool = False

    def holds(self, figure: float) -> bool:
        return bool(np.isfinite(figure)) and (figure >= self.value if self.at_least else figure <= self.value)


# fp32 and F32 are the same computation and must agree to rounding; the others must leave the answers as they were. GGUF
# files are named by their quantisation, ONNX files by `encoder` (left out) or `llm` and their precision.
LIMITS: Mapping[str, Mapping[str, Limit]] = {
    "fp32": {
        "embeddings_relative_max": Limit(1e-4),
        "emotion_logits_relative_max": Limit(1e-4),
        "label_agreement": Limit(1.0, at_least=True),
    },
    "int8": {"embeddings_cosine_min": Limit(0.99, at_least=True), "label_agreement": Limit(0.98, at_least=True)},
    # For TensorRT, against the fp32 encoder that they are made from.
    "fp16": {"embeddings_cosine_min": Limit(0.999, at_least=True), "label_agreement": Limit(0.98, at_least=True)},
    "int8-qdq": {"embeddings_cosine_min": Limit(0.99, at_least=True), "label_agreement": Limit(0.98, at_least=True)},
    "tokenizer": {"texts_equal": Limit(1.0, at_least=True)},
    "F32": {
        "logits_max": Limit(1e-4),
        "text_equal": Limit(1.0, at_least=True),
        "label_agreement": Limit(1.0, at_least=True),
    },
    "F16": {"logits_kl_max": Limit(1e-2), "label_agreement": Limit(0.98, at_least=True)},
    "Q8_0": {"logits_kl_mean": Limit(1e-2), "label_agreement": Limit(0.98, at_least=True)},
    "llm.tokenizer": {"texts_equal": Limit(1.0, at_least=True)},
    "llm.fp32": {
        "logits_max": Limit(1e-4),
        "text_equal": Limit(1.0, at_least=True),
        "label_agreement": Limit(1.0, at_least=True),
    },
    "llm.int8": {"logits_kl_mean": Limit(1e-2), "label_agreement": Limit(0.98, at_least=True)},
    "end_to_end": {"label_agreement": Limit(0.9, at_least=True)},
    # Speech models of full size: no head, and logits so far from 0 that rounding is told relative to them.
    "omni.fp32": {"embeddings_relative_max": Limit(1e-4)},
    "omni.fp16": {"embeddings_cosine_min": Limit(0.999, at_least=True)},
    "omni.int8": {"embeddings_cosine_min": Limit(0.99, at_least=True)},
    "omni.int8-qdq": {"embeddings_cosine_min": Limit(0.99, at_least=True)},
    "omni.F32": {
        "logits_relative_max": Limit(1e-4),
        "text_equal": Limit(1.0, at_least=True),
        "label_agreement": Limit(1.0, at_least=True),
    },
    # Adapters on the very weights they were trained on: exact on all of them in F32, and as they will run.
    "adapter.F32": {
        "logits_max": Limit(1e-4),
        "text_equal": Limit(1.0, at_least=True),
        "label_agreement": Limit(1.0, at_least=True),
    },
    "adapter": {"logits_kl_mean": Limit(1e-2), "label_agreement": Limit(0.95, at_least=True)},
    "Q6_K": {"logits_kl_mean": Limit(2e-2), "label_agreement": Limit(0.98, at_least=True)},
    "Q5_K_M": {"logits_kl_mean": Limit(5e-2), "label_agreement": Limit(0.95, at_least=True)},
    "Q4_K_M": {"logits_kl_mean": Limit(0.1), "label_agreement": Limit(0.95, at_least=True)},
    "IQ4_NL": {"logits_kl_mean": Limit(0.1), "label_agreement": Limit(0.95, at_least=True)},
    "llm.end_to_end": {"label_agreement": Limit(0.9, at_least=True)},
}


def max_abs(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Largest absolute difference; infinite where the shapes differ, nan where a value is."""
    if reference.shape != candidate.shape:
        return float("inf")
    return float(np.max(np.abs(reference.astype(np.float64) - candidate), initial=0.0))


def relative_max(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute value of the reference."""
    return max_abs(reference, candidate) / max(float(np.max(np.abs(reference), initial=0.0)), 1e-12)


def cosine_min(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Lowest cosine between corresponding rows of `(rows, dim)`; -1 where the shapes differ."""
    if reference.shape != candidate.shape:
        return -1.0
    left, right = reference.astype(np.float64), candidate.astype(np.float64)
    norms = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    return float(np.min((left * right).sum(axis=-1) / np.maximum(norms, 1e-12)))


def agreement(reference: Sequence[object], candidate: Sequence[object]) -> float:
    """Share of equal pairs, 0..1."""
    return sum(left == right for left, right in zip(reference, candidate, strict=True)) / len(reference)


def check(artefact: str, figures: Mapping[str, float]) -> None:
    """Holds an artefact to its limits.

    Raises:
        ExportError: Names every figure that is missing or outside its limit.
    """
    if failures := failed_limits(artefact, figures):
        raise ExportError(
            f"{artefact} is not like its parent ({'; '.join(failures)}), so nothing was written. "
            "Where the share of equal labels rests on few clips, give more with --clips."
        )


def failed_limits(artefact: str, figures: Mapping[str, float]) -> list[str]:
    """Every figure of an artefact that is missing or outside its limit, in words."""
    return [
        f"{name} is {figures.get(name, float('nan')):.3g}, must be {'>=' if limit.at_least else '<='} {limit.value:g}"
        for name, limit in LIMITS[artefact].items()
        if not limit.holds(figures.get(name, float("nan")))
    ]
