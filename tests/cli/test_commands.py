"""The other commands: help without heavy imports, doctor, bundle, and the doors to training and export."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_emotion import __version__
from edge_emotion.bundle import EncoderSpec, EncoderVariant, LlmSpec, LlmVariant, Manifest, write_manifest
from edge_emotion.cli import doctor, extras
from edge_emotion.cli.app import run
from edge_emotion.cues import Thresholds
from edge_emotion.errors import RuntimeUnavailableError
from edge_emotion.manifest import Calibration
from edge_emotion.prompt import Prompt


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "encoder.int8.onnx").write_bytes(b"encoder")
    (folder / "llm.Q8_0.gguf").write_bytes(b"language model")
    manifest = Manifest(
        name="tiny",
        version="1.2.3",
        licence="Apache-2.0",
        languages=("de",),
        labels=("anger", "neutral"),
        files={},
        encoder=EncoderSpec((EncoderVariant("encoder.int8.onnx", "int8", 18),), 16000, 32, 10.0, 0, 0.5, 30.0),
        llm=LlmSpec((LlmVariant("llm.Q8_0.gguf", "Q8_0"),), "qwen2", 512),
        prompt=Prompt(),
        thresholds=Thresholds({"dynamics": (4.0, 7.0)}, "population: nobody"),
        calibration={"llm": Calibration(1.0, 0.1, 0.4), "head": Calibration(1.0, 0.1, 0.4)},
        provenance={"seed": 0},
        receipts={"golden": {"tolerances": {}}},
    )
    write_manifest(folder, manifest)
    return folder


@pytest.mark.parametrize("command", [[], ["analyze"], ["verify"], ["bundle"], ["doctor"], ["train"], ["export"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == 0
    assert "Usage: edge-emotion" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"edge-emotion {__version__}"


def test_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["analyse"]) == 2
    assert "analyze" in capsys.readouterr().err


def test_bundle_inspect(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bundle", "inspect", str(bundle)]) == 0
    out = capsys.readouterr().out
    for text in ("tiny 1.2.3", "encoder.int8.onnx", "anger, neutral", "population: nobody", "seed: 0"):
        assert text in out
    assert run(["bundle", "inspect", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == ["anger", "neutral"]


def test_bundle_verify(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bundle", "verify", str(bundle)]) == 0
    assert "intact, 2 files" in capsys.readouterr().out
    assert run(["bundle", "verify", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["intact"] is True
    (bundle / "encoder.int8.onnx").write_bytes(b"Encoder")
    assert run(["bundle", "verify", str(bundle)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error: " in captured.err
    assert "encoder.int8.onnx" in captured.err


def test_doctor_reads_packages(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == (0 if report["ready"] else 1)
    assert report["machine"]["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
    packages = {item["name"]: item for item in report["packages"]}
    assert packages["numpy"]["works"]
    assert "CPUExecutionProvider" in packages["onnxruntime"]["details"]["providers"]
    assert [item["name"] for item in report["bundles"]].count("nano") == 1


def test_doctor_survives_what_is_missing_or_crashes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    probes = {
        "soxr": ("import a_package_that_does_not_exist as m", "{}"),
        "llama-cpp-python": ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "{}"),
    }
    monkeypatch.setattr(doctor, "_PROBES", probes)
    missing, crashed = doctor.probe_package("soxr"), doctor.probe_package("llama-cpp-python")
    assert missing.problem == "No module named 'a_package_that_does_not_exist'"
    assert missing.mend == "pip install soxr"
    assert "SIGILL" in (crashed.problem or "")
    assert "--force-reinstall" in (crashed.mend or "")
    assert run(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "to mend soxr:\n  pip install soxr\n" in out
    assert "cannot run here" in out


def test_missing_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "needs_torch.py").write_text("import a_package_that_does_not_exist\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeUnavailableError, match=r'pip install "edge-emotion\[train\]"'):
        extras.import_from_extra("needs_torch", extra="train")


def test_train_hands_over_stage_file_and_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    stages = ModuleType("edge_emotion_train.stages")
    stages.run = lambda stage, config, overrides: calls.append((stage, config, overrides))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edge_emotion_train.stages", stages)
    assert run(["train", "sft", "--config", "nano.yaml", "--steps", "100"]) == 0
    assert calls == [("sft", Path("nano.yaml"), ("--steps", "100"))]


def test_reader_of_stdout_may_go_away(bundle: Path) -> None:
    import subprocess

    code = (
        "import sys; from edge_emotion.cli.app import main; sys.argv[1:] = ['bundle', 'inspect', sys.argv[1]]; main()"
    )
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", code, str(bundle)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""


def test_export_hands_over_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    exporter = ModuleType("edge_emotion_export.export")
    exporter.main = lambda part, **options: calls.append((part, options)) or 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edge_emotion_export.export", exporter)
    arguments = ["llm", "--checkpoint", "runs/nano", "--clips", "a.wav", "b", "-o", "out", "--bundle-version", "2.0"]
    assert run(["export", *arguments]) == 0
    expected = {
        "checkpoint": Path("runs/nano"),
        "output": Path("out"),
        "clips": [Path("a.wav"), Path("b")],
        "force": False,
        "name": None,
        "version": "2.0",
    }
    assert calls == [("llm", expected)]
