from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion.claims import CheckedClaim, Claim, check_claims, faithfulness, parse_claims
from edge_emotion.cues import CUES, FIXED_CUTS, Thresholds
from edge_emotion.prosody import Contour, Measure, Prosody
from edge_emotion.wording import EXPRESSIONS, PHRASES, SUBJECTS


def said(text: str) -> list[tuple[str, str]]:
    return [(claim.cue, claim.level) for claim in parse_claims(text)]


def test_the_wording_covers_every_level_of_every_cue_in_its_order():
    assert tuple(PHRASES) == tuple(cue.name for cue in CUES)
    for cue in CUES:
        assert tuple(PHRASES[cue.name]) == cue.levels
        assert all(len(set(phrases)) >= 3 for phrases in PHRASES[cue.name].values())


@pytest.mark.parametrize(
    ("cue", "level", "phrase"),
    [(cue, level, phrase) for cue, levels in PHRASES.items() for level, many in levels.items() for phrase in many],
)
def test_each_phrase_says_its_own_cue_and_level_and_nothing_else(cue: str, level: str, phrase: str):
    for text in (phrase, phrase.upper(), f"I hear {phrase}.", f"{phrase}, then silence", f"It was\n{phrase}!"):
        assert said(text) == [(cue, level)], text


def test_phrases_are_few_words_and_only_loudness_speaks_of_it():
    phrases = [
        phrase for cue, levels in PHRASES.items() if cue != "loudness" for many in levels.values() for phrase in many
    ]
    assert len({word for phrase in phrases for word in phrase.split()}) <= 100
    assert not any(word in phrase.split() for phrase in phrases for word in ("loud", "quiet", "volume", "energy"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The pitch is elevated and the tempo is quick.", [("pitch", "high"), ("rate", "fast")]),
        ("She speaks quickly in a monotone.", [("rate", "fast"), ("pitch_variation", "narrow")]),
        ("a high-pitched, trembling voice", [("pitch", "high")]),
        ("a high\u2011pitched, trembling voice", [("pitch", "high")]),
        ("low-pitched and slow-paced", [("pitch", "low"), ("rate", "slow")]),
        ("slow tempo", [("rate", "slow")]),
        ("in a hoarse, breathy voice", [("clarity", "rough")]),
        ("Their pitch is somewhat raised; the pace is slightly slower.", [("pitch", "high"), ("rate", "slow")]),
        ("The rate of speech is extremely fast", [("rate", "fast")]),
        ("The pitch remains at a high level", [("pitch", "high")]),
        ("the pitch is far up", [("pitch", "high")]),
        ("her voice was hoarse and low", [("clarity", "rough"), ("pitch", "low")]),
        ("a low, monotonous voice", [("pitch", "low"), ("pitch_variation", "narrow")]),
        ("The voice sounds tense and sharp", [("tone", "sharp")]),
        ("a deep male voice", [("pitch", "low")]),
        ("without pauses", [("pauses", "none")]),
        ("with very few pauses", [("pauses", "none")]),
        ("pausing often, she talks very slowly", [("pauses", "many"), ("rate", "slow")]),
        ("The contour is rising, the loudness varies a lot.", [("pitch_slope", "rising"), ("dynamics", "strong")]),
        ("Pitch: very high. Rate: fast", [("pitch", "very high"), ("rate", "fast")]),
        ('{"pitch": "high", "speech_rate": "slow"}', [("pitch", "high"), ("rate", "slow")]),
        ("a **high** pitch", [("pitch", "high")]),
        ("The delivery is smooth and lively", [("pitch_variation", "wide")]),
        ("not only a high pitch but also a fast pace", [("pitch", "high"), ("rate", "fast")]),
        ("I hear no high pitch, only a soft tone", [("tone", "soft")]),
    ],
)  # fmt: skip
def test_ordinary_wordings_are_understood(text: str, expected: list[tuple[str, str]]):
    assert said(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a high pitch range", [("pitch_variation", "wide")]),
        ("The pitch is low, slow tempo", [("pitch", "low"), ("rate", "slow")]),
        ("a voice pitched low and even loudness", [("pitch", "low"), ("dynamics", "even")]),
        ("a deep voice that is clear", [("pitch", "low"), ("clarity", "clear")]),
        ("a clear, full voice", [("clarity", "clear")]),
        ("the pitch falls", [("pitch_slope", "falling")]),
        ("very little variation in pitch", [("pitch_variation", "narrow")]),
    ],
)
def test_each_quality_belongs_to_one_statement(text: str, expected: list[tuple[str, str]]):
    assert said(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "neither high nor low pitch",
        "The pitch is neither high nor low.",
        "a pitch neither very high nor very low",
    ],
)
def test_neither_nor_is_the_middle(text: str):
    assert said(text) == [("pitch", "medium")]


@pytest.mark.parametrize(
    "text",
    [
        "The pitch is not high.",
        "The pitch isn't high.",
        "The pitch isn\u2019t very high.",
        "the pitch doesn't sound high",
        "The speaker does not speak quickly.",
        "She never speaks fast",
        "There are no signs of a breathy voice.",
        "There isn't a high pitch here",
        "She doesn't have a high pitch",
        "a less sharp tone",
        "Rather than a fast pace, there is a calm one.",
        "The speech lacks pitch variation",
        "neither a high pitch nor a fast pace",
        "low to medium pitch, moderate to fast pace",
        "a clear or rough voice",
        "The pitch would be high if she were angry.",
        "if the pitch is high",
        "Anger typically shows a high pitch.",
        "The pitch rises at the end of the sentence.",
        "The anger quickly fades; this high level of detail, the fast car, a neutral mood.",
        "the voice as a whole does not settle there",
        "",
    ],
)
def test_what_is_denied_ambiguous_local_or_of_something_else_claims_nothing(text: str):
    assert said(text) == []


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("The melody rises, then falls.", "rising-falling"),
        ("the pitch first climbs and then drops", "rising-falling"),
        ("a rising-falling contour", "rising-falling"),
        ("The intonation rises before falling", "rising-falling"),
        ("the melody goes up but then goes down", "rising-falling"),
        ("a melody that falls and then rises", "falling-rising"),
        ("a fall-rise contour", "falling-rising"),
        ("the pitch drops before it climbs", "falling-rising"),
        ("a straight melody", "straight"),
    ],
)
def test_a_turn_of_the_melody_is_one_statement(text: str, level: str):
    assert said(text) == [("pitch_turn", level)]


@pytest.mark.parametrize(
    "text",
    [
        "the melody rises and falls",
        "no rising-falling melody",
        "The pitch falls, rises, and falls again.",
        "the melody rises and then falls at the end",
    ],
)
def test_what_may_be_a_turn_or_not_claims_none(text: str):
    assert said(text) == []


@pytest.mark.parametrize(
    ("turn_st", "verdicts"),
    [
        (4.0, ("supported", "contradicted", "contradicted")),
        (1.5, ("supported", "contradicted", "supported")),
        (0.0, ("contradicted", "contradicted", "supported")),
        (-4.0, ("contradicted", "supported", "contradicted")),
    ],
)
def test_a_turn_is_checked_against_its_depth(turn_st: float, verdicts: tuple[str, ...]):
    claims = parse_claims(
        "The melody rises and then falls; the melody falls and then rises. The melody stays straight."
    )
    thresholds = Thresholds({**THRESHOLDS.cuts, **FIXED_CUTS}, "test")
    checked = check_claims(claims, prosody(f0_turn_st=turn_st), thresholds)
    assert tuple(item.verdict for item in checked) == verdicts


def test_a_turn_is_not_measurable_where_the_thresholds_do_not_hold_its_cuts():
    checked = check_claims(parse_claims("the melody rises and then falls"), prosody(f0_turn_st=9.0), THRESHOLDS)
    assert [item.verdict for item in checked] == ["not measurable"]


def test_loudness_is_checked_where_the_thresholds_hold_a_known_level():
    claims = parse_claims("a loud voice at low volume")
    thresholds = Thresholds({**THRESHOLDS.cuts, "loudness": (-30.0, -20.0)}, "speaker")
    checked = check_claims(claims, prosody(level_dbfs=-12.0), thresholds)
    assert [item.verdict for item in checked] == ["supported", "contradicted"]
    assert checked[0].measured_level == "loud"


def test_loudness_is_seen_but_not_counted_where_the_gain_is_unknown():
    claims = parse_claims("a loud voice with high energy and a high pitch")
    assert [(claim.cue, claim.level) for claim in claims] == [
        ("loudness", "loud"),
        ("loudness", "loud"),
        ("pitch", "high"),
    ]
    checked = check_claims(claims, prosody(f0_median_hz=230.0), THRESHOLDS)
    assert [item.verdict for item in checked] == ["not measurable", "not measurable", "supported"]
    assert "gain" in checked[0].reason
    assert faithfulness(checked) == 1.0


def test_the_lexicon_names_only_known_cues_and_levels():
    known = {(cue.name, level) for cue in CUES for level in cue.levels}
    used = {pair for subject in SUBJECTS for pair in (*subject.adjectives, *subject.predicates)} | set(EXPRESSIONS)
    assert used <= known


WORDS = sorted(
    {word for subject in SUBJECTS for words in subject.adjectives.values() for word in words.split("|")}
    | {word for subject in SUBJECTS for word in subject.nouns.split("|")}
    | {
        "neither",
        "nor",
        "not",
        "isn't",
        "is",
        "very",
        "and",
        ",",
        "to",
        "or",
        "that",
        ".",
        "at the end",
        "*",
        "-",
        "\n",
    }
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join)))
def test_spans_are_exact_ordered_and_apart_for_any_text(text: str):
    claims = parse_claims(text)
    known = {(cue.name, level) for cue in CUES for level in cue.levels}
    end = 0
    for claim in claims:
        assert claim.start >= end
        assert claim.start < claim.end
        assert text[claim.start : claim.end] == claim.text
        assert (claim.cue, claim.level) in known
        end = claim.end


@pytest.mark.parametrize(
    "unit", ["very ", "high, ", "neither high nor ", " ", "pitch is ", "a low pitch, ", "\u017f\u212a"]
)
def test_time_grows_with_length_only(unit: str):
    text = unit * (20_000 // len(unit))
    begin = time.perf_counter()
    parse_claims(text)
    assert time.perf_counter() - begin < 5.0


def test_the_first_parse_is_quick_enough_for_a_command_line():
    code = (
        "import time, edge_emotion.claims as c; b = time.perf_counter(); c.parse_claims('a low pitch'); "
        "print(time.perf_counter() - b)"
    )
    seconds = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert seconds < 0.3


# --- checking --------------------------------------------------------------------------------------------------------

THRESHOLDS = Thresholds({"pitch": (110.0, 150.0, 200.0, 260.0), "rate": (4.0, 5.0)}, "test")


def prosody(reliability: float = 1.0, reason: str | None = None, **values: float | None) -> Prosody:
    measures = {name: Measure(name, value, "", 0.0, 1.0, reliability, reason) for name, value in values.items()}
    return Prosody(measures, Contour(np.zeros(0), np.zeros(0), np.zeros(0)))


def check(cue: str, level: str, measured: Prosody) -> CheckedClaim:
    return check_claims([Claim(cue, level, 0, 1, "x")], measured, THRESHOLDS)[0]


@pytest.mark.parametrize(
    ("level", "hz", "verdict"),
    [
        ("high", 230.0, "supported"),
        ("medium", 230.0, "contradicted"),
        ("very high", 230.0, "contradicted"),
        # Half a semitone of uncertainty beyond the cut at 200 Hz ends at 205.9 Hz.
        ("medium", 205.5, "supported"),
        ("medium", 206.5, "contradicted"),
    ],
)
def test_a_claim_is_supported_within_the_uncertainty_of_its_level(level: str, hz: float, verdict: str):
    checked = check("pitch", level, prosody(f0_median_hz=hz))
    assert checked.verdict == verdict
    assert checked.measured_level == "high"
    assert checked.measured_value == hz
    assert checked.unit == "Hz"
    assert f"{hz:.3g} Hz is high" in checked.reason


@pytest.mark.parametrize(
    ("cue", "measured", "reason"),
    [
        ("pitch", prosody(), "could not be measured"),
        ("pitch", prosody(f0_median_hz=None, reason="too little voice"), "too little voice"),
        ("pitch", prosody(f0_median_hz=float("nan")), "could not be measured"),
        ("pitch", prosody(f0_median_hz=0.0), "above 0"),
        ("pitch", prosody(0.49, f0_median_hz=230.0), "unreliable"),
        ("tone", prosody(spectral_tilt_db=-20.0), "no thresholds for tone"),
    ],
)
def test_what_cannot_be_measured_is_neither_supported_nor_contradicted(cue: str, measured: Prosody, reason: str):
    checked = check(cue, "soft" if cue == "tone" else "high", measured)
    assert checked.verdict == "not measurable"
    assert checked.measured_value is None
    assert checked.measured_level is None
    assert reason in checked.reason
    assert faithfulness([checked]) is None


def test_faithfulness_is_the_share_supported_of_the_checkable():
    claims = parse_claims("a high pitch, a slow pace, a fast pace and a soft tone")
    checked = check_claims(claims, prosody(f0_median_hz=230.0, syllable_rate_per_s=3.5), THRESHOLDS)
    assert [item.verdict for item in checked] == ["supported", "supported", "contradicted", "not measurable"]
    assert faithfulness(checked) == pytest.approx(2 / 3)
    assert faithfulness([]) is None
