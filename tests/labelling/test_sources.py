"""From folders and tables to records: every line becomes a record or a counted failure that says why."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from edge_emotion.errors import CorpusError, LabellingError
from edge_emotion_train.labelling.field_names import FIELD_NAMES, known_fields
from edge_emotion_train.labelling.records import Failure, Outcome, Record, Word
from edge_emotion_train.labelling.sources import SourceSpec, read_sources, record_of


def read(*sources: Path | str, language: str | None = None) -> tuple[list[Record], list[Failure]]:
    found = [
        Outcome(item) if isinstance(item, Record) else item
        for item in read_sources([SourceSpec.parse(str(source)) for source in sources], language)
    ]
    records = [outcome.record for outcome in found if outcome.record is not None]
    return records, [failure for outcome in found for failure in outcome.failures]


def write_wav(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # libsndfile refuses paths of more than 1024 bytes
        soundfile.write(file, np.zeros(1600), 16000, format="WAV")
    return path


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_json_lines_with_every_field(tmp_path: Path) -> None:
    row = {
        "audio": "a/1.wav", "id": "x1", "speaker": "anna", "emotion": "Angry", "language": "en", "text": "No.",
        "gender": "F", "split": "dev", "start_s": 0.5, "end_s": "0 days 00:00:01.250000", "mood": {"arousal": 3},
    }  # fmt: skip
    records, failures = read(write_lines(tmp_path / "calls.jsonl", [row]))
    assert failures == []
    assert records == [
        Record(
            id="calls/x1", audio=str(tmp_path / "a/1.wav"), corpus="calls", speaker="calls_anna", emotion="anger",
            language="en", text="No.", gender="female", split="dev", start_s=0.5, end_s=1.25,
            extra={"mood": {"arousal": 3}},
        )
    ]  # fmt: skip


def test_names_of_other_tools_are_understood(tmp_path: Path) -> None:
    row = {"audio_path": "/d/1.wav", "gt": "sad", "transcription": "Well.", "dataset": "meld", "gender_new": "Male"}
    records, failures = read(write_lines(tmp_path / "cot.jsonl", [row]))
    assert failures == []
    assert (records[0].id, records[0].corpus, records[0].emotion) == ("meld/d/1", "meld", "sadness")
    assert (records[0].text, records[0].gender, records[0].audio) == ("Well.", "male", "/d/1.wav")


@given(st.dictionaries(st.sampled_from([a for names in FIELD_NAMES.values() for a in names] + ["x"]), st.text()))
def test_no_value_of_a_row_is_lost(row: dict[str, str]) -> None:
    known, extra = known_fields(row)
    assert sorted([*known.values(), *extra.values()]) == sorted(v for k, v in row.items() if v or k == "x")


def test_words_with_times_and_all_that_is_said_of_them(tmp_path: Path) -> None:
    words = [{"word": "Der", "start": 0.1, "end": 0.2, "prominence": 0.4}, {"word": "Lappen"}]
    row = {"audio": "1.wav", "words": words, "word_align_cost": 1, "syllables": [{"syllable": "der"}]}
    records, _ = read(write_lines(tmp_path / "a.jsonl", [row]))
    assert records[0].words == (Word("Der", 0.1, 0.2), Word("Lappen"))
    assert records[0].extra == {"words": words, "word_align_cost": 1, "syllables": [{"syllable": "der"}]}


BAD_ROWS = [
    ("{not json", None, "no JSON"),
    ('["a list"]', None, "one JSON object a line"),
    ({"speaker": "x"}, None, "names no recording"),
    ({"audio": 7}, None, "names no recording"),
    ({"audio": "1.wav", "start": "soon"}, None, "start_s must be seconds"),
    ({"audio": "1.wav", "end_s": -1}, None, "end_s must be seconds"),
    ({"audio": "1.wav", "emotion": "angyr"}, "emotion", "did you mean anger"),
    ({"audio": "1.wav", "emotion": "W"}, "emotion", "it is a code of emodb"),
    ({"audio": "1.wav", "gender": "?"}, "gender", "neither female nor male"),
    ({"audio": "1.wav", "words": "Der Lappen"}, "words", "list of text, start and end"),
]


@pytest.mark.parametrize(("row", "lost", "cause"), BAD_ROWS)
def test_a_bad_row_is_counted_and_costs_no_other(tmp_path: Path, row: Any, lost: str | None, cause: str) -> None:
    rows = [{"audio": "before.wav"}, row, {"audio": "after.wav"}]
    records, failures = read(write_lines(tmp_path / "a.jsonl", rows))
    assert len(records) == (2 if lost is None else 3)
    assert (records[0].id, records[-1].id) == ("a/before", "a/after")
    assert [failure.lost for failure in failures] == [lost]
    assert cause in failures[0].cause
    if lost is None:
        assert "line 2" in failures[0].cause
    if lost == "emotion":
        assert records[1].extra["label"] == row["emotion"]


def test_nan_in_a_field_that_nobody_reads_is_no_harm(tmp_path: Path) -> None:
    records, failures = read(write_lines(tmp_path / "a.jsonl", ['{"audio": "1.wav", "score": NaN, "emotion": NaN}']))
    assert (failures, records[0].extra, records[0].emotion) == ([], {"score": None}, None)


def test_csv(tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(
            [["file", "label", "note", "start"], ["ä b.wav", "Wut", 'a "quoted"\nnote', "0 days 00:00:00"], ["2.wav"]]
        )
    records, failures = read(tmp_path / "t.csv")
    assert failures == []
    assert [(r.id, r.emotion, r.start_s) for r in records] == [
        ("t/ä b@0 days 00:00:00", "anger", 0.0),
        ("t/2", None, None),
    ]
    assert records[0].extra == {"note": 'a "quoted"\nnote'}


def test_a_folder_of_recordings_is_read_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b/2.wav", "a/1.flac", "a/.hidden.wav", ".git/3.wav", "a/notes.txt"):
        write_wav(tmp_path / name) if name.endswith("v") or name.endswith("c") else (tmp_path / name).write_text("x")
    records, failures = read(f"calls={tmp_path}", language="de")
    assert [(record.id, record.language) for record in records] == [("calls/a/1", "de"), ("calls/b/2", "de")]
    assert failures == []


def test_folders_named_after_emotions_are_labels_only_if_all_are(tmp_path: Path) -> None:
    write_wav(tmp_path / "angry/1.wav")
    write_wav(tmp_path / "Freude/1.wav")
    assert {record.emotion for record in read(tmp_path)[0]} == {"anger", "happiness"}
    write_wav(tmp_path / "misc/1.wav")
    assert {record.emotion for record in read(tmp_path)[0]} == {None}


def test_a_folder_with_a_table_is_the_table(tmp_path: Path) -> None:
    write_wav(tmp_path / "1.wav")
    write_wav(tmp_path / "unlisted.wav")
    write_lines(tmp_path / "metadata.jsonl", [{"file_name": "1.wav", "emotion": "neutral"}])
    records, _ = read(tmp_path)
    assert [(record.audio, record.emotion) for record in records] == [(str(tmp_path / "1.wav"), "neutral")]


def test_a_known_corpus_by_its_name(tmp_path: Path) -> None:
    root = tmp_path / "emodb"
    for name in ("03a01Wa", "16b10Tb"):
        write_wav(root / f"wav/{name}.wav")
    write_wav(root / "wav/nonsense.wav")
    write_wav(root / "wav/03a01Xa.wav")
    for records, failures in (read(root), read(f"emo-db={root}")):
        assert [(r.id, r.speaker, r.emotion) for r in records] == [
            ("emodb/03a01Wa", "emodb_03", "anger"), ("emodb/16b10Tb", "emodb_16", "sadness"),
        ]  # fmt: skip
        assert sorted(failure.cause.split(":")[0] for failure in failures) == ["unknown file name", "unknown label"]
        assert all(failure.lost is None for failure in failures)
    with pytest.raises(CorpusError, match="name it otherwise: NAME="):
        read(f"ravdess={root}")


def test_one_recording(tmp_path: Path) -> None:
    records, _ = read(write_wav(tmp_path / "talks/one.wav"))
    assert [(record.id, record.audio) for record in records] == [("talks/one", str(tmp_path / "talks/one.wav"))]


def test_unicode_and_long_paths(tmp_path: Path) -> None:
    folder = tmp_path / "/".join(["ü" * 120] * 12)
    write_wav(folder / "声\u2028 \N{GRINNING FACE}.wav")
    odd = os.fsdecode(b"\xff\xfe.wav")
    write_wav(tmp_path / "z" / odd)
    records, failures = read(f"x={tmp_path}")
    assert failures == []
    assert len(records) == 2
    for record in records:
        assert os.path.exists(record.audio)
        assert Record.from_dict(json.loads(record.to_json().encode("utf-8"))) == record


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(LabellingError, match="does not exist"):
        SourceSpec.parse(f"calls={tmp_path}/missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabellingError, match="holds no recordings"):
        read(tmp_path / "empty")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(LabellingError, match="holds no recordings"):
        read(tmp_path / "empty.jsonl")


@given(st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=8) | st.lists(st.integers())))
def test_no_row_can_break_the_reader(row: dict[str, Any]) -> None:
    outcome = record_of({"audio": "1.wav", **row}, Path("/data"), "c", "line 1")
    assert outcome.record is not None or outcome.failures
    if outcome.record:
        assert Record.from_dict(json.loads(outcome.record.to_json())) == outcome.record


@given(st.sampled_from(sorted(FIELD_NAMES)), st.none() | st.integers() | st.lists(st.integers()) | st.booleans())
def test_no_value_of_a_known_field_can_break_the_reader(field: str, value: Any) -> None:
    outcome = record_of({"audio": "1.wav", field: value}, Path("/data"), "c", "line 1")
    if outcome.record:
        assert Record.from_dict(json.loads(outcome.record.to_json())) == outcome.record
        for text in (outcome.record.text, outcome.record.language, outcome.record.split, outcome.record.speaker):
            assert text is None or isinstance(text, str)
