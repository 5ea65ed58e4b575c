"""From a configuration to the jobs that `plan` plans: one per training stage that the file describes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from edge_emotion.errors import ConfigError
from edge_emotion.prompt import Prompt

from .architectures import nano_sizes
from .config import SftConfig, preset_of
from .footprint import Job
from .reinforcement.config import GrpoConfig

# What nano's texts and clips are like: EmoDB's mean duration, and tokens of an explanation with its answer.
NANO_AUDIO_S = 2.8
NANO_REPLY_TOKENS = 70
_NANO_PROMPT_TOKENS = 3


def jobs_of(config_path: Path, overrides: Sequence[str] = (), on_gpu: bool = True) -> list[Job]:
    """The jobs of a configuration; its paths need not exist.

    Args:
        config_path: YAML file of a training stage.
        overrides: Options that replace what it says, such as `["--batch-size", "4"]`.
        on_gpu: bf16 and gradient checkpointing where the stage uses them on a GPU.

    Raises:
        ConfigError: The file is missing, or holds keys that no stage knows.
    """
    preset_of(config_path)
    keys = yaml.safe_load(config_path.read_text()) | _as_keys(overrides)
    if "checkpoint" in keys or "group" in keys:
        return [_grpo_job(_with_defaults(GrpoConfig, keys, config_path), config_path, on_gpu)]
    return [_sft_job(_with_defaults(SftConfig, keys, config_path), on_gpu)]


def _sft_job(keys: Mapping[str, Any], on_gpu: bool) -> Job:
    return Job(
        "sft",
        _small_model(keys),
        sequences=keys["batch_size"],
        sequences_per_step=keys["batch_size"],
        steps=keys["steps"],
        audio_s=NANO_AUDIO_S,
        prompt_tokens=_NANO_PROMPT_TOKENS + keys["evidence_tokens"],
        reply_tokens=NANO_REPLY_TOKENS,
        checkpointing=False,
        fused_head=False,
        half=on_gpu,
    )


def _grpo_job(keys: Mapping[str, Any], config_path: Path, on_gpu: bool) -> Job:
    sft_path = next((path for path in (Path(keys["sft"]), config_path.parent / Path(keys["sft"]).name)
                     if path.is_file()), None)  # fmt: skip
    sft = _with_defaults(SftConfig, yaml.safe_load(sft_path.read_text()) if sft_path else {}, sft_path or config_path)
    return Job(
        "grpo",
        _small_model(sft),
        sequences=keys["batch_size"],
        sequences_per_step=keys["prompts_per_step"] * keys["group"],
        steps=keys["steps"],
        audio_s=NANO_AUDIO_S,
        prompt_tokens=_NANO_PROMPT_TOKENS + sft["evidence_tokens"],
        reply_tokens=Prompt().max_think_tokens,
        lora_rank=keys["lora_rank"],
        rollouts=True,
        reference=keys["beta"] > 0,
        iterations=keys["iterations"],
        checkpointing=on_gpu,
        half=on_gpu,
    )


def _small_model(keys: Mapping[str, Any]) -> Any:
    return nano_sizes(
        keys["embedding_dim"],
        keys["language_model_layers"],
        keys["vocabulary"],
        keys["encoder_layers"],
        len(keys["cues"]),
        len(keys["labels"]),
        keys["evidence_tokens"],
    )


def _with_defaults(kind: Any, keys: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Keys with the defaults of a configuration's class, which itself would ask for paths that exist.

    Raises:
        ConfigError: A key is unknown or of another type than its default.
    """
    known = {field.name: field for field in fields(kind)}
    problems = []
    for key, value in keys.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            problems.append(f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        elif isinstance(known[key].default, int | float) and not isinstance(value, int | float):
            problems.append(f"{key}: {value!r} is no number")
        elif isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
            problems.append(f"{key}: {value!r} is below 0")
    if problems:
        raise ConfigError(f"{path}:\n" + "\n".join(f"  {problem}" for problem in problems))
    defaults = {name: field.default for name, field in known.items() if field.default is not MISSING}
    return defaults | dict(keys)


def _as_keys(overrides: Sequence[str]) -> dict[str, Any]:
    """`["--batch-size", "4"]` as `{"batch_size": 4}`."""
    if len(overrides) % 2 or not all(name.startswith("--") for name in overrides[::2]):
        raise ConfigError(f"options must be pairs such as `--batch-size 4`, given: {' '.join(overrides)}")
    return {
        name[2:].replace("-", "_"): yaml.safe_load(value)
        for name, value in zip(overrides[::2], overrides[1::2], strict=True)
    }
