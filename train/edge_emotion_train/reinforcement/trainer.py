"""trl's GRPO trainer for models that hear: audio in every pass, and PTR between rewards and advantages.

Stock `GRPOTrainer` (1.16) hands audio to generation and drops it when it scores, for gradients and reference alike; it
then trains on what a deaf model would have said. `AudioMixin` gives every pass its audio. `PtrMixin` works on the
reward columns, so advantages, KL and loss stay trl's own. Both override private methods: trl is pinned, and
`tests/reinforcement/test_trainer.py` compares log-probabilities with a recomputation that shares no code with this.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from trl.trainer.grpo_trainer import GRPOTrainer

from edge_emotion.errors import EdgeEmotionError
from edge_emotion_train.reinforcement.ptr import ProgressiveSchedule, TrustRule, paid_reasoning

PTR_STATE = "ptr_state.json"
BAD_BATCHES = 3
# A full disk is an OSError to Python, but safetensors and torch.save have errors of their own for it.
WRITE_ERRORS = (OSError, SafetensorError, RuntimeError)

PromptReader = Callable[[Sequence[Any]], tuple[list[list[int]], dict[str, Tensor]]]
"""Prompts to token ids, placeholders included, and the audio's tensors, whose first dimension is the prompt."""


class TrainingError(EdgeEmotionError):
    """Training that cannot go on; checkpoints already written stay as they are."""


class AudioMixin(GRPOTrainer):
    """Hands the audio of the prompts to generation, scoring, reference and loss.

    Args (beyond GRPOTrainer's):
        read_prompts: Turns the column `prompt` into ids and audio tensors.
    """

    def __init__(self, *args: Any, read_prompts: PromptReader, **kwargs: Any) -> None:
        self._read_prompts = read_prompts
        self._audio: dict[str, Tensor] = {}
        self._bad_batches = 0
        self._generation_s = 0.0
        super().__init__(*args, **kwargs)

    def _tokenize_prompts(self, prompts: list) -> tuple[list[list[int]], None, dict[str, Tensor]]:
        ids, audio = self._read_prompts(prompts)
        self._audio = {name: tensor.to(self.accelerator.device) for name, tensor in audio.items()}
        return ids, None, self._audio

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            completions = super()._generate_single_turn(*args, **kwargs)
        except RuntimeError as error:
            if "probability tensor contains" not in str(error):
                raise
            raise TrainingError(
                f"step {self.state.global_step}: the policy gives no finite probabilities any more. Lower the learning "
                f"rate or raise beta, then resume from the last checkpoint in {self.args.output_dir}"
            ) from error
        self._generation_s = time.perf_counter() - began
        return completions

    def _get_per_token_logps_and_entropies(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        log_probs, entropies = [], []
        step = batch_size or len(input_ids)
        for start in range(0, len(input_ids), step):
            rows = slice(start, start + step)
            labels = input_ids[rows].masked_fill(attention_mask[rows] == 0, -100)
            labels[:, :-logits_to_keep] = -100
            with self.accelerator.autocast():
                output = model(
                    input_ids=input_ids[rows],
                    attention_mask=attention_mask[rows],
                    labels=labels,
                    fused_lm_head=True,
                    **{name: tensor[rows] for name, tensor in self._audio.items()},
                )
            log_probs.append(output.log_probs[:, -logits_to_keep:])
            if compute_entropy:
                entropies.append(output.entropy[:, -logits_to_keep:])
        return torch.cat(log_probs), torch.cat(entropies) if compute_entropy else None, None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        began = time.perf_counter()
        output = super()._generate_and_score_completions(inputs)
        metrics = self._metrics["train" if self.model and self.model.training else "eval"]
        metrics["time/generation"].append(self._generation_s)
        metrics["time/scoring"].append(time.perf_counter() - began - self._generation_s)
        # trl shuffles and splits these with everything else whose first dimension is the sample.
        return output | self._audio

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        self._audio = {name: inputs[name] for name in self._audio}
        loss = super()._compute_loss(model, inputs)
        if loss.isfinite():
            self._bad_batches = 0
            return loss
        self._bad_batches += 1
        if self._bad_batches >= BAD_BATCHES:
            raise TrainingError(
                f"step {self.state.global_step}: the loss was not finite in {BAD_BATCHES} batches in a row. Lower the "
                f"learning rate, then resume from the last checkpoint in {self.args.output_dir}"
            )
        sys.stderr.write(f"step {self.state.global_step}: a batch with a loss of {loss.item()} is left out\n")
        # A gradient of zeros, not none: under DDP every process must take part in the backward pass.
        return sum((p.sum() for p in model.parameters() if p.requires_grad), start=loss.new_zeros(())) * 0.0


class PtrMixin(GRPOTrainer):
    """Weights the reasoning column by trust and schedule.

    Args (beyond GRPOTrainer's):
        trust_rule: How far a group's reasoning rewards count.
        schedule: When they begin to count.
    """

    def __init__(self, *args: Any, trust_rule: TrustRule, schedule: ProgressiveSchedule, **kwargs: Any) -> None:
        self.trust_rule = trust_rule
        self.schedule = schedule
        super().__init__(*args, **kwargs)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        # Gathered from all processes: whole groups, and the same on each of them.
        rewards = super()._calculate_rewards(*args, **kwargs)
        training = bool(self.model and self.model.training)
        size = self.num_generations if training else self.num_generations_eval
        columns = {name: rewards[:, i].view(-1, size) for i, name in enumerate(self.reward_func_names)}
        right = columns["outcome"] >= 1.0
        accuracy = right.float().mean().item()
        weight = self.schedule.update(accuracy) if training else self.schedule.weight
        paid, trust = paid_reasoning(columns["reasoning"], columns["outcome"], weight, self.trust_rule)
        metrics = self._metrics["train" if training else "eval"]
        for name, value in {
            "ptr/accuracy": accuracy,
            "ptr/moving_accuracy": self.schedule.accuracy,
            "ptr/schedule": weight,
            "ptr/trust": trust.mean().item(),
            "ptr/groups_without_comparison": (right.all(dim=1) | ~right.any(dim=1)).float().mean().item(),
            "ptr/reasoning_right": columns["reasoning"][right].nanmean().item(),
            "ptr/reasoning_wrong": columns["reasoning"][~right].nanmean().item(),
            "ptr/reasoning": columns["reasoning"].nanmean().item(),
        }.items():
            metrics[name].append(value)
        rewards[:, self.reward_func_names.index("reasoning")] = paid.flatten()
        return rewards

    @property
    def _folder(self) -> Path:
        return Path(str(self.args.output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        try:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                folder = self._folder / f"checkpoint-{self.state.global_step}"
                partial = folder / "ptr_state.partial"
                partial.write_text(json.dumps(self.schedule.state()))
                # Written last: a checkpoint without this file was cut off while it was being written.
                partial.rename(folder / PTR_STATE)
        except WRITE_ERRORS as error:
            raise TrainingError(
                f"step {self.state.global_step}: the checkpoint could not be written ({error}). Make room in "
                f"{self._folder}; training then resumes from {last_checkpoint(self._folder) or 'its start'}"
            ) from error

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.schedule.restore(json.loads((Path(checkpoint) / PTR_STATE).read_text()))


class PtrGrpoTrainer(PtrMixin, AudioMixin):
    """GRPO-PTR for a model that hears; its rewards are named format, outcome and reasoning."""


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run that was written to its end, None where there is none."""
    found = [path.parent for path in folder.glob(f"checkpoint-*/{PTR_STATE}")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
