from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion.claims import parse_claims
from edge_emotion.cues import CUES
from edge_emotion.labels import EMOTIONS
from edge_emotion_train.reasoning import MAX_WORDS, MIN_WORDS, CueEmotionTable, variety_report, write_reasoning

LEVELS = {cue.name: cue.levels for cue in CUES}


@st.composite
def cue_levels(draw: st.DrawFn) -> dict[str, str]:
    names = draw(st.lists(st.sampled_from(list(LEVELS)), min_size=1, max_size=6, unique=True))
    return {name: draw(st.sampled_from(LEVELS[name])) for name in names}


CANDIDATES = st.lists(st.sampled_from(EMOTIONS), max_size=3, unique=True).map(tuple)


@settings(max_examples=300, deadline=None)
@given(cue_levels(), CANDIDATES, st.sampled_from(EMOTIONS), st.integers(0, 2**32 - 1))
def test_the_parser_finds_exactly_what_the_writer_was_given(levels, candidates, label, seed):
    text = write_reasoning(levels, candidates, label, np.random.default_rng(seed))
    claims = parse_claims(text)
    assert {(claim.cue, claim.level) for claim in claims} == set(levels.items())
    assert len(claims) == len(levels), text
    words = text.split()
    assert len(words) <= MAX_WORDS
    if len(levels) >= 3:
        assert len(words) >= MIN_WORDS
    first_emotion = min((text.find(name) for name in EMOTIONS if name in text), default=len(text))
    assert first_emotion > max(claim.end for claim in claims)
    assert {name for name in EMOTIONS if name in text} == set(candidates[:2])


def test_the_words_of_the_cues_do_not_depend_on_the_emotion():
    levels = {"pitch": "high", "rate": "fast", "tone": "sharp"}
    for seed in range(40):
        texts = [
            write_reasoning(levels, candidates, label, np.random.default_rng(seed))
            for candidates, label in ((("anger", "fear"), "anger"), (("fear", "anger"), "fear"))
        ]
        assert texts[0].split(". ")[0] == texts[1].split(". ")[0]


def test_the_clause_says_whether_the_cues_alone_settle_it():
    levels = {"pitch": "high", "rate": "fast", "tone": "sharp"}
    for seed in range(20):
        fits = write_reasoning(levels, ("anger", "fear"), "fear", np.random.default_rng(seed))
        open_ = write_reasoning(levels, ("anger", "fear"), "sadness", np.random.default_rng(seed))
        assert "settle" not in fits
        assert "does not settle there" in open_
        assert "sadness" not in open_


@pytest.mark.parametrize("levels", [{}, {"pitch": "soft"}, {"loudness": "loud"}])
def test_what_has_no_wording_is_refused(levels):
    with pytest.raises(ValueError, match="cue"):
        write_reasoning(levels, ("anger", "fear"), "anger", np.random.default_rng(0))


def test_texts_are_varied_and_small_in_words():
    rng = np.random.default_rng(0)
    levels = {"pitch": "high", "rate": "fast", "tone": "sharp", "pauses": "none"}
    same = variety_report([write_reasoning(levels, ("anger", "fear"), "anger", rng) for _ in range(300)])
    openings = {write_reasoning(levels, ("anger", "fear"), "anger", rng).split(". ")[0] for _ in range(300)}
    assert len(openings) > 150  # the order of the cues is the caller's; the words for them vary
    every = [
        {cue.name: str(rng.choice(cue.levels)) for cue in rng.permutation(np.array(CUES, dtype=object))[:5]}
        for _ in range(1500)
    ]
    mixed = variety_report([write_reasoning(x, ("anger", "neutral"), "fear", rng) for x in every])
    assert mixed["vocabulary"] <= 200
    assert MIN_WORDS <= same["mean_words"] <= MAX_WORDS
    assert mixed["identical_share"] < 0.6


def test_the_variety_report_counts():
    report = variety_report(["A b. A b.", "C."])
    assert report == {
        "texts": 2,
        "distinct_1": 3 / 5,
        "distinct_2": 2 / 3,
        "identical_share": 2 / 3,
        "mean_words": 2.5,
        "vocabulary": 3,
    }
    assert variety_report([])["mean_words"] == 0.0


def test_the_table_follows_bayes_with_laplace_smoothing():
    levels = [{"tone": "sharp"}] * 3 + [{"tone": "soft"}] + [{"tone": "soft"}] * 2
    table = CueEmotionTable().fit(levels, ["anger"] * 4 + ["sadness"] * 2)
    # P(sharp | anger) = (3 + 1) / (4 + 3), P(sharp | sadness) = (0 + 1) / (2 + 3); both emotions equally frequent.
    anger, sadness = 4 / 7, 1 / 5
    ranked = table.rank({"tone": "sharp"})
    assert [name for name, _ in ranked] == ["anger", "sadness"]
    assert ranked[0][1] == pytest.approx(anger / (anger + sadness))
    assert table.rank({}) == [("anger", 0.5), ("sadness", 0.5)]
    assert sum(chance for _, chance in table.rank({"tone": "soft", "pitch": "low"})) == pytest.approx(1.0)


def test_the_table_refuses_what_it_cannot_know():
    with pytest.raises(ValueError, match="fit the table"):
        CueEmotionTable().rank({"tone": "soft"})
    with pytest.raises(ValueError, match="one label per clip"):
        CueEmotionTable().fit([{}], [])
    with pytest.raises(ValueError, match="unknown cue"):
        CueEmotionTable().fit([{"tone": "soft"}], ["anger"]).rank({"tone": "loud"})
