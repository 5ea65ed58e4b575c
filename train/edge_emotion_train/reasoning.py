"""Reasoning text from measured cues: what is heard first, then what it would suggest, never the emotion first.

The texts are the targets of the cold start. Their invariant is that `parse_claims` finds in them exactly the cues and
levels that were put in. Which phrase says a level depends on the generator alone, never on the emotion.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_emotion.cues import CUE_BY_NAME
from edge_emotion.wording import PHRASES

MIN_WORDS, MAX_WORDS = 15, 45
# Five long phrases and a long interpretation seldom fit together.
MOST_DRAFTS = 1000

# {0} is the surest cue; the rest is joined as "b, c and d". Every slot is the object of a verb, so any phrase fits.
_SKELETONS = (
    "I hear {all}.",
    "First I hear {first}, then {rest}.",
    "I notice {first}, along with {rest}.",
    "What I hear is {first}, together with {rest}.",
    "I hear {first}. I also notice {rest}.",
    "{First}, with {rest}: that is what I hear.",
)
_SKELETON_OF_ONE = ("I hear {all}.", "What I hear is {all}.", "{First}: that is what I hear.")
_FITTING = (
    "Taken together, this points to {names}.",
    "Together these cues point to {names}.",
    "All of this fits {names}.",
    "Such a way of speaking fits {names}.",
)
_UNSETTLED = (
    "These cues alone would suggest {names}, but the voice as a whole does not settle there.",
    "By themselves they would suggest {names}, but the voice does not settle there.",
    "Alone this would suggest {names}, yet the whole voice does not settle there.",
)
_OPEN = ("Nothing here points to one feeling alone.", "These cues alone do not point to one feeling.")
MOODS: Mapping[str, str] = {"neutral": "a neutral mood"}
"""How a text says an emotion where its name alone does not do."""


class CueEmotionTable:
    """Naive Bayes of the emotion given cue levels: what such cues alone would suggest.

    Emotions count as equally frequent whatever the corpus holds, and a cue that is missing says nothing.
    """

    def __init__(self, smoothing: float = 1.0) -> None:
        self.smoothing = smoothing
        self.labels: tuple[str, ...] = ()
        self._log_likelihood: dict[tuple[str, str], dict[str, float]] = {}

    def fit(self, levels: Sequence[Mapping[str, str]], labels: Sequence[str]) -> CueEmotionTable:
        """Count levels per emotion, with Laplace smoothing.

        Args:
            levels: Cue name to level, one mapping per clip; cues may be missing.
            labels: The emotion of each clip.
        """
        if len(levels) != len(labels) or not labels:
            raise ValueError(f"needs one label per clip and at least one clip, given {len(levels)} and {len(labels)}")
        self.labels = tuple(sorted(set(labels)))
        counts = Counter((label, *pair) for clip, label in zip(levels, labels, strict=True) for pair in clip.items())
        for cue in CUE_BY_NAME.values():
            for label in self.labels:
                total = sum(counts[label, cue.name, level] for level in cue.levels) + self.smoothing * len(cue.levels)
                for level in cue.levels:
                    share = (counts[label, cue.name, level] + self.smoothing) / total
                    self._log_likelihood.setdefault((cue.name, level), {})[label] = math.log(share)
        return self

    def log_likelihoods(self, cue: str, level: str) -> Mapping[str, float]:
        """Natural logarithm of how often each emotion has this level of this cue.

        Raises:
            ValueError: The cue or its level is unknown.
        """
        if (cue, level) not in self._log_likelihood:
            raise ValueError(f"unknown cue and level {(cue, level)}; cues are {', '.join(CUE_BY_NAME)}")
        return self._log_likelihood[cue, level]

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        likelihoods = [[cue, level, values] for (cue, level), values in self._log_likelihood.items()]
        return {"smoothing": self.smoothing, "labels": list(self.labels), "log_likelihoods": likelihoods}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CueEmotionTable:
        """Inverse of `to_dict`."""
        table = cls(float(data["smoothing"]))
        table.labels = tuple(data["labels"])
        table._log_likelihood = {(cue, level): dict(values) for cue, level, values in data["log_likelihoods"]}
        return table

    def rank(self, levels: Mapping[str, str]) -> list[tuple[str, float]]:
        """Emotions with their probabilities, the likeliest first.

        Raises:
            ValueError: `fit` was not called, or a cue or level is unknown.
        """
        if not self.labels:
            raise ValueError("fit the table before ranking")
        scores = dict.fromkeys(self.labels, 0.0)
        for cue, level in levels.items():
            for label, value in self.log_likelihoods(cue, level).items():
                scores[label] += value
        peak = max(scores.values())
        powers = {label: math.exp(score - peak) for label, score in scores.items()}
        total = sum(powers.values())
        return sorted(((label, power / total) for label, power in powers.items()), key=lambda pair: (-pair[1], pair[0]))


def write_reasoning(
    cue_levels: Mapping[str, str], candidates: tuple[str, ...], label: str, rng: np.random.Generator
) -> str:
    """One or two sentences on the cues and a clause on what they suggest; 15-45 words for 3 to 5 cues.

    Args:
        cue_levels: Cue name to level, in the order of the text; at least one.
        candidates: Emotions that such cues alone would suggest, the likeliest first; the first two are named.
        label: The true emotion; it is named only as one of the candidates.
        rng: Source of all variety.

    Raises:
        ValueError: No cue, or an unknown cue or level.
    """
    for cue, level in cue_levels.items():
        if level not in PHRASES.get(cue, {}):
            known = f"levels {', '.join(PHRASES[cue])}" if cue in PHRASES else f"cues {', '.join(PHRASES)}"
            raise ValueError(f"no wording for cue {cue!r} with level {level!r}; known {known}")
    if not cue_levels:
        raise ValueError("needs at least one cue to write of")
    drafts: list[str] = []
    while len(drafts) < MOST_DRAFTS:
        draft = f"{_describe(cue_levels, rng)} {_interpret(candidates[:2], label, rng)}"
        if MIN_WORDS <= len(draft.split()) <= MAX_WORDS:
            return draft
        drafts.append(draft)
    return min(drafts, key=lambda draft: max(MIN_WORDS - len(draft.split()), len(draft.split()) - MAX_WORDS))


def _describe(cue_levels: Mapping[str, str], rng: np.random.Generator) -> str:
    phrases = [pick(PHRASES[cue][level], rng) for cue, level in cue_levels.items()]
    skeleton = pick(_SKELETONS if len(phrases) > 1 else _SKELETON_OF_ONE, rng)
    first = phrases[0]
    return skeleton.format(
        all=join_phrases(phrases), first=first, First=first[0].upper() + first[1:], rest=join_phrases(phrases[1:])
    )


def _interpret(candidates: Sequence[str], label: str, rng: np.random.Generator) -> str:
    if not candidates:
        return pick(_OPEN, rng)
    names = " or ".join(MOODS.get(name, name) for name in candidates)
    return pick(_FITTING if label in candidates else _UNSETTLED, rng).format(names=names)


def join_phrases(phrases: Sequence[str]) -> str:
    """Phrases as "a, b and c"."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}" if phrases else ""


def pick(options: Sequence[str], rng: np.random.Generator) -> str:
    """One of the options, each as likely."""
    return options[int(rng.integers(len(options)))]
