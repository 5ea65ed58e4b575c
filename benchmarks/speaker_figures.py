"""Figures of merit over analysed clips: answers, claims and their controls, and what edits of the audio change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import and_
from statistics import mean
from typing import Any

import numpy as np
from common import share
from edits import COUNTERFACTUALS, NULL_EDITS

from edge_emotion.claims import CheckedClaim, Claim, check_claims
from edge_emotion.cues import CUE_BY_NAME, Thresholds
from edge_emotion.metrics import (
    accuracy,
    bootstrap_interval,
    confusion_matrix,
    expected_calibration_error,
    unweighted_average_recall,
)
from edge_emotion.prosody import Contour, Prosody
from edge_emotion.result import EmotionResult

FEW_CLAIMS = 3


@dataclass(frozen=True)
class Heard:
    """One clip: what it is, and what was found in it, in its edits, and under the controls.

    Attributes:
        clip: Name of the clip.
        speaker: Who speaks.
        truth: The emotion that was acted.
        own: The ordinary analysis.
        edited: Analyses of its edits.
        removed: The language model read the prompt without audio.
        exchanged: The language model heard the embeddings of the clip `partner`.
        partner: Index of that clip among all.
    """

    clip: str
    speaker: str
    truth: str
    own: EmotionResult
    edited: Mapping[str, EmotionResult]
    removed: EmotionResult
    exchanged: EmotionResult
    partner: int


# --- answers ---------------------------------------------------------------------------------------------------------


def answer_figures(
    truth: Sequence[str], distributions: Sequence[Mapping[str, float]], labels: Sequence[str], seed: int
) -> dict[str, Any]:
    """UAR and accuracy with intervals, recalls, confusion and calibration; no answer is a wrong answer."""
    answers = [_most_likely(shares) for shares in distributions]
    counts = confusion_matrix(truth, answers, labels)  # type: ignore[arg-type]
    said = [list(truth).count(label) for label in labels]
    answered = [index for index, shares in enumerate(distributions) if shares]
    return {
        "uar": _with_interval(unweighted_average_recall, truth, answers, seed),
        "accuracy": _with_interval(accuracy, truth, answers, seed),
        "ece": round(
            expected_calibration_error(
                [[distributions[i][label] for label in labels] for i in answered],
                [list(labels).index(truth[i]) for i in answered],
            ),
            4,
        )
        if answered
        else None,
        "recall": {label: round(counts[i, i] / said[i], 4) for i, label in enumerate(labels) if said[i]},
        "confusion": {label: dict(zip(labels, counts[i].tolist(), strict=True)) for i, label in enumerate(labels)},
        "no_answer": len(truth) - len(answered),
    }


def _with_interval(statistic: Any, truth: Sequence[str], answers: Sequence[Any], seed: int) -> dict[str, Any]:
    interval = bootstrap_interval(statistic, truth, answers, seed=seed)
    return {"value": round(statistic(truth, answers), 4), "interval_95": [round(bound, 4) for bound in interval]}


def doubt_figures(heard: Sequence[Heard], seed: int) -> dict[str, Any]:
    """How often a result calls itself uncertain, and how right it is when it does and does not."""
    ones, agreed = [1] * len(heard), [bool(item.own.agreement) for item in heard]
    uncertain = [item.own.uncertain for item in heard]
    certain = [not item.own.uncertain for item in heard]
    right = [item.own.label == item.truth for item in heard]
    return {
        "uncertain": share(uncertain, ones, seed),
        "right_when_certain": share([*map(and_, right, certain)], certain, seed),
        "right_when_uncertain": share([*map(and_, right, uncertain)], uncertain, seed),
        "head_and_language_model_agree": share(agreed, ones, seed),
    }


# --- claims ----------------------------------------------------------------------------------------------------------


def claim_figures(claims: Sequence[Sequence[CheckedClaim]], seed: int) -> dict[str, Any]:
    """Share of checkable claims that the measures support, and how many claims an explanation makes."""
    checkable = [_checkable(items) for items in claims]
    counts = [len(items) for items in checkable]
    cues = [len({item.claim.cue for item in items}) for items in checkable]
    spoken_of = sorted({item.claim.cue for items in checkable for item in items})
    return {
        "supported": share([_supported(items) for items in checkable], counts, seed),
        "exact_level": share([_exact(items) for items in checkable], counts, seed),
        "claims_per_explanation": round(mean(map(len, claims)), 3),
        "checkable_per_explanation": round(mean(counts), 3),
        "cues_per_explanation": round(mean(cues), 3),
        f"at_least_{FEW_CLAIMS}_checkable": share([n >= FEW_CLAIMS for n in counts], [1] * len(counts), seed),
        "not_measurable": sum(map(len, claims)) - sum(counts),
        "by_cue": {cue: _claims_of_cue(checkable, cue, seed) for cue in spoken_of},
    }


def _claims_of_cue(checkable: Sequence[Sequence[CheckedClaim]], cue: str, seed: int) -> dict[str, Any]:
    of_cue = [[item for item in items if item.claim.cue == cue] for items in checkable]
    supported = share([_supported(items) for items in of_cue], [len(items) for items in of_cue], seed)
    return supported | {"exact": sum(map(_exact, of_cue))}


def shuffled_figures(results: Sequence[EmotionResult], thresholds: Thresholds, seed: int) -> dict[str, Any]:
    """Every explanation checked against every other clip: the exact mean over all ways to pair them at random."""
    measured = [_prosody(result) for result in results]
    checked = [
        [
            item
            for other, prosody in enumerate(measured)
            if other != index
            for item in check_claims([item.claim for item in result.claims], prosody, thresholds)
        ]
        for index, result in enumerate(results)
    ]
    checkable = [_checkable(items) for items in checked]
    counts = [len(items) for items in checkable]
    cues = sorted({item.claim.cue for items in checkable for item in items})
    return {
        "supported": share([_supported(items) for items in checkable], counts, seed),
        "exact_level": share([_exact(items) for items in checkable], counts, seed),
        "by_cue": {cue: _claims_of_cue(checkable, cue, seed) for cue in cues},
    }


def control_figures(heard: Sequence[Heard], thresholds: Thresholds, seed: int) -> dict[str, Any]:
    """What is left when the explanation, or the audio behind it, belongs to another clip or to none."""
    truth = [item.truth for item in heard]
    exchanged, removed = [item.exchanged for item in heard], [item.removed for item in heard]
    return {
        "explanation_of_another_clip": shuffled_figures([item.own for item in heard], thresholds, seed),
        "embeddings_of_another_clip": {
            **_under_control(truth, exchanged, seed),
            # What the language model says must come from the embeddings alone.
            "same_words_as_that_clip": share(
                [item.exchanged.reasoning == heard[item.partner].own.reasoning for item in heard],
                [1] * len(heard),
                seed,
            ),
        },
        "embeddings_removed": {
            **_under_control(truth, removed, seed),
            "different_explanations": len({item.reasoning for item in removed}),
        },
    }


def _under_control(truth: Sequence[str], results: Sequence[EmotionResult], seed: int) -> dict[str, Any]:
    claims = claim_figures([result.claims for result in results], seed)
    answer = _with_interval(unweighted_average_recall, truth, [result.label for result in results], seed)
    return {key: claims[key] for key in ("supported", "exact_level", "checkable_per_explanation")} | {
        "answer_uar": answer
    }


def _prosody(result: EmotionResult) -> Prosody:
    nothing = np.zeros(0)
    return Prosody({measure.name: measure for measure in result.evidence}, Contour(nothing, nothing, nothing))


def _checkable(claims: Sequence[CheckedClaim]) -> list[CheckedClaim]:
    return [item for item in claims if item.verdict != "not measurable"]


def _supported(claims: Sequence[CheckedClaim]) -> int:
    return sum(item.verdict == "supported" for item in claims)


def _exact(claims: Sequence[CheckedClaim]) -> int:
    return sum(item.measured_level == item.claim.level for item in claims)


# --- edits that must move a claim ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Move:
    """How the level of a cue moved between two recordings: 1 with the edit, 0 not, -1 against it, None not known.

    Attributes:
        measured: The level that was measured; None where it could not be.
        claimed: The level that was claimed; None where one of the explanations does not speak of it.
    """

    measured: int | None
    claimed: int | None


def move_between(before: EmotionResult, after: EmotionResult, cue: str, direction: int, thresholds: Thresholds) -> Move:
    """The move of measured and claimed level of one cue, seen in the edit's direction."""
    return Move(
        _sign(_measured_level(before, cue, thresholds), _measured_level(after, cue, thresholds), direction),
        _sign(_claimed_level(before, cue), _claimed_level(after, cue), direction),
    )


def counterfactual_figures(heard: Sequence[Heard], thresholds: Thresholds, seed: int) -> dict[str, Any]:
    """Does the matching claim follow an edit? Per edit, per cue, over all, and between the two opposite edits."""
    moves = {
        name: [move_between(item.own, item.edited[name], edit.cue, edit.direction, thresholds) for item in heard]
        for name, edit in COUNTERFACTUALS.items()
    }
    cues = sorted({edit.cue for edit in COUNTERFACTUALS.values()})
    of_cue = {cue: [name for name, edit in COUNTERFACTUALS.items() if edit.cue == cue] for cue in cues}
    return {
        "all_edits": move_figures(list(moves.values()), seed),
        "by_cue": {cue: move_figures([moves[name] for name in names], seed) for cue, names in of_cue.items()},
        "by_edit": {name: move_figures([items], seed) for name, items in moves.items()},
        "lowered_to_raised": {
            cue: move_figures([_between_opposites(heard, cue, names, thresholds)], seed)
            for cue, names in of_cue.items()
        },
        "claims_supported_after_edit": {
            name: claim_figures([item.edited[name].claims for item in heard], seed)["supported"]
            for name in COUNTERFACTUALS
        },
    }


def move_figures(edits: Sequence[Sequence[Move]], seed: int) -> dict[str, Any]:
    """Counts and shares of moves.

    Args:
        edits: For each edit the moves of all clips, in the same order.
        seed: Seed of the intervals.

    Returns:
        `right` (with interval), `stays` and `wrong`: of the pairs whose measured level changes and of which both
        explanations state the level. `all_pairs`: the same over all pairs, and those that are `not_stated`.
    """
    per_clip = list(zip(*edits, strict=True))
    counted = [[m for m in moves if m.measured and m.claimed is not None] for moves in per_clip]
    every = [move for moves in per_clip for move in moves]
    return {
        "pairs": len(every),
        "measured_level_moves": sum(bool(move.measured) for move in every),
        "measured_level_moves_against_the_edit": sum(move.measured == -1 for move in every),
        "and_stated_in_both": sum(map(len, counted)),
        "right": share([sum(m.claimed == 1 for m in moves) for moves in counted], list(map(len, counted)), seed),
        "stays": sum(m.claimed == 0 for moves in counted for m in moves),
        "wrong": sum(m.claimed == -1 for moves in counted for m in moves),
        "all_pairs": {
            "right": share([sum(m.claimed == 1 for m in ms) for ms in per_clip], list(map(len, per_clip)), seed),
            "stays": sum(move.claimed == 0 for move in every),
            "wrong": sum(move.claimed == -1 for move in every),
            "not_stated": sum(move.claimed is None for move in every),
        },
    }


def _between_opposites(heard: Sequence[Heard], cue: str, names: Sequence[str], thresholds: Thresholds) -> list[Move]:
    lowered, raised = sorted(names, key=lambda name: COUNTERFACTUALS[name].direction)
    return [move_between(item.edited[lowered], item.edited[raised], cue, 1, thresholds) for item in heard]


def _sign(before: float | None, after: float | None, direction: int) -> int | None:
    return None if before is None or after is None else int(np.sign(after - before)) * direction


def _measured_level(result: EmotionResult, cue: str, thresholds: Thresholds) -> int | None:
    """Index of the level that a claim about the cue would be checked against."""
    levels = CUE_BY_NAME[cue].levels
    (checked,) = check_claims([Claim(cue, levels[0], 0, 0, "")], _prosody(result), thresholds)
    return None if checked.measured_level is None else levels.index(checked.measured_level)


def _claimed_level(result: EmotionResult, cue: str) -> float | None:
    """Index of the level that is claimed; the middle where there are several."""
    levels = [CUE_BY_NAME[cue].levels.index(item.claim.level) for item in result.claims if item.claim.cue == cue]
    return mean(levels) if levels else None


# --- edits that must move nothing ------------------------------------------------------------------------------------


def null_figures(heard: Sequence[Heard], seed: int) -> dict[str, Any]:
    """Share of clips whose label and claims an edit leaves as they are: per edit, over all, and under all at once."""
    kept = {name: [_kept(item.own, item.edited[name]) for item in heard] for name in NULL_EDITS}
    per_clip = list(zip(*kept.values(), strict=True))
    untouched = [all(one["label_and_claims"] for one in edits) for edits in per_clip]
    return {
        "all_edits": _kept_shares(per_clip, seed),
        "by_edit": {name: _kept_shares([[one] for one in of_edit], seed) for name, of_edit in kept.items()},
        "clips_that_no_edit_changes": share(untouched, [1] * len(heard), seed),
    }


def _kept_shares(per_clip: Sequence[Sequence[Mapping[str, bool]]], seed: int) -> dict[str, Any]:
    totals = [len(edits) for edits in per_clip]
    return {
        what: share([sum(one[what] for one in edits) for edits in per_clip], totals, seed)
        for what in ("label", "head_label", "claims", "label_and_claims", "words")
    }


def _kept(before: EmotionResult, after: EmotionResult) -> dict[str, bool]:
    label, claims = before.label == after.label, claim_set(before) == claim_set(after)
    return {
        "label": label,
        "head_label": head_label(before) == head_label(after),
        "claims": claims,
        "label_and_claims": label and claims,
        "words": before.reasoning == after.reasoning,
    }


def claim_set(result: EmotionResult) -> frozenset[tuple[str, str]]:
    """What an explanation claims, whatever its words: pairs of cue and level."""
    return frozenset((item.claim.cue, item.claim.level) for item in result.claims)


def head_label(result: EmotionResult) -> str | None:
    """The answer of the encoder's head."""
    return _most_likely(result.head_distribution)


def _most_likely(shares: Mapping[str, float]) -> str | None:
    return max(shares, key=shares.__getitem__) if shares else None
