"""The trainer scores what the policy said of what it heard: against a recomputation that shares no code with it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor

from edge_emotion_train.reinforcement.config import GrpoConfig
from edge_emotion_train.reinforcement.trainer import AudioMixin, PtrGrpoTrainer
from edge_emotion_train.sft import SpeechLanguageModel

MakeConfig = Callable[..., GrpoConfig]
LORA = LoraConfig(r=4, target_modules=r".*layers.*\.(q|k|v|o|gate|up|down)_proj", init_lora_weights=False)


@torch.no_grad()
def recomputed(
    speech: SpeechLanguageModel, audio: dict[str, Tensor], prompt: Tensor, completion: Tensor, vocabulary: int
) -> Tensor:
    """Log-probabilities of one completion: one sample, no padding, no placeholders, no cache, float64 softmax."""
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
    """A speech model with the weights of a policy, its adapter merged."""
    from edge_emotion_train.reinforcement.policy import copy_back

    merged = policy.merge_and_unload() if hasattr(policy, "merge_and_unload") else policy
    other = copy.deepcopy(speech)
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
            other = {name: inputs[name].roll(1, dims=0)[i] for name in ("cue_values", "emotion_logits", "frames")}
            used = batch["log_probs"][i][: len(completion)]
            expected = recomputed(speech, row, prompt, completion, vocabulary)
            worst = max(worst, float((used - expected).abs().max()))
            if not torch.equal(other["cue_values"], row["cue_values"]):
                shifted = recomputed(speech, row | other, prompt, completion, vocabulary)
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
