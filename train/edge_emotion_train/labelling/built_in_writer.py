"""Reasoning written without a language model: what a listener hears, then what speaks for and against, then a reading.

The emotion is known to the writer as it is to a teacher. It decides which of the heard cues are weighed as support and
which as objection, by how often each emotion has that level in the collection. It does not decide how many there are,
in which order they stand, or how anything is said: those are drawn first. Otherwise a model could read the emotion off
the sentences instead of the sound (`leakage.py` measures that).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_emotion.claims import parse_claims
from edge_emotion.errors import LabellingError
from edge_emotion.wording import PHRASES
from edge_emotion_train import reasoning
from edge_emotion_train.labelling import phrasebook
from edge_emotion_train.labelling.findings import Findings
from edge_emotion_train.labelling.text_checking import SIZES
from edge_emotion_train.reasoning import CueEmotionTable, join_phrases, pick

FEWEST_CUES = 2
# Cues of a full text, where as many are reliable.
FULL_CUES = (5, 8)
# Cues of a nano text; those of `ALWAYS` are in every one, so that two recordings can be compared by them.
NANO_CUES = (3, 5)
ALWAYS = ("pitch", "rate")
# What a known shape of the melody says of a cue; where its level agrees, the cue is never left out.
SHAPE_CUES: Mapping[str, tuple[str, str]] = {
    "rising": ("pitch_slope", "rising"),
    "falling": ("pitch_slope", "falling"),
    "rising-falling": ("pitch_turn", "rising-falling"),
    "falling-rising": ("pitch_turn", "falling-rising"),
    "flat": ("pitch_variation", "narrow"),
    "expressive": ("pitch_variation", "wide"),
}
# How many cues are weighed for and against; drawn before anything is looked at.
WEIGHED = ((2, 1), (1, 1), (2, 2), (3, 1), (3, 2))
# Half a nat: an emotion has this level 1.65 times as often as another. Less speaks for neither.
CLEAR_EVIDENCE = 0.5
SLIGHT_EVIDENCE = 0.1
# As many of the cues mentioned are left out of the weighing at least.
CUES_NOT_WEIGHED = 2
CONTRAST_SHARE = 0.6
SPEAKER_SENTENCE = 0.5
ALTERNATIVE_SENTENCE = 0.4
MOST_DRAFTS = 48


@dataclass(frozen=True)
class Side:
    """Cues that fit one emotion better than another: names, the clearest first."""

    better: str
    worse: str
    cues: tuple[str, ...]


@dataclass(frozen=True)
class Weighing:
    """What speaks for an emotion and what against it.

    Attributes:
        label: The emotion.
        rival: The emotion it is weighed against.
        sides: For the emotion and against the rival, then the reverse. Where nothing fits the rival better, what fits
            the emotion better than a third one; at most two.
        other: A third emotion; None where the table knows only two.
    """

    label: str
    rival: str
    sides: tuple[Side, ...]
    other: str | None


def record_rng(seed: int, record_id: str) -> np.random.Generator:
    """The generator of one record: the same whatever other records there are, and in whatever process."""
    digest = hashlib.sha256(record_id.encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32).tolist()])


def write(findings: Findings, label: str, table: CueEmotionTable, size: str, rng: np.random.Generator) -> str:
    """A reasoning of a clip.

    Args:
        findings: What may be said of it.
        label: Its emotion, one that the table knows.
        table: Which cue levels go with which emotion.
        size: One of `SIZES`.
        rng: Source of all variety.

    Raises:
        LabellingError: Too few cues are reliable, or the table does not know the emotion.
    """
    if len(findings.cues) < FEWEST_CUES:
        raise LabellingError(
            f"{len(findings.cues)} of its cues are reliable ({', '.join(findings.cues) or 'none'}) and a reasoning "
            f"needs at least {FEWEST_CUES}; a longer or cleaner recording has more"
        )
    if label not in table.labels or len(table.labels) < 2:
        raise LabellingError(
            f"nothing tells how {label} sounds: the collection knows {', '.join(table.labels)}; "
            "label it together with clips of this and another emotion"
        )
    return (_write_nano if size == "nano" else _write_full)(findings, label, table, rng)


# --- nano ------------------------------------------------------------------------------------------------------------


def _write_nano(findings: Findings, label: str, table: CueEmotionTable, rng: np.random.Generator) -> str:
    count = int(rng.integers(NANO_CUES[0], NANO_CUES[1] + 1))
    always = [name for name in ALWAYS if name in findings.cues]
    rest = [name for name in findings.cues if name not in always]
    chosen = {*always, *(rest[index] for index in rng.permutation(len(rest))[: max(0, count - len(always))])}
    # In the fixed order of the cues, which a small model learns more easily than a race between orders.
    levels = {name: level for name, level in findings.cues.items() if name in chosen}
    candidates = tuple(name for name, _ in table.rank(levels)[:2])
    return reasoning.write_reasoning(levels, candidates, label, rng)


# --- full ------------------------------------------------------------------------------------------------------------


def _write_full(findings: Findings, label: str, table: CueEmotionTable, rng: np.random.Generator) -> str:
    count = int(rng.integers(FULL_CUES[0], FULL_CUES[1] + 1))
    names = [list(findings.cues)[index] for index in rng.permutation(len(findings.cues))]
    names.sort(key=lambda name: (name, findings.cues[name]) != SHAPE_CUES.get(findings.intonation or ""))
    mentioned = {name: findings.cues[name] for name in names[:count]}
    weighing = weigh(mentioned, label, table, rng)
    fewest, most = SIZES["full"]
    best = ""
    for _ in range(MOST_DRAFTS):
        draft = " ".join(_draft(findings, mentioned, weighing, rng))
        if not _says_exactly(draft, mentioned):
            continue
        if fewest <= len(draft.split()) <= most:
            return draft
        best = max(best, draft, key=len)
    if not best:
        raise LabellingError("no draft states exactly what was measured; this is a fault of the phrase book")
    # Short for want of cues: say that the rest cannot be told.
    return f"{best} {pick(phrasebook.REST_UNCLEAR, rng)}"


def weigh(levels: Mapping[str, str], label: str, table: CueEmotionTable, rng: np.random.Generator) -> Weighing:
    """Choose a rival and what is weighed: the likeliest rival that the drawn numbers of cues can be weighed against.

    Preferred are rivals that the emotion beats by all cues together, so that the reading follows from them.
    """
    ranked = [name for name, _ in table.rank(levels) if name != label]
    balances = {rival: _balance(levels, label, rival, table) for rival in ranked}
    ranked.sort(key=lambda rival: sum(balances[rival].values()) <= 0.0)
    possible = [counts for counts in WEIGHED if sum(counts) <= max(2, len(levels) - CUES_NOT_WEIGHED)]
    wanted = possible[int(rng.integers(len(possible)))]
    for most_pro, most_con in (wanted, *sorted(possible, key=sum, reverse=True)):
        for least in (CLEAR_EVIDENCE, SLIGHT_EVIDENCE):
            for rival in ranked:
                pro, con = _sides(balances[rival], least)
                if len(pro) >= most_pro and len(con) >= most_con:
                    sides = Side(label, rival, pro[:most_pro]), Side(rival, label, con[:most_con])
                    return Weighing(label, rival, sides, next((name for name in ranked if name != rival), None))
    sides = []
    for rival in ranked:
        pro, con = _sides(balances[rival], SLIGHT_EVIDENCE)
        if pro or con:
            sides.append(Side(label, rival, pro[:1]) if pro else Side(rival, label, con[:1]))
    other = ranked[2] if len(ranked) > 2 else None
    return Weighing(label, ranked[0], tuple(sides[:2]), other)


def _balance(levels: Mapping[str, str], label: str, rival: str, table: CueEmotionTable) -> dict[str, float]:
    evidence = {name: table.log_likelihoods(name, level) for name, level in levels.items()}
    return {name: values[label] - values[rival] for name, values in evidence.items()}


def _sides(balance: Mapping[str, float], least: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    ordered = sorted(balance, key=lambda name: (-balance[name], name))
    pro = tuple(name for name in ordered if balance[name] >= least)
    con = tuple(name for name in reversed(ordered) if balance[name] <= -least)
    return pro, con


def _says_exactly(text: str, levels: Mapping[str, str]) -> bool:
    return {(claim.cue, claim.level) for claim in parse_claims(text)} == set(levels.items())


def _draft(findings: Findings, levels: Mapping[str, str], weighing: Weighing, rng: np.random.Generator) -> list[str]:
    """The sentences of one draft."""
    hearing = list(_hear(levels, findings.speakers_own, rng))
    asides = []
    if findings.person and rng.random() < SPEAKER_SENTENCE:
        asides.append(pick(phrasebook.PROFILES, rng).format(person=findings.person))
    if findings.stressed:
        words = join_phrases([f"\u201c{word}\u201d" for word in findings.stressed])
        asides.append(pick(phrasebook.STRESSES, rng).format(words=words))
    for aside in asides:
        hearing.insert(int(rng.integers(1, len(hearing) + 1)), aside)
    weighed = _weigh_up(levels, weighing, rng)
    words = _words_and_voice(findings, weighing.label, rng)
    if words:
        (hearing if rng.random() < 0.5 else weighed).append(words)
    end = pick(phrasebook.CONCLUSIONS, rng).format(label=_said(weighing.label), rival=_said(weighing.rival))
    closing = [pick(phrasebook.CONCLUSION_STARTS, rng) + end]
    if weighing.other and rng.random() < ALTERNATIVE_SENTENCE:
        closing.insert(0, pick(phrasebook.ALTERNATIVES, rng).format(other=_said(weighing.other)))
    return [_sentence(text) for text in (*hearing, *weighed, *closing)]


def _hear(levels: Mapping[str, str], speakers_own: frozenset[str], rng: np.random.Generator) -> Iterator[str]:
    """Sentences of one to three cues each, in drawn order; one of them says where levels are the speaker's own."""
    groups = []
    for own in (True, False):
        names = [name for name in levels if (name in speakers_own) == own]
        names = [names[index] for index in rng.permutation(len(names))]
        while names:
            size = int(rng.integers(1, 4))
            groups.append((own, names[:size]))
            names = names[size:]
    groups = [groups[index] for index in rng.permutation(len(groups))]
    own_groups = [index for index, (own, _) in enumerate(groups) if own]
    spoken_of_speaker = int(rng.choice(own_groups)) if own_groups else -1
    continuations = [phrasebook.CONTINUATIONS[index] for index in rng.permutation(len(phrasebook.CONTINUATIONS))]
    for index, (_, names) in enumerate(groups):
        if index == spoken_of_speaker:
            frame = pick(phrasebook.FOR_THIS_SPEAKER, rng)
        else:
            frame = continuations.pop() if index else pick(phrasebook.OPENINGS, rng)
        phrases = join_phrases([pick(PHRASES[name][levels[name]], rng) for name in names])
        clauses = join_phrases([pick(_clauses(name, levels[name]), rng) for name in names])
        yield _fill(frame, all=phrases, clauses=clauses)


def _weigh_up(levels: Mapping[str, str], weighing: Weighing, rng: np.random.Generator) -> list[str]:
    """What speaks for and what against, in drawn order."""
    if not weighing.sides:
        names = {"label": _said(weighing.label), "rival": _said(weighing.rival)}
        return [pick(phrasebook.UNDECIDED, rng).format(**names)]
    sides = [weighing.sides[index] for index in rng.permutation(len(weighing.sides))]
    frames = [phrasebook.SPEAKS_FOR[index] for index in rng.permutation(len(phrasebook.SPEAKS_FOR))]
    sentences = [
        frame.format(cues=_named_cues(side.cues, levels, rng), better=_said(side.better), worse=_said(side.worse))
        for frame, side in zip(frames, sides, strict=False)
    ]
    opposed = len(sides) == 2 and (sides[0].better == weighing.label) != (sides[1].better == weighing.label)
    # Not always said, or its absence would tell that all is on one side.
    if rng.random() < CONTRAST_SHARE and opposed:
        sentences[1] = pick(phrasebook.CONTRASTS, rng) + sentences[1]
    return sentences


def _words_and_voice(findings: Findings, label: str, rng: np.random.Generator) -> str | None:
    """What the words say beside the voice, as far as that can be known; None without a transcript."""
    if findings.quote is None:
        return None
    quote = f"\u201c{findings.quote}\u201d"
    if findings.named:
        word, named = findings.named
        frames = phrasebook.WORDS_AGREE if named == label else phrasebook.WORDS_DISAGREE
        return pick(frames, rng).format(quote=quote, word=f"\u201c{word}\u201d", named=_said(named))
    return pick(phrasebook.WORDS_OF_ANY_MOOD if findings.says_little else phrasebook.WORDS_ALONE, rng).format(
        quote=quote
    )


def _clauses(name: str, level: str) -> Sequence[str]:
    return phrasebook.CLAUSES.get((name, level)) or [f"I hear {phrase}" for phrase in PHRASES[name][level]]


def _named_cues(names: Sequence[str], levels: Mapping[str, str], rng: np.random.Generator) -> str:
    phrases = []
    for name in names:
        known = phrasebook.REFERENCES.get((name, levels[name]))
        phrases.append(pick(known or [re.sub(r"^an? ", "the ", phrase) for phrase in PHRASES[name][levels[name]]], rng))
    return join_phrases([phrases[index] for index in rng.permutation(len(phrases))])


def _said(emotion: str) -> str:
    return reasoning.MOODS.get(emotion, emotion)


def _fill(frame: str, **slots: str) -> str:
    capitals = {key.capitalize(): _sentence(text) for key, text in slots.items() if key.islower()}
    return frame.format(**(capitals | slots))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
