"""The measured judge: four dimensions of a reasoning, scored against the recording and not by another model's taste.

The paper's reward model judges from text labels. Here factual alignment is the claim checker's verdict on the measured
signal, so a reasoning that sounds right of a recording it does not describe gains nothing. Scores are continuous, 1..5,
because steps of whole points would hide small improvements from the policy.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence

from edge_emotion.answer import is_correct
from edge_emotion.claims import parse_claims
from edge_emotion.cues import CUE_BY_NAME, distance_outside
from edge_emotion_train.explanations import value_at
from edge_emotion_train.reasoning import MAX_WORDS, MIN_WORDS, CueEmotionTable
from edge_emotion_train.reinforcement.rewards import Heard, Reply, Scores, named_emotions

_ALTERNATIVE_OF_ONE = re.compile(r"\b(\w+) (?:or|and) \1\b", re.IGNORECASE)


def measured_judge(
    table: CueEmotionTable, expected_cues: int = 4, words: tuple[int, int] = (MIN_WORDS, MAX_WORDS)
) -> Callable[[Sequence[Reply]], list[Scores | None]]:
    """A judge that measures.

    Args:
        table: Which emotions cue levels suggest, fitted on the training speakers.
        expected_cues: So many true cues make a reasoning complete (fewer where fewer can be measured), at least 1.
        words: Shortest and longest text without a deduction.
    """

    def judge(replies: Sequence[Reply]) -> list[Scores | None]:
        return [_points(reply, table, expected_cues, words) for reply in replies]

    return judge


def uninformed_judge(replies: Sequence[Reply]) -> list[Scores | None]:
    """An untrained reward model, to a policy (the paper's V3): points that depend on the text and mean nothing."""
    digests = [hashlib.sha256(reply.reasoning.encode()).digest() for reply in replies]
    return [(1.0 + d[0] % 5, 1.0 + d[1] % 5, 1.0 + d[2] % 5, 1.0 + d[3] % 5) for d in digests]


def cue_verdicts(reasoning: str, heard: Heard) -> dict[str, bool]:
    """Cue name to whether all that a text says of it is supported; only cues that can be checked.

    A cue counts once however often it is mentioned, and contradicting oneself cannot be true.
    """
    verdicts: dict[str, bool] = {}
    for claim in parse_claims(reasoning):
        if claim.cue not in heard.positions or claim.cue not in heard.thresholds.cuts:
            continue
        cue = CUE_BY_NAME[claim.cue]
        value = value_at(claim.cue, heard.positions[claim.cue])
        supported = distance_outside(cue, claim.level, value, heard.thresholds) <= cue.uncertainty
        verdicts[claim.cue] = verdicts.get(claim.cue, True) and supported
    return verdicts


def factual_alignment(verdicts: Mapping[str, bool]) -> float:
    """Share of the stated cues that are true, 0..1; 0 when nothing checkable is said."""
    return sum(verdicts.values()) / len(verdicts) if verdicts else 0.0


def completeness(verdicts: Mapping[str, bool], heard: Heard, expected_cues: int) -> float:
    """True cues over those to be expected, 0..1; what is false covers nothing."""
    measurable = sum(cue in heard.thresholds.cuts for cue in heard.positions)
    return min(1.0, sum(verdicts.values()) / max(1, min(expected_cues, measurable)))


def interpretation(reasoning: str, label: str | None, table: CueEmotionTable) -> float:
    """How well the stated cues support what is concluded of them, 0..1; true or not is no question here.

    The mean of two: how likely the answer is given the stated cues, relative to the likeliest emotion; and the same for
    the emotions that the reasoning itself names.
    """
    levels = {claim.cue: claim.level for claim in parse_claims(reasoning) if claim.cue in CUE_BY_NAME}
    if not levels:
        return 0.0
    likelihood = dict(table.rank(levels))
    peak = max(likelihood.values())
    named = [likelihood.get(emotion, 0.0) / peak for emotion in named_emotions(reasoning)]
    answered = max((chance for emotion, chance in likelihood.items() if is_correct(label, emotion)), default=0.0) / peak
    return 0.5 * answered + 0.5 * (sum(named) / len(named) if named else 0.0)


def fluency(reasoning: str, words: tuple[int, int]) -> float:
    """Mean of four criteria, 0..1: whole sentences, fitting length, no repetition, clean letters.

    An alternative of one ("fear or fear"), which a policy under pressure falls into, fails two of them.
    """
    text = reasoning.strip()
    if not text:
        return 0.0
    tokens = re.findall(r"[\w'-]+", text.casefold())
    triples = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    fewest, most = words
    length = min(1.0, len(tokens) / fewest, max(0.0, 2.0 - len(tokens) / most))
    sentences = 0.5 * text[0].isupper() + 0.5 * text.endswith((".", "!", "?"))
    distinct = len(set(triples)) / len(triples) if triples else 0.0
    if _ALTERNATIVE_OF_ONE.search(text):
        sentences = distinct = 0.0
    clean = sum(character.isalpha() or character in " .,:;!?'\"()-\n" for character in text) / len(text)
    return (sentences + length + distinct + clean) / 4.0


def _points(reply: Reply, table: CueEmotionTable, expected_cues: int, words: tuple[int, int]) -> Scores:
    verdicts = cue_verdicts(reply.reasoning, reply.heard)
    return (
        1.0 + 4.0 * factual_alignment(verdicts),
        1.0 + 4.0 * interpretation(reply.reasoning, reply.label, table),
        1.0 + 4.0 * completeness(verdicts, reply.heard, expected_cues),
        1.0 + 4.0 * fluency(reply.reasoning, words),
    )
