"""What `analyze` sets before anything heavy is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("given", "found"), [(None, "1"), ("3", "3")])
def test_numpy_computes_on_one_thread_unless_told_otherwise(given: str | None, found: str) -> None:
    code = (
        "import os, sys\n"
        "import edge_emotion\n"
        "def load(*_, **__):\n"
        "    print(os.environ['OPENBLAS_NUM_THREADS'], 'numpy' in sys.modules)\n"
        "    raise edge_emotion.BundleError('far enough')\n"
        "edge_emotion.load = load\n"
        "from edge_emotion.cli.app import run\n"
        "assert run(['analyze', 'clip.wav']) == 1\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    if given:
        environment["OPENBLAS_NUM_THREADS"] = given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{found} False\n", "error: far enough\n")
