"""A disk that is full in earnest: no file may grow beyond a limit that the operating system holds.

safetensors and torch.save report it by errors of their own, which a patched `write_text` would never show.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edge_emotion_train.reinforcement.trainer import last_checkpoint

ROOT = Path(__file__).parents[2]
RUN = """
import resource, sys
from pathlib import Path
from transformers import TrainerCallback
from edge_emotion_train.reinforcement.run import train
from edge_emotion_train.reinforcement.trainer import TrainingError
from tests.reinforcement.miniature import make_config, make_parts

class Fill(TrainerCallback):
    def on_save(self, *_, **__):
        room = (folder / "run" / "checkpoint-1" / sys.argv[2]).stat().st_size * 2 // 3
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))

folder = Path(sys.argv[1])
trainer = make_parts().trainer(make_config(folder / "paths", steps=3, save_every=1), folder / "run")
trainer.add_callback(Fill())
try:
    train(trainer, None, folder / "run")
except TrainingError as error:
    sys.exit(str(error))
"""


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_the_last_checkpoint_survives_a_disk_that_fills(tmp_path: Path, file: str) -> None:
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "train", "export", "runtimes"))
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path), file],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "step 2: the checkpoint could not be written (" in done.stderr, done.stderr[-2000:]
    kept = tmp_path / "run" / "checkpoint-1"
    assert f"resumes from {kept}" in done.stderr
    assert last_checkpoint(tmp_path / "run") == kept
    assert torch.load(kept / "optimizer.pt", weights_only=False)["state"]  # whole, and not what was left of the disk
