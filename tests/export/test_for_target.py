"""`export --target`: which variants are made, and what the manifest says of the target."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from edge_emotion.bundle import BUNDLES_FOLDER, load_bundle, verify_files
from edge_emotion.cli.app import run
from edge_emotion.errors import ConfigError, ExportError
from edge_emotion.targets import TARGETS
from edge_emotion_export import export, for_target
from edge_emotion_export.omni_graph import PRECISIONS
from edge_emotion_export.omni_variants import LLM_VARIANTS


@pytest.fixture
def as_nano(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The export of a checkpoint gives the shipped nano; encoders for a GPU are those of a copy."""
    added: list[Path] = []

    def export_all(checkpoint: Path, output: Path, clips: Any, **_: Any) -> None:
        shutil.copytree(BUNDLES_FOLDER / "nano", output)

    def add(bundle: Path, output: Path, clips: Any, precisions: Any) -> None:
        shutil.copytree(bundle, output)
        added.append(output)

    monkeypatch.setattr(export, "export_all", export_all)
    monkeypatch.setattr(export, "is_omni_checkpoint", lambda _: False)
    monkeypatch.setattr(for_target, "add_tensorrt_encoders", add)
    return added


@pytest.mark.parametrize(("target", "engines"), [("cpu", False), ("jetson-orin-nano", True), ("desktop-cuda", True)])
def test_nano_for_a_target(as_nano: list[Path], target: str, engines: bool, tmp_path: Path) -> None:
    output = tmp_path / "nano"
    arguments = ["export", "--checkpoint", "runs/nano", "--clips", "a.wav", "-o", str(output), "--target", target]
    assert run(arguments) == 0
    assert bool(as_nano) is engines
    manifest = load_bundle(output).manifest
    assert manifest.provenance["target"] == TARGETS[target].to_dict()
    verify_files(output, manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["nano"]
    assert run(arguments) == 1
    assert run([*arguments, "--force"]) == 0


def test_a_failed_export_leaves_the_old_one(
    as_nano: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    output = tmp_path / "nano"
    shutil.copytree(BUNDLES_FOLDER / "nano", output)

    def fail(*_: Any, **__: Any) -> None:
        raise ExportError("below its gate")

    monkeypatch.setattr(export, "export_all", fail)
    with pytest.raises(ExportError, match="gate"):
        export.main(checkpoint=tmp_path, output=output, force=True, target="cpu")
    assert "target" not in load_bundle(output).manifest.provenance
    assert [path.name for path in tmp_path.iterdir()] == ["nano"]


def test_what_is_no_export_is_not_replaced(as_nano: list[Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="not an earlier export"):
        export.main(checkpoint=tmp_path, output=tmp_path, force=True, target="cpu")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_wants_something_that_can_be_made(target: str) -> None:
    wanted = for_target.wanted_variants(target)
    assert wanted["encoders"]
    assert set(wanted["encoders"]) <= set(PRECISIONS)
    assert wanted["llms"]
    assert set(wanted["llms"]) <= set(LLM_VARIANTS)
    assert not any(name.endswith("_K_M") for name in for_target.wanted_variants(target, lambda q: "_K" in q)["llms"])


def test_half_a_bundle_and_unknown_targets(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="whole bundle"):
        export.main("llm", checkpoint=tmp_path, output=tmp_path / "x", target="cpu")
    with pytest.raises(ConfigError, match="jetson-thor"):
        for_target.wanted_variants("jetson")
    assert run(["export", "--checkpoint", "c", "--clips", "a", "-o", "x", "--target", "toaster"]) == 2
