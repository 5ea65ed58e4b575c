"""Configuration of the stage `reward`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_emotion.errors import ConfigError

_AT_LEAST_ONE = ("layers", "steps", "batch_size", "save_every")
_NOT_NEGATIVE = ("seed", "variants", "learning_rate", "claim_weight", "text_weight")
_LEAST = dict.fromkeys(_AT_LEAST_ONE, 1) | dict.fromkeys(_NOT_NEGATIVE, 0) | {"vocabulary": 263}
_SHARES = ("frames_dropped", "audio_dropped", "full_share")


@dataclass(frozen=True)
class RewardConfig:
    """The reward model of the small preset, over cached encoder features.

    Attributes:
        data: Folder that holds the corpora.
        encoder_weights: Whisper encoder.
        sft: Configuration of the supervised model: cues, labels, encoder and evidence are as in it.
        cache: Folder of encoder features, as in `sft`.
        start: Checkpoint of a supervised model to start from, with its vocabulary and sizes; None starts with nothing.
        output: Folder of the reward model; `training/` in it holds the tuples and what a run needs to go on.
        resume: Go on from the last checkpoint in `output`.
        force: Start anew although `output` holds a run.
        seed: Seed of texts, weights and batches.
        held_out_speakers: Speakers that neither training nor calibration hears, beside the test speakers of `sft`.
        calibration_speakers: Speakers that calibrate the scores and are not trained on.
        variants: Augmented variants of a clip that also give tuples in nano's style.
        full_share: Share of the recordings that also give tuples in the data engine's full style.
        embedding_dim: Width of the language model, a multiple of 64.
        layers: Its depth.
        vocabulary: Size of its BPE.
        claim_weight: Weight of the loss of single claims; 0 trains on scores alone.
        text_weight: Weight of the loss of the next word in true texts; 0 leaves it out.
        frames_dropped: Share of samples whose audio tokens are withheld; with 1 the model hears the evidence tokens
            alone, when it judges as well.
        audio_dropped: Share of samples that are text alone.
        steps: Optimiser steps.
        batch_size: Tuples per step.
        learning_rate: Peak of the cosine schedule.
        save_every: Steps between checkpoints.
        report_to: Trackers of transformers, such as `tensorboard`; JSON lines are always written.
    """

    data: Path
    encoder_weights: Path
    sft: Path = Path("train/configs/nano.yaml")
    cache: Path = Path("runs/nano/cache")
    start: Path | None = None
    output: Path = Path("runs/nano_reward/checkpoint")
    resume: bool = False
    force: bool = False
    seed: int = 20261125
    held_out_speakers: tuple[str, ...] = ("emodb_13", "emodb_14")
    calibration_speakers: tuple[str, ...] = ("emodb_11",)
    variants: int = 2
    full_share: float = 1.0
    embedding_dim: int = 128
    layers: int = 4
    vocabulary: int = 1024
    claim_weight: float = 1.0
    text_weight: float = 0.5
    frames_dropped: float = 0.5
    audio_dropped: float = 0.05
    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    save_every: int = 250
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        both = sorted(set(self.held_out_speakers) & set(self.calibration_speakers))
        problems = [
            *(f"data: no folder {self.data}" for _ in [0] if not self.data.is_dir()),
            *(f"encoder_weights: nothing at {self.encoder_weights}" for _ in [0] if not self.encoder_weights.exists()),
            *(f"sft: no file {self.sft}" for _ in [0] if not self.sft.is_file()),
            *(f"start: no checkpoint in {self.start}" for _ in [0] if self.start and not self.start.is_dir()),
            *("resume, force: cannot both be set" for _ in [0] if self.resume and self.force),
            *(
                f"held_out_speakers, calibration_speakers: {', '.join(both)} cannot be both; figures of a speaker that "
                "calibrated would be too good"
                for _ in [0]
                if both
            ),
            *("calibration_speakers: needs at least one" for _ in [0] if not self.calibration_speakers),
            *(f"{name}: must be in 0..1" for name in _SHARES if not 0 <= getattr(self, name) <= 1),
            *("audio_dropped: nothing would be heard" for _ in [0] if self.audio_dropped >= 1),
            *(
                f"embedding_dim: {self.embedding_dim} is no positive multiple of 64"
                for _ in [0]
                if self.embedding_dim % 64 or self.embedding_dim < 64
            ),
            *(
                f"{name}: must be at least {least}, given {getattr(self, name)}"
                for name, least in _LEAST.items()
                if getattr(self, name) < least
            ),
        ]
        if problems:
            raise ConfigError("the configuration cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems))
