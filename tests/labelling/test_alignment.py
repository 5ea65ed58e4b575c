"""Word times by pocketsphinx, on speech whose joints are known."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pocketsphinx", reason="forced alignment: install the train extra")
pytest.importorskip("hibari", reason="speech of known joints: install the train extra")

from edge_emotion_train.labelling.alignment import _decoder, align_words
from edge_emotion_train.synthesis import synthesise
from edge_emotion_train.synthetic import draw_voice, sentences


@pytest.fixture(scope="module")
def joined() -> tuple[np.ndarray, float]:
    """Two halves of a sentence put together, and the time in the middle of the 100 ms between them."""
    first, second = (synthesise(text) for text in ("the old teacher carried", "a broken kitchen window"))
    first, second = first[:-800], second[800:]
    return np.concatenate([first, second]), len(first) / 16_000


def test_words_are_found_in_order_and_at_their_place(joined: tuple[np.ndarray, float]):
    samples, joint_s = joined
    found = align_words(samples, "The old teacher carried \u201ca broken, kitchen-window\u201d!", "en-US")
    assert found.reason is None
    assert found.words is not None
    assert [word.text for word in found.words] == ["The", "old", "teacher", "carried", "a", "broken", "kitchen-window"]
    times = [time_s for word in found.words for time_s in (word.start_s, word.end_s) if time_s is not None]
    assert len(times) == 14
    assert times == sorted(times)
    assert times[-1] <= len(samples) / 16_000 + 0.02
    assert found.words[3].end_s == pytest.approx(joint_s - 0.05, abs=0.12)
    assert found.words[4].start_s == pytest.approx(joint_s + 0.05, abs=0.12)


def test_what_was_aligned_before_does_not_matter():
    # A sentence and voice whose boundaries move when the features' mean is carried over, even from itself.
    text = sentences()[6]
    samples = synthesise(text, None, draw_voice(6, 0))
    _decoder.cache_clear()
    first = align_words(samples, text, "en")
    assert first.words is not None
    assert align_words(samples, text, "en") == first


def test_gain_does_not_matter(joined: tuple[np.ndarray, float]):
    text = "the old teacher carried a broken kitchen window"
    assert align_words(0.01 * joined[0], text, "en") == align_words(joined[0], text, "en")


def test_words_that_no_dictionary_has_are_spelled():
    found = align_words(synthesise("The zorblatt googled a fluffnik."), "The zorblatt googled a fluffnik.", "en")
    assert found.words is not None
    assert [word.text for word in found.words] == ["The", "zorblatt", "googled", "a", "fluffnik"]


@pytest.mark.parametrize(
    ("text", "language", "reason"),
    [
        ("Der Lappen liegt", "de", "English only"),
        ("hello there", None, "unknown language"),
        ("... !", "en", "no words"),
        ("\u65e5\u672c\u8a9e", "en", "no pronunciation"),
        ("many more words than anybody could ever put into this very short recording of a voice " * 4, "en", "not fit"),
    ],
)
def test_what_cannot_be_aligned_has_a_reason(
    joined: tuple[np.ndarray, float], text: str, language: str | None, reason: str
):
    found = align_words(joined[0], text, language)
    assert found.words is None
    assert reason in (found.reason or "")


@pytest.mark.parametrize("samples", [np.zeros(16_000, np.float32), np.zeros(0, np.float32), np.ones(50, np.float32)])
def test_too_little_to_align_has_a_reason(samples: np.ndarray):
    found = align_words(samples, "hello there", "en")
    assert found.words is None
    assert found.reason
