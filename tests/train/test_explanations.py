"""Which cues a training text mentions, and that it says nothing but what was measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion.claims import parse_claims
from edge_emotion.cues import CUE_BY_NAME, Thresholds, level_of
from edge_emotion_train.evidence import support_probability
from edge_emotion_train.explanations import SpeakingRule, cues_to_mention, value_at, write_explanations
from edge_emotion_train.features import FeatureRow
from edge_emotion_train.reasoning import CueEmotionTable

CUES = ("pitch", "pitch_variation", "rate", "tone", "clarity", "dynamics")
# Lowest and highest cut of each cue; the others lie evenly between, however many levels a cue has.
CUT_RANGES = {
    "pitch": (120.0, 240.0),
    "pitch_variation": (2.0, 4.0),
    "rate": (3.0, 6.0),
    "tone": (-3.0, 3.0),
    "clarity": (8.0, 14.0),
    "dynamics": (4.0, 7.0),
}
THRESHOLDS = Thresholds(
    {
        name: tuple(float(cut) for cut in np.linspace(*ends, len(CUE_BY_NAME[name].levels) - 1))
        for name, ends in CUT_RANGES.items()
    },
    "a test",
)
# Far inside the highest level of each.
HIGH = {"pitch": 25.0, "pitch_variation": 9.0, "rate": 9.0, "tone": 12.0, "clarity": 24.0, "dynamics": 14.0}
SURE = dict.fromkeys(CUES, 0.5)


def test_semitone_positions_come_back_as_values() -> None:
    for name in CUES:
        assert CUE_BY_NAME[name].position(value_at(name, 7.3)) == pytest.approx(7.3)


def test_what_is_sure_and_true_is_mentioned_with_its_measured_level() -> None:
    mentioned = cues_to_mention(HIGH, HIGH, SURE, THRESHOLDS, SpeakingRule(most=6))
    assert mentioned == {name: CUE_BY_NAME[name].levels[-1] for name in CUES}


def test_unsure_cues_are_left_out_beyond_the_fewest() -> None:
    deviation = SURE | {"tone": 30.0, "clarity": 40.0, "dynamics": 50.0}
    assert set(cues_to_mention(HIGH, HIGH, deviation, THRESHOLDS, SpeakingRule(fewest=0))) == set(CUES[:3])
    assert set(cues_to_mention(HIGH, HIGH, deviation, THRESHOLDS, SpeakingRule(fewest=4))) == set(CUES[:4])


def test_the_fewest_are_counted_after_what_was_heard_wrongly() -> None:
    heard = HIGH | {"pitch": -25.0, "pitch_variation": -9.0}
    deviation = SURE | {"tone": 30.0, "clarity": 40.0, "dynamics": 50.0}
    mentioned = cues_to_mention(HIGH, heard, deviation, THRESHOLDS, SpeakingRule(fewest=3))
    assert list(mentioned) == ["rate", "tone", "clarity"]


def test_never_more_than_the_most_which_are_the_surest_in_a_fixed_order() -> None:
    deviation = dict(zip(CUES, (6.0, 0.5, 3.0, 4.0, 3.0, 1.0), strict=True))
    rule = SpeakingRule(confidence=0.6, most=4)
    mentioned = list(cues_to_mention(HIGH, HIGH, deviation, THRESHOLDS, rule))
    sureness = {
        name: max(
            support_probability(CUE_BY_NAME[name], level, HIGH[name], deviation[name], THRESHOLDS)
            for level in CUE_BY_NAME[name].levels
        )
        for name in CUES
    }
    assert len(mentioned) == 4
    assert sorted((sureness[name] for name in mentioned), reverse=True) == sorted(sureness.values(), reverse=True)[:4]
    assert mentioned == [name for name in CUES if name in mentioned]


def test_some_cues_are_always_mentioned_with_the_measured_level() -> None:
    heard = HIGH | {"pitch": -25.0, "rate": -9.0}
    unsure = dict.fromkeys(CUES, 50.0)
    rule = SpeakingRule(always=("pitch", "rate"), fewest=0)
    assert cues_to_mention(HIGH, heard, unsure, THRESHOLDS, rule) == {"pitch": "very high", "rate": "fast"}
    without_rate = {name: position for name, position in HIGH.items() if name != "rate"}
    assert list(cues_to_mention(without_rate, heard, unsure, THRESHOLDS, rule)) == ["pitch"]


def test_cues_heard_wrongly_or_not_measured_are_left_out() -> None:
    heard = HIGH | {"tone": -12.0}
    measured = {name: position for name, position in HIGH.items() if name != "rate"}
    assert set(cues_to_mention(measured, heard, SURE, THRESHOLDS, SpeakingRule(most=6))) == set(CUES) - {"tone", "rate"}


def test_heard_level_may_be_a_neighbour_within_the_uncertainty_but_the_measured_one_is_written() -> None:
    just_below = THRESHOLDS.cuts["tone"][-1] - 0.5 * CUE_BY_NAME["tone"].uncertainty
    rule = SpeakingRule(fewest=1)
    assert cues_to_mention({"tone": just_below}, {"tone": 12.0}, SURE, THRESHOLDS, rule) == {
        "tone": CUE_BY_NAME["tone"].levels[-2]
    }
    far_below = THRESHOLDS.cuts["tone"][-1] - 1.5 * CUE_BY_NAME["tone"].uncertainty
    assert cues_to_mention({"tone": far_below}, {"tone": 12.0}, SURE, THRESHOLDS, rule) == {}


@pytest.fixture(scope="module")
def table() -> CueEmotionTable:
    ends = {name: (CUE_BY_NAME[name].levels[0], CUE_BY_NAME[name].levels[-1]) for name in CUES}
    levels = [{"pitch": ends["pitch"][1]}, {"pitch": ends["pitch"][0]}, {"rate": ends["rate"][1]}]
    return CueEmotionTable().fit(levels, ["anger", "sadness", "fear"])


def write(
    rows: list[FeatureRow], heard: np.ndarray, table: CueEmotionTable, *, texts: int = 3, seed: int = 0
) -> list[list]:
    deviation = np.full(len(CUES), 0.7)
    return write_explanations(
        rows, heard, deviation, CUES, THRESHOLDS, table, ("anger", "fear", "sadness"), ("emodb",), SpeakingRule(),
        texts, seed,
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_texts_claim_only_what_was_measured(data: st.DataObject, table: CueEmotionTable) -> None:
    position = st.floats(-4.0, 16.0)
    measured = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(CUES, position)))
    heard = np.array([[data.draw(position) for _ in CUES]])
    row = FeatureRow("clip", "emodb", "emodb_03", "fear", None, 0, 1.0, measured)
    for text in write([row], heard, table)[0]:
        claims = parse_claims(text.reasoning)
        assert len(claims) >= 2
        for claim in claims:
            value = value_at(claim.cue, measured[claim.cue])
            assert claim.level == level_of(CUE_BY_NAME[claim.cue], value, THRESHOLDS), text.reasoning
        assert text.cue_spans == tuple((claim.start, claim.end) for claim in claims)


def test_rows_in_which_too_little_is_heard_have_no_text(make_row: Callable[..., FeatureRow], table) -> None:
    rows = [make_row(positions=HIGH), make_row(positions={"pitch": HIGH["pitch"]})]
    heard = np.array([[HIGH[name] for name in CUES]] * 2)
    full, empty = write(rows, heard, table)
    assert len(full) == 3
    assert empty == []


def test_only_corpora_of_answers_and_known_labels_give_an_answer(make_row: Callable[..., FeatureRow], table) -> None:
    rows = [
        make_row(emotion="fear", positions=HIGH),
        make_row(emotion="fear", positions=HIGH, corpus="emogator"),
        make_row(emotion=None, positions=HIGH, corpus="synthetic"),
        make_row(emotion="surprise", positions=HIGH),
    ]
    heard = np.array([[HIGH[name] for name in CUES]] * len(rows))
    assert [texts[0].label for texts in write(rows, heard, table)] == ["fear", None, None, None]


def test_texts_hang_on_the_seed_alone(make_row: Callable[..., FeatureRow], table: CueEmotionTable) -> None:
    rows, heard = [make_row(positions=HIGH)] * 2, np.array([[HIGH[name] for name in CUES]] * 2)
    assert write(rows, heard, table) == write(rows, heard, table)
    assert write(rows, heard, table) != write(rows, heard, table, seed=1)
    first, second = write(rows, heard, table)
    assert first != second
