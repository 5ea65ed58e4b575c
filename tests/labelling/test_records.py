"""Records on disk: nothing is lost on the way there and back, and the same record always gives the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_emotion.errors import LabellingError
from edge_emotion.labels import EMOTIONS
from edge_emotion.prosody.records import UNITS, Measure
from edge_emotion_train.labelling.records import (
    IntonationShape,
    Level,
    Reasoning,
    Record,
    RecordFile,
    Word,
    read_records,
)

# Lone surrogates stand for bytes of file names that are no UTF-8.
texts = st.text(st.characters(codec=None), max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
seconds = st.floats(0, 1e5)
shares = st.floats(0, 1)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
measures = st.builds(
    Measure, st.sampled_from(sorted(UNITS)), st.none() | numbers, texts, seconds, seconds, shares, texts
)
words = st.builds(Word, texts, st.none() | seconds, st.none() | seconds, st.none() | shares)
records = st.builds(
    Record,
    id=texts,
    audio=texts,
    corpus=texts,
    speaker=st.none() | texts,
    emotion=st.none() | st.sampled_from(EMOTIONS),
    text=st.none() | texts,
    start_s=st.none() | seconds,
    extra=st.dictionaries(texts, plain, max_size=3),
    measures=st.none() | st.dictionaries(st.sampled_from(sorted(UNITS)), measures, max_size=3),
    intonation=st.none() | st.builds(IntonationShape, texts, shares, st.none() | texts),
    words=st.none() | st.lists(words, max_size=3).map(tuple),
    warnings=st.lists(texts, max_size=2).map(tuple),
    levels=st.none() | st.dictionaries(texts, st.builds(Level, texts, shares, texts, texts), max_size=2),
    reasoning=st.none()
    | st.builds(Reasoning, texts, texts, texts, st.lists(st.dictionaries(texts, plain), max_size=2).map(tuple)),
)


@given(records)
def test_round_trip_through_json(record: Record) -> None:
    line = record.to_json()
    assert "\n" not in line
    assert "\t" not in line
    again = Record.from_dict(json.loads(line.encode("utf-8").decode("utf-8")))
    assert again == record
    assert again.to_json() == line


def test_read_only_mappings_become_plain() -> None:
    measure = Measure("f0_median_hz", 120.0, "Hz", 0.0, 1.0, 1.0)
    record = Record("c/1", "/1.wav", "c", measures=MappingProxyType({"f0_median_hz": measure}))
    assert Record.from_dict(json.loads(record.to_json())).measures == {"f0_median_hz": measure}


def test_names_of_files_that_are_no_utf_8() -> None:
    record = Record("c/\udcff", "/\udcff.wav", "c", text="Straße")
    assert Record.from_dict(json.loads(record.to_json().encode("utf-8"))) == record
    assert "Straße" in Record("c/1", "/1.wav", "c", text="Straße").to_json()


def test_nan_is_refused_rather_than_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Record("c/1", "/1.wav", "c", start_s=float("nan")).to_json()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.pop("id"),
        lambda data: data.update(colour="blue"),
        lambda data: data.update(schema_version=99),
        lambda data: data.update(words=["Haus"]),
        lambda data: data.update(measures={"f0_median_hz": {"value": 3}}),
        lambda data: data.update(levels=[1]),
    ],
)
def test_what_is_no_record_is_named_with_its_line(damage: Any) -> None:
    good = Record("c/1", "/1.wav", "c").to_json()
    data = json.loads(good)
    damage(data)
    with pytest.raises(LabellingError, match="line 3 is no record"):
        read_records([good, "", json.dumps(data)])


def test_files_are_read_one_after_the_other_and_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(Record(f"c/{name}", "/1.wav", "c").to_json() + "\n", encoding="utf-8")
    file = RecordFile((tmp_path / "a", tmp_path / "b"))
    assert [record.id for record in file] == [record.id for record in file] == ["c/a", "c/b"]
    with pytest.raises(LabellingError, match="cannot be read"):
        list(RecordFile((tmp_path / "missing",)))
