"""Reasons to be uncertain: each on its own, and none for ordinary speech."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_emotion.prosody import UNITS, Contour, Measure, Prosody
from edge_emotion_runtimes.doubts import find_doubts

SPEECH = {
    "voiced_share": 0.6,
    "syllable_rate_per_s": 4.5,
    "speech_duration_s": 2.0,
    "duration_s": 2.3,
    "f0_std_st": 3.0,
    "energy_std_db": 9.0,
    "snr_db": 30.0,
}
ANSWER: dict[str, Any] = {
    "label": "anger",
    "confidence": 0.9,
    "abstain_below": 0.4,
    "head_label": "anger",
    "min_speech_s": 0.5,
}


def prosody(**values: float | None) -> Prosody:
    known = SPEECH | values
    measures = {name: Measure(name, known.get(name), unit, 0.0, 2.0, 1.0) for name, unit in UNITS.items()}
    return Prosody(measures, Contour(np.zeros(0), np.zeros(0), np.zeros(0)))


def test_ordinary_speech_raises_none():
    assert find_doubts([prosody()], **ANSWER) == ()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"speech_duration_s": 0.4, "syllable_rate_per_s": 6.0}, "only 0.40 s of speech; at least 0.50 s are needed"),
        ({"voiced_share": 0.01}, "hardly any voiced speech"),
        ({"voiced_share": None}, "hardly any voiced speech"),
        ({"f0_std_st": 0.01}, "a tone or a machine"),
        ({"energy_std_db": 0.3}, "a tone or a machine"),
        ({"syllable_rate_per_s": 0.5}, "fewer than two syllables"),
        ({"syllable_rate_per_s": None}, "fewer than two syllables"),
        ({"snr_db": 4.0}, "noisy"),
    ],
)
def test_each_measure_raises_its_doubt_alone(values, reason):
    doubts = find_doubts([prosody(**values)], **ANSWER)
    assert len(doubts) == 1
    assert reason in doubts[0]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"confidence": 0.39}, "confidence 0.39 is below 0.40"),
        ({"head_label": "fear"}, "the encoder alone hears fear, the language model anger"),
    ],
)
def test_each_part_of_the_answer_raises_its_doubt_alone(answer, reason):
    assert find_doubts([prosody()], **ANSWER | answer) == (reason,)


def test_most_of_the_recording_decides():
    noisy, clear = prosody(snr_db=3.0, duration_s=2.0), prosody(duration_s=5.0)
    assert find_doubts([noisy, clear], **ANSWER) == ()
    assert find_doubts([noisy, noisy, noisy, clear], **ANSWER) != ()


def test_without_a_label_the_skipped_parts_are_the_reason():
    answer = ANSWER | {"label": None, "head_label": None, "confidence": 0.0}
    skipped = ["no speech", "too short", "no speech"]
    assert find_doubts([], **answer, skipped=skipped) == ("nothing was analysed: no speech, too short",)
    assert find_doubts([], **answer) == ("nothing was analysed: no speech",)
