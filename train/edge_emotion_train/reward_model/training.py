"""Training of the reward model by transformers' Trainer, the same for every backbone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from edge_emotion_train.reinforcement.rewards import DIMENSIONS
from edge_emotion_train.reward_model.model import UNCLAIMED, UNREAD, RewardModel, expected_scores
from edge_emotion_train.reward_model.readers import Batch, CachedAudio, Item, Reader, token_before

FLUENCY = DIMENSIONS.index("fluency_and_structural_clarity")


class RewardCollator:
    """Rows with `audio`, `reasoning`, `scores` and `claims` to a batch; withholds recordings at random.

    Args:
        read: See `readers`.
        audio_of: What the reader takes for the column `audio`.
        frames_dropped: Share of samples whose frames are withheld, so that the evidence is learned to be read.
        audio_dropped: Share of samples that are text alone, so that the model can say how far a text alone goes.
    """

    def __init__(
        self,
        read: Reader,
        audio_of: Callable[[Any], Any],
        frames_dropped: float = 0.0,
        audio_dropped: float = 0.0,
    ) -> None:
        self.read = read
        self.audio_of = audio_of
        self.frames_dropped = frames_dropped
        self.audio_dropped = audio_dropped

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        items: list[Item] = []
        claims = []
        for row in rows:
            audio, (alone, withheld) = self.audio_of(row["audio"]), torch.rand(2).tolist()
            if alone < self.audio_dropped:
                audio = None
            elif withheld < self.frames_dropped and isinstance(audio, CachedAudio):
                audio = replace(audio, frames=None)
            items.append((audio, row["reasoning"]))
            # Without sound nothing tells whether a claim is true.
            claims.append(row["claims"] if audio is not None else ())
        batch = self.read(items)
        return batch.inputs | {
            "scores": torch.tensor([list(row["scores"]) for row in rows], dtype=torch.float32),
            "claims": claim_targets(batch, claims),
            "texts": text_targets(batch, [(row["scores"][FLUENCY], row["claims"]) for row in rows]),
        }


def claim_targets(batch: Batch, claims: Sequence[Sequence[Sequence[Any]]]) -> Tensor:
    """`(batch, tokens)`: 1 or 0 at the token that ends a claim, `UNCLAIMED` elsewhere.

    Args:
        batch: What was read.
        claims: Per row, the character after each claim's last and whether the claim is true.
    """
    mask = batch.inputs["attention_mask"]
    targets = torch.full(mask.shape, UNCLAIMED)
    for row, (stated, offsets) in enumerate(zip(claims, batch.offsets, strict=True)):
        first = int(mask[row].sum()) - len(offsets)
        for end, held in stated:
            token = token_before(end, offsets)
            if token is not None:
                targets[row, first + token] = float(held)
    return targets


def text_targets(batch: Batch, rows: Sequence[tuple[int, Sequence[Sequence[Any]]]]) -> Tensor:
    """`(batch, tokens)`: the next token of unbroken texts, `UNREAD` elsewhere and on the way to a false claim.

    Args:
        batch: What was read.
        rows: Per row the score of its fluency, and its claims as in `claim_targets`.
    """
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    targets = torch.full(ids.shape, UNREAD)
    for row, ((fluency, stated), offsets) in enumerate(zip(rows, batch.offsets, strict=True)):
        if fluency < 5:
            continue
        ends = [0, *(end for end, _ in stated)]
        false = [(before, end) for before, (end, held) in zip(ends, stated, strict=False) if not held]
        first = int(mask[row].sum()) - len(offsets)
        for i, (begin, stop) in enumerate(offsets):
            if begin < stop and not any(before <= begin < end for before, end in false):
                targets[row, first + i - 1] = ids[row, first + i]
    return targets


def reward_trainer(
    model: RewardModel,
    rows: Sequence[Mapping[str, Any]],
    collator: RewardCollator,
    folder: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    save_every: int | None = None,
    report_to: Sequence[str] = (),
) -> Trainer:
    """AdamW with a cosine schedule over tuples grouped by length; fp32 on a CPU, bf16 on a GPU.

    Args:
        model: What is trained.
        rows: With `audio`, `reasoning`, `scores`, `claims`.
        collator: Makes batches of them.
        folder: Of checkpoints and logs.
        steps: Optimiser steps.
        batch_size: Tuples per step and process.
        learning_rate: Peak.
        seed: Of the order of tuples and of what is withheld.
        save_every: Steps between checkpoints, None for none.
        report_to: Trackers of transformers.
    """
    on_gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 20),
        weight_decay=0.01,
        max_grad_norm=1.0,
        logging_steps=max(1, min(25, steps // 4)),
        save_strategy="steps" if save_every else "no",
        save_steps=save_every or steps,
        save_total_limit=2,
        report_to=list(report_to) or "none",
        seed=seed,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        remove_unused_columns=False,
        label_names=["scores"],
        train_sampling_strategy="group_by_length",
    )
    columns = [
        {name: row[name] for name in ("audio", "reasoning", "scores")}
        # Arrow has no lists of mixed types.
        | {"claims": [[end, int(held)] for end, held in row["claims"]], "length": len(row["reasoning"])}
        for row in rows
    ]
    return Trainer(model=model, args=arguments, train_dataset=Dataset.from_list(columns), data_collator=collator)


def train(trainer: Trainer, resume: bool = False) -> list[dict[str, float]]:
    """Trains to the end, from the last checkpoint where `resume` is set and there is one; returns the log."""
    folder = Path(str(trainer.args.output_dir))
    last = get_last_checkpoint(str(folder)) if resume and folder.is_dir() else None
    with redirect_stdout(sys.stderr):  # Trainer writes its log lines where results go
        trainer.train(resume_from_checkpoint=last)
    return trainer.state.log_history


@torch.inference_mode()
def predict(model: RewardModel, read: Reader, items: Sequence[Item], batch_size: int = 64) -> np.ndarray:
    """Uncalibrated scores `(n, 4)`, 1..5; texts of like length are read together."""
    model.eval()
    device = next(model.parameters()).device
    order = np.argsort([len(reasoning) for _, reasoning in items], kind="stable")
    scores = np.zeros((len(items), 4))
    for start in range(0, len(items), batch_size):
        chosen = order[start : start + batch_size]
        inputs = {name: value.to(device) for name, value in read([items[i] for i in chosen]).inputs.items()}
        scores[chosen] = expected_scores(model(**inputs)["logits"]).double().cpu().numpy()
    return scores
