"""Which words stand out: higher, louder and longer ones; and what cannot be told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion.prosody import Contour
from edge_emotion_train.labelling.records import Word
from edge_emotion_train.labelling.stress import CUE_NAMES, stressed_words, word_cues, word_prominence

Spoken = Sequence[tuple[float, float, float]]


def utterance(spoken: Spoken) -> tuple[Contour, tuple[Word, ...]]:
    """Words of (pitch in semitones re 150 Hz, level in dBFS, duration in seconds), 20 ms of no voice between them."""
    f0_hz, level, words = [], [], []
    for index, (semitones, level_db, duration_s) in enumerate(spoken):
        count = round(100 * duration_s)
        start_s = len(f0_hz) / 100.0
        f0_hz += [150.0 * 2.0 ** (semitones / 12.0)] * count + [float("nan")] * 2
        level += [level_db] * count + [level_db - 20.0] * 2
        words.append(Word(f"w{index}", start_s, start_s + duration_s))
    times_s = (np.arange(len(f0_hz)) + 0.5) / 100.0
    return Contour(times_s, np.array(f0_hz), np.array(level)), tuple(words)


def prominences(spoken: Spoken) -> list[float]:
    found = [word.prominence for word in word_prominence(*utterance(spoken))]
    assert all(value is not None and 0.0 <= value <= 1.0 for value in found)
    return [value for value in found if value is not None]


PLAIN = (0.0, -25.0, 0.25)


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize("stressed", [(5.0, -25.0, 0.25), (0.0, -17.0, 0.25), (0.0, -25.0, 0.5), (3.0, -20.0, 0.35)])
def test_the_higher_louder_or_longer_word_stands_out(place: int, stressed: tuple[float, float, float]):
    spoken = [PLAIN] * 5
    spoken[place] = stressed
    found = prominences(spoken)
    assert int(np.argmax(found)) == place
    words = word_prominence(*utterance(spoken))
    assert stressed_words(words) == (words[place],)


def test_equal_words_are_equally_prominent():
    found = prominences([PLAIN] * 6)
    assert max(found) - min(found) < 0.02
    assert stressed_words(word_prominence(*utterance([PLAIN] * 6))) == ()


def test_words_far_away_do_not_count():
    near = [PLAIN] * 4 + [(4.0, -20.0, 0.4)] + [PLAIN] * 12
    for far in (PLAIN, (12.0, -5.0, 0.6)):
        assert prominences([*near, *[far] * 12])[:9] == prominences(near)[:9]


@given(
    spoken=st.lists(
        st.tuples(st.floats(-6.0, 6.0), st.floats(-40.0, -10.0), st.floats(0.05, 0.6)), min_size=2, max_size=12
    ),
    gain_db=st.floats(-20.0, 6.0),
    octaves=st.floats(-0.8, 0.8),
)
@settings(max_examples=60, deadline=None)
def test_gain_and_the_height_of_the_voice_change_nothing(spoken: Spoken, gain_db: float, octaves: float):
    contour, words = utterance(spoken)
    other = Contour(contour.times_s, contour.f0_hz * 2.0**octaves, contour.intensity_db + gain_db)
    plain, changed = word_prominence(contour, words), word_prominence(other, words)
    assert [word.text for word in changed] == [word.text for word in words]
    for one, two in zip(plain, changed, strict=True):
        assert one.prominence is not None
        assert two.prominence == pytest.approx(one.prominence, abs=2e-3)


def test_silence_around_changes_nothing():
    contour, words = utterance([PLAIN, (4.0, -20.0, 0.4), PLAIN])
    nothing = np.full(50, np.nan)
    padded = Contour(
        (np.arange(len(contour.f0_hz) + 100) + 0.5) / 100.0,
        np.concatenate([nothing, contour.f0_hz, nothing]),
        np.concatenate([np.full(50, -150.0), contour.intensity_db, np.full(50, -150.0)]),
    )
    later = [Word(word.text, (word.start_s or 0.0) + 0.5, (word.end_s or 0.0) + 0.5) for word in words]
    assert [word.prominence for word in word_prominence(padded, later)] == [
        word.prominence for word in word_prominence(contour, words)
    ]


def test_words_without_times_or_outside_the_recording_have_no_prominence():
    contour, words = utterance([PLAIN, (4.0, -20.0, 0.4), PLAIN])
    given_words = (
        *words,
        Word("unknown"),
        Word("late", 99.0, 99.5),
        Word("backwards", 0.5, 0.4),
        Word("nan", None, 1.0),
    )
    found = word_prominence(contour, given_words)
    assert [word.prominence is None for word in found] == [False, False, False, True, True, True, True]
    assert [word.text for word in found] == [word.text for word in given_words]


def test_one_word_or_no_voice_cannot_be_compared():
    contour, words = utterance([PLAIN, (4.0, -20.0, 0.4)])
    assert [word.prominence for word in word_prominence(contour, words[:1])] == [None]
    silent = Contour(contour.times_s, np.full_like(contour.f0_hz, np.nan), contour.intensity_db)
    assert [word.prominence for word in word_prominence(silent, words)] == [None, None]
    assert word_prominence(contour, ()) == ()


def test_a_whispered_word_counts_as_low_and_all_cues_are_finite():
    contour, words = utterance([(0.0, -25.0, 0.25), (2.0, -25.0, 0.25), (4.0, -25.0, 0.25), (1.0, -25.0, 0.25)])
    contour.f0_hz[54:81] = np.nan
    cues = word_cues(contour, words)
    assert cues.shape == (4, len(CUE_NAMES))
    assert np.isfinite(cues).all()
    assert cues[2, 0] <= np.sort(cues[:, 0])[1]
