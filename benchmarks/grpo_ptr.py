"""Does GRPO-PTR make explanations truer without costing accuracy?  python benchmarks/grpo_ptr.py --data DIR ...

The paper's ablation (V1 to V6) and our variants. How: `HOW`, which also stands above the table.

Each model of each fold is a file in the folder of the runs, written when it is done: a run that is cut off goes on
where it was, and several may share the work by `--folds` and `--models`. `--report` only makes the table of what is
there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from common import check_output, commit, cpu_model, deliver, run
from grpo_ptr_models import MODELS, SUPERVISED, Fold, one_model
from grpo_ptr_table import Results, by_fold, compare, draw_variants, markdown, replication

from edge_emotion.errors import EdgeEmotionError
from edge_emotion_train.config import SftConfig, read_config, read_config_of
from edge_emotion_train.features import FeatureSet
from edge_emotion_train.reinforcement.config import GrpoConfig
from edge_emotion_train.training_data import load_training_features

FOLDS = tuple(
    Fold(tuple(f"emodb_{number}" for number in pair), seed)
    for seed, pair in enumerate((("13", "14"), ("03", "08"), ("09", "10"), ("11", "12")), 1)
)
HOW = """By folds: nano is trained by supervision without the fold's speakers, then reinforced by each variant from
that same model, without them too; figures are taken on them. Each fold has a seed of its own. No test speaker is heard.
The recipe of the reinforcement was chosen among six on the fold 13_14 and three on 03_08, so there it is picked and not
confirmed; 09_10 and 11_12 had no part in it. Intervals are 95 % bootstrap intervals that draw speakers and then clips
of each; differences are taken on the same clips."""
SHOWN = ("steps", "prompts_per_step", "group", "learning_rate", "beta", "temperature", "frames", "dimension_weights",
         "expected_cues", "schedule", "schedule_threshold", "schedule_window", "warmup_steps")  # fmt: skip


def read_configs(given: argparse.Namespace) -> tuple[SftConfig, GrpoConfig]:
    """The supervised model's configuration at the benchmark's budget, and that of the reinforcement."""
    paths = ["--data", str(given.data), "--encoder-weights", str(given.encoder_weights), "--cache", str(given.cache)]
    sft = read_config(given.config, paths)
    sft = replace(sft, fold_steps=given.sft_steps or sft.fold_steps)
    given.work.mkdir(parents=True, exist_ok=True)
    own = ["--checkpoint", str(given.work), "--sft", str(given.config), "--force"]
    if given.reward_model:
        own += ["--reward-model", str(given.reward_model)]
    grpo = read_config_of(GrpoConfig, given.grpo, paths + own)
    return sft, replace(grpo, save_every=max(grpo.steps, 1) * grpo.iterations)


def open_work(given: argparse.Namespace) -> Iterator[tuple[Fold, str, Path]]:
    """Fold, model and file of what is not done yet, fold by fold, the supervised models first."""
    for fold in FOLDS:
        if fold.name in given.folds:
            for name in given.models:
                path = given.work / fold.name / f"{name}.json"
                if not path.is_file():
                    yield fold, name, path


def work_through(given: argparse.Namespace, sft: SftConfig, grpo: GrpoConfig) -> None:
    """Does the open work until the time is up."""
    features: FeatureSet | None = None
    began = time.monotonic()
    longest_s = 0.0
    for fold, name, path in open_work(given):
        if given.minutes and time.monotonic() - began + longest_s > 60.0 * given.minutes:
            sys.stderr.write("the time is up; start again to go on\n")
            return
        if features is None:
            features, _ = load_training_features(sft)
            chosen = [i for i, row in enumerate(features.rows) if row.speaker not in sft.test_speakers]
            features = features.select(chosen)
        path.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        result = one_model(name, features, sft, grpo, fold, path.parent)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(result) + "\n")
        partial.replace(path)
        longest_s = max(longest_s, time.monotonic() - started)


def results_in(folder: Path) -> Results:
    """What is done, by model."""
    found: dict[str, list[dict[str, Any]]] = {}
    for fold in FOLDS:
        for name in MODELS:
            path = folder / fold.name / f"{name}.json"
            if path.is_file():
                found.setdefault(name, []).append(json.loads(path.read_text()))
    if not found.get("sft"):
        raise EdgeEmotionError(f"{folder} holds no supervised model yet; run without --report first")
    return found


def report(results: Results, grpo: GrpoConfig, sft: SftConfig, output: Path | None) -> tuple[dict[str, Any], str]:
    """The document and the text; beside the output also the text as Markdown and the curves."""
    document = {
        "benchmark": "grpo_ptr",
        "folds": [{"speakers": list(fold.speakers), "seed": fold.seed} for fold in FOLDS],
        "sft_steps": sft.fold_steps,
        "prosody_steps": sft.prosody_steps,
        "grpo": {name: value for name, value in asdict(grpo).items() if name in SHOWN},
        "models": compare(results),
        "by_fold": by_fold(results),
        "examples": {name: [clip["text"] for clip in folds[0]["clips"][:3]] for name, folds in results.items()},
        "commit": commit(),
        "machine": cpu_model(),
    }
    claims = "\n".join(replication(results))
    text = f"{markdown(document['models'])}\n\nThe paper's ablation at this size:\n\n{claims}"
    if output:
        head = f"# GRPO-PTR at the size of nano\n\nMade by `benchmarks/grpo_ptr.py`. {HOW}\n\n"
        picture = output.with_suffix(".png")
        draw_variants(results, picture)
        partial = output.with_suffix(".partial")
        partial.write_text(f"{head}{text}\n\n![Curves of the reinforcement]({picture.name})\n")
        partial.replace(output.with_suffix(".md"))
    return document, text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds emodb/ and emogator/")
    parser.add_argument("--encoder-weights", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/nano/cache"))
    parser.add_argument("--work", type=Path, default=Path("runs/grpo_ptr"), help="folder of the runs")
    parser.add_argument("--config", type=Path, default=Path("train/configs/nano.yaml"))
    parser.add_argument("--grpo", type=Path, default=Path("train/configs/nano_grpo.yaml"))
    parser.add_argument("--reward-model", type=Path, help="folder of the trained reward model, for V3 and V6")
    parser.add_argument("--folds", nargs="+", default=[fold.name for fold in FOLDS], help="such as 13_14")
    parser.add_argument("--models", nargs="+", default=list(SUPERVISED), choices=list(MODELS), metavar="MODEL",
                        help=f"of {', '.join(MODELS)}")  # fmt: skip
    parser.add_argument("--sft-steps", type=int, help="instead of the configuration's fold_steps")
    parser.add_argument("--minutes", type=float, help="begin nothing that would end later than this")
    parser.add_argument("--report", action="store_true", help="train nothing, report what is done")
    parser.add_argument("-o", "--output", type=Path, help="result file; a .md and a .png are written beside it")
    parser.add_argument("--force", action="store_true", help="replace the output file")
    given = parser.parse_args()
    check_output(given.output, given.force)
    sft, grpo = read_configs(given)
    if not given.report:
        work_through(given, sft, grpo)
    document, text = report(results_in(given.work), grpo, sft, given.output)
    deliver(document, {}, text, given.output, json_only=False)
    return 0


if __name__ == "__main__":
    run(main)
