"""The stage `reward`: tuples, training, calibration and figures of the small preset's reward model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata

from edge_emotion.cues import Thresholds
from edge_emotion.errors import ConfigError
from edge_emotion.prompt import Prompt
from edge_emotion_train.checkpoint import load_checkpoint
from edge_emotion_train.config import SftConfig, read_config
from edge_emotion_train.evidence import (
    EvidenceFit,
)
from edge_emotion_train.features import FeatureSet
from edge_emotion_train.processes import is_main, main_first, print_result
from edge_emotion_train.reasoning import CueEmotionTable
from edge_emotion_train.recipe import build_model, hear, measured_levels, set_levels
from edge_emotion_train.reinforcement.policy import policy_of
from edge_emotion_train.reinforcement.rewards import DIMENSIONS
from edge_emotion_train.reward_model.calibration import calibrated, fit_calibration
from edge_emotion_train.reward_model.checkpoint import RewardCheckpoint, save_reward_model
from edge_emotion_train.reward_model.config import RewardConfig
from edge_emotion_train.reward_model.model import RewardModel
from edge_emotion_train.reward_model.readers import CachedAudio, CachedReader
from edge_emotion_train.reward_model.training import RewardCollator, predict, reward_trainer, train
from edge_emotion_train.reward_model.tuples import RewardTuple, load_tuples, make_tuples, row_key, save_tuples
from edge_emotion_train.runs import open_run
from edge_emotion_train.sft import SpeechLanguageModel
from edge_emotion_train.tokenizer import train_tokenizer
from edge_emotion_train.training_data import load_training_features

CORPUS = "emodb"
# What may change between a run and its resumption.
_FREE = ("data", "encoder_weights", "sft", "cache", "start", "output", "resume", "force", "save_every", "report_to")


@dataclass(frozen=True)
class Population:
    """What the training speakers teach of everybody.

    Attributes:
        thresholds: Cut points of their levels.
        table: Which emotions their levels suggest.
        evidence: Heads fitted on them.
        deviation: Errors of the heads on speakers that they did not see, `(cues,)`.
        heard: What is heard of every row's cues, on their own scales, `(n, cues)`; out of fold for training speakers.
        emotion_logits: The same of the emotions, `(n, labels)`.
    """

    thresholds: Thresholds
    table: CueEmotionTable
    evidence: EvidenceFit
    deviation: np.ndarray
    heard: np.ndarray
    emotion_logits: np.ndarray

    def audio(self, features: FeatureSet, index: int) -> CachedAudio:
        """The recording of a row, as the reward model hears it."""
        frames = features.frames[features.offsets[index] : features.offsets[index + 1]]
        return CachedAudio(self.heard[index], self.emotion_logits[index], frames)


def reward_stage(config: RewardConfig) -> None:
    """Trains the reward model and writes it; prints its figures on the calibration speakers as JSON."""
    sft = read_config(config.sft, ["--data", str(config.data), "--encoder-weights", str(config.encoder_weights),
                                   "--cache", str(config.cache)])  # fmt: skip
    folder = config.output / "training"
    settings = {name: value for name, value in asdict(config).items() if name not in _FREE}
    open_run(folder, settings, config.resume, config.force)
    features, data_hash = load_training_features(sft)
    training, calibrating = split_rows(features, config, sft)
    population = population_of(features, training, sft)
    with main_first():
        tuples = read_or_make_tuples(folder / "tuples.jsonl", features, training + calibrating, population, config)
    keys = {row_key(row): index for index, row in enumerate(features.rows)}
    apart = set(config.calibration_speakers)
    own = [item for item in tuples if item.speaker not in apart]
    held_back = [item for item in tuples if item.speaker in apart]
    model, reader = build_reward_model(own, population, features, config, sft)

    def audio_of(key: str) -> CachedAudio:
        return population.audio(features, keys[key])

    collator = RewardCollator(reader, audio_of, config.frames_dropped, config.audio_dropped)
    rows = [{"audio": t.key, "reasoning": t.reasoning, "scores": t.scores, "claims": t.claims} for t in own]
    trainer = reward_trainer(
        model, rows, collator, folder,
        steps=config.steps, batch_size=config.batch_size, learning_rate=config.learning_rate, seed=config.seed,
        save_every=config.save_every, report_to=config.report_to,
    )  # fmt: skip
    history = train(trainer, config.resume)
    if not is_main():
        return
    model = model.cpu().eval()
    predicted = predict(model, reader, [(audio_of(t.key), t.reasoning) for t in held_back])
    target = np.array([t.scores for t in held_back], dtype=float)
    calibration = fit_calibration(predicted, target)
    figures = {
        "speakers": list(config.calibration_speakers),
        "tuples": len(held_back),
        "before": agreement(predicted, target),
        "after": agreement(calibrated(predicted, calibration), target),
    }
    provenance = {
        # Paths are this machine's business.
        "config": {name: value for name, value in asdict(config).items() if not isinstance(value, Path)},
        "training_speakers": sorted({item.speaker for item in own}),
        "tuples": len(own),
        "unheard_by_start": unheard_by(config.start),
        "data_sha256": data_hash,
        "versions": {name: version(name) for name in ("torch", "transformers", "scikit-learn", "numpy", "tokenizers")},
        "calibration": figures,
    }
    checkpoint = RewardCheckpoint(model, reader, calibration, sft.cues, sft.labels, population.thresholds, provenance)
    save_reward_model(config.output, checkpoint)
    with (config.output / "metrics.jsonl").open("w") as log:
        log.writelines(json.dumps(entry) + "\n" for entry in history)
    print_result(figures)


def split_rows(features: FeatureSet, config: RewardConfig, sft: SftConfig) -> tuple[list[int], list[int]]:
    """Rows of the training speakers, whatever the corpus, and recordings of those who calibrate.

    Raises:
        ConfigError: A speaker is unknown, is a test speaker, or nobody is left to train on.
    """
    speakers = {row.speaker for row in features.rows}
    apart = {*config.held_out_speakers, *config.calibration_speakers}
    unknown = sorted(apart - speakers)
    if unknown:
        raise ConfigError(f"held_out_speakers, calibration_speakers: nobody is called {', '.join(unknown)}")
    tested = sorted(set(config.calibration_speakers) & set(sft.test_speakers))
    if tested:
        raise ConfigError(f"calibration_speakers: {', '.join(tested)} is for testing only")
    left_out = apart | set(sft.test_speakers)
    training = [i for i, row in enumerate(features.rows) if row.speaker not in left_out]
    if not any(features.rows[i].corpus == CORPUS for i in training):
        raise ConfigError("nobody is left to train on; hold out fewer speakers")
    calibrating = [
        i for i, row in enumerate(features.rows) if row.speaker in config.calibration_speakers and row.variant == 0
    ]
    return training, calibrating


def population_of(features: FeatureSet, training: Sequence[int], sft: SftConfig) -> Population:
    """Fits thresholds, table and evidence on training rows, and hears every row with them."""
    known = hear(features.select(training), sft)
    recordings = [
        row
        for row in (features.rows[i] for i in training)
        if row.corpus == CORPUS and row.variant == 0 and row.emotion in sft.labels
    ]
    table = CueEmotionTable().fit(
        [measured_levels(row, known.thresholds) for row in recordings], [str(row.emotion) for row in recordings]
    )
    values, logits = known.evidence.predict(features.statistics)
    heard = values * known.evidence.cue_scale + known.evidence.cue_mean
    heard[list(training)], logits[list(training)] = known.values, known.emotion_logits
    return Population(known.thresholds, table, known.evidence, known.deviation, heard, logits)


def read_or_make_tuples(
    path: Path, features: FeatureSet, indices: Sequence[int], population: Population, config: RewardConfig
) -> list[RewardTuple]:
    """The tuples of a run, made once. Each speaker borrows from its own side: training, or calibration."""
    if not path.is_file():
        made: list[RewardTuple] = []
        calibrates = {i for i in indices if features.rows[i].speaker in config.calibration_speakers}
        rng = np.random.default_rng(config.seed)
        for side in (set(indices) - calibrates, calibrates):
            spoken = [i for i in sorted(side) if features.rows[i].corpus == CORPUS]
            recordings = [i for i in spoken if features.rows[i].variant == 0]
            full = sorted(rng.permutation(recordings)[: round(config.full_share * len(recordings))].tolist())
            short = [i for i in spoken if features.rows[i].variant <= config.variants]
            parts = (population.thresholds, population.table)
            made += make_tuples(features, short, *parts, "nano", config.seed)
            made += make_tuples(features, full, *parts, "full", config.seed)
        save_tuples(path, made)
    return load_tuples(path)


def build_reward_model(
    tuples: Sequence[RewardTuple],
    population: Population,
    features: FeatureSet,
    config: RewardConfig,
    sft: SftConfig,
) -> tuple[RewardModel, CachedReader]:
    """A fresh model with a BPE of its own, or one that continues a supervised model.

    Raises:
        ConfigError: `start` holds a model of other cues or labels.
    """
    torch.manual_seed(config.seed)
    if config.start is None:
        tokenizer = train_tokenizer([item.reasoning for item in tuples], config.vocabulary)
        sizes = replace(sft, embedding_dim=config.embedding_dim, language_model_layers=config.layers)
        speech = build_model(sizes, tokenizer, features.frames.shape[2])
    else:
        start = load_checkpoint(config.start)
        if (start.cues, start.labels) != (sft.cues, sft.labels):
            raise ConfigError(f"start: {config.start} knows other cues or labels than {config.sft}")
        tokenizer = start.tokenizer
        speech = SpeechLanguageModel(start.tower.evidence, start.tower.audio, start.language_model)
    set_levels(speech.evidence, population.evidence, population.thresholds, population.deviation)
    body = policy_of(speech, tokenizer, Prompt()).model
    reader = CachedReader(
        tokenizer,
        sft.evidence_tokens,
        np.asarray(population.evidence.cue_mean),
        np.asarray(population.evidence.cue_scale),
        len(sft.labels),
        (features.frames.shape[1], features.frames.shape[2]),
        config.frames_dropped < 1,
    )
    return RewardModel(body, body.config.hidden_size, config.claim_weight, config.text_weight), reader


def unheard_by(start: Path | None) -> list[str] | None:
    """The test speakers of the model that is started from, as figures of nobody else are honest; None for no model."""
    return None if start is None else list(load_checkpoint(start).provenance["config"]["test_speakers"])


def agreement(predicted: np.ndarray, target: np.ndarray) -> dict[str, dict[str, float]]:
    """Mean absolute error and rank correlation per dimension."""
    return {
        name: {
            "mean_error": round(float(np.abs(predicted[:, i] - target[:, i]).mean()), 3),
            "rank_correlation": round(float(np.corrcoef(rankdata(predicted[:, i]), rankdata(target[:, i]))[0, 1]), 3),
        }
        for i, name in enumerate(DIMENSIONS)
    }
