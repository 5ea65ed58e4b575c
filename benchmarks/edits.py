"""Edits of a recording: those that must move one claim in a known direction, and those that must move nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
import soxr

from edge_emotion.audio import SAMPLE_RATE_HZ, Audio, from_samples
from edge_emotion_train.augment import apply_gain, change_rate, pad_with_silence, shift_pitch

OTHER_RATE_HZ = 44_100


@dataclass(frozen=True)
class Counterfactual:
    """An edit of 16 kHz samples, the cue it moves, and whether to higher (1) or lower (-1) levels."""

    apply: Callable[[np.ndarray], Audio]
    cue: str
    direction: int


def _edited(edit: Callable[..., np.ndarray], *values: float) -> Callable[[np.ndarray], Audio]:
    return lambda samples: from_samples(edit(samples, *values), SAMPLE_RATE_HZ)


def _at_rate(samples: np.ndarray, rate_hz: int) -> Audio:
    """The recording at another rate; the product's own loader brings it back."""
    return from_samples(soxr.resample(samples, SAMPLE_RATE_HZ, rate_hz), rate_hz)


COUNTERFACTUALS: Mapping[str, Counterfactual] = MappingProxyType(
    {
        "pitch_plus_4_st": Counterfactual(_edited(shift_pitch, 4.0), "pitch", 1),
        "pitch_minus_4_st": Counterfactual(_edited(shift_pitch, -4.0), "pitch", -1),
        "rate_plus_25_percent": Counterfactual(_edited(change_rate, 1.25), "rate", 1),
        "rate_minus_25_percent": Counterfactual(_edited(change_rate, 0.75), "rate", -1),
    }
)
NULL_EDITS: Mapping[str, Callable[[np.ndarray], Audio]] = MappingProxyType(
    {
        "gain_plus_6_db": _edited(apply_gain, 6.0),
        "gain_minus_6_db": _edited(apply_gain, -6.0),
        "silence_200_ms_around": _edited(pad_with_silence, 0.2, 0.2),
        "to_44100_hz_and_back": partial(_at_rate, rate_hz=OTHER_RATE_HZ),
    }
)
EDITS: Mapping[str, Callable[[np.ndarray], Audio]] = MappingProxyType(
    {name: edit.apply for name, edit in COUNTERFACTUALS.items()} | dict(NULL_EDITS)
)
