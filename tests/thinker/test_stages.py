"""Every stage from the folder that the one before wrote, by the command that a user gives; then the export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

from edge_emotion.bundle import load_bundle
from edge_emotion.errors import ConfigError
from edge_emotion_export.export import main as export
from edge_emotion_export.omni_checkpoint import open_omni
from edge_emotion_export.omni_prompt import read_speech
from edge_emotion_train.reinforcement.log import read_log
from edge_emotion_train.reinforcement.trainer import AudioMixin
from edge_emotion_train.stages import run
from edge_emotion_train.thinker import model as thinker_model
from edge_emotion_train.thinker import reinforced, supervised
from edge_emotion_train.thinker.model import load_thinker, lora
from edge_emotion_train.thinker.processor import load_processor
from tests.thinker.conftest import CLIPS, Data

REPLIES = (
    "<think>I hear a very high pitch and fast speech. This points to anger.</think><answer>anger</answer>",
    "<think>I hear a low pitch. This points to sadness.</think><answer>sadness</answer>",
    "Slow speech.",
    "<think>I hear slow speech. This points to happiness.</think><answer>happiness</answer>",
)

SMALL = {"prompts_per_step": 1, "batch_size": 4}

Go = Callable[..., Path]


@pytest.fixture
def go(tmp_path: Path, published: Path, data: Data) -> Go:
    """Runs a stage with few rows of the tiny model; keywords replace what the file says; returns the output folder."""
    text = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "It is high."}]}
    (tmp_path / "text.jsonl").write_text(json.dumps(text) + "\n")
    files: dict[str, dict[str, Any]] = {
        "prosody": {"model": published, "output": tmp_path / "prosody", "rows": [data("prosody"), data("ordering")],
                    "max_duration_s": 12, "validation": [data("prosody", "test")], "weights": {"stress": 0.5}},
        "sft": {"model": tmp_path / "prosody", "output": tmp_path / "sft", "rows": [data("reasoning")], "lora_rank": 4,
                "batch_size": 2, "text_rows": [tmp_path / "text.jsonl"], "text_share": 0.2,
                "transcript_rows": [data("grpo")], "transcript_share": 0.2},
        "grpo": {"model": tmp_path / "sft", "output": tmp_path / "grpo", "rows": [data("grpo")], "lora_rank": 4,
                 "batch_size": 8, "steps": 2, "prompts_per_step": 2, "group": 4, "max_new_tokens": 8,
                 "warmup_steps": 0, "schedule": "always"},
        "eval": {"model": tmp_path / "grpo", "rows": [data("grpo"), data("prosody", "test"), data("ordering", "test")],
                 "output": tmp_path / "eval.json", "replies": tmp_path / "replies.jsonl", "max_new_tokens": 12},
    }  # fmt: skip

    def go_through(stage: str, *overrides: str, **changes: Any) -> Path:
        common = {} if stage == "eval" else {"learning_rate": 1e-2, "save_every": 2}
        keys = {"preset": "omni", **common, **files[stage], **changes}
        path = tmp_path / f"{stage}.yaml"
        path.write_text("".join(f"{name}: {_yaml(value)}\n" for name, value in keys.items()))
        run(stage, path, overrides)
        return Path(keys["output"])

    return go_through


@pytest.fixture(scope="module")
def adapter(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter as stage II leaves it."""
    folder = tmp_path_factory.mktemp("adapter")
    model = get_peft_model(load_thinker(published), lora(4))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(folder)
    load_processor(published).tokenizer.save_pretrained(folder)
    return folder


def tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Completions that are right and wrong, so that rewards differ: a random model says nothing that could be."""

    def say(trainer: Any, prompt_ids: Any, *_: Any, **__: Any) -> Any:
        texts = [REPLIES[(i + trainer.state.global_step) % len(REPLIES)] for i in range(len(prompt_ids))]
        return [trainer.processing_class(text)["input_ids"] for text in texts], None

    monkeypatch.setattr(AudioMixin, "_generate_single_turn", say)


def states(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def moved(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], part: str) -> bool:
    names = [name for name in left if part in name and name in right]
    assert names
    return any(not torch.equal(left[name].float(), right[name].float()) for name in names)


def test_every_stage_from_the_one_before(
    go: Go, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # I: encoder, projector and language model
    prosody = states(go("prosody"))
    start = {name.removeprefix("thinker."): value for name, value in states(published).items()}
    prosody = {name.removeprefix("thinker."): value for name, value in prosody.items()}
    for part, moves in (("audio_tower.layers", True), ("audio_tower.proj", True), ("model.layers", True),
                        ("lm_head", True), ("visual.", False)):  # fmt: skip
        assert moved(start, prosody, part) == moves, part
    about = json.loads((tmp_path / "prosody" / "run.json").read_text())
    # 15 prosody rows, of which every other of three about stress, and 9 orderings
    assert about["steps"] == -(-(12 + 2 + 9) // 4)
    assert any("validation_loss" in entry for entry in read_log(tmp_path / "prosody" / "metrics.jsonl"))

    # II: LoRA on the language model; all else stays bit for bit
    trained: list[Any] = []
    train = supervised.train
    monkeypatch.setattr(supervised, "train", lambda trainer, folder: trained.append(trainer) or train(trainer, folder))
    before = load_thinker(tmp_path / "prosody").state_dict()
    adapter = go("sft")
    after = {name: value for name, value in trained[0].model.get_base_model().state_dict().items()}
    frozen = {name.replace(".base_layer", ""): value for name, value in after.items() if "lora_" not in name}
    assert same(before, frozen)
    weights = states(adapter)
    assert all("language_model" in name for name in weights)
    assert any(bool(value.any()) for name, value in weights.items() if "lora_B" in name)
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "edge_emotion.json", "curves.png",
            "metrics.jsonl", "run.json"} <= {path.name for path in adapter.iterdir()}  # fmt: skip
    tasks = {row["task"] for row in trained[0].data_collator.rows}
    assert tasks == {"reasoning", "transcript", "text"}
    plain = PeftModel.from_pretrained(Thinker.from_pretrained(tmp_path / "prosody"), str(adapter))  # PEFT alone
    own = load_thinker(adapter)
    assert same(plain.state_dict(), own.state_dict())

    # GRPO-PTR: the same adapter goes on; its reference is what it was
    tell(monkeypatch)
    references: list[dict[str, torch.Tensor]] = []
    save = reinforced.save

    def keep(trainer: Any, part: Path) -> None:
        policy = trainer.accelerator.unwrap_model(trainer.model).state_dict()
        references.append({n.replace(".ref.", "."): v.clone() for n, v in policy.items() if ".ref." in n})
        save(trainer, part)

    monkeypatch.setattr(reinforced, "save", keep)
    result = go("grpo")
    assert same(references[0], weights)
    assert moved(weights, states(result), "lora_B")
    assert weights.keys() == states(result).keys()
    log = read_log(result / "metrics.jsonl")
    assert [entry["step"] for entry in log] == [1, 2]
    assert log[0]["reward_deviation"] > 0.1
    assert log[0]["factual_alignment"] > 1

    # evaluation
    capsys.readouterr()
    monkeypatch.undo()
    go("eval")
    figures = json.loads((tmp_path / "eval.json").read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == figures
    assert figures["emotion"]["clips"] == 3
    assert set(figures["tasks"]) == {"pitch_level", "energy_level", "speed_level", "intonation", "stress",
                                     "order_pitch", "order_energy", "order_speed"}  # fmt: skip
    assert len((tmp_path / "replies.jsonl").read_text().splitlines()) == 11
    with pytest.raises(ConfigError, match=r"output: .*exists; give --force"):
        go("eval")

    # export: base and adapter are found, and so is how the model is spoken with
    exported = open_omni(result)
    assert exported.folder == (tmp_path / "prosody").resolve()
    name = "model.layers.0.self_attn.q_proj.weight"
    merged = load_thinker(result).merge_and_unload().state_dict()["model.language_model" + name.removeprefix("model")]
    assert torch.allclose(exported.rows(name), merged, atol=1e-6)
    speech = read_speech(result)
    assert speech.labels == ("anger", "happiness", "neutral", "sadness")
    assert speech.prompt.after_audio.endswith("sadness.<|im_end|>\n<|im_start|>assistant\n")
    bundle = tmp_path / "bundle"
    assert (
        export("all", checkpoint=result, output=bundle, clips=[CLIPS["neutral"]], keep_failing=True, llms=["F16"]) == 0
    )
    assert load_bundle(bundle).manifest.prompt == speech.prompt


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("prosody", {"batch_size": 4}),
        ("sft", {"batch_size": 1}),
        ("grpo", {"steps": 4, **SMALL}),
        ("grpo", {"steps": 4, "lora_rank": 0, "learning_rate": 1e-3, **SMALL}),
    ],
    ids=["all weights", "LoRA", "GRPO of an adapter", "GRPO of all weights"],
)
def test_a_run_that_is_cut_off_goes_on_to_the_same_weights(
    go: Go, published: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str,
    changes: dict[str, Any],
) -> None:  # fmt: skip
    tell(monkeypatch)
    if stage == "grpo":
        changes["model"] = published if "lora_rank" in changes else adapter
    elif stage == "sft":
        changes["model"] = published
    whole = go(stage, output=tmp_path / "whole", **changes)

    class CutError(Exception):
        pass

    trainer = reinforced.run.PtrGrpoTrainer if stage == "grpo" else supervised.SupervisedTrainer
    step = trainer.training_step

    def cut(self: Any, *given: Any, **named: Any) -> Any:
        if self.state.global_step == 3:
            raise CutError
        return step(self, *given, **named)

    monkeypatch.setattr(trainer, "training_step", cut)
    with pytest.raises(CutError):
        go(stage, output=tmp_path / "cut", **changes)
    monkeypatch.setattr(trainer, "training_step", step)
    folder = tmp_path / "cut"
    assert not list(folder.glob("*.safetensors"))  # half a result is none
    (folder / "training" / "checkpoint-3").mkdir()  # as if power went while it was written
    with pytest.raises(ConfigError, match="holds a run already; go on with --resume"):
        go(stage, output=folder, **changes)
    with pytest.raises(ConfigError, match=r"had other settings, so it cannot go on:\n  seed: 20261125 is now 7"):
        go(stage, "--resume", "--seed", "7", output=folder, **changes)
    go(stage, "--resume", output=folder, **changes)
    assert same(states(whole), states(folder))
    steps = [entry["step"] for entry in read_log(folder / "metrics.jsonl") if "loss" in entry]
    assert steps == sorted(set(steps))
    assert len(steps) >= 4


def test_recordings_that_cannot_be_heard_are_named_and_training_goes_on(
    go: Go, data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = data("prosody").read_text().splitlines()
    (tmp_path / "broken.flac").write_bytes(b"fLaC and nothing else")
    spoiled = []
    for name, path in (("broken", "broken.flac"), ("missing", "nowhere.wav")):
        row = json.loads(lines[0])
        row["id"] = row["audio"] = name
        row["audio"] = [path]
        row["messages"][0]["content"][0]["path"] = path
        spoiled.append(json.dumps(row))
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join([*lines, *spoiled]) + "\n")
    folder = go("prosody", rows=[file, data("ordering")], max_duration_s=5, weights={}, validation=[])
    said = capsys.readouterr().err
    left_out = [json.loads(line) for line in (folder / "training" / "left_out.jsonl").read_text().splitlines()]
    causes = {item["id"]: item["reason"] for item in left_out}
    assert "broken.flac" in causes["broken"]
    assert "nowhere.wav" in causes["missing"]
    assert "more than max_duration_s 5" in causes["corpus/0#order_pitch"]
    assert f"{len(left_out)} rows are left out" in said
    assert "  broken: " in said
    about = json.loads((folder / "run.json").read_text())
    assert about["rows"] == len(lines) + 9 + 2 - len(left_out)
    assert about["steps"] > 0


def test_activations_are_recomputed_and_computing_is_bfloat16_where_there_is_a_gpu(
    go: Go, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU can do both, slowly: what a GPU is given by detection runs here too."""
    monkeypatch.setattr(thinker_model, "on_gpu", lambda: True)
    monkeypatch.setattr(supervised, "hardware", lambda: {"bf16": True, "use_cpu": True, "gradient_checkpointing": True})
    folder = go("sft", model=published)
    adapter = states(folder)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in adapter.values())
    assert any(bool(value.any()) for name, value in adapter.items() if "lora_B" in name)
    assert load_thinker(folder).get_base_model().dtype == torch.bfloat16


def _yaml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {part}" for name, part in value.items()) + "}"
    return str(value)
