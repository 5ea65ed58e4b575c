"""The small speech model of `miniature.py` as fixtures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edge_emotion.prompt import Prompt
from edge_emotion_train.reinforcement.config import GrpoConfig
from edge_emotion_train.sft import AudioInputs, SpeechLanguageModel
from tests.reinforcement import miniature


@pytest.fixture(scope="session")
def prompt() -> Prompt:
    return miniature.PROMPT


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return miniature.make_tokenizer()


@pytest.fixture(scope="session")
def make_speech(tokenizer: Tokenizer) -> Callable[..., SpeechLanguageModel]:
    return partial(miniature.make_speech, tokenizer)


@pytest.fixture(scope="session")
def hear() -> Callable[..., AudioInputs]:
    return miniature.hear


@pytest.fixture(scope="session")
def make_parts() -> Callable[[], miniature.Parts]:
    return miniature.make_parts


@pytest.fixture
def parts() -> miniature.Parts:
    return miniature.make_parts()


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., GrpoConfig]:
    return partial(miniature.make_config, tmp_path / "paths")
