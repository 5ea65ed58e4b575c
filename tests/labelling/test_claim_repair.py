from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion.claims import check_claims, parse_claims
from edge_emotion.cues import CUES, Thresholds
from edge_emotion_train.labelling import phrasebook
from edge_emotion_train.labelling.built_in_writer import write
from edge_emotion_train.labelling.findings import Findings
from edge_emotion_train.labelling.text_checking import CheckedText, check_text, opens_with_label
from tests.labelling.listener import ALL_CUTS, cue_levels, make_record, make_table, value_in

LEVELS = {"pitch": "high", "rate": "fast", "tone": "sharp", "clarity": "rough", "pauses": "none"}
TABLE = make_table()
TRUE = (
    "I hear a high pitch and fast speech. The tone is sharp and the voice sounds hoarse, with hardly any pauses, so "
    "that nothing lets go of the listener from the first sound on to the last one. With the sharp tone, anger lies "
    "nearer to hand than fear. Fear, more than anger, goes with the high pitch. All things considered, I choose anger "
    "before fear and before anything else that came to mind."
)


def check(text: str, levels: dict[str, str] | None = None, **changes: object) -> CheckedText:
    levels = LEVELS if levels is None else levels
    options = {"thresholds": ALL_CUTS, "emotion": "anger", "size": "full", "reliable_cues": len(levels)} | changes
    return check_text(text, make_record(levels).prosody(), **options)  # type: ignore[arg-type]


def test_a_true_text_stays_as_it_is():
    checked = check(TRUE)
    assert (checked.text, checked.removed, checked.problem) == (TRUE, (), None)
    reasoning = checked.reasoning("someone", "full")
    assert (reasoning.writer, reasoning.size, reasoning.repairs) == ("someone", "full", 0)
    assert {(claim["cue"], claim["level"]) for claim in reasoning.claims} == set(LEVELS.items())
    for claim in reasoning.claims:
        assert TRUE[claim["start"] : claim["end"]] == claim["text"]
        assert claim["verdict"] == "supported"


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("The pace is slow.", "measured 8 1/s is fast"),
        ("She sounds loud, and the voice is loud indeed.", "gain is unknown|level_dbfs could not be measured"),
        ("The melody falls.", "could not be measured"),
    ],
)
def test_a_sentence_that_is_not_borne_out_is_taken_out(sentence: str, reason: str):
    before, after = TRUE.split(". ", 1)
    checked = check(f"{before}. {sentence} {after}")
    assert checked.problem is None
    assert checked.text == TRUE
    assert len(checked.removed) == 1
    assert checked.removed[0][0] == sentence
    assert re.search(reason, checked.removed[0][1])
    assert checked.reasoning("someone", "full").repairs == 1
    for claim in checked.reasoning("someone", "full").claims:
        assert checked.text[claim["start"] : claim["end"]] == claim["text"]


def test_a_text_of_which_too_little_is_left_is_refused_with_what_was_wrong():
    lies = TRUE.replace("high pitch", "low pitch").replace("sharp", "soft")
    checked = check(lies)
    assert checked.problem is not None
    assert "are needed" in checked.problem
    assert "measured" in checked.problem
    assert "low pitch" in checked.problem


def test_near_a_threshold_a_text_must_choose_one_level():
    # 6.1 syllables per second are fast, and within the uncertainty of moderate.
    record = make_record(LEVELS)
    measure = record.measures["syllable_rate_per_s"]
    near = {**record.measures, "syllable_rate_per_s": replace(measure, value=6.1)}
    prosody = replace(record, measures=near).prosody()
    moderate = TRUE.replace("fast speech", "a moderate pace")
    alone = check_text(moderate, prosody, ALL_CUTS, "anger", "full", 5)
    assert (alone.text, alone.problem) == (moderate, None)
    both = check_text(f"{TRUE} The pace is moderate.", prosody, ALL_CUTS, "anger", "full", 5)
    assert (both.text, both.problem) == (TRUE, None)
    assert "also says" in both.removed[0][1]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it states 0 measured cues"),
        ("Nothing can be said. " * 20, "it states 0 measured cues"),
        ("A high pitch, fast speech, a sharp tone and a rough voice.", "it has 12 words"),
        (TRUE + " word" * 200, "words, 50 to 200"),
        ("This is anger. " + TRUE, "names anger before"),
        ("An angry one, no doubt. " + TRUE, "names anger before"),
        ("I hear a high pitch. " + "And more words to fill the line. " * 8, "it states 1 measured cues"),
    ],
)
def test_what_a_text_may_not_be(text: str, problem: str):
    checked = check(text)
    assert checked.problem is not None
    assert problem in checked.problem


def test_fewer_cues_do_where_fewer_are_reliable():
    text = "I hear a high pitch. " + "And more words to fill the line. " * 8
    assert check(text, {"pitch": "high"}).problem is None


def test_opening_with_the_label():
    assert opens_with_label("Anger is what I hear in the high pitch.", "anger")
    assert opens_with_label("So ANGRY! A high pitch.", "anger")
    assert not opens_with_label("The high pitch is anger.", "anger")
    assert not opens_with_label("Fear comes to mind at the high pitch, or anger.", "anger")
    assert opens_with_label("No cue and anger", "anger")
    assert not opens_with_label("endanger", "anger")


@settings(max_examples=60, deadline=None)
@given(cue_levels(fewest=4), cue_levels(fewest=2), st.integers(0, 2**32 - 1), st.data())
def test_nothing_contradicted_ever_passes(levels, others, seed, data):
    """Texts about one recording, with sentences about another, checked against the first."""
    rng = np.random.default_rng(seed)
    sentences = write(Findings(levels), "anger", TABLE, "full", rng).split(". ")
    for name, level in others.items():
        place = data.draw(st.integers(0, len(sentences)))
        phrase = phrasebook.CLAUSES[name, level][0]
        sentences.insert(place, phrase[0].upper() + phrase[1:])
    record = make_record(levels)
    checked = check_text(". ".join(sentences), record.prosody(), ALL_CUTS, "anger", "full", len(levels))
    left = check_claims(parse_claims(checked.text), record.prosody(), ALL_CUTS)
    assert all(item.verdict == "supported" for item in left)
    assert all(levels[item.claim.cue] == item.claim.level for item in left)
    wrong = [name for name, level in others.items() if levels.get(name) != level]
    assert len(checked.removed) >= len(wrong)


def test_without_thresholds_nothing_can_be_claimed():
    checked = check(TRUE, thresholds=Thresholds({}, "none"))
    assert checked.problem is not None
    assert not checked.claims


def test_the_levels_of_the_tests_are_what_they_say():
    for cue in CUES:
        for level in cue.levels:
            record = make_record({cue.name: level})
            checked = check_claims(parse_claims(phrasebook.CLAUSES[cue.name, level][0]), record.prosody(), ALL_CUTS)
            assert [item.measured_level for item in checked] == [level], value_in(cue.name, level)
