"""Log-probabilities are right on every process of a shared run: DDP may hand no sample another one's audio."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--lora",)], ids=["all weights", "LoRA"])
def test_each_process_scores_what_its_samples_heard(tmp_path: Path, options: tuple[str, ...]) -> None:
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "train", "export", "runtimes"))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "tests.reinforcement.shared_log_probabilities", str(tmp_path), *options],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for number in (0, 1):
        found = json.loads((tmp_path / f"process{number}.json").read_text())
        assert found["processes"] == 2
        assert found["samples"] == 3 * 8  # three steps of sixteen completions, two clips of four here
        assert found["worst"] < 1e-5
        assert found["least_change"] > 1e-3  # the audio moved by a frame: the test has power
