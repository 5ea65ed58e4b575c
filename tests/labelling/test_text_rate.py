"""Syllables of a text, and the rate that follows."""

from __future__ import annotations

import pytest

from edge_emotion.prosody import Measure
from edge_emotion_train.labelling.text_rate import count_syllables, rate_by_text


@pytest.mark.parametrize(
    ("text", "language", "syllables"),
    [
        ("Der Lappen liegt auf dem Eisschrank.", "de", 8),
        ("Was sind denn das für Tüten, die da unter dem Tisch stehen?", "de", 15),
        ("Was sind denn das fu\u0308r Tu\u0308ten, die da unter dem Tisch stehen?", "de", 15),
        ("Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.", "de-DE", 20),
        ("The kitchen window was broken", "en", 8),
        ("She was late at 9", "en", 5),
        ("Привет, какой дом?", "ru", 5),
        ("你好世界", "zh", 4),
        ("안녕하세요", "ko", 5),
        ("NASA", None, 2),
    ],
)
def test_syllables_are_counted(text: str, language: str | None, syllables: int):
    assert count_syllables(text, language) == syllables


@pytest.mark.parametrize(
    ("text", "language"),
    [("", "de"), ("um 9 Uhr", "de"), ("こんにちは", None), ("東京", "ja"), ("مرحبا", "ar"), ("…!", "fr")],
)
def test_what_the_script_does_not_tell_is_not_counted(text: str, language: str | None):
    assert count_syllables(text, language) is None


def measures(speech_s: float | None) -> dict[str, Measure]:
    return {
        "speech_duration_s": Measure("speech_duration_s", speech_s, "s", 0.1, 2.1, 1.0),
        "syllable_rate_per_s": Measure("syllable_rate_per_s", None, "1/s", 0.1, 2.1, 0.0, "no syllable nucleus found"),
    }


def test_rate_is_syllables_per_second_of_speech():
    rate = rate_by_text(measures(2.0), "Der Lappen liegt auf dem Eisschrank.", "de")
    assert rate == Measure("syllable_rate_per_s", 4.0, "1/s", 0.1, 2.1, 1.0, None)


@pytest.mark.parametrize("speech_s", [None, 0.0, 0.3, 60.0])
def test_no_rate_without_speech_or_when_nobody_could_have_said_it(speech_s: float | None):
    assert rate_by_text(measures(speech_s), "Der Lappen liegt auf dem Eisschrank.", "de") is None


def test_a_very_short_utterance_is_less_reliable():
    rate = rate_by_text(measures(0.25), "Ja.", "de")
    assert rate is not None
    assert rate.reliability == pytest.approx(0.5)
