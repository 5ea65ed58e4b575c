"""The stage: from a supervised checkpoint to a reinforced one, by the command that a user gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_emotion.errors import ConfigError
from edge_emotion_train import stages
from edge_emotion_train.checkpoint import Checkpoint, TowerSizes, build_tower, load_checkpoint, save_checkpoint
from edge_emotion_train.config import read_config_of
from edge_emotion_train.features import FeatureSet
from edge_emotion_train.reinforcement import stage
from edge_emotion_train.reinforcement.config import GrpoConfig
from edge_emotion_train.reinforcement.log import read_log
from tests.reinforcement import miniature

SHIPPED = Path(__file__).parents[2] / "train" / "configs" / "nano_grpo.yaml"
SIZES = TowerSizes(encoder_dim=16, encoder_heads=2, max_frames=50, cues=2, labels=3, evidence_tokens=3,
                   embedding_dim=64)  # fmt: skip


@pytest.fixture
def features() -> FeatureSet:
    return miniature.make_features()


@pytest.fixture
def options(tmp_path: Path, features: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str]]:
    """A checkpoint on disk, a configuration and options; features come from the miniature, not from recordings."""
    tokenizer = miniature.make_tokenizer()
    speech = miniature.make_speech(tokenizer, spread=0.15)
    tower = build_tower(SIZES)
    for part in (tower.evidence, tower.audio):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.15)
    calibration = {"head": {"temperature": 2.0}, "llm": {"temperature": 0.7}}
    checkpoint = Checkpoint(
        tower, speech.language_model, tokenizer, SIZES, miniature.LABELS, miniature.CUES, miniature.PROMPT,
        miniature.THRESHOLDS, calibration, {"seed": 1},
    )  # fmt: skip
    save_checkpoint(tmp_path / "sft", checkpoint)
    (tmp_path / "sft.yaml").write_text("labels: [anger, fear, neutral]\ncues: [pitch, rate]\nalways_cues: []\n"
                                       "test_speakers: [emodb_3]\n")  # fmt: skip
    (tmp_path / "grpo.yaml").write_text(
        "steps: 2\nprompts_per_step: 2\ngroup: 4\nbatch_size: 8\nsave_every: 1\nlearning_rate: 1.0e-2\n"
        "warmup_steps: 0\nschedule: always\nvalidation_speakers: [emodb_2]\n"
    )
    monkeypatch.setattr(stage, "load_training_features", lambda _: (features, "hash"))
    paths = {"data": tmp_path, "encoder-weights": tmp_path, "checkpoint": tmp_path / "sft"}
    paths |= {"sft": tmp_path / "sft.yaml", "output": tmp_path / "out"}
    return tmp_path / "grpo.yaml", [text for name, path in paths.items() for text in (f"--{name}", str(path))]


def test_a_checkpoint_is_reinforced(
    options: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    used: set[str] = set()
    rows_of = stage.prompt_rows

    def keep(features: FeatureSet, *rest: Any) -> list[int]:
        rows = rows_of(features, *rest)
        used.update(features.rows[i].speaker for i in rows)
        return rows

    monkeypatch.setattr(stage, "prompt_rows", keep)
    stages.run("grpo", *options)
    printed = json.loads(capsys.readouterr().out)
    assert used == {"emodb_0", "emodb_1"}
    assert printed["before"]["answer"]["clips"] == printed["after"]["answer"]["clips"] == 2
    before, after = load_checkpoint(tmp_path / "sft"), load_checkpoint(tmp_path / "out")
    for part, moves in (("language_model", True), ("tower.audio", True), ("tower.evidence", True),
                        ("tower.encoder", False), ("tower.heads", False)):  # fmt: skip
        left, right = (dict(_part(checkpoint, part).state_dict()) for checkpoint in (before, after))
        assert any(not torch.equal(left[name], right[name]) for name in left) == moves, part
    assert after.calibration["head"] == before.calibration["head"]
    assert after.calibration["llm"]["ece"] == 1.0  # the answers changed, so their calibration is unknown again
    assert after.provenance["seed"] == 1
    assert after.provenance["grpo"]["validation"]["before"] == printed["before"]
    assert str(tmp_path) not in json.dumps(after.provenance)
    assert [entry["step"] for entry in read_log(tmp_path / "out" / "metrics.jsonl")] == [1, 2]
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="holds a run already"):
        stages.run("grpo", *options)
    stages.run("grpo", options[0], [*options[1], "--resume", "--steps", "3"])
    assert [entry["step"] for entry in read_log(tmp_path / "out" / "metrics.jsonl")] == [1, 2, 3]


def _part(checkpoint: Checkpoint, name: str) -> torch.nn.Module:
    return checkpoint.language_model if name == "language_model" else getattr(checkpoint.tower, name.split(".")[1])


def test_an_adapter_is_merged_into_the_checkpoint(options: tuple[Path, list[str]], tmp_path: Path) -> None:
    stages.run("grpo", options[0], [*options[1], "--lora-rank", "2"])
    before, after = load_checkpoint(tmp_path / "sft"), load_checkpoint(tmp_path / "out")
    left, right = before.language_model.state_dict(), after.language_model.state_dict()
    changed = {name.split(".")[-2] for name in left if not torch.equal(left[name], right[name])}
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert all(torch.equal(a, b) for a, b in zip(before.tower.state_dict().values(),
                                                 after.tower.state_dict().values(), strict=True))  # fmt: skip


def test_rows_that_cannot_teach_are_left_out_by_name(
    options: tuple[Path, list[str]], features: FeatureSet, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_config_of(GrpoConfig, *options)
    features.frames[features.offsets[1]] = np.nan
    assert stage.prompt_rows(features, miniature.LABELS, config, 8.0) == [0, 3, 4, 5, 7]
    assert "emodb/clip1, variant 0: features are not finite; it is left out" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no clip is left to train on"):
        stage.prompt_rows(features, miniature.LABELS, config, 0.01)


def test_speakers_that_do_not_exist_are_refused(options: tuple[Path, list[str]]) -> None:
    with pytest.raises(ConfigError, match="validation_speakers: nobody to train on is called emodb_99"):
        stages.run("grpo", options[0], [*options[1], "--validation-speakers", "emodb_99"])


def test_the_shipped_configuration_loads(options: tuple[Path, list[str]]) -> None:
    config = read_config_of(GrpoConfig, SHIPPED, options[1])
    assert (config.group, config.beta) == (8, 0.04)
    assert (config.format_weight, config.outcome_weight, config.reasoning_weight) == (0.3, 1.0, 0.5)
    assert config.steps % config.save_every == 0


def test_unknown_keys_are_named_with_suggestions(options: tuple[Path, list[str]], tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("trsut: true\nbeat: 0.1\nsteps: 3\n")
    with pytest.raises(ConfigError) as caught:
        stages.run("grpo", path, options[1])
    assert "unknown key 'trsut'; did you mean 'trust'?" in str(caught.value)
    assert "unknown key 'beat'; did you mean 'beta'?" in str(caught.value)
