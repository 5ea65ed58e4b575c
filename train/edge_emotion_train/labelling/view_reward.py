"""Tuples for the reward model: a record's reasoning made worse on purpose, with the four scores of what came out.

Per record: the reasoning as it is, each dimension lowered alone to every score that the text allows, some texts with
several dimensions lowered at once, and one borrowed from another clip, which is well written and tells of somebody
else. Factual alignment, completeness and fluency are measured in the text that resulted; of the interpretation it is
known which statements were reversed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from edge_emotion.claims import check_claims
from edge_emotion.cues import CUE_BY_NAME, Thresholds, distance_outside
from edge_emotion_train.augment import clip_seed
from edge_emotion_train.labelling.quality import (
    BANDS,
    DIMENSIONS,
    Yardstick,
    claims_of,
    find_mentions,
    kept_pairs,
    score,
    stated_cues,
    stated_share,
    supported_share,
)
from edge_emotion_train.labelling.records import Record
from edge_emotion_train.labelling.rewriting import (
    disturb,
    drop_cues,
    interpretations,
    restate,
    reverse_interpretation,
)
from edge_emotion_train.labelling.rows import Row, assistant_message, user_message
from edge_emotion_train.labelling.view_reasoning import record_thresholds
from edge_emotion_train.reasoning import CueEmotionTable

FACTS, INTERPRETATION, COMPLETENESS, FLUENCY = DIMENSIONS
FEWEST_CLAIMS = 3
MIXED_ROWS = 3
DROP_ATTEMPTS = 12

RUBRIC = """Rate this reasoning about the emotion of the speaker in the recording. Give each dimension a score from 1 (worst) to 5 (best).
factual_alignment: do the stated acoustic cues agree with the recording?
interpretative_quality: do the cues support the emotions that the text draws from them?
caption_completeness: does the text cover what can be heard?
fluency_and_structural_clarity: is the text fluent and well ordered?
Answer with JSON only.

Reasoning: {reasoning}"""  # noqa: E501


@dataclass(frozen=True)
class Draft:
    """A text on its way down: what it says, which share of its statements on emotions holds, and what it said before
    its words were disturbed."""

    text: str
    sound_share: float | None
    undisturbed: str


class CannotRateError(Exception):
    """A record of which no tuples can be made; says why."""


def reward_rows(
    record: Record,
    split: str,
    audio: str,
    groups: Mapping[str, Thresholds],
    table: CueEmotionTable,
    borrowed: Record | None,
    seed: int,
) -> Iterator[Row]:
    """Every tuple of a record.

    Args:
        record: Measured, calibrated, with emotion and reasoning.
        split: Of the rows.
        audio: Path of the recording.
        groups: Thresholds by the keys that `Level.thresholds` names.
        table: Which emotions cue levels make unlikely; fitted on training speakers.
        borrowed: A record of the same split with another emotion, whose reasoning is lent; None for none.
        seed: Decides every draw.

    Raises:
        CannotRateError: No reasoning, too few claims to grade, or a claim that is not supported.
    """
    text, truth = _checked_reasoning(record)
    yardstick = Yardstick(record.prosody(), record_thresholds(record, groups), stated_cues(text))
    if sum(item.verdict != "not measurable" for item in _check(text, yardstick)) < FEWEST_CLAIMS:
        raise CannotRateError(f"fewer than {FEWEST_CLAIMS} checkable claims")
    if supported_share(text, yardstick) != 1.0:
        raise CannotRateError("the reasoning states what the recording does not support")
    rng = np.random.default_rng(clip_seed(f"{seed}\0{record.id}\0reward", 0))
    unlikely = _unlikely(record, truth, table)
    original = Draft(text, 1.0 if find_mentions(text) else None, text)
    seen: set[str] = set()

    def row(kind: str, draft: Draft, targets: Mapping[str, int]) -> Iterator[Row]:
        if draft.text not in seen:
            seen.add(draft.text)
            yield _row(record, split, audio, f"{record.id}#reward.{kind}", draft, yardstick, targets)

    yield from row("original", original, {})
    for dimension in DIMENSIONS:
        for target in (4, 3, 2, 1):
            draft = lower(original, {dimension: target}, truth, unlikely, yardstick, rng)
            yield from row(f"{dimension}.{target}", draft, {dimension: target})
    for number in range(MIXED_ROWS):
        targets = {dimension: int(rng.integers(1, 6)) for dimension in DIMENSIONS}
        yield from row(f"mixed.{number}", lower(original, targets, truth, unlikely, yardstick, rng), targets)
    if borrowed is not None and borrowed.reasoning is not None:
        said = borrowed.reasoning.text
        for made in row("borrowed", Draft(said, 0.0, said), {}):
            yield made | {"lender": borrowed.id}


def lower(
    draft: Draft,
    targets: Mapping[str, int],
    truth: str,
    unlikely: Sequence[str],
    yardstick: Yardstick,
    rng: np.random.Generator,
) -> Draft:
    """Bring a reasoning down to the targets, in the order in which the dimensions do not disturb one another.

    A dimension whose target the text does not allow, or whose target is 5, stays as it is.
    """
    text, sound = draft.text, draft.sound_share
    if targets.get(COMPLETENESS, 5) < 5:
        text = _less_complete(text, targets[COMPLETENESS], yardstick, rng) or text
    if targets.get(FACTS, 5) < 5:
        text = _less_true(text, targets[FACTS], yardstick, rng) or text
    if targets.get(INTERPRETATION, 5) < 5:
        total = interpretations(text)
        fitting = [k for k in range(1, total + 1) if score(INTERPRETATION, 1 - k / total) == targets[INTERPRETATION]]
        if fitting:
            text = reverse_interpretation(text, fitting[0], truth, unlikely, rng)
            sound = 1 - fitting[0] / total
    undisturbed = text
    if targets.get(FLUENCY, 5) < 5:
        text = disturb(text, *_band(FLUENCY, targets[FLUENCY]), rng) or text
    return Draft(text, sound, undisturbed)


def rate(draft: Draft, yardstick: Yardstick) -> tuple[dict[str, int], dict[str, Any]]:
    """The four scores of a text, and the measurements that they come from."""
    checked = _check(draft.undisturbed, yardstick)
    shares = {
        FACTS: supported_share(draft.undisturbed, yardstick),
        INTERPRETATION: draft.sound_share,
        COMPLETENESS: stated_share(draft.undisturbed, yardstick),
        FLUENCY: kept_pairs(draft.undisturbed, draft.text),
    }
    measured = {
        "supported_share": shares[FACTS],
        "checkable_claims": sum(item.verdict != "not measurable" for item in checked),
        "contradicted_claims": sum(item.verdict == "contradicted" for item in checked),
        "sound_share": shares[INTERPRETATION],
        "stated_cues": len(stated_cues(draft.undisturbed)),
        "stated_share": shares[COMPLETENESS],
        "kept_word_pairs": shares[FLUENCY],
    }
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in measured.items()}
    return {dimension: score(dimension, share) for dimension, share in shares.items()}, rounded


def _less_complete(text: str, target: int, yardstick: Yardstick, rng: np.random.Generator) -> str | None:
    cues = sorted(yardstick.cues)
    options = [some for count in range(1, len(cues)) for some in combinations(cues, count)]
    fitting = [some for some in options if score(COMPLETENESS, 1 - len(some) / len(cues)) == target]
    for index in rng.permutation(len(fitting))[:DROP_ATTEMPTS]:
        shorter = drop_cues(text, fitting[index])
        if shorter is None or score(COMPLETENESS, stated_share(shorter, yardstick)) != target:
            continue
        # What is left must still be something that can be true or false.
        if supported_share(shorter, yardstick) == 1.0:
            return shorter
    return None


def _less_true(text: str, target: int, yardstick: Yardstick, rng: np.random.Generator) -> str | None:
    """Give cues levels that the recording contradicts, one after the other, until the share of true claims fits."""
    checked = _check(text, yardstick)
    cues = sorted({item.claim.cue for item in checked if item.verdict == "supported"})
    for index in rng.permutation(len(cues)):
        share = supported_share(text, yardstick)
        if share is not None and score(FACTS, share) <= target:
            break
        text = _with_false_level(text, cues[index], yardstick, rng) or text
    share = supported_share(text, yardstick)
    return text if share is not None and score(FACTS, share) == target else None


def _with_false_level(text: str, name: str, yardstick: Yardstick, rng: np.random.Generator) -> str | None:
    cue = CUE_BY_NAME[name]
    value = yardstick.prosody.measures[cue.measure].value
    if value is None:
        return None
    wrong = [n for n in cue.levels if distance_outside(cue, n, value, yardstick.thresholds) > cue.uncertainty]
    for index in rng.permutation(len(wrong)):
        changed = restate(text, name, wrong[index], rng)
        verdicts = {item.verdict for item in _check(changed or "", yardstick) if item.claim.cue == name}
        if changed is not None and verdicts == {"contradicted"}:
            return changed
    return None


def _check(text: str, yardstick: Yardstick):
    return check_claims(claims_of(text), yardstick.prosody, yardstick.thresholds)


def _checked_reasoning(record: Record) -> tuple[str, str]:
    if record.reasoning is None:
        raise CannotRateError("no reasoning")
    if record.emotion is None:
        raise CannotRateError("no emotion")
    if record.measures is None or record.levels is None:
        raise CannotRateError("not measured and calibrated")
    return record.reasoning.text, record.emotion


def _unlikely(record: Record, truth: str, table: CueEmotionTable) -> list[str]:
    levels = {name: level.level for name, level in (record.levels or {}).items() if level.level and name in CUE_BY_NAME}
    ranked = [name for name, _ in reversed(table.rank(levels)) if name != truth]
    return ranked[: max(1, len(ranked) // 2)]


def _band(dimension: str, target: int) -> tuple[float, float]:
    bounds = (0.0, *BANDS[dimension], 1.0)
    return bounds[target - 1], bounds[target]


def _row(
    record: Record, split: str, audio: str, name: str, draft: Draft, yardstick: Yardstick, targets: Mapping[str, int]
) -> Row:
    scores, measured = rate(draft, yardstick)
    return {
        "id": name,
        "task": "reward",
        "split": split,
        "speaker": record.speaker,
        "sources": [record.id],
        "audio": [audio],
        "messages": [
            user_message([audio], RUBRIC.format(reasoning=draft.text)),
            assistant_message(json.dumps(scores)),
        ],
        "reasoning": draft.text,
        "emotion": record.emotion,
        "scores": scores,
        "lender": None,
        "targets": {dimension: targets.get(dimension) for dimension in DIMENSIONS},
        "measured": measured,
    }
