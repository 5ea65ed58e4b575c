"""Calibration of scores on speakers that were not trained on: a straight line per dimension, within 1..5.

A line, not the steps of isotonic regression: where a step is flat, a policy that becomes a little better earns nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LinearRegression


@dataclass(frozen=True)
class Calibration:
    """`slope * score + intercept`, within 1..5; the slope is above 0."""

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return np.clip(self.slope * scores + self.intercept, 1.0, 5.0)


def fit_calibration(predicted: np.ndarray, target: np.ndarray) -> tuple[Calibration, ...]:
    """One line per dimension by least squares; none where scores of unseen speakers do not rise with the targets.

    Args:
        predicted: `(n, dimensions)`.
        target: `(n, dimensions)`.
    """
    found = []
    for column, truth in zip(predicted.T, target.T, strict=True):
        line = LinearRegression().fit(column[:, None], truth)
        slope = float(line.coef_[0])
        found.append(Calibration(slope, float(line.intercept_)) if slope > 0 else Calibration())
    return tuple(found)


def calibrated(scores: np.ndarray, calibration: Sequence[Calibration]) -> np.ndarray:
    """Scores `(n, dimensions)` on the calibrated scale."""
    return np.stack([line(column) for line, column in zip(calibration, scores.T, strict=True)], axis=1)
