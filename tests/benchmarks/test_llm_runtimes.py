"""The comparison of both language-model runtimes over random models."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

import llm_runtimes

from edge_emotion.errors import EdgeEmotionError


def test_both_runtimes_are_timed_in_one_run(capsys):
    assert llm_runtimes.main(["--sizes", "nano", "--runs", "1", "--rows", "8", "--tokens", "10", "--threads", "1"]) == 0
    stdout = capsys.readouterr().out
    models = json.loads(stdout.splitlines()[-1])["models"]
    assert [one["runtime"] for one in models] == ["onnxruntime", "llama.cpp"]
    assert [one["file"] for one in models] == ["nano.int8.onnx", "nano.Q8_0.gguf"]
    assert all(one[key] > 0 for one in models for key in ("load_ms", "prompt_tokens_per_s", "tokens_per_s", "score_ms"))
    assert "| nano.int8.onnx | onnxruntime" in stdout


def test_more_tokens_than_the_context_holds_are_refused():
    with pytest.raises(EdgeEmotionError, match="room for them in 512 tokens"):
        llm_runtimes.main(["--rows", "500"])
