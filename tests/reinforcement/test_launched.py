"""The commands that a user gives, by two processes: what is done once, and what there is of it afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edge_emotion_train.checkpoint import load_checkpoint
from edge_emotion_train.reinforcement.log import read_log
from tests.test_end_to_end import data, options, weights  # noqa: F401  (fixtures)

COMMAND = Path(sys.executable).parent / "edge-emotion"
ROOT = Path(__file__).parents[2]
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python", str(COMMAND))


def launch(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "train", "export", "runtimes"))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *LAUNCHER, "train", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not COMMAND.exists(), reason="the command edge-emotion is not installed beside this interpreter")
def test_two_processes_extract_write_and_print_once(
    options: tuple[Path, list[str]],  # noqa: F811
    tmp_path: Path,
) -> None:
    config, given = options
    trained = launch(["sft", "--config", str(config), *given])
    assert trained.returncode == 0, trained.stderr[-3000:]
    paths = dict(zip(given[::2], map(Path, given[1::2]), strict=True))
    # One progress bar of features: the second process waited, and read the cache.
    assert len(list(paths["--cache"].glob("features-*"))) == 1
    assert trained.stderr.count("features: 100%") == 1
    checkpoint = load_checkpoint(paths["--output"])
    assert checkpoint.labels == ("anger", "neutral", "sadness")
    losses = [entry for entry in read_log(paths["--output"] / "metrics.jsonl") if "loss" in entry]
    steps = [entry["step"] for entry in losses]
    assert steps
    assert steps == sorted(set(steps))

    settings = tmp_path / "grpo.yaml"
    settings.write_text(
        "steps: 2\nprompts_per_step: 2\ngroup: 4\nbatch_size: 4\nsave_every: 1\nwarmup_steps: 0\nschedule: always\n"
        "variants: 0\nvalidation_speakers: [emodb_11]\n"
    )
    output = tmp_path / "reinforced"
    reinforced = launch(
        ["grpo", "--config", str(settings), "--data", str(paths["--data"]), "--cache", str(paths["--cache"]),
         "--encoder-weights", str(paths["--encoder-weights"]), "--checkpoint", str(paths["--output"]),
         "--sft", str(config), "--output", str(output)]
    )  # fmt: skip
    assert reinforced.returncode == 0, reinforced.stderr[-3000:]
    assert "features: 100%" not in reinforced.stderr
    printed = [json.loads(line) for line in reinforced.stdout.splitlines()]
    assert [set(document) for document in printed] == [{"before", "after", "validation_speakers"}]
    assert [entry["step"] for entry in read_log(output / "training" / "metrics.jsonl")] == [1, 2]
    before, after = load_checkpoint(paths["--output"]), load_checkpoint(output)
    left, right = (part.language_model.state_dict() for part in (before, after))
    assert any(not torch.equal(left[name], right[name]) for name in left)
