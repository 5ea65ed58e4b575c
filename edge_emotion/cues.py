"""The acoustic cues an explanation may speak of: what each one measures, its levels, and how sure a measurement is.

One definition for the reasoning writer, the claim parser, the claim checker and the model's evidence heads. The
wording of each level lives in `wording.py`; the thresholds between levels are found in training and stored with the
bundle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

# A melody turns where it bends by this many semitones against both its ends: about the least that is heard as a turn.
LEAST_TURN_ST = 2.0


@dataclass(frozen=True)
class Cue:
    """One thing a listener can hear and a program can measure.

    Attributes:
        name: Key of the cue in thresholds, claims and results.
        measure: Name of the measure in `Prosody.measures`.
        unit: Unit of the measure.
        levels: Names of the levels, from low to high values of the measure.
        uncertainty: How far a measured value may be from the truth, on `scale`. A claim within it of a threshold is not
            contradicted.
        scale: `linear` in `unit`, or `semitones` (12 log2 of the ratio) where listeners hear ratios.
        fixed_cuts: Cut points that hold for every voice, because the level is no comparison with other voices; empty
            where it is one. They count only where `Thresholds` hold them.
        unknown_without_cuts: Why nothing can be said where `Thresholds` hold no cuts; empty for the plain reason.
    """

    name: str
    measure: str
    unit: str
    levels: tuple[str, ...]
    uncertainty: float
    scale: Literal["linear", "semitones"] = "linear"
    fixed_cuts: tuple[float, ...] = ()
    unknown_without_cuts: str = ""

    def position(self, value: float) -> float:
        """The value on the cue's own scale: itself, or semitones above 100 Hz."""
        return 12.0 * math.log2(value / 100.0) if self.scale == "semitones" else value


# Uncertainties are about the just noticeable difference of the quantity in running speech, and above what our measures
# differ from Praat's on real speech (`benchmarks/prosody_vs_praat.py`).
CUES: tuple[Cue, ...] = (
    Cue("pitch", "f0_median_hz", "Hz", ("very low", "low", "medium", "high", "very high"), 0.5, "semitones"),
    Cue("pitch_variation", "f0_std_st", "st", ("narrow", "moderate", "wide"), 0.25),
    Cue("pitch_slope", "f0_slope_st_per_s", "st/s", ("falling", "level", "rising"), 0.75),
    Cue("rate", "syllable_rate_per_s", "1/s", ("slow", "moderate", "fast"), 0.25),
    Cue("tone", "spectral_tilt_db", "dB", ("soft", "balanced", "sharp"), 0.75),
    Cue("clarity", "hnr_db", "dB", ("rough", "mixed", "clear"), 0.75),
    Cue("dynamics", "energy_std_db", "dB", ("even", "moderate", "strong"), 0.4),
    Cue("pauses", "pause_share", "1", ("none", "some", "many"), 0.02),
    # A turn is deep enough to be one, or there is none, whoever speaks (`prosody.contour_shape`).
    Cue(
        "pitch_turn",
        "f0_turn_st",
        "st",
        ("falling-rising", "straight", "rising-falling"),
        1.0,
        fixed_cuts=(-LEAST_TURN_ST, LEAST_TURN_ST),
    ),
    # Only against a speaker's own recordings of one gain, or a calibrated level.
    Cue(
        "loudness",
        "level_dbfs",
        "dBFS",
        ("quiet", "medium", "loud"),
        1.0,
        unknown_without_cuts="a recording does not tell how loud the voice was: the microphone's gain is unknown",
    ),
)
CUE_BY_NAME: Mapping[str, Cue] = {cue.name: cue for cue in CUES}
FIXED_CUTS: Mapping[str, tuple[float, ...]] = {cue.name: cue.fixed_cuts for cue in CUES if cue.fixed_cuts}


@dataclass(frozen=True)
class Thresholds:
    """Cut points between the levels of each cue, in the cue's unit, rising.

    Attributes:
        cuts: Cue name to `len(levels) - 1` rising values. A cue without cuts has no levels here and is never claimed.
        source: Where the cuts come from, for example "population: EmoDB training speakers" or "speaker".
    """

    cuts: Mapping[str, tuple[float, ...]]
    source: str

    def __post_init__(self) -> None:
        for name, cuts in self.cuts.items():
            cue = CUE_BY_NAME.get(name)
            if cue is None:
                raise ValueError(f"unknown cue {name!r}; known cues: {', '.join(CUE_BY_NAME)}")
            if len(cuts) != len(cue.levels) - 1 or list(cuts) != sorted(cuts):
                raise ValueError(f"cue {name!r} needs {len(cue.levels) - 1} rising cuts, given {tuple(cuts)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {"cuts": {name: list(cuts) for name, cuts in self.cuts.items()}, "source": self.source}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Thresholds:
        """Inverse of `to_dict`."""
        return cls(
            {name: tuple(float(cut) for cut in cuts) for name, cuts in data["cuts"].items()}, str(data["source"])
        )


def level_of(cue: Cue, value: float, thresholds: Thresholds) -> str:
    """The level a value falls in; a value on a cut belongs to the lower level."""
    return cue.levels[sum(value > cut for cut in thresholds.cuts[cue.name])]


def level_interval(cue: Cue, level: str, thresholds: Thresholds) -> tuple[float, float]:
    """Lowest and highest value of a level, infinite at the ends."""
    index = cue.levels.index(level)
    cuts = (-math.inf, *thresholds.cuts[cue.name], math.inf)
    return cuts[index], cuts[index + 1]


def distance_outside(cue: Cue, level: str, value: float, thresholds: Thresholds) -> float:
    """How far a value lies outside a level, on the cue's scale; 0 inside it."""
    low, high = level_interval(cue, level, thresholds)
    position = cue.position(value)
    below = 0.0 if math.isinf(low) else cue.position(low) - position
    above = 0.0 if math.isinf(high) else position - cue.position(high)
    return max(0.0, below, above)
