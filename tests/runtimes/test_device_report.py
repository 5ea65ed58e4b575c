"""The report of a device: complete, readable both ways, without private texts, and nothing in it ends the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_emotion.bundle import load_bundle
from edge_emotion.cli.app import run
from edge_emotion.isolated import Answer
from edge_emotion_runtimes import device_report, report_text

NANO = load_bundle("nano", verify=False)


@pytest.fixture
def two_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One combination of each language-model runtime, to be quick."""
    jobs = list(device_report._jobs(NANO))
    chosen = [jobs[0], next(job for job in jobs if job["llm"] == "Q8_0")]
    monkeypatch.setattr(device_report, "_jobs", lambda bundle: iter(chosen))


def test_the_command(two_jobs: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.md"
    assert run(["verify", "--report", str(path), "--no-gpu-tests"]) == 0
    captured = capsys.readouterr()
    assert "send this file" in captured.err
    text = path.read_text(encoding="utf-8")
    assert text.startswith(captured.out.split("\n## ")[0])
    report = report_text.read_report(path)
    assert report["passed"] is True
    assert [item["llm"] for item in report["combinations"]] == ["int8", "Q8_0"]
    for item in report["combinations"]:
        assert len(item["taps"]) == 12
        assert item["timing_ms"]["total"]["median"] > 0
        assert item["peak_rss_bytes"] > 2**25
    assert report["plan"]["pick"]
    assert report["doctor"]["packages"]
    for private in (str(Path.home()), str(Path.cwd()), str(NANO.path)):
        assert private not in text
    assert run(["verify", "--report", str(path)]) == 1
    assert "--force" in capsys.readouterr().err


def test_a_combination_that_crashes_is_told_and_the_others_run(two_jobs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = device_report.ask

    def crash(statement: str, expression: str, timeout_s: float = 60.0) -> Answer:
        if "'Q8_0'" in statement:
            statement = "import os; os.abort()"
        return ask(statement, expression, timeout_s)

    monkeypatch.setattr(device_report, "ask", crash)
    report = device_report.make_report(NANO, {}, tests=False)
    good, crashed = report["combinations"]
    assert good["passed"]
    assert "SIGABRT" in crashed["problem"]
    assert "did not run" in report_text.to_markdown(report)


def test_nonsense_is_off(two_jobs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    taps = [{"name": "text", "clip": 0, "metric": "", "difference": None, "tolerance": 0.1, "passed": False}]
    answer = Answer({"passed": False, "taps": taps, "timing_ms": {}, "peak_rss_bytes": 1})
    monkeypatch.setattr(device_report, "ask", lambda *_: answer)
    report = device_report.make_report(NANO, {}, tests=False)
    assert report["passed"] is False
    text = report_text.to_markdown(report)
    assert "Do not trust" in text
    assert "text not finite" in text


def test_nothing_that_runs_is_no_pass(two_jobs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_report, "ask", lambda *_: Answer(problem="it ends the process with SIGILL"))
    assert device_report.make_report(NANO, {}, tests=False)["passed"] is False


@pytest.mark.parametrize(("name", "message"), [("report.txt", ".md"), ("missing/report.md", "no folder")])
def test_where_it_cannot_be_written(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", "--report", str(tmp_path / name)]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_report(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("# notes\n")
    with pytest.raises(report_text.ConfigError, match="no device report"):
        report_text.read_report(path)


def test_fingerprint_is_the_same_twice_and_names_nobody() -> None:
    first, second = device_report.fingerprint(), device_report.fingerprint()
    assert first["id"] == second["id"]
    assert not {"host", "user", "serial"} & set(first)


def test_private_texts_are_replaced_as_words() -> None:
    private = {"/home/eva/model": "<bundle>", "evamaria": "<user>"}
    value: dict[str, Any] = {"/home/eva/model/x": ["evamaria wrote", "evamariana", "see /home/eva/other/file, too"]}
    assert device_report.scrub(value, private) == {
        "<bundle>/x": ["<user> wrote", "evamariana", "see <path>, too"],
    }


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_scrubbing_twice_changes_nothing_more(value: Any) -> None:
    once = device_report.scrub(value, {"secret": "<user>"})
    assert device_report.scrub(once, {"secret": "<user>"}) == once


def test_engines_are_tried_where_there_is_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_report, "ask", lambda *_: Answer(["CUDAExecutionProvider", "CPUExecutionProvider"]))
    found = type("Found", (), {"file": Path("libnvinfer.so.10")})()
    monkeypatch.setattr(device_report, "find", lambda name: found)
    assert device_report.encoder_runtimes("fp32") == ["onnxruntime cpu", "onnxruntime cuda", "tensorrt"]
    assert device_report.encoder_runtimes("int8-qdq") == ["onnxruntime cpu", "tensorrt"]
    assert device_report.encoder_runtimes("int8") == ["onnxruntime cpu"]
