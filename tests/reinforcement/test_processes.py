"""Runs as processes of their own: two share the work of one, and a killed one goes on as if nothing had happened."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from edge_emotion_train.reinforcement.log import read_log
from tests.reinforcement.miniature import make_parts

ROOT = Path(__file__).parents[2]
MODULE = ("-m", "tests.reinforcement.miniature")
TIMES = ("step_time_s", "generation_s", "scoring_s")
# trl averages these over tokens within a pass and then over passes, so they depend on how a batch is cut.
CUT_DEPENDENT = ("kl", "entropy", "clipped_ratio", "gradient_norm")


def start(arguments: Sequence[str], launcher: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "train", "export", "runtimes"))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, *MODULE, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = start([str(whole)])
    assert done.returncode == 0, done.stderr[-2000:]
    killed = start([str(cut), "--kill-after", "3"])
    assert killed.returncode == -signal.SIGKILL
    assert [entry["step"] for entry in read_log(cut / "run" / "metrics.jsonl")][:2] == [1, 2]
    refused = start([str(cut)])
    assert "holds a run already; go on with --resume" in refused.stderr
    resumed = start([str(cut), "--resume"])
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert "going on from" in resumed.stderr
    logs = [
        [{k: v for k, v in entry.items() if k not in TIMES} for entry in read_log(folder / "run" / "metrics.jsonl")]
        for folder in (whole, cut)
    ]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 6
    left, right = (torch.load(folder / "weights.pt") for folder in (whole, cut))
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.slow
def test_two_processes_do_what_one_does_in_two_passes(tmp_path: Path) -> None:
    """Ten steps: rewards and losses agree to 1e-4, and the weights to a thousandth of the way they went.

    Adam divides a gradient by its size, so that rounding decides the direction of a weight whose gradient is near zero.
    """
    alone = start([str(tmp_path / "one"), "--told", "--steps", "10"])
    assert alone.returncode == 0, alone.stderr[-2000:]
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    shared = start([str(tmp_path / "two"), "--told", "--steps", "10"], launcher)
    assert shared.returncode == 0, shared.stderr[-2000:]
    logs = [read_log(tmp_path / name / "run" / "metrics.jsonl") for name in ("one", "two")]
    assert len(logs[0]) == len(logs[1]) == 10
    assert min(entry["trust"] for entry in logs[0]) < 1.0  # groups in which trust has something to do
    for left, right in zip(*logs, strict=True):
        assert left.keys() == right.keys()
        for name in left.keys() - {*TIMES, *CUT_DEPENDENT}:
            assert right[name] == (None if left[name] is None else pytest.approx(left[name], abs=1e-4)), name
    before = make_parts().policy.state_dict()
    one, two = (torch.load(tmp_path / name / "weights.pt") for name in ("one", "two"))
    moved, apart = (
        math.sqrt(sum(float((other[name] - one[name]).square().sum()) for name in one)) for other in (before, two)
    )
    assert apart < 1e-3 * moved
