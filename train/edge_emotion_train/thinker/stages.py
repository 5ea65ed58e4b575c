"""The stages of a thinker, behind `edge-emotion train STAGE --config F` where F says `preset: omni`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_emotion.errors import ConfigError
from edge_emotion_train.config import read_config_of
from edge_emotion_train.thinker.configs import EvaluationConfig, ReasoningConfig, ReinforcedConfig, SupervisedConfig
from edge_emotion_train.thinker.evaluate import evaluation_stage
from edge_emotion_train.thinker.reinforced import reinforced_stage
from edge_emotion_train.thinker.supervised import supervised_stage

STAGES = ("prosody", "sft", "grpo", "eval")


def run(stage: str, config_path: Path, overrides: Sequence[str] = ()) -> None:
    """Runs one stage.

    Args:
        stage: One of `STAGES`.
        config_path: YAML file of the stage's configuration.
        overrides: Options that replace what the file says, such as `["--epochs", "1"]`.

    Raises:
        ConfigError: Unknown stage, or a configuration that cannot be used; nothing was loaded then.
    """
    if stage == "prosody":
        supervised_stage(read_config_of(SupervisedConfig, config_path, overrides))
    elif stage == "sft":
        supervised_stage(read_config_of(ReasoningConfig, config_path, overrides))
    elif stage == "grpo":
        reinforced_stage(read_config_of(ReinforcedConfig, config_path, overrides))
    elif stage == "eval":
        evaluation_stage(read_config_of(EvaluationConfig, config_path, overrides))
    else:
        raise ConfigError(f"unknown stage {stage!r} of a thinker; stages: {', '.join(STAGES)}")
