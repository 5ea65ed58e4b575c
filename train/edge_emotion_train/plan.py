"""`edge-emotion train plan`: what the stages of a configuration take on N GPUs, whether it fits, and what would help.

Nothing is loaded and no path of the configuration needs to exist: sizes come from the models' classes
(`architectures.py`), bytes and hours from the formulas of `footprint.py`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from rich.console import Console
from rich.table import Table

from edge_emotion.errors import ConfigError

from .footprint import ALLOWANCE, GIB, Job, Speed, Strategy, hours, peak, phases, rollouts_at_once
from .plan_jobs import jobs_of

STRATEGIES: Mapping[Strategy, str] = {
    "single": "one GPU",
    "ddp": "DDP",
    "zero2": "DeepSpeed ZeRO-2",
    "zero3": "DeepSpeed ZeRO-3",
    "fsdp": "FSDP, full shard",
}
_UNITS = {"GIB": GIB, "GB": 1e9, "MIB": 2**20, "MB": 1e6, "": GIB}
_ADAPTER_RANK = 64


@dataclass(frozen=True)
class Fit:
    """One stage under one strategy.

    Attributes:
        strategy: Key of `STRATEGIES`.
        gpus: GPUs.
        phase: The phase that needs most memory.
        parts_gib: What lies in memory in it, GiB per GPU.
        phases_gib: Sum of each phase, without the allowance.
        peak_gib: Sum of `parts_gib`.
        fits: Whether that is no more than a GPU has.
        remedies: Changes that would make it fit, the mildest first; empty where it fits.
    """

    strategy: Strategy
    gpus: int
    phase: str
    parts_gib: dict[str, float]
    phases_gib: dict[str, float]
    peak_gib: float
    fits: bool
    remedies: tuple[str, ...]


@dataclass(frozen=True)
class StagePlan:
    """One stage: work, hours, and memory under every strategy that the number of GPUs allows."""

    job: Job
    tokens_per_step: int
    passes_per_step: int
    hours: dict[str, float]
    fits: tuple[Fit, ...]


def plan_stage(job: Job, gpus: int, memory: float, speed: Speed) -> StagePlan:
    """Plans one stage.

    Args:
        job: What it does.
        gpus: Number of GPUs; 0 is this CPU.
        memory: Bytes of one GPU.
        speed: What hours are computed from.
    """
    strategies: tuple[Strategy, ...] = ("single",) if gpus <= 1 else ("ddp", "zero2", "zero3", "fsdp")
    devices = max(1, gpus)
    return StagePlan(
        job,
        tokens_per_step=job.sequences_per_step * job.tokens,
        passes_per_step=max(1, -(-job.sequences_per_step // (job.sequences * devices))),
        hours={name: float(f"{value:.3g}") for name, value in hours(job, devices, speed).items()},
        fits=tuple(fit(job, strategy, devices, memory) for strategy in strategies),
    )


def fit(job: Job, strategy: Strategy, gpus: int, memory: float) -> Fit:
    """Whether a stage fits, and what would make it."""
    phase, parts = peak(job, strategy, gpus)
    needed = sum(parts.values())
    return Fit(
        strategy,
        gpus,
        phase,
        {name: round(size / GIB, 3) for name, size in parts.items() if size},
        {name: round(sum(sizes.values()) / GIB, 2) for name, sizes in phases(job, strategy, gpus).items()},
        round(needed / GIB, 2),
        needed <= memory,
        () if needed <= memory else tuple(remedies(job, strategy, gpus, memory)),
    )


def remedies(job: Job, strategy: Strategy, gpus: int, memory: float) -> list[str]:
    """Changes each of which alone would make a stage fit, the mildest first; else what it takes together."""
    found = [text for text, changed, way, count in _changes(job, strategy, gpus) if _fits(changed, way, count, memory)]
    if found:
        return found
    together = replace(job, sequences=1, checkpointing=True, lora_rank=job.lora_rank or _ADAPTER_RANK,
                       tower_trains=False)  # fmt: skip
    for count in (gpus, 2 * gpus, 4 * gpus, 8 * gpus):
        if _fits(together, "fsdp" if count > 1 else "single", count, memory):
            return [f"batch_size 1, gradient checkpointing, LoRA of rank {together.lora_rank} with frozen audio, and "
                    f"{count} GPU(s)" + (" with FSDP" if count > 1 else "")]  # fmt: skip
    return ["a smaller model or GPUs with more memory: no change of this configuration is enough"]


def _changes(job: Job, strategy: Strategy, gpus: int) -> Iterator[tuple[str, Job, Strategy, int]]:
    if not job.checkpointing:
        yield "gradient checkpointing", replace(job, checkpointing=True), strategy, gpus
    smaller = job.sequences // 2
    while smaller >= 1:
        yield (
            f"batch_size {smaller} (the step stays the same, in more passes)",
            replace(job, sequences=smaller),
            strategy,
            gpus,
        )
        smaller //= 2
    for other in ("zero2", "zero3", "fsdp"):
        if gpus > 1 and other != strategy:
            yield STRATEGIES[other], job, other, gpus
    for count in (2, 4, 8, 16, 32):
        if count > gpus:
            way: Strategy = strategy if strategy in ("fsdp", "zero2", "zero3") else "fsdp"
            yield f"{count} GPUs with {STRATEGIES[way]}", job, way, count
    if job.tower_trains:
        yield "a frozen audio encoder", replace(job, tower_trains=False), strategy, gpus
    if not job.lora_rank:
        adapter = replace(job, lora_rank=_ADAPTER_RANK, tower_trains=False)
        yield f"LoRA of rank {_ADAPTER_RANK} with frozen audio", adapter, strategy, gpus


def _fits(job: Job, strategy: Strategy, gpus: int, memory: float) -> bool:
    return sum(peak(job, strategy, gpus)[1].values()) <= memory


def parse_memory(text: str) -> float:
    """Bytes of a text such as `80GiB`, `24 GB` or `80`, which is GiB.

    Raises:
        ConfigError: It is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if not match or match[2].upper() not in _UNITS or float(match[1]) <= 0:
        raise ConfigError(f"--gpu-memory {text!r} is no amount of memory; write it like 80GiB or 24GB")
    return float(match[1]) * _UNITS[match[2].upper()]


def plan_stages(config_path: Path, options: Sequence[str] = ()) -> None:
    """Runs `edge-emotion train plan`; `options` are its own and keys of the configuration, such as `--batch-size 2`.

    Raises:
        ConfigError: The configuration or an option cannot be used.
    """
    given = list(options)
    given = ["--show-json" if option == "--json" else option for option in given]
    app = cyclopts.App(result_action="return_value", help_flags=[], version_flags=[])
    app.default(_plan)
    try:
        app([str(config_path), *given], exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        raise ConfigError(f"plan: {error}") from error


def _plan(
    config_path: Path,
    /,
    *overrides: Annotated[str, cyclopts.Parameter(allow_leading_hyphen=True)],
    gpus: int = 1,
    gpu_memory: str = "80GiB",
    audio_s: float | None = None,
    prompt_tokens: int | None = None,
    reply_tokens: int | None = None,
    peak_tflops: float = 989.0,
    mfu: float = 0.35,
    decode_steps_per_s: float = 20.0,
    stage: str | None = None,
    size: str | None = None,
    examples: int | None = None,
    show_json: bool = False,
) -> None:
    if gpus < 0:
        raise ConfigError(f"--gpus {gpus}: give the number of GPUs, or 0 to plan for a CPU")
    if not (peak_tflops > 0 and 0 < mfu <= 1 and decode_steps_per_s > 0):
        raise ConfigError("--peak-tflops and --decode-steps-per-s must be above 0, --mfu in 0..1")
    memory = parse_memory(gpu_memory)
    speed = Speed(peak_tflops, mfu, decode_steps_per_s)
    lengths = {"audio_s": audio_s, "prompt_tokens": prompt_tokens, "reply_tokens": reply_tokens}
    known = {name: value for name, value in lengths.items() if value is not None}
    if any(value <= 0 for value in known.values()):
        raise ConfigError("--audio-s, --prompt-tokens and --reply-tokens must be above 0")
    found = jobs_of(config_path, overrides, on_gpu=gpus > 0, stage=stage, size=size, examples=examples)
    jobs = [replace(job, **known) for job in found]
    plans = [plan_stage(job, gpus, memory, speed) for job in jobs]
    if show_json:
        sys.stdout.write(json.dumps(to_dict(plans, gpus, memory, speed)) + "\n")
    else:
        show(plans, gpus, memory, speed)


def to_dict(plans: Sequence[StagePlan], gpus: int, memory: float, speed: Speed) -> dict[str, Any]:
    """The plan as plain types."""
    return {
        "gpus": gpus,
        "gpu_memory_gib": round(memory / GIB, 2),
        "assumed": asdict(speed) | {"allowance": ALLOWANCE},
        "stages": [
            asdict(plan)
            | {"trained_parameters": plan.job.trained, "frozen_parameters": plan.job.frozen,
               "rollouts_at_once": rollouts_at_once(plan.job, max(1, gpus)) if plan.job.rollouts else 0}
            for plan in plans
        ],
    }  # fmt: skip


def show(plans: Sequence[StagePlan], gpus: int, memory: float, speed: Speed) -> None:
    """Prints the plan for people."""
    console = Console(highlight=False, emoji=False)
    device = f"{gpus} GPU(s) of {memory / GIB:g} GiB" if gpus else f"a CPU with {memory / GIB:g} GiB"
    for plan in plans:
        job = plan.job
        how = f"LoRA of rank {job.lora_rank}" if job.lora_rank else "all weights"
        hearing = "encoder trains" if job.tower_trains else "encoder frozen" if job.model.tower else "encoder cached"
        console.print(f"[bold]{job.stage}[/bold] of {job.model.name} on {device}: {how}, {hearing}", soft_wrap=True)
        console.print(
            f"  {job.trained / 1e6:,.1f} M parameters train, {job.frozen / 1e6:,.1f} M are frozen; a step has "
            f"{job.sequences_per_step} sequences of {job.tokens} tokens ({job.audio_s:g} s of audio) = "
            f"{plan.tokens_per_step:,} tokens, in {plan.passes_per_step} pass(es) of {job.sequences} a device",
            soft_wrap=True,
        )
        spent = " + ".join(f"{name} {value:g}" for name, value in plan.hours.items())
        console.print(f"  {job.steps:,} steps: {sum(plan.hours.values()):.3g} hours ({spent})", soft_wrap=True)
        console.print(_table(plan, memory))
        for found in plan.fits:
            if not found.fits:
                console.print(f"  {STRATEGIES[found.strategy]} would fit with:", soft_wrap=True)
                for remedy in found.remedies:
                    console.print(f"    - {remedy}", soft_wrap=True)
        console.print()
    console.print(
        f"GiB per GPU in the phase that needs most; {ALLOWANCE} included. Hours assume {speed.peak_tflops:g} TFLOPS at "
        f"{speed.utilisation:.0%} and {speed.decode_steps_per_s:g} generated tokens per second and reply "
        "(--peak-tflops, --mfu, --decode-steps-per-s); the formulas are in edge_emotion_train/footprint.py.",
        soft_wrap=True,
    )


def _table(plan: StagePlan, memory: float) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("  GiB per GPU", no_wrap=True)
    for found in plan.fits:
        table.add_column(STRATEGIES[found.strategy], justify="right")
    for name in dict.fromkeys(name for found in plan.fits for name in found.parts_gib):
        values = [found.parts_gib.get(name) for found in plan.fits]
        table.add_row(f"  {name}", *("" if value is None else f"{value:.2f}" for value in values))
    table.add_row("  [bold]peak[/bold]", *(f"{found.peak_gib:.1f}" for found in plan.fits))
    table.add_row("  in the phase", *(found.phase for found in plan.fits))
    table.add_row(f"  fits {memory / GIB:g} GiB", *("yes" if found.fits else "no" for found in plan.fits))
    return table
