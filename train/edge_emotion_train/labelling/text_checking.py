"""No text leaves a writer unless the recording bears it out: sentences that it does not are taken out, or the text is
refused.

A sentence goes when a claim in it is contradicted, when it claims what this recording does not let one measure, or when
it states another level of a cue than the text's other sentences and the measurement. Its words are not exchanged for
true ones: the sentence may argue from them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edge_emotion.claims import CheckedClaim, Claim, check_claims, parse_claims
from edge_emotion.cues import Thresholds
from edge_emotion.labels import EMOTIONS, names_of
from edge_emotion.prosody import Prosody
from edge_emotion_train import reasoning
from edge_emotion_train.labelling.records import Reasoning
from edge_emotion_train.variety import split_sentences

SIZES: Mapping[str, tuple[int, int]] = {"full": (50, 200), "nano": (reasoning.MIN_WORDS, reasoning.MAX_WORDS)}
"""Fewest and most words of each size of text."""
FEWEST_CUES: Mapping[str, int] = {"full": 4, "nano": 2}
"""How many different cues a text speaks of at least, where as many are reliable."""


@dataclass(frozen=True)
class CheckedText:
    """What the checker made of a text.

    Attributes:
        text: What is left of it.
        claims: Its claims; all are supported where there is no problem.
        removed: Each sentence taken out, and why.
        problem: Why the text is refused; None where it is accepted.
    """

    text: str
    claims: tuple[CheckedClaim, ...]
    removed: tuple[tuple[str, str], ...]
    problem: str | None

    def reasoning(self, writer: str, size: str) -> Reasoning:
        """The accepted text as a record keeps it."""
        claims = tuple(
            {
                "cue": item.claim.cue,
                "level": item.claim.level,
                "text": item.claim.text,
                "start": item.claim.start,
                "end": item.claim.end,
                "verdict": item.verdict,
            }
            for item in self.claims
        )
        return Reasoning(self.text, writer, size, claims, len(self.removed))


def check_text(
    text: str, prosody: Prosody, thresholds: Thresholds, emotion: str, size: str, reliable_cues: int
) -> CheckedText:
    """Check a text about a recording, and mend it by taking sentences out.

    Args:
        text: In English, without tags.
        prosody: Measures of the recording.
        thresholds: The cuts that the recording's levels were made with.
        emotion: The emotion that the text explains; it must not be named before something is heard.
        size: One of `SIZES`.
        reliable_cues: How many cues of the recording are reliable.
    """
    kept, removed = split_sentences(text), []
    while True:
        text = " ".join(kept)
        claims = check_claims(parse_claims(text), prosody, thresholds)
        fault = next(_faults(claims), None)
        if fault is None:
            break
        claim, reason = fault
        place = _sentence_at(kept, claim.claim.start)
        removed.append((kept.pop(place), f"\u201c{claim.claim.text}\u201d: {reason}"))
    problem = _problem(text, claims, emotion, size, reliable_cues)
    if problem and removed:
        problem += "; taken out before: " + "; ".join(reason for _, reason in removed)
    return CheckedText(text, claims, tuple(removed), problem)


def opens_with_label(text: str, emotion: str) -> bool:
    """Whether a text names the emotion, by any of its names, before its first acoustic statement."""
    return _named_before(text, emotion, parse_claims(text))


def _named_before(text: str, emotion: str, claims: Sequence[Claim]) -> bool:
    found = names_pattern(emotion).search(text)
    return found is not None and (not claims or found.start() < claims[0].start)


@functools.cache
def names_pattern(emotion: str) -> re.Pattern[str]:
    """Every name of an emotion, as a word of a text."""
    names = sorted(names_of(emotion) if emotion in EMOTIONS else (emotion,), key=len, reverse=True)
    return re.compile(r"\b(?:" + "|".join(re.escape(name.replace("_", " ")) for name in names) + r")\b", re.IGNORECASE)


def _faults(claims: tuple[CheckedClaim, ...]) -> Iterator[tuple[CheckedClaim, str]]:
    """Claims that cost their sentence, each with the reason; those that are wrong go before those that disagree."""
    for item in claims:
        if item.verdict != "supported":
            yield item, item.reason
    stated: dict[str, set[str]] = {}
    for item in claims:
        stated.setdefault(item.claim.cue, set()).add(item.claim.level)
    for item in claims:
        # Near a threshold two levels are within the uncertainty; a text must choose one.
        if len(stated[item.claim.cue]) > 1 and item.claim.level != item.measured_level:
            yield item, f"the text also says that the {item.claim.cue} is {item.measured_level}, as measured"


def _sentence_at(sentences: list[str], offset: int) -> int:
    for place, sentence in enumerate(sentences):
        if offset <= len(sentence):
            return place
        offset -= len(sentence) + 1
    return len(sentences) - 1


def _problem(text: str, claims: tuple[CheckedClaim, ...], emotion: str, size: str, reliable_cues: int) -> str | None:
    words, cues = len(text.split()), len({item.claim.cue for item in claims})
    fewest, most = SIZES[size]
    fewest_cues = min(FEWEST_CUES[size], reliable_cues)
    if cues < fewest_cues:
        return f"it states {cues} measured cues, at least {fewest_cues} are needed"
    if not fewest <= words <= most:
        return f"it has {words} words, {fewest} to {most} are allowed"
    if _named_before(text, emotion, [item.claim for item in claims]):
        return f"it names {emotion} before anything that is heard"
    return None
