"""Reward-model tuples: each score says what can be measured in its text, and the better of two texts has the higher."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_emotion.claims import check_claims, faithfulness, parse_claims
from edge_emotion.cues import CUE_BY_NAME
from edge_emotion_train.labelling.built_in_writer import record_rng, write
from edge_emotion_train.labelling.findings import findings_of
from edge_emotion_train.labelling.quality import BANDS, DIMENSIONS, find_mentions, kept_pairs, score, stated_cues
from edge_emotion_train.labelling.records import Reasoning, Record
from edge_emotion_train.labelling.rewriting import disturb, drop_cues, interpretations, restate, reverse_interpretation
from edge_emotion_train.labelling.view_reward import CannotRateError, reward_rows
from tests.labelling.listener import ALL_CUTS, BACKGROUND, GROUPS, cue_levels, make_record, make_table

FACTS, INTERPRETATION, COMPLETENESS, FLUENCY = DIMENSIONS
TABLE = make_table()
LEVELS = {
    "pitch": "high", "pitch_variation": "wide", "rate": "fast", "tone": "sharp", "clarity": "rough",
    "dynamics": "strong",
}  # fmt: skip
FOREIGN = (
    "The pitch is quite high and the delivery is rushed. An elevated pitch like this speaks for anger. The melody "
    "rises, which hints at fear rather than sadness. The tone is sharp. I conclude an angry mood."
)
FOREIGN_LEVELS = {"pitch": "high", "rate": "fast", "pitch_slope": "rising", "tone": "sharp"}


def labelled(levels: dict[str, str] = LEVELS, emotion: str = "anger", name: str = "clip", size: str = "full") -> Record:
    record = make_record(levels, id=f"corpus/{name}", emotion=emotion, text="Das will sie.", speaker="corpus_anna")
    text = write(findings_of(record, BACKGROUND), emotion, TABLE, size, record_rng(0, record.id))
    return replace(record, reasoning=Reasoning(text, "built-in", size))


def rows_of(record: Record, borrowed: Record | None = None, seed: int = 0) -> list[dict[str, Any]]:
    return list(reward_rows(record, "train", record.audio, GROUPS, TABLE, borrowed, seed))


@pytest.fixture(scope="module", params=["built-in", "foreign"])
def rows(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    if request.param == "built-in":
        return [row for n in range(4) for row in rows_of(labelled(name=f"clip{n}"))]
    record = make_record(FOREIGN_LEVELS, emotion="anger")
    return rows_of(replace(record, reasoning=Reasoning(FOREIGN, "somebody", "nano")))


def single(rows: list[dict[str, Any]], dimension: str) -> list[dict[str, Any]]:
    """The original and the rows in which only this dimension was lowered."""
    return [row for row in rows if row["id"].split("#reward.")[1].partition(".")[0] in ("original", dimension)]


def test_each_dimension_is_lowered_alone_and_by_all_scores(rows: list[dict[str, Any]]) -> None:
    for dimension in DIMENSIONS:
        lowered = single(rows, dimension)
        for row in lowered:
            assert {row["scores"][other] for other in DIMENSIONS if other != dimension} == {5}, row["reasoning"]
        # Foreign sentences are dropped whole, so fewer shares of cues can be reached.
        assert len({row["scores"][dimension] for row in lowered}) >= (4 if "clip0" in rows[0]["id"] else 3)


def test_what_was_aimed_at_is_what_was_measured(rows: list[dict[str, Any]]) -> None:
    for dimension in DIMENSIONS:
        for row in single(rows, dimension)[1:]:
            if row["targets"][dimension]:
                assert row["scores"][dimension] == row["targets"][dimension]


def test_the_factual_score_is_the_checker_s_verdict(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["scores"][FLUENCY] == 5:
            record = make_record(FOREIGN_LEVELS if row["id"].startswith("corpus/clip#") else LEVELS)
            share = faithfulness(check_claims(parse_claims(row["reasoning"]), record.prosody(), ALL_CUTS))
            assert share == pytest.approx(row["measured"]["supported_share"], abs=1e-4)
            assert row["scores"][FACTS] == score(FACTS, share)


@pytest.mark.parametrize(
    ("dimension", "measure"),
    [
        (FACTS, "supported_share"),
        (COMPLETENESS, "stated_share"),
        (COMPLETENESS, "stated_cues"),
        (INTERPRETATION, "sound_share"),
        (FLUENCY, "kept_word_pairs"),
    ],
)
def test_scores_rise_with_what_they_stand_for(rows: list[dict[str, Any]], dimension: str, measure: str) -> None:
    by_score: dict[int, list[float]] = defaultdict(list)
    for row in single(rows, dimension):
        by_score[row["scores"][dimension]].append(row["measured"][measure])
    means = [np.mean(by_score[value]) for value in sorted(by_score)]
    assert all(low < high for low, high in itertools.pairwise(means)), by_score


def test_broken_text_still_says_the_same(rows: list[dict[str, Any]]) -> None:
    original = rows[0]["reasoning"]
    claims = sorted((claim.cue, claim.level) for claim in parse_claims(original))
    for row in single(rows, FLUENCY):
        if row["id"].split("#")[0] != rows[0]["id"].split("#")[0] or len(row["reasoning"]) > 1.6 * len(original):
            continue
        assert sorted((claim.cue, claim.level) for claim in parse_claims(row["reasoning"])) == claims


def test_a_borrowed_text_is_well_written_and_of_somebody_else() -> None:
    levels = {"pitch": "low", "pitch_variation": "narrow", "rate": "slow", "tone": "soft", "clarity": "clear"}
    lender = labelled(levels, "sadness", "lender")
    row = next(row for row in rows_of(labelled(), lender) if row["id"].endswith("#reward.borrowed"))
    assert row["reasoning"] == lender.reasoning.text  # type: ignore[union-attr]
    assert row["lender"] == lender.id
    assert row["scores"][FACTS] == 1
    assert row["scores"][INTERPRETATION] == 1
    assert row["scores"][FLUENCY] == 5


def test_name_and_seed_decide_everything() -> None:
    record = labelled()
    assert rows_of(record) == rows_of(record)
    assert [row["reasoning"] for row in rows_of(record)] != [row["reasoning"] for row in rows_of(record, seed=1)]
    assert len({row["id"] for row in rows_of(record)}) == len(rows_of(record))


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (make_record(LEVELS), "no reasoning"),
        (replace(labelled(), emotion=None), "no emotion"),
        (replace(labelled(), levels=None), "not measured"),
        (replace(labelled(), reasoning=Reasoning("I hear a high pitch. It fits anger.", "x", "nano")), "fewer than 3"),
        (
            replace(labelled(), reasoning=Reasoning("I hear a low pitch, a fast pace and a sharp tone.", "x", "nano")),
            "does not support",
        ),
    ],
)
def test_what_cannot_be_rated_says_why(record: Record, why: str) -> None:
    with pytest.raises(CannotRateError, match=why):
        rows_of(record)


@given(levels=cue_levels(fewest=4), name=st.text(st.characters(categories=["L"]), min_size=1, max_size=6))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_text_of_ours_can_be_graded(levels: dict[str, str], name: str) -> None:
    record = labelled(levels, "fear", name)
    for row in rows_of(record):
        assert set(row["scores"].values()) <= {1, 2, 3, 4, 5}
        share = row["measured"]["supported_share"]
        assert row["scores"][FACTS] == score(FACTS, share)
        assert (row["scores"][FACTS] == 5) == (row["measured"]["contradicted_claims"] == 0)


# --- single steps ----------------------------------------------------------------------------------------------------


@given(cue=st.sampled_from(["pitch", "rate", "tone"]), seed=st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_a_restated_cue_says_the_new_level_and_nothing_else_changes(cue: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for text in (FOREIGN, labelled().reasoning.text):  # type: ignore[union-attr]
        for level in CUE_BY_NAME[cue].levels:
            changed = restate(text, cue, level, rng)
            if changed is not None:
                before, after = parse_claims(text), parse_claims(changed)
                assert [(c.cue, level if c.cue == cue else c.level) for c in before] == [
                    (c.cue, c.level) for c in after
                ]


def test_articles_follow_the_word() -> None:
    rng = np.random.default_rng(0)
    changed = restate("An elevated pitch is heard.", "pitch", "low", rng)
    assert changed is not None
    assert changed.startswith("A l") or changed.startswith("A d")
    text = "It is an angry voice and an unhappy end."
    assert reverse_interpretation(text, 1, "anger", ["boredom"], rng).startswith("It is a bored")


def test_single_items_leave_a_list() -> None:
    text = "I hear a high pitch, a fast pace and a sharp tone. The words are plain."
    assert drop_cues(text, {"rate"}) == "I hear a high pitch and a sharp tone. The words are plain."
    assert drop_cues(text, {"pitch", "rate"}) == "I hear a sharp tone. The words are plain."
    assert drop_cues(text, {"pitch", "rate", "tone"}) == "The words are plain."
    assert stated_cues(drop_cues(FOREIGN, {"pitch"}) or "") == {"pitch_slope", "tone"}
    assert drop_cues("The pitch is high.", {"pitch"}) is None


def test_interpretation_is_turned_round() -> None:
    rng = np.random.default_rng(0)
    text = "Because of that, I lean to anger and away from fear. It fits sadness or anger. I settle on anger."
    assert interpretations(text) == 4
    once = [reverse_interpretation(text, 1, "anger", ["boredom"], np.random.default_rng(seed)) for seed in range(12)]
    assert {sum(a != b for a, b in zip(some.split(), text.split(), strict=True)) for some in once} == {1, 2}
    assert 0 < sum(some.endswith("I settle on boredom.") for some in once) < 12
    turned = reverse_interpretation(text, 4, "anger", ["boredom", "neutral"], rng)
    assert turned.startswith("Because of that, I lean to fear and away from anger.")
    assert {mention.emotion for mention in find_mentions(turned)} == {"fear", "anger", "boredom", "neutral"}


@pytest.mark.parametrize("target", [1, 2, 3, 4])
def test_disturbing_ends_within_its_band(target: int) -> None:
    low, high = (0.0, *BANDS[FLUENCY], 1.0)[target - 1 : target + 1]
    for seed in range(3):
        broken = disturb(FOREIGN, low, high, np.random.default_rng(seed))
        assert broken is not None
        assert low <= kept_pairs(FOREIGN, broken) < high


def test_saying_it_all_again_is_no_better_structure() -> None:
    assert score(FLUENCY, kept_pairs(FOREIGN, f"{FOREIGN} {FOREIGN}")) == 3
    assert score(FLUENCY, kept_pairs(FOREIGN, FOREIGN)) == 5


def test_scores_of_shares() -> None:
    assert [score(FACTS, share) for share in (0.0, 0.24, 0.25, 0.5, 0.75, 0.99, 1.0, None)] == [1, 1, 2, 3, 4, 4, 5, 1]


@pytest.mark.parametrize("target", [1, 2, 3])
def test_disturbing_makes_and_breaks_no_claim(target: int) -> None:
    text = (
        "The voice is not high and the speaker never hurries, for the pace is slow and the tone is soft. Nothing here "
        "is loud or rough, and the words come without pauses. This is low in force, and it fits sadness."
    )
    low, high = (0.0, *BANDS[FLUENCY], 1.0)[target - 1 : target + 1]
    said = sorted((claim.cue, claim.level) for claim in parse_claims(text))
    for seed in range(8):
        broken = disturb(text, low, high, np.random.default_rng(seed))
        if broken is not None and broken != f"{text} {text}":
            assert sorted((claim.cue, claim.level) for claim in parse_claims(broken)) == said, broken
