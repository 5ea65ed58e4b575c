"""The trained reward model as a judge of the reinforcement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_emotion_train.reinforcement.rewards import Judge, Reply, Scores
from edge_emotion_train.reward_model.calibration import Calibration, calibrated
from edge_emotion_train.reward_model.checkpoint import load_reward_model
from edge_emotion_train.reward_model.model import RewardModel
from edge_emotion_train.reward_model.readers import Reader
from edge_emotion_train.reward_model.training import predict

LOWEST: Scores = (1.0, 1.0, 1.0, 1.0)


def trained_judge(model: RewardModel, read: Reader, calibration: Sequence[Calibration]) -> Judge:
    """A judge that listens to `Heard.audio`.

    A reply without a reasoning earns the lowest scores; one whose recording is not at hand, or of which the model
    gives no finite scores, is not judged.
    """

    def judge(replies: Sequence[Reply]) -> list[Scores | None]:
        heard = [i for i, reply in enumerate(replies) if reply.heard.audio is not None and reply.reasoning.strip()]
        items = [(replies[i].heard.audio, replies[i].reasoning) for i in heard]
        scores = calibrated(predict(model, read, items), calibration)
        found: list[Scores | None] = [
            LOWEST if reply.heard.audio is not None and not reply.reasoning.strip() else None for reply in replies
        ]
        for i, points in zip(heard, scores.tolist(), strict=True):
            if np.isfinite(points).all():
                found[i] = (points[0], points[1], points[2], points[3])
        return found

    return judge


def load_judge(folder: Path, untrained_seed: int | None = None) -> Judge:
    """The judge in a folder of the stage `reward`.

    Args:
        folder: Of the reward model.
        untrained_seed: Draws its weights anew; its scores then depend on text and sound and mean nothing (V3).

    Raises:
        ConfigError: The folder holds no reward model.
    """
    found = load_reward_model(folder, untrained_seed)
    # Fresh weights give scores that hardly differ; a line fitted to other weights would say nothing of them.
    calibration = found.calibration if untrained_seed is None else (Calibration(),) * len(found.calibration)
    return trained_judge(found.model, found.reader, calibration)
