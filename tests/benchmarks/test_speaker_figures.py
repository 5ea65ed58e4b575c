"""Figures of invented results whose answer is known by hand."""

from __future__ import annotations

import pytest

pytest.importorskip("parselmouth", reason="praat-parselmouth is not installed")

from common import share
from edits import COUNTERFACTUALS, EDITS, NULL_EDITS
from speaker_figures import (
    Heard,
    Move,
    answer_figures,
    claim_figures,
    control_figures,
    counterfactual_figures,
    doubt_figures,
    move_figures,
    null_figures,
    shuffled_figures,
)

from edge_emotion.claims import check_claims, faithfulness, parse_claims
from edge_emotion.cues import Thresholds
from edge_emotion.prosody import Contour, Measure, Prosody
from edge_emotion.result import Coverage, EmotionResult

THRESHOLDS = Thresholds({"pitch": (120.0, 160.0, 220.0, 300.0), "rate": (4.0, 5.0)}, "a test")
LABELS = ("anger", "sadness")
HIGH_AND_FAST, LOW_AND_SLOW = "The pitch is high and the speech is fast.", "The pitch is low and the speech is slow."


def result_of(text: str, f0_hz: float, rate_per_s: float, label: str = "anger") -> EmotionResult:
    measures = (
        Measure("f0_median_hz", f0_hz, "Hz", 0.0, 1.0, 1.0),
        Measure("syllable_rate_per_s", rate_per_s, "1/s", 0.0, 1.0, 1.0),
    )
    prosody = Prosody({measure.name: measure for measure in measures}, Contour(*([] for _ in range(3))))  # type: ignore[arg-type]
    claims = check_claims(parse_claims(text), prosody, THRESHOLDS)
    distribution = {name: 0.8 if name == label else 0.2 for name in LABELS}
    return EmotionResult(
        source="a test", duration_s=1.0, label=label, distribution=distribution, confidence=0.8, uncertain=False,
        uncertain_reasons=(), head_distribution={"anger": 0.6, "sadness": 0.4}, agreement=label == "anger",
        reasoning=text, claims=claims, faithfulness=faithfulness(claims), evidence=measures, windows=(),
        coverage=Coverage(((0.0, 1.0),), ()), timing_s={}, runtime={}, bundle={}, warnings=(),
    )  # fmt: skip


def heard_of(own: EmotionResult, truth: str, partner: int, other: EmotionResult, **edited: EmotionResult) -> Heard:
    return Heard("a clip", "a speaker", truth, own, dict.fromkeys(EDITS, own) | edited, own, other, partner)


def test_share_counts_and_its_interval_holds_the_share():
    figure = share([1, 0, 3], [2, 0, 4])
    assert (figure["share"], figure["hits"], figure["of"]) == (pytest.approx(4 / 6, abs=1e-4), 4, 6)
    low, high = figure["interval_95"]
    assert 0.5 <= low <= figure["share"] <= high <= 0.75
    assert share([0, 0], [0, 0]) == {"share": None, "interval_95": None, "hits": 0, "of": 0}


def test_no_answer_is_a_wrong_answer():
    shares = [{"anger": 0.9, "sadness": 0.1}, {}, {"anger": 0.3, "sadness": 0.7}]
    figures = answer_figures(["anger", "anger", "sadness"], shares, LABELS, 0)
    assert figures["recall"] == {"anger": 0.5, "sadness": 1.0}
    assert figures["uar"]["value"] == 0.75
    assert figures["confusion"]["anger"] == {"anger": 1, "sadness": 0}
    assert figures["no_answer"] == 1
    assert figures["ece"] == pytest.approx((0.1 + 0.3) / 2)


def test_claims_are_counted_as_checked():
    true, near, wrong = (
        result_of(HIGH_AND_FAST, 250.0, 5.5),
        result_of(HIGH_AND_FAST, 217.0, 5.5),  # medium, a quarter of a semitone below high
        result_of(HIGH_AND_FAST, 250.0, 3.5),
    )
    figures = claim_figures([result.claims for result in (true, near, wrong)], 0)
    assert (figures["supported"]["hits"], figures["exact_level"]["hits"], figures["supported"]["of"]) == (5, 4, 6)
    assert figures["checkable_per_explanation"] == 2
    assert figures["at_least_3_checkable"]["share"] == 0.0
    assert figures["by_cue"]["rate"]["hits"] == 2


def test_an_explanation_that_fits_its_own_clip_fails_the_shuffled_control():
    results = [result_of(HIGH_AND_FAST, 250.0, 5.5), result_of(LOW_AND_SLOW, 130.0, 3.5)]
    assert claim_figures([result.claims for result in results], 0)["supported"]["share"] == 1.0
    shuffled = shuffled_figures(results, THRESHOLDS, 0)["supported"]
    assert (shuffled["share"], shuffled["of"]) == (0.0, 4)


def test_controls_hold_another_clips_words_against_this_clip():
    high, low = result_of(HIGH_AND_FAST, 250.0, 5.5), result_of(LOW_AND_SLOW, 130.0, 3.5, "sadness")
    heard = [
        heard_of(high, "anger", 1, result_of(LOW_AND_SLOW, 250.0, 5.5, "sadness")),
        heard_of(low, "sadness", 0, result_of("The pitch is high.", 130.0, 3.5, "anger")),
    ]
    exchanged = control_figures(heard, THRESHOLDS, 0)["embeddings_of_another_clip"]
    assert exchanged["supported"]["share"] == 0.0
    assert exchanged["answer_uar"]["value"] == 0.0
    assert exchanged["same_words_as_that_clip"]["hits"] == 1
    removed = control_figures(heard, THRESHOLDS, 0)["embeddings_removed"]
    assert (removed["supported"]["share"], removed["different_explanations"]) == (1.0, 2)


def test_a_claim_that_follows_the_edit_is_right_in_both_directions():
    own = result_of("The pitch is medium.", 200.0, 4.5)
    heard = heard_of(
        own,
        "anger",
        0,
        own,
        pitch_plus_4_st=result_of("The pitch is high.", 252.0, 4.5),
        pitch_minus_4_st=result_of("The pitch is high.", 158.0, 4.5),
        rate_plus_25_percent=result_of("The speech is fast.", 200.0, 5.6),
    )
    figures = counterfactual_figures([heard], THRESHOLDS, 0)
    assert figures["by_edit"]["pitch_plus_4_st"]["right"]["share"] == 1.0
    assert figures["by_edit"]["pitch_minus_4_st"]["wrong"] == 1
    assert figures["by_cue"]["pitch"]["right"]["share"] == 0.5
    # The rate was not spoken of before; and its measured level stays when the clip is as it was.
    rate = figures["by_cue"]["rate"]
    assert (rate["pairs"], rate["measured_level_moves"], rate["and_stated_in_both"]) == (2, 1, 0)
    assert rate["all_pairs"]["not_stated"] == 2
    assert figures["lowered_to_raised"]["pitch"]["stays"] == 1
    assert figures["all_edits"]["right"]["of"] == 2


def test_only_measured_moves_are_held_against_claims():
    moves = [Move(1, 1), Move(1, 0), Move(-1, -1), Move(0, 1), Move(None, 1), Move(1, None)]
    figures = move_figures([moves], 0)
    assert figures["right"]["share"] == pytest.approx(1 / 3, abs=1e-4)
    assert (figures["stays"], figures["wrong"], figures["and_stated_in_both"]) == (1, 1, 3)
    assert figures["measured_level_moves_against_the_edit"] == 1
    assert figures["all_pairs"]["right"]["hits"] == 3


def test_null_edits_count_labels_and_claims_apart():
    own = result_of(HIGH_AND_FAST, 250.0, 5.5)
    reworded = result_of("The speech is fast, with a high pitch.", 250.0, 5.5)
    other_claim = result_of(LOW_AND_SLOW, 250.0, 5.5)
    other_label = result_of(HIGH_AND_FAST, 250.0, 5.5, "sadness")
    edited = dict(zip(NULL_EDITS, (own, reworded, other_claim, other_label), strict=True))
    figures = null_figures([heard_of(own, "anger", 0, own, **edited)], 0)
    shares = {what: figure["share"] for what, figure in figures["all_edits"].items()}
    assert shares == {"label": 0.75, "head_label": 1.0, "claims": 0.75, "label_and_claims": 0.5, "words": 0.5}
    assert figures["clips_that_no_edit_changes"]["share"] == 0.0


def test_doubts_split_the_answers():
    right, wrong = result_of("", 200.0, 4.0), result_of("", 200.0, 4.0, "sadness")
    figures = doubt_figures([heard_of(right, "anger", 0, right), heard_of(wrong, "anger", 0, wrong)], 0)
    assert figures["right_when_certain"]["share"] == 0.5
    assert figures["right_when_uncertain"]["share"] is None
    assert figures["head_and_language_model_agree"]["share"] == 0.5


def test_every_edit_says_what_it_moves():
    assert {edit.cue for edit in COUNTERFACTUALS.values()} == {"pitch", "rate"}
    assert not set(COUNTERFACTUALS) & set(NULL_EDITS)
