"""Figures of merit in plain NumPy, with scikit-learn's argument order: truth first.

Labels may be strings or integers. None as a prediction (no answer) counts as wrong, never as missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def accuracy(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Share of predictions that are right, 0..1."""
    true, guess = _pair(truth, predicted)
    return float(np.mean(true == guess))


def unweighted_average_recall(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Mean of the recalls of the classes that occur in `truth`, 0..1; also called balanced accuracy."""
    true, guess = _pair(truth, predicted)
    return float(np.mean([np.mean(guess[true == label] == label) for label in _classes(true)]))


def macro_f1(truth: ArrayLike, predicted: ArrayLike, labels: Sequence[Any] | None = None) -> float:
    """Mean F1 over `labels`, 0..1; by default over every class that occurs in truth or prediction."""
    true, guess = _pair(truth, predicted)
    if labels is None:
        labels = [label for label in _classes(np.concatenate([true, guess])) if label is not None]
    scores = []
    for label in labels:
        hits = np.sum((true == label) & (guess == label))
        total = np.sum(true == label) + np.sum(guess == label)
        scores.append(2.0 * hits / total if total else 0.0)
    return float(np.mean(scores))


def confusion_matrix(truth: ArrayLike, predicted: ArrayLike, labels: Sequence[Any]) -> NDArray[np.int64]:
    """Counts (labels, labels): row is the truth, column the prediction.

    A prediction outside `labels` is in no column, so a row sums to less than its class where answers are missing.
    """
    true, guess = _pair(truth, predicted)
    counts = [[np.sum((true == row) & (guess == column)) for column in labels] for row in labels]
    return np.array(counts, dtype=np.int64)


def concordance_correlation(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Lin's concordance correlation coefficient with population moments, -1..1; nan where both are one constant."""
    true, guess = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if true.shape != guess.shape or true.ndim != 1 or not true.size:
        raise ValueError(f"needs two equally long, non-empty vectors, given shapes {true.shape} and {guess.shape}")
    spread = true.var() + guess.var() + (true.mean() - guess.mean()) ** 2
    if spread == 0.0:
        return float("nan")
    return float(2.0 * np.mean((true - true.mean()) * (guess - guess.mean())) / spread)


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equally wide bins of the highest probability, 0..1.

    Args:
        probabilities: (clips, classes), rows summing to 1.
        labels: (clips,) index of the true class.
        bins: Number of bins.
    """
    chances, true = _scores(probabilities, labels)
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == true
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = [abs(np.sum(right[place == index]) - np.sum(confidence[place == index])) for index in range(bins)]
    return float(np.sum(gaps) / len(true))


def softmax(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities over the last axis; a higher temperature makes them flatter.

    Raises:
        ValueError: The temperature is not above 0.
    """
    if not temperature > 0.0:
        raise ValueError(f"temperature must be above 0, given {temperature}")
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature in 0.05..20 that makes held-out labels most likely (Guo et al. 2017).

    Args:
        logits: (clips, classes).
        labels: (clips,) index of the true class.
    """
    values, true = _scores(logits, labels)
    rows = np.arange(len(true))

    def loss(log_temperature: float) -> float:
        scaled = values / np.exp(log_temperature)
        peak = scaled.max(axis=1)
        return float(np.mean(peak + np.log(np.exp(scaled - peak[:, None]).sum(axis=1)) - scaled[rows, true]))

    # The loss is convex in 1 / temperature, so it has one minimum on the logarithm too: golden section finds it.
    low, high, ratio = np.log(0.05), np.log(20.0), (np.sqrt(5.0) - 1.0) / 2.0
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    left_loss, right_loss = loss(left), loss(right)
    while high - low > 1e-6:
        if left_loss <= right_loss:
            high, right, right_loss = right, left, left_loss
            left = high - ratio * (high - low)
            left_loss = loss(left)
        else:
            low, left, left_loss = left, right, right_loss
            right = low + ratio * (high - low)
            right_loss = loss(right)
    return float(np.exp((low + high) / 2.0))


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: ArrayLike,
    groups: ArrayLike | None = None,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic(*arrays)`.

    Args:
        statistic: Function of the resampled arrays.
        *arrays: Equally long arrays, resampled together along their first axis.
        groups: One group per row, for example speakers: whole groups are drawn, because clips of one speaker are alike.
        samples: Number of resamples.
        seed: Seed of the resampling.
        level: Share of resamples inside the interval.
    """
    data = [_column(array) for array in arrays]
    if not data or len({len(column) for column in data}) != 1 or not len(data[0]):
        raise ValueError(f"needs equally long, non-empty arrays, given lengths {[len(column) for column in data]}")
    rows = np.arange(len(data[0]))
    units = [rows[i : i + 1] for i in rows] if groups is None else _group_rows(groups, len(rows))
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(samples):
        drawn = rng.integers(len(units), size=len(units))
        chosen = drawn if groups is None else np.concatenate([units[i] for i in drawn])
        values.append(statistic(*(column[chosen] for column in data)))
    low, high = np.nanquantile(values, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def _group_rows(groups: ArrayLike, rows: int) -> list[NDArray[np.intp]]:
    names = _column(groups)
    if len(names) != rows:
        raise ValueError(f"groups must name one group per row: {len(names)} names for {rows} rows")
    return [np.flatnonzero(names == name) for name in _classes(names)]


def _column(values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    # NumPy's string arrays would turn None into a label; objects keep it apart.
    return array.astype(object) if array.dtype.kind in "US" else array


def _classes(values: NDArray[Any]) -> list[Any]:
    return list(dict.fromkeys(values.tolist()))


def _pair(truth: ArrayLike, predicted: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    true, guess = _column(truth), _column(predicted)
    if true.shape != guess.shape or true.ndim != 1 or not true.size:
        raise ValueError(f"needs two equally long, non-empty lists, given shapes {true.shape} and {guess.shape}")
    return true.astype(object), guess.astype(object)


def _scores(values: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    scores, true = np.asarray(values, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 2 or not scores.size or true.shape != scores.shape[:1] or true.dtype.kind not in "iu":
        raise ValueError(f"needs (clips, classes) values and (clips,) indices, given {scores.shape} and {true.shape}")
    if true.min() < 0 or true.max() >= scores.shape[1]:
        raise ValueError(f"class indices must lie in 0..{scores.shape[1] - 1}, given {true.min()}..{true.max()}")
    return scores, true.astype(np.intp)
