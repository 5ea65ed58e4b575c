"""Projectors that begin in the language model's own words, where nano's learn a language together with their model.

A pretrained model reads embeddings of words. So, before it trains at all, an evidence token is fitted to the words of
its cue's levels, each weighted by its probability, and the audio tokens to what is true of the clip: the mean of the
words for its measured levels and its emotion. It takes seconds, and saves a small budget the steps in which a model
finds out what these rows are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from edge_emotion.cues import CUE_BY_NAME
from edge_emotion.wording import PHRASES

from .features import FeatureSet
from .model import MOST_LEVELS, AudioProjector, EvidenceProjector

EVIDENCE_STEPS = 600
AUDIO_STEPS = 600
LEARNING_RATE = 1e-3


def level_embeddings(embeddings: Tensor, tokenizer: Tokenizer, cues: Sequence[str]) -> Tensor:
    """Mean embedding of how each level is said, `(cues, levels, dim)`; rows of 0 where a cue has fewer levels."""
    table = torch.zeros(len(cues), MOST_LEVELS, embeddings.shape[1])
    for row, cue in enumerate(cues):
        for column, level in enumerate(CUE_BY_NAME[cue].levels):
            table[row, column] = _mean_embedding(embeddings, tokenizer, PHRASES[cue][level][0])
    return table


def label_embeddings(embeddings: Tensor, tokenizer: Tokenizer, labels: Sequence[str]) -> Tensor:
    """Embedding of each label, `(labels, dim)`."""
    return torch.stack([_mean_embedding(embeddings, tokenizer, label) for label in labels])


def _mean_embedding(embeddings: Tensor, tokenizer: Tokenizer, phrase: str) -> Tensor:
    ids = tokenizer.encode(" " + phrase.removeprefix("a ")).ids
    return embeddings[ids].mean(dim=0)


def start_evidence(
    projector: EvidenceProjector,
    cue_values: np.ndarray,
    emotion_logits: np.ndarray,
    levels: Tensor,
    labels: Tensor,
    steps: int = EVIDENCE_STEPS,
) -> float:
    """Fits one token per cue, then one for the emotion, as far as there are tokens; returns the relative error left.

    Args:
        projector: To be fitted; it already knows its cuts.
        cue_values: Out-of-fold cue values `(n, cues)`.
        emotion_logits: The same for the emotions, `(n, labels)`.
        levels: `level_embeddings`.
        labels: `label_embeddings`.
        steps: Optimiser steps.
    """
    values, logits = torch.from_numpy(cue_values).float(), torch.from_numpy(emotion_logits).float()
    with torch.no_grad():
        spoken = torch.einsum("ncl,cld->ncd", projector.level_probabilities(values), levels)
        emotion = logits.softmax(dim=-1) @ labels
        wanted = torch.cat([spoken, emotion[:, None]], dim=1)[:, : projector.tokens]
    optimiser = torch.optim.AdamW(projector.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    for _ in range(steps):
        batch = torch.randint(len(values), (256,))
        given = projector(values[batch], logits[batch])[:, : wanted.shape[1]]
        _step(optimiser, nn.functional.mse_loss(given, wanted[batch]))
    with torch.no_grad():
        return _relative_error(projector(values, logits)[:, : wanted.shape[1]], wanted)


def mean_words(
    measured: Sequence[Mapping[str, str]],
    emotions: Sequence[str | None],
    cues: Sequence[str],
    label_names: Sequence[str],
    levels: Tensor,
    labels: Tensor,
) -> Tensor:
    """Mean embedding of what is true of each clip: its measured levels and, where it is known, its emotion.

    Args:
        measured: Level of each measured cue of `n` clips.
        emotions: Emotion of each, None where nobody knows it.
        cues: Cues in the order of `levels`.
        label_names: Labels in the order of `labels`.
        levels: `level_embeddings`.
        labels: `label_embeddings`.

    Returns:
        `(n, dim)`.
    """
    rows = []
    for said, emotion in zip(measured, emotions, strict=True):
        words = [levels[i, CUE_BY_NAME[cue].levels.index(said[cue])] for i, cue in enumerate(cues) if cue in said]
        words += [labels[label_names.index(emotion)]] if emotion in label_names else []
        rows.append(torch.stack(words).mean(dim=0) if words else labels.mean(dim=0))
    return torch.stack(rows)


def start_audio(
    projector: AudioProjector, features: FeatureSet, indices: Sequence[int], words: Tensor, steps: int = AUDIO_STEPS
) -> float:
    """Fits the mean of a clip's audio tokens to the words that are true of it; returns the relative error left.

    Args:
        projector: To be fitted.
        features: Cached features.
        indices: `n` rows to fit on.
        words: `mean_words` of these rows, `(n, dim)`.
        steps: Optimiser steps.
    """
    optimiser = torch.optim.AdamW(projector.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    errors = []
    for step in range(steps):
        batch = torch.randint(len(indices), (16,)).tolist()
        given = torch.stack([_mean_token(projector, features, indices[i]) for i in batch])
        _step(optimiser, nn.functional.mse_loss(given, words[batch]))
        if step >= steps - steps // 10:
            errors.append(_relative_error(given.detach(), words[batch]))
    return float(np.mean(errors))


def _mean_token(projector: AudioProjector, features: FeatureSet, index: int) -> Tensor:
    start, end = features.offsets[index : index + 2]
    frames = torch.from_numpy(np.array(features.frames[start:end])).float().transpose(0, 1)
    return projector(frames[None])[0].mean(dim=0)


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _relative_error(given: Tensor, wanted: Tensor) -> float:
    """Squared error over the variance of what is wanted: 1 says no more than the mean."""
    return float((given - wanted).square().mean() / (wanted - wanted.mean(dim=0)).square().mean())
