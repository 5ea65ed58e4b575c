"""The ordering task: what was asked is in the sound that is stored, nothing else moved, and no order is favoured."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import parselmouth
import pytest

from edge_emotion.audio import SAMPLE_RATE_HZ, load_audio
from edge_emotion_train.augment import shift_pitch, track_pitch
from edge_emotion_train.labelling import ordering
from edge_emotion_train.labelling.ordering import PLACES, SILENCE_S, STEP, NotReachedError, Triple, make_triple

CLIPS = sorted((Path(__file__).parents[1] / "data").glob("*.flac"))


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return load_audio(CLIPS[0]).samples


@pytest.fixture(scope="module")
def triples(speech: np.ndarray) -> dict[str, Triple]:
    return {attribute: make_triple(speech, attribute, "clip", 0) for attribute in PLACES}


def parts(triple: Triple) -> list[np.ndarray]:
    samples = load_audio(triple.flac).samples
    return [samples[round(v.start_s * SAMPLE_RATE_HZ) : round(v.end_s * SAMPLE_RATE_HZ)] for v in triple.variants]


def praat_semitones(samples: np.ndarray) -> float:
    f0_hz = track_pitch(parselmouth.Sound(samples.astype(float), SAMPLE_RATE_HZ)).selected_array["frequency"]
    return 12 * math.log2(float(np.median(f0_hz[f0_hz > 0])) / 100)


@pytest.mark.parametrize("attribute", PLACES)
def test_measured_factors_are_what_was_asked_and_far_enough_apart(triples: dict[str, Triple], attribute: str) -> None:
    variants = triples[attribute].variants
    assert {variant.place for variant in variants} == set(PLACES[attribute])
    low, medium, high = sorted(variants, key=lambda v: PLACES[attribute].index(v.place))
    for variant in variants:
        assert variant.measured == pytest.approx(variant.asked, rel=0.05 if attribute == "speed" else 0, abs=0.5)
    least = STEP[attribute][0]
    for one, other in ((low, medium), (medium, high)):
        step = other.measured / one.measured if attribute == "speed" else other.measured - one.measured
        assert step >= least * 0.9
    assert triples[attribute].answer == ", ".join(variant.place for variant in variants)


def test_praat_hears_the_same_order_of_pitch(triples: dict[str, Triple]) -> None:
    triple = triples["pitch"]
    heard = [praat_semitones(part) for part in parts(triple)]
    asked = [variant.asked for variant in triple.variants]
    assert np.argsort(heard).tolist() == np.argsort(asked).tolist()
    assert np.diff(sorted(heard)) == pytest.approx(np.diff(sorted(asked)), abs=0.5)


def test_energy_and_length_are_in_the_samples(triples: dict[str, Triple]) -> None:
    loud = [20 * math.log10(float(np.sqrt(np.mean(part**2)))) for part in parts(triples["energy"])]
    asked = [variant.asked for variant in triples["energy"].variants]
    assert np.subtract(loud, loud[0]) == pytest.approx(np.subtract(asked, asked[0]), abs=0.1)
    lengths = np.array([len(part) for part in parts(triples["speed"])])
    factors = np.array([variant.asked for variant in triples["speed"].variants])
    assert lengths * factors == pytest.approx(np.full(3, np.mean(lengths * factors)), rel=0.01)


def test_only_the_attribute_asked_about_tells_the_variants_apart(triples: dict[str, Triple]) -> None:
    for attribute in ("pitch", "speed"):
        levels = [20 * math.log10(float(np.sqrt(np.mean(part**2)))) for part in parts(triples[attribute])]
        assert np.ptp(levels) < 1.0
    assert np.ptp([len(part) for part in parts(triples["pitch"])]) <= SAMPLE_RATE_HZ // 100
    assert np.ptp([praat_semitones(part) for part in parts(triples["speed"])]) < 0.5


def test_all_three_are_edited_and_silence_lies_between(triples: dict[str, Triple]) -> None:
    for attribute, triple in triples.items():
        neutral = 1.0 if attribute == "speed" else 0.0
        assert all(variant.asked != neutral for variant in triple.variants)
        samples = load_audio(triple.flac).samples
        for one, other in zip(triple.variants, triple.variants[1:], strict=False):
            assert other.start_s - one.end_s == pytest.approx(SILENCE_S)
            gap = samples[round(one.end_s * SAMPLE_RATE_HZ) : round(other.start_s * SAMPLE_RATE_HZ)]
            assert not gap.any()


def test_name_and_seed_decide_everything(speech: np.ndarray, triples: dict[str, Triple]) -> None:
    assert make_triple(speech, "energy", "clip", 0) == triples["energy"]
    assert make_triple(speech, "energy", "clip", 1).flac != triples["energy"].flac
    assert make_triple(speech, "energy", "other", 0).flac != triples["energy"].flac


def test_orders_are_equally_frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: Counter[tuple[int, ...]] = Counter()
    for number in range(600):
        drawn[tuple(ordering._draw("pitch", np.random.default_rng(number))[1])] += 1
    assert len(drawn) == 6
    assert min(drawn.values()) > 70


def test_an_edit_that_is_not_reached_is_not_used(speech: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "edit_prosody", lambda samples, edit: shift_pitch(samples, 0.3 * edit.pitch_shift_st))
    with pytest.raises(NotReachedError, match="pitch not reached"):
        make_triple(speech, "pitch", "clip", 0)


def test_an_edit_that_moves_something_else_is_not_used(speech: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    edit = ordering.edit_prosody
    monkeypatch.setattr(
        ordering,
        "edit_prosody",
        lambda samples, asked: shift_pitch(edit(samples, asked), 3 * asked.duration_factor - 3),
    )
    with pytest.raises(NotReachedError, match="pitch moved with speed"):
        make_triple(speech, "speed", "clip", 0)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(16_000, np.float32), "no speech"),
        (np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32), "too little voice|no speech"),
    ],
)
def test_what_has_no_voice_says_so(samples: np.ndarray, reason: str) -> None:
    with pytest.raises(NotReachedError, match=reason):
        make_triple(samples, "pitch", "clip", 0)


def test_what_would_be_too_long_says_so(speech: np.ndarray) -> None:
    with pytest.raises(NotReachedError, match="longer than 29 s"):
        make_triple(np.tile(speech, 10), "energy", "clip", 0)
