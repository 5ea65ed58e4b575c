"""The latency benchmark over the tiny bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

import latency

from edge_emotion.errors import EdgeEmotionError

ROOT = Path(__file__).resolve().parent.parent.parent


def test_every_cost_is_printed(tiny_bundle, capsys, monkeypatch):
    monkeypatch.setattr(latency, "COLD_STARTS", 1)
    monkeypatch.setattr(latency, "IMPORTS", 1)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(ROOT / folder) for folder in (".", "runtimes")))
    assert latency.main(["--bundle", str(tiny_bundle), "--runs", "2", "--duration", "1.5"]) == 0
    stdout = capsys.readouterr().out
    document = json.loads(stdout.splitlines()[-1])
    warm = document["warm_ms"]
    assert {"encoder", "think", "score", "prosody", "claims"} <= set(warm)
    assert 0 < warm["time_to_label_head"]["median"] < warm["time_to_first_word"]["median"] < warm["total"]["median"]
    assert all(spread["median"] <= spread["p95"] for spread in warm.values())
    assert document["tokens"] > 3
    assert document["cold_start"]["median_s"] > warm["total"]["median"] / 1000
    assert document["peak_rss_mb"] > 20
    assert document["import"]["brings_torch"] is False
    assert "| label by the head, ms" in stdout


def test_a_clip_that_is_too_short_is_refused(tmp_path):
    with pytest.raises(EdgeEmotionError, match=r"3\.66 s long"):
        latency.cut_clip(latency.DEFAULT_CLIP, 10.0, tmp_path)


def test_it_imports_the_device_side_only():
    """Or the peak memory would be that of the training libraries."""
    unwanted = ("torch", "parselmouth", "edge_emotion_train")
    code = f"import latency, sys; print([name for name in {unwanted} if name in sys.modules])"
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("benchmarks", ".", "runtimes", "train"))
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_several_language_models_are_compared_in_one_run(tiny_bundle, capsys, monkeypatch):
    for name, count in (("COLD_STARTS", 1), ("IMPORTS", 1), ("LOADS", 1)):
        monkeypatch.setattr(latency, name, count)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(ROOT / folder) for folder in (".", "runtimes")))
    arguments = ["--bundle", str(tiny_bundle), "--runs", "2", "--duration", "1.5", "--llm", "llama.cpp", "Q8_0"]
    assert latency.main(arguments) == 0
    stdout = capsys.readouterr().out
    document = json.loads(stdout.splitlines()[-1])
    first, second = document["language_models"]
    assert (first["asked"], second["asked"]) == ("llama.cpp", "Q8_0")
    assert first["runtime"] == second["runtime"] == "llama.cpp"
    assert document["warm_ms"] == first["warm_ms"] != second["warm_ms"]
    assert document["variants"] == {"encoder": "int8", "llm": "Q8_0"}
    assert min(one["load_ms"]["median"] for one in (first, second)) > 0
    assert "| llama.cpp: llm.Q8_0.gguf on llama.cpp" in stdout


def test_a_command_that_fails_says_what_it_said():
    with pytest.raises(EdgeEmotionError, match="ended with 3: out of luck"):
        latency._timed([sys.executable, "-c", "import sys; print('out of luck', file=sys.stderr); sys.exit(3)"])
