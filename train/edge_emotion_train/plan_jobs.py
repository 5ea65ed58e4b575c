"""From a configuration to the jobs that `plan` plans: one per training stage that the file describes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from edge_emotion.errors import ConfigError
from edge_emotion.prompt import Prompt

from .architectures import nano_sizes, published_thinker, thinker_of_folder
from .config import SftConfig, preset_of
from .footprint import Job, Model
from .reinforcement.config import GrpoConfig
from .reward_model.config import RewardConfig
from .thinker.configs import ReasoningConfig, ReinforcedConfig, SupervisedConfig
from .thinker.model import ADAPTER_CONFIG, base_of

# What nano's texts and clips are like: EmoDB's mean duration, and tokens of an explanation with its answer.
NANO_AUDIO_S = 2.8
NANO_REPLY_TOKENS = 70
_NANO_PROMPT_TOKENS = 3
# What a thinker's rows are like: seconds of a recording, text of a question, tokens of 50 to 200 words with an answer.
THINKER_AUDIO_S = 6.0
THINKER_PROMPT_TOKENS = 80
REPLY_TOKENS = {"prosody": 30, "sft": 250}
# The paper's: 500 hours of prosody tasks in pieces of 6 s, 5,000 reasonings.
PAPER_ROWS = {"prosody": 300_000, "sft": 5_000}
THINKER_STAGES: Mapping[str, Any] = {"prosody": SupervisedConfig, "sft": ReasoningConfig, "grpo": ReinforcedConfig}


def jobs_of(
    config_path: Path,
    overrides: Sequence[str] = (),
    *,
    on_gpu: bool = True,
    stage: str | None = None,
    size: str | None = None,
    examples: int | None = None,
) -> list[Job]:
    """The jobs of a configuration; its paths need not exist.

    Args:
        config_path: YAML file of a training stage.
        overrides: Options that replace what it says, such as `["--batch-size", "4"]`.
        on_gpu: bf16 and gradient checkpointing where the stage uses them on a GPU.
        stage: Which stage of a thinker it configures; by default the one that its name ends with.
        size: Size of a published thinker, where its folder is not there to be read and not named after it.
        examples: Rows of a supervised stage, where its files are not there to be counted.

    Raises:
        ConfigError: The file is missing, or holds keys that no stage knows.
    """
    preset = preset_of(config_path)
    keys = yaml.safe_load(config_path.read_text()) | _as_keys(overrides)
    if preset == "omni":
        return [_thinker_job(keys, config_path, on_gpu, stage, size, examples)]
    if "calibration_speakers" in keys or "held_out_speakers" in keys:
        return [_reward_job(_with_defaults(RewardConfig, keys, config_path), config_path, on_gpu)]
    if "checkpoint" in keys or "group" in keys:
        return [_grpo_job(_with_defaults(GrpoConfig, keys, config_path), config_path, on_gpu)]
    return [_sft_job(_with_defaults(SftConfig, keys, config_path), on_gpu)]


def _thinker_job(
    keys: Mapping[str, Any], path: Path, on_gpu: bool, stage: str | None, size: str | None, examples: int | None
) -> Job:
    stage = stage or next((name for name in THINKER_STAGES if path.stem.endswith(name)), "")
    if stage not in THINKER_STAGES:
        raise ConfigError(
            f"{path}: which stage is this? Say with --stage {' or '.join(THINKER_STAGES)}, or end its name with it"
        )
    known = _with_defaults(THINKER_STAGES[stage], keys, path)
    common = {
        "model": _thinker(known, path, size),
        "sequences": known["batch_size"],
        "audio_s": THINKER_AUDIO_S,
        "prompt_tokens": THINKER_PROMPT_TOKENS,
        "reply_tokens": known["max_new_tokens"] if stage == "grpo" else REPLY_TOKENS[stage],
        "lora_rank": known["lora_rank"],
        "checkpointing": on_gpu,
        "half": on_gpu,
    }
    if stage == "grpo":
        return Job(
            stage,
            **common,
            sequences_per_step=known["prompts_per_step"] * known["group"],
            steps=known["steps"],
            tower_trains=not known["lora_rank"],
            rollouts=True,
            reference=known["beta"] > 0,
            iterations=known["iterations"],
        )
    # A step of one process; more processes make it larger, and the steps fewer.
    per_step = known["batch_size"] * known["accumulation"]
    rows = examples or _count_rows(known["rows"]) or PAPER_ROWS[stage]
    shares = 1.0 - known["text_share"] - known["transcript_share"]
    return Job(
        stage,
        **common,
        sequences_per_step=per_step,
        steps=max(1, round(rows / shares * known["epochs"] / per_step)),
        tower_trains=not known["lora_rank"],
    )


def _thinker(keys: Mapping[str, Any], path: Path, size: str | None) -> Model:
    folder = Path(str(keys.get("model", "")))
    there = (folder / "config.json").is_file() or (folder / ADAPTER_CONFIG).is_file()
    if size is None and there:
        return thinker_of_folder(base_of(folder, Path(keys["base"]) if keys.get("base") else None))
    named = re.search(r"(?<![0-9.])([37])b(?![a-z])", f"{folder} {path.stem}".lower())
    if size is None and named is None:
        raise ConfigError(
            f"{path}: there is no model at {folder}, and its size is not in its name; say --size 3b or 7b"
        )
    return published_thinker(size or named[0])  # type: ignore[index]


def _count_rows(files: Any) -> int:
    paths = [Path(str(file)) for file in ([files] if isinstance(files, str) else files)]
    if not all(path.is_file() for path in paths):
        return 0
    return sum(sum(1 for line in path.open("rb") if line.strip()) for path in paths)


def _reward_job(keys: Mapping[str, Any], config_path: Path, on_gpu: bool) -> Job:
    sft = _sft_keys(keys["sft"], config_path)
    of_reward = {"embedding_dim": keys["embedding_dim"], "language_model_layers": keys["layers"]}
    of_reward |= {name: keys[name] for name in ("vocabulary", "batch_size", "steps")}
    return _sft_job(sft | of_reward, on_gpu, "reward")


def _sft_job(keys: Mapping[str, Any], on_gpu: bool, stage: str = "sft") -> Job:
    return Job(
        stage,
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
    sft = _sft_keys(keys["sft"], config_path)
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


def _sft_keys(path: Any, config_path: Path) -> dict[str, Any]:
    """Keys of the configuration that another one names, beside it if not where it says."""
    beside = config_path.parent / Path(path).name
    found = next((file for file in (Path(path), beside) if file.is_file()), None)
    return _with_defaults(SftConfig, yaml.safe_load(found.read_text()) if found else {}, found or config_path)


def _small_model(keys: Mapping[str, Any]) -> Model:
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
    defaults |= {name: field.default_factory() for name, field in known.items() if field.default_factory is not MISSING}
    return defaults | dict(keys)


def _as_keys(overrides: Sequence[str]) -> dict[str, Any]:
    """`["--batch-size", "4"]` as `{"batch_size": 4}`."""
    if len(overrides) % 2 or not all(name.startswith("--") for name in overrides[::2]):
        raise ConfigError(f"options must be pairs such as `--batch-size 4`, given: {' '.join(overrides)}")
    return {
        name[2:].replace("-", "_"): yaml.safe_load(value)
        for name, value in zip(overrides[::2], overrides[1::2], strict=True)
    }
