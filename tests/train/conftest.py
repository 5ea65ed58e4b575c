"""Small random models and rows for the tests of training: everything is made here, nothing is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as TransformersEncoder

from edge_emotion.prompt import Prompt
from edge_emotion_train.explanations import Explanation
from edge_emotion_train.features import FeatureRow, FeatureSet
from edge_emotion_train.model import AudioProjector, EvidenceProjector, build_language_model
from edge_emotion_train.sft import SpeechLanguageModel
from edge_emotion_train.tokenizer import train_tokenizer

LABELS = ("anger", "fear", "neutral")
CUES = ("pitch", "rate")
SENTENCES = (
    "I hear a high pitch and a fast rate. This points to anger or fear.",
    "The pitch is low and the pace is slow, so this fits a neutral mood.",
)
RowMaker = Callable[..., FeatureRow]
SpeechModelMaker = Callable[..., SpeechLanguageModel]


@pytest.fixture(scope="session")
def transformers_encoder() -> Callable[..., TransformersEncoder]:
    """Makes transformers' encoder of 2 layers, 128 wide, with random weights, for a given number of positions."""

    def make(max_frames: int = 100, layers: int = 2, dim: int = 128) -> TransformersEncoder:
        torch.manual_seed(0)
        encoder = TransformersEncoder(
            WhisperConfig(
                d_model=dim,
                encoder_layers=layers,
                encoder_attention_heads=dim // 64,
                encoder_ffn_dim=4 * dim,
                max_source_positions=max_frames,
                num_mel_bins=80,
            )
        ).eval()
        for name, parameter in encoder.named_parameters():
            if parameter.ndim == 1:  # fresh norms and biases are 1 and 0, which would hide a mix-up
                torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
        return encoder

    return make


@pytest.fixture(scope="session")
def write_weights() -> Callable[..., Path]:
    """Writes an encoder's weights under Hugging Face names with a prefix."""

    def write(encoder: torch.nn.Module, path: Path, prefix: str = "model.encoder.") -> Path:
        tensors = {prefix + name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
        save_file(tensors | {"model.decoder.layers.0.fc1.weight": torch.zeros(2, 2)}, path)
        return path

    return write


@pytest.fixture(scope="session")
def voice() -> Callable[[int, float], np.ndarray]:
    """Makes a voice-like sound: harmonics on a moving pitch in syllables, a little noise; float32 at 16 kHz."""

    def make(seed: int, duration_s: float) -> np.ndarray:
        rng = np.random.default_rng(seed)
        time = np.arange(round(duration_s * 16000)) / 16000
        pitch = rng.uniform(100, 240) * 2 ** (0.2 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * time))
        phase = 2 * np.pi * np.cumsum(pitch) / 16000
        harmonics = sum(np.sin(order * phase) / order for order in range(1, 15))
        syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 5) * time) + 0.6, 0, None)
        return (0.15 * harmonics * syllables + rng.normal(size=len(time)) * 0.003).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def make_row() -> RowMaker:
    """Makes a row of EmoDB unless told otherwise."""

    def make(
        speaker: str = "emodb_03",
        emotion: str | None = "anger",
        positions: Mapping[str, float] | None = None,
        *,
        corpus: str = "emodb",
        variant: int = 0,
        duration_s: float = 1.0,
    ) -> FeatureRow:
        return FeatureRow("clip", corpus, speaker, emotion, "a01", variant, duration_s, dict(positions or {}))

    return make


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(SENTENCES * 8, 330)


@pytest.fixture
def speech_model(tokenizer: Tokenizer) -> SpeechModelMaker:
    """Makes a random speech language model: 2 cues, 3 labels, 3 evidence tokens, 2 encoder layers 16 wide."""

    def make(seed: int = 0, spread: float = 0.25) -> SpeechLanguageModel:
        torch.manual_seed(seed)
        model = SpeechLanguageModel(
            EvidenceProjector(len(CUES), len(LABELS), 3, 64, hidden=32),
            AudioProjector(2, 16, 64, hidden=32),
            build_language_model(tokenizer.get_vocab_size(), dim=64, layers=2, heads=1, context_tokens=128),
        ).eval()
        for parameter in model.parameters():
            # Wide enough that an untrained model says different things of different clips.
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=spread)
        return model

    return make


@pytest.fixture
def tiny_features(make_row: RowMaker) -> FeatureSet:
    """Eight rows of 0.3 to 1 s, two cues, encoder states 2 layers x 16."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(7, 25, size=8)
    rows = [
        make_row(f"emodb_{i % 4}", LABELS[i % 3], {"pitch": float(i), "rate": 4.0}, duration_s=length / 25)
        for i, length in enumerate(lengths)
    ]
    return FeatureSet(
        rows,
        rng.normal(size=(8, 128)).astype(np.float32),
        rng.normal(size=(int(lengths.sum()), 2, 16)).astype(np.float16),
        np.concatenate([[0], np.cumsum(lengths)]),
    )


@pytest.fixture
def explanations() -> list[list[Explanation]]:
    """Two texts for each of eight rows; the last row has no answer, the one before nothing to say."""
    texts = [[Explanation(f"{sentence} {i}.", LABELS[i % 3], ((7, 19),)) for sentence in SENTENCES] for i in range(7)]
    return [*texts[:6], [], [Explanation(SENTENCES[0], None, ())]]


@pytest.fixture
def prompt() -> Prompt:
    return Prompt(max_think_tokens=12)
