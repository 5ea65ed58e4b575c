"""A small grammar over the lexicon of `wording.py` that finds the acoustic statements of a text.

It knows qualities before a noun ("a high, rough voice"), after a verb ("the pitch is quite high"), predicates ("the
melody falls") and expressions without a noun ("monotone"). It works on words and dictionaries, because one large
regular expression would take seconds to compile at every start. It prefers missing a statement to inventing one: what
is denied, ambiguous ("low to medium") or said of the start or end only is dropped.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edge_emotion import wording
from edge_emotion.cues import CUE_BY_NAME

Meaning = tuple[str, str]
"""Cue and level."""


@dataclass(frozen=True)
class Statement:
    """One level of one cue, said at the characters `start` to `end`; statements of one text never overlap."""

    cue: str
    level: str
    start: int
    end: int


def find_statements(text: str) -> list[Statement]:
    """Every acoustic statement of a text, in the order in which they stand; never raises."""
    words = _split(text)
    units = [unit for rule in _rules() for unit in rule.units(words)]
    claimed = bytearray(len(text))
    statements: list[Statement] = []
    for unit, items in _owners(units, len(text)):
        for cue, level, start, end in _spans(unit, items, claimed):
            statements.append(Statement(cue, level, start, end))
            claimed[start:end] = b"\1" * (end - start)
    return sorted(statements, key=lambda statement: statement.start)


# --- words -----------------------------------------------------------------------------------------------------------

# One character for one, so that spans in the canonical text are spans in the original. ASCII only: no letter of another
# script turns into one of the lexicon. Quotes and the marks of Markdown and JSON count as spaces.
_CANONICAL = {code: chr(code + 32) for code in range(ord("A"), ord("Z") + 1)}
_CANONICAL |= dict.fromkeys(map(ord, "\u2019\u02bc"), "'") | dict.fromkeys(map(ord, "\u2010\u2011"), "-")
_CANONICAL |= dict.fromkeys(map(ord, '\u00a0\u202f\u201c\u201d"*_`'), " ")
_WORD = re.compile(r"\w+(?:'\w+)*")
_GAPS = (
    ("space", re.compile(r"\s{1,8}|-")),
    ("comma", re.compile(r"\s?,\s{1,8}")),
    ("colon", re.compile(r"\s*[:=(]\s*")),
)


class _Word(NamedTuple):
    """`gap` is what separates it from the word before: space, comma, colon, or break."""

    text: str
    gap: str
    start: int
    end: int


_END = _Word("", "break", 0, 0)


class _Words:
    """The words of a text; beyond either end there is an empty word after a break."""

    def __init__(self, words: Sequence[_Word]) -> None:
        self._words = words
        self.texts = frozenset(word.text for word in words)

    def __len__(self) -> int:
        return len(self._words)

    def at(self, place: int) -> _Word:
        return self._words[place] if 0 <= place < len(self._words) else _END

    def has(self, place: int, texts: Container[str]) -> bool:
        """Whether one of the texts stands here, with only a space before it."""
        word = self.at(place)
        return word.text in texts and word.gap == "space"


def _split(text: str) -> _Words:
    canonical, last, words = text.translate(_CANONICAL), 0, []
    for match in _WORD.finditer(canonical):
        between = canonical[last : match.start()]
        gap = next((name for name, pattern in _GAPS if pattern.fullmatch(between)), "break")
        words.append(_Word(match.group(), gap, match.start(), match.end()))
        last = match.end()
    return _Words(words)


class _Phrases:
    """A dictionary of phrases of one or more words, looked up at a place of a text, the longest first."""

    def __init__(self, meanings: Mapping[str, Meaning | None]) -> None:
        self._by_first: dict[str, list[tuple[tuple[str, ...], Meaning | None]]] = {}
        for phrase, meaning in meanings.items():
            parts = tuple(phrase.split())
            self._by_first.setdefault(parts[0], []).append((parts, meaning))
        for listed in self._by_first.values():
            listed.sort(key=lambda entry: -len(entry[0]))

    def may_occur(self, words: _Words) -> bool:
        """Whether any phrase can be in the text at all."""
        return not words.texts.isdisjoint(self._by_first)

    def match(self, words: _Words, place: int) -> tuple[int, Meaning | None] | None:
        """Place after the longest phrase that begins here, and its meaning."""
        for parts, meaning in self._by_first.get(words.at(place).text, ()):
            if all(_follows(words, place + offset, part) for offset, part in enumerate(parts[1:], start=1)):
                return place + len(parts), meaning
        return None


def _follows(words: _Words, place: int, part: str) -> bool:
    """Whether a part of a phrase stands here; before "then" there may be a comma."""
    word = words.at(place)
    return word.text == part and (word.gap == "space" or (part == "then" and word.gap == "comma"))


def _plain(listed: str) -> _Phrases:
    return _Phrases(dict.fromkeys(listed.split("|")))


def _set(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


def _meanings(words: wording.Words) -> dict[str, Meaning | None]:
    return {word: meaning for meaning, listed in words.items() for word in listed.split("|")}


# --- statements ------------------------------------------------------------------------------------------------------

_JOINS = _set("and but yet or to")
_AUXILIARIES = _set("does do did can could may might will has have had")
_VERBS = _set(wording.LINKING_VERBS)
_DENIALS = _plain("not|never|no longer|hardly|barely|scarcely|far from|anything but")
_PREPOSITIONS = _plain("at|in|on|of|as|to be")
_ARTICLES = _set("a an the its their his her")
_NEGATORS, _BETWEEN = _set(wording.NEGATORS), _set(wording.BEFORE_NEGATED)
_EDGES = _set("end ends start starts beginning beginnings onset final last first")


@dataclass(frozen=True)
class _Item:
    """One quality with its degree words; `distance` counts the qualities between it and the noun."""

    meaning: Meaning | None
    start: int
    end: int
    distance: int = 0


@dataclass(frozen=True)
class _Unit:
    """One match of the grammar, in characters: a noun with its qualities, or an expression."""

    start: int
    end: int
    items: tuple[_Item, ...]
    noun_last: bool
    denied: bool


class _Rule:
    """What may be said of one subject."""

    def __init__(self, subject: wording.Subject) -> None:
        passing: dict[str, Meaning | None] = dict.fromkeys(wording.PASSING.split("|"))
        adjectives, predicates = _meanings(subject.adjectives), _meanings(subject.predicates)
        self._nouns = _plain(subject.nouns)
        self._adjectives = _Phrases(passing | adjectives)
        self._predicates = _Phrases(predicates)
        self._qualities = _Phrases(passing | adjectives | predicates)

    def units(self, words: _Words) -> Iterator[_Unit]:
        """Every statement of this subject."""
        if not self._nouns.may_occur(words):
            return
        yield from _scan(words, self._before_noun)
        yield from _scan(words, self._after_noun)

    def _before_noun(self, words: _Words, place: int) -> tuple[int, _Unit] | None:
        best = None
        items: list[_Item] = []
        for item, after in _group(words, place, self._adjectives):
            items.append(item)
            end = self._noun_after(words, after)
            if end is not None:
                near = tuple(_Item(it.meaning, it.start, it.end, d) for d, it in enumerate(reversed(items)))
                best = end, _unit(words, place, end, near, noun_last=True)
        return best

    def _noun_after(self, words: _Words, place: int) -> int | None:
        places = [place]
        while len(places) < 3 and (filler := _phrases(wording.FILLERS).match(words, places[-1])):
            places.append(filler[0])
        for begin in reversed(places):
            noun = self._nouns.match(words, begin)
            if noun and all(words.at(between).gap == "space" for between in range(place, begin + 1)):
                return noun[0]
        return None

    def _after_noun(self, words: _Words, place: int) -> tuple[int, _Unit] | None:
        noun = self._nouns.match(words, place)
        if noun is None:
            return None
        begin, denied, phrases = noun[0], False, self._qualities
        if words.at(begin).gap != "colon" and not words.has(begin, ("neither",)):
            linked = _link(words, begin)
            if linked is None:
                begin, phrases = _relative(words, begin), self._predicates
                if words.at(begin).gap != "space":
                    return None
            else:
                begin, denied = linked
        items, end = [], begin
        for distance, (item, after) in enumerate(_group(words, begin, phrases)):
            items.append(_Item(item.meaning, item.start, item.end, distance))
            end = after
        return (end, _unit(words, place, end, tuple(items), noun_last=False, denied=denied)) if items else None


class _Expressions:
    """What is said without a noun; a noun that claims the same words goes first."""

    def __init__(self, expressions: wording.Words) -> None:
        self._phrases = _Phrases(_meanings(expressions))

    def units(self, words: _Words) -> Iterator[_Unit]:
        """Every expression."""
        if self._phrases.may_occur(words):
            yield from _scan(words, self._alone)

    def _alone(self, words: _Words, place: int) -> tuple[int, _Unit] | None:
        found = _item(words, place, self._phrases)
        if found is None:
            return None
        item, end = found
        return end, _unit(words, place, end, (_Item(item.meaning, item.start, item.end, 99),), noun_last=False)


@functools.lru_cache(maxsize=1)
def _rules() -> tuple[_Rule | _Expressions, ...]:
    return (*map(_Rule, wording.SUBJECTS), _Expressions(wording.EXPRESSIONS))


@functools.lru_cache(maxsize=4)
def _phrases(listed: str) -> _Phrases:
    return _plain(listed)


def _scan(words: _Words, find: Callable[[_Words, int], tuple[int, _Unit] | None]) -> Iterator[_Unit]:
    place = 0
    while place < len(words):
        found = find(words, place)
        if found is None:
            place += 1
        else:
            place = found[0]
            yield found[1]


def _unit(
    words: _Words, place: int, end: int, items: tuple[_Item, ...], *, noun_last: bool, denied: bool = False
) -> _Unit:
    denied = denied or _denied_before(words, place) or _limited_after(words, end)
    return _Unit(words.at(place).start, words.at(end - 1).end, items, noun_last, denied)


def _group(words: _Words, place: int, phrases: _Phrases) -> Iterator[tuple[_Item, int]]:
    """Up to six qualities in a row, each with the place after it: "high, rough and very fast"."""
    for _ in range(6):
        found = _item(words, place, phrases)
        if found is None:
            return
        yield found
        place = found[1]
        if words.at(place).gap not in ("space", "comma"):
            return
        if words.at(place).text in _JOINS:
            place += 1
            if words.at(place).gap != "space":
                return


def _item(words: _Words, place: int, phrases: _Phrases) -> tuple[_Item, int] | None:
    """One quality with its degree words, or "neither low nor high"."""
    if words.at(place).text == "neither":
        first = _quality(words, place + 1, phrases)
        if first is None or not words.has(first[0], ("nor",)):
            return None
        second = _quality(words, first[0] + 1, phrases)
        if second is None:
            return None
        end, meaning = second[0], _between(first[1], second[1])
    else:
        found = _quality(words, place, phrases)
        if found is None:
            return None
        end, meaning = found
    return _Item(meaning, words.at(place).start, words.at(end - 1).end), end


def _quality(words: _Words, place: int, phrases: _Phrases) -> tuple[int, Meaning | None] | None:
    extreme = False
    for _ in range(4):
        found = phrases.match(words, place)
        if found:
            return found[0], _strengthened(found[1]) if extreme else found[1]
        strong = _phrases(wording.EXTREMES).match(words, place)
        degree = strong or _phrases(wording.DEGREES).match(words, place)
        if degree is None or words.at(degree[0]).gap != "space":
            return None
        place, extreme = degree[0], extreme or strong is not None
    return None


def _strengthened(meaning: Meaning | None) -> Meaning | None:
    if meaning is not None and f"very {meaning[1]}" in CUE_BY_NAME[meaning[0]].levels:
        return meaning[0], f"very {meaning[1]}"
    return meaning


def _between(first: Meaning | None, second: Meaning | None) -> Meaning | None:
    if first is None or second is None or first[0] != second[0] or first[1] == second[1]:
        return None
    levels = CUE_BY_NAME[first[0]].levels
    return first[0], levels[len(levels) // 2]


def _relative(words: _Words, place: int) -> int:
    return (
        place + 1 if words.at(place).text in ("that", "which") and words.at(place).gap in ("space", "comma") else place
    )


def _link(words: _Words, place: int) -> tuple[int, bool] | None:
    """Place after "is", "which does not sound", "stays at a", and whether it denies."""
    place = _relative(words, place)
    denied = verb = False
    while words.at(place).gap == "space":
        text = words.at(place).text
        bare = text.removesuffix("n't")
        denial = _DENIALS.match(words, place)
        if bare in _VERBS or bare in _AUXILIARIES:
            verb, denied, place = verb or bare in _VERBS, denied or bare != text, place + 1
        elif denial:
            denied, place = True, denial[0]
        else:
            break
    if not verb:
        return None
    preposition = _PREPOSITIONS.match(words, place)
    place = preposition[0] if preposition else place
    place += words.at(place).text in _ARTICLES
    return (place, denied) if words.at(place).gap == "space" else None


def _denied_before(words: _Words, place: int) -> bool:
    """Whether "not", "without", "rather than", "no sign of" stands before, with at most four small words between."""
    for _ in range(5):
        if words.at(place).gap != "space":
            return False
        place -= 1
        text = words.at(place).text
        if text in _NEGATORS or text.endswith("n't"):
            return True
        if text not in _BETWEEN:
            return False
    return False


def _limited_after(words: _Words, place: int) -> bool:
    """Whether the statement goes on "at the end", "in the first", "would": true of a part only, or of no recording."""
    if words.at(place).gap not in ("space", "comma"):
        return False
    if words.at(place).text == "would":
        return True
    place += words.at(place).text == "only"
    if words.at(place).text not in ("at", "toward", "towards", "near", "in", "on", "by"):
        return False
    place += 1
    place += words.has(place, ("the",))
    place += words.has(place, ("very", "phrase", "sentence"))
    return words.has(place, _EDGES)


# --- who owns which words ------------------------------------------------------------------------------------------


def _owners(units: Sequence[_Unit], length: int) -> Iterator[tuple[_Unit, list[tuple[Meaning, _Item]]]]:
    """Give each quality to the nearest noun, then to the longest statement, and drop what is denied or ambiguous.

    In "the pitch is low, slow tempo" the pitch is low, not the tempo; in "a high pitch range" the range is high.
    """
    pairs = [(unit, item) for unit in units for item in unit.items if item.meaning is not None]
    pairs.sort(key=lambda pair: (pair[1].distance, pair[0].start - pair[0].end, pair[1].start))
    taken = bytearray(length)
    owned: dict[int, tuple[_Unit, list[tuple[Meaning, _Item]]]] = {}
    for unit, item in pairs:
        if item.meaning is not None and not any(taken[item.start : item.end]):
            taken[item.start : item.end] = b"\1" * (item.end - item.start)
            owned.setdefault(id(unit), (unit, []))[1].append((item.meaning, item))
    for unit, items in owned.values():
        # "low to medium", "clear or rough": two levels of one cue in one breath state neither.
        levels: dict[str, set[str]] = {}
        for (cue, level), _ in items:
            levels.setdefault(cue, set()).add(level)
        clear = [pair for pair in items if len(levels[pair[0][0]]) == 1]
        if clear and not unit.denied:
            yield unit, sorted(clear, key=lambda pair: pair[1].start)


def _spans(
    unit: _Unit, items: Sequence[tuple[Meaning, _Item]], claimed: bytearray
) -> Iterator[tuple[str, str, int, int]]:
    """Cue, level and character span of each quality, with its noun where no other statement has that."""
    spans: dict[Meaning, tuple[int, int]] = {}
    for meaning, item in items:
        # "a clear, full voice" says one thing twice.
        spans[meaning] = (spans.get(meaning, (item.start, item.end))[0], item.end)
    # Only the qualities this statement owns: in "pitched low and even loudness" the loudness begins at "even".
    whole = (items[0][1].start, unit.end) if unit.noun_last else (unit.start, items[-1][1].end)
    if len(spans) == 1 and not any(claimed[slice(*whole)]):
        spans = dict.fromkeys(spans, whole)
    for (cue, level), (start, end) in spans.items():
        if not any(claimed[start:end]):
            yield cue, level, start, end
