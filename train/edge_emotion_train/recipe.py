"""How a small model is made from cached features: evidence, thresholds, texts, tokenizer, language model.

Used alike for the shipped model and for every evaluation fold, so that what is measured is what is shipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import TrainerCallback

from edge_emotion.cues import CUE_BY_NAME, Thresholds, level_of
from edge_emotion.prompt import Prompt

from .checkpoint import Checkpoint
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
from .processes import processes
from .progress import PhaseLines, Watch
from .prosody_tasks import (
    TRANSCRIPT_QUESTION,
    accuracies,
    prosody_examples,
    prosody_items,
    prosody_texts,
    transcript_examples,
)
from .reasoning import CueEmotionTable
from .sft import (
    AudioInputs,
    Collator,
    DrawnExamples,
    Example,
    SpeechLanguageModel,
    explanation_examples,
    frames_of,
    pad_frames,
    text_examples,
    train_language_model,
)
from .tokenizer import train_tokenizer
from .training_data import load_triples_and_shapes, transcripts


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
    history: list[dict[str, Any]]


def measured_levels(row: FeatureRow, thresholds: Thresholds) -> dict[str, str]:
    """Levels of a row's measured cues."""
    return {
        name: level_of(CUE_BY_NAME[name], value_at(name, position), thresholds)
        for name, position in row.positions.items()
        if name in thresholds.cuts
    }


@dataclass(frozen=True)
class Heard:
    """What the encoder says of training clips, by heads that never saw their speakers.

    Attributes:
        thresholds: Cut points of the levels, of the population's recordings.
        evidence: Heads fitted on all of them.
        cue_values: Out of fold and standardised, `(n, cues)`.
        emotion_logits: Out of fold, `(n, labels)`.
        values: `cue_values` on the cues' own scales.
        deviation: Their errors on speech, `(cues,)`.
    """

    thresholds: Thresholds
    evidence: EvidenceFit
    cue_values: np.ndarray
    emotion_logits: np.ndarray
    values: np.ndarray
    deviation: np.ndarray


def hear(features: FeatureSet, config: SftConfig) -> Heard:
    """Fits thresholds and evidence on `n` rows, and hears each row with heads that never saw its speaker."""
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
    values = cue_values * np.nanstd(positions, axis=0) + np.nanmean(positions, axis=0)
    deviation = residual_deviation(values[spoken], positions[spoken])
    return Heard(thresholds, evidence, cue_values, emotion_logits, values, deviation)


def explain(rows: Sequence[FeatureRow], heard: Heard, config: SftConfig, seed: int) -> list[list[Explanation]]:
    """The texts of each row, of cues that are likely to be heard right."""
    speech = [row for row in rows if row.corpus == "emodb"]
    levels = [measured_levels(row, heard.thresholds) for row in speech]
    table = CueEmotionTable().fit(levels, [str(row.emotion) for row in speech])
    return write_explanations(
        rows,
        heard.values,
        heard.deviation,
        config.cues,
        heard.thresholds,
        table,
        config.labels,
        ("emodb",),
        SpeakingRule(config.always_cues, config.confidence, config.fewest_cues, config.most_cues),
        config.texts_per_row,
        seed,
    )


def model_to_train(
    features: FeatureSet,
    heard: Heard,
    explanations: Sequence[Sequence[Explanation]],
    spoken_texts: Iterable[str],
    config: SftConfig,
    start: Checkpoint | None,
) -> tuple[SpeechLanguageModel, Tokenizer, Prompt]:
    """The model as training finds it: fresh, on a pretrained language model, or with the weights of `start`."""
    if config.preset == "small":
        model, tokenizer = build_adapted_model(config, features.frames.shape[2])
        prompt = chatml_prompt(config.labels)
    else:
        tokenizer = start.tokenizer if start else recipe_tokenizer(explanations, spoken_texts, config)
        model, prompt = build_model(config, tokenizer, features.frames.shape[2]), Prompt()
    if start:
        model.evidence.load_state_dict(start.tower.evidence.state_dict())
        model.audio.load_state_dict(start.tower.audio.state_dict())
        model.language_model.load_state_dict(start.language_model.state_dict())
    set_levels(model.evidence, heard.evidence, heard.thresholds, heard.deviation)
    if config.preset == "small":
        measured = [measured_levels(row, heard.thresholds) for row in features.rows]
        begin_in_words(model, tokenizer, config, features, measured, heard.cue_values, heard.emotion_logits)
    return model, tokenizer, prompt


def train_model(
    features: FeatureSet,
    config: SftConfig,
    steps: int,
    output: Path,
    seed: int | None = None,
    start: Checkpoint | None = None,
    save_every: int = 0,
    watched: FeatureSet | None = None,
) -> TrainedModel:
    """Trains on every row of `features`; the caller has left the held-out speakers out.

    First `config.prosody_steps` of prosody tasks, of the same clips, then `steps` of reasoning.

    Args:
        features: Rows of the training speakers only.
        config: Sizes and the recipe's numbers.
        steps: Optimiser steps of the reasoning; 0 leaves it out.
        output: Folder for logs and checkpoints, a folder for each phase.
        seed: Overrides the configuration's seed.
        start: Model to start from in place of the prosody tasks; its tokenizer is kept.
        save_every: Steps between checkpoints, 0 for none; where `output` holds some, training goes on from the last.
        watched: Recordings of speakers that are not trained on; the accuracy of each prosody task on them is logged.
    """
    seed = config.seed if seed is None else seed
    torch.manual_seed(seed)
    rows = features.rows
    heard = hear(features, config)
    explanations = explain(rows, heard, config, seed)
    spoken_texts = transcripts(config) if config.transcript_share else {}
    model, tokenizer, prompt = model_to_train(features, heard, explanations, spoken_texts.values(), config, start)
    common = (heard.cue_values, heard.emotion_logits, tokenizer, prompt, config.max_duration_s)
    collator = Collator(tokenizer.encode(prompt.before_audio).ids, config.evidence_tokens)
    history: list[dict[str, Any]] = []

    def train(
        phase: str,
        groups: Mapping[str, Sequence[Example]],
        shares: Mapping[str, float],
        steps: int,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        samples = steps * config.batch_size * processes().num_processes
        entries = train_language_model(
            model,
            DrawnExamples(
                groups, shares, samples, seed, config.frames_dropped, config.evidence_dropped, config.batch_size
            ),
            collator,
            output / phase,
            steps=steps,
            batch_size=config.batch_size,
            learning_rate=config.prosody_learning_rate if phase == "prosody" else config.learning_rate,
            seed=seed,
            save_every=save_every,
            callbacks=[PhaseLines(), *callbacks],
        )
        history.extend({"phase": phase, **entry} for entry in entries)

    if config.prosody_steps and not start:
        prosody = load_triples_and_shapes(config)
        examples = prosody_examples(prosody_items(features, prosody, heard.thresholds), features, prosody, *common)
        watches: list[TrainerCallback] = []
        if watched is not None:
            items = prosody_items(watched, prosody, heard.thresholds)
            asked = items, watched, prosody, *heard.evidence.predict(watched.statistics)
            every = max(25, config.prosody_steps // 10)
            watches.append(Watch(lambda: accuracies(model, tokenizer, prompt, *asked), every))
        train("prosody", examples, config.prosody_tasks, config.prosody_steps, watches)
    if steps:
        explained = spoken_answers(rows, explanations, config, prompt)
        reasoning = explanation_examples(features, *common[:2], explained, *common[2:])
        groups = {
            "reasoning": reasoning,
            "text": text_examples(reasoning),
            "transcript": transcript_examples(features, spoken_texts, *common),
        }
        shares = {"text": config.text_share, "transcript": config.transcript_share}
        train("reasoning", groups, {"reasoning": 1.0 - sum(shares.values()), **shares}, steps)
    recordings = [i for i, row in enumerate(rows) if row.corpus == "emodb" and row.variant == 0]
    return TrainedModel(
        model.eval().cpu(),
        tokenizer,
        prompt,
        heard.thresholds,
        heard.evidence,
        heard.emotion_logits[recordings],
        [str(rows[i].emotion) for i in recordings],
        history,
    )


def spoken_answers(
    rows: Sequence[FeatureRow], explanations: Sequence[Sequence[Explanation]], config: SftConfig, prompt: Prompt
) -> list[list[Explanation]]:
    """The explanations of the clips that are explained, each label as the model writes it."""
    written = dict(zip(config.labels, prompt.texts_of(config.labels), strict=True))
    return [
        [replace(text, label=written[text.label]) if text.label is not None else text for text in texts]
        if row.corpus in config.text_corpora
        else []
        for row, texts in zip(rows, explanations, strict=True)
    ]


def recipe_tokenizer(
    explanations: Sequence[Sequence[Explanation]], spoken_texts: Iterable[str], config: SftConfig
) -> Tokenizer:
    """A tokenizer for the texts of every phase, the many of the reasoning weighing most."""
    texts = [text.reasoning for written in explanations for text in written]
    texts += [label for label in config.labels for _ in range(500)]
    if config.prosody_steps:
        texts += [text for text in prosody_texts() for _ in range(500)]
    if config.transcript_share:
        texts += [TRANSCRIPT_QUESTION] * 500 + [text for text in sorted(set(spoken_texts)) for _ in range(50)]
    return train_tokenizer(texts, config.vocabulary)


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
        frames, mask = pad_frames([frames_of(features, i) for i in batch], config.evidence_tokens)
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
