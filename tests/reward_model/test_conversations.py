"""The reward model over a tiny random Qwen2.5-Omni thinker: the same head, losses, training loop and judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_emotion.claims import parse_claims
from edge_emotion_train.reinforcement.rewards import Heard, Reply
from edge_emotion_train.reward_model.calibration import Calibration
from edge_emotion_train.reward_model.conversations import ConversationReader, thinker_reward_model
from edge_emotion_train.reward_model.judge import trained_judge
from edge_emotion_train.reward_model.model import UNCLAIMED
from edge_emotion_train.reward_model.readers import Item
from edge_emotion_train.reward_model.training import RewardCollator, claim_targets, predict, reward_trainer, train
from edge_emotion_train.thinker.processor import load_processor
from tests.reinforcement.miniature import SENTENCES, THRESHOLDS
from tests.thinker.conftest import CLIPS
from tests.thinker.tiny_omni import build_thinker, save_published, train_tokenizer

PATHS = [str(path) for path in CLIPS.values()]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer()
    return save_published(tmp_path_factory.mktemp("published") / "omni", build_thinker(tokenizer, hidden=64), tokenizer)


@pytest.fixture(scope="module")
def reader(published: Path) -> ConversationReader:
    return ConversationReader(load_processor(published))


def test_a_claim_is_told_at_the_token_that_ends_it(reader: ConversationReader) -> None:
    items: list[Item] = [(PATHS[0], SENTENCES[0]), (None, "Fast speech."), (PATHS[1], SENTENCES[1])]
    claims = [[(claim.end, i % 2 == 0) for i, claim in enumerate(parse_claims(text))] for _, text in items]
    batch = reader(items)
    targets = claim_targets(batch, claims)
    for row, (_, text) in enumerate(items):
        places = (targets[row] != UNCLAIMED).nonzero().flatten().tolist()
        assert [bool(targets[row, place]) for place in places] == [held for _, held in claims[row]]
        ids = batch.inputs["input_ids"][row].tolist()
        for place, (end, _) in zip(places, claims[row], strict=True):
            said = reader.processor.tokenizer.decode(ids[: place + 1])
            assert said.endswith(text[:end])


def test_one_text_scores_as_it_does_among_many_and_by_its_sound(published: Path, reader: ConversationReader) -> None:
    model = thinker_reward_model(published).eval()
    items: list[Item] = [(path, SENTENCES[i % 2]) for i, path in enumerate(PATHS)]
    items.append((None, SENTENCES[0]))
    together = predict(model, reader, items)
    alone = np.concatenate([predict(model, reader, [item]) for item in items])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert np.abs(together[0] - together[2]).max() > 1e-3, "the same text, another recording"
    assert np.abs(together[0] - together[4]).max() > 1e-3, "the same text, no recording"


def test_it_learns_and_judges(published: Path, reader: ConversationReader, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = thinker_reward_model(published)
    rows: list[dict[str, Any]] = [
        {"audio": path, "reasoning": text, "scores": [5, 5, 5, 5] if which else [1, 2, 3, 1],
         "claims": [(claim.end, bool(which)) for claim in parse_claims(text)]}
        for path in PATHS for which, text in enumerate(SENTENCES)
    ]  # fmt: skip
    trainer = reward_trainer(
        model, rows, RewardCollator(reader, str), tmp_path, steps=24, batch_size=8, learning_rate=1e-3, seed=1
    )
    losses = [entry["loss"] for entry in train(trainer) if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    judge = trained_judge(model.eval(), reader, (Calibration(),) * 4)
    heard = Heard({}, THRESHOLDS, audio=PATHS[0])
    [worse, better, none] = judge(
        [Reply(SENTENCES[0], None, heard), Reply(SENTENCES[1], None, heard), Reply("I.", None, Heard({}, THRESHOLDS))]
    )
    assert worse is not None
    assert better is not None
    assert none is None
    assert better[0] > worse[0]
