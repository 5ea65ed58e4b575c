"""The byte-level BPE: tags are single tokens and no text is lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edge_emotion.prompt import Prompt
from edge_emotion_train.tokenizer import TAGS, train_tokenizer

TEXTS = ["I hear a high pitch, along with a fast rate.", "This points to anger or fear."] * 20
TRAINED = train_tokenizer(TEXTS, 320)


def test_tags_are_single_tokens_at_the_end_of_the_vocabulary() -> None:
    ids = [TRAINED.encode(tag).ids for tag in TAGS]
    size = TRAINED.get_vocab_size()
    assert ids == [[size - len(TAGS) + i] for i in range(len(TAGS))]


def test_the_prompts_texts_are_made_of_tags() -> None:
    prompt = Prompt()
    ends = (prompt.before_audio, prompt.after_audio, prompt.answer_open, prompt.answer_close)
    tokens = [token for text in ends for token in TRAINED.encode(text).tokens]
    assert set(tokens) <= set(TAGS)


def test_words_digits_and_contractions_are_split_as_qwen2_does() -> None:
    split = TRAINED.pre_tokenizer.pre_tokenize_str("I don'task 12 (very) low\n tones.  Now")
    pieces = [piece.replace("\u0120", " ").replace("\u010a", "\n") for piece, _ in split]
    expected = ["I", " don", "'t", "ask", " ", "1", "2", " (", "very", ")", " low", "\n", " tones", ".", " ", " Now"]
    assert pieces == expected


def test_text_beside_a_tag_is_split_as_if_it_stood_alone() -> None:
    """Training encodes reasoning, tags and label apart; scoring encodes label and closing tag together."""
    together = TRAINED.encode("a fast rate.</think><answer>anger</answer>").ids
    apart = ["a fast rate.", "</think><answer>", "anger", "</answer>"]
    assert together == [token for text in apart for token in TRAINED.encode(text).ids]


def test_vocabulary_is_as_large_as_asked_for_where_the_texts_have_so_many_pairs() -> None:
    assert train_tokenizer(TEXTS, 290).get_vocab_size() == 290
    assert TRAINED.get_vocab_size() < 320
    assert train_tokenizer(TEXTS, 256 + len(TAGS)).get_vocab_size() == 263


def test_frequent_words_become_single_tokens() -> None:
    assert len(TRAINED.encode("I hear a high pitch").ids) <= 6
    assert len(TRAINED.encode("zygote").ids) == 6


def test_training_is_deterministic() -> None:
    assert train_tokenizer(TEXTS, 320).to_str() == TRAINED.to_str()


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_comes_back(text: str) -> None:
    assert TRAINED.decode(TRAINED.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("text", ["", " leading", "two  spaces\n\nlines\t", "Wut, Ärger, 喜び 🙂 e\u0301", *TAGS])
def test_awkward_texts_come_back_from_a_saved_tokenizer(text: str) -> None:
    loaded = Tokenizer.from_str(TRAINED.to_str())
    assert loaded.decode(loaded.encode(text).ids, skip_special_tokens=False) == text
