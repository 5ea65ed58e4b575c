"""One GRPO-PTR run of any policy: its judges, its order of prompts, trl's settings, resuming."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.grpo_config import GRPOConfig

from edge_emotion.errors import ConfigError
from edge_emotion_train.processes import processes
from edge_emotion_train.reasoning import CueEmotionTable
from edge_emotion_train.reinforcement.config import GrpoConfig
from edge_emotion_train.reinforcement.judges import measured_judge, uninformed_judge
from edge_emotion_train.reinforcement.llm_judge import llm_judge
from edge_emotion_train.reinforcement.log import JsonLines, draw_curves, read_log
from edge_emotion_train.reinforcement.ptr import ProgressiveSchedule, TrustRule
from edge_emotion_train.reinforcement.rewards import Heard, Judge, reward_columns
from edge_emotion_train.reinforcement.trainer import PromptReader, PtrGrpoTrainer, last_checkpoint
from edge_emotion_train.reward_model.judge import load_judge
from edge_emotion_train.runs import open_run

# What may change between a run and its resumption.
_FREE = ("data", "encoder_weights", "checkpoint", "sft", "cache", "output", "resume", "force", "steps", "save_every",
         "report_to", "reward_model", "llm_url", "llm_key_variable", "llm_timeout_s", "batch_size")  # fmt: skip


def judges_of(config: GrpoConfig, table: CueEmotionTable) -> list[tuple[Judge, float]]:
    """The configured judges with their weights."""
    judges: list[tuple[Judge, float]] = []
    if config.measured_weight:
        judges.append((measured_judge(table, config.expected_cues), config.measured_weight))
    if config.uninformed_weight:
        judges.append((uninformed_judge, config.uninformed_weight))
    if config.reward_model and config.trained_weight:
        judges.append((load_judge(config.reward_model), config.trained_weight))
    if config.reward_model and config.untrained_weight:
        judges.append((load_judge(config.reward_model, untrained_seed=config.seed), config.untrained_weight))
    if config.llm_weight and config.llm_url and config.llm_model:
        key = os.environ.get(config.llm_key_variable, "none")
        judge = llm_judge(config.llm_url, config.llm_model, key, timeout_s=config.llm_timeout_s)
        judges.append((judge, config.llm_weight))
    return judges


def prompt_order(rows: int, wanted: int, seed: int) -> list[int]:
    """Indices of `wanted` prompts: seeded permutations of all rows, one after the other.

    trl's own shuffling begins anew when a run resumes after its first epoch; a list that is written out does not.
    """
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < wanted:
        order += rng.permutation(rows).tolist()
    return order[:wanted]


def accumulation_steps(config: GrpoConfig, processes: int) -> int:
    """Forward passes per optimiser step.

    Raises:
        ConfigError: The completions of a step cannot be divided into equal batches, or a batch cuts no group evenly.
    """
    completions = config.prompts_per_step * config.group
    if completions % (config.batch_size * processes):
        raise ConfigError(
            f"prompts_per_step x group = {completions} completions cannot be divided among {processes} process(es) in "
            f"batches of {config.batch_size}; choose a batch_size that divides {completions} / {processes}"
        )
    return completions // (config.batch_size * processes)


def trainer_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    read_prompts: PromptReader,
    rows: Sequence[Mapping[str, Any]],
    heard: Mapping[str, Heard],
    table: CueEmotionTable,
    labels: Sequence[str],
    config: GrpoConfig,
    folder: Path,
    *,
    opening: str,
    max_completion_tokens: int,
    generation: Mapping[str, Any] | None = None,
    peft_config: Any = None,
) -> PtrGrpoTrainer:
    """A trainer, ready to train or to resume.

    Args:
        model: Policy; without LoRA its present weights are also the frozen reference.
        tokenizer: Its tokenizer.
        read_prompts: See `AudioMixin`.
        rows: Prompts with the columns `prompt`, `id` and `emotion`.
        heard: What was measured, by `id`.
        table: Which emotions cue levels suggest.
        labels: Emotions that may be answered.
        config: Numbers of the run.
        folder: Folder of its files.
        opening: What a prompt already wrote of the reply.
        max_completion_tokens: Longest completion.
        generation: Further arguments of `generate`, such as `suppress_tokens`.
        peft_config: An adapter to train instead of all weights.
    """
    state = processes()
    folder.mkdir(parents=True, exist_ok=True)
    if config.beta and peft_config is None:
        reference = folder / "reference"
        if state.is_main_process:
            model.save_pretrained(reference)
        state.wait_for_everyone()
        model.config._name_or_path = str(reference)  # from where trl loads it
    on_gpu = torch.cuda.is_available()
    arguments = GRPOConfig(
        output_dir=str(folder),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=accumulation_steps(config, state.num_processes),
        num_generations=config.group,
        num_iterations=config.iterations,
        max_completion_length=max_completion_tokens,
        generation_kwargs=dict(generation or {}),
        temperature=config.temperature,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=config.warmup_steps,
        max_grad_norm=1.0,
        beta=config.beta,
        epsilon=config.epsilon,
        loss_type="grpo",
        scale_rewards="group",
        reward_weights=[config.format_weight, config.outcome_weight, config.reasoning_weight],
        shuffle_dataset=False,
        logging_steps=1,
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=2,
        report_to=list(config.report_to) or "none",
        seed=config.seed,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        gradient_checkpointing=on_gpu,
    )
    batches = -(-config.steps // config.iterations)
    order = prompt_order(len(rows), batches * config.prompts_per_step, config.seed)
    return PtrGrpoTrainer(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([dict(rows[i]) for i in order]),
        reward_funcs=reward_columns(
            labels,
            heard,
            judges_of(config, table),
            opening=opening,
            weights=config.dimension_weights,
            near_miss=config.near_miss,
            consistency_share=config.consistency_share,
        ),
        callbacks=[JsonLines(folder / "metrics.jsonl")],
        peft_config=peft_config,
        read_prompts=read_prompts,
        trust_rule=TrustRule(config.trust, config.empty_group, config.pay_wrong),
        schedule=ProgressiveSchedule(
            config.schedule, config.schedule_threshold, config.schedule_window, config.schedule_ramp
        ),
    )


def prepare_folder(folder: Path, config: GrpoConfig, start: str) -> Path | None:
    """Readies the folder of a run; returns the checkpoint to resume from, None to start.

    Args:
        folder: Folder of the run's files.
        config: Numbers of the run.
        start: Hash of the weights it starts from.

    Raises:
        ConfigError: The folder holds a run and neither `resume` nor `force` is set, or that run was another one.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in _FREE} | {"start": start}
    return last_checkpoint(folder) if open_run(folder, settings, config.resume, config.force) else None


def train(trainer: PtrGrpoTrainer, resume_from: Path | None, folder: Path) -> list[dict[str, Any]]:
    """Trains to the end, draws the curves, and returns the log."""
    if resume_from is not None:
        sys.stderr.write(f"going on from {resume_from}\n")
    with redirect_stdout(sys.stderr):  # Trainer writes its log lines where results go
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    entries = read_log(folder / "metrics.jsonl")
    if trainer.is_world_process_zero() and entries:
        draw_curves(entries, folder / "curves.png")
    return entries
