"""The documented command under a launcher: two processes train what one does with twice the accumulation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.thinker.conftest import Data

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_train_the_adapter_that_one_does(published: Path, data: Data, tmp_path: Path) -> None:
    config = tmp_path / "sft.yaml"
    config.write_text(f"preset: omni\nmodel: {published}\nrows: [{data('reasoning')}]\nlora_rank: 4\nepochs: 4\n"
                      "warmup_share: 0.0\nlearning_rate: 1.0e-3\nbatch_size: 2\n")  # fmt: skip
    command = [str(Path(sys.executable).parent / "edge-emotion"), "train", "sft", "--config", str(config)]
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "train", "export", "runtimes"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29631"]
    printed = []
    for start, options in ((launcher, ["--output", str(tmp_path / "two")]),
                           ([sys.executable], ["--output", str(tmp_path / "one"), "--accumulation", "2"])):  # fmt: skip
        done = subprocess.run(
            [*start, *command, *options], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        printed.append(done.stdout.splitlines())
    assert [len(lines) for lines in printed] == [1, 1]  # results are one process's business
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert any(bool(value.any()) for name, value in one.items() if "lora_B" in name)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=1e-4)
