"""A real compiler takes the encoders for TensorRT, without a GPU: `pip install tensorrt-rtx-cu13`, `pytest -m slow`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("model", [["nano"], ["small"], ["omni", "--layers", "2"]], ids=lambda model: model[0])
def test_every_graph_compiles_and_what_tensorrt_cannot_take_is_named(model):
    """Of omni two layers: the others are the same, and all of them take minutes and memory."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    command = [sys.executable, str(ROOT / "benchmarks" / "tensorrt_compile.py"), "--json", "--models", *model]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert [row["precision"] for row in document["graphs"]] == ["fp16", "int8-qdq"]
    for row in document["graphs"]:
        assert row["lint"] == row["unsupported"] == 0
        assert row["layers"] > 100
        assert row["engine_mb"] > 1
    planted, default = document["refused"]
    for text in (planted["first"], planted["told"]):
        assert "planted/Unique" in text
    assert default["lint"] > 100
    assert "DequantizeLinear" in default["told"]
