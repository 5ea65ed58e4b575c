"""Syllables per second where the words are known: far surer than what can be heard of syllables in the signal.

English syllables are counted by hibari-tts's phonemes, other alphabets by their groups of vowel letters, Hangul and
Chinese by their characters. Where the script does not tell (Arabic, Hebrew, Japanese, digits), nothing is counted.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import replace

from edge_emotion.prosody import Measure

RATE = "syllable_rate_per_s"
ENOUGH_SPEECH_S = 0.5
# Faster or slower than anybody speaks: then the text is not what is said.
POSSIBLE_RATES_PER_S = (0.8, 12.0)
# Latin, Greek, Cyrillic.
_VOWELS = frozenset("aeiouyæøœ" + "αεηιουω" + "аеёиоуыэюяіїє")
_CYRILLIC = re.compile("[\u0400-\u04ff]")
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")


def rate_by_text(measures: Mapping[str, Measure], text: str, language: str | None) -> Measure | None:
    """The rate of speech by the syllables of its text; to take the place of `syllable_rate_per_s`.

    Args:
        measures: Of the recording, from `measure_prosody`.
        text: What is said in it, and nothing else.
        language: ISO 639 code; None where unknown.

    Returns:
        Syllables per second of speech. None where the syllables cannot be counted, too little is said, or nobody could
        have said that text in that time.
    """
    spoken_s, heard = measures["speech_duration_s"].value, measures[RATE]
    syllables = count_syllables(text, language)
    if not spoken_s or not syllables:
        return None
    rate = syllables / spoken_s
    if not POSSIBLE_RATES_PER_S[0] <= rate <= POSSIBLE_RATES_PER_S[1]:
        return None
    return replace(heard, value=rate, reliability=min(1.0, spoken_s / ENOUGH_SPEECH_S), reason=None)


def count_syllables(text: str, language: str | None) -> int | None:
    """Syllables of a text; None where its script does not tell them."""
    base = (language or "").split("-")[0].lower()
    if base == "ja" or any(_is_of(character, "HIRAGANA", "KATAKANA", "ARABIC", "HEBREW") for character in text):
        return None
    if base == "en":
        from edge_emotion_train.synthesis import syllable_count

        return syllable_count(text) or None
    if any(character.isdigit() for character in text):
        return None
    count = sum(_is_of(character, "HANGUL SYLLABLE", "CJK UNIFIED") for character in text)
    return count + sum(_vowel_groups(word) for word in _WORD.findall(text)) or None


def _is_of(character: str, *scripts: str) -> bool:
    return not character.isascii() and unicodedata.name(character, "").startswith(scripts)


def _vowel_groups(word: str) -> int:
    """Runs of vowel letters; in Cyrillic, which writes no vowel with two letters, vowel letters."""
    if _CYRILLIC.search(word):
        return sum(letter in _VOWELS for letter in unicodedata.normalize("NFC", word.lower()))
    letters = unicodedata.normalize("NFKD", word.lower())
    vowels = [letter in _VOWELS for letter in letters if not unicodedata.combining(letter)]
    return sum(vowel and not (index and vowels[index - 1]) for index, vowel in enumerate(vowels))
