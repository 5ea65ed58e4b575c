"""Formats of others: a round trip loses nothing, edits are taken over, and the readers they are for can read them."""

from __future__ import annotations

import json
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_emotion.errors import LabellingError
from edge_emotion.labels import EMOTIONS
from edge_emotion.prosody.records import UNITS, Measure
from edge_emotion_train.labelling.format_audformat import timedelta
from edge_emotion_train.labelling.formats import FORMATS, REST, read_format, write_format
from edge_emotion_train.labelling.records import IntonationShape, Level, Reasoning, Record, Word

CLIP = Path(__file__).parents[1] / "data" / "emodb_03a02Nc.flac"
FILES = [name for name in FORMATS if name != "audiofolder"]

texts = st.text(st.characters(codec=None), max_size=12)
numbers = st.floats(allow_nan=False, allow_infinity=False)
seconds = st.floats(0, 1e5)
shares = st.floats(0, 1)
names = st.sampled_from(
    ["id", "audio", "path", "label", "gender", "words", "cot_analysis", "pitch_level", "messages", "take"]
)
plain = st.none() | st.booleans() | st.integers() | numbers | texts | st.lists(texts, max_size=2)
records = st.builds(
    Record,
    id=texts,
    audio=texts.filter(bool),
    corpus=texts,
    speaker=st.none() | texts,
    emotion=st.none() | st.sampled_from(EMOTIONS),
    language=st.none() | texts,
    text=st.none() | texts,
    gender=st.none() | st.sampled_from(["female", "male"]),
    split=st.none() | texts,
    audio_sha256=st.none() | texts,
    start_s=st.none() | seconds,
    end_s=st.none() | seconds,
    extra=st.dictionaries(names | texts, plain, max_size=4),
    measures=st.none()
    | st.dictionaries(
        st.sampled_from(sorted(UNITS)),
        st.builds(Measure, texts, st.none() | numbers, texts, seconds, seconds, shares, st.none() | texts),
        max_size=2,
    ),
    intonation=st.none() | st.builds(IntonationShape, st.sampled_from(["rising", None, "flat"]), shares, texts),
    words=st.none()
    | st.lists(st.builds(Word, texts, st.none() | seconds, st.none(), st.none() | shares), max_size=3).map(tuple),
    levels=st.none()
    | st.dictionaries(
        st.sampled_from(["pitch", "rate", "loudness"]),
        st.builds(Level, st.none() | st.sampled_from(["very low", "medium", "fast", "loud"]), shares, texts, texts),
        max_size=3,
    ),
    reasoning=st.none() | st.builds(Reasoning, texts, texts, texts),
)  # fmt: skip


def full_record(**changes: Any) -> Record:
    record = Record(
        "emodb/03a02Nc", str(CLIP), "emodb", "emodb_03", "neutral", "de", "Das will sie am Mittwoch abgeben.", "male",
        extra={"take": 2}, audio_sha256="5a",
        measures={"f0_median_hz": Measure("f0_median_hz", 121.5, "Hz", 0.0, 1.5, 0.9)},
        levels={"pitch": Level("very low", 0.9, "speaker:emodb_03"), "rate": Level("moderate", 0.8, "population")},
        intonation=IntonationShape("falling", 0.7),
        reasoning=Reasoning("I hear a very low pitch and a moderate pace; a neutral mood.", "built-in", "nano"),
    )  # fmt: skip
    return replace(record, **changes)


@pytest.mark.parametrize("name", FILES)
@given(found=st.lists(records, max_size=4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_round_trip_loses_nothing(name: str, found: list[Record], tmp_path: Path) -> None:
    file = tmp_path / "out"
    write_format(found, file, name, force=True)
    back = read_format(file, name)
    assert [r.to_json() for r in back.records] == [r.to_json() for r in found]
    # A label that is no emotion we know travels in `extra`, and is said to be unknown again.
    assert {failure.lost for failure in back.failures} <= {"emotion"}


@pytest.mark.parametrize("name", FILES)
def test_a_chain_of_formats_loses_nothing(name: str, tmp_path: Path) -> None:
    record = full_record()
    write_format([record], tmp_path / "a", name)
    write_format(read_format(tmp_path / "a", name).records, tmp_path / "b", "messages")
    assert read_format(tmp_path / "b", "messages").records == (record,)


def test_what_a_format_can_hold_is_shown_and_not_hidden_in_the_rest(tmp_path: Path) -> None:
    hidden = {}
    for name in FILES[1:]:
        write_format([full_record()], tmp_path / name, name)
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "emodb_03a02Nc.flac" in text
        if name != "audformat":
            hidden[name] = set(json.loads(json.loads(text)[REST]))
    assert hidden["emotioncot"] == {"audio_sha256", "measures", "levels", "intonation", "reasoning", "extra"}
    assert "emotion" not in hidden["messages"] | hidden["ms-swift"]


@pytest.mark.parametrize("name", ["emotioncot", "audformat"])
def test_an_edited_field_is_taken_over(name: str, tmp_path: Path) -> None:
    write_format([full_record()], tmp_path / "out", name)
    text = (tmp_path / "out").read_text(encoding="utf-8")
    assert text.count("neutral,") + text.count('"neutral"') >= 1
    old, new = ('"emotion": "neutral"', '"emotion": "bored"') if name == "emotioncot" else (",neutral,", ",Langeweile,")
    (tmp_path / "out").write_text(text.replace(old, new), encoding="utf-8")
    assert read_format(tmp_path / "out", name).records == (full_record(emotion="boredom"),)


def test_emotioncot_is_read_under_all_its_names(tmp_path: Path) -> None:
    rows = [
        {
            "audio_path": "MEAD/a.wav", "transcription": "No way!", "emotion": "contempt/disgust",
            "pitch_level": "high", "energy_level": "low", "speed_level": "normal", "stressed_words": ["way"],
            "intonation": "falling", "gender": "Female", "age_level": "Young Adult",
            "cot_analysis": "The speaker sounds put off.",
        },
        {"audio": "b.wav", "text": "Well.", "gt": "happy", "speaker_gender": "Male", "intonation_contour": "too_short",
         "reasoning": "A bright voice."},
        {"path": "c.wav", "transcript": "Hm.", "groundtruth_emotion": "confused", "contour_shape": "level"},
    ]  # fmt: skip
    file = tmp_path / "cot.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    first, second, third = read_format(file, "emotioncot").records
    assert (first.emotion, first.gender, first.text) == ("disgust", "female", "No way!")
    assert first.audio == str(tmp_path / "MEAD/a.wav")
    assert {cue: level.level for cue, level in (first.levels or {}).items()} == {
        "pitch": "high", "loudness": "quiet", "rate": "moderate",
    }  # fmt: skip
    assert first.reasoning is not None
    assert first.reasoning.text == "The speaker sounds put off."
    assert first.extra["age_level"] == "Young Adult"
    assert first.extra["stressed_words"] == ["way"]
    assert second.intonation == IntonationShape(None, 0.0, "the source says too_short")
    assert (second.emotion, second.reasoning and second.reasoning.text) == ("happiness", "A bright voice.")
    assert (third.emotion, third.extra["label"]) == (None, "confused")
    assert third.intonation is not None
    assert third.intonation.shape == "flat"


def test_what_emotioncot_says_comes_out_again(tmp_path: Path) -> None:
    row = {
        "audio_path": "/data/a.wav", "transcription": "No way!", "emotion": "angry", "pitch_level": "high",
        "energy_level": "low", "speed_level": "normal", "stressed_words": ["way"], "intonation": "falling",
        "gender": "Female", "age_level": "Young Adult", "cot_analysis": "The speaker sounds put off.", "note": {"a": 1},
    }  # fmt: skip
    (tmp_path / "in").write_text(json.dumps(row), encoding="utf-8")
    write_format(read_format(tmp_path / "in", "emotioncot").records, tmp_path / "out", "emotioncot")
    out = json.loads((tmp_path / "out").read_text(encoding="utf-8"))
    assert row.items() <= out.items()


def test_messages_hold_audio_parts_and_ms_swift_tags(tmp_path: Path) -> None:
    write_format([full_record()], tmp_path / "m", "messages")
    user, assistant = json.loads((tmp_path / "m").read_text(encoding="utf-8"))["messages"]
    assert user["content"][0] == {"type": "audio", "path": str(CLIP)}
    assert assistant["content"][0]["text"].startswith("<think>I hear")
    assert assistant["content"][0]["text"].endswith("</think><answer>neutral</answer>")
    write_format([full_record()], tmp_path / "s", "ms-swift")
    row = json.loads((tmp_path / "s").read_text(encoding="utf-8"))
    assert row["audios"] == [str(CLIP)]
    assert row["messages"][0]["content"].count("<audio>") == 1
    assert {message["role"] for message in row["messages"]} == {"user", "assistant"}


def test_a_stranger_s_conversations_are_read(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "system", "content": "Listen."}, {"role": "user", "content": "<audio>Which emotion?"},
                      {"role": "assistant", "content": "<think>A low voice.</think><answer>sadness</answer>"}],
         "audios": ["a.wav"]},
        {"messages": [{"role": "user", "content": "No sound at all."}]},
    ]  # fmt: skip
    file = tmp_path / "swift.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    read = read_format(file, "ms-swift")
    assert [(r.emotion, r.reasoning and r.reasoning.text) for r in read.records] == [("sadness", "A low voice.")]
    assert "one recording is needed, 0 are given" in read.failures[0].cause


def test_bad_rows_cost_nothing_but_themselves(tmp_path: Path) -> None:
    file = tmp_path / "bad"
    write_format([full_record()], file, "records")
    file.write_text(file.read_text(encoding="utf-8") + "{half\n[1]\n{}\n", encoding="utf-8")
    read = read_format(file, "records")
    assert read.records == (full_record(),)
    assert ["line 2" in f.cause or "line 3" in f.cause or "line 4" in f.cause for f in read.failures] == [True] * 3


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    write_format([full_record()], tmp_path / "out", "messages")
    with pytest.raises(LabellingError, match="exists already"):
        write_format([], tmp_path / "out", "messages")
    with pytest.raises(LabellingError, match="unknown format 'yaml'; formats are records"):
        write_format([], tmp_path / "other", "yaml")
    with pytest.raises(LabellingError, match="cannot be read"):
        read_format(tmp_path / "missing", "messages")
    (tmp_path / "precious").mkdir()
    with pytest.raises(LabellingError, match="--force does not replace it"):
        write_format([], tmp_path / "precious", "audiofolder", force=True)


# --- audiofolder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", [False, True])
def test_audiofolder_comes_back_here_and_elsewhere(link: bool, tmp_path: Path) -> None:
    source = tmp_path / "corpus" / "Ünï cödé.FLAC"
    source.parent.mkdir()
    shutil.copyfile(CLIP, source)
    whole = full_record(audio=str(source))
    part = replace(whole, id="emodb/part", start_s=0.2, end_s=0.9)
    folder = tmp_path / "folder"
    assert write_format([whole, part], folder, "audiofolder", link=link) == ()
    assert read_format(folder, "audiofolder").records == (whole, part)

    source.unlink()
    moved = shutil.move(folder, tmp_path / "elsewhere")
    there, cut = read_format(Path(moved), "audiofolder").records
    assert Path(there.audio).read_bytes() == CLIP.read_bytes()
    assert replace(there, audio=whole.audio) == whole
    assert (cut.start_s, cut.end_s, cut.audio_sha256) == (None, None, None)


def test_audiofolder_is_what_datasets_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    # datasets imports torchcodec (which needs FFmpeg) before it stores a path, though it does not use it for that.
    encoders = types.ModuleType("torchcodec.encoders")
    monkeypatch.setattr(encoders, "AudioEncoder", None, raising=False)
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.encoders", encoders)
    other = full_record(id="emodb/other", emotion=None, reasoning=None, extra={"take": "two"}, measures=None)
    write_format([full_record(), other], tmp_path / "folder", "audiofolder")
    loaded = datasets.load_dataset(
        "audiofolder", data_dir=str(tmp_path / "folder"), split="train", cache_dir=str(tmp_path / "cache")
    )
    loaded = loaded.cast_column("audio", datasets.Audio(decode=False))
    assert list(loaded["emotion"]) == ["neutral", None]
    assert Path(loaded[0]["audio"]["path"]).read_bytes() == CLIP.read_bytes()


def test_a_missing_recording_is_a_failure_and_costs_no_other(tmp_path: Path) -> None:
    lost = full_record(id="emodb/lost", audio=str(tmp_path / "nowhere.wav"))
    beyond = full_record(id="emodb/beyond", start_s=50.0)
    failures = write_format([lost, full_record(), beyond], tmp_path / "folder", "audiofolder")
    assert [failure.id for failure in failures] == ["emodb/lost", "emodb/beyond"]
    assert read_format(tmp_path / "folder", "audiofolder").records == (full_record(),)


# --- audformat -------------------------------------------------------------------------------------------------------


def test_audformat_reads_the_table(tmp_path: Path) -> None:
    audformat = pytest.importorskip("audformat")
    part = full_record(id="emodb/part", start_s=0.25, end_s=90.5)
    write_format([full_record(), part], tmp_path / "table.csv", "audformat")
    frame = audformat.utils.read_csv(str(tmp_path / "table.csv"))
    assert audformat.index_type(frame.index) == "segmented"
    assert list(frame.index.get_level_values("start").total_seconds()) == [0.0, 0.25]
    assert frame.index.get_level_values("end").isna().tolist() == [True, False]
    assert frame.index.get_level_values("end")[1].total_seconds() == 90.5
    assert list(frame["emotion"]) == ["neutral", "neutral"]
    assert float(frame["f0_median_hz"].iloc[0]) == 121.5


def test_a_table_that_audformat_wrote_is_read(tmp_path: Path) -> None:
    audformat = pytest.importorskip("audformat")
    pandas = pytest.importorskip("pandas")
    index = audformat.segmented_index(["a.wav", "b.wav"], ["0s", "1.5s"], [pandas.NaT, "3661.25s"])
    frame = pandas.DataFrame({"emotion": ["anger", "boredom"], "speaker": ["s1", "s2"]}, index=index)
    frame.reset_index().to_csv(tmp_path / "t.csv", index=False)
    first, second = read_format(tmp_path / "t.csv", "audformat").records
    assert (first.audio, first.start_s, first.end_s, first.emotion) == (str(tmp_path / "a.wav"), None, None, "anger")
    assert (second.start_s, second.end_s, second.speaker) == (1.5, 3661.25, "audformat_s2")


@given(st.floats(0, 1e6))
def test_timedeltas_are_exact_to_a_nanosecond(value: float) -> None:
    pandas = pytest.importorskip("pandas")
    assert abs(pandas.Timedelta(timedelta(value)).value - value * 1e9) <= max(1.0, value * 1e-6)
