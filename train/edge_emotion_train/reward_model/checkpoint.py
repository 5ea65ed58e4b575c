"""A trained reward model as a folder.

reward.json          cues, labels, scales, thresholds, calibration, provenance; written last
heads.safetensors    the two heads
body/                Hugging Face folder of the body
tokenizer.json       its BPE
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from edge_emotion.cues import Thresholds
from edge_emotion.errors import ConfigError
from edge_emotion_train.reinforcement.policy import SpeechConfig, SpeechModel
from edge_emotion_train.reinforcement.rewards import DIMENSIONS
from edge_emotion_train.reward_model.calibration import Calibration
from edge_emotion_train.reward_model.model import RewardModel
from edge_emotion_train.reward_model.readers import CachedReader


@dataclass(frozen=True)
class RewardCheckpoint:
    """A reward model over cached features with everything that is needed to judge.

    Attributes:
        model: In evaluation mode.
        reader: What its body reads.
        calibration: Of its scores, one per dimension.
        cues: Names of the cues that it hears the evidence of.
        labels: Emotions in the order of the evidence's logits.
        thresholds: Cut points of the levels that its training texts speak of.
        provenance: Configuration, speakers, data, versions.
    """

    model: RewardModel
    reader: CachedReader
    calibration: tuple[Calibration, ...]
    cues: tuple[str, ...]
    labels: tuple[str, ...]
    thresholds: Thresholds
    provenance: Mapping[str, Any]


def save_reward_model(folder: Path, checkpoint: RewardCheckpoint) -> None:
    """Writes the folder; without `reward.json`, which comes last, it is no reward model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reward.json").unlink(missing_ok=True)
    model, reader = checkpoint.model, checkpoint.reader
    body: Any = model.body
    body.save_pretrained(folder / "body")
    heads = {name: value.contiguous() for name, value in model.state_dict().items() if not name.startswith("body.")}
    save_file(heads, folder / "heads.safetensors")
    reader.tokenizer.save(str(folder / "tokenizer.json"))
    metadata = {
        "schema_version": 1,
        "cues": list(checkpoint.cues),
        "labels": list(checkpoint.labels),
        "evidence_tokens": reader.evidence_tokens,
        "cue_mean": reader.mean.tolist(),
        "cue_scale": reader.scale.tolist(),
        "frame_shape": list(reader.frame_shape),
        "frames": reader.frames,
        "thresholds": checkpoint.thresholds.to_dict(),
        "calibration": {name: asdict(one) for name, one in zip(DIMENSIONS, checkpoint.calibration, strict=True)},
        "provenance": dict(checkpoint.provenance),
    }
    partial = folder / "reward.partial"
    partial.write_text(json.dumps(metadata, indent=1) + "\n")
    partial.rename(folder / "reward.json")


def load_reward_model(folder: Path, untrained_seed: int | None = None) -> RewardCheckpoint:
    """Reads a folder that `save_reward_model` wrote.

    Args:
        folder: Of the reward model.
        untrained_seed: With a seed, the weights are drawn anew: a model of the same class and size, with the same
            vocabulary, that learned nothing (the paper's V3).

    Raises:
        ConfigError: The folder holds no reward model.
    """
    try:
        found = json.loads((folder / "reward.json").read_text())
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        body = SpeechModel.from_pretrained(folder / "body")
        model = RewardModel(body, body.config.hidden_size)
        kept = model.load_state_dict(load_file(folder / "heads.safetensors"), strict=False)
        unlike = [*kept.unexpected_keys, *(name for name in kept.missing_keys if not name.startswith("body."))]
        if unlike:
            raise ValueError(f"its heads are of another kind: {', '.join(unlike)}")
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder} holds no reward model ({error}); `edge-emotion train reward` makes one") from None
    if untrained_seed is not None:
        model = untrained(model, untrained_seed)
    reader = CachedReader(
        tokenizer,
        found["evidence_tokens"],
        np.array(found["cue_mean"]),
        np.array(found["cue_scale"]),
        len(found["labels"]),
        (found["frame_shape"][0], found["frame_shape"][1]),
        found["frames"],
    )
    return RewardCheckpoint(
        model.eval(),
        reader,
        tuple(Calibration(**found["calibration"][name]) for name in DIMENSIONS),
        tuple(found["cues"]),
        tuple(found["labels"]),
        Thresholds.from_dict(found["thresholds"]),
        found["provenance"],
    )


def untrained(model: RewardModel, seed: int) -> RewardModel:
    """A model of the same class and size with fresh weights; what the evidence's levels are is no weight and stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        old: Any = model.body
        body = SpeechModel(SpeechConfig(**old.config.to_dict()))
        body.evidence.cuts.copy_(old.evidence.cuts)
        body.evidence.deviation.copy_(old.evidence.deviation)
        return RewardModel(body, body.config.hidden_size).eval()
