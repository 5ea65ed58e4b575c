from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_emotion.labels import CORPORA, EMOTIONS, names_of, normalise_label


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_every_name_of_an_emotion_means_it_and_no_other(emotion: str):
    assert emotion in names_of(emotion)
    for name in names_of(emotion):
        assert normalise_label(name) == emotion
        assert normalise_label(f" {name.upper()}. ") == emotion


def test_no_word_means_two_emotions():
    names = [name for emotion in EMOTIONS for name in names_of(emotion)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("text", "emotion"),
    [
        ("Angry", "anger"),
        ("Wut", "anger"),
        ("Langeweile", "boredom"),
        ("\u00c4rger", "anger"),
        ("<|HAPPY|>", "happiness"),
        ("\u751f\u6c14/angry", "anger"),
        ("pleasant surprise", "surprise"),
        ("Pleasant_Surprise", "surprise"),
        ("joy", "happiness"),
        ("fearful", "fear"),
        ("calm", "neutral"),
    ],
)
def test_words_mean_the_same_everywhere(text: str, emotion: str):
    assert normalise_label(text) == emotion
    assert normalise_label(text, "meld") == emotion


@pytest.mark.parametrize(
    ("corpus", "codes"),
    [
        ("emodb", dict(W="anger", L="boredom", E="disgust", A="fear", F="happiness", T="sadness", N="neutral")),
        ("EmoDB", dict(w="anger", Freude="happiness")),
        (
            "ravdess",
            {"01": "neutral", "03": "happiness", "05": "anger", "06": "fear", "07": "disgust", "08": "surprise"},
        ),
        ("CREMA-D", dict(ANG="anger", DIS="disgust", FEA="fear", HAP="happiness", NEU="neutral", SAD="sadness")),
        ("cremad", dict(ANG="anger")),
        ("tess", dict(ps="surprise", OAF_Fear="fear", YAF_pleasant_surprised="surprise")),
        ("iemocap", dict(exc="happiness", hap="happiness", ang="anger", neu="neutral")),
        ("meld", dict(joy="happiness", neutral="neutral")),
        ("emotion2vec", dict(angry="anger", disgusted="disgust", surprised="surprise")),
    ],
)
def test_codes_hold_for_their_corpus(corpus: str, codes: dict[str, str]):
    for code, emotion in codes.items():
        assert normalise_label(code, corpus) == emotion


@pytest.mark.parametrize(
    ("code", "other"), [("W", "ravdess"), ("05", "emodb"), ("ANG", "emodb"), ("ps", None), ("A", None)]
)
def test_a_code_means_nothing_elsewhere(code: str, other: str | None):
    with pytest.raises(ValueError, match="it is a code of"):
        normalise_label(code, other)


def test_unknown_labels_are_refused_with_a_suggestion():
    with pytest.raises(ValueError, match=r"unknown emotion 'angre'.*known emotions: anger.*did you mean anger\?"):
        normalise_label("angre")
    for text in ("frustration", "fru", "xxx", "other", "unk", "", "neutral or happy"):
        with pytest.raises(ValueError, match="unknown emotion"):
            normalise_label(text, "iemocap")
    with pytest.raises(ValueError, match="unknown corpus 'nope'; known corpora: " + ", ".join(CORPORA)):
        normalise_label("anger", "nope")


@given(st.text(max_size=40), st.sampled_from([None, *CORPORA]))
def test_any_text_is_an_emotion_or_a_value_error(text: str, corpus: str | None):
    try:
        emotion = normalise_label(text, corpus)
    except ValueError:
        return
    assert emotion in EMOTIONS
