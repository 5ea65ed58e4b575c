"""Linear evidence heads: what a frozen encoder says of a clip's emotion and cues, fitted in closed form in seconds.

A language model that trains on what the heads say of their own training clips learns to trust them blindly and to
memorise. It therefore trains on out-of-fold evidence: heads that never saw that clip's speaker.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from edge_emotion.cues import CUE_BY_NAME, Cue, Thresholds, level_interval

from .features import FeatureRow
from .labelling.calibrate import even_cuts
from .model import EvidenceHeads

# One-hot regression gives values near 0..1; as logits they need about this factor. The temperature is calibrated later.
EMOTION_SHARPNESS = 10.0


@dataclass(frozen=True)
class EvidenceFit:
    """Fitted heads and what is known of their errors.

    Attributes:
        cues: Cue names in the order of the rows below.
        mean: `(features,)` and `scale` `(features,)` standardise the statistics.
        cue_weights: `(cues, features)`; with `cue_bias` `(cues,)` they predict values standardised by `cue_mean` and
            `cue_scale`.
        emotion_weights: `(labels, features)`; with `emotion_bias` `(labels,)` give logits.
    """

    cues: tuple[str, ...]
    mean: np.ndarray
    scale: np.ndarray
    cue_mean: np.ndarray
    cue_scale: np.ndarray
    cue_weights: np.ndarray
    cue_bias: np.ndarray
    emotion_weights: np.ndarray
    emotion_bias: np.ndarray

    def predict(self, statistics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Standardised cue values `(n, cues)` and emotion logits `(n, labels)` of statistics `(n, features)`."""
        standardised = (statistics - self.mean) / self.scale
        return (
            standardised @ self.cue_weights.T + self.cue_bias,
            standardised @ self.emotion_weights.T + self.emotion_bias,
        )

    def module(self) -> EvidenceHeads:
        """The same heads as a torch module."""
        heads = EvidenceHeads(len(self.mean), len(self.cue_bias), len(self.emotion_bias))
        for target, values in (
            (heads.mean, self.mean),
            (heads.scale, self.scale),
            (heads.cues.weight, self.cue_weights),
            (heads.cues.bias, self.cue_bias),
            (heads.emotions.weight, self.emotion_weights),
            (heads.emotions.bias, self.emotion_bias),
        ):
            target.data.copy_(torch.from_numpy(np.asarray(values, dtype=np.float32)))
        return heads


def position_matrix(rows: Sequence[FeatureRow], cues: Sequence[str]) -> np.ndarray:
    """Measured positions `(n, cues)`, NaN where a cue was not measured reliably."""
    return np.array([[row.positions.get(cue, math.nan) for cue in cues] for row in rows], dtype=np.float64)


def kernel_of(statistics: np.ndarray) -> np.ndarray:
    """Inner products of standardised statistics over the number of features, float64 `(n, n)`.

    With fewer rows than features, ridge regression is solved among the rows; one kernel serves every fold.
    """
    standardised = _standardised(statistics)
    return (standardised @ standardised.T).astype(np.float64) / standardised.shape[1]


def fit_evidence(
    statistics: np.ndarray,
    rows: Sequence[FeatureRow],
    cues: Sequence[str],
    labels: Sequence[str],
    cue_penalty: float,
    emotion_penalty: float,
    emotion_corpora: Sequence[str] = ("emodb",),
) -> EvidenceFit:
    """Fits ridge regressions: the cues on every row, one-hot emotions on labelled speech (classes weighted equally).

    Args:
        statistics: `(n, features)` utterance statistics.
        rows: `n` descriptions with measured positions and emotions.
        cues: Cues to predict.
        labels: Emotions, in the order of the logits.
        cue_penalty: L2 penalty of the cue regressions, in units of the kernel's mean diagonal.
        emotion_penalty: The same for the emotions.
        emotion_corpora: Corpora whose labels train the emotion head.

    Raises:
        ValueError: A label has no training clip.
    """
    standardised = _standardised(statistics)
    solution = _solve(kernel_of(statistics), rows, cues, labels, cue_penalty, emotion_penalty, emotion_corpora)
    weights = solution.coefficients.T @ standardised / standardised.shape[1]
    count = len(cues)
    return EvidenceFit(
        tuple(cues),
        statistics.mean(axis=0),
        statistics.std(axis=0) + 1e-6,
        solution.cue_mean,
        solution.cue_scale,
        weights[:count],
        solution.bias[:count],
        weights[count:],
        solution.bias[count:],
    )


def out_of_fold_evidence(
    statistics: np.ndarray,
    rows: Sequence[FeatureRow],
    cues: Sequence[str],
    labels: Sequence[str],
    cue_penalty: float,
    emotion_penalty: float,
    folds: int = 8,
) -> tuple[np.ndarray, np.ndarray]:
    """Evidence of every row from heads that never saw its speaker.

    Returns:
        Standardised cue values `(n, cues)`, on the scale of a fit on all rows, and emotion logits `(n, labels)`.
    """
    fold_of = assign_folds(rows, folds)
    kernel = kernel_of(statistics)
    whole = position_matrix(rows, cues)
    values = np.zeros((len(rows), len(cues) + len(labels)))
    for fold in range(folds):
        held_out, train = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        if not len(held_out):
            continue
        solution = _solve(
            kernel[np.ix_(train, train)], [rows[i] for i in train.tolist()], cues, labels, cue_penalty, emotion_penalty
        )
        values[held_out] = kernel[np.ix_(held_out, train)] @ solution.coefficients + solution.bias
        own_scale = values[held_out, : len(cues)] * solution.cue_scale + solution.cue_mean
        values[held_out, : len(cues)] = (own_scale - np.nanmean(whole, axis=0)) / np.nanstd(whole, axis=0)
    return values[:, : len(cues)], values[:, len(cues) :]


@dataclass(frozen=True)
class _Solution:
    """Ridge solution among rows: outputs are `kernel @ coefficients + bias`, cues first, then emotion logits."""

    coefficients: np.ndarray
    bias: np.ndarray
    cue_mean: np.ndarray
    cue_scale: np.ndarray


def _solve(
    kernel: np.ndarray,
    rows: Sequence[FeatureRow],
    cues: Sequence[str],
    labels: Sequence[str],
    cue_penalty: float,
    emotion_penalty: float,
    emotion_corpora: Sequence[str] = ("emodb",),
) -> _Solution:
    positions = position_matrix(rows, cues)
    cue_mean, cue_scale = np.nanmean(positions, axis=0), np.nanstd(positions, axis=0)
    spoken = [row.emotion if row.corpus in emotion_corpora else None for row in rows]
    emotions = np.array([labels.index(emotion) if emotion in labels else -1 for emotion in spoken])
    counts = np.array([(emotions == index).sum() for index in range(len(labels))])
    if not counts.all():
        missing = [label for label, count in zip(labels, counts, strict=True) if not count]
        raise ValueError(
            f"no training clip for {', '.join(missing)}; every label needs some in {', '.join(emotion_corpora)}"
        )
    coefficients = np.zeros((len(rows), len(cues) + len(labels)))
    bias = np.zeros(len(cues) + len(labels))
    absent = np.isnan(positions)
    for pattern in list(np.unique(absent, axis=1).T):
        outputs, used = np.flatnonzero((absent == pattern[:, None]).all(axis=0)), np.flatnonzero(~pattern)
        targets = ((positions - cue_mean) / cue_scale)[np.ix_(used, outputs)]
        solved, offset = _ridge(kernel[np.ix_(used, used)], targets, np.ones(len(used)), cue_penalty)
        coefficients[np.ix_(used, outputs)], bias[outputs] = solved, offset
    used, outputs = np.flatnonzero(emotions >= 0), np.arange(len(cues), len(cues) + len(labels))
    targets = EMOTION_SHARPNESS * np.eye(len(labels))[emotions[used]]
    solved, offset = _ridge(kernel[np.ix_(used, used)], targets, 1.0 / counts[emotions[used]], emotion_penalty)
    coefficients[np.ix_(used, outputs)], bias[outputs] = solved, offset
    return _Solution(coefficients, bias, cue_mean, cue_scale)


def _ridge(
    kernel: np.ndarray, targets: np.ndarray, weights: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted ridge regression with a bias, solved in the dual: coefficients `(n, outputs)` and bias `(outputs,)`."""
    weights = weights / weights.mean()
    share = weights / weights.sum()
    row_mean = share @ kernel
    centred = kernel - row_mean - row_mean[:, None] + share @ row_mean
    target_mean = share @ targets
    dual = np.linalg.solve(centred + penalty * np.diag(1.0 / weights), targets - target_mean)
    # Centring moved the origin to the weighted mean of the rows; as `dual` sums to 0, the bias alone takes it back.
    return dual, target_mean - row_mean @ dual


def _standardised(statistics: np.ndarray) -> np.ndarray:
    return ((statistics - statistics.mean(axis=0)) / (statistics.std(axis=0) + 1e-6)).astype(np.float32)


def assign_folds(rows: Sequence[FeatureRow], folds: int) -> np.ndarray:
    """Fold number of each row: whole speakers, spread evenly within each corpus."""
    number: dict[tuple[str, str], int] = {}
    count: dict[str, int] = {}
    for row in rows:
        if (row.corpus, row.speaker) not in number:
            number[row.corpus, row.speaker] = count.get(row.corpus, 0) % folds
            count[row.corpus] = count.get(row.corpus, 0) + 1
    return np.array([number[row.corpus, row.speaker] for row in rows])


def residual_deviation(heard: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Root mean square difference `(cues,)` of heard and measured positions `(n, cues)`."""
    return np.sqrt(np.nanmean((heard - measured) ** 2, axis=0))


def fit_thresholds(rows: Sequence[FeatureRow], cues: Sequence[str], source: str) -> Thresholds:
    """Cut points at even quantiles of the recordings themselves (no variants) of a population of speech."""
    cuts = {}
    for name in cues:
        cue = CUE_BY_NAME[name]
        positions = [row.positions[name] for row in rows if row.variant == 0 and name in row.positions]
        cuts[name] = even_cuts(cue, positions)
    return Thresholds(cuts, source)


def support_probability(cue: Cue, level: str, position: float, deviation: float, thresholds: Thresholds) -> float:
    """Probability that a claim of this level would be supported, given a predicted position and its usual error."""
    low, high = (
        cue.position(bound) if math.isfinite(bound) else bound for bound in level_interval(cue, level, thresholds)
    )
    upper = _normal_cdf((high + cue.uncertainty - position) / deviation)
    return upper - _normal_cdf((low - cue.uncertainty - position) / deviation)


def _normal_cdf(value: float) -> float:
    return 0.5 * (1.0 + math.erf(value / math.sqrt(2.0)))
