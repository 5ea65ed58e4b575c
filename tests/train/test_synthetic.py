"""Synthetic speech: what is asked of the synthesiser is what Praat then hears."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import parselmouth
import pytest
import soundfile

pytest.importorskip("hibari", reason="needs hibari-tts (the train extra)")

from parselmouth.praat import call

from edge_emotion.audio import SAMPLE_RATE_HZ
from edge_emotion.errors import CorpusError
from edge_emotion_train.augment import Samples, track_pitch
from edge_emotion_train.corpora import corpus_hash, read_corpus
from edge_emotion_train.synthesis import MARGIN_S, ProsodySpec, Voice, asked_median_hz, syllable_count, synthesise
from edge_emotion_train.synthetic import draw_voice, measure_reached, sentences, synthetic_clips

TEXT = "We can meet at the library after lunch."


def sound_of(samples: Samples) -> parselmouth.Sound:
    return parselmouth.Sound(samples.astype(np.float64), SAMPLE_RATE_HZ)


def slope_st_per_s(samples: Samples) -> float:
    pitch = track_pitch(sound_of(samples))
    f0_hz = pitch.selected_array["frequency"]
    voiced = f0_hz > 0
    return float(np.polyfit(pitch.xs()[voiced], 12 * np.log2(f0_hz[voiced]), 1)[0])


def tilt_db(samples: Samples) -> float:
    power = np.abs(np.fft.rfft(samples)) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ)
    return float(10 * np.log10(power[(hz > 1000) & (hz < 5000)].sum() / power[(hz > 50) & (hz < 1000)].sum()))


def harmonicity_db(samples: Samples) -> float:
    values = sound_of(samples).to_harmonicity_cc().values
    return float(values[values > -200].mean())


@pytest.fixture(scope="module")
def plain() -> Samples:
    return synthesise(TEXT)


def test_speech_is_16_khz_float_within_range(plain: Samples) -> None:
    assert plain.dtype == np.float32
    assert np.isfinite(plain).all()
    assert np.max(np.abs(plain)) == pytest.approx(0.7, abs=0.01)
    assert 1.5 < len(plain) / SAMPLE_RATE_HZ < 4.0
    margin = round(MARGIN_S * SAMPLE_RATE_HZ)
    speech = np.mean(plain[margin:-margin] ** 2)
    assert np.mean(plain[: margin // 2] ** 2) < 1e-3 * speech


@pytest.mark.parametrize("f0_hz", [105.0, 193.0, 260.0])
@pytest.mark.parametrize("shift_st", [-3.0, 4.0])
def test_median_f0_is_the_asked_one(f0_hz: float, shift_st: float) -> None:
    voice, spec = Voice(f0_median_hz=f0_hz), ProsodySpec(pitch_shift_st=shift_st)
    reached = measure_reached(synthesise(TEXT, spec, voice), TEXT)["f0_median_hz"]
    assert 12 * np.log2(reached / asked_median_hz(spec, voice)) == pytest.approx(0.0, abs=0.6)


def test_range_rate_slope_tilt_breath_and_pause_move_what_they_name(plain: Samples) -> None:
    reached = measure_reached(plain, TEXT)
    wide, flat = (measure_reached(synthesise(TEXT, ProsodySpec(range_factor=f)), TEXT) for f in (1.6, 0.5))
    assert wide["f0_std_st"] / reached["f0_std_st"] == pytest.approx(1.6, abs=0.35)
    assert flat["f0_std_st"] / reached["f0_std_st"] == pytest.approx(0.5, abs=0.2)
    for factor in (0.65, 0.8, 1.25, 1.5):
        other = measure_reached(synthesise(TEXT, ProsodySpec(rate_factor=factor)), TEXT)
        assert other["syllables_per_s"] / reached["syllables_per_s"] == pytest.approx(factor, rel=0.08)
    assert slope_st_per_s(synthesise(TEXT, ProsodySpec(slope_st=6.0))) - slope_st_per_s(plain) > 1.5
    assert tilt_db(synthesise(TEXT, ProsodySpec(tilt_db_per_octave=3.0))) - tilt_db(plain) > 3.0
    assert harmonicity_db(plain) - harmonicity_db(synthesise(TEXT, ProsodySpec(breath_db=9.0))) > 1.5
    assert len(synthesise(TEXT, ProsodySpec(pause_s=0.4))) - len(plain) == pytest.approx(6400, abs=400)


def test_the_size_of_the_voice_moves_formants_and_leaves_f0_alone(plain: Samples) -> None:
    small = synthesise(TEXT, voice=Voice(formant_factor=1.15))
    large = synthesise(TEXT, voice=Voice(formant_factor=0.85))

    def formant_hz(samples: Samples, number: int, ceiling_hz: float) -> float:
        formants = call(sound_of(samples), "To Formant (burg)", 0, 5, ceiling_hz, 0.025, 50)
        return call(formants, "Get quantile", number, 0, 0, "hertz", 0.5)

    for number in (2, 3):
        middle = formant_hz(plain, number, 5500)
        assert formant_hz(small, number, 5500 * 1.15) / middle == pytest.approx(1.15, abs=0.06)
        assert formant_hz(large, number, 5500 * 0.85) / middle == pytest.approx(0.85, abs=0.06)
    f0 = [measure_reached(samples, TEXT)["f0_median_hz"] for samples in (small, plain, large)]
    assert max(f0) / min(f0) < 1.06


def test_the_same_seed_is_the_same_sound() -> None:
    spec = ProsodySpec(jitter=0.02, breath_db=3.0)
    np.testing.assert_array_equal(synthesise(TEXT, spec, seed=5), synthesise(TEXT, spec, seed=5))
    assert not np.array_equal(synthesise(TEXT, spec, seed=5), synthesise(TEXT, spec, seed=6))


@pytest.mark.parametrize(("text", "rate", "message"), [("", 1.0, "0 phonemes"), (TEXT, 3.0, r"0\.5 to 2")])
def test_what_cannot_be_spoken_is_refused(text: str, rate: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthesise(text, ProsodySpec(rate_factor=rate))


def test_sentences_are_many_short_and_different() -> None:
    lines = sentences()
    assert len(lines) == len(set(lines)) == 80
    assert all(4 <= len(line.split()) <= 12 for line in lines)


@pytest.mark.parametrize(("text", "syllables"), [("The cat.", 2), ("My brother works in a small office.", 9)])
def test_syllables_are_counted_from_the_sounds(text: str, syllables: int) -> None:
    assert syllable_count(text) == syllables


def test_voices_differ_and_size_goes_with_pitch() -> None:
    voices = [draw_voice(index, 0) for index in range(200)]
    size, pitch = [v.formant_factor for v in voices], [np.log2(v.f0_median_hz) for v in voices]
    assert len({v.f0_median_hz for v in voices}) == 200
    assert 0.6 < np.corrcoef(size, pitch)[0, 1] < 0.98
    assert draw_voice(3, 0) == draw_voice(3, 0) != draw_voice(3, 1)


def test_a_corpus_is_reproducible_kept_and_never_overwritten_by_chance(tmp_path: Path) -> None:
    clips = synthetic_clips(4, 7, tmp_path / "a", voices=3, progress=False)
    assert [c.name for c in clips] == [f"s7_{i:05d}" for i in range(4)]
    assert len({c.speaker for c in clips}) == 3
    assert {c.emotion for c in clips} == {None}
    for clip in clips:
        assert soundfile.info(clip.path).samplerate == SAMPLE_RATE_HZ
        error_st = 12 * np.log2(clip.extra["reached"]["f0_median_hz"] / clip.extra["asked"]["f0_median_hz"])
        assert abs(error_st) < 4.0
    longer = synthetic_clips(5, 7, tmp_path / "b", voices=3, progress=False)
    assert corpus_hash(longer[:4]) == corpus_hash(clips)

    written = (tmp_path / "a/manifest.jsonl").stat().st_mtime_ns
    assert corpus_hash(synthetic_clips(4, 7, tmp_path / "a", voices=3, progress=False)) == corpus_hash(clips)
    assert (tmp_path / "a/manifest.jsonl").stat().st_mtime_ns == written
    with pytest.raises(CorpusError, match="force"):
        synthetic_clips(4, 8, tmp_path / "a", voices=3, progress=False)
    replaced = synthetic_clips(2, 8, tmp_path / "a", voices=3, force=True, progress=False)
    assert len(replaced) == 2
    assert read_corpus("synthetic", tmp_path / "a") == replaced
    assert json.loads((tmp_path / "a/recipe.json").read_text())["seed"] == 8


def test_a_corpus_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=">= 1"):
        synthetic_clips(0, 0, tmp_path)
