"""What every audio encoder refuses before it runs, and checks after: the same on each runtime."""

from __future__ import annotations

import numpy as np

from edge_emotion.errors import AudioError, RuntimeUnavailableError

FEWEST_SAMPLES = 400  # one frame of the front end inside the graph


def check_samples(samples: object, fewest: int = FEWEST_SAMPLES, most: int | None = None) -> None:
    """Refuses what is not float32 samples `(n,)` at 16 kHz, finite, as many as the encoder takes.

    Raises:
        AudioError: Says what was given and what is needed.
    """
    if not isinstance(samples, np.ndarray) or samples.dtype != np.float32 or samples.ndim != 1:
        given = f"{samples.dtype} {samples.shape}" if isinstance(samples, np.ndarray) else type(samples).__name__
        raise AudioError(f"the encoder needs float32 samples of shape (n,), given {given}; use from_samples")
    if len(samples) < fewest:
        raise AudioError(f"{len(samples)} samples are too few; the encoder needs at least {fewest}")
    if most is not None and len(samples) > most:
        raise AudioError(f"{len(samples)} samples are too many; the encoder takes at most {most}: analyse in windows")
    if not np.isfinite(samples).all():
        raise AudioError("samples hold NaN or infinity; use from_samples, which replaces them")


def check_finite(name: str, where: str, *outputs: np.ndarray) -> None:
    """Refuses what a device computed wrongly.

    Raises:
        RuntimeUnavailableError: An output holds NaN or infinity.
    """
    if not all(np.isfinite(output).all() for output in outputs):
        raise RuntimeUnavailableError(
            f"{name} computed NaN or infinity on {where}; run `edge-emotion verify`, and choose another precision or "
            "provider"
        )
