"""The models of the ablation: trained on all but a fold's speakers, and what each says of that fold's recordings."""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge_emotion.answer import parse_response
from edge_emotion.claims import parse_claims
from edge_emotion.cues import CUE_BY_NAME, Thresholds, distance_outside
from edge_emotion_train.config import SftConfig
from edge_emotion_train.evaluate import recordings_of
from edge_emotion_train.evidence import out_of_fold_evidence
from edge_emotion_train.explanations import value_at
from edge_emotion_train.features import FeatureRow, FeatureSet
from edge_emotion_train.generate import generate
from edge_emotion_train.recipe import TrainedModel, train_model
from edge_emotion_train.reinforcement.config import ABLATIONS, GrpoConfig
from edge_emotion_train.reinforcement.prompts import audio_of
from edge_emotion_train.reinforcement.replies import free_replies
from edge_emotion_train.reinforcement.rewards import consistency
from edge_emotion_train.reinforcement.run import prepare_folder
from edge_emotion_train.reinforcement.stage import longest_answer, reinforce
from edge_emotion_train.sft import SpeechLanguageModel

BATCH = 64
BY_MEASUREMENT = {"measured_weight": 1.0, "trained_weight": 0.0}
# Rows of the table. What a row does not name is as in the configuration; its reasoning is judged by measurement where
# the row does not say otherwise.
MODELS: Mapping[str, Mapping[str, Any]] = {
    "sft_without_prosody": {},
    "sft": {},
    "v2": dict(ABLATIONS["v2"]),
    "v3": dict(ABLATIONS["v3"]),
    "v4": BY_MEASUREMENT | dict(ABLATIONS["v4"]),
    "v5": BY_MEASUREMENT | dict(ABLATIONS["v5"]),
    "v6_trained": {"measured_weight": 0.0, "trained_weight": 1.0},
    "v6_measured": BY_MEASUREMENT,
    "right_only": BY_MEASUREMENT | dict(ABLATIONS["right_only"]),
    "near_miss": BY_MEASUREMENT | dict(ABLATIONS["near_miss"]),
    "consistent": BY_MEASUREMENT | dict(ABLATIONS["consistent"]),
    "noise": dict(ABLATIONS["noise"]),
}
SUPERVISED = ("sft_without_prosody", "sft")


@dataclass(frozen=True)
class Fold:
    """Speakers that nothing was trained on, and the seed of everything that was.

    Attributes:
        speakers: Held out.
        seed: Of texts, weights, prompts and sampling.
    """

    speakers: tuple[str, ...]
    seed: int

    @property
    def name(self) -> str:
        """Such as `03_08`."""
        return "_".join(speaker.rpartition("_")[2] for speaker in self.speakers)


@dataclass(frozen=True)
class Heard:
    """A supervised model with the evidence that it and its reinforced children hear.

    Attributes:
        trained: The model.
        evidence: Cue values and emotion logits of every row from heads that never saw its speaker.
        head_logits: The model's own head, `(rows, labels)`.
    """

    trained: TrainedModel
    evidence: tuple[np.ndarray, np.ndarray]
    head_logits: np.ndarray


def supervised(features: FeatureSet, sft: SftConfig, fold: Fold, folder: Path, prosody: bool = True) -> Heard:
    """The supervised model of a fold; trained once, then read from `folder`."""
    sft = sft if prosody else replace(sft, prosody_steps=0)
    kept = folder / ("sft.pt" if prosody else "sft_without_prosody.pt")
    train = np.array([i for i, row in enumerate(features.rows) if row.speaker not in fold.speakers])
    if kept.is_file():
        return torch.load(kept, weights_only=False)  # our own file
    trained = train_model(features.select(train), sft, sft.fold_steps, folder / kept.stem, fold.seed)
    values, logits = trained.evidence.predict(features.statistics)
    head = logits.copy()
    values[train], logits[train] = out_of_fold_evidence(
        features.statistics[train],
        [features.rows[i] for i in train],
        sft.cues,
        sft.labels,
        sft.cue_penalty,
        sft.emotion_penalty,
    )
    heard = Heard(trained, (values, logits), head)
    partial = kept.with_suffix(".partial")
    torch.save(heard, partial)
    partial.replace(kept)
    return heard


def one_model(
    name: str, features: FeatureSet, sft: SftConfig, grpo: GrpoConfig, fold: Fold, folder: Path
) -> dict[str, Any]:
    """Trains a row's model and lets it speak of the fold's recordings; weights go to `folder`."""
    began, cpu_began = time.monotonic(), time.process_time()
    heard = supervised(features, sft, fold, folder, prosody=name != "sft_without_prosody")
    trained, speech, log, tokens_per_s = heard.trained, heard.trained.model, [], None
    if name not in SUPERVISED:
        speech = copy.deepcopy(speech)
        config = replace(grpo, validation_speakers=fold.speakers, seed=fold.seed, **MODELS[name])
        prepare_folder(folder / name, config, "benchmark")
        parts = (features, heard.evidence, trained.tokenizer, trained.prompt, sft.labels, trained.thresholds)
        log, tokens_per_s = reinforce(speech, *parts, config, sft, folder / name)
        partial = folder / f"{name}.partial"
        torch.save(speech.state_dict(), partial)
        partial.replace(folder / f"{name}.pt")
    result = {
        "model": name,
        "speakers": list(fold.speakers),
        "seed": fold.seed,
        "training_s": round(time.monotonic() - began, 1),
        "training_cpu_s": round(time.process_time() - cpu_began, 1),
        "completion_tokens_per_s": tokens_per_s,
        "clips": said_of(speech, features, heard, sft.labels, recordings_of(features.rows, fold.speakers), fold.seed),
        "log": log,
    }
    sys.stderr.write(json.dumps({key: result[key] for key in ("model", "speakers", "training_s")}) + "\n")
    return result


def reinforced(name: str, heard: Heard, folder: Path) -> SpeechLanguageModel:
    """The model of a row that `one_model` has trained."""
    speech = copy.deepcopy(heard.trained.model)
    if name not in SUPERVISED:
        speech.load_state_dict(torch.load(folder / f"{name}.pt"))
    return speech.eval()


def said_of(
    speech: SpeechLanguageModel,
    features: FeatureSet,
    heard: Heard,
    labels: Sequence[str],
    indices: np.ndarray,
    seed: int,
) -> list[dict[str, Any]]:
    """What a model says of recordings, one record each: answered as the device does, and of its own accord."""
    speech.eval()
    tokenizer, prompt = heard.trained.tokenizer, heard.trained.prompt
    longest = prompt.max_think_tokens + longest_answer(tokenizer, prompt, labels)
    records: list[dict[str, Any]] = []
    for start in range(0, len(indices), BATCH):
        chosen = indices[start : start + BATCH]
        audio = audio_of(features, *heard.evidence, chosen, speech.evidence.tokens)
        said = generate(speech, tokenizer, prompt, labels, audio)
        greedy = free_replies(speech, tokenizer, prompt, audio, longest)
        sampled = free_replies(speech, tokenizer, prompt, audio, longest, temperature=1.0, seed=seed)
        for i, index in enumerate(chosen):
            row, answer = features.rows[index], str(labels[int(said.label_scores[i].argmax())])
            records.append(
                {
                    "clip": row.clip,
                    "speaker": row.speaker,
                    "truth": str(row.emotion),
                    "answer": answer,
                    "head": str(labels[int(heard.head_logits[index].argmax())]),
                    **verdicts(said.reasoning[i], row, heard.trained.thresholds),
                    "consistent": consistency(said.reasoning[i], answer),
                    "well_formed": parse_response(greedy[i], labels).well_formed,
                    "well_formed_sampled": parse_response(sampled[i], labels).well_formed,
                    "text": said.reasoning[i],
                }
            )
    return records


def verdicts(text: str, row: FeatureRow, thresholds: Thresholds) -> dict[str, int]:
    """How many claims a text makes, how many can be checked, are supported, and name the exact level."""
    claims = parse_claims(text)
    outside = [
        distance_outside(CUE_BY_NAME[claim.cue], claim.level, value_at(claim.cue, row.positions[claim.cue]), thresholds)
        / CUE_BY_NAME[claim.cue].uncertainty
        for claim in claims
        if claim.cue in row.positions and claim.cue in thresholds.cuts
    ]
    return {
        "claims": len(claims),
        "checkable": len(outside),
        "supported": sum(distance <= 1.0 for distance in outside),
        "exact": sum(distance == 0.0 for distance in outside),
        "words": len(text.split()),
    }
