"""The step `measure`: what is in the signal gets into the record, and a stage that fails costs its own field only."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edge_emotion.audio import load_audio
from edge_emotion.errors import AudioError
from edge_emotion.prosody import UNITS, measure_prosody
from edge_emotion_train.labelling import measure as measure_module
from edge_emotion_train.labelling.measure import Measuring, file_state
from edge_emotion_train.labelling.records import Outcome, Record, Word

CLIP = Path(__file__).resolve().parents[1] / "data/emodb_03a02Nc.flac"
WORDS = (Word("Das", 0.1, 0.3), Word("will", 0.3, 0.5), Word("sie", 0.5, 0.7), Word("am", 0.7, 0.9))


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return load_audio(CLIP).samples


def measured(path: Path | str, step: Measuring | None = None, **fields: Any) -> Outcome:
    return (step or Measuring())(Record("c/1", str(path), "c", **fields))


def done(path: Path | str, **fields: Any) -> Record:
    outcome = measured(path, **fields)
    assert outcome.record is not None
    return outcome.record


def test_every_measure_is_there_as_it_was_measured(speech: np.ndarray) -> None:
    record = done(CLIP)
    expected = measure_prosody(speech).measures
    assert record.measures is not None
    assert set(record.measures) == set(UNITS)
    for name, measure in record.measures.items():
        assert measure.value == (
            None if expected[name].value is None else pytest.approx(expected[name].value, rel=1e-5)
        )
        assert measure.reliability == pytest.approx(expected[name].reliability, abs=1e-4)
    assert record.audio_sha256 == hashlib.sha256(CLIP.read_bytes()).hexdigest()
    assert record.intonation is not None
    assert (record.intonation.shape is None) == (record.intonation.reason is not None)


def test_the_file_is_decoded_once_for_all_clips_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(measure_module, "load_audio", lambda source: calls.append(source) or load_audio(source))
    measure_module._decode_once.cache_clear()
    for start_s in (0.0, 0.5):
        done(CLIP, start_s=start_s, end_s=start_s + 0.5)
    assert len(calls) == 1


def test_a_part_is_measured_as_if_it_were_a_file(speech: np.ndarray, tmp_path: Path) -> None:
    part = done(CLIP, start_s=0.25, end_s=1.25)
    soundfile.write(tmp_path / "part.wav", speech[4000:20000], 16000, subtype="FLOAT")
    assert part.measures == done(tmp_path / "part.wav").measures


@pytest.mark.parametrize(("start_s", "end_s"), [(5.0, 6.0), (1.0, 0.5), (0.0, 99.0)])
def test_a_part_outside_the_recording_is_refused(start_s: float, end_s: float) -> None:
    with pytest.raises(AudioError, match="is not in it"):
        measured(CLIP, start_s=start_s, end_s=end_s)


def test_sample_rates_channels_and_formats_may_be_mixed(speech: np.ndarray, tmp_path: Path) -> None:
    import soxr

    wide = soxr.resample(speech, 16000, 44100)
    soundfile.write(tmp_path / "stereo.wav", np.stack([wide, wide], axis=1), 44100)
    soundfile.write(tmp_path / "phone.ogg", soxr.resample(speech, 16000, 8000), 8000)
    plain, stereo, phone = (done(path).measures for path in (CLIP, tmp_path / "stereo.wav", tmp_path / "phone.ogg"))
    assert plain
    assert stereo
    assert phone
    for name, tolerance in (("f0_median_hz", 0.01), ("syllable_rate_per_s", 0.05)):
        assert stereo[name].value == pytest.approx(plain[name].value, rel=tolerance)
        assert phone[name].value == pytest.approx(plain[name].value, rel=4 * tolerance)
    assert any("8,000 Hz" in warning for warning in done(tmp_path / "phone.ogg").warnings)


def test_silence_has_no_measures_but_a_reason(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 16000)
    record = done(tmp_path / "silence.wav")
    assert record.measures is not None
    assert (record.measures["f0_median_hz"].value, record.measures["f0_median_hz"].reason) == (None, "no speech found")
    assert record.intonation is not None
    assert record.intonation.reason == "too short"


def unreadable(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("this is no recording")


def missing(path: Path) -> None:
    path.unlink(missing_ok=True)


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "cause"),
    [(unreadable, "is empty"), (text, "looks like text"), (missing, "does not exist"), (folder, "is a folder")],
)
def test_what_cannot_be_read_says_why_and_names_the_file(
    tmp_path: Path, make: Callable[[Path], None], cause: str
) -> None:
    make(tmp_path / "clip.wav")
    with pytest.raises(AudioError, match=cause) as error:
        measured(tmp_path / "clip.wav")
    assert "clip.wav" in str(error.value)


def test_a_path_that_no_system_takes(tmp_path: Path) -> None:
    for path in ("x" * 5000 + ".wav", "nul\0.wav"):
        with pytest.raises(AudioError):
            measured(tmp_path / path)
        assert file_state(Record("c/1", str(tmp_path / path), "c")) == "missing"


def test_a_path_longer_than_libsndfile_takes(tmp_path: Path) -> None:
    folder = tmp_path / "/".join(["ü" * 120] * 6)
    folder.mkdir(parents=True)
    (folder / "clip.flac").write_bytes(CLIP.read_bytes())
    assert done(folder / "clip.flac").measures == done(CLIP).measures


def test_words_with_times_get_a_prominence() -> None:
    record = done(CLIP, words=WORDS)
    assert record.words is not None
    assert [replace(word, prominence=None) for word in record.words] == list(WORDS)
    assert all(word.prominence is not None and 0 <= word.prominence <= 1 for word in record.words)


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"words": WORDS, "extra": {"word_align_cost": 9}}, "dubious"),
        ({"text": "Das will sie.", "language": "de"}, "no acoustic model for speech in 'de'"),
        ({"text": "Das will sie."}, "of unknown language"),
    ],
)
def test_words_that_cannot_be_placed_cost_the_prominence_only(fields: dict[str, Any], cause: str) -> None:
    outcome = measured(CLIP, **fields)
    assert outcome.record is not None
    assert outcome.record.measures is not None
    assert outcome.record.words == fields.get("words")
    assert [failure.lost for failure in outcome.failures] == ["prominence"]
    assert cause in outcome.failures[0].cause


def test_without_a_text_or_without_alignment_nothing_is_missing() -> None:
    assert measured(CLIP).failures == ()
    assert measured(CLIP, Measuring(align=False), text="Das will sie.", language="de").failures == ()


@pytest.mark.parametrize("stage", ["measure_prosody", "describe_shape", "word_prominence"])
def test_a_stage_that_fails_costs_its_own_field(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(measure_module, stage, fail)
    outcome = measured(CLIP, words=WORDS)
    lost = {"measure_prosody": "measures", "describe_shape": "intonation", "word_prominence": "prominence"}[stage]
    assert [(failure.lost, failure.cause) for failure in outcome.failures] == [(lost, "ZeroDivisionError: by zero")]
    assert outcome.record is not None
    assert outcome.record.words is not None
    assert (outcome.record.measures is None) == (stage == "measure_prosody")


def test_the_rate_is_that_of_the_text_where_it_is_known() -> None:
    heard = done(CLIP).measures
    by_text = done(CLIP, text="Das will sie am Mittwoch abgeben.", language="de").measures
    assert heard
    assert by_text
    spoken_s = heard["speech_duration_s"].value
    assert by_text["syllable_rate_per_s"].value == pytest.approx(9 / spoken_s, rel=1e-4)
    assert heard["syllable_rate_per_s"].value != by_text["syllable_rate_per_s"].value
    wrong = done(CLIP, text="Ja.", language="de").measures
    assert wrong
    assert wrong["syllable_rate_per_s"] == heard["syllable_rate_per_s"]


def test_other_code_is_another_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Measuring().settings
    assert Measuring().settings == before
    assert Measuring(align=False).settings != before
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"another program")
    assert Measuring().settings != before


def test_a_file_that_changes_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(CLIP.read_bytes())
    record = Record("c/1", str(path), "c")
    before = file_state(record)
    assert file_state(record) == before
    os.utime(path, ns=(0, 0))
    assert file_state(record) != before


def test_the_same_clip_gives_the_same_bytes_whatever_came_before(tmp_path: Path) -> None:
    first = done(CLIP).to_json()
    done(CLIP.with_name("emodb_14a04Aa.flac"))
    assert done(CLIP).to_json() == first
