"""Does prosody training teach the tasks, and does it help reasoning?  python benchmarks/prosody_tasks.py --data DIR ...

Folds of training speakers; of the speakers of a fold nothing is trained. Per fold and seed up to four models, each kept
in `--work`, so that a run can be cut off or split with `--parts` and `--folds`:

  prosody   the prosody tasks alone
  with      reasoning, started from it
  without   reasoning alone, as many steps of reasoning
  longer    reasoning alone, as many steps in all

Intervals are 95 % bootstrap intervals over speakers. `--final` takes the test speakers for the one fold, once, when
everything has been chosen.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import check_output, commit, cpu_model, deliver, run, table_of

from edge_emotion.cues import CUE_BY_NAME, level_of
from edge_emotion.errors import EdgeEmotionError
from edge_emotion.metrics import bootstrap_interval
from edge_emotion_train.checkpoint import load_checkpoint, save_checkpoint
from edge_emotion_train.config import SftConfig, read_config
from edge_emotion_train.evaluate import evaluate_speakers, recall_with_interval, recordings_of
from edge_emotion_train.explanations import value_at
from edge_emotion_train.features import FeatureSet
from edge_emotion_train.labelling.view_prosody import LEVEL_TASKS, three_way
from edge_emotion_train.prosody_features import ProsodyFeatures
from edge_emotion_train.prosody_tasks import (
    ORDER_TASKS,
    TASKS,
    Item,
    accuracy_with_interval,
    answer_items,
    prosody_items,
)
from edge_emotion_train.recipe import TrainedModel, train_model
from edge_emotion_train.stages import as_checkpoint
from edge_emotion_train.training_data import load_training_features, load_triples_and_shapes

PARTS = ("prosody", "with", "without", "longer")
TARGETS = dict.fromkeys(TASKS, 0.75) | {"intonation": 0.6}
# What is heard in each way of asking: everything, another recording, only one kind of token.
WAYS = ("all", "another clip", "no evidence tokens", "no audio tokens")


@dataclass(frozen=True)
class Fold:
    """Who is held out, the features of everybody, and the steps of each phase."""

    held_out: tuple[str, ...]
    features: FeatureSet
    prosody: ProsodyFeatures
    config: SftConfig
    steps: int
    seed: int
    folder: Path

    def train_features(self) -> FeatureSet:
        unseen = {*self.held_out, *self.config.test_speakers}
        return self.features.select([i for i, row in enumerate(self.features.rows) if row.speaker not in unseen])


def run_part(fold: Fold, part: str) -> dict[str, Any]:
    """Trains and asks one of the models of a fold; reads what it said where that is known already."""
    path = fold.folder / f"{part}.json"
    if path.is_file():
        return json.loads(path.read_text())
    config, steps, start = fold.config, fold.steps, None
    if part == "prosody":
        steps = 0
    elif part == "with":
        if not (fold.folder / "prosody.json").is_file():
            raise EdgeEmotionError(f"{fold.folder}: run the part prosody first")
        start = load_checkpoint(fold.folder / "prosody")
    else:
        steps += config.prosody_steps if part == "longer" else 0
        config = replace(config, prosody_steps=0)
    began = time.process_time()
    trained = train_model(fold.train_features(), config, steps, fold.folder / "training" / part, fold.seed, start)
    result: dict[str, Any] = {"cpu_s": round(time.process_time() - began, 1), "tasks": ask_all(fold, trained)}
    if part == "prosody":
        result["heads"] = ask_heads(fold, trained)
        save_checkpoint(fold.folder / "prosody", as_checkpoint(trained, config, {"stage": "prosody"}))
    else:
        held_out = recordings_of(fold.features.rows, fold.held_out)
        said = evaluate_speakers(trained, fold.features, config, held_out, fold.seed)
        result["reasoning"] = {name: value for name, value in said.items() if name not in ("head_logits", "examples")}
    path.with_suffix(".partial").write_text(json.dumps(result))
    path.with_suffix(".partial").rename(path)
    return result


def ask_all(fold: Fold, trained: TrainedModel) -> dict[str, Any]:
    """Answers of the held-out speakers' recordings to every task, in each of `WAYS`."""
    heard = fold.features.select(recordings_of(fold.features.rows, fold.held_out))
    evidence = trained.evidence.predict(heard.statistics)
    rng, found = np.random.default_rng(fold.seed), {}
    for task, items in prosody_items(heard, fold.prosody, trained.thresholds).items():
        rows = [item.row for item in items]
        others = [rows[i] for i in another_of_each(len(rows), rng)]
        options: tuple[dict[str, Any], ...] = ({}, {"audio_of": others}, {"evidence": False}, {"frames": False})
        source = fold.prosody.triples if task in ORDER_TASKS else heard
        parts = (trained.model, trained.tokenizer, trained.prompt, items, heard, fold.prosody, *evidence)
        found[task] = {
            "speakers": [source.rows[row].speaker for row in rows],
            "answers": [item.answer for item in items],
            "accepted": [list(item.accepted) for item in items],
            "said": {way: answer_items(*parts, **how) for way, how in zip(WAYS, options, strict=True)},
        }
    return found


def another_of_each(count: int, rng: np.random.Generator) -> list[int]:
    """For each of `count` another one at random, none its own."""
    order = rng.permutation(count)
    partner = np.empty(count, dtype=int)
    partner[order] = np.roll(order, -1)
    return partner.tolist()


def ask_heads(fold: Fold, trained: TrainedModel) -> dict[str, list[str]]:
    """What the linear heads alone would answer to the questions about levels."""
    heard = fold.features.select(recordings_of(fold.features.rows, fold.held_out))
    values = trained.evidence.predict(heard.statistics)[0] * trained.evidence.cue_scale + trained.evidence.cue_mean
    said = {}
    for task, items in prosody_items(heard, fold.prosody, trained.thresholds).items():
        if task in LEVEL_TASKS:
            cues, names = LEVEL_TASKS[task]
            cue = CUE_BY_NAME[next(name for name in cues if name in trained.thresholds.cuts)]
            column = trained.evidence.cues.index(cue.name)
            said[task] = [
                three_way(
                    cue.levels, level_of(cue, value_at(cue.name, values[item.row, column]), trained.thresholds), names
                )
                for item in items
            ]
    return said


def pooled_tasks(parts: Sequence[dict[str, Any]], way: str = "all") -> dict[str, Any]:
    """Figures of each task over folds and seeds."""
    found = {}
    for task in TASKS:
        items, said, speakers = pooled_items(parts, task, way)
        found[task] = accuracy_with_interval(items, said, speakers)
    return found


def pooled_items(parts: Sequence[dict[str, Any]], task: str, way: str) -> tuple[list[Item], list[str], list[str]]:
    """Questions, answers and speakers of a task over folds and seeds."""
    of_task = [part["tasks"][task] for part in parts]
    options = options_of(task)
    items = [
        Item(task, 0, options, answer, tuple(accepted))
        for one in of_task
        for answer, accepted in zip(one["answers"], one["accepted"], strict=True)
    ]
    said = [text for one in of_task for text in one["said"][way]]
    return items, said, [speaker for one in of_task for speaker in one["speakers"]]


def options_of(task: str) -> tuple[str, ...]:
    """As many as can be answered: only their number counts here."""
    if task in LEVEL_TASKS:
        return LEVEL_TASKS[task][1]
    return ("",) * 6


def pooled_heads(parts: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Accuracy of the linear heads at the levels."""
    return {
        task: round(
            float(
                np.mean(
                    [s == a for p in parts for s, a in zip(p["heads"][task], p["tasks"][task]["answers"], strict=True)]
                )
            ),
            4,
        )
        for task in LEVEL_TASKS
    }


def pooled_reasoning(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """UAR over folds and seeds, and claims supported with their interval over folds and seeds."""
    said = [part["reasoning"] for part in parts]
    truth = [label for one in said for label in one["truth"]]
    answers = [int(np.argmax(scores)) for one in said for scores in one["label_scores"]]
    recall = recall_with_interval(truth, answers, [speaker for one in said for speaker in one["speakers"]])
    supported = [one["claims"]["supported"] or 0.0 for one in said]
    low, high = bootstrap_interval(lambda values: float(np.mean(values)), np.array(supported))
    return {
        "uar": recall["uar"],
        "uar_95": recall["uar_95"],
        "claims_supported": round(float(np.mean(supported)), 4),
        "claims_supported_95": [round(low, 4), round(high, 4)],
        "claims_supported_each": supported,
        "claims_exact": round(float(np.mean([one["claims"]["exact_level"] or 0.0 for one in said])), 4),
        "claims_per_text": round(float(np.mean([one["claims"]["checkable_claims_per_text"] for one in said])), 2),
        "claims_of_another_clip": round(
            float(np.mean([one["claims_of_another_clip"]["supported"] or 0.0 for one in said])), 4
        ),
    }


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def task_table(found: dict[str, Any]) -> str:
    """Markdown: tasks down, ways of asking across."""
    rows = []
    for task in TASKS:
        after = found["prosody"]["all"][task]
        if after["accuracy"] is None:
            continue
        low, high = after["accuracy_95"]
        rows.append(
            [
                task,
                f"{percent(after['accuracy'])} ({percent(low)} to {percent(high)})",
                percent(after["within_uncertainty"]),
                percent(TARGETS[task]),
                percent(after["chance"]),
                percent(after["majority"]),
                percent(found["heads"].get(task)),
                *(percent(found["prosody"][way][task]["accuracy"]) for way in WAYS[1:]),
                *(percent(found[p][task]["accuracy"]) if p in found else "-" for p in ("without", "with")),
            ]
        )
    head = ["task", "accuracy (95 %)", "within uncertainty", "goal", "chance", "commonest", "linear heads", *WAYS[1:],
            "reasoning alone", "after reasoning"]  # fmt: skip
    return table_of(rows, head)


def reasoning_table(found: dict[str, Any]) -> str:
    """Markdown: models down."""
    rows = [
        [
            part,
            f"{percent(r['uar'])} ({percent(r['uar_95'][0])} to {percent(r['uar_95'][1])})",
            "{} ({} to {})".format(*map(percent, (r["claims_supported"], *r["claims_supported_95"]))),
            percent(r["claims_of_another_clip"]),
            f"{r['claims_per_text']:.2f}",
        ]
        for part, r in found.items()
    ]
    return table_of(rows, ["reasoning", "UAR of the answer", "claims supported", "of another clip", "claims per text"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds emodb/ and emogator/")
    parser.add_argument("--encoder-weights", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/nano/cache"))
    parser.add_argument(
        "--work", type=Path, default=Path("runs/prosody_tasks"), help="folder of the models and answers"
    )
    parser.add_argument("--config", type=Path, default=Path("train/configs/nano.yaml"))
    parser.add_argument("--prosody-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=320, help="steps of reasoning")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3], help="which of 4 folds of 2 speakers")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--final", action="store_true", help="hold out the test speakers instead: once, at the end")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--force", action="store_true", help="replace the output file")
    given, overrides = parser.parse_known_args()
    check_output(given.output, given.force)
    paths = {"--data": given.data, "--encoder-weights": given.encoder_weights, "--cache": given.cache}
    options = [text for option, value in paths.items() for text in (option, str(value))]
    config = read_config(given.config, [*options, "--prosody-steps", str(given.prosody_steps), *overrides])
    features, data_hash = load_training_features(config)
    prosody = load_triples_and_shapes(config)
    speakers = sorted({row.speaker for row in features.rows if row.corpus == "emodb"} - {*config.test_speakers})
    pairs = [tuple(map(str, pair)) for pair in np.array_split(speakers, 4)]
    chosen = {"final": config.test_speakers} if given.final else {f"fold-{i}": pairs[i] for i in given.folds}
    parts: dict[str, list[dict[str, Any]]] = {part: [] for part in given.parts}
    for name, held_out in chosen.items():
        for seed in given.seeds:
            folder = given.work / name / f"seed-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            fold = Fold(held_out, features, prosody, config, given.steps, seed, folder)
            for part in given.parts:
                parts[part].append(run_part(fold, part))
                sys.stderr.write(f"{name}, seed {seed}, {part}: {parts[part][-1]['cpu_s']} s of CPU\n")
    found: dict[str, Any] = {part: pooled_tasks(parts[part]) for part in given.parts if part != "prosody"}
    tables = []
    if "prosody" in parts:
        found["prosody"] = {way: pooled_tasks(parts["prosody"], way) for way in WAYS}
        found["heads"] = pooled_heads(parts["prosody"])
        tables.append(task_table(found))
    reasoning = {part: pooled_reasoning(parts[part]) for part in given.parts if part != "prosody"}
    if reasoning:
        tables.append(reasoning_table(reasoning))
    document = {
        "benchmark": "prosody_tasks",
        "held_out": {name: list(held_out) for name, held_out in chosen.items()},
        "seeds": given.seeds,
        "prosody_steps": given.prosody_steps,
        "reasoning_steps": given.steps,
        "batch_size": config.batch_size,
        "options": overrides,
        "tasks": found,
        "reasoning": reasoning,
        "cpu_s": {part: [one["cpu_s"] for one in runs] for part, runs in parts.items()},
        "triples": {"made": len(prosody.orders), "not_made": dict(prosody.failures)},
        "data_sha256": data_hash,
        "commit": commit(),
        "machine": cpu_model(),
    }
    deliver(document, {}, "\n\n".join(tables), given.output, json_only=False)
    return 0


if __name__ == "__main__":
    run(main)
