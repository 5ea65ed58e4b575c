"""`edge-emotion analyze` with a stand-in analyzer: output, files, exit codes, and input that goes wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_emotion.cli.app import run
from edge_emotion.result import EmotionResult


def test_json_is_one_strict_object_per_line(analyzer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["analyze", "good1.wav", "good2.wav", "--json"]) == 0
    captured = capsys.readouterr()
    results = [EmotionResult.from_dict(json.loads(line)) for line in captured.out.splitlines()]
    assert [result.source for result in results] == ["good1.wav", "good2.wav"]
    assert captured.err == ""
    assert analyzer.closed


def test_good_recordings_are_answered_beside_bad_ones(analyzer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["analyze", "bad.txt", "good.wav", "odd.wav", "good2.wav", "--json"]) == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["source"] for line in captured.out.splitlines()] == ["good.wav", "good2.wav"]
    assert "2 of 4 recordings could not be analysed" in captured.err
    assert "error: bad.txt is not a recording; give wav" in captured.err
    assert "error: odd.wav: unexpected ZeroDivisionError: division by zero" in captured.err
    assert "Traceback" not in captured.err


def test_traceback_of_a_bug_only_on_request(
    analyzer: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_EMOTION_DEBUG", "1")
    assert run(["analyze", "odd.wav"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_people_see_answer_reasons_and_verdicts(analyzer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["analyze", "good.wav"]) == 0
    out = capsys.readouterr().out
    for text in ("happiness, 71%", "pitch is very high[✓]", "speaks fast[✗]", "tone[?]", "1 of 2", "contradicted"):
        assert text in out


def test_fast_loads_no_language_model(analyzer: Any) -> None:
    assert run(["analyze", "good.wav", "--fast", "--encoder", "fp32", "--strict"]) == 0
    options = {"encoder": "fp32", "llm": "none", "strict": True, "self_check": False, "base": None}
    assert analyzer.loaded == {"bundle": "nano", **options}
    assert analyzer.calls == [{"file": Path("good.wav"), "explain": False}]


def test_result_files(analyzer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["analyze", "a/good.wav", "bad.wav", "b/good.wav", "-o", str(tmp_path / "out"), "-f", "json,jsonl,csv"]
    assert run(arguments) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "good-2.json", "good.json", "results.csv", "results.jsonl",
    ]  # fmt: skip
    assert json.loads((tmp_path / "out/good-2.json").read_text())["source"] == "b/good.wav"
    assert len((tmp_path / "out/results.jsonl").read_text().splitlines()) == 2
    with (tmp_path / "out/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["start_s"], row["label"], row["p_anger"]) for row in rows] == [
        ("a/good.wav", "0.100", "happiness", "0.2200"),
        ("b/good.wav", "0.100", "happiness", "0.2200"),
    ]
    assert "happiness" in capsys.readouterr().out


def test_result_files_are_not_overwritten(analyzer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.json").write_text("precious")
    assert run(["analyze", "good.wav", "-o", str(tmp_path)]) == 1
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "good.json").read_text() == "precious"
    assert analyzer.calls == []
    assert run(["analyze", "good.wav", "-o", str(tmp_path), "--force"]) == 0
    assert (tmp_path / "good.json").read_text() != "precious"


def test_interrupt_keeps_what_is_ready(analyzer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["analyze", "good.wav", "stop.wav", "good2.wav", "-o", str(tmp_path), "-f", "jsonl"]) == 130
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["good.wav", "-f", "jsno"],
        ["good.wav", "-f", "csv"],
        ["good.wav", "-o", "x", "-f", ""],
        ["good.wav", "--jsno"],
    ],
)
def test_wrong_usage(analyzer: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["analyze", *arguments]) == 2
    assert capsys.readouterr().err
    assert analyzer.calls == []


def test_nothing_analysable_is_an_answer(
    analyzer: Any, make_result: Callable[..., EmotionResult], capsys: pytest.CaptureFixture[str]
) -> None:
    from edge_emotion.result import Coverage
    from edge_emotion.windows import Skipped

    analyzer.make = lambda source: make_result(
        source,
        label=None,
        distribution={},
        confidence=0.0,
        uncertain=True,
        uncertain_reasons=("no speech was found",),
        head_distribution={},
        agreement=None,
        reasoning="",
        claims=(),
        faithfulness=None,
        evidence=(),
        windows=(),
        coverage=Coverage((), (Skipped(0.0, 1.9, "no speech"),)),
    )
    assert run(["analyze", "good.wav"]) == 0
    out = capsys.readouterr().out
    assert "no answer" in out
    assert "no speech was found" in out
    assert "not analysed, no speech: 0.00" in out
