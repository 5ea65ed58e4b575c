"""Splits by speaker: nothing is heard on both sides, and the proof finds what the split would miss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_emotion.errors import CorpusError
from edge_emotion_train.labelling.records import Record
from edge_emotion_train.labelling.splits import prove_split, split_records, take_keys


def record(
    name: str, speaker: str | None = "a", text: str | None = None, sha: str | None = None, **more: Any
) -> Record:
    return Record(f"c/{name}", f"{name}.wav", "c", speaker=speaker, text=text, audio_sha256=sha, **more)


def rows_of(records: list[Record], of: Any) -> list[dict[str, Any]]:
    return [{"id": r.id, "split": of[r.id], "speaker": r.speaker, "sources": [r.id]} for r in records]


def corpus(speakers: int = 10, clips: int = 6) -> list[Record]:
    return [
        record(f"s{s}_{c}", f"s{s}", text=f"Sentence {c}.", sha=f"{s}-{c}")
        for s in range(speakers)
        for c in range(clips)
    ]


_RECORDS = st.lists(
    st.builds(
        lambda speaker, text, sha: record("x", speaker, text, sha),
        st.sampled_from(["a", "b", "c", "d", "e", None]),
        st.sampled_from(["Guten Tag.", "Nein!", None]),
        st.sampled_from(["1", "2", "3", "4", "5", "6", "7", "8", None]),
    ),
    min_size=1,
    max_size=25,
).map(lambda found: [replace(r, id=f"c/{i}", audio=f"{i}.wav") for i, r in enumerate(found)])


@given(_RECORDS, st.integers(0, 5))
def test_no_split_of_any_corpus_leaks_and_order_does_not_matter(records: list[Record], seed: int) -> None:
    split = split_records(records, seed)
    proof = prove_split(rows_of(records, split.of), records)
    assert proof["holds"]
    assert sum(proof["row_count"].values()) == len(records)
    assert split_records(list(reversed(records)), seed).of == dict(split.of)


def test_seed_decides_who_is_drawn_and_shares_how_many() -> None:
    records = corpus()
    drawn = {
        frozenset(r.speaker for r in records if split_records(records, seed).of[r.id] == "test") for seed in range(8)
    }
    assert len(drawn) > 1
    assert {len(speakers) for speakers in drawn} == {1}
    wide = split_records(records, 0, shares={"train": 0.4, "validation": 0.3, "test": 0.3}).of
    assert sum(split == "test" for split in wide.values()) == 18


def test_named_test_speakers_are_the_whole_test() -> None:
    records = corpus()
    split = split_records(records, 3, test_speakers=["s1", "s9"])
    assert {r.speaker for r in records if split.of[r.id] == "test"} == {"s1", "s9"}
    assert {r.speaker for r in records if split.of[r.id] == "validation"} < {f"s{i}" for i in range(10)} - {"s1", "s9"}


def test_records_without_a_speaker_are_training_records_unless_their_recording_is_known() -> None:
    records = [*corpus(), record("lost", None, sha="new"), record("found", None, sha="9-0")]
    split = split_records(records, 0, test_speakers=["s9"])
    assert split.of["c/lost"] == "train"
    assert split.of["c/found"] == "test"
    assert any("2 records without a speaker" in note for note in split.notes)


def test_speakers_who_share_a_recording_stay_together() -> None:
    records = [*corpus(), record("again", "s0_alias", sha="0-0")]
    for seed in range(10):
        of = split_records(records, seed).of
        assert of["c/again"] == of["c/s0_0"]
    with pytest.raises(CorpusError, match="s0, s0_alias share a recording but are named for"):
        split_records(records, 0, test_speakers=["s0"], validation_speakers=["s0_alias"])


def test_source_splits_are_kept_where_a_speaker_has_one() -> None:
    records = [record(f"s{s}_{c}", f"s{s}", split="val" if s % 2 else "Test") for s in range(4) for c in range(2)]
    of = split_records(records, 0, use_source_splits=True).of
    assert {of[r.id] for r in records if r.split == "val"} == {"validation"}
    assert {of[r.id] for r in records if r.split == "Test"} == {"test"}


@pytest.mark.parametrize(
    ("twin", "what"),
    [
        (record("y", "a"), "speaker"),
        (record("y", "b", sha="same"), "sentence-take"),
        (record("y", "b", extra={"edited_from": "c/x"}), "sentence-take"),
        (replace(record("y", "b"), audio="x.wav"), "sentence-take"),
    ],
)
def test_a_leak_raises(twin: Record, what: str) -> None:
    original = record("x", "a", sha="same")
    rows = rows_of([original, twin], {"c/x": "train", "c/y": "test"})
    with pytest.raises(CorpusError, match=f"{what}.* both in train and in test"):
        prove_split(rows, [original, twin])


def test_the_same_words_of_one_speaker_are_one_take_whatever_the_spelling() -> None:
    assert set(take_keys(record("x", "a", "Das will sie am Mittwoch abgeben."))) & set(
        take_keys(record("y", "a", "das will sie am  Mittwoch abgeben"))
    )
    assert not set(take_keys(record("x", "a", "Ja."))) & set(take_keys(record("y", "b", "Ja.")))


def test_rows_of_nothing_or_of_a_wrong_speaker_are_refused() -> None:
    original = record("x", "a")
    with pytest.raises(CorpusError, match="is no record here"):
        prove_split([{"id": "r", "split": "test", "speaker": "a", "sources": ["c/other"]}], [original])
    with pytest.raises(CorpusError, match="says speaker b"):
        prove_split([{"id": "r", "split": "test", "speaker": "b", "sources": ["c/x"]}], [original])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_speakers": ["nobody"]}, "no clip of speaker nobody; speakers here: s0"),
        ({"test_speakers": ["s1"], "validation_speakers": ["s1"]}, "choose one"),
        ({"shares": {"train": 0.5, "test": 0.6}}, "sum to 1"),
    ],
)
def test_what_cannot_be_split_says_why(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        split_records(corpus(), 0, **arguments)


def test_doubled_ids_are_refused() -> None:
    with pytest.raises(CorpusError, match="given twice: c/x"):
        split_records([record("x"), record("x")])
