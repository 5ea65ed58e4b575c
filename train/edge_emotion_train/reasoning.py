"""Reasoning text from measured cues: what is heard first, then what it would suggest, never the emotion first.

The texts are the targets of the cold start. Their invariant is that `parse_claims` finds in them exactly the cues and
levels that were put in. Which phrase says a level depends on the generator alone, never on the emotion.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_emotion.cues import CUE_BY_NAME
from edge_emotion.wording import PHRASES

MIN_WORDS, MAX_WORDS = 15, 45

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
_MOODS = {"neutral": "a neutral mood"}


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

    def rank(self, levels: Mapping[str, str]) -> list[tuple[str, float]]:
        """Emotions with their probabilities, the likeliest first.

        Raises:
            ValueError: `fit` was not called, or a cue or level is unknown.
        """
        if not self.labels:
            raise ValueError("fit the table before ranking")
        scores = dict.fromkeys(self.labels, 0.0)
        for pair in levels.items():
            if pair not in self._log_likelihood:
                raise ValueError(f"unknown cue and level {pair}; cues are {', '.join(CUE_BY_NAME)}")
            for label, value in self._log_likelihood[pair].items():
                scores[label] += value
        peak = max(scores.values())
        powers = {label: math.exp(score - peak) for label, score in scores.items()}
        total = sum(powers.values())
        return sorted(((label, power / total) for label, power in powers.items()), key=lambda pair: (-pair[1], pair[0]))


def write_reasoning(
    cue_levels: Mapping[str, str], candidates: tuple[str, ...], label: str, rng: np.random.Generator
) -> str:
    """One or two sentences on the cues and a clause on what they suggest; 15-45 words for 3 to 6 cues.

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
    while len(drafts) < 32:
        draft = f"{_describe(cue_levels, rng)} {_interpret(candidates[:2], label, rng)}"
        if MIN_WORDS <= len(draft.split()) <= MAX_WORDS:
            return draft
        drafts.append(draft)
    return min(drafts, key=lambda draft: max(MIN_WORDS - len(draft.split()), len(draft.split()) - MAX_WORDS))


def variety_report(texts: Sequence[str]) -> dict[str, Any]:
    """How varied texts are.

    Returns:
        `distinct_1` and `distinct_2` (different words and word pairs per word and pair written), `identical_share`
        (share of sentences that occur more than once), `mean_words`, `vocabulary` (different words) and `texts`.
    """
    words = [re.findall(r"[\w'-]+", text.lower()) for text in texts]
    singles = [word for listed in words for word in listed]
    pairs = [pair for listed in words for pair in itertools.pairwise(listed)]
    sentences = [part.strip() for text in texts for part in re.split(r"(?<=[.!?])\s+", text) if part.strip()]
    counts = Counter(sentences)
    repeated = sum(count for count in counts.values() if count > 1)
    return {
        "texts": len(texts),
        "distinct_1": len(set(singles)) / max(1, len(singles)),
        "distinct_2": len(set(pairs)) / max(1, len(pairs)),
        "identical_share": repeated / max(1, len(sentences)),
        "mean_words": len(singles) / max(1, len(texts)),
        "vocabulary": len(set(singles)),
    }


def _describe(cue_levels: Mapping[str, str], rng: np.random.Generator) -> str:
    phrases = [_pick(PHRASES[cue][level], rng) for cue, level in cue_levels.items()]
    skeleton = _pick(_SKELETONS if len(phrases) > 1 else _SKELETON_OF_ONE, rng)
    first = phrases[0]
    return skeleton.format(all=_join(phrases), first=first, First=first[0].upper() + first[1:], rest=_join(phrases[1:]))


def _interpret(candidates: Sequence[str], label: str, rng: np.random.Generator) -> str:
    if not candidates:
        return _pick(_OPEN, rng)
    names = " or ".join(_MOODS.get(name, name) for name in candidates)
    return _pick(_FITTING if label in candidates else _UNSETTLED, rng).format(names=names)


def _join(phrases: Sequence[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}" if phrases else ""


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
