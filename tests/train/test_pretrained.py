"""The small model's own parts: a warm start in words, checkpoints of adapters, labels as the model writes them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edge_emotion.errors import ConfigError
from edge_emotion_train.config import SftConfig
from edge_emotion_train.explanations import Explanation
from edge_emotion_train.features import FeatureSet
from edge_emotion_train.model import AudioProjector, EvidenceProjector, build_language_model
from edge_emotion_train.pretrained import AdaptedSpeechLanguageModel, add_adapters, chatml_prompt
from edge_emotion_train.recipe import spoken_answers
from edge_emotion_train.tokenizer import train_tokenizer
from edge_emotion_train.warm_start import label_embeddings, level_embeddings, mean_words, start_audio, start_evidence

CUES, LABELS, DIM = ("pitch", "rate"), ("anger", "sadness"), 64


@pytest.fixture
def words() -> SimpleNamespace:
    """Embeddings of levels and labels in a random vocabulary."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a very low medium high pitch", "slow moderate fast pace anger sadness"] * 50, 400)
    embeddings = torch.randn(tokenizer.get_vocab_size(), DIM) * 0.1
    return SimpleNamespace(
        levels=level_embeddings(embeddings, tokenizer, CUES), labels=label_embeddings(embeddings, tokenizer, LABELS)
    )


def test_each_level_has_words_of_its_own(words: SimpleNamespace):
    assert words.levels.shape == (2, 5, DIM)
    spoken = torch.cat([words.levels[0], words.levels[1, :3], words.labels])
    assert torch.cdist(spoken, spoken).fill_diagonal_(1.0).min() > 1e-3
    assert not words.levels[1, 3:].any(), "rate has three levels"


def test_evidence_tokens_begin_as_the_words_for_what_is_likely(words: SimpleNamespace):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    projector = EvidenceProjector(cues=2, labels=2, tokens=4, dim=DIM)
    projector.cuts[0, :4] = torch.tensor([-1.5, -0.5, 0.5, 1.5])
    projector.cuts[1, :2] = torch.tensor([-0.5, 0.5])
    projector.deviation.fill_(0.2)
    values, logits = rng.normal(size=(400, 2)), rng.normal(size=(400, 2)) * 5
    left = start_evidence(projector, values, logits, words.levels, words.labels)
    assert left < 0.05
    sure = projector(torch.tensor([[-3.0, 3.0]]), torch.tensor([[9.0, -9.0]]))[0]
    wanted = torch.stack([words.levels[0, 0], words.levels[1, 2], words.labels[0]])
    others = torch.cat([words.levels[0], words.levels[1, :3], words.labels])
    nearest = torch.cdist(sure[:3], others).argmin(dim=1)
    assert torch.equal(others[nearest], wanted)


def test_audio_tokens_begin_as_the_words_that_are_true(words: SimpleNamespace):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    high = rng.random(200) < 0.5
    lengths = rng.integers(8, 20, 200)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    frames = rng.normal(size=(offsets[-1], 1, 16)).astype(np.float16)
    for i, is_high in enumerate(high):
        frames[offsets[i] : offsets[i + 1], 0, 0] += 3.0 if is_high else -3.0
    features = FeatureSet([None] * 200, np.zeros((200, 1)), frames, offsets)  # type: ignore[list-item]
    measured = [{"pitch": "high" if is_high else "low"} for is_high in high]
    true_words = mean_words(measured, [None] * 200, CUES, LABELS, words.levels, words.labels)
    projector = AudioProjector(layers=1, encoder_dim=16, dim=DIM)
    assert start_audio(projector, features, range(200), true_words, steps=300) < 0.3


def test_what_is_true_of_a_clip_is_the_mean_of_its_words(words: SimpleNamespace):
    said = mean_words(
        [{"rate": "fast"}, {}, {"pitch": "very low", "rate": "slow"}],
        [None, "sadness", "anger"],
        CUES,
        LABELS,
        words.levels,
        words.labels,
    )
    torch.testing.assert_close(said[0], words.levels[1, 2])
    torch.testing.assert_close(said[1], words.labels[1])
    torch.testing.assert_close(said[2], (words.levels[0, 0] + words.levels[1, 0] + words.labels[0]) / 3)


def test_a_saved_state_holds_what_trains_and_nothing_else():
    torch.manual_seed(0)
    language_model = build_language_model(300, DIM, layers=1, heads=1).requires_grad_(False)
    add_adapters(language_model, rank=2)
    model = AdaptedSpeechLanguageModel(EvidenceProjector(2, 2, 2, DIM), AudioProjector(1, 16, DIM), language_model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    state = model.state_dict()
    assert trained <= set(state)
    assert set(state) - trained == {"evidence.cuts", "evidence.deviation"}
    assert any("lora_A" in name for name in trained)
    assert not any("embed_tokens" in name or name.endswith("base_layer.weight") for name in state)


def test_labels_are_trained_as_the_prompt_writes_them():
    prompt = chatml_prompt(LABELS)
    rows = [SimpleNamespace(corpus="emodb"), SimpleNamespace(corpus="emogator"), SimpleNamespace(corpus="emodb")]
    texts = [[Explanation("x", "sadness", ())], [Explanation("x", None, ())], [Explanation("x", None, ())]]
    config = SimpleNamespace(labels=LABELS, text_corpora=("emodb",))
    written = spoken_answers(rows, texts, config, prompt)  # type: ignore[arg-type]
    assert [[text.label for text in of_row] for of_row in written] == [[" sadness"], [], [None]]
    assert prompt.answer_open.startswith(prompt.stop[0]), "the device forces what follows the stop"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "nano", "language_model": Path("x.gguf")}, "preset nano trains its own"),
        ({"preset": "small", "prosody_steps": 5}, "small is trained on reasoning alone"),
        ({"preset": "small", "lora_rank": 0}, "lora_rank: must be at least 1"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(tmp_path: Path, changes: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        SftConfig(tmp_path, tmp_path, **changes)
