"""A short run of which every process compares its log-probabilities with samples computed alone.

torchrun --nproc-per-node 2 -m tests.reinforcement.shared_log_probabilities FOLDER [--lora]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from edge_emotion_train.processes import processes
from edge_emotion_train.reinforcement import run
from tests.reinforcement.miniature import make_config, make_parts
from tests.reinforcement.test_trainer import LORA, Recording, recomputed, speech_with


def main() -> None:
    folder, adapter = Path(sys.argv[1]), LORA if "--lora" in sys.argv else None
    torch.set_num_threads(1)
    run.PtrGrpoTrainer = Recording  # type: ignore[misc]
    parts = make_parts()
    trainer: Any = parts.trainer(make_config(folder, steps=3, prompts_per_step=4), folder / "run", adapter)
    trainer.train()
    vocabulary = parts.policy.config.vocab_size
    found = {"processes": processes().num_processes, "samples": 0, "worst": 0.0, "least_change": float("inf")}
    for batch in trainer.seen:
        inputs, speech = batch["inputs"], speech_with(parts.speech, batch["weights"])
        for i in range(len(inputs["prompt_ids"])):
            row = {name: value[i] for name, value in inputs.items() if value.ndim}
            prompt = row["prompt_ids"][row["prompt_mask"].bool()]
            completion = row["completion_ids"][row["completion_mask"].bool()]
            expected = recomputed(speech, row, prompt, completion, vocabulary)
            used = batch["log_probs"][i][: len(completion)]
            shifted = recomputed(
                speech, row | {"frames": row["frames"].roll(1, dims=-2)}, prompt, completion, vocabulary
            )
            found["samples"] += 1
            found["worst"] = max(found["worst"], float((used - expected).abs().max()))
            found["least_change"] = min(found["least_change"], float((shifted - expected).abs().max()))
    (folder / f"process{processes().process_index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
