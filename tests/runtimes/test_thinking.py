"""Where a model's thinking ends when its tags are several tokens, and what is left to force before the answer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_emotion.prompt import Prompt
from edge_emotion_runtimes.interfaces import Token
from edge_emotion_runtimes.thinking import Thinking, answer_without_thinking

PROMPT = Prompt(after_audio="?", answer_open="</think><answer", stop=("</think>",), max_think_tokens=50)


class Writer:
    """A model that writes the given pieces; a stop text is one token only if it is named in `single`."""

    def __init__(self, pieces: Sequence[str], single: Sequence[str] = ()) -> None:
        self.pieces, self.single, self.taken = pieces, single, 0

    def tokenize(self, text: str) -> list[int]:
        return [7] if text in self.single else list(range(100, 100 + len(text)))

    def stream(self, max_tokens: int, stop_token_ids: Any = ()) -> Iterator[Token]:
        for piece in self.pieces[:max_tokens]:
            if piece in self.single and 7 in stop_token_ids:
                return
            self.taken += 1
            yield Token(0, piece, 0.0)


def run(pieces: Sequence[str], prompt: Prompt = PROMPT, single: Sequence[str] = ()) -> tuple[str, str, list[str], int]:
    writer, told = Writer(pieces, single), []
    reasoning, opening = Thinking(writer, prompt).run(told.append)  # type: ignore[arg-type]
    return reasoning, opening, told, writer.taken


@pytest.mark.parametrize(
    ("pieces", "reasoning", "opening"),
    [
        (["High", " voice", ".</", "think", ">", "<answer"], "High voice.", "<answer"),
        (["High", ".</", "think", "><", "answer"], "High.", "answer"),
        (["High", "</think><answer"], "High", ""),
        (["High", "</think>\n", "x"], "High", "<answer"),
        (["High", " voice"], "High voice", "</think><answer"),
        (["<think>", "High", "</think>"], "High", "<answer"),
        (["<", "think", ">High", "</think>"], "High", "<answer"),
        (["a < b </thin king"], "a < b </thin king", "</think><answer"),
        (["<"], "<", "</think><answer"),
        ([], "", "</think><answer"),
    ],
)
def test_the_tag_ends_the_thinking_in_whatever_tokens(pieces: list[str], reasoning: str, opening: str) -> None:
    found, left, told, _ = run(pieces)
    assert (found, left) == (reasoning, opening)
    assert "".join(told) == reasoning


def test_nothing_is_written_after_the_tag() -> None:
    assert run(["a", "</think>", "b", "c"])[3] == 2


def test_a_tag_that_is_one_token_is_no_part_of_the_sequence() -> None:
    assert run(["a", "</think>", "b"], single=["</think>"]) == ("a", "</think><answer", ["a"], 1)


@given(st.lists(st.text("ab<>/think ", max_size=5), max_size=12), st.data())
def test_what_is_told_is_the_reasoning_however_it_is_cut(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces) + data.draw(st.sampled_from(["", "</think>", "</think><"]))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=10)) | {0, len(text)})
    reasoning, _, told, _ = run([text[start:stop] for start, stop in itertools.pairwise(cuts)])
    assert "".join(told) == reasoning
    assert "</think>" not in reasoning
    assert reasoning == run([text])[0]


def test_an_answer_at_once_closes_nothing_that_was_not_opened() -> None:
    assert answer_without_thinking(PROMPT) == "<answer"
    assert answer_without_thinking(Prompt()) == "</think><answer>"
