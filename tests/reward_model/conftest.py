"""A small random reward model over the clips of `tests.reinforcement.miniature`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_emotion_train.features import FeatureSet
from edge_emotion_train.reinforcement.policy import policy_of
from edge_emotion_train.reward_model.model import RewardModel
from edge_emotion_train.reward_model.readers import CachedAudio, CachedReader, cached_audio
from tests.reinforcement import miniature


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return miniature.make_tokenizer()


@pytest.fixture(scope="session")
def features() -> FeatureSet:
    return miniature.make_features()


@pytest.fixture(scope="session")
def hear(features: FeatureSet) -> Callable[[int], CachedAudio]:
    return cached_audio(features, *miniature.make_evidence(), miniature.CUES)


@pytest.fixture(scope="session")
def reader(tokenizer: Tokenizer) -> CachedReader:
    return CachedReader(
        tokenizer, miniature.EVIDENCE_TOKENS, np.array([7.0, 4.5]), np.array([4.0, 0.5]), len(miniature.LABELS), (2, 16)
    )


@pytest.fixture
def make_model(tokenizer: Tokenizer) -> Callable[..., RewardModel]:
    def make(seed: int = 0, **weights: float) -> RewardModel:
        speech = miniature.make_speech(tokenizer, seed)
        return RewardModel(policy_of(speech, tokenizer, miniature.PROMPT).model, 64, **weights).eval()

    return make
