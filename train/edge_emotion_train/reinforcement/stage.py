"""The stage `grpo`: a supervised checkpoint of nano, reinforced, with figures before and after."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from peft import LoraConfig, PeftModel
from tokenizers import Tokenizer

from edge_emotion.claims import parse_claims
from edge_emotion.cues import Thresholds
from edge_emotion.errors import ConfigError
from edge_emotion.prompt import Prompt
from edge_emotion_train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, state_hash
from edge_emotion_train.config import SftConfig, read_config
from edge_emotion_train.evaluate import UNCALIBRATED, claims_against, recall_with_interval, recordings_of
from edge_emotion_train.evidence import out_of_fold_evidence
from edge_emotion_train.features import FeatureSet
from edge_emotion_train.generate import generate
from edge_emotion_train.processes import is_main, print_result
from edge_emotion_train.reasoning import CueEmotionTable
from edge_emotion_train.recipe import measured_levels
from edge_emotion_train.reinforcement.config import GrpoConfig
from edge_emotion_train.reinforcement.log import draw_curves
from edge_emotion_train.reinforcement.policy import (
    SpeechForCausalLM,
    copy_back,
    policy_of,
    policy_tokenizer,
    register_policy,
)
from edge_emotion_train.reinforcement.prompts import WITHOUT_FRAMES, audio_of, cached_prompts
from edge_emotion_train.reinforcement.rewards import Heard, consistency
from edge_emotion_train.reinforcement.run import prepare_folder, train, trainer_of
from edge_emotion_train.reward_model.readers import cached_audio
from edge_emotion_train.sft import SpeechLanguageModel
from edge_emotion_train.training_data import load_training_features

CORPUS = "emodb"
Evidence = tuple[np.ndarray, np.ndarray]
_ENDINGS = {"heard": ("",), "withheld": (WITHOUT_FRAMES,), "both": ("", WITHOUT_FRAMES)}


def grpo_stage(config: GrpoConfig) -> None:
    """Reinforces the supervised checkpoint and writes the result as a checkpoint; prints the figures as JSON.

    Evidence is out of fold, as in supervised training: heads say of no clip what they learned from its speaker.
    """
    config = config.effective()
    sft = read_config(config.sft, ["--data", str(config.data), "--encoder-weights", str(config.encoder_weights),
                                   "--cache", str(config.cache)])  # fmt: skip
    start = load_checkpoint(config.checkpoint)
    speech = SpeechLanguageModel(start.tower.evidence, start.tower.audio, start.language_model)
    folder = config.output / "training"
    resume_from = prepare_folder(folder, config, state_hash(speech))
    features, _ = load_training_features(sft)
    features = features.select([i for i, row in enumerate(features.rows) if row.speaker not in sft.test_speakers])
    evidence = out_of_fold_evidence(
        features.statistics, features.rows, start.cues, start.labels, sft.cue_penalty, sft.emotion_penalty
    )
    check_speakers(features, config)
    held_out = recordings_of(features.rows, config.validation_speakers)
    parts = (features, evidence, start.tokenizer, start.prompt, start.labels, start.thresholds)
    before = figures(speech, *parts, held_out) if len(held_out) else None
    entries, tokens_per_s = reinforce(speech, *parts, config, sft, folder, resume_from)
    after = figures(speech, *parts, held_out) if len(held_out) else None
    result = {"before": before, "after": after, "validation_speakers": list(config.validation_speakers)}
    provenance = {
        "config": {name: value for name, value in asdict(config).items() if not isinstance(value, Path)},
        "versions": {name: version(name) for name in ("trl", "peft")},
        "steps": config.steps,
        "completion_tokens_per_s": tokens_per_s,
        "validation": result,
    }
    tower = start.tower  # its projectors are those of `speech`, trained in place
    written = replace(
        start,
        tower=tower.eval(),
        language_model=speech.language_model.eval(),
        calibration=dict(start.calibration) | {"llm": UNCALIBRATED},
        provenance=dict(start.provenance) | {"grpo": provenance},
    )
    if is_main():
        write_results(config.output, written, entries)
    print_result(result)


def check_speakers(features: FeatureSet, config: GrpoConfig) -> None:
    """Raises ConfigError for a validation speaker that does not exist."""
    unknown = sorted(set(config.validation_speakers) - {row.speaker for row in features.rows})
    if unknown:
        raise ConfigError(f"validation_speakers: nobody to train on is called {', '.join(unknown)}")


def reinforce(
    speech: SpeechLanguageModel,
    features: FeatureSet,
    evidence: Evidence,
    tokenizer: Tokenizer,
    prompt: Prompt,
    labels: Sequence[str],
    thresholds: Thresholds,
    config: GrpoConfig,
    sft: SftConfig,
    folder: Path,
    resume_from: Path | None = None,
) -> tuple[list[dict[str, Any]], float | None]:
    """Trains `speech` in place on clips of all but the validation speakers; returns the log and tokens per second."""
    register_policy()
    policy = policy_of(speech, tokenizer, prompt)
    prompts = prompt_rows(features, labels, config, sft.max_duration_s)
    speakers = [i for i in prompts if features.rows[i].variant == 0]
    table = CueEmotionTable().fit(
        [measured_levels(features.rows[i], thresholds) for i in speakers],
        [str(features.rows[i].emotion) for i in speakers],
    )
    keys = {row_key(features, i): i for i in prompts}
    hear = cached_audio(features, *evidence, sft.cues)
    trainer = trainer_of(
        policy,
        policy_tokenizer(tokenizer),
        cached_prompts(features, *evidence, keys, tokenizer, prompt, speech.evidence.tokens),
        [
            {"prompt": key + ending, "id": key, "emotion": str(features.rows[i].emotion)}
            for ending in _ENDINGS[config.frames]
            for key, i in keys.items()
        ],
        {key: Heard(features.rows[i].positions, thresholds, audio=hear(i)) for key, i in keys.items()},
        table,
        labels,
        config,
        folder,
        opening="<think>",
        max_completion_tokens=prompt.max_think_tokens + longest_answer(tokenizer, prompt, labels),
        peft_config=lora(config.lora_rank),
    )
    entries = train(trainer, resume_from, folder)
    trained = trainer.accelerator.unwrap_model(trainer.model)  # pyright: ignore[reportArgumentType]
    merged = trained.merge_and_unload() if isinstance(trained, PeftModel) else trained
    assert isinstance(merged, SpeechForCausalLM)
    copy_back(merged.cpu(), speech)
    times = [entry["step_time_s"] for entry in entries if entry.get("step_time_s")]
    tokens = [entry["completion_tokens"] for entry in entries if entry.get("completion_tokens")]
    per_step = config.prompts_per_step * config.group
    return entries, round(float(np.mean(tokens)) * per_step / float(np.median(times)), 1) if times else None


def prompt_rows(features: FeatureSet, labels: Sequence[str], config: GrpoConfig, max_duration_s: float) -> list[int]:
    """Indices of the rows that give prompts; a row whose features are not finite is named and left out."""
    chosen = []
    for i, row in enumerate(features.rows):
        if row.corpus != CORPUS or row.emotion not in labels or row.variant > config.variants:
            continue
        if row.speaker in config.validation_speakers or row.duration_s > max_duration_s:
            continue
        frames = features.frames[features.offsets[i] : features.offsets[i + 1]]
        if not (np.isfinite(frames).all() and np.isfinite(features.statistics[i]).all()):
            sys.stderr.write(f"{row.clip}, variant {row.variant}: features are not finite; it is left out\n")
            continue
        chosen.append(i)
    if not chosen:
        raise ConfigError("no clip is left to train on: every one is of a validation speaker, too long or unlabelled")
    return chosen


def row_key(features: FeatureSet, index: int) -> str:
    """Name of a row: its clip, and the number of its variant."""
    row = features.rows[index]
    return f"{row.clip}+{row.variant}"


def longest_answer(tokenizer: Tokenizer, prompt: Prompt, labels: Sequence[str]) -> int:
    """Tokens of the longest answer with its tags."""
    return max(len(tokenizer.encode(prompt.answer_open + label + prompt.answer_close).ids) for label in labels)


def lora(rank: int) -> LoraConfig | None:
    """LoRA on the language model's linear layers, none for rank 0."""
    if not rank:
        return None
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=r".*layers\.\d+\..*\.(q|k|v|o|gate|up|down)_proj")


def figures(
    speech: SpeechLanguageModel,
    features: FeatureSet,
    evidence: Evidence,
    tokenizer: Tokenizer,
    prompt: Prompt,
    labels: Sequence[str],
    thresholds: Thresholds,
    indices: np.ndarray,
) -> dict[str, Any]:
    """What a model says of recordings, greedily as on the device: answers, claims, and whether they agree."""
    speech.eval()
    reasoning: list[str] = []
    scores: list[np.ndarray] = []
    for start in range(0, len(indices), 64):
        audio = audio_of(features, *evidence, indices[start : start + 64], speech.evidence.tokens)
        said = generate(speech, tokenizer, prompt, labels, audio)
        reasoning += said.reasoning
        scores.append(said.label_scores)
    answers = np.concatenate(scores).argmax(axis=1)
    rows = [features.rows[i] for i in indices]
    truth = [list(labels).index(str(row.emotion)) for row in rows]
    agreement = [consistency(text, str(labels[answer])) for text, answer in zip(reasoning, answers, strict=True)]
    return {
        "answer": recall_with_interval(truth, answers.tolist(), [row.clip for row in rows]) | {"uar_per_speaker": None},
        "claims": claims_against(reasoning, rows, thresholds),
        "claims_of_another_clip": claims_against(reasoning, rows[1:] + rows[:1], thresholds)["supported"],
        "claims_per_text": round(float(np.mean([len(parse_claims(text)) for text in reasoning])), 2),
        "consistency": round(float(np.mean(agreement)), 4),
        "words_per_text": round(float(np.mean([len(text.split()) for text in reasoning])), 1),
        "different_texts": len(set(reasoning)),
        "examples": reasoning[:3],
    }


def write_results(output: Path, checkpoint: Checkpoint, entries: Sequence[Mapping[str, Any]]) -> None:
    """The checkpoint, its log and its curves."""
    save_checkpoint(output, checkpoint)
    partial = output / "metrics.partial"
    partial.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    partial.rename(output / "metrics.jsonl")
    if entries:
        draw_curves(entries, output / "curves.png")
