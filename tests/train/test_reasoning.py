from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion.claims import parse_claims
from edge_emotion.cues import CUES
from edge_emotion.labels import EMOTIONS
from edge_emotion_train.reasoning import MAX_WORDS, MIN_WORDS, CueEmotionTable, write_reasoning
from edge_emotion_train.variety import self_bleu, split_sentences, variety_report

LEVELS = {cue.name: cue.levels for cue in CUES}


@st.composite
def cue_levels(draw: st.DrawFn) -> dict[str, str]:
    names = draw(st.lists(st.sampled_from(list(LEVELS)), min_size=1, max_size=5, unique=True))
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


@pytest.mark.parametrize("levels", [{}, {"pitch": "soft"}, {"mood": "loud"}])
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
        "self_bleu": self_bleu(["A b. A b.", "C."]),
        "identical_share": 2 / 3,
        "mean_words": 2.5,
        "vocabulary": 3,
    }
    assert variety_report([])["mean_words"] == 0.0


def test_self_bleu_compares_each_text_with_the_others():
    alike, different = ["the pace is slow and even"] * 3, ["a b c d e", "f g h i j", "k l m n o"]
    assert self_bleu(alike) == pytest.approx(1.0)
    assert self_bleu(different) == pytest.approx((0.1**4 / (5 * 4 * 3 * 2)) ** 0.25)
    half = self_bleu(["a b c d e f", "a b c d x y"])
    # 4 of 6 words, 3 of 5 pairs, 2 of 4 triples and 1 of 3 quadruples are the other's.
    assert half == pytest.approx((4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    # A word counts only as often as one other text has it.
    assert self_bleu(["a a a a", "a b"]) == pytest.approx(
        ((1 / 4 * 0.1 / 3 * 0.1 / 2 * 0.1) ** 0.25 + math.exp(1 - 4 / 2) * (1 / 2 * 0.1 / 1 * 0.1 * 0.1) ** 0.25) / 2
    )
    assert self_bleu(["alone"]) is None
    many = [f"text {n} of many" for n in range(900)]
    assert self_bleu(many, most=100) == self_bleu(many[::9])


def test_sentences_end_outside_quotations():
    text = "I hear this. “Stop! Go. Away” is said! It ends?\nA list 2.5 long"
    assert split_sentences(text) == ["I hear this.", "“Stop! Go. Away” is said!", "It ends?", "A list 2.5 long"]
    assert split_sentences("\u4ed6\u8bf4\u3002\u597d\u3002") == ["\u4ed6\u8bf4\u3002", "\u597d\u3002"]
    assert split_sentences('He says "No. Never." Then more.') == ['He says "No. Never."', "Then more."]


def test_a_table_survives_json():
    table = CueEmotionTable(0.5).fit([{"tone": "sharp"}, {"tone": "soft"}], ["anger", "sadness"])
    again = CueEmotionTable.from_dict(json.loads(json.dumps(table.to_dict())))
    assert again.rank({"tone": "soft"}) == table.rank({"tone": "soft"})
    assert again.log_likelihoods("tone", "soft") == table.log_likelihoods("tone", "soft")


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
