"""What may be said of a clip: its reliable cues and whatever else is known, in the form in which both writers use it.

`Background` is what the whole collection says: which cues go with which emotion, and which sentences are said in more
than one mood.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edge_emotion.claims import MIN_RELIABILITY, parse_claims
from edge_emotion.cues import CUES
from edge_emotion.labels import EMOTIONS, names_of
from edge_emotion_train.labelling.records import Record
from edge_emotion_train.labelling.stress import stressed_words
from edge_emotion_train.reasoning import CueEmotionTable

# A corpus with fewer clips of an emotion says too little of how that emotion sounds in it.
ENOUGH_CLIPS_OF_AN_EMOTION = 20
# Said with as many emotions, the words alone do not decide.
ENOUGH_MOODS = 3
LONGEST_QUOTE = 72
MOST_STRESSED = 2
PERSONS: Mapping[str | None, str] = {"female": "a woman", "male": "a man"}
DECADES = ("", "teens", "twenties", "thirties", "forties", "fifties", "sixties", "seventies", "eighties", "nineties")


@dataclass(frozen=True)
class Findings:
    """What is known of a clip beside its emotion.

    Attributes:
        cues: Cue name to level, for the cues that are reliable and can be said beside each other, in the order of
            `CUES`.
        speakers_own: Those of them whose thresholds are the speaker's own.
        intonation: Shape of the melody; None where it is unsure.
        stressed: The words that stand out most, as written.
        quote: The transcript or its beginning, ready to be quoted; None where it is unknown or would read as a claim.
        says_little: The same words are said with several emotions in the collection.
        named: A word of the transcript that names an emotion, and that emotion.
        person: Such as "a woman in her thirties"; None where unknown.
    """

    cues: Mapping[str, str]
    speakers_own: frozenset[str] = frozenset()
    intonation: str | None = None
    stressed: tuple[str, ...] = ()
    quote: str | None = None
    says_little: bool = False
    named: tuple[str, str] | None = None
    person: str | None = None


@dataclass(frozen=True)
class Background:
    """What the whole collection says.

    Attributes:
        tables: Which cue levels go with which emotion: by corpus, and for all of them under "".
        many_moods: Hashes of the sentences that are said with several emotions.
    """

    tables: Mapping[str, CueEmotionTable]
    many_moods: frozenset[str] = frozenset()

    @classmethod
    def of(cls, records: Iterable[Record], held_out_speakers: Collection[str] = ()) -> Background:
        """Gather it from calibrated records with emotions.

        Args:
            records: Gone through once.
            held_out_speakers: Speakers from whom nothing may be learnt; nor from records whose `split` is
                `test`.

        Raises:
            ValueError: No record has both an emotion and a reliable level.
        """
        levels: dict[str, list[Mapping[str, str]]] = defaultdict(list)
        labels: dict[str, list[str]] = defaultdict(list)
        moods: dict[str, set[str]] = defaultdict(set)
        for record in records:
            cues = reliable_cues(record)
            if record.emotion is None or not cues or record.speaker in held_out_speakers or record.split == "test":
                continue
            for corpus in ("", record.corpus):
                levels[corpus].append(cues)
                labels[corpus].append(record.emotion)
            if record.text:
                moods[_sentence_key(record.text)].add(record.emotion)
        if not labels:
            raise ValueError("no record has an emotion and reliable levels, so nothing tells which cue suggests what")
        enough = [
            corpus
            for corpus, listed in labels.items()
            if not corpus or min(map(listed.count, set(listed))) >= ENOUGH_CLIPS_OF_AN_EMOTION
        ]
        return cls(
            {corpus: CueEmotionTable().fit(levels[corpus], labels[corpus]) for corpus in enough},
            frozenset(key for key, emotions in moods.items() if len(emotions) >= ENOUGH_MOODS),
        )

    def table(self, corpus: str, emotion: str) -> CueEmotionTable:
        """The corpus's own table where it knows the emotion, else that of all corpora."""
        own = self.tables.get(corpus)
        return own if own is not None and emotion in own.labels else self.tables[""]

    def says_little(self, text: str) -> bool:
        """Whether the collection has this sentence with several emotions."""
        return _sentence_key(text) in self.many_moods

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "tables": {corpus: table.to_dict() for corpus, table in self.tables.items()},
            "many_moods": sorted(self.many_moods),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Background:
        """Inverse of `to_dict`."""
        tables = {corpus: CueEmotionTable.from_dict(table) for corpus, table in data["tables"].items()}
        return cls(tables, frozenset(data["many_moods"]))


def reliable_cues(record: Record) -> dict[str, str]:
    """Cue name to level, for the levels that are known and reliable, in the order of `CUES`."""
    levels = record.levels or {}
    known = ((cue.name, levels[cue.name]) for cue in CUES if cue.name in levels)
    return {
        name: level.level for name, level in known if level.level is not None and level.reliability >= MIN_RELIABILITY
    }


def cues_to_say(cues: Mapping[str, str]) -> dict[str, str]:
    """Without those that another says better: a melody that turns has no one direction, one that does not turn has."""
    turned = cues.get("pitch_turn", "straight") != "straight"
    unsaid = "pitch_slope" if turned else "pitch_turn" if "pitch_slope" in cues else None
    return {name: level for name, level in cues.items() if name != unsaid}


def findings_of(record: Record, background: Background) -> Findings:
    """What may be said of a record."""
    cues = cues_to_say(reliable_cues(record))
    levels = record.levels or {}
    shape = record.intonation
    text = _one_line(record.text or "")
    return Findings(
        cues=cues,
        speakers_own=frozenset(name for name in cues if (levels[name].thresholds or "").startswith("speaker:")),
        intonation=shape.shape if shape and shape.confidence >= MIN_RELIABILITY else None,
        stressed=_stressed(record),
        quote=_quote(text),
        says_little=bool(text) and background.says_little(text),
        named=_named_emotion(text),
        person=_person(record),
    )


def _stressed(record: Record) -> tuple[str, ...]:
    words = stressed_words(record.words or ())
    kept = sorted(words, key=lambda word: -(word.prominence or 0.0))[:MOST_STRESSED]
    texts = [_bare(word.text) for word in words if word in kept]
    return tuple(text for text in texts[:MOST_STRESSED] if text and not parse_claims(text))


def _quote(text: str) -> str | None:
    """At most `LONGEST_QUOTE` characters, whole words where words are told apart by spaces."""
    if not any(character.isalnum() for character in text):
        return None
    if len(text) > LONGEST_QUOTE:
        cut = text[:LONGEST_QUOTE]
        text = (cut.rsplit(" ", 1)[0] if " " in cut else cut).rstrip(" ,;:.-") + " …"
    # The quotation stands within a sentence, whose end must not be mistaken.
    text = text.rstrip(" .\u3002") or text
    return None if parse_claims(text) else text


def _named_emotion(text: str) -> tuple[str, str] | None:
    """The only emotion that a word of the text names, with that word; None for none or several."""
    words = re.findall(r"\w+", text)
    found = {
        emotion: word
        for word in words
        for emotion in EMOTIONS
        if emotion != "neutral" and word.casefold() in names_of(emotion)
    }
    return next(((word, emotion) for emotion, word in found.items()), None) if len(found) == 1 else None


def _person(record: Record) -> str | None:
    person = PERSONS.get(record.gender)
    age = record.extra.get("age")
    if person is None or isinstance(age, bool) or not isinstance(age, (int, float)) or not 20 <= age < 100:
        return person
    return f"{person} in {'her' if record.gender == 'female' else 'his'} {DECADES[int(age) // 10]}"


def _one_line(text: str) -> str:
    """Spaces for line breaks and control characters, and no double quotation marks within."""
    shown = "".join(" " if unicodedata.category(character).startswith("C") else character for character in text)
    return " ".join(re.sub(r"[\"\u201c\u201d\u201e\u00ab\u00bb]", " ", shown).split())


def _bare(word: str) -> str:
    return _one_line(word).strip(" .,;:!?\u3002\uff01\uff1f()[]\u2026-'\u2019\u2018")


def _sentence_key(text: str) -> str:
    """The words alone: case, punctuation and spacing make no other sentence."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    return hashlib.sha256(" ".join(words).encode("utf-8", "surrogatepass")).hexdigest()[:16]
