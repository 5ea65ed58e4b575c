"""What `doctor` says of the second language-model runtime, which may be absent."""

from __future__ import annotations

import json

import pytest

from edge_emotion.cli import doctor
from edge_emotion.cli.app import run

PROBES = {
    "onnxruntime": ("import json as m", "{'version': '1.0'}"),
    "llama-cpp-python": ("import a_package_that_does_not_exist as m", "{}"),
}
LINE = 'CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF" pip install "llama-cpp-python>=0.3.36,<0.4"'


@pytest.fixture(autouse=True)
def _without_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PROBES", PROBES)


def bundle_for(*runtimes: str) -> list[doctor.Finding]:
    return [doctor.Finding("nano", True, {"version": "1", "mib": 1.0, "path": "here", "runtimes": list(runtimes)})]


def test_llama_cpp_may_be_absent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "find_bundles", lambda: bundle_for("onnxruntime", "llama.cpp"))
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "nano, can run here" in out
    assert f"optional: llama-cpp-python, {doctor._OPTIONAL['llama-cpp-python']}:\n  {LINE}\n" in out
    assert "to mend" not in out
    assert run(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ready"] is True
    llama = next(item for item in report["packages"] if item["name"] == "llama-cpp-python")
    assert (llama["works"], llama["mend"], bool(llama["optional"])) == (False, LINE, True)


def test_a_bundle_for_llama_cpp_alone_needs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "find_bundles", lambda: bundle_for("llama.cpp"))
    assert run(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "its language model runs on llama-cpp-python, which cannot be used here" in out
    assert f"to mend nano:\n  {LINE}\n" in out
    assert "cannot run here" in out
