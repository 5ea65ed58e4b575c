"""Records of what was measured: each measure with unit, time span, reliability, and a reason where it has no value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

UNITS: Mapping[str, str] = MappingProxyType(
    {
        "f0_median_hz": "Hz",
        "f0_p5_hz": "Hz",
        "f0_p95_hz": "Hz",
        "f0_range_st": "st",
        "f0_std_st": "st",
        "f0_slope_st_per_s": "st/s",
        "f0_turn_st": "st",
        "f0_turn_position": "1",
        "voiced_share": "1",
        "level_dbfs": "dBFS",
        "energy_std_db": "dB",
        "syllable_rate_per_s": "1/s",
        "pause_share": "1",
        "pause_count": "1",
        "spectral_tilt_db": "dB",
        "jitter_local": "1",
        "shimmer_local": "1",
        "hnr_db": "dB",
        "snr_db": "dB",
        "duration_s": "s",
        "speech_duration_s": "s",
    }
)


@dataclass(frozen=True)
class Measure:
    """One measured quantity.

    Attributes:
        name: One of `UNITS`.
        value: Value in `unit`; None where it cannot be measured.
        unit: Unit, "1" for a ratio or count.
        start_s: Start of the stretch that it describes.
        end_s: End of that stretch.
        reliability: 0 (none) to 1; at least 0.5 means that a claim may be checked against it.
        reason: Why there is no value; None where there is one.
    """

    name: str
    value: float | None
    unit: str
    start_s: float
    end_s: float
    reliability: float
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "reliability": self.reliability,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Contour:
    """Pitch and intensity over time.

    Attributes:
        times_s: (frames,) middle of each 10 ms frame.
        f0_hz: (frames,) NaN where unvoiced or not speech.
        intensity_db: (frames,) dB re full scale, -150 outside the speech.
    """

    times_s: np.ndarray
    f0_hz: np.ndarray
    intensity_db: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; None where unvoiced."""
        return {
            "times_s": [round(float(time), 3) for time in self.times_s],
            "f0_hz": [None if math.isnan(f0) else round(float(f0), 2) for f0 in self.f0_hz],
            "intensity_db": [round(float(level), 2) for level in self.intensity_db],
        }


@dataclass(frozen=True)
class Prosody:
    """Everything measured in one stretch of audio: `measures` by name, and the contour."""

    measures: Mapping[str, Measure]
    contour: Contour

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "measures": {name: measure.to_dict() for name, measure in self.measures.items()},
            "contour": self.contour.to_dict(),
        }
