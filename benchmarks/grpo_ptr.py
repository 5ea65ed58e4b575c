"""Does GRPO-PTR make explanations truer without costing accuracy?  python benchmarks/grpo_ptr.py --data DIR ...

On speakers that neither the supervised model nor the reinforcement heard: per seed, nano is trained without the
validation speakers, then reinforced by each variant from that same model. The test speakers are not touched. Intervals
are 95 % bootstrap intervals over clips: they say how much the figures depend on these clips, not on other speakers.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import check_output, commit, cpu_model, deliver, run, table_of

from edge_emotion_train.config import SftConfig, read_config
from edge_emotion_train.evaluate import recordings_of
from edge_emotion_train.evidence import out_of_fold_evidence
from edge_emotion_train.features import FeatureSet
from edge_emotion_train.recipe import TrainedModel, train_model
from edge_emotion_train.reinforcement.config import ABLATIONS, GrpoConfig
from edge_emotion_train.reinforcement.log import draw_curves
from edge_emotion_train.reinforcement.run import prepare_folder
from edge_emotion_train.reinforcement.stage import figures, reinforce
from edge_emotion_train.sft import SpeechLanguageModel
from edge_emotion_train.training_data import load_training_features

REPORTED = ("reward", "format", "accuracy", "reasoning", "factual_alignment", "trust", "schedule", "kl",
            "completion_tokens", "truncated", "step_time_s")  # fmt: skip


def evidence_of(
    trained: TrainedModel, features: FeatureSet, train: np.ndarray, sft: SftConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Evidence of every row from heads that never saw its speaker: out of fold in training, else the model's own."""
    values, logits = trained.evidence.predict(features.statistics)
    values[train], logits[train] = out_of_fold_evidence(
        features.statistics[train],
        [features.rows[i] for i in train],
        sft.cues,
        sft.labels,
        sft.cue_penalty,
        sft.emotion_penalty,
    )
    return values, logits


def one_seed(
    features: FeatureSet, sft: SftConfig, grpo: GrpoConfig, variants: list[str], folder: Path
) -> dict[str, Any]:
    """Figures of the supervised model and of each variant."""
    train = np.array([i for i, row in enumerate(features.rows) if row.speaker not in grpo.validation_speakers])
    held_out = recordings_of(features.rows, grpo.validation_speakers)
    trained = train_model(features.select(train), sft, sft.fold_steps, folder / "sft", grpo.seed)
    evidence = evidence_of(trained, features, train, sft)

    def parts(speech: SpeechLanguageModel) -> tuple[Any, ...]:
        return speech, features, evidence, trained.tokenizer, trained.prompt, sft.labels, trained.thresholds

    results: dict[str, Any] = {"sft": figures(*parts(trained.model), held_out)}
    sys.stderr.write(f"seed {grpo.seed} sft: {row_of('sft', results['sft'])}\n")
    for variant in variants:
        config = replace(grpo, ablation=variant).effective()
        speech = copy.deepcopy(trained.model)
        output = folder / variant
        prepare_folder(output, config, "benchmark")
        began = time.process_time()
        entries, tokens_per_s = reinforce(*parts(speech), config, sft, output)
        results[variant] = figures(*parts(speech), held_out) | {
            "cpu_s": round(time.process_time() - began, 1),
            "completion_tokens_per_s": tokens_per_s,
            "training": {name: [summary(entries[:10], name), summary(entries[-10:], name)] for name in REPORTED},
        }
        draw_curves(entries, output / "curves.png")
        sys.stderr.write(f"seed {grpo.seed} {variant}: {row_of(variant, results[variant])}\n")
    return results


def summary(entries: list[dict[str, Any]], name: str) -> float | None:
    """Mean of a column over some steps."""
    values = [entry[name] for entry in entries if entry.get(name) is not None]
    return round(float(np.mean(values)), 4) if values else None


def row_of(name: str, found: dict[str, Any]) -> list[str]:
    """A row of the table."""
    claims = found["claims"]
    return [
        name,
        "{:.1f} ({:.1f} to {:.1f})".format(*(100 * x for x in (found["answer"]["uar"], *found["answer"]["uar_95"]))),
        f"{100 * claims['supported']:.1f}" if claims["supported"] is not None else "-",
        f"{100 * (found['claims_of_another_clip'] or 0):.1f}",
        f"{claims['checkable_claims_per_text']:.2f}",
        f"{100 * found['consistency']:.1f}",
        f"{found['words_per_text']:.1f}",
        str(found["different_texts"]),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds emodb/ and emogator/")
    parser.add_argument("--encoder-weights", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/nano/cache"))
    parser.add_argument("--work", type=Path, default=Path("runs/grpo_ptr"), help="folder of the runs")
    parser.add_argument("--config", type=Path, default=Path("train/configs/nano.yaml"))
    parser.add_argument("--validation", nargs="+", default=["emodb_13", "emodb_14"])
    parser.add_argument("--variants", nargs="+", default=["v6", "v2"], choices=list(ABLATIONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--sft-steps", type=int, default=320)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--force", action="store_true")
    given = parser.parse_args()
    check_output(given.output, given.force)
    sft = read_config(
        given.config,
        ["--data", str(given.data), "--encoder-weights", str(given.encoder_weights), "--cache", str(given.cache)],
    )
    sft = replace(sft, fold_steps=given.sft_steps)
    features, data_hash = load_training_features(sft)
    features = features.select([i for i, row in enumerate(features.rows) if row.speaker not in sft.test_speakers])
    given.work.mkdir(parents=True, exist_ok=True)
    grpo = GrpoConfig(
        data=given.data,
        encoder_weights=given.encoder_weights,
        checkpoint=given.work,
        sft=given.config,
        force=True,
        validation_speakers=tuple(given.validation),
        steps=given.steps,
        save_every=given.steps,
        learning_rate=given.learning_rate,
    )
    seeds = {}
    for seed in given.seeds:
        seeds[seed] = one_seed(features, sft, replace(grpo, seed=seed), given.variants, given.work / str(seed))
    head = ["model", "UAR of the answer", "claims supported", "of another clip", "claims per text", "consistent",
            "words", "different texts"]  # fmt: skip
    table = table_of([row_of(f"{name}, seed {s}", found) for s, r in seeds.items() for name, found in r.items()], head)
    document = {
        "benchmark": "grpo_ptr",
        "validation_speakers": given.validation,
        "sft_steps": given.sft_steps,
        "grpo_steps": given.steps,
        "completions_per_step": grpo.prompts_per_step * grpo.group,
        "learning_rate": given.learning_rate,
        "seeds": seeds,
        "data_sha256": data_hash,
        "commit": commit(),
        "machine": cpu_model(),
    }
    deliver(document, {}, table, given.output, json_only=False)
    return 0


if __name__ == "__main__":
    run(main)
