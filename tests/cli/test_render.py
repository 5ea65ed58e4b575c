"""Drawing results: signs mark claims without touching the text, and everything fits the terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from edge_emotion.claims import CheckedClaim, Claim
from edge_emotion.cli.render import Signs, mark_claims, quantity, render_line, render_result
from edge_emotion.result import Coverage, EmotionResult
from edge_emotion.windows import Skipped

VERDICTS = ("supported", "contradicted", "not measurable")
UTF8 = Signs.of(Console(file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8")))


def draw(result: EmotionResult, width: int = 80, encoding: str = "utf-8", color: bool = False) -> str:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding)
    console = Console(file=stream, width=width, highlight=False, emoji=False, force_terminal=color, _environ={})
    console.print(render_result(result, console))
    stream.flush()
    return buffer.getvalue().decode(encoding)


@st.composite
def marked_texts(draw: st.DrawFn) -> tuple[str, list[CheckedClaim]]:
    text = draw(st.text("abc ,.", min_size=1, max_size=60))
    claims = []
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(text) - 1))
        end = draw(st.integers(start + 1, len(text)))
        claim = Claim("pitch", "high", start, end, text[start:end])
        claims.append(CheckedClaim(claim, draw(st.sampled_from(VERDICTS)), None, None, "Hz", ""))
    return text, claims


@settings(max_examples=60, deadline=None)
@given(marked_texts())
def test_signs_leave_the_text_as_it_is(case: tuple[str, list[CheckedClaim]]) -> None:
    text, claims = case
    marked = mark_claims(text, claims, UTF8).plain
    assert re.sub(r"\[[✓✗?]\]", "", marked) == text
    assert bool(claims) == (marked != text)


@pytest.mark.parametrize("width", [80, 60, 120])
def test_fits_the_terminal(make_result: Callable[..., EmotionResult], width: int) -> None:
    result = make_result(
        uncertain=True,
        uncertain_reasons=("confidence 0.34 is below 0.45, where this bundle is right less often than it says",),
        warnings=("3 % of the samples are clipped",),
    )
    lines = draw(result, width).splitlines()
    assert max(map(len, lines)) <= width
    assert "but uncertain" in "\n".join(lines)


def test_plain_terminal_gets_plain_signs(make_result: Callable[..., EmotionResult]) -> None:
    drawn = draw(make_result(), encoding="ascii")
    assert "speaks fast[x]" in drawn
    assert "######" in drawn


def test_colours_only_add_to_the_signs(make_result: Callable[..., EmotionResult]) -> None:
    coloured = draw(make_result(), color=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == draw(make_result())


def test_parts_and_skipped_spans_are_told(make_result: Callable[..., EmotionResult]) -> None:
    whole = make_result()
    (window,) = whole.windows
    skipped = tuple(Skipped(20.0 + i, 20.5 + i, "no speech") for i in range(9))
    analysed = ((0.0, 20.0), *((20.5 + i, 21.0 + i) for i in range(9)))
    result = make_result(duration_s=29.0, windows=(window, window), coverage=Coverage(analysed, skipped))
    drawn = draw(result)
    assert "In 2 parts" in drawn
    assert re.search(r"not analysed, no speech: 20\.00 . 20\.50 s, .* and 3\s+more", drawn, re.DOTALL)


def test_text_is_never_read_as_markup(make_result: Callable[..., EmotionResult]) -> None:
    drawn = draw(make_result(source="[bold]clip[/bold] :smile:.wav", warnings=("[/] odd",)))
    assert "[bold]clip[/bold] :smile:.wav" in drawn
    assert "[/] odd" in drawn
    assert "[bold]" in render_line(make_result(source="[bold].wav")).plain


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (291.4, "Hz", "291 Hz"),
        (0.04, "1", "4.0%"),
        (0.62, "1", "62%"),
        (3.14, "1/s", "3.1 per s"),
        (-11.26, "dB", "-11.3 dB"),
        (-0.02, "st/s", "0.0 st/s"),
        (None, "dB", "\u2013"),
    ],
)
def test_quantity(value: Any, unit: str, expected: str) -> None:
    assert quantity(value, unit) == expected


def test_text_cannot_steer_the_terminal(make_result: Callable[..., EmotionResult]) -> None:
    drawn = draw(
        make_result(source="a\x1b[2Jb\udcff.wav", reasoning="soft\x1b]0;title\x07", claims=(), faithfulness=None)
    )
    assert "\x1b" not in drawn
    assert "\x07" not in drawn
    assert "a\ufffd[2Jb\ufffd.wav" in drawn


def test_fallbacks_and_timing_are_told(make_result: Callable[..., EmotionResult]) -> None:
    drawn = draw(make_result(runtime={"fallbacks": ["encoder: cuda was asked for"]}))
    assert "fallback: encoder: cuda was asked for" in drawn
    assert "analysed in 270 ms: first label after 45 ms" in drawn
