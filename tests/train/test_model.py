"""The parts of the speech language model, and that a batch in training sees what a single clip on the device sees."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from edge_emotion.cues import CUE_BY_NAME
from edge_emotion_train.checkpoint import TowerSizes, build_tower
from edge_emotion_train.encoder import WhisperEncoder
from edge_emotion_train.features import FeatureSet, encode_window
from edge_emotion_train.model import (
    MOST_LEVELS,
    TOKENS_PER_S,
    AudioProjector,
    EvidenceHeads,
    EvidenceProjector,
    build_language_model,
    pool_frames,
    utterance_statistics,
)
from edge_emotion_train.sft import pad_frames


def random_states(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("frames", [1, 2, 5, 8])
def test_pooling_averages_pairs_and_keeps_a_lone_last_frame(frames: int) -> None:
    states = random_states(2, 3, frames, 4)
    pooled = pool_frames(states).numpy()
    expected = [states[:, :, i : i + 2].numpy().mean(axis=2) for i in range(0, frames, 2)]
    np.testing.assert_allclose(pooled, np.stack(expected, axis=2), atol=1e-6)


def test_statistics_are_level_range_slope_and_rate() -> None:
    states = random_states(2, 3, 11, 4) * 3 + 1
    clip = states.numpy().astype(np.float64)
    time = np.linspace(-1, 1, 11, endpoint=False) + 1 / 11
    parts = [
        clip.mean(axis=2),
        clip.std(axis=2),
        ((clip - clip.mean(axis=2, keepdims=True)) * time[:, None]).mean(axis=2),
        np.abs(np.diff(clip, axis=2)).mean(axis=2),
    ]
    expected = np.concatenate(parts, axis=-1).reshape(2, -1)
    np.testing.assert_allclose(utterance_statistics(states).numpy(), expected, atol=1e-6)


def test_a_rising_state_has_a_positive_moment() -> None:
    rising = torch.linspace(0, 1, 20)[None, None, :, None]
    assert utterance_statistics(rising)[0, 2] > 0 > utterance_statistics(rising.flip(2))[0, 2]


def test_audio_tokens_of_a_padded_batch_equal_those_of_single_clips() -> None:
    torch.manual_seed(0)
    projector = AudioProjector(2, 16, 8, hidden=12)
    torch.nn.init.normal_(projector.mix)
    torch.nn.init.normal_(projector.norm.bias)
    pieces = [random_states(2, frames, 16, seed=frames) for frames in (1, 4, 7, 13)]
    frames, mask = pad_frames(pieces, evidence_tokens=3)
    with torch.inference_mode():
        batch = projector(frames)
        for i, piece in enumerate(pieces):
            alone = projector(piece[None])[0]
            assert len(alone) == math.ceil(piece.shape[1] / 4) == mask[i, 3:].sum()
            torch.testing.assert_close(batch[i][mask[i, 3:]], alone, atol=1e-6, rtol=0)


def projector_with_levels() -> EvidenceProjector:
    """Pitch with five levels and a cue with three, as `recipe.set_levels` fills them in."""
    projector = EvidenceProjector(cues=2, labels=3, tokens=4, dim=8)
    projector.cuts[0] = torch.tensor([-1.0, -0.3, 0.2, 1.1])
    projector.cuts[1, :2] = torch.tensor([-0.5, 0.6])
    projector.deviation[:] = torch.tensor([0.4, 0.9])
    return projector


def test_level_probabilities_are_those_of_a_normal_error() -> None:
    projector = projector_with_levels()
    values = torch.tensor([[-0.8, 0.1], [3.0, -2.0]])
    probabilities = projector.level_probabilities(values).numpy()
    assert probabilities.shape == (2, 2, MOST_LEVELS)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1.0, atol=1e-6)
    for clip in range(2):
        for cue in range(2):
            error = NormalDist(float(values[clip, cue]), float(projector.deviation[cue]))
            below = [0.0, *(error.cdf(float(cut)) for cut in projector.cuts[cue]), 1.0]
            np.testing.assert_allclose(probabilities[clip, cue], np.diff(below), atol=1e-6)


def test_levels_a_cue_does_not_have_are_impossible() -> None:
    levels = len(CUE_BY_NAME["tone"].levels)
    probabilities = projector_with_levels().level_probabilities(torch.tensor([[0.0, 50.0]]))[0, 1]
    assert probabilities[levels - 1] == pytest.approx(1.0)
    assert probabilities[levels:].abs().max() == 0.0


def test_evidence_tokens_hear_cues_and_emotions() -> None:
    projector, cues = projector_with_levels(), torch.zeros(1, 2)
    tokens = projector(cues, torch.zeros(1, 3))
    assert tokens.shape == (1, 4, 8)
    assert not torch.allclose(tokens, projector(cues + 1.0, torch.zeros(1, 3)))
    assert not torch.allclose(tokens, projector(cues, torch.tensor([[2.0, 0.0, 0.0]])))
    # Only the differences between logits mean anything.
    torch.testing.assert_close(tokens, projector(cues, torch.full((1, 3), 7.0)))


def test_heads_standardise_first() -> None:
    heads = EvidenceHeads(5, 2, 3)
    statistics = random_states(4, 5) * 7 + 3
    heads.mean.copy_(statistics.mean(dim=0))
    heads.scale.copy_(statistics.std(dim=0))
    cues, emotions = heads(statistics)
    torch.testing.assert_close(cues, heads.cues((statistics - heads.mean) / heads.scale))
    assert emotions.shape == (4, 3)


SIZES = TowerSizes(
    encoder_dim=64, encoder_heads=1, max_frames=150, cues=2, labels=3, evidence_tokens=3, embedding_dim=32
)


@pytest.mark.parametrize("duration_s", [0.3, 1.0, 2.57])
def test_tower_gives_evidence_and_audio_tokens(duration_s: float) -> None:
    tower = build_tower(SIZES).eval()
    with torch.inference_mode():
        embeddings, emotion_logits = tower(random_states(1, round(duration_s * 16000)))
    assert embeddings.shape == (1, 3 + math.ceil(duration_s * TOKENS_PER_S), 32)
    assert emotion_logits.shape == (1, 3)


def test_device_and_training_embed_the_same_clip_alike() -> None:
    """The tower reads a waveform; training reads cached half-precision frames and statistics, in padded batches."""
    torch.manual_seed(1)
    tower = build_tower(SIZES).eval()
    torch.nn.init.normal_(tower.encoder.positions, std=0.3)
    tower.heads.scale[:] = 2.0
    waveforms = [random_states(samples, seed=samples) * 0.1 for samples in (9_600, 17_300)]
    cached = [encode_window(tower.encoder, waveform.numpy()) for waveform in waveforms]
    pieces = [torch.from_numpy(frames).float().transpose(0, 1) for frames, _ in cached]
    frames, mask = pad_frames(pieces, SIZES.evidence_tokens)
    with torch.inference_mode():
        cue_values, emotion_logits = tower.heads(torch.from_numpy(np.stack([statistics for _, statistics in cached])))
        trained = torch.cat([tower.evidence(cue_values, emotion_logits), tower.audio(frames)], dim=1)
        for i, waveform in enumerate(waveforms):
            embeddings, logits = tower(waveform[None])
            torch.testing.assert_close(trained[i][mask[i]], embeddings[0], atol=2e-3, rtol=0)
            torch.testing.assert_close(emotion_logits[i], logits[0], atol=1e-5, rtol=0)


def test_cached_frames_are_laid_out_as_training_reads_them() -> None:
    encoder = WhisperEncoder(dim=16, heads=2, layers=2).eval()
    frames, statistics = encode_window(encoder, random_states(8_000).numpy())
    assert (frames.shape, frames.dtype) == ((13, 2, 16), np.float16)
    assert (statistics.shape, statistics.dtype) == ((2 * 4 * 16,), np.float32)
    with torch.inference_mode():
        expected = pool_frames(encoder(random_states(8_000)[None]))[0].numpy()
    np.testing.assert_allclose(frames.transpose(1, 0, 2), expected, atol=1e-2)


def test_selected_rows_keep_their_frames() -> None:
    frames = np.arange(10, dtype=np.float16)[:, None, None]
    features = FeatureSet(["a", "b", "c"], np.arange(3.0)[:, None], frames, np.array([0, 2, 7, 10]))  # type: ignore[arg-type]
    chosen = features.select([2, 0])
    assert chosen.rows == ["c", "a"]
    assert chosen.statistics.ravel().tolist() == [2.0, 0.0]
    assert chosen.frames.ravel().tolist() == [7, 8, 9, 0, 1]
    assert chosen.offsets.tolist() == [0, 3, 5]


def test_language_model_ties_its_embeddings() -> None:
    model = build_language_model(300, dim=64, layers=1, heads=1)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.config.max_position_embeddings == 512
