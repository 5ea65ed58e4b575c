"""Making a reasoning worse in one way at a time: false levels, cues left out, reversed interpretation, broken text.

Works on any text: what our own writers say is exchanged phrase for phrase, what others say by the lexicon of the claim
grammar. Every change is checked by the claim parser, and one that does more than it should is not made.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from edge_emotion.claims import Claim
from edge_emotion.wording import DEGREES, EXPRESSIONS, EXTREMES, PHRASES, SUBJECTS
from edge_emotion_train.labelling.phrasebook import CLAUSES, REFERENCES
from edge_emotion_train.labelling.quality import (
    ADJECTIVES,
    NOUNS,
    Mention,
    claims_of,
    find_mentions,
    kept_pairs,
    sentences,
)

_JOINT = re.compile(r",? and |, ")
_DEGREE = re.compile(rf"\b(?:{EXTREMES}|{DEGREES})\s+", re.IGNORECASE)
PLAIN_WORDS = 3  # the lexicon lists the plainest words of a level first
MOST_BATCHES = 60
MOST_BROKEN = 0.15


class Phrase(NamedTuple):
    """A phrase of our own writers, where it stands in a text."""

    start: int
    end: int
    cue: str
    level: str
    alternatives: Mapping[str, Sequence[str]]
    index: int


# --- factual alignment -----------------------------------------------------------------------------------------------


def restate(text: str, cue: str, level: str, rng: np.random.Generator) -> str | None:
    """The text with every claim of a cue saying another level, all else as it was; None where that cannot be said."""
    for _ in range(len(claims_of(text)) + 1):
        claims = claims_of(text)
        wrong = next((i for i, claim in enumerate(claims) if claim.cue == cue and claim.level != level), None)
        if wrong is None:
            return text
        wanted = [(c.cue, level if i == wrong else c.level) for i, c in enumerate(claims)]
        options = list(_restatements(text, claims[wrong], level))
        order = rng.permutation(len(options))
        fitting = (options[i] for i in order if [(c.cue, c.level) for c in claims_of(options[i])] == wanted)
        changed = next(fitting, None)
        if changed is None:
            return None
        text = changed
    return None


def _restatements(text: str, claim: Claim, level: str) -> Iterator[str]:
    for phrase in find_phrases(text):
        if phrase.cue == claim.cue and phrase.start <= claim.start and claim.end <= phrase.end:
            says = phrase.alternatives.get(level, ())
            if says:
                yield _replaced(text, phrase.start, phrase.end, says[phrase.index % len(says)])
                return
    bare, new = claim.level.removeprefix("very "), level.removeprefix("very ")
    prefix = "very " if level.startswith("very ") else ""
    # "quite very high" is no English, and "very" of the old level must not stay with the new one.
    said = _DEGREE.sub("", claim.text) if prefix or claim.level != bare else claim.text
    for words in _lexicon():
        for old_word in sorted(words.get((claim.cue, bare), ()), key=len, reverse=True):
            match = re.search(rf"(?<![\w]){re.escape(old_word)}(?![\w])", said.replace("-", " "), re.IGNORECASE)
            if match is None:
                continue
            for new_word in words.get((claim.cue, new), ())[:PLAIN_WORDS]:
                changed = f"{said[: match.start()]}{prefix}{new_word}{said[match.end() :]}"
                yield _with_article(text[: claim.start], changed) + text[claim.end :]


@functools.cache
def _lexicon() -> tuple[dict[tuple[str, str], tuple[str, ...]], ...]:
    """Groups of words that can stand in the same place: qualities of one subject, predicates of one subject."""
    groups = [group for subject in SUBJECTS for group in (subject.adjectives, subject.predicates)]
    return tuple(
        {meaning: tuple(listed.split("|")) for meaning, listed in group.items()} for group in (*groups, EXPRESSIONS)
    )


def _with_article(before: str, after: str) -> str:
    """`a` or `an`, whichever the next word takes."""
    match = re.search(r"\b(an?) $", before, re.IGNORECASE)
    if match:
        article = "an" if after[:1].lower() in "aeiou" else "a"
        before = before[: match.start()] + (article.capitalize() if match.group()[0].isupper() else article) + " "
    return before + after


# --- phrases of our own writers --------------------------------------------------------------------------------------


def find_phrases(text: str) -> list[Phrase]:
    """Phrases of our own writers, in the order in which they stand; the longest at each place."""
    pattern, meanings = _own_phrases()
    return [Phrase(match.start(), match.end(), *meanings[match.group().lower()]) for match in pattern.finditer(text)]


@functools.cache
def _own_phrases() -> tuple[re.Pattern[str], dict[str, tuple[str, str, Mapping[str, Sequence[str]], int]]]:
    tables: list[dict[str, dict[str, tuple[str, ...]]]] = [
        {cue: dict(levels) for cue, levels in PHRASES.items()},
        *(
            {cue: {level: says for (name, level), says in table.items() if name == cue} for cue, _ in table}
            for table in (CLAUSES, REFERENCES)
        ),
    ]
    meanings: dict[str, tuple[str, str, Mapping[str, Sequence[str]], int]] = {
        phrase: (cue, level, levels, index)
        for table in tables
        for cue, levels in table.items()
        for level, says in levels.items()
        for index, phrase in enumerate(says)
    }
    longest_first = sorted(map(re.escape, meanings), key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(longest_first)})(?![\w-])", re.IGNORECASE), meanings


def _replaced(text: str, start: int, end: int, phrase: str) -> str:
    """A phrase that began a sentence begins it still."""
    first = phrase[0].upper() if text[start].isupper() else phrase[0]
    return f"{text[:start]}{first}{phrase[1:]}{text[end:]}"


# --- completeness ----------------------------------------------------------------------------------------------------


def drop_cues(text: str, cues: Collection[str]) -> str | None:
    """The text without what it says of these cues; None if nothing is left.

    From lists of our own writers single items are taken; otherwise the whole sentence goes, with whatever else it says.
    """
    left = [changed for sentence in sentences(text) if (changed := _drop_from(sentence, cues))]
    return " ".join(left) or None


def _drop_from(sentence: str, cues: Collection[str]) -> str | None:
    unwanted = [claim for claim in claims_of(sentence) if claim.cue in cues]
    if not unwanted:
        return sentence
    for run in reversed(_runs(sentence)):
        kept = [phrase for phrase in run if phrase.cue not in cues]
        if len(kept) == len(run):
            continue
        if not kept:
            return None
        said = [sentence[phrase.start : phrase.end] for phrase in kept]
        lower = [said[0][0].lower() + said[0][1:], *said[1:]]
        joined = lower[0] if len(lower) == 1 else f"{', '.join(lower[:-1])} and {lower[-1]}"
        sentence = _replaced(sentence, run[0].start, run[-1].end, joined)
    return None if any(claim.cue in cues for claim in claims_of(sentence)) else sentence


def _runs(sentence: str) -> list[list[Phrase]]:
    """Lists of phrases: "a, b and c"."""
    runs: list[list[Phrase]] = []
    for phrase in find_phrases(sentence):
        if runs and _JOINT.fullmatch(sentence[runs[-1][-1].end : phrase.start]):
            runs[-1].append(phrase)
        else:
            runs.append([phrase])
    return runs


# --- interpretation --------------------------------------------------------------------------------------------------


def reverse_interpretation(text: str, count: int, truth: str, unlikely: Sequence[str], rng: np.random.Generator) -> str:
    """Turn round `count` of the statements on emotions.

    The conclusion is one of them like the others, so that the score does not come down to whether the end is right.

    Where a sentence weighs the true emotion against another, the two change places; elsewhere emotions that little
    speaks for take the place of those named.

    Args:
        text: The reasoning.
        count: How many of the `interpretations(text)`.
        truth: The true emotion.
        unlikely: Emotions that the measured cues make unlikely, the least likely first; at least one.
        rng: Chooses which.
    """
    parts = sentences(text)
    found = [(index, some) for index, part in enumerate(parts) for some in _statements(part)]
    chosen = [found[i] for i in rng.permutation(len(found))[:count]]
    for index in {index for index, _ in chosen}:
        which = {place for place_index, some in chosen if place_index == index for place in some}
        parts[index] = _reversed(parts[index], which, truth, unlikely)
    return " ".join(parts)


def interpretations(text: str) -> int:
    """How many statements on emotions a text makes: one a sentence that names any, but two in "anger or fear"."""
    return sum(len(_statements(part)) for part in sentences(text))


def _statements(sentence: str) -> list[tuple[int, ...]]:
    """Each statement as the places of its mentions among those of the sentence."""
    mentions = find_mentions(sentence)
    if not mentions:
        return []
    if _side_by_side(sentence, mentions):
        return [(place,) for place in range(len(mentions))]
    return [tuple(range(len(mentions)))]


def _reversed(sentence: str, which: Collection[int], truth: str, unlikely: Sequence[str]) -> str:
    mentions = find_mentions(sentence)
    named = list(dict.fromkeys(mentions[place].emotion for place in sorted(which)))
    swap = {emotion: unlikely[place % len(unlikely)] for place, emotion in enumerate(named)}
    if len(named) == 2 and truth in named and not _side_by_side(sentence, mentions):
        swap = {named[0]: named[1], named[1]: named[0]}
    for place in sorted(which, reverse=True):
        mention = mentions[place]
        name = (NOUNS if mention.noun else ADJECTIVES)[swap[mention.emotion]]
        name = name[0].upper() + name[1:] if sentence[mention.start].isupper() else name
        sentence = _with_article(sentence[: mention.start], name) + sentence[mention.end :]
    return sentence


def _side_by_side(sentence: str, mentions: Sequence[Mention]) -> bool:
    """ "anger or fear": to exchange them would change nothing."""
    return any(
        one.emotion != other.emotion and re.fullmatch(r",? (?:or|and) ", sentence[one.end : other.start])
        for one, other in pairwise(mentions)
    )


# --- fluency ---------------------------------------------------------------------------------------------------------


def disturb(text: str, lowest: float, highest: float, rng: np.random.Generator) -> str | None:
    """Break a text until the share of its word pairs that are left lies in `lowest..highest`; claims and emotions stay.

    Words are swapped, doubled and left out, sentences lose their end or are said again, and change places.

    Returns:
        None if no sequence of disturbances came to lie there.
    """
    before, said = text, _said(text)
    parts = _units(text)
    if lowest <= 0.7 <= highest and rng.random() < 0.3:
        again = f"{text} {text}"
        return again if lowest <= kept_pairs(before, again) < highest else None
    batch = len(parts)
    # Texts of one score shall not all be broken to the same degree.
    enough = rng.uniform(max(lowest, MOST_BROKEN), highest)
    for _ in range(MOST_BATCHES):
        share = kept_pairs(before, _joined(parts))
        if share < enough:
            return _joined(parts)
        changed = parts
        # A disturbance costs about three word pairs; the batch that overshoots or breaks a claim is halved.
        for _ in range(max(1, min(batch, int((share - lowest) * len(parts) / 3.0)))):
            changed = _disturbed(changed, rng)
        if kept_pairs(before, _joined(changed)) >= lowest and _said(_joined(changed)) == said:
            parts = changed
        else:
            batch = max(1, batch // 2)
    return _joined(parts) if lowest <= kept_pairs(before, _joined(parts)) < highest else None


def _said(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    return (
        sorted((claim.cue, claim.level) for claim in claims_of(text)),
        sorted(mention.emotion for mention in find_mentions(text)),
    )


def _units(text: str) -> list[str]:
    """Words, marks, and whole claims and emotions, which must not be torn apart."""
    whole = [
        *((claim.start, claim.end) for claim in claims_of(text)),
        *((m.start, m.end) for m in find_mentions(text)),
    ]
    units, at = [], 0
    for start, end in sorted(whole):
        units += re.findall(r"[\w'-]+|[^\w\s]", text[at:start])
        units.append(text[start:end])
        at = end
    return units + re.findall(r"[\w'-]+|[^\w\s]", text[at:])


def _joined(units: Sequence[str]) -> str:
    spaced = re.sub(r"\s+([^\w\s\"'(\u201c\u2018])", r"\1", " ".join(units))
    return re.sub(r"([(\u201c\u2018])\s+", r"\1", spaced)


def _disturbed(units: list[str], rng: np.random.Generator) -> list[str]:
    units, at = list(units), int(rng.integers(max(1, len(units) - 1)))
    kind = rng.choice(("swap", "double", "omit", "move"), p=(0.45, 0.15, 0.25, 0.15))
    if kind == "swap" and at + 1 < len(units):
        units[at], units[at + 1] = units[at + 1], units[at]
    elif kind == "double" and " " not in units[at]:
        units.insert(at, units[at])
    elif kind == "omit" and len(units) > 8 and " " not in units[at]:
        del units[at]
    elif kind == "move":
        units.insert(int(rng.integers(len(units))), units.pop(at))
    return units
