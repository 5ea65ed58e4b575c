"""How a small model is made from cached features: evidence, thresholds, texts, tokenizer, language model.

Used alike for the shipped model and for every evaluation fold, so that what is measured is what is shipped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from edge_emotion.cues import CUE_BY_NAME, Thresholds, level_of
from edge_emotion.prompt import Prompt

from .config import SftConfig
from .evidence import (
    EvidenceFit,
    fit_evidence,
    fit_thresholds,
    out_of_fold_evidence,
    position_matrix,
    residual_deviation,
)
from .explanations import Explanation, SpeakingRule, value_at, write_explanations
from .features import FeatureRow, FeatureSet
from .generate import Generated, generate
from .model import AudioProjector, EvidenceProjector, build_language_model
from .pretrained import begin_in_words, build_adapted_model, chatml_prompt
from .reasoning import CueEmotionTable
from .sft import AudioInputs, Collator, ExplanationDataset, SpeechLanguageModel, pad_frames, train_language_model
from .tokenizer import train_tokenizer


@dataclass(frozen=True)
class TrainedModel:
    """A trained model and what its training found out about it."""

    model: SpeechLanguageModel
    tokenizer: Tokenizer
    prompt: Prompt
    thresholds: Thresholds
    evidence: EvidenceFit
    held_out_emotion_logits: np.ndarray
    held_out_emotions: list[str]
    history: list[dict[str, float]]


def measured_levels(row: FeatureRow, thresholds: Thresholds) -> dict[str, str]:
    """Levels of a row's measured cues."""
    return {
        name: level_of(CUE_BY_NAME[name], value_at(name, position), thresholds)
        for name, position in row.positions.items()
        if name in thresholds.cuts
    }


def train_model(
    features: FeatureSet, config: SftConfig, steps: int, output: Path, seed: int | None = None
) -> TrainedModel:
    """Trains on every row of `features`; the caller has left the held-out speakers out.

    Args:
        features: Rows of the training speakers only.
        config: Sizes and the recipe's numbers.
        steps: Optimiser steps.
        output: Folder for logs.
        seed: Overrides the configuration's seed.
    """
    seed = config.seed if seed is None else seed
    torch.manual_seed(seed)
    rows = features.rows
    speech = [row for row in rows if row.corpus == "emodb"]
    speakers = sorted({row.speaker for row in speech})
    thresholds = fit_thresholds(
        speech, config.cues, f"population: EmoDB speakers {', '.join(s[-2:] for s in speakers)}"
    )
    penalties = (config.cue_penalty, config.emotion_penalty)
    evidence = fit_evidence(features.statistics, rows, config.cues, config.labels, *penalties)
    cue_values, emotion_logits = out_of_fold_evidence(features.statistics, rows, config.cues, config.labels, *penalties)
    positions = position_matrix(rows, config.cues)
    spoken = [i for i, row in enumerate(rows) if row.corpus == "emodb"]
    heard = cue_values * np.nanstd(positions, axis=0) + np.nanmean(positions, axis=0)
    deviation = residual_deviation(heard[spoken], positions[spoken])
    table = CueEmotionTable()
    table.fit([measured_levels(row, thresholds) for row in speech], [str(row.emotion) for row in speech])
    explanations = write_explanations(
        rows,
        heard,
        deviation,
        config.cues,
        thresholds,
        table,
        config.labels,
        ("emodb",),
        SpeakingRule(config.always_cues, config.confidence, config.fewest_cues, config.most_cues),
        config.texts_per_row,
        seed,
    )
    states = _states_folder(output, config, rows, steps, seed)
    if config.preset == "small":
        prompt = chatml_prompt(config.labels)
        model, tokenizer = build_adapted_model(config, features.frames.shape[2])
        set_levels(model.evidence, evidence, thresholds, deviation)
        measured = [measured_levels(row, thresholds) for row in rows]
        if not (config.save_steps and any(states.glob("checkpoint-*"))):  # what goes on has begun
            begin_in_words(model, tokenizer, config, features, measured, cue_values, emotion_logits)
    else:
        prompt = Prompt()
        tokenizer = train_tokenizer(
            [text.reasoning for texts in explanations for text in texts]
            + [label for label in config.labels for _ in range(500)],
            config.vocabulary,
        )
        model = build_model(config, tokenizer, features.frames.shape[2])
        set_levels(model.evidence, evidence, thresholds, deviation)
    explained = spoken_answers(
        [texts if row.corpus in config.text_corpora else [] for row, texts in zip(rows, explanations, strict=True)],
        config.labels,
        prompt,
    )
    dataset = ExplanationDataset(
        features, cue_values, emotion_logits, explained, tokenizer, prompt, config.max_duration_s
    )
    before_ids = tokenizer.encode(prompt.before_audio).ids
    collator = Collator(before_ids, config.evidence_tokens, config.frames_dropped, config.evidence_dropped)
    history = train_language_model(
        model,
        dataset,
        collator,
        states if config.save_steps else output,
        steps=steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=seed,
        save_steps=config.save_steps,
    )
    recordings = [i for i, row in enumerate(rows) if row.corpus == "emodb" and row.variant == 0]
    return TrainedModel(
        model.eval().cpu(),
        tokenizer,
        prompt,
        thresholds,
        evidence,
        emotion_logits[recordings],
        [str(rows[i].emotion) for i in recordings],
        history,
    )


def _states_folder(output: Path, config: SftConfig, rows: Sequence[FeatureRow], steps: int, seed: int) -> Path:
    """Where the states of this very training are kept: no other may go on from them."""
    settings = {name: str(value) for name, value in asdict(config).items() if not isinstance(value, Path)}
    clips = [f"{row.clip} {row.variant}" for row in rows]
    return output / hashlib.sha256(json.dumps([settings, clips, steps, seed]).encode()).hexdigest()[:12]


def spoken_answers(
    explanations: Sequence[Sequence[Explanation]], labels: Sequence[str], prompt: Prompt
) -> list[list[Explanation]]:
    """The explanations with each label as the model writes it."""
    written = dict(zip(labels, prompt.texts_of(labels), strict=True))
    return [
        [replace(text, label=written[text.label]) if text.label is not None else text for text in texts]
        for texts in explanations
    ]


def build_model(config: SftConfig, tokenizer: Tokenizer, encoder_dim: int) -> SpeechLanguageModel:
    """Fresh projectors and language model of the configured sizes."""
    dim = config.embedding_dim
    return SpeechLanguageModel(
        EvidenceProjector(len(config.cues), len(config.labels), config.evidence_tokens, dim),
        AudioProjector(config.encoder_layers, encoder_dim, dim),
        build_language_model(tokenizer.get_vocab_size(), dim, config.language_model_layers, dim // 64),
    )


def set_levels(
    projector: EvidenceProjector, evidence: EvidenceFit, thresholds: Thresholds, deviation: np.ndarray
) -> None:
    """Tells the projector where the levels of each cue begin and how far the heads are usually off.

    Args:
        deviation: Root mean square errors `(cues,)` on the cues' own scales.
    """
    for index, name in enumerate(evidence.cues):
        cue = CUE_BY_NAME[name]
        for place, cut in enumerate(thresholds.cuts[name]):
            standardised = (cue.position(cut) - evidence.cue_mean[index]) / evidence.cue_scale[index]
            projector.cuts[index, place] = float(standardised)
    projector.deviation.copy_(torch.from_numpy(deviation / evidence.cue_scale).float())


def explain_rows(
    trained: TrainedModel,
    features: FeatureSet,
    config: SftConfig,
    indices: np.ndarray,
    *,
    audio_from: np.ndarray | None = None,
) -> tuple[Generated, np.ndarray]:
    """What the trained model says of rows, and its head's emotion logits `(n, labels)`.

    Args:
        indices: Rows to explain, `(n,)`.
        audio_from: Rows whose audio is heard instead, `(n,)`: the control that must destroy the truth.
    """
    source = indices if audio_from is None else audio_from
    cue_values, emotion_logits = trained.evidence.predict(features.statistics[source])
    parts = []
    for start in range(0, len(source), 64):
        batch = source[start : start + 64]
        pieces = [
            torch.from_numpy(np.array(features.frames[features.offsets[i] : features.offsets[i + 1]]))
            .float()
            .transpose(0, 1)
            for i in batch
        ]
        frames, mask = pad_frames(pieces, config.evidence_tokens)
        inputs = AudioInputs(
            torch.from_numpy(cue_values[start : start + 64]).float(),
            torch.from_numpy(emotion_logits[start : start + 64]).float(),
            frames,
            mask,
        )
        parts.append(generate(trained.model, trained.tokenizer, trained.prompt, config.labels, inputs))
    said = Generated(
        [text for part in parts for text in part.reasoning],
        np.concatenate([part.label_scores for part in parts]),
        np.concatenate([part.first_logits for part in parts]),
    )
    return said, emotion_logits
