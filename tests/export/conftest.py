"""A tiny random checkpoint of the real architecture, and synthetic recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from edge_emotion.cues import Thresholds
from edge_emotion.prompt import Prompt
from edge_emotion_train.checkpoint import Checkpoint, TowerSizes, build_tower, save_checkpoint
from edge_emotion_train.model import build_language_model

TAGS = ("<|audio|>", "<|/audio|>", "<think>", "</think>", "<answer>", "</answer>", "<|end|>")
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LABELS = ("anger", "fear", "neutral")
SENTENCES = (
    "The voice is high and fast, and the pitch moves over a wide range.",
    "The speech is slow with many pauses; its tone is soft and its pitch low.",
    "It's neither fast nor slow, the melody is level and the voice sounds clear.",
    "anger fear neutral 1234567890 Überraschung (high) (high) /low/ /low/ half-loud half-loud DON'T WE'LL DON'T WE'LL",
)


def train_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return tokenizer


def build_checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    sizes = TowerSizes(
        encoder_dim=32, encoder_heads=2, encoder_layers=2, max_frames=200, cues=3, labels=3, evidence_tokens=2,
        embedding_dim=64,
    )  # fmt: skip
    tower = build_tower(sizes).eval()
    torch.nn.init.normal_(tower.encoder.positions, std=0.1)
    torch.nn.init.normal_(tower.heads.emotions.weight, std=0.5)
    tokenizer = train_tokenizer()
    # Three rows more than the tokenizer knows, as in models whose vocabulary is padded.
    model = build_language_model(tokenizer.get_vocab_size() + 3, dim=64, layers=2, heads=2, context_tokens=256).eval()
    for parameter in model.parameters():
        # Wide enough weights that the logits of an untrained model are far from equal.
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.15)
    for name, parameter in tower.named_parameters():
        if "norm.weight" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
    return Checkpoint(
        tower=tower,
        language_model=model,
        tokenizer=tokenizer,
        sizes=sizes,
        labels=LABELS,
        cues=("pitch", "rate", "pauses"),
        prompt=Prompt(max_think_tokens=12),
        thresholds=Thresholds({"pauses": (0.1, 0.3)}, "a test"),
        calibration={name: {"temperature": 1.0, "ece": 0.1, "abstain_below": 0.3} for name in ("llm", "head")},
        provenance={"commit": "0" * 40, "licence": "Apache-2.0", "sources": {"noise": "CC0-1.0"}},
    )


def synthetic_voice(seed: int, seconds: float) -> np.ndarray:
    """Harmonics on a moving pitch, with pauses and a little noise; float32 at 16 kHz."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16000)) / 16000
    pitch = generator.uniform(90, 260) * 2 ** (0.3 * np.sin(2 * np.pi * generator.uniform(0.5, 3) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / 16000
    voice = sum(np.sin(order * phase) / order for order in range(1, 12))
    envelope = np.clip(np.sin(2 * np.pi * generator.uniform(1, 4) * time) + 0.5, 0, None)
    noise = generator.normal(size=len(time)) * 0.01
    return (0.2 * voice * envelope + noise).astype(np.float32)


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return build_checkpoint()


@pytest.fixture(scope="session")
def checkpoint_folder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, checkpoint)
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five recordings of 0.5 to 2.5 s."""
    folder = tmp_path_factory.mktemp("clips")
    for index, seconds in enumerate((1.0, 2.5, 0.5, 1.7, 2.2)):
        soundfile.write(folder / f"{index}.wav", synthetic_voice(index, seconds), 16000)
    return folder
