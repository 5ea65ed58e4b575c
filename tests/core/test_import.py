from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import edge_emotion

ROOT = Path(edge_emotion.__file__).parents[1]
HEAVY = ("numpy", "soundfile", "soxr", "onnxruntime", "llama_cpp", "torch", "transformers", "librosa", "scipy")


def run_python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )


def test_import_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import edge_emotion; "
        f"print(time.perf_counter() - start, sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    runs = [run_python(code).stdout.split(maxsplit=1) for _ in range(3)]
    assert all(loaded.strip() == "[]" for _, loaded in runs)
    assert min(float(seconds) for seconds, _ in runs) < 0.15


def test_reading_audio_does_not_load_a_runtime() -> None:
    code = (
        "import sys, edge_emotion; edge_emotion.load_audio; edge_emotion.EmotionResult; edge_emotion.load_bundle; "
        "print(sorted({'onnxruntime', 'llama_cpp', 'torch', 'soundfile'} & set(sys.modules)))"
    )
    assert run_python(code).stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(set(edge_emotion.__all__) - {"Analyzer"}))
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(edge_emotion, name) is getattr(edge_emotion, name)
    assert name in dir(edge_emotion)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        edge_emotion.lod  # noqa: B018


def test_errors_have_one_base() -> None:
    assert edge_emotion.__version__ == "0.1.0"
    for name in edge_emotion.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(edge_emotion, name), edge_emotion.EdgeEmotionError)
