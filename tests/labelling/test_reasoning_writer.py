from __future__ import annotations

import string
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion.claims import parse_claims
from edge_emotion.cues import CUES
from edge_emotion.errors import LabellingError
from edge_emotion.labels import EMOTIONS
from edge_emotion.wording import PHRASES
from edge_emotion_train.labelling import phrasebook
from edge_emotion_train.labelling.built_in_writer import Side, record_rng, weigh, write
from edge_emotion_train.labelling.findings import Background, Findings, cues_to_say, findings_of
from edge_emotion_train.labelling.records import IntonationShape, Level, Word
from edge_emotion_train.labelling.text_checking import SIZES, opens_with_label
from edge_emotion_train.reasoning import MOODS, CueEmotionTable
from tests.labelling.listener import BACKGROUND, cue_levels, make_record, make_table

TABLE = make_table()
TEXTS = st.one_of(
    st.none(),
    st.text(max_size=200),
    st.sampled_from(
        (
            "Das will sie am Mittwoch abgeben.",
            "He speaks slowly and with a high pitch!",
            "Stop! Go away. “Never”, he said",
            "I am so happy",
            "他说今天很生气。",
            "..." * 100,
            "the voice\nthe tone " * 30,
            "low",
        )
    ),
)
WORDS = st.lists(
    st.builds(
        Word,
        st.sampled_from(("Lappen", "loud", "“x”", "")),
        st.just(0.0),
        st.just(0.1),
        st.sampled_from((None, 0.1, 0.9)),
    ),
    max_size=4,
).map(tuple)


@settings(max_examples=150, deadline=None)
@given(
    cue_levels(fewest=3),
    st.sampled_from(EMOTIONS),
    st.integers(0, 2**32 - 1),
    TEXTS,
    WORDS,
    st.sampled_from((None, "female", "male")),
    st.sampled_from(("corpus:corpus", "speaker:corpus_anna")),
    st.sampled_from((None, "rising-falling", "flat")),
    st.booleans(),
)
def test_a_full_text_says_what_was_measured_and_nothing_else(
    levels, emotion, seed, text, words, gender, thresholds, shape, many_moods
):
    record = make_record(
        levels,
        emotion=emotion,
        text=text,
        words=words,
        gender=gender,
        thresholds=thresholds,
        intonation=IntonationShape(shape, 0.9),
        extra={"age": 31},
    )
    findings = replace(findings_of(record, BACKGROUND), says_little=many_moods)
    written = write(findings, emotion, TABLE, "full", np.random.default_rng(seed))
    claims = parse_claims(written)
    stated = {(claim.cue, claim.level) for claim in claims}
    assert stated <= set(levels.items())
    assert len(stated) >= min(5, len(cues_to_say(levels))), written
    fewest, most = SIZES["full"]
    assert fewest <= len(written.split()) <= most, written
    assert not opens_with_label(written, emotion)
    # Nobody's emotion is named before everything that is heard was said once.
    first_name = min(position for name in EMOTIONS if (position := written.find(MOODS.get(name, name))) >= 0)
    if not findings.named:
        assert {(claim.cue, claim.level) for claim in claims if claim.end <= first_name} == stated
    assert MOODS.get(emotion, emotion) in written.casefold()
    assert len({name for name in EMOTIONS if name in written.casefold()}) >= 2, "no rival"
    assert ("this speaker" in written or "the same speaker" in written) == (thresholds == "speaker:corpus_anna")
    assert "{" not in written.replace(findings.quote or "", "")
    assert "None" not in written


@settings(max_examples=80, deadline=None)
@given(cue_levels(), st.sampled_from(EMOTIONS), st.integers(0, 2**32 - 1))
def test_a_nano_text_says_what_was_measured_and_nothing_else(levels, emotion, seed):
    written = write(Findings(levels), emotion, TABLE, "nano", np.random.default_rng(seed))
    claims = parse_claims(written)
    assert {(claim.cue, claim.level) for claim in claims} <= set(levels.items())
    assert len(claims) >= min(3, len(levels))
    assert {"pitch", "rate"} & set(levels) <= {claim.cue for claim in claims}
    assert SIZES["nano"][0] <= len(written.split()) <= SIZES["nano"][1] or len(levels) < 3
    assert not opens_with_label(written, emotion)


def test_every_phrase_says_its_level():
    for table in (phrasebook.CLAUSES, phrasebook.REFERENCES):
        assert set(table) == {(cue.name, level) for cue in CUES for level in cue.levels}
        for (cue, level), phrases in table.items():
            for phrase in phrases:
                assert [(claim.cue, claim.level) for claim in parse_claims(phrase)] == [(cue, level)], phrase


def test_every_sentence_carries_any_phrase_and_claims_nothing_itself():
    frames = [text for value in vars(phrasebook).values() if isinstance(value, tuple) for text in value]
    assert len(frames) > 100
    nouns = [phrase for levels in PHRASES.values() for phrases in levels.values() for phrase in phrases]
    clauses = [phrase for phrases in phrasebook.CLAUSES.values() for phrase in phrases]
    references = [phrase for phrases in phrasebook.REFERENCES.values() for phrase in phrases]
    random = Random(0)
    others = {"better": "anger", "worse": "fear", "label": "anger", "rival": "fear", "other": "a neutral mood"}
    others |= {"person": "a woman", "words": "“x”", "word": "“x”", "quote": "“y”", "named": "anger"}
    for frame in frames:
        slots = {name.lower() for _, name, _, _ in string.Formatter().parse(frame) if name}
        for slot, phrases in (("all", nouns), ("clauses", clauses), ("cues", references)):
            for phrase in random.sample(phrases, 12) if slot in slots else ():
                filled = frame.format(**others, **{slot: phrase, slot.capitalize(): phrase})
                found = [(claim.cue, claim.level) for claim in parse_claims(filled)]
                assert found == [(claim.cue, claim.level) for claim in parse_claims(phrase)], filled
        if not slots & {"all", "clauses", "cues"}:
            assert not parse_claims(frame.format(**others)), frame


def test_how_a_text_is_built_does_not_depend_on_the_emotion():
    levels = {cue.name: cue.levels[0] for cue in CUES}
    for seed in range(10):
        texts = {
            emotion: write(Findings(levels, quote="y"), emotion, TABLE, "full", np.random.default_rng(seed))
            for emotion in EMOTIONS
        }
        openings = {text.split(". ")[0] for text in texts.values()}
        assert len(openings) == 1


def test_the_weighing_follows_the_table():
    clips = [{"tone": "sharp", "rate": "fast"}] * 30 + [{"tone": "soft", "rate": "slow"}] * 30
    clips += [{"tone": "sharp", "rate": "slow"}] * 30
    table = CueEmotionTable().fit(clips, ["anger"] * 30 + ["sadness"] * 30 + ["disgust"] * 30)
    for seed in range(20):
        weighing = weigh({"tone": "sharp", "rate": "slow"}, "anger", table, np.random.default_rng(seed))
        assert weighing.rival == "sadness"
        assert weighing.sides == (Side("anger", "sadness", ("tone",)), Side("sadness", "anger", ("rate",)))
        assert weighing.other == "disgust"
    alone = weigh({"tone": "soft", "rate": "slow"}, "sadness", table, np.random.default_rng(0))
    assert alone.sides == (Side("sadness", "disgust", ("tone",)), Side("sadness", "anger", ("rate",)))


def test_what_is_weighed_is_true_of_the_table_and_the_clearest():
    rng = np.random.default_rng(0)
    for seed in range(60):
        levels = {cue.name: str(rng.choice(cue.levels)) for cue in CUES}
        weighing = weigh(levels, "fear", TABLE, np.random.default_rng(seed))
        assert [(side.better, side.worse) for side in weighing.sides] == [
            ("fear", weighing.rival),
            (weighing.rival, "fear"),
        ]
        for side in weighing.sides:
            balance = {
                cue: TABLE.log_likelihoods(cue, level)[side.better] - TABLE.log_likelihoods(cue, level)[side.worse]
                for cue, level in levels.items()
            }
            assert min(balance[cue] for cue in side.cues) > 0
            others = [balance[cue] for cue in levels if cue not in side.cues]
            assert min(balance[cue] for cue in side.cues) >= max(others)


def test_the_words_are_quoted_and_judged_only_where_that_can_be_known():
    levels = {"pitch": "high", "rate": "fast", "tone": "sharp", "dynamics": "strong", "clarity": "rough"}

    def written(text: str, **changes: object) -> str:
        record = make_record(levels, emotion="anger", text=text)
        findings = replace(findings_of(record, BACKGROUND), **changes)
        return write(findings, "anger", TABLE, "full", np.random.default_rng(1))

    assert "“Das will sie am Mittwoch abgeben”" in written("Das will sie am Mittwoch abgeben.")
    assert "mood" not in written("Das will sie am Mittwoch abgeben.").replace("a neutral mood", "")
    assert "mood" in written("Das will sie am Mittwoch abgeben.", says_little=True)
    joyful = written("I am so happy for you")
    assert "“happy”" in joyful
    assert any(word in joyful for word in ("otherwise", "disagree", "does not bear"))
    angry = written("Why are you so angry?")
    assert any(word in angry for word in ("agree", "goes along", "bears it out"))
    # The transcript would be read as claims of the voice.
    assert "“" not in written("She has a high voice and speaks slowly")


def test_long_and_strange_transcripts_are_cut_where_a_word_ends():
    findings = findings_of(make_record({"pitch": "low"}, text="wort\n" * 60 + "\x00"), BACKGROUND)
    assert findings.quote is not None
    assert findings.quote.startswith("wort wort")
    assert findings.quote.endswith("wort …")
    assert len(findings.quote) < 80
    assert findings_of(make_record({"pitch": "low"}, text=" .,! \n"), BACKGROUND).quote is None


def test_stressed_words_are_named_only_where_they_stand_out():
    words = (Word("Lappen", 0.0, 0.2, 0.9), Word("liegt,", 0.2, 0.4, 0.1), Word("Eisschrank.", 0.4, 0.9, 0.8))
    findings = findings_of(make_record({"pitch": "low", "rate": "slow"}, words=words), BACKGROUND)
    assert findings.stressed == ("Lappen", "Eisschrank")
    text = write(findings, "anger", TABLE, "full", np.random.default_rng(0))
    assert "“Lappen” and “Eisschrank”" in text
    assert findings_of(make_record({"pitch": "low"}, words=words[1:2]), BACKGROUND).stressed == ()


def test_unreliable_levels_are_not_spoken_of():
    record = make_record({"pitch": "low", "rate": "slow", "tone": "soft"})
    levels = {**record.levels, "pitch": Level("low", 0.4, "corpus:corpus"), "rate": Level(None, 0.9, None, "unknown")}
    assert findings_of(replace(record, levels=levels), BACKGROUND).cues == {"tone": "soft"}


def test_of_direction_and_turn_of_the_melody_only_one_is_said():
    falling, arch = {"pitch_slope": "falling"}, {"pitch_turn": "rising-falling"}
    straight = {"pitch_turn": "straight"}
    assert cues_to_say({**falling, **arch}) == arch
    assert cues_to_say({**falling, **straight}) == falling
    assert cues_to_say(straight) == straight
    assert cues_to_say(falling) == falling


@pytest.mark.parametrize("levels", [{}, {"pitch": "low"}])
def test_too_little_to_hear_is_refused(levels):
    with pytest.raises(LabellingError, match="cues are reliable"):
        write(Findings(levels), "anger", TABLE, "full", np.random.default_rng(0))


def test_an_emotion_that_the_collection_does_not_know_is_refused():
    table = CueEmotionTable().fit([{"pitch": "low"}, {"pitch": "high"}], ["anger", "fear"])
    with pytest.raises(LabellingError, match="nothing tells how sadness sounds"):
        write(Findings({"pitch": "low", "rate": "slow"}), "sadness", table, "full", np.random.default_rng(0))


def test_the_same_record_and_seed_give_the_same_text_whatever_else_there_is():
    levels = {"pitch": "high", "rate": "fast", "tone": "sharp"}

    def text(seed: int, name: str) -> str:
        return write(Findings(levels), "anger", TABLE, "full", record_rng(seed, name))

    assert text(0, "a/b") == text(0, "a/b")
    assert len({text(0, "a/b"), text(1, "a/b"), text(0, "a/c")}) == 3


def test_the_background_learns_from_neither_test_speakers_nor_test_splits():
    def clips(speaker: str, emotion: str, tone: str, **fields: str):
        return [
            make_record(
                {"tone": tone}, id=f"{speaker}/{n}", speaker=speaker, emotion=emotion, text="Same words!", **fields
            )
            for n in range(25)
        ]

    train = clips("a", "anger", "sharp") + clips("b", "fear", "soft") + clips("c", "sadness", "soft")
    unheard = clips("d", "boredom", "sharp") + clips("e", "disgust", "sharp", split="test")
    background = Background.of([*train, *unheard], held_out_speakers=("d",))
    assert background.tables[""].labels == ("anger", "fear", "sadness")
    assert background.tables[""].rank({"tone": "sharp"})[0][0] == "anger"
    assert background.says_little("same   WORDS")
    assert not background.says_little("other words")
    again = Background.from_dict(background.to_dict())
    assert again.many_moods == background.many_moods
    assert again.table("corpus", "fear").rank({"tone": "soft"}) == background.table("corpus", "fear").rank(
        {"tone": "soft"}
    )


def test_a_small_corpus_borrows_what_all_corpora_say():
    big = [make_record({"tone": "sharp"}, corpus="big", emotion=emotion) for emotion in ("anger", "fear")] * 20
    small = [make_record({"tone": "soft"}, corpus="small", emotion=emotion) for emotion in ("anger", "fear")] * 5
    background = Background.of([*big, *small])
    assert set(background.tables) == {"", "big"}
    assert background.table("small", "anger") is background.tables[""]
    assert background.table("big", "anger") is background.tables["big"]
    with pytest.raises(ValueError, match="no record has an emotion"):
        Background.of([replace(record, emotion=None) for record in big])
