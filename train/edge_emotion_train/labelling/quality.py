"""How good a reasoning is, measured: the four dimensions of EmotionThinker's reward model, each 1 to 5.

The paper lets GPT-4o rewrite a text "at score 3" and believes it. Here the score is read off the text that resulted:

factual_alignment               share of the checkable claims that the recording supports
interpretative_quality          share of the statements on emotions that were not reversed
caption_completeness            share of the reference's cues that the text states, true or not
fluency_and_structural_clarity  share of word pairs left as they were before the text was disturbed

5 is all of it, 1 is below a quarter (fluency has bounds of its own: a text is broken long before all word pairs are).
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from edge_emotion.claims import Claim, check_claims, faithfulness, parse_claims
from edge_emotion.cues import Thresholds
from edge_emotion.prosody import Prosody

DIMENSIONS: tuple[str, ...] = (
    "factual_alignment",
    "interpretative_quality",
    "caption_completeness",
    "fluency_and_structural_clarity",
)
# Least share for the scores 2, 3 and 4; 5 takes a share of 1.
BANDS: Mapping[str, tuple[float, float, float]] = {
    "factual_alignment": (0.25, 0.5, 0.75),
    "interpretative_quality": (0.25, 0.5, 0.75),
    "caption_completeness": (0.25, 0.5, 0.75),
    "fluency_and_structural_clarity": (0.4, 0.65, 0.85),
}

# Nouns can stand for nouns and adjectives for adjectives. "a neutral mood" is what a noun is for the neutral.
NOUNS: Mapping[str, str] = {
    "anger": "anger", "boredom": "boredom", "disgust": "disgust", "fear": "fear", "happiness": "happiness",
    "neutral": "a neutral mood", "sadness": "sadness", "surprise": "surprise",
}  # fmt: skip
ADJECTIVES: Mapping[str, str] = {
    "anger": "angry", "boredom": "bored", "disgust": "disgusted", "fear": "fearful", "happiness": "happy",
    "neutral": "neutral", "sadness": "sad", "surprise": "surprised",
}  # fmt: skip
_OTHER_NOUNS = {"joy": "happiness", "neutrality": "neutral", "a neutral state": "neutral", "sorrow": "sadness"}
_OTHER_ADJECTIVES = {"afraid": "fear", "joyful": "happiness", "irritated": "anger", "anxious": "fear"}
_NOUN_OF = {name: emotion for emotion, name in NOUNS.items()} | _OTHER_NOUNS
_ADJECTIVE_OF = {name: emotion for emotion, name in ADJECTIVES.items()} | _OTHER_ADJECTIVES
_MENTION = re.compile(
    rf"(?<![\w-])({'|'.join(sorted(map(re.escape, (*_NOUN_OF, *_ADJECTIVE_OF)), key=len, reverse=True))})(?![\w-])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Mention:
    """An emotion that a text names.

    Attributes:
        emotion: One of `EMOTIONS`.
        start: First character.
        end: Character after its last.
        noun: Whether it stands as a noun.
    """

    emotion: str
    start: int
    end: int
    noun: bool


@dataclass(frozen=True)
class Yardstick:
    """What a text about one recording is measured against.

    Attributes:
        prosody: Measures of the recording.
        thresholds: Between the levels.
        cues: Cues that a complete text states: those of the reference.
    """

    prosody: Prosody
    thresholds: Thresholds
    cues: frozenset[str]


@functools.lru_cache(maxsize=4096)
def claims_of(text: str) -> tuple[Claim, ...]:
    """`parse_claims`, remembered: while a text is rewritten the same sentences are read again and again."""
    return parse_claims(text)


def stated_cues(text: str) -> frozenset[str]:
    """The cues that a text makes claims of."""
    return frozenset(claim.cue for claim in claims_of(text))


def find_mentions(text: str) -> list[Mention]:
    """Every emotion that a text names, in the order in which they stand; words inside acoustic claims are none."""
    claims = claims_of(text)
    found = []
    for match in _MENTION.finditer(text):
        name = match.group().lower()
        if any(claim.start < match.end() and match.start() < claim.end for claim in claims):
            continue
        noun = name in _NOUN_OF
        emotion = _NOUN_OF[name] if noun else _ADJECTIVE_OF[name]
        found.append(Mention(emotion, match.start(), match.end(), noun))
    return found


def supported_share(text: str, yardstick: Yardstick) -> float | None:
    """Share of the checkable claims that the recording supports; None where there is none."""
    return faithfulness(check_claims(claims_of(text), yardstick.prosody, yardstick.thresholds))


def stated_share(text: str, yardstick: Yardstick) -> float:
    """Share of the reference's cues that a text states, true or not."""
    return len(stated_cues(text) & yardstick.cues) / len(yardstick.cues) if yardstick.cues else 0.0


def kept_pairs(before: str, after: str) -> float:
    """How much of the order of words is left: Dice overlap of neighbouring words, 0..1; repetition lowers it too."""
    one, other = _pairs(before), _pairs(after)
    total = sum(one.values()) + sum(other.values())
    return 2.0 * sum((one & other).values()) / total if total else 1.0


def score(dimension: str, share: float | None) -> int:
    """The score of a share. A text that names no cue or no emotion at all earns the lowest."""
    if share is None:
        return 1
    return 5 if share >= 1.0 else 1 + sum(share >= bound for bound in BANDS[dimension])


def _pairs(text: str) -> Counter[tuple[str, str]]:
    """Neighbouring words, with the ends of sentences and the case of letters counting as the text has them."""
    tokens = re.findall(r"[\w'-]+|[.!?]", text)
    return Counter(pairwise(["", *tokens, ""]))


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with its end."""
    return [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]
