"""Stages `prosody` and `sft`: supervised training on conversations with audio."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from edge_emotion.errors import ConfigError
from edge_emotion_train.labelling.rows import Row
from edge_emotion_train.processes import is_main, processes
from edge_emotion_train.reinforcement.log import read_log
from edge_emotion_train.reinforcement.trainer import BAD_BATCHES, TrainingError
from edge_emotion_train.thinker.collator import ConversationCollator
from edge_emotion_train.thinker.configs import SupervisedConfig
from edge_emotion_train.thinker.curves import SupervisedLines, draw_supervised
from edge_emotion_train.thinker.model import (
    fingerprint,
    freeze_unheard,
    hardware,
    is_adapter,
    load_thinker,
    lora,
    mel_bands,
    restore,
)
from edge_emotion_train.thinker.processor import load_processor
from edge_emotion_train.thinker.rows import (
    LeftOut,
    check_recordings,
    mixture,
    read_rows,
    report_left_out,
    rows_hash,
    speak,
    transcript_rows,
    with_shares,
)
from edge_emotion_train.thinker.run_folder import (
    SPEECH,
    WholeCheckpoints,
    last_whole,
    open_run,
    publish,
    remember,
    speech_of,
    write_json,
)


@dataclass(frozen=True)
class Lesson:
    """What is trained on: rows, their order, and rows whose loss is only watched."""

    rows: list[Row]
    order: list[int]
    validation: list[int]


class SupervisedTrainer(WholeCheckpoints, SFTTrainer):
    """trl's SFT trainer; a batch whose loss is not finite is left out, and too many of them end the run."""

    _bad_batches = 0

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        target = model or self.model
        if isinstance(target, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            restore(target, resume_from_checkpoint)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = found[0] if return_outputs else found
        if loss.isfinite() or not model.training:
            self._bad_batches = 0 if model.training else self._bad_batches
            return found
        self._bad_batches += 1
        if self._bad_batches >= BAD_BATCHES:
            raise TrainingError(
                f"step {self.state.global_step}: the loss was not finite in {BAD_BATCHES} batches in a row. Lower the "
                f"learning rate, then resume from the last checkpoint in {self.args.output_dir}"
            )
        sys.stderr.write(f"step {self.state.global_step}: a batch with a loss of {loss.item()} is left out\n")
        # A gradient of zeros, not none: under DDP every process must take part in the backward pass.
        nothing = sum((p.sum() for p in model.parameters() if p.requires_grad), start=loss.new_zeros(())) * 0.0
        return (nothing, found[1]) if return_outputs else nothing


def supervised_stage(config: SupervisedConfig) -> None:
    """Trains, and writes weights or adapter, log and curves to `output`; prints what came of it as JSON."""
    folder = config.output / "training"
    goes_on = open_run(config, fingerprint(config.model, config.base))
    lesson = prepare(config, folder, goes_on)
    processor = load_processor(config.model, config.max_duration_s, mel_bands(config.model, config.base))
    adapter = is_adapter(config.model)
    model = load_thinker(config.model, config.base, exact=not config.lora_rank, trainable=True)
    freeze_unheard(model)
    fresh = lora(config.lora_rank) if config.lora_rank and not adapter else None
    trainer = trainer_of(model, processor, lesson, config, folder, peft_config=fresh)
    entries = train(trainer, folder)
    about = {
        "stage": "sft" if config.lora_rank else "prosody",
        "rows": len(lesson.rows),
        "steps": trainer.state.global_step,
        "trained_parameters": trained_parameters(trainer.model),
        "last": entries[-1] if entries else None,
    }
    publish(config.output, lambda part: trainer.save_model(str(part)), processor.tokenizer, about)
    if is_main():
        finish(config, lesson.rows, entries)
        sys.stdout.write(json.dumps(about) + "\n")


def trained_parameters(model: Any) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def prepare(config: SupervisedConfig, folder: Path, goes_on: bool) -> Lesson:
    """Rows and their order. What was left out when the run began stays left out when it goes on.

    Raises:
        ConfigError: No row is left, or the rows are not those that the run began with.
    """
    parts = {
        "rows": read_rows(config.rows),
        "validation": read_rows(config.validation),
        "text_rows": read_rows(config.text_rows),
        "transcript_rows": read_rows(config.transcript_rows),
    }
    left_out: list[LeftOut] = []
    parts["transcript_rows"], unknown = transcript_rows(parts["transcript_rows"], config.seed)
    left_out += unknown
    for name in ("rows", "validation"):
        parts[name], unanswered = speak(parts[name], config.dialogue)
        left_out += unanswered
    for name, found in parts.items():
        parts[name], unheard = heard_rows(found, config, folder, goes_on, name)
        left_out += unheard
    if is_main():
        report_left_out(left_out, folder / "left_out.jsonl")
    if not parts["rows"]:
        raise ConfigError("rows: none is left to train on; see left_out.jsonl")
    rows, places = [], {}
    for name, found in parts.items():
        places[name] = range(len(rows), len(rows) + len(found))
        rows += found
    order = mixture(parts["rows"], config.weights, config.epochs, config.seed)
    shares = {"text": (places["text_rows"], config.text_share),
              "transcript": (places["transcript_rows"], config.transcript_share)}  # fmt: skip
    for name, (found, share) in shares.items():
        if share and not found:
            raise ConfigError(f"{name}_share: none of {name}_rows is left to train on; see left_out.jsonl")
    order = with_shares(order, shares, config.epochs, config.seed)
    remember(folder, "rows", rows_hash(rows, order))
    return Lesson(rows, order, list(places["validation"]))


def heard_rows(
    rows: Sequence[Row], config: Any, folder: Path, goes_on: bool, what: str
) -> tuple[list[Row], list[LeftOut]]:
    """Rows whose recordings can be heard; one process listens, the others read what it found."""
    record = folder / f"unheard.{what}.json"
    if is_main() and not (goes_on and record.is_file()):
        found = check_recordings(rows, config.max_duration_s, config.threads)[1]
        write_json(record, [[item.id, item.reason] for item in found])
    processes().wait_for_everyone()
    left_out = [LeftOut(*item) for item in json.loads(record.read_text())]
    names = {item.id for item in left_out}
    return [row for row in rows if row["id"] not in names], left_out


def trainer_of(
    model: Any, processor: Any, lesson: Lesson, config: SupervisedConfig, folder: Path, *, peft_config: Any = None
) -> SupervisedTrainer:
    """A trainer, ready to train or to resume; it takes the rows in the order of the lesson."""
    arguments = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=1,  # the order holds all epochs
        train_sampling_strategy="sequential",
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_share,
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=2,
        eval_strategy="steps" if lesson.validation else "no",
        eval_steps=config.save_every,
        report_to=list(config.report_to) or "none",
        seed=config.seed,
        dataloader_num_workers=config.workers,
        remove_unused_columns=False,
        max_length=None,  # cutting a prompt would cut audio placeholders
        dataset_kwargs={"skip_prepare_dataset": True},
        **hardware(),  # pyright: ignore[reportArgumentType]
    )
    return SupervisedTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"row": lesson.order}),
        eval_dataset=Dataset.from_dict({"row": lesson.validation}) if lesson.validation else None,
        processing_class=processor,
        data_collator=ConversationCollator(processor, lesson.rows),  # pyright: ignore[reportArgumentType]
        peft_config=peft_config,
        callbacks=[SupervisedLines(folder / "metrics.jsonl")],
    )


def train(trainer: SupervisedTrainer, folder: Path) -> list[dict[str, Any]]:
    """Trains to the end, from the last whole checkpoint where there is one, and returns the log."""
    resume_from = last_whole(folder)
    if resume_from is not None:
        sys.stderr.write(f"going on from {resume_from}\n")
    with redirect_stdout(sys.stderr):  # Trainer writes its log lines where results go
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    return read_log(folder / "metrics.jsonl")


def finish(config: SupervisedConfig, rows: Sequence[Row], entries: Sequence[dict[str, Any]]) -> None:
    """Log, curves, and how the model is spoken with."""
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    partial = config.output / "metrics.partial"
    partial.write_text(lines)
    partial.replace(config.output / "metrics.jsonl")
    if entries:
        draw_supervised(entries, config.output / "curves.png")
    if any(row.get("labels") for row in rows):
        write_json(config.output / SPEECH, speech_of(config.dialogue, rows))
