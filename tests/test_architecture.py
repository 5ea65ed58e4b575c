"""Who may import whom: the device side runs without the training libraries, and importing the package costs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE_ROOTS = [str(ROOT / folder) for folder in (".", "runtimes", "train", "export")]
TRAINING_LIBRARIES = (
    "torch", "transformers", "tokenizers", "librosa", "scipy", "sklearn", "parselmouth", "onnx", "gguf",
)  # fmt: skip

# Runs with the training libraries made impossible to import, as on a device that never had them.
IMPORT_DEVICE_SIDE = """
import importlib, json, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
import edge_emotion, edge_emotion_runtimes
names = [
    module.name
    for package in (edge_emotion, edge_emotion_runtimes)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
]
failed = {}
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] in BLOCKED:
            failed[name] = str(error)
        else:
            raise
print(json.dumps({"imported": names, "failed": failed}))
"""


def run_python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(SOURCE_ROOTS), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_device_side_imports_without_training_libraries() -> None:
    found = json.loads(run_python(f"BLOCKED = {TRAINING_LIBRARIES!r}\n{IMPORT_DEVICE_SIDE}").splitlines()[-1])
    assert found["failed"] == {}
    assert {"edge_emotion.cli.app", "edge_emotion.prosody", "edge_emotion_runtimes.analyzer"} <= set(found["imported"])


@pytest.mark.parametrize("module", ["edge_emotion", "edge_emotion.cli.app"])
def test_import_loads_nothing_heavy(module: str) -> None:
    loaded = set(json.loads(run_python(f"import {module}, json, sys; print(json.dumps(list(sys.modules)))")))
    heavy = {"onnxruntime", "llama_cpp", "soundfile", "soxr", *TRAINING_LIBRARIES}
    assert not loaded & heavy


def test_numpy_is_not_needed_for_help() -> None:
    assert run_python("import edge_emotion.cli.app, sys; print('numpy' in sys.modules)").strip() == "False"


def test_import_contracts() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(SOURCE_ROOTS)}
    done = subprocess.run(
        [str(linter), "--no-cache"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
