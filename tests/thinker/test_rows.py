"""Rows: reading, mixing by weights, shares of other rows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_emotion.errors import CorpusError
from edge_emotion_train.thinker.rows import (
    mixture,
    paths_of,
    read_rows,
    reply_of,
    rows_hash,
    transcript_rows,
    with_shares,
)

TASKS = ("pitch_level", "stress", "order_pitch")


def make_rows(counts: tuple[int, ...]) -> list[dict[str, str]]:
    return [{"id": f"{task}{i}", "task": task} for task, n in zip(TASKS, counts, strict=True) for i in range(n)]


@given(
    counts=st.tuples(*[st.integers(1, 9)] * 3),
    weights=st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 3.0])] * 3),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_each_task_is_seen_as_often_as_its_weight_says(
    counts: tuple[int, ...], weights: tuple[float, ...], epochs: int, seed: int
) -> None:
    rows = make_rows(counts)
    order = mixture(rows, dict(zip(TASKS, weights, strict=True)), epochs, seed)
    seen = Counter(rows[i]["task"] for i in order)
    for task, count, weight in zip(TASKS, counts, weights, strict=True):
        assert seen[task] == round(weight * count * epochs)
        times = [order.count(i) for i, row in enumerate(rows) if row["task"] == task]
        assert max(times) - min(times) <= 1  # no row is left behind while another recurs
    assert order == mixture(rows, dict(zip(TASKS, weights, strict=True)), epochs, seed)


def test_an_epoch_without_weights_holds_every_row_once_and_is_mixed() -> None:
    rows = make_rows((5, 5, 5))
    order = mixture(rows, {}, 2, 0)
    assert sorted(order[:15]) == sorted(order[15:]) == list(range(15))
    assert order[:15] != order[15:] != list(range(15))
    assert mixture(rows, {}, 2, 1) != order


@given(
    main=st.integers(10, 80), text=st.integers(1, 30), share=st.sampled_from([0.1, 0.2, 0.4]), epochs=st.integers(1, 3)
)
def test_shares_are_those_of_all_rows_and_spread_evenly(main: int, text: int, share: float, epochs: int) -> None:
    first = mixture([{"task": "reasoning"}] * main, {}, epochs, 0)
    order = with_shares(first, {"text": (range(1000, 1000 + text), share), "transcript": ((), 0.0)}, epochs, 0)
    others = [i for i in order if i >= 1000]
    assert [i for i in order if i < 1000] == first
    assert abs(len(others) - share * len(order)) <= 1
    half = len(order) // 2
    assert abs(sum(i >= 1000 for i in order[:half]) - sum(i >= 1000 for i in order[-half:])) <= 2


def test_paths_are_relative_to_the_file_and_plain_texts_become_parts(tmp_path: Path) -> None:
    (tmp_path / "view").mkdir()
    file = tmp_path / "view" / "train.jsonl"
    heard = {"role": "user", "content": [{"type": "audio", "path": "audio/a.flac"}, {"type": "text", "text": "?"}]}
    said = {"role": "assistant", "content": "fear"}
    row = {"id": "a", "audio": ["audio/a.flac"], "messages": [heard, said]}
    file.write_text(json.dumps(row) + "\n\n" + json.dumps({"messages": [said]}) + "\n")
    first, second = read_rows([file])
    assert paths_of(first) == first["audio"] == [str(tmp_path / "view" / "audio" / "a.flac")]
    assert reply_of(first) == "fear"
    assert (second["id"], second["task"], paths_of(second)) == ("view/train.jsonl:3", "text", [])
    moved = tmp_path / "moved"
    (tmp_path / "view").rename(moved)
    assert rows_hash(read_rows([moved / "train.jsonl"])[:1]) == rows_hash([first])


@pytest.mark.parametrize("line", ["{", "[]", '{"id": "a"}', '{"messages": []}', '{"messages": [{"role": "user"}]}'])
def test_what_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "?"}]}\n' + line + "\n")
    with pytest.raises(CorpusError, match=r"rows\.jsonl, line 2: no row of a view"):
        read_rows([file])


def test_words_are_asked_for_where_they_are_known() -> None:
    question = {"role": "user", "content": [{"type": "audio", "path": "a.wav"}, {"type": "text", "text": "?"}]}
    rows = [{"id": name, "text": text, "messages": [question]} for name, text in (("a", "Das will sie."), ("b", None))]
    made, left_out = transcript_rows(rows, 0)
    assert [(row["id"], paths_of(row), reply_of(row)) for row in made] == [("a#transcript", ["a.wav"], "Das will sie.")]
    assert [(item.id, item.reason) for item in left_out] == [("b", "its words are not known")]
