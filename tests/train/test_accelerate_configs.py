"""The launch configurations are what the installed accelerate reads, one for each strategy that the planner plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

from edge_emotion_train.plan import STRATEGIES

FOLDER = Path(__file__).parents[2] / "train" / "configs" / "accelerate"
KINDS = {
    "ddp": DistributedType.MULTI_GPU,
    "fsdp": DistributedType.FSDP,
    "zero2": DistributedType.DEEPSPEED,
    "zero3": DistributedType.DEEPSPEED,
    "cpu": DistributedType.MULTI_CPU,
}


def test_there_is_one_for_each_strategy() -> None:
    names = {path.stem for path in FOLDER.glob("*.yaml")}
    assert names == set(KINDS) == set(STRATEGIES) - {"single"} | {"cpu"}


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_it_without_an_unknown_key(name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    config: Any = load_config_from_file(str(path))  # raises where a key is unknown
    assert config.distributed_type == KINDS[name]
    assert config.mixed_precision == ("no" if name == "cpu" else "bf16")
    assert f"train/configs/accelerate/{name}.yaml" in path.read_text() or name == "cpu"


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_stages_are_what_the_names_say(stage: int) -> None:
    given = yaml.safe_load((FOLDER / f"zero{stage}.yaml").read_text())["deepspeed_config"]
    assert given["zero_stage"] == stage
    assert given["zero3_init_flag"] == (stage == 3)


def test_a_result_of_sharded_training_is_one_folder() -> None:
    config: Any = load_config_from_file(str(FOLDER / "fsdp.yaml"))
    assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
    assert config.fsdp_config["fsdp_reshard_after_forward"] is True
