"""Can the emotion be read off a reasoning without what it says was heard?

A model that is trained on such texts would learn sentences instead of listening. The test masks every acoustic
statement and every name of an emotion, and lets a text classifier guess the rest, on speakers it was not fitted on.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_emotion.claims import parse_claims
from edge_emotion.labels import EMOTIONS, names_of
from edge_emotion.metrics import bootstrap_interval, unweighted_average_recall
from edge_emotion.wording import PHRASES
from edge_emotion_train.labelling.phrasebook import CLAUSES, REFERENCES

FOLDS = 5
WORD_NGRAMS = (1, 3)


@dataclass(frozen=True)
class Guessing:
    """How well a text classifier guesses the emotion.

    Attributes:
        uar: Unweighted average recall over all speakers, each guessed by a classifier that did not know them.
        interval_95: Bootstrap interval over speakers.
        chance: UAR of guessing without the text.
        texts: Number of texts.
    """

    uar: float
    interval_95: tuple[float, float]
    chance: float
    texts: int

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        low, high = self.interval_95
        return {
            "uar": round(self.uar, 4),
            "interval_95": [round(low, 4), round(high, 4)],
            "chance": round(self.chance, 4),
            "texts": self.texts,
        }


def mask_emotions(text: str) -> str:
    """The text with every name of an emotion replaced by the same word."""
    return _emotion_names().sub("EMOTION", text)


def mask_cues(text: str) -> str:
    """The text with every phrase of our writers for a cue, and every other claim, replaced by the same word."""
    masked = bytearray(len(text))
    for match in _cue_phrases().finditer(text):
        masked[match.start() : match.end()] = b"\1" * (match.end() - match.start())
    for claim in parse_claims(text):
        masked[claim.start : claim.end] = b"\1" * (claim.end - claim.start)
    runs = itertools.groupby(zip(text, masked, strict=True), key=lambda pair: pair[1])
    return "".join("CUE" if hidden else "".join(character for character, _ in run) for hidden, run in runs)


def mask_quotations(text: str) -> str:
    """The text with everything in quotation marks replaced by the same word."""
    return re.sub('\u201c[^\u201d]*\u201d|"[^"]*"', "WORDS", text)


def guess_emotion(
    texts: Sequence[str], emotions: Sequence[str], speakers: Sequence[str], folds: int = FOLDS, seed: int = 0
) -> Guessing:
    """Guess the emotion from texts alone: word 1- to 3-grams, logistic regression, folds of speakers.

    Args:
        texts: Masked or not.
        emotions: The emotion of each.
        speakers: The speaker of each; nobody is in two folds.
        folds: Number of folds, at most the number of speakers.
        seed: Of the bootstrap.

    Raises:
        ValueError: There are fewer than two speakers or emotions.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline

    classes = sorted(set(emotions))
    if len(set(speakers)) < 2 or len(classes) < 2:
        raise ValueError(f"needs two speakers and emotions, given {len(set(speakers))} and {len(classes)}")
    truth, groups = np.array(emotions, dtype=object), np.array(speakers, dtype=object)
    guesses = np.empty_like(truth)
    for known, unknown in GroupKFold(min(folds, len(set(speakers)))).split(texts, truth, groups):
        model = make_pipeline(
            TfidfVectorizer(ngram_range=WORD_NGRAMS, sublinear_tf=True, min_df=2, token_pattern=r"[\w'-]+|[.,:;?!]"),
            LogisticRegression(class_weight="balanced", max_iter=500),
        )
        model.fit([texts[index] for index in known], truth[known])
        guesses[unknown] = model.predict([texts[index] for index in unknown])
    interval = bootstrap_interval(unweighted_average_recall, truth, guesses, groups=groups, seed=seed)
    return Guessing(unweighted_average_recall(truth, guesses), interval, 1.0 / len(classes), len(texts))


@functools.cache
def _cue_phrases() -> re.Pattern[str]:
    phrases = {phrase for levels in PHRASES.values() for listed in levels.values() for phrase in listed}
    phrases |= {phrase for table in (CLAUSES, REFERENCES) for listed in table.values() for phrase in listed}
    return _alternatives(phrases)


@functools.cache
def _emotion_names() -> re.Pattern[str]:
    return _alternatives({"a neutral mood", *(name.replace("_", " ") for name in EMOTIONS for name in names_of(name))})


def _alternatives(phrases: set[str]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, phrases), key=len, reverse=True))})\b", re.IGNORECASE)
