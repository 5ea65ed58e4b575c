"""Figures on speakers that training never saw: the encoder's head, the language model's answers, its claims."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from edge_emotion.claims import parse_claims
from edge_emotion.cues import CUE_BY_NAME, Thresholds, distance_outside
from edge_emotion.metrics import (
    accuracy,
    bootstrap_interval,
    expected_calibration_error,
    fit_temperature,
    softmax,
    unweighted_average_recall,
)

from .config import SftConfig
from .evidence import fit_evidence
from .explanations import value_at
from .features import FeatureRow, FeatureSet
from .recipe import TrainedModel, explain_rows, train_model

ABSTAIN_BELOW = 0.5  # below it a calibrated answer is more likely wrong than right
# What a language model has before `train calibrate`: its calibration error is unknown, so the worst is written.
UNCALIBRATED = {"temperature": 1.0, "ece": 1.0, "abstain_below": ABSTAIN_BELOW}


def evaluate_head(features: FeatureSet, config: SftConfig, speakers: Sequence[str]) -> dict[str, Any]:
    """Leave one speaker out: the emotion head trained on all other rows, tested on that speaker's recordings."""
    truth: list[int] = []
    predicted: list[int] = []
    groups: list[str] = []
    for speaker in speakers:
        train = [i for i, row in enumerate(features.rows) if row.speaker != speaker]
        test = recordings_of(features.rows, [speaker])
        fit = fit_evidence(
            features.statistics[train],
            [features.rows[i] for i in train],
            config.cues,
            config.labels,
            config.cue_penalty,
            config.emotion_penalty,
        )
        predicted += fit.predict(features.statistics[test])[1].argmax(axis=1).tolist()
        truth += [config.labels.index(str(features.rows[i].emotion)) for i in test]
        groups += [speaker] * len(test)
        sys.stderr.write(f"head without {speaker}: UAR so far {unweighted_average_recall(truth, predicted):.3f}\n")
    return recall_with_interval(truth, predicted, groups)


def recall_with_interval(truth: Sequence[int], predicted: Sequence[int], speakers: Sequence[str]) -> dict[str, Any]:
    """UAR and accuracy with 95 % bootstrap intervals over speakers, and UAR per speaker."""
    truth_array, predicted_array, groups = np.array(truth), np.array(predicted), np.array(speakers)
    low, high = bootstrap_interval(unweighted_average_recall, truth_array, predicted_array, groups=groups)
    return {
        "uar": round(unweighted_average_recall(truth_array, predicted_array), 4),
        "uar_95": [round(low, 4), round(high, 4)],
        "accuracy": round(accuracy(truth_array, predicted_array), 4),
        "uar_per_speaker": {
            str(speaker): round(
                unweighted_average_recall(truth_array[groups == speaker], predicted_array[groups == speaker]), 4
            )
            for speaker in dict.fromkeys(speakers)
        },
        "clips": len(truth_array),
    }


def recordings_of(rows: Sequence[FeatureRow], speakers: Sequence[str]) -> np.ndarray:
    """Indices of the unaugmented recordings of these speakers."""
    return np.array([i for i, row in enumerate(rows) if row.speaker in speakers and row.variant == 0])


def claims_against(texts: Sequence[str], rows: Sequence[FeatureRow], thresholds: Thresholds) -> dict[str, Any]:
    """Share of checkable claims that the measured cues of these rows support, and claims per text."""
    supported: list[bool] = []
    exact: list[bool] = []
    by_cue: dict[str, list[bool]] = {}
    for text, row in zip(texts, rows, strict=True):
        for claim in parse_claims(text):
            if claim.cue not in row.positions or claim.cue not in thresholds.cuts:
                continue
            cue = CUE_BY_NAME[claim.cue]
            outside = distance_outside(cue, claim.level, value_at(claim.cue, row.positions[claim.cue]), thresholds)
            supported.append(outside <= cue.uncertainty)
            exact.append(outside == 0.0)
            by_cue.setdefault(claim.cue, []).append(outside <= cue.uncertainty)
    return {
        "supported": round(float(np.mean(supported)), 4) if supported else None,
        "exact_level": round(float(np.mean(exact)), 4) if exact else None,
        "checkable_claims_per_text": round(len(supported) / max(1, len(texts)), 2),
        "by_cue": {name: [round(float(np.mean(values)), 3), len(values)] for name, values in sorted(by_cue.items())},
    }


def evaluate_speakers(
    trained: TrainedModel, features: FeatureSet, config: SftConfig, indices: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """Answers and explanations of recordings, with the control that swaps the audio for another clip's."""
    rows = [features.rows[i] for i in indices]
    truth = np.array([config.labels.index(str(row.emotion)) for row in rows])
    said, head_logits = explain_rows(trained, features, config, indices)
    shuffled = np.random.default_rng(seed).permutation(len(indices))
    swapped, _ = explain_rows(trained, features, config, indices, audio_from=indices[shuffled])
    return {
        "truth": truth.tolist(),
        "label_scores": np.round(said.label_scores, 4).tolist(),
        "head_logits": np.round(head_logits, 4).tolist(),
        "speakers": [row.speaker for row in rows],
        "clips": [row.clip for row in rows],
        "claims": claims_against(said.reasoning, rows, trained.thresholds),
        "claims_of_another_clip": claims_against(swapped.reasoning, rows, trained.thresholds),
        "answer_uar_with_another_clips_audio": round(
            unweighted_average_recall(truth, swapped.label_scores.argmax(axis=1)), 4
        ),
        "examples": said.reasoning[:3],
    }


def evaluate_folds(features: FeatureSet, config: SftConfig) -> dict[str, Any]:
    """The head by leaving one speaker out; the language model over folds of speakers, `fold_steps` steps each."""
    speakers = sorted({row.speaker for row in features.rows if row.corpus == "emodb"})
    head = evaluate_head(features, config, speakers)
    sys.stderr.write(json.dumps(head) + "\n")
    folds = []
    for held_out in np.array_split(speakers, config.folds):
        # The temperature of the shipped answers comes from these models, so the test speakers train none of them.
        unseen = {*held_out, *config.test_speakers}
        train = [i for i, row in enumerate(features.rows) if row.speaker not in unseen]
        trained = train_model(features.select(train), config, config.fold_steps, config.output / "folds")
        fold = {"speakers_held_out": list(map(str, held_out))}
        fold |= evaluate_speakers(trained, features, config, recordings_of(features.rows, list(held_out)))
        folds.append(fold)
        sys.stderr.write(json.dumps({"fold": fold["speakers_held_out"], **fold_summary([fold])}) + "\n")
    return {
        "head_leave_one_speaker_out": head,
        "language_model": fold_summary(folds),
        "folds": folds,
        "config": {
            k: str(v)
            for k, v in dataclasses.asdict(config).items()
            if k not in ("data", "encoder_weights", "cache", "output")
        },
        "torch_threads": torch.get_num_threads(),
    }


def fold_summary(folds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Pooled figures of the folds."""
    truth = [label for fold in folds for label in fold["truth"]]
    speakers = [speaker for fold in folds for speaker in fold["speakers"]]
    answers = [int(np.argmax(scores)) for fold in folds for scores in fold["label_scores"]]
    head = [int(np.argmax(logits)) for fold in folds for logits in fold["head_logits"]]
    weights = [fold["claims"]["checkable_claims_per_text"] * len(fold["truth"]) for fold in folds]

    def mean(part: str, key: str) -> float | None:
        if not any(weights):
            return None
        return round(float(np.average([fold[part][key] or 0.0 for fold in folds], weights=weights)), 4)

    return {
        "answer": recall_with_interval(truth, answers, speakers),
        "head_same_folds": recall_with_interval(truth, head, speakers),
        "claims_supported": mean("claims", "supported"),
        "claims_exact_level": mean("claims", "exact_level"),
        "checkable_claims_per_text": round(sum(weights) / len(truth), 2),
        "claims_supported_of_another_clip": mean("claims_of_another_clip", "supported"),
        "answer_uar_with_another_clips_audio": round(
            float(np.mean([fold["answer_uar_with_another_clips_audio"] for fold in folds])), 4
        ),
    }


def head_calibration(trained: TrainedModel, config: SftConfig) -> dict[str, float]:
    """Temperature and calibration error of the head, from out-of-fold logits of the training speakers."""
    labels = np.array([config.labels.index(emotion) for emotion in trained.held_out_emotions])
    return _calibrate(trained.held_out_emotion_logits, labels)


def validation_calibration(trained: TrainedModel, features: FeatureSet, config: SftConfig) -> dict[str, float]:
    """Temperature and calibration error of the answers, from those on the validation speakers' recordings."""
    recordings = recordings_of(features.rows, config.validation_speakers)
    said, _ = explain_rows(trained, features, config, np.array(recordings))
    truth = np.array([config.labels.index(str(features.rows[i].emotion)) for i in recordings])
    sys.stderr.write(
        f"answers on {', '.join(config.validation_speakers)}: "
        f"UAR {unweighted_average_recall(truth, said.label_scores.argmax(axis=1)):.3f}; {said.reasoning[:3]}\n"
    )
    return _calibrate(said.label_scores, truth)


def answer_calibration(result: Mapping[str, Any], config: SftConfig) -> dict[str, float]:
    """Temperature and calibration error of the answers, from a result of `train eval`, test speakers left out."""
    used = [
        (scores, truth)
        for fold in result["folds"]
        for scores, truth, speaker in zip(fold["label_scores"], fold["truth"], fold["speakers"], strict=True)
        if speaker not in config.test_speakers
    ]
    return _calibrate(np.array([scores for scores, _ in used]), np.array([truth for _, truth in used]))


def _calibrate(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    temperature = float(fit_temperature(logits, labels))
    error = expected_calibration_error(softmax(logits, temperature), labels)
    return {"temperature": round(temperature, 4), "ece": round(float(error), 4), "abstain_below": ABSTAIN_BELOW}
