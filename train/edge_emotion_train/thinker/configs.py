"""Configurations of the thinker's stages; each lists all its problems at once, before a weight is loaded.

Where the paper gives a number it is the default; what it does not give is marked in `docs/thinker.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from edge_emotion.errors import ConfigError
from edge_emotion_train.reinforcement.config import GrpoConfig
from edge_emotion_train.reinforcement.ptr import FORMAT_WEIGHT, OUTCOME_WEIGHT, REASONING_WEIGHT
from edge_emotion_train.reinforcement.rewards import EQUAL_WEIGHTS
from edge_emotion_train.thinker.dialogue import Dialogue
from edge_emotion_train.thinker.model import adapter_rank, base_of, is_adapter

_AT_LEAST_ONE = ("epochs", "batch_size", "accumulation", "save_every", "threads", "max_new_tokens", "steps")
_NOT_NEGATIVE = ("seed", "learning_rate", "warmup_share", "lora_rank", "workers", "text_share", "transcript_share")
_LEAST = dict.fromkeys(_AT_LEAST_ONE, 1) | dict.fromkeys(_NOT_NEGATIVE, 0)
# Whisper's positions reach so far.
LONGEST_S = 30.0


@dataclass(frozen=True, kw_only=True)
class ThinkerConfig:
    """What every stage needs.

    Attributes:
        preset: `omni`, which leads here.
        model: A Hugging Face folder: a published Qwen2.5-Omni, a thinker alone, or a LoRA adapter.
        base: Where an adapter's base model lies, if it was moved.
        rows: Files of views of the data engine (JSON lines).
        dialogue: `plain` asks and answers as the rows do; `emotionthinker` as the released checkpoint was trained.
        max_duration_s: Rows with more sound are left out; memory is set aside for it.
        batch_size: Rows at a time per process; in `grpo` completions.
        threads: Recordings decoded at a time when they are checked.
        seed: Seed of orders, adapters and sampling.
    """

    preset: Literal["omni"] = "omni"
    model: Path
    base: Path | None = None
    rows: tuple[Path, ...]
    dialogue: Dialogue = "plain"
    max_duration_s: float = 20.0
    batch_size: int = 4
    threads: int = 4
    seed: int = 20261125

    def __post_init__(self) -> None:
        problems = list(self.problems())
        if problems:
            raise ConfigError("the configuration cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems))

    def problems(self) -> Iterator[str]:
        """Everything that is wrong with the values."""
        try:
            base_of(self.model, self.base)
        except ConfigError as error:
            yield f"model: {error}"
        if not self.rows:
            yield "rows: needs at least one file"
        for item in fields(self):
            value = getattr(self, item.name)
            for file in value if isinstance(value, tuple) else ():
                if isinstance(file, Path) and not file.is_file():
                    yield f"{item.name}: no file {file}"
        for name, least in _LEAST.items():
            if hasattr(self, name) and getattr(self, name) < least:
                yield f"{name}: must be at least {least}, given {getattr(self, name)}"
        if not 0 < self.max_duration_s <= LONGEST_S:
            yield f"max_duration_s: must be above 0 and at most {LONGEST_S:g}, given {self.max_duration_s:g}"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(ThinkerConfig):
    """What every training stage needs.

    Attributes:
        output: Folder of the result; `training/` in it holds what a run needs to go on.
        resume: Go on from the last complete step in `output`.
        force: Start anew although `output` holds a run.
        lora_rank: 0 trains encoder, projector and language model; else LoRA of this rank on the language model with
            the audio parts frozen. Where `model` is an adapter, it is trained on and has this rank.
        learning_rate: Peak.
        save_every: Steps between checkpoints.
        report_to: Trackers of transformers, such as `tensorboard`; JSON lines are always written.
    """

    output: Path
    resume: bool = False
    force: bool = False
    lora_rank: int = 0
    learning_rate: float = 1e-5
    save_every: int = 200
    report_to: tuple[str, ...] = ()

    def problems(self) -> Iterator[str]:
        """Everything that is wrong with the values."""
        yield from super().problems()
        if self.resume and self.force:
            yield "resume, force: cannot both be set"
        if is_adapter(self.model) and self.lora_rank != adapter_rank(self.model):
            yield f"lora_rank: {self.model} is an adapter of rank {adapter_rank(self.model)}, which is trained on"
        if self.output.resolve() == self.model.resolve():
            yield "output: is the folder of the model; choose another one"


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(TrainingConfig):
    """Stage `prosody`: what a voice does, before why it does so. All weights, one epoch, as in the paper.

    Attributes:
        weights: How often a row of a task is seen in an epoch: 1 where not named, 0.5 every other row, 0 never.
        validation: Files of rows whose loss is taken at every checkpoint.
        text_rows: Files of conversations without sound.
        text_share: Their share of all rows.
        transcript_rows: Files of rows with a `text`, such as the view `grpo`: its words are asked for.
        transcript_share: Their share of all rows.
        epochs: Passes over the rows.
        accumulation: Batches per optimiser step.
        warmup_share: Share of the steps in which the learning rate rises; it falls as a cosine then.
        workers: Processes that read recordings ahead.
    """

    weights: dict[str, float] = field(default_factory=dict)
    validation: tuple[Path, ...] = ()
    text_rows: tuple[Path, ...] = ()
    text_share: float = 0.0
    transcript_rows: tuple[Path, ...] = ()
    transcript_share: float = 0.0
    epochs: int = 1
    accumulation: int = 1
    warmup_share: float = 0.03
    workers: int = 0

    def problems(self) -> Iterator[str]:
        """Everything that is wrong with the values."""
        yield from super().problems()
        for name in ("text", "transcript"):
            if getattr(self, f"{name}_share") > 0 and not getattr(self, f"{name}_rows"):
                yield f"{name}_share: needs {name}_rows; set it to 0 to train without them"
        if self.text_share + self.transcript_share >= 1:
            yield "text_share, transcript_share: together 1 or more would leave no other rows"
        if self.warmup_share >= 1:
            yield f"warmup_share: must be below 1, given {self.warmup_share:g}"
        if any(weight < 0 for weight in self.weights.values()):
            yield f"weights: must be 0 or more, given {dict(self.weights)}"


@dataclass(frozen=True, kw_only=True)
class ReasoningConfig(SupervisedConfig):
    """Stage `sft`: the cold start of reasoning. LoRA on the language model, two epochs, as in the paper."""

    lora_rank: int = 64
    epochs: int = 2


@dataclass(frozen=True, kw_only=True)
class ReinforcedConfig(TrainingConfig):
    """Stage `grpo`. What is not named here is as in `reinforcement.config.GrpoConfig`, under the same name.

    Attributes:
        max_new_tokens: Longest completion; not given in the paper, enough for 200 words and an answer.
    """

    lora_rank: int = 64
    learning_rate: float = 1e-6
    max_new_tokens: int = 512
    ablation: str | None = None
    steps: int = 3000
    prompts_per_step: int = 10
    group: int = 8
    iterations: int = 1
    warmup_steps: int = 10
    beta: float = 0.04
    epsilon: float = 0.2
    temperature: float = 1.0
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

    def problems(self) -> Iterator[str]:
        """Everything that is wrong with the values."""
        found = list(super().problems())
        yield from found
        try:
            self.run()
        except ConfigError as error:
            lines = (line.strip() for line in str(error).splitlines()[1:])
            yield from (line for line in lines if line not in found)

    def run(self) -> GrpoConfig:
        """The numbers of the run, its ablation applied; where `GrpoConfig` asks for nano's inputs, this file stands."""
        here = Path(__file__)
        inputs = {"data": here.parent, "encoder_weights": here, "checkpoint": here.parent, "sft": here}
        own = {item.name for item in fields(self)}
        shared = [item.name for item in fields(GrpoConfig) if item.name in own and item.name not in inputs]
        return GrpoConfig(**inputs, **{name: getattr(self, name) for name in shared}).effective()


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(ThinkerConfig):
    """Stage `eval`: answers and explanations of the view `grpo`, and answers of the views `prosody` and `ordering`.

    Attributes:
        output: File for the figures, beside stdout.
        replies: File for every reply, as JSON lines.
        force: Replace these files.
        max_new_tokens: Longest reply; the authors allow 2048.
    """

    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None
    replies: Path | None = None
    force: bool = False
    batch_size: int = 8
    max_new_tokens: int = 512

    def problems(self) -> Iterator[str]:
        """Everything that is wrong with the values."""
        yield from super().problems()
        for name in ("output", "replies"):
            path = getattr(self, name)
            if path is not None and path.exists() and not self.force:
                yield f"{name}: {path} exists; give --force to replace it"
