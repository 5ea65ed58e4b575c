"""Rewards of one reply, as pure functions: format, outcome, reasoning; and the same as columns for trl.

Formulas: EmotionThinker (arXiv 2601.15668). Whether a reply is well formed and whether it is right are the definitions
of `edge_emotion.answer`, which evaluation uses as well. Who judges a reasoning is in `judges.py` and `llm_judge.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_emotion.answer import is_correct, parse_response
from edge_emotion.cues import Thresholds
from edge_emotion.labels import EMOTIONS, names_of, normalise_label

DIMENSIONS = (
    "factual_alignment",
    "interpretative_quality",
    "caption_completeness",
    "fluency_and_structural_clarity",
)
# The paper does not give its weights w_j; equal ones are the plainest choice.
EQUAL_WEIGHTS = (0.25, 0.25, 0.25, 0.25)
# Quadrants of Russell's circumplex (1980); boredom lies next to neutral on it.
NEAR_MISSES = (
    frozenset({"anger", "fear", "disgust"}),
    frozenset({"happiness", "surprise"}),
    frozenset({"sadness", "boredom"}),
    frozenset({"neutral", "boredom"}),
)
_HEDGED = re.compile(r"\b(but|yet|however|although|though|does not settle|do not point)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Heard:
    """What was measured in the recording that a reply speaks of.

    Attributes:
        positions: Cue name to its measured value on the cue's own scale; a cue that could not be measured reliably is
            absent.
        thresholds: Cut points between the levels.
        transcript: The words spoken, empty when unknown.
        audio: The recording as a judge that listens takes it (`reward_model.readers`), None where none does.
    """

    positions: Mapping[str, float]
    thresholds: Thresholds
    transcript: str = ""
    audio: Any = None


@dataclass(frozen=True)
class Reply:
    """A reasoning to be judged, with the answer it led to."""

    reasoning: str
    label: str | None
    heard: Heard


Scores = tuple[float, float, float, float]
"""Points of the four dimensions, each 1..5, in the order of `DIMENSIONS`."""
Judge = Callable[[Sequence[Reply]], "list[Scores | None]"]
"""Scores replies; None where a reply could not be judged."""


def format_reward(text: str, labels: Sequence[str]) -> float:
    """1 when the reply follows `<think> ... </think><answer> label </answer>` and names one of the labels, else 0."""
    return float(parse_response(text, labels).well_formed)


def outcome_reward(text: str, emotion: str, labels: Sequence[str], near_miss: float = 0.0) -> float:
    """1 for the true emotion, `near_miss` (below 1) for a neighbour on the circumplex, else 0."""
    label = parse_response(text, labels).label
    if is_correct(label, emotion):
        return 1.0
    return near_miss if label is not None and near_misses(label, emotion) else 0.0


def near_misses(label: str, emotion: str) -> bool:
    """Whether two different emotions are neighbours, which people confuse most."""
    try:
        pair = {normalise_label(label), normalise_label(emotion)}
    except ValueError:
        return False
    return len(pair) == 2 and any(pair <= neighbours for neighbours in NEAR_MISSES)


def reasoning_reward(scores: Scores, weights: Sequence[float] = EQUAL_WEIGHTS) -> float:
    """`sum_j w_j g_j / 5` of points 1..5, hence 0.2..1."""
    return sum(weight * points / 5.0 for weight, points in zip(weights, scores, strict=True))


def named_emotions(text: str) -> frozenset[str]:
    """The emotions of `EMOTIONS` that a text names in words."""
    lowered = text.casefold()
    return frozenset(
        emotion
        for emotion in EMOTIONS
        if any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", lowered) for name in names_of(emotion))
    )


def consistency(reasoning: str, label: str | None) -> float:
    """How well the answer follows from the reasoning's words, 0..1.

    1 when the reasoning names the answer, 0.5 when it names no emotion or says that it does not settle, 0 when it names
    others only, or when there is no answer.
    """
    if label is None:
        return 0.0
    named = named_emotions(reasoning)
    if any(is_correct(label, emotion) for emotion in named):
        return 1.0
    return 0.5 if not named or _HEDGED.search(reasoning) else 0.0


def mixed_reasoning(
    replies: Sequence[Reply],
    judges: Sequence[tuple[Judge, float]],
    weights: Sequence[float] = EQUAL_WEIGHTS,
    consistency_share: float = 0.0,
) -> tuple[list[float | None], list[Scores | None]]:
    """Reasoning rewards of replies, and the mean scores they are made of.

    Args:
        replies: What is judged.
        judges: Judges with their weights. Where one gives nothing, the others count alone; where none does, the reward
            is None.
        weights: Weights of the dimensions, summing to 1.
        consistency_share: Share of the reward that `consistency` takes instead, 0..1 (not in the paper).
    """
    given = [(judge(replies), weight) for judge, weight in judges]
    rewards: list[float | None] = []
    means: list[Scores | None] = []
    for index, reply in enumerate(replies):
        found = [(scores[index], weight) for scores, weight in given if scores[index] is not None]
        total = sum(weight for _, weight in found)
        if not total:
            rewards.append(None)
            means.append(None)
            continue
        mean = [sum(scores[i] * weight for scores, weight in found if scores) / total for i in range(len(DIMENSIONS))]
        points: Scores = (mean[0], mean[1], mean[2], mean[3])
        agreed = consistency(reply.reasoning, reply.label)
        # On the judges' scale, so that the mixture stays within 0.2..1.
        agreed = 0.2 + 0.8 * agreed
        rewards.append((1.0 - consistency_share) * reasoning_reward(points, weights) + consistency_share * agreed)
        means.append(points)
    return rewards, means


def reply_text(completion: Any, opening: str) -> str:
    """The whole reply of a completion as trl hands it over, with what the prompt already wrote of it."""
    text = completion if isinstance(completion, str) else "".join(str(message["content"]) for message in completion)
    return opening + text


def reward_columns(
    labels: Sequence[str],
    heard: Mapping[str, Heard],
    judges: Sequence[tuple[Judge, float]],
    *,
    opening: str = "",
    weights: Sequence[float] = EQUAL_WEIGHTS,
    near_miss: float = 0.0,
    consistency_share: float = 0.0,
) -> list[Callable[..., list[float | None]]]:
    """The three rewards as trl calls them, over the columns `id` and `emotion` of its data set.

    Args:
        labels: Emotions that may be answered.
        heard: What was measured, by the column `id`.
        judges: See `mixed_reasoning`.
        opening: What the prompt already wrote of a reply, such as `<think>`.
        weights: Weights of the reasoning's dimensions.
        near_miss: Outcome reward of a neighbouring emotion.
        consistency_share: See `mixed_reasoning`.
    """

    def format(completions: Sequence[Any], **_: Any) -> list[float | None]:
        return [format_reward(reply_text(completion, opening), labels) for completion in completions]

    def outcome(completions: Sequence[Any], emotion: Sequence[str], **_: Any) -> list[float | None]:
        texts = [reply_text(completion, opening) for completion in completions]
        return [outcome_reward(text, truth, labels, near_miss) for text, truth in zip(texts, emotion, strict=True)]

    def reasoning(
        completions: Sequence[Any], id: Sequence[str], log_metric: Callable[[str, float], None], **_: Any
    ) -> list[float | None]:
        replies = []
        for completion, key in zip(completions, id, strict=True):
            response = parse_response(reply_text(completion, opening), labels)
            replies.append(Reply(response.reasoning, response.label, heard[key]))
        rewards, scores = mixed_reasoning(replies, judges, weights, consistency_share)
        _log_scores(scores, replies, log_metric)
        return rewards

    return [format, outcome, reasoning]


def _log_scores(
    scores: Sequence[Scores | None], replies: Sequence[Reply], log_metric: Callable[[str, float], None]
) -> None:
    judged = [points for points in scores if points is not None]
    for index, name in enumerate(DIMENSIONS):
        if judged:
            log_metric(f"judge/{name}", math.fsum(points[index] for points in judged) / len(judged))
    log_metric("judge/missing", 1.0 - len(judged) / len(scores))
    agreement = [consistency(reply.reasoning, reply.label) for reply in replies]
    log_metric("judge/consistency", math.fsum(agreement) / len(agreement))
