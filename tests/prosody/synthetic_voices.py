"""Synthetic voices for the prosody tests."""

from __future__ import annotations

import numpy as np

RATE_HZ = 16000


def voice(
    f0_hz: np.ndarray | float, duration_s: float, tilt_db_per_octave: float = -9.0, lowest_harmonic: int = 1
) -> np.ndarray:
    """Harmonic complex with a steady spectral slope; `f0_hz` is constant or (n,) per sample."""
    count = round(duration_s * RATE_HZ)
    frequency = np.broadcast_to(np.asarray(f0_hz, dtype=float), count)
    phase = 2.0 * np.pi * np.cumsum(frequency) / RATE_HZ
    highest = int(0.45 * RATE_HZ / frequency.max())
    tone = sum(
        10.0 ** (tilt_db_per_octave * np.log2(harmonic) / 20.0) * np.sin(harmonic * phase + 0.7 * harmonic**2)
        for harmonic in range(lowest_harmonic, highest + 1)
    )
    return (0.3 * tone / np.abs(tone).max()).astype(np.float32)


def silence(duration_s: float) -> np.ndarray:
    """Digital silence."""
    return np.zeros(round(duration_s * RATE_HZ), dtype=np.float32)


def syllables(count: int, per_second: float, f0_hz: float = 140.0) -> np.ndarray:
    """Vowels of two alternating qualities with soft dips between them, like syllables without pauses."""
    length = round(RATE_HZ / per_second)
    shape = 0.08 + 0.92 * np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 1.5
    tilts = (-6.0, -12.0)
    parts = [voice(f0_hz, length / RATE_HZ, tilts[index % 2]) * shape for index in range(count)]
    return np.concatenate(parts).astype(np.float32)
