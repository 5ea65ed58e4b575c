"""Training by transformers' Trainer: it learns, resumes, and what it writes is what is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_emotion.errors import ConfigError
from edge_emotion_train.reinforcement.rewards import DIMENSIONS
from edge_emotion_train.reward_model.calibration import Calibration, calibrated, fit_calibration
from edge_emotion_train.reward_model.checkpoint import RewardCheckpoint, load_reward_model, save_reward_model
from edge_emotion_train.reward_model.model import RewardModel
from edge_emotion_train.reward_model.readers import CachedAudio, CachedReader
from edge_emotion_train.reward_model.training import RewardCollator, predict, reward_trainer, train
from tests.reinforcement.miniature import CUES, LABELS, SENTENCES, THRESHOLDS

Hear = Callable[[int], CachedAudio]
MakeModel = Callable[..., RewardModel]
LINES = (Calibration(1.5, -1.0), Calibration(), Calibration(0.5, 1.0), Calibration(2.0, -3.0))


def make_rows() -> list[dict[str, Any]]:
    """Of odd clips the first sentence is true, of even ones the second."""
    rows = []
    for clip in range(8):
        for which, text in enumerate(SENTENCES):
            true = clip % 2 == which
            end = text.index(" pitch") + len(" pitch")
            scores = [5, 4, 5, 5] if true else [1, 2, 5, 5]
            rows.append({"audio": clip, "reasoning": text, "scores": scores, "claims": [(end, true)]})
    return rows


def make_trainer(model: RewardModel, reader: CachedReader, hear: Hear, folder: Path, steps: int, **options: Any) -> Any:
    torch.manual_seed(3)
    return reward_trainer(
        model, make_rows(), RewardCollator(reader, hear), folder, steps=steps, batch_size=8, learning_rate=3e-3, seed=5,
        **options,
    )  # fmt: skip


def test_it_learns_which_text_belongs_to_which_sound(
    make_model: MakeModel, reader: CachedReader, hear: Hear, tmp_path: Path
) -> None:
    def high_or_low(clip: int) -> CachedAudio:
        return replace(hear(clip), heard=reader.mean + (1.5 - 3.0 * (clip % 2)) * reader.scale)

    model = make_model(claim_weight=1.0, text_weight=0.2)
    log = train(make_trainer(model, reader, high_or_low, tmp_path, steps=180))
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[-1] < 0.3 * losses[0]
    scores = predict(model, reader, [(high_or_low(row["audio"]), row["reasoning"]) for row in make_rows()])
    wanted = np.array([row["scores"] for row in make_rows()], dtype=float)
    assert np.abs(scores - wanted).mean() < 0.5
    [own], [other] = (predict(model, reader, [(high_or_low(clip), SENTENCES[0])]) for clip in (0, 1))
    assert own[0] > other[0] + 2.0, "the same text, another sound"


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(
    make_model: MakeModel, reader: CachedReader, hear: Hear, tmp_path: Path
) -> None:
    whole = make_model()
    train(make_trainer(whole, reader, hear, tmp_path / "whole", steps=8, save_every=4))
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "cut" / "checkpoint-4")
    cut = make_model(seed=9)
    train(make_trainer(cut, reader, hear, tmp_path / "cut", steps=8, save_every=4), resume=True)
    start = make_model()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[name], value, rtol=0, atol=1e-6)
    assert (start.text_head.weight - whole.text_head.weight).abs().max() > 1e-3


def make_checkpoint(model: RewardModel, reader: CachedReader) -> RewardCheckpoint:
    return RewardCheckpoint(model, reader, LINES, CUES, LABELS, THRESHOLDS, {"config": {"steps": 3}})


def test_a_folder_gives_back_what_was_written(
    make_model: MakeModel, reader: CachedReader, hear: Hear, tmp_path: Path
) -> None:
    model, items = make_model(), [(hear(i), SENTENCES[i % 2]) for i in range(4)]
    save_reward_model(tmp_path, make_checkpoint(model, reader))
    found = load_reward_model(tmp_path)
    np.testing.assert_array_equal(predict(found.model, found.reader, items), predict(model, reader, items))
    assert (found.calibration, found.cues, found.labels) == (LINES, CUES, LABELS)
    assert found.thresholds == THRESHOLDS
    assert found.provenance == {"config": {"steps": 3}}


def test_an_untrained_model_is_of_the_same_size_and_knows_nothing(
    make_model: MakeModel, reader: CachedReader, hear: Hear, tmp_path: Path
) -> None:
    save_reward_model(tmp_path, make_checkpoint(make_model(), reader))
    trained, one, same, other = (load_reward_model(tmp_path, seed).model for seed in (None, 1, 1, 2))
    sizes = [{name: value.shape for name, value in model.state_dict().items()} for model in (trained, one)]
    assert sizes[0] == sizes[1]
    items = [(hear(i), SENTENCES[i % 2]) for i in range(4)]
    scores = [predict(model, reader, items) for model in (trained, one, same, other)]
    np.testing.assert_array_equal(scores[1], scores[2])
    assert np.abs(scores[0] - scores[1]).max() > 1e-2
    assert np.abs(scores[1] - scores[3]).max() > 1e-3


def test_a_folder_that_was_cut_off_while_written_is_no_reward_model(
    make_model: MakeModel, reader: CachedReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_reward_model(tmp_path, make_checkpoint(make_model(), reader))

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("edge_emotion_train.reward_model.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save_reward_model(tmp_path, make_checkpoint(make_model(), reader))
    with pytest.raises(ConfigError, match=r"holds no reward model .*edge-emotion train reward"):
        load_reward_model(tmp_path)


def test_calibration_finds_the_line_and_leaves_alone_what_falls() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.uniform(2, 4, size=(500, len(DIMENSIONS)))
    target = np.stack([2 * predicted[:, 0] - 3, predicted[:, 1], -predicted[:, 2] + 6, predicted[:, 3] + 0.5], axis=1)
    lines = fit_calibration(predicted, target)
    assert (lines[0].slope, lines[0].intercept) == pytest.approx((2.0, -3.0))
    assert lines[2] == Calibration()
    found = calibrated(predicted, lines)
    assert np.abs(found - target)[:, [0, 1, 3]].max() < 1e-9
    assert calibrated(np.array([[9.0] * 4, [-9.0] * 4]), lines).tolist() == [[5.0] * 4, [1.0] * 4]
