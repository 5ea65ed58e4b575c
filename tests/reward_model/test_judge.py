"""The reward model as a judge among others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_emotion.errors import ConfigError
from edge_emotion_train.reasoning import CueEmotionTable
from edge_emotion_train.reinforcement.config import GrpoConfig
from edge_emotion_train.reinforcement.rewards import Heard, Reply, Scores, mixed_reasoning, reasoning_reward
from edge_emotion_train.reinforcement.run import judges_of
from edge_emotion_train.reward_model.calibration import Calibration
from edge_emotion_train.reward_model.checkpoint import RewardCheckpoint, save_reward_model
from edge_emotion_train.reward_model.judge import LOWEST, load_judge, trained_judge
from edge_emotion_train.reward_model.model import RewardModel
from edge_emotion_train.reward_model.readers import CachedAudio, CachedReader
from tests.reinforcement import miniature
from tests.reinforcement.miniature import CUES, LABELS, SENTENCES, THRESHOLDS

Hear = Callable[[int], CachedAudio]
MakeModel = Callable[..., RewardModel]
PLAIN = (Calibration(),) * 4


def reply(text: str, audio: CachedAudio | None) -> Reply:
    return Reply(text, "fear", Heard({}, THRESHOLDS, audio=audio))


def test_each_reply_is_judged_by_its_own_recording(make_model: MakeModel, reader: CachedReader, hear: Hear) -> None:
    judge = trained_judge(make_model(), reader, PLAIN)
    replies = [reply(SENTENCES[i % 2], hear(i)) for i in range(6)]
    together = judge(replies)
    assert together == judge(replies)
    for one, points in zip(replies, together, strict=True):
        [alone] = judge([one])
        assert alone == pytest.approx(points, abs=1e-5)
    assert len(set(together)) == 6


def test_what_cannot_be_judged_has_no_score_and_saying_nothing_earns_nothing(
    make_model: MakeModel, reader: CachedReader, hear: Hear
) -> None:
    judge = trained_judge(make_model(), reader, PLAIN)
    broken = hear(1)
    broken = CachedAudio(np.full_like(broken.heard, np.nan), broken.emotion_logits, broken.frames)
    scores = judge([reply(SENTENCES[0], None), reply("  ", hear(0)), reply(SENTENCES[0], broken), reply("", None)])
    assert scores == [None, LOWEST, None, None]
    assert judge([]) == []


def test_scores_are_calibrated(make_model: MakeModel, reader: CachedReader, hear: Hear) -> None:
    lines = (Calibration(0.5, 1.0), Calibration(1.0, 9.0), Calibration(), Calibration(1.0, -9.0))
    replies = [reply(SENTENCES[0], hear(0))]
    [raw], [points] = (trained_judge(make_model(), reader, some)(replies) for some in (PLAIN, lines))
    assert raw is not None
    assert points is not None
    assert points == pytest.approx((0.5 * raw[0] + 1.0, 5.0, raw[2], 1.0))


def test_it_mixes_with_other_judges_by_weight(make_model: MakeModel, reader: CachedReader, hear: Hear) -> None:
    judge = trained_judge(make_model(), reader, PLAIN)

    def five(replies: Sequence[Reply]) -> list[Scores | None]:
        return [(5.0, 5.0, 5.0, 5.0) for _ in replies]

    replies = [reply(SENTENCES[0], hear(0)), reply(SENTENCES[0], None)]
    [own, none] = judge(replies)
    rewards, _ = mixed_reasoning(replies, [(judge, 3.0), (five, 1.0)])
    assert own is not None
    assert none is None
    assert rewards[0] == pytest.approx(0.75 * reasoning_reward(own) + 0.25)
    assert rewards[1] == pytest.approx(1.0), "where it cannot judge, the other judge counts alone"


@pytest.fixture
def folder(make_model: MakeModel, reader: CachedReader, tmp_path: Path) -> Path:
    folder = tmp_path / "reward"
    save_reward_model(folder, RewardCheckpoint(make_model(), reader, PLAIN, CUES, LABELS, THRESHOLDS, {}))
    return folder


def test_the_configuration_names_it(folder: Path, hear: Hear, tmp_path: Path) -> None:
    table = CueEmotionTable().fit([{"pitch": "high"}, {"pitch": "low"}], ["fear", "neutral"])
    replies = [reply(SENTENCES[0], hear(0))]

    def judge_of(**changes: object) -> list[tuple[list[Scores | None], float]]:
        config: GrpoConfig = miniature.make_config(tmp_path / "paths", reward_model=folder, **changes).effective()
        return [(judge(replies), weight) for judge, weight in judges_of(config, table)]

    trained = load_judge(folder)(replies)
    assert judge_of(measured_weight=0.0, trained_weight=2.0) == [(trained, 2.0)]
    [[untrained, weight]] = judge_of(ablation="v3")
    assert weight == 1.0
    assert untrained != trained
    assert [[untrained, weight]] == [list(found) for found in judge_of(ablation="v3")]


def test_a_configuration_without_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trained_weight, untrained_weight: need reward_model"):
        miniature.make_config(tmp_path / "paths", trained_weight=1.0)
    with pytest.raises(ConfigError, match="reward_model: no reward model in"):
        miniature.make_config(tmp_path / "paths", reward_model=tmp_path)
    with pytest.raises(ConfigError, match="holds no reward model"):
        load_judge(tmp_path)
