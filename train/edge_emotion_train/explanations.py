"""Training texts: reasoning from measured cues that the model can be expected to hear, then the answer.

A cue is written with its *measured* level, and only where out-of-fold evidence says it can be heard with confidence and
agrees with the measurement. So the model learns both to tell the truth and to leave out what it is not sure of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_emotion.claims import parse_claims
from edge_emotion.cues import CUE_BY_NAME, Thresholds, distance_outside, level_of

from .evidence import support_probability
from .features import FeatureRow
from .reasoning import CueEmotionTable, write_reasoning


@dataclass(frozen=True)
class SpeakingRule:
    """Which cues an explanation mentions.

    Attributes:
        always: Cues that every explanation mentions, so that two recordings can be compared by them.
        confidence: Least probability that a claim of another cue is supported.
        fewest: As many cues are mentioned even below `confidence`, the surest first.
        most: Never more than this.
    """

    always: tuple[str, ...] = ()
    confidence: float = 0.9
    fewest: int = 3
    most: int = 5


def value_at(cue_name: str, position: float) -> float:
    """The measure's value at a position on its cue's scale (inverse of `Cue.position`)."""
    return 100.0 * 2.0 ** (position / 12.0) if CUE_BY_NAME[cue_name].scale == "semitones" else position


def cues_to_mention(
    measured: Mapping[str, float],
    predicted: Mapping[str, float],
    deviation: Mapping[str, float],
    thresholds: Thresholds,
    rule: SpeakingRule,
) -> dict[str, str]:
    """Cue names to measured levels, in the order of `predicted`.

    A fixed order leaves the model one question per cue, to mention it or not, instead of a race between orders that a
    rounding error can decide.

    Args:
        measured: Measured positions of the cues.
        predicted: Positions heard from the audio out of fold.
        deviation: Usual error of `predicted`, per cue.
        thresholds: Cut points.
        rule: How sure one must be.
    """
    surest: list[tuple[float, str, str]] = []
    for name, position in predicted.items():
        cue = CUE_BY_NAME[name]
        options = [
            (support_probability(cue, level, position, deviation[name], thresholds), level) for level in cue.levels
        ]
        probability, level = max(options)
        surest.append((probability, name, level))
    mentioned = {
        name: level_of(CUE_BY_NAME[name], value_at(name, measured[name]), thresholds)
        for name in rule.always
        if name in measured
    }
    for probability, name, heard_level in sorted(surest, reverse=True):
        if len(mentioned) >= rule.most or (len(mentioned) >= rule.fewest and probability < rule.confidence):
            break
        cue = CUE_BY_NAME[name]
        if name not in measured or name in mentioned:
            continue
        value = value_at(name, measured[name])
        if distance_outside(cue, heard_level, value, thresholds) <= cue.uncertainty:
            mentioned[name] = level_of(cue, value, thresholds)
    return {name: mentioned[name] for name in predicted if name in mentioned}


@dataclass(frozen=True)
class Explanation:
    """A training text: think part, answer, and which characters of the think part state a cue."""

    reasoning: str
    label: str | None
    cue_spans: tuple[tuple[int, int], ...]


def write_explanations(
    rows: Sequence[FeatureRow],
    predicted: np.ndarray,
    deviation: np.ndarray,
    cues: Sequence[str],
    thresholds: Thresholds,
    table: CueEmotionTable,
    labels: Sequence[str],
    answer_corpora: Sequence[str],
    rule: SpeakingRule,
    texts_per_row: int,
    seed: int,
) -> list[list[Explanation]]:
    """Several explanations of every row; empty for a row in which too little can be heard.

    Args:
        rows: `n` rows.
        predicted: Out-of-fold positions `(n, cues)` on the cues' own scales.
        deviation: Their root mean square errors `(cues,)`.
        table: Which emotions the cue levels alone would suggest.
        answer_corpora: Corpora whose emotion becomes the answer; the others teach hearing only.
    """
    deviations = dict(zip(cues, deviation, strict=True))
    written: list[list[Explanation]] = []
    for index, row in enumerate(rows):
        rng = np.random.default_rng([seed, index])
        mentioned = cues_to_mention(
            row.positions, dict(zip(cues, predicted[index], strict=True)), deviations, thresholds, rule
        )
        label = row.emotion if row.corpus in answer_corpora and row.emotion in labels else None
        if len(mentioned) < 2:
            written.append([])
            continue
        candidates = tuple(name for name, _ in table.rank(mentioned)[:2])
        texts = [write_reasoning(mentioned, candidates, label or candidates[0], rng) for _ in range(texts_per_row)]
        written.append(
            [
                Explanation(text, label, tuple((claim.start, claim.end) for claim in parse_claims(text)))
                for text in texts
            ]
        )
    return written
