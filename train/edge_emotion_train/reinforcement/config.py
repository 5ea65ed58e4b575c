"""Configuration of the stage `grpo`, and the paper's ablations as changes to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edge_emotion.errors import ConfigError
from edge_emotion_train.reinforcement.ptr import FORMAT_WEIGHT, OUTCOME_WEIGHT, REASONING_WEIGHT
from edge_emotion_train.reinforcement.rewards import EQUAL_WEIGHTS

# Rows of the paper's table 4. V1 is supervised training on all texts: `edge-emotion train sft`, without this stage.
ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "v2": {"reasoning_weight": 0.0},
    # An untrained reward model: its scores follow text and sound by chance, so they pull all texts one way.
    "v3": {"measured_weight": 0.0, "llm_weight": 0.0, "trained_weight": 0.0, "untrained_weight": 1.0},
    # Points that follow nothing at all: noise, which pulls nowhere. Not in the paper.
    "noise": {"measured_weight": 0.0, "llm_weight": 0.0, "trained_weight": 0.0, "uninformed_weight": 1.0},
    "v4": {"trust": False},
    "v5": {"schedule": "always"},
    "v6": {},
    "right_only": {"pay_wrong": False},
    "near_miss": {"near_miss": 0.3},
    "consistent": {"consistency_share": 0.25},
}
_AT_LEAST_ONE = (
    "steps", "prompts_per_step", "batch_size", "iterations", "save_every", "schedule_window", "schedule_ramp",
    "expected_cues",
)  # fmt: skip
_NOT_NEGATIVE = (
    "seed", "variants", "learning_rate", "beta", "epsilon", "warmup_steps", "format_weight", "outcome_weight",
    "reasoning_weight", "measured_weight", "llm_weight", "uninformed_weight",
    "trained_weight", "untrained_weight", "lora_rank",
)  # fmt: skip
_LEAST = dict.fromkeys(_AT_LEAST_ONE, 1) | dict.fromkeys(_NOT_NEGATIVE, 0) | {"group": 2}
_JUDGES = ("measured_weight", "llm_weight", "trained_weight", "untrained_weight", "uninformed_weight")
_SHARES = ("schedule_threshold", "consistency_share")


@dataclass(frozen=True)
class GrpoConfig:
    """Reinforcement of a supervised checkpoint.

    Attributes:
        data: Folder that holds the corpora.
        encoder_weights: Whisper encoder.
        checkpoint: Supervised model to start from; also the frozen reference.
        sft: Configuration that the supervised model was trained with.
        cache: Folder of encoder features, as in `sft`.
        output: Folder of the checkpoint that is written; `training/` in it holds what a run needs to go on.
        resume: Go on from the last complete step in `output`.
        force: Start anew although `output` holds a run.
        seed: Seed of the order of prompts and of sampling.
        validation_speakers: Speakers that give no prompts; figures before and after are taken on them.
        variants: Augmented variants of a clip that also give prompts.
        frames: Whether the policy hears the audio tokens while it is trained: `heard`, `withheld`, or `both`, each clip
            in turn with and without. The supervised model has memorised its clips by their frames, so that with them
            nearly every answer is right and nearly every claim true; the out-of-fold evidence alone is what it will
            have of speakers it has never heard. Not in the paper. Needs evidence tokens, as nano and small have them.
        ablation: None, or a key of `ABLATIONS`, which then overrides what it names.
        steps: Optimiser steps.
        prompts_per_step: Different clips per step, over all processes.
        group: Completions per clip (the paper's K, 8).
        batch_size: Completions per forward pass and process; accumulation follows from it.
        iterations: Optimiser steps on the same completions.
        learning_rate: Constant after `warmup_steps`.
        warmup_steps: Steps of linear warm-up.
        beta: Weight of the KL divergence from the reference (the paper's 0.04).
        epsilon: Clip range of the probability ratio; not given in the paper, 0.2 as in GRPO.
        temperature: Of sampling; not given in the paper.
        save_every: Steps between checkpoints, a multiple of `iterations`.
        lora_rank: 0 trains all weights, else LoRA of this rank on the language model's linear layers.
        report_to: Trackers of transformers, such as `tensorboard`; JSON lines are always written.
        format_weight: a_f.
        outcome_weight: a_o.
        reasoning_weight: a_t.
        dimension_weights: w_j of the four dimensions, summing to 1; not given in the paper.
        trust: Whether trust weights the reasoning reward.
        empty_group: See `ptr.TrustRule`; not given in the paper.
        pay_wrong: See `ptr.TrustRule`.
        schedule: `switch`, `ramp` or `always`; see `ptr.ProgressiveSchedule`.
        schedule_threshold: Moving average of accuracy that switches the reasoning reward on.
        schedule_window: Steps averaged; not given in the paper.
        schedule_ramp: Steps of the ramp; not given in the paper.
        near_miss: Outcome reward of a neighbouring emotion, 0 in the paper.
        consistency_share: Share of the reasoning reward for an answer that follows from it, 0 in the paper.
        expected_cues: True cues that make a reasoning complete for the measured judge.
        measured_weight: Weight of the measured judge.
        trained_weight: Weight of the trained reward model in `reward_model`.
        untrained_weight: Weight of a reward model of the same class and size with random weights (V3).
        reward_model: Folder that the stage `reward` wrote.
        uninformed_weight: Weight of a judge whose points are noise.
        llm_weight: Weight of the judge behind `llm_url`.
        llm_url: OpenAI-compatible endpoint.
        llm_model: Model at that endpoint.
        llm_key_variable: Environment variable that holds its key.
        llm_timeout_s: Longest wait for one answer.
    """

    data: Path
    encoder_weights: Path
    checkpoint: Path = Path("runs/nano/checkpoint")
    sft: Path = Path("train/configs/nano.yaml")
    cache: Path = Path("runs/nano/cache")
    output: Path = Path("runs/nano_grpo/checkpoint")
    resume: bool = False
    force: bool = False
    seed: int = 20261124
    validation_speakers: tuple[str, ...] = ("emodb_14",)
    variants: int = 6
    frames: Literal["heard", "withheld", "both"] = "heard"
    ablation: str | None = None
    steps: int = 200
    prompts_per_step: int = 8
    group: int = 8
    batch_size: int = 64
    iterations: int = 1
    learning_rate: float = 2e-5
    warmup_steps: int = 10
    beta: float = 0.04
    epsilon: float = 0.2
    temperature: float = 1.0
    save_every: int = 50
    lora_rank: int = 0
    report_to: tuple[str, ...] = ()
    format_weight: float = FORMAT_WEIGHT
    outcome_weight: float = OUTCOME_WEIGHT
    reasoning_weight: float = REASONING_WEIGHT
    dimension_weights: tuple[float, float, float, float] = EQUAL_WEIGHTS
    trust: bool = True
    empty_group: Literal["trusted", "withheld"] = "trusted"
    pay_wrong: bool = True
    schedule: Literal["always", "switch", "ramp"] = "switch"
    schedule_threshold: float = 0.5
    schedule_window: int = 10
    schedule_ramp: int = 20
    near_miss: float = 0.0
    consistency_share: float = 0.0
    expected_cues: int = 4
    measured_weight: float = 1.0
    trained_weight: float = 0.0
    untrained_weight: float = 0.0
    reward_model: Path | None = None
    uninformed_weight: float = 0.0
    llm_weight: float = 0.0
    llm_url: str | None = None
    llm_model: str | None = None
    llm_key_variable: str = "OPENAI_API_KEY"
    llm_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        problems = [
            *(f"data: no folder {self.data}" for _ in [0] if not self.data.is_dir()),
            *(f"encoder_weights: nothing at {self.encoder_weights}" for _ in [0] if not self.encoder_weights.exists()),
            *(f"checkpoint: no folder {self.checkpoint}" for _ in [0] if not self.checkpoint.is_dir()),
            *(f"sft: no file {self.sft}" for _ in [0] if not self.sft.is_file()),
            *("resume, force: cannot both be set" for _ in [0] if self.resume and self.force),
            *(f"{name}: must be in 0..1" for name in _SHARES if not 0 <= getattr(self, name) <= 1),
            *("near_miss: must be in 0..1, 1 excluded" for _ in [0] if not 0 <= self.near_miss < 1),
            *("temperature: must be above 0" for _ in [0] if self.temperature <= 0),
            *("llm_timeout_s: must be above 0" for _ in [0] if self.llm_timeout_s <= 0),
            *(
                f"dimension_weights: must be 0 or more and sum to 1, given {self.dimension_weights}"
                for _ in [0]
                if min(self.dimension_weights) < 0 or abs(sum(self.dimension_weights) - 1.0) > 1e-6
            ),
            *(
                f"ablation: unknown {self.ablation!r}; known: {', '.join(ABLATIONS)} (v1 is `train sft` alone)"
                for _ in [0]
                if self.ablation is not None and self.ablation not in ABLATIONS
            ),
            *(
                f"save_every: {self.save_every} is no multiple of iterations ({self.iterations}), so runs cannot resume"
                for _ in [0]
                if self.iterations >= 1 and self.save_every % self.iterations
            ),
            *(
                "llm_weight: needs llm_url and llm_model"
                for _ in [0]
                if self.llm_weight > 0 and not (self.llm_url and self.llm_model)
            ),
            *(
                f"{', '.join(_JUDGES)}: a reasoning reward needs at least one judge"
                for _ in [0]
                if self.reasoning_weight > 0 and not sum(getattr(self, name) for name in _JUDGES) > 0
            ),
            *(
                "trained_weight, untrained_weight: need reward_model, a folder that `edge-emotion train reward` wrote"
                for _ in [0]
                if self.trained_weight + self.untrained_weight > 0 and not self.reward_model
            ),
            *(
                f"reward_model: no reward model in {self.reward_model}"
                for _ in [0]
                if self.reward_model and not (self.reward_model / "reward.json").is_file()
            ),
            *(
                f"{name}: must be at least {least}, given {getattr(self, name)}"
                for name, least in _LEAST.items()
                if getattr(self, name) < least
            ),
        ]
        if problems:
            raise ConfigError("the configuration cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems))

    def effective(self) -> GrpoConfig:
        """The configuration with its ablation applied."""
        return replace(self, ablation=None, **ABLATIONS[self.ablation]) if self.ablation else self
