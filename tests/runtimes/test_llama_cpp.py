"""The llama.cpp runtime: damaged files, a missing library, and what is particular to it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

from edge_emotion.errors import BundleError, LanguageModelError, RuntimeUnavailableError
from edge_emotion_runtimes import llama_cpp_bindings
from edge_emotion_runtimes.llama_cpp_model import LlamaCppModel

CUT_SCRIPT = """
import sys
from pathlib import Path
from edge_emotion.errors import EdgeEmotionError
from edge_emotion_runtimes.llama_cpp_model import LlamaCppModel

data, cut = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
for length in map(int, sys.argv[3:]):
    cut.write_bytes(data[:length])
    try:
        LlamaCppModel(cut, threads=1)
        print(length, "loaded")
    except EdgeEmotionError as error:
        print(length, type(error).__name__)
"""


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


@pytest.fixture(autouse=True)
def _importable_in_subprocess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))


def test_a_file_cut_anywhere_is_an_error_and_no_crash(gguf_path, tmp_path):
    size = gguf_path.stat().st_size
    lengths = [0, 3, 4, 20, 24, 100, 700, 1500, 3000, 5000, 6000, 7000, size // 4, size // 2, size - 4096, size - 1]
    done = run_python(CUT_SCRIPT, gguf_path, tmp_path / "cut.gguf", *lengths)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [f"{length} BundleError" for length in lengths]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"RIFF" + bytes(100), "not a GGUF"),
        (b"GGUF" + (99).to_bytes(4, "little") + bytes(100), "version 99"),
        (b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16 + bytes(100), "damaged GGUF header"),
        (b"GGUF" + (3).to_bytes(4, "little") + bytes(100), "damaged GGUF header"),
    ],
)
def test_what_is_no_model_is_refused_before_the_library_sees_it(tmp_path, content, message):
    path = tmp_path / "wrong.gguf"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=message):
        LlamaCppModel(path)


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(BundleError, match="cannot be read"):
            LlamaCppModel(path)


def test_an_unknown_architecture_says_why(gguf_path, tmp_path):
    path = tmp_path / "other.gguf"
    path.write_bytes(gguf_path.read_bytes().replace(b"qwen2", b"qwenX"))
    with pytest.raises(BundleError, match="unknown model architecture"):
        LlamaCppModel(path)


@pytest.mark.parametrize("options", [{"context_tokens": 0}, {"threads": 0}, {"kv_type": "q4"}])
def test_impossible_options_are_refused(gguf_path, options):
    with pytest.raises(LanguageModelError):
        LlamaCppModel(gguf_path, **options)


def test_a_missing_library_says_how_to_install_it(gguf_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    llama_cpp_bindings.library.cache_clear()
    try:
        with pytest.raises(RuntimeUnavailableError, match="pip install"):
            LlamaCppModel(gguf_path)
    finally:
        llama_cpp_bindings.library.cache_clear()


def test_the_whole_package_can_be_imported_afterwards(gguf_path):
    code = (
        "import os, sys\n"
        "from edge_emotion_runtimes.llama_cpp_model import LlamaCppModel\n"
        "assert 'llama_cpp' not in sys.modules, 'imported before it is chosen'\n"
        "LlamaCppModel(sys.argv[1]).close()\n"
        "assert 'jinja2' not in sys.modules\n"
        "import llama_cpp\n"
        "print(llama_cpp.Llama.__name__, os.environ['OMP_WAIT_POLICY'])\n"
    )
    done = run_python(code, gguf_path)
    assert (done.returncode, done.stdout) == (0, "Llama PASSIVE\n"), done.stderr


def test_a_small_model_takes_one_thread(gguf_path):
    with LlamaCppModel(gguf_path) as model:
        assert model.threads == 1


@pytest.mark.parametrize(
    "options", [{"kv_type": "f16"}, {"flash_attention": True}, {"flash_attention": None}, {"threads": 2}]
)
def test_other_settings_compute_nearly_the_same(gguf_path, options):
    settings = {"threads": 1, "kv_type": "f32", "flash_attention": False}
    with LlamaCppModel(gguf_path, **settings) as exact, LlamaCppModel(gguf_path, **settings | options) as other:
        for model in (exact, other):
            model.prefill([model.tokenize("<|audio|>the anger of the other<|/audio|>")])
        np.testing.assert_allclose(exact.logits(), other.logits(), atol=0.1)


def test_a_failure_in_the_middle_leaves_the_sequence_as_it_was(gguf_path, monkeypatch):
    with LlamaCppModel(gguf_path, 1200, threads=1) as model:
        model.prefill([[1, 2, 3]])
        expected, real, calls = model.logits(), llama_cpp_bindings.decode, []

        def fail_at_second(*arguments: object) -> int:
            calls.append(arguments)
            return 1 if len(calls) == 2 else real(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(llama_cpp_bindings, "decode", fail_at_second)
        with pytest.raises(LanguageModelError, match=r"returned 1 on .* no room in the KV cache"):
            model.prefill([[4] * 1100])
        assert model.position == 3
        np.testing.assert_array_equal(model.logits(), expected)
        monkeypatch.undo()
        model.prefill([[5]])
        continued = model.logits()
        model.reset()
        model.prefill([[1, 2, 3], [5]])
        np.testing.assert_allclose(continued, model.logits(), atol=1e-2)


def test_models_come_and_go_without_growing(gguf_path):
    def use() -> None:
        with LlamaCppModel(gguf_path, threads=1) as model:
            model.prefill([[1, 2, 3]])

    for _ in range(5):
        use()
    before = resident_bytes()
    for _ in range(30):
        use()
    assert resident_bytes() - before < 4 * 2**20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
