"""A small random speech model that now and then writes a well-formed reply, with clips for it to hear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from edge_emotion.cues import Thresholds
from edge_emotion.prompt import Prompt
from edge_emotion_train.features import FeatureRow, FeatureSet
from edge_emotion_train.model import AudioProjector, EvidenceProjector, build_language_model
from edge_emotion_train.reasoning import CueEmotionTable
from edge_emotion_train.reinforcement.config import GrpoConfig
from edge_emotion_train.reinforcement.policy import SpeechForCausalLM, policy_of, policy_tokenizer, register_policy
from edge_emotion_train.reinforcement.prompts import cached_prompts
from edge_emotion_train.reinforcement.rewards import Heard
from edge_emotion_train.reinforcement.run import trainer_of
from edge_emotion_train.reinforcement.trainer import PromptReader, PtrGrpoTrainer
from edge_emotion_train.sft import AudioInputs, SpeechLanguageModel, pad_frames
from edge_emotion_train.tokenizer import train_tokenizer

LABELS = ("anger", "fear", "neutral")
CUES = ("pitch", "rate")
SENTENCES = (
    "I hear a high pitch and fast speech. This points to anger or fear.",
    "I hear a low pitch and slow speech. All of this fits a neutral mood.",
)
EVIDENCE_TOKENS = 3
Make = Callable[..., SpeechLanguageModel]
Hear = Callable[[Sequence[int]], AudioInputs]


@pytest.fixture(scope="session")
def thresholds() -> Thresholds:
    return Thresholds({"pitch": (110.0, 140.0, 180.0, 220.0), "rate": (4.0, 5.5)}, "a test")


@pytest.fixture(scope="session")
def prompt() -> Prompt:
    return Prompt(max_think_tokens=10)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer([*SENTENCES, *LABELS] * 8, 330)


@pytest.fixture(scope="session")
def make_speech(tokenizer: Tokenizer) -> Make:
    """Makes a random speech model of two cues, three labels and encoder states 2 layers x 16."""

    def make(seed: int = 0, spread: float = 0.25) -> SpeechLanguageModel:
        torch.manual_seed(seed)
        model = SpeechLanguageModel(
            EvidenceProjector(len(CUES), len(LABELS), EVIDENCE_TOKENS, 64, hidden=32),
            AudioProjector(2, 16, 64, hidden=24),
            build_language_model(tokenizer.get_vocab_size(), dim=64, layers=2, heads=1, context_tokens=128),
        ).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=spread)
        return model

    return make


@pytest.fixture(scope="session")
def features() -> FeatureSet:
    """Eight clips of 0.3 to 1 s by four speakers."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(7, 25, size=8)
    rows = [
        FeatureRow(
            f"emodb/clip{i}", "emodb", f"emodb_{i % 4}", LABELS[i % 3], "a01", 0, length / 25,
            {"pitch": float(2 * i), "rate": 4.0} if i % 3 else {"rate": 5.0},
        )
        for i, length in enumerate(lengths)
    ]  # fmt: skip
    return FeatureSet(
        rows,
        rng.normal(size=(8, 2 * 4 * 16)).astype(np.float32),
        rng.normal(size=(int(lengths.sum()), 2, 16)).astype(np.float16),
        np.concatenate([[0], np.cumsum(lengths)]),
    )


@pytest.fixture(scope="session")
def evidence() -> tuple[np.ndarray, np.ndarray]:
    """Cue values and emotion logits of the eight clips."""
    rng = np.random.default_rng(7)
    return rng.normal(size=(8, 2)).astype(np.float32), 3 * rng.normal(size=(8, 3)).astype(np.float32)


@pytest.fixture(scope="session")
def hear(features: FeatureSet, evidence: tuple[np.ndarray, np.ndarray]) -> Hear:
    """The audio of some clips as one batch."""

    def audio(indices: Sequence[int]) -> AudioInputs:
        pieces = [
            torch.from_numpy(features.frames[features.offsets[i] : features.offsets[i + 1]]).float().transpose(0, 1)
            for i in indices
        ]
        frames, mask = pad_frames(pieces, EVIDENCE_TOKENS)
        values, logits = (torch.from_numpy(part[list(indices)]) for part in evidence)
        return AudioInputs(values, logits, frames, mask)

    return audio


@dataclass(frozen=True)
class Parts:
    """What a run of the small model is made of."""

    speech: SpeechLanguageModel
    policy: SpeechForCausalLM
    tokenizer: PreTrainedTokenizerBase
    read_prompts: PromptReader
    rows: list[dict[str, str]]
    heard: dict[str, Heard]
    table: CueEmotionTable

    def trainer(self, config: GrpoConfig, folder: Path, peft_config: Any = None) -> PtrGrpoTrainer:
        return trainer_of(
            self.policy,
            self.tokenizer,
            self.read_prompts,
            self.rows,
            self.heard,
            self.table,
            LABELS,
            config,
            folder,
            opening="<think>",
            max_completion_tokens=8,
            peft_config=peft_config,
        )


@pytest.fixture
def parts(
    make_speech: Make,
    tokenizer: Tokenizer,
    prompt: Prompt,
    features: FeatureSet,
    evidence: tuple[np.ndarray, np.ndarray],
    thresholds: Thresholds,
) -> Parts:
    register_policy()
    speech = make_speech(spread=0.15)
    keys = [row.clip for row in features.rows]
    return Parts(
        speech,
        policy_of(speech, tokenizer, prompt),
        policy_tokenizer(tokenizer),
        cached_prompts(features, *evidence, {key: i for i, key in enumerate(keys)}, tokenizer, prompt, EVIDENCE_TOKENS),
        [{"prompt": row.clip, "id": row.clip, "emotion": str(row.emotion)} for row in features.rows],
        {row.clip: Heard(row.positions, thresholds) for row in features.rows},
        CueEmotionTable().fit([{"pitch": "high"}, {"pitch": "medium"}, {"pitch": "low"}], list(LABELS)),
    )


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., GrpoConfig]:
    """Makes the configuration of a short run: 2 clips x 4 completions a step, in two forward passes."""

    def make(**changes: Any) -> GrpoConfig:
        numbers = {"steps": 2, "prompts_per_step": 2, "group": 4, "batch_size": 4, "save_every": 2, "warmup_steps": 0}
        (tmp_path / "sft.yaml").touch()
        paths = {"data": tmp_path, "encoder_weights": tmp_path, "checkpoint": tmp_path, "sft": tmp_path / "sft.yaml"}
        return GrpoConfig(**(numbers | {"learning_rate": 1e-3, "schedule": "always"} | paths | changes))

    return make
