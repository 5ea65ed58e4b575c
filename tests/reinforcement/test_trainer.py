"""The trainer scores what the policy said of what it heard: against a recomputation that shares no code with it."""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from edge_emotion.errors import ConfigError
from edge_emotion_train.reinforcement.config import ABLATIONS, GrpoConfig
from edge_emotion_train.reinforcement.log import read_log
from edge_emotion_train.reinforcement.policy import copy_back
from edge_emotion_train.reinforcement.prompts import require_finite
from edge_emotion_train.reinforcement.ptr import ProgressiveSchedule, TrustRule, total_reward
from edge_emotion_train.reinforcement.rewards import DIMENSIONS
from edge_emotion_train.reinforcement.run import accumulation_steps, prepare_folder, prompt_order, train
from edge_emotion_train.reinforcement.trainer import AudioMixin, PtrGrpoTrainer, TrainingError, last_checkpoint
from edge_emotion_train.sft import SpeechLanguageModel

MakeConfig = Callable[..., GrpoConfig]
LORA = LoraConfig(r=4, target_modules=r".*layers.*\.(q|k|v|o|gate|up|down)_proj", init_lora_weights=False)


@torch.no_grad()
def recomputed(
    speech: SpeechLanguageModel, audio: dict[str, Tensor], prompt: Tensor, completion: Tensor, vocabulary: int
) -> Tensor:
    """Log-probabilities of one completion: one sample, no padding, no placeholders, no cache, in the model's precision.

    Softmax is in float64.
    """
    audio = {name: value.to(speech.audio.mix.dtype) if value.is_floating_point() else value
             for name, value in audio.items()}  # fmt: skip
    heard = torch.cat([speech.evidence(audio["cue_values"][None], audio["emotion_logits"][None]),
                       speech.audio(audio["frames"][None])], dim=1)[0][audio["token_mask"]]  # fmt: skip
    embed = speech.language_model.get_input_embeddings()
    first = int((prompt == vocabulary).nonzero()[0])
    assert int((prompt == vocabulary).sum()) == len(heard)
    text = [embed(prompt[:first]), heard, embed(prompt[first + len(heard) :]), embed(completion)]
    logits = speech.language_model(inputs_embeds=torch.cat(text)[None]).logits[0].double()
    steps = logits[-len(completion) - 1 : -1].log_softmax(dim=-1)
    return steps.gather(1, completion[:, None])[:, 0]


class Recording(PtrGrpoTrainer):
    """Keeps, for every micro-batch, what the policy's weights were and what log-probabilities the loss used."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.seen: list[dict[str, Any]] = []
        super().__init__(*args, **kwargs)

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        self.seen.append({"inputs": {k: v.clone() for k, v in inputs.items() if isinstance(v, Tensor)}})
        unwrapped = self.accelerator.unwrap_model(model)
        merged = copy.deepcopy(unwrapped)
        for forward in (merged, getattr(merged, "base_model", merged)):
            forward.__dict__.pop("forward", None)
        self.seen[-1]["weights"] = merged
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if torch.is_grad_enabled():
            self.seen[-1]["log_probs"] = found[0].detach().clone()
        return found


def speech_with(speech: SpeechLanguageModel, policy: Any) -> SpeechLanguageModel:
    """A speech model with the weights of a policy, its adapter merged, in float64: merging would round once more."""
    policy = policy.double()
    merged = policy.merge_and_unload() if hasattr(policy, "merge_and_unload") else policy
    other = copy.deepcopy(speech).double()
    copy_back(merged, other)
    return other


@pytest.mark.parametrize("adapter", [None, LORA], ids=["all weights", "LoRA"])
def test_log_probabilities_equal_a_recomputation_and_depend_on_the_audio(
    parts: Any, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: LoraConfig | None
) -> None:
    monkeypatch.setattr("edge_emotion_train.reinforcement.run.PtrGrpoTrainer", Recording)
    reference = copy.deepcopy(parts.speech)
    trainer = parts.trainer(make_config(iterations=2, steps=4), tmp_path / "run", adapter)
    trainer.train()
    vocabulary = parts.policy.config.vocab_size
    assert len(trainer.seen) == 8
    worst = worst_reference = 0.0
    least_change = math.inf
    for batch in trainer.seen:
        inputs, speech = batch["inputs"], speech_with(parts.speech, batch["weights"])
        for i in range(len(inputs["prompt_ids"])):
            row = {name: value[i] for name, value in inputs.items() if value.ndim}
            prompt = row["prompt_ids"][row["prompt_mask"].bool()]
            completion = row["completion_ids"][row["completion_mask"].bool()]
            used = batch["log_probs"][i][: len(completion)]
            expected = recomputed(speech, row, prompt, completion, vocabulary)
            worst = max(worst, float((used - expected).abs().max()))
            for name in ("cue_values", "emotion_logits", "frames"):
                other = inputs[name].roll(1, dims=0)[i]
                if not torch.equal(other, row[name]):
                    shifted = recomputed(speech, row | {name: other}, prompt, completion, vocabulary)
                    least_change = min(least_change, float((shifted - expected).abs().max()))
            # The reference is the start: a copy on disk, or the weights below the adapter.
            frozen = recomputed(reference, row, prompt, completion, vocabulary)
            found = row["ref_per_token_logps"][: len(completion)]
            worst_reference = max(worst_reference, float((found - frozen).abs().max()))
    assert worst < 1e-5
    assert worst_reference < 1e-5
    assert least_change > 1e-3


def test_without_the_mixin_the_scores_are_of_a_deaf_model(parts: Any, make_config: MakeConfig, tmp_path: Path) -> None:
    """The regression test has power: a trainer that forgets the audio is refused by the model itself."""
    trainer = parts.trainer(make_config(), tmp_path / "run")
    ids, audio = parts.read_prompts(["emodb/clip0", "emodb/clip1"])
    assert audio["token_mask"].shape[0] == len(ids) == 2
    trainer._audio = {}
    width = min(map(len, ids))
    batch = torch.tensor([row[-width:] for row in ids])
    with pytest.raises(ValueError, match="audio placeholders"):
        AudioMixin._get_per_token_logps_and_entropies(trainer, trainer.model, batch, torch.ones_like(batch), 2)


def test_advantages_are_those_of_the_total_reward(
    parts: Any, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random model is always wrong, so trl's reward columns are replaced by such as a trained one earns."""
    columns: list[Tensor] = []
    advantages: list[Tensor] = []

    def rewards(trainer: GRPOTrainer, inputs: Any, *_: Any) -> Tensor:
        generator = torch.Generator().manual_seed(len(columns))
        drawn = torch.rand(len(inputs), 3, generator=generator)
        columns.append(torch.stack([drawn[:, 0].round(), drawn[:, 1].round(), 0.2 + 0.8 * drawn[:, 2]], dim=1))
        columns[-1][3, 2] = math.nan  # a judge that failed once
        return columns[-1].clone()

    score = AudioMixin._generate_and_score_completions

    def keep(trainer: Any, inputs: Any) -> Any:
        output = score(trainer, inputs)
        advantages.append(output["advantages"].clone())
        return output

    monkeypatch.setattr(GRPOTrainer, "_calculate_rewards", rewards)
    monkeypatch.setattr(AudioMixin, "_generate_and_score_completions", keep)
    config = make_config(steps=3, schedule="switch", schedule_threshold=0.3, schedule_window=2, save_every=3)
    trainer = parts.trainer(config, tmp_path / "run")
    trainer.train()
    schedule = ProgressiveSchedule("switch", 0.3, window=2)
    weights = []
    for raw, found in zip(columns, advantages, strict=True):
        groups = raw.view(2, 4, 3)
        weights.append(schedule.update(float((groups[..., 1] == 1).float().mean())))
        total = total_reward(groups[..., 0], groups[..., 1], groups[..., 2], weights[-1], TrustRule())
        expected = (total - total.mean(dim=1, keepdim=True)) / (total.std(dim=1, keepdim=True) + 1e-4)
        torch.testing.assert_close(found, expected.flatten(), atol=1e-5, rtol=1e-5)
    assert weights[0] == 0.0
    assert weights[-1] == 1.0
    entries = read_log(tmp_path / "run" / "metrics.jsonl")
    assert [entry["schedule"] for entry in entries] == weights
    assert min(entry["trust"] for entry in entries) < 1.0  # else trust was not put to the test


def test_every_reward_term_has_a_column_of_its_own(parts: Any, make_config: MakeConfig, tmp_path: Path) -> None:
    trainer = parts.trainer(make_config(steps=2, save_every=1), tmp_path / "run")
    entries = train(trainer, None, tmp_path / "run")
    assert [entry["step"] for entry in entries] == [1, 2]
    wanted = {"format", "outcome", "reasoning", "reasoning_paid", "trust", "schedule", "kl", "completion_tokens",
              "accuracy", "loss", "entropy", "not_judged", *DIMENSIONS}  # fmt: skip
    assert all(wanted <= set(entry) for entry in entries)
    picture = (tmp_path / "run" / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def test_a_resumed_run_takes_the_same_path(make_parts: Any, make_config: MakeConfig, tmp_path: Path) -> None:
    """Two epochs and a schedule that switches in between; the second run starts from what the first left at step 4."""
    numbers = {"steps": 8, "save_every": 4, "schedule": "ramp", "schedule_threshold": 0.0, "schedule_window": 2}
    config = make_config(**numbers, schedule_ramp=5, prompts_per_step=4, group=2)
    whole = make_parts().trainer(config, tmp_path / "whole")
    expected = train(whole, None, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "checkpoint-8" / "ptr_state.json").unlink()  # as if cut off while it was written
    start = last_checkpoint(tmp_path / "cut")
    assert start == tmp_path / "cut" / "checkpoint-4"
    torch.rand(7)  # whatever happened to the random numbers meanwhile
    again = make_parts().trainer(config, tmp_path / "cut")
    found = train(again, start, tmp_path / "cut")
    for left, right in zip(expected, found, strict=True):
        assert left.pop("generation_s") + left.pop("scoring_s") < left.pop("step_time_s")
        assert left == {name: value for name, value in right.items() if not name.endswith("_s")}
    for (name, left), right in zip(weights_of(whole.model).items(), weights_of(again.model).values(), strict=True):
        torch.testing.assert_close(left, right, atol=0, rtol=0, msg=name)


def test_a_run_is_neither_overwritten_nor_continued_with_other_settings(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    folder, config = tmp_path / "run", make_config()
    assert prepare_folder(folder, config, "a") is None
    with pytest.raises(ConfigError, match="holds a run already; go on with --resume, or start anew with --force"):
        prepare_folder(folder, config, "a")
    resumed = dataclasses.replace(config, resume=True, steps=50)
    assert prepare_folder(folder, resumed, "a") is None  # nothing was saved yet
    with pytest.raises(ConfigError, match=r"beta: 0.04 is now 0.1\n  start: 'a' is now 'b'"):
        prepare_folder(folder, dataclasses.replace(resumed, beta=0.1), "b")
    (folder / "left.over").touch()
    prepare_folder(folder, dataclasses.replace(config, force=True), "b")
    assert not (folder / "left.over").exists()


def test_audio_that_is_not_finite_is_named(parts: Any, make_config: MakeConfig, tmp_path: Path) -> None:
    read = parts.read_prompts

    def broken(prompts: Any) -> Any:
        ids, audio = read(prompts)
        audio["frames"][0, 0, 0, 0] = math.nan
        require_finite(prompts, audio)
        return ids, audio

    trainer = dataclasses.replace(parts, read_prompts=broken).trainer(make_config(), tmp_path / "run")
    with pytest.raises(TrainingError, match=r"frames of emodb/clip\d holds values that are not finite"):
        trainer.train()


def test_a_batch_whose_loss_is_not_finite_is_left_out(
    parts: Any, make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    compute = GRPOTrainer._compute_loss
    calls: list[int] = []

    def sometimes_nan(trainer: Any, model: Any, inputs: Any) -> Tensor:
        calls.append(1)
        return compute(trainer, model, inputs) * (math.nan if len(calls) == 1 else 1.0)

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", sometimes_nan)
    trainer = parts.trainer(make_config(), tmp_path / "run")
    before = weights_of(trainer.model)
    trainer.train()
    assert "a batch with a loss of nan is left out" in capsys.readouterr().err
    after = weights_of(trainer.model)
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", lambda t, m, i: compute(t, m, i) * math.nan)
    trainer = parts.trainer(make_config(), tmp_path / "again")
    with pytest.raises(TrainingError, match="not finite in 3 batches in a row"):
        trainer.train()


def test_a_policy_that_has_diverged_stops_with_advice(parts: Any, make_config: MakeConfig, tmp_path: Path) -> None:
    trainer = parts.trainer(make_config(), tmp_path / "run")
    with torch.no_grad():
        trainer.model.model.norm.weight.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"no finite probabilities any more\. Lower the learning rate"):
        trainer.train()


def test_empty_completions_earn_nothing_and_stop_nothing(
    parts: Any, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the completions end at once; the rest are what the policy says."""
    single_turn = AudioMixin._generate_single_turn

    def shortened(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        ids, log_probs = single_turn(trainer, *args, **kwargs)
        end = trainer._tokenizer.eos_token_id
        return [[end] if i % 2 else row for i, row in enumerate(ids)], log_probs

    monkeypatch.setattr(AudioMixin, "_generate_single_turn", shortened)
    entries = train(parts.trainer(make_config(), tmp_path / "run"), None, tmp_path / "run")
    assert len(entries) == 2
    assert all(math.isfinite(entry["loss"]) for entry in entries)
    assert entries[0]["completion_tokens"] == 4.5


def test_a_judge_that_never_answers_leaves_format_and_outcome(
    parts: Any, make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(
        measured_weight=0.0, llm_weight=1.0, llm_url="http://127.0.0.1:9/v1", llm_model="m", llm_timeout_s=0.2, steps=1,
        save_every=1,
    )  # fmt: skip
    entries = train(parts.trainer(config, tmp_path / "run"), None, tmp_path / "run")
    assert entries[0]["not_judged"] == 1.0
    assert entries[0]["reasoning_paid"] == 0.0
    assert "8 of 8 replies not judged" in capsys.readouterr().err


def test_a_full_disk_leaves_the_last_checkpoint(
    parts: Any, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_text

    def full(path: Path, text: str, *args: Any, **kwargs: Any) -> int:
        if path.name == "ptr_state.partial" and "checkpoint-2" in str(path):
            raise OSError(28, "No space left on device")
        return write(path, text, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    trainer = parts.trainer(make_config(steps=3, save_every=1), tmp_path / "run")
    with pytest.raises(TrainingError, match=r"No space left on device.*resumes from .*checkpoint-1"):
        trainer.train()
    assert last_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group": 1}, "group: must be at least 2"),
        ({"ablation": "v1"}, "ablation: unknown 'v1'"),
        ({"iterations": 2, "save_every": 3}, "save_every: 3 is no multiple"),
        ({"llm_weight": 1.0}, "llm_weight: needs llm_url and llm_model"),
        ({"measured_weight": 0.0}, "needs at least one judge"),
        ({"dimension_weights": (0.5, 0.5, 0.5, 0.0)}, "must be 0 or more and sum to 1"),
        ({"near_miss": 1.0}, "near_miss: must be in 0..1, 1 excluded"),
    ],
)
def test_impossible_settings_are_all_named(make_config: MakeConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(**changes, temperature=0.0)
    assert message in str(caught.value)
    assert "temperature: must be above 0" in str(caught.value)


def test_ablations_change_only_what_they_name(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "reward.json").touch()
    plain = dataclasses.asdict(make_config(reward_model=tmp_path))
    for name, changes in ABLATIONS.items():
        found = dataclasses.asdict(make_config(ablation=name, reward_model=tmp_path).effective())
        assert {key: value for key, value in found.items() if value != plain[key]}.items() <= dict(changes).items()
        assert {key: found[key] for key in changes} == dict(changes)


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 60), st.integers(0, 30), st.integers(0, 9))
def test_the_order_of_prompts_is_even_and_a_longer_run_only_adds(rows: int, wanted: int, more: int, seed: int) -> None:
    order = prompt_order(rows, wanted, seed)
    assert prompt_order(rows, wanted + more, seed)[:wanted] == order
    counts = [order.count(row) for row in range(rows)]
    assert max(counts) - min(counts) <= 1


def test_batches_that_do_not_fit_are_refused(make_config: MakeConfig) -> None:
    config = make_config(prompts_per_step=3, group=4, batch_size=4)
    assert accumulation_steps(config, 1) == 3
    assert accumulation_steps(config, 3) == 1
    with pytest.raises(ConfigError, match=r"12 completions cannot be divided among 2 process\(es\) in batches of 4"):
        accumulation_steps(config, 2)
