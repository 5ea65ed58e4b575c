"""When each word of a known text is spoken: forced alignment by pocketsphinx, offline.

Its package holds an acoustic model of American English and no other language: there, and only there, word times can be
found. Words that its dictionary lacks are spelled in phones by hibari-tts.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge_emotion.speech import SAMPLE_RATE_HZ
from edge_emotion_train.labelling.records import Word

if TYPE_CHECKING:
    from pocketsphinx import Decoder

LANGUAGES = ("en",)
FRAME_S = 0.01
# The model's states make each phone last 3 frames at least. A text that was not said is squeezed to that; words of one
# or two phones are that short anyway.
SQUEEZED_FRAMES_PER_PHONE = 3.5
LONG_WORD_PHONES = 3
MOST_SQUEEZED = 0.25
# A word and the mark after it: apostrophes and hyphens within a word belong to it.
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
# Symbols of hibari-tts's phonemes to those of the dictionary; stress and length marks are left out.
_PHONES = {
    "A": "EY", "I": "AY", "O": "OW", "W": "AW", "Y": "OY", "a": "AA", "i": "IY", "u": "UW", "\u00e6": "AE",
    "\u0251": "AA", "\u0252": "AA", "\u0250": "AH", "\u0254": "AO", "\u0259": "AH", "\u1d4a": "AH", "\u025b": "EH",
    "\u025a": "ER", "\u025c": "ER", "\u025d": "ER", "\u026a": "IH", "\u1d7b": "IH", "\u028a": "UH", "\u1d7f": "UH",
    "\u028c": "AH", "b": "B", "d": "D", "f": "F", "h": "HH", "j": "Y", "k": "K", "l": "L", "m": "M", "n": "N",
    "p": "P", "s": "S", "t": "T", "v": "V", "w": "W", "z": "Z", "\u0261": "G", "g": "G", "\u014b": "NG",
    "\u0279": "R", "\u027e": "T", "\u0283": "SH", "\u0292": "ZH", "\u02a4": "JH", "\u02a7": "CH", "\u00f0": "DH",
    "\u03b8": "TH", "\u0294": "T",
}  # fmt: skip


@dataclass(frozen=True)
class Alignment:
    """Words in time.

    Attributes:
        words: With times, in the order of speech; None where they cannot be found.
        reason: Why there are none; None where there are.
    """

    words: tuple[Word, ...] | None
    reason: str | None = None


def align_words(samples: np.ndarray, text: str, language: str | None) -> Alignment:
    """Find when each word of a text is spoken; about 40 times faster than the speech.

    Args:
        samples: (n,) float32 at 16 kHz, finite.
        text: What is said, and nothing else.
        language: ISO 639 code, of which only English can be aligned; None where unknown.
    """
    if language is None or language.split("-")[0].lower() not in LANGUAGES:
        given = "of unknown language" if language is None else f"in {language!r}"
        return Alignment(None, f"no acoustic model for speech {given}; pocketsphinx brings English only")
    texts = [match.group() for match in _WORD.finditer(text)]
    if not texts:
        return Alignment(None, "the text has no words")
    if not np.any(samples):
        return Alignment(None, "the recording is silent")
    decoder = _decoder()
    spoken = [_known(decoder, word.lower().replace("\u2019", "'")) for word in texts]
    if None in spoken:
        return Alignment(None, f"no pronunciation for {texts[spoken.index(None)]!r}")
    segments = _segments(decoder, samples, [word for word in spoken if word])
    if segments is None or len(segments) != len(texts):
        return Alignment(None, "the text does not fit the recording: no path through all words")
    squeezed = [
        end - start <= SQUEEZED_FRAMES_PER_PHONE * phones
        for start, end, phones in segments
        if phones >= LONG_WORD_PHONES
    ]
    if sum(squeezed) > max(1, MOST_SQUEEZED * len(squeezed)):
        return Alignment(None, f"the text does not fit the recording: {sum(squeezed)} words are squeezed to nothing")
    return Alignment(
        tuple(
            Word(text, round(start * FRAME_S, 2), round(end * FRAME_S, 2))
            for text, (start, end, _) in zip(texts, segments, strict=True)
        )
    )


@functools.cache
def _decoder() -> Decoder:
    from pocketsphinx import Decoder  # reads its model

    return Decoder(samprate=SAMPLE_RATE_HZ, lm=None, loglevel="FATAL", bestpath=False)


def _segments(decoder: Decoder, samples: np.ndarray, spoken: list[str]) -> list[tuple[int, int, int]] | None:
    """First frame, frame after the last, and number of phones of each word; None without a path through all."""
    peak = float(np.max(np.abs(samples)))
    # The mean of the features is carried from one recording to the next: without this, order would matter.
    decoder.reinit_feat()
    decoder.set_align_text(" ".join(spoken))
    decoder.start_utt()
    decoder.process_raw((samples / peak * 32000.0).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    found = decoder.seg()
    if found is None:
        return None
    return [
        (item.start_frame, item.end_frame + 1, len((decoder.lookup_word(item.word) or "").split()))
        for item in found
        if not item.word.startswith(("<", "["))
    ]


def _known(decoder: Decoder, word: str) -> str | None:
    """The word as the decoder's dictionary has it, added if need be; None if it cannot be pronounced."""
    if decoder.lookup_word(word):
        return word
    from edge_emotion_train.synthesis import phonemes_of

    try:
        phones = [_PHONES[symbol] for symbol in phonemes_of(word) if symbol in _PHONES]
    except Exception:  # whatever a stranger's grapheme-to-phoneme code cannot read is a word without pronunciation
        return None
    if not phones:
        return None
    decoder.add_word(word, " ".join(phones), update=True)
    return word
