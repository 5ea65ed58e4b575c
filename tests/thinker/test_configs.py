"""Configurations: the shipped ones can be read, and wrong ones are answered with all that is wrong, before loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_emotion.errors import ConfigError
from edge_emotion_train.config import preset_of, read_config_of
from edge_emotion_train.thinker import evaluate, reinforced, stages, supervised
from edge_emotion_train.thinker.configs import EvaluationConfig, ReasoningConfig, ReinforcedConfig, SupervisedConfig
from tests.thinker.conftest import Data

SHIPPED = Path(__file__).parents[2] / "train" / "configs"
KINDS = {"prosody": SupervisedConfig, "sft": ReasoningConfig, "grpo": ReinforcedConfig, "eval": EvaluationConfig}


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    for module in (supervised, reinforced, evaluate):
        monkeypatch.setattr(module, "load_thinker", refuse)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("omni_*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_can_be_read(path: Path, published: Path, data: Data, tmp_path: Path) -> None:
    stage = path.stem.rpartition("_")[2]
    files = {"prosody": ["rows", "validation"], "sft": ["rows", "validation", "text_rows", "transcript_rows"]}
    options = [
        part for name in files.get(stage, ["rows"]) for part in (f"--{name.replace('_', '-')}", str(data("grpo")))
    ]
    config: Any = read_config_of(KINDS[stage], path, [*options, "--model", str(published)])
    assert preset_of(path) == "omni"
    paper = {
        "prosody": {"learning_rate": 1e-5, "epochs": 1, "lora_rank": 0},
        "sft": {"learning_rate": 1e-5, "epochs": 2, "text_share": 0.2, "transcript_share": 0.2},
        "grpo": {"learning_rate": 1e-6, "beta": 0.04, "group": 8, "format_weight": 0.3, "outcome_weight": 1.0,
                 "reasoning_weight": 0.5},
        "eval": {},
    }  # fmt: skip
    assert {name: getattr(config, name) for name in paper[stage]} == paper[stage]
    if stage == "grpo":
        assert config.run().group == 8
        for processes in (1, 2, 4, 8):
            completions = config.prompts_per_step * config.group
            assert completions % (processes * config.batch_size) == 0, processes


@pytest.mark.usefixtures("nothing_loads")
def test_all_that_is_wrong_is_said_at_once(published: Path, tmp_path: Path) -> None:
    path = tmp_path / "sft.yaml"
    path.write_text(f"preset: omni\nmodel: {tmp_path / 'nowhere'}\nrows: [no.jsonl]\noutput: {tmp_path / 'o'}\n"
                    "epochs: 0\nlearning_rate: -1.0\ntext_share: 0.7\ntranscript_share: 0.4\nmax_duration_s: 31\n"
                    "weights: {reasoning: -2}\nresume: true\nforce: true\n")  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        stages.run("sft", path)
    said = str(caught.value)
    for problem in (
        "model: ", "holds no config.json", "rows: no file", "epochs: must be at least 1, given 0",
        "learning_rate: must be at least 0", "text_share: needs text_rows",
        "transcript_share: needs transcript_rows", "together 1 or more",
        "max_duration_s: must be above 0 and at most 30", "weights: must be 0 or more", "resume, force: cannot both",
    ):  # fmt: skip
        assert problem in said, problem
    path.write_text(f"preset: omni\nmodel: {published}\nrows: []\noutput: {published}\nsteps: 0\nnear_miss: 3\n"
                    "group: 1\nllm_weight: 1.0\nlora_rank: -1\n")  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        stages.run("grpo", path)
    said = str(caught.value)
    for problem in (
        "rows: needs at least one file", "output: is the folder of the model", "near_miss: must be in 0..1",
        "group: must be at least 2, given 1", "llm_weight: needs llm_url", "lora_rank: must be at least 0",
    ):  # fmt: skip
        assert problem in said, problem
    assert said.count("steps: must be at least 1, given 0") == 1


@pytest.mark.usefixtures("nothing_loads")
def test_unknown_keys_and_stages_are_answered_with_suggestions(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("preset: omni\nmodle: here\nlearning_rat: 1.0e-5\n")
    with pytest.raises(ConfigError) as caught:
        stages.run("prosody", path)
    assert "unknown key 'modle'; did you mean 'model'?" in str(caught.value)
    assert "unknown key 'learning_rat'; did you mean 'learning_rate'?" in str(caught.value)
    with pytest.raises(ConfigError, match=r"unknown stage 'sfft' of a thinker; stages: prosody, sft, grpo, eval"):
        stages.run("sfft", path)


@pytest.mark.usefixtures("nothing_loads")
def test_rows_that_the_mixture_cannot_use_are_refused_before_loading(
    published: Path, data: Data, tmp_path: Path
) -> None:
    path = tmp_path / "prosody.yaml"
    keys = f"preset: omni\nmodel: {published}\noutput: {tmp_path / 'out'}\n"
    path.write_text(keys + f"rows: [{data('prosody')}]\nweights: {{picth_level: 2.0}}\n")
    with pytest.raises(ConfigError, match=r"weights: no row has the task picth_level; the rows have energy_level"):
        stages.run("prosody", path)
    path.write_text(keys + f"rows: [{data('prosody')}]\nmax_duration_s: 0.2\nforce: true\n")
    with pytest.raises(ConfigError, match=r"rows: none is left to train on"):
        stages.run("prosody", path)
    path.write_text(keys + f"rows: [{data('reasoning')}]\nforce: true\nbatch_size: 8\n")
    with pytest.raises(ConfigError, match=r"rows: none is left to train on.*`grpo` takes the view of that name"):
        stages.run("grpo", path)
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "thesis.txt").write_text("do not delete")
    path.write_text(
        f"preset: omni\nmodel: {published}\noutput: {tmp_path / 'strange'}\nrows: [{data('prosody')}]\nforce: true\n"
    )
    with pytest.raises(ConfigError, match="holds other files; choose an empty folder"):
        stages.run("prosody", path)
    assert (tmp_path / "strange" / "thesis.txt").exists()
