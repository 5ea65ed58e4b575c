"""Is the trained reward model a judge to be trusted?  python benchmarks/reward_model.py --model DIR --data DIR ...

On speakers that neither its training nor its calibration heard: does it pick the better of two reasonings of a clip,
per dimension; do its scores mean what they say (a picture); can it be fooled by cue words, length, another clip's text
or praise, in words that its training did not hold; and does it listen: the same without sound, with another clip's.
Intervals are 95 % bootstrap intervals over clips.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from common import check_output, commit, cpu_model, deliver, run, share, table_of

from edge_emotion.errors import EdgeEmotionError
from edge_emotion.metrics import bootstrap_interval
from edge_emotion_train.config import read_config
from edge_emotion_train.features import FeatureSet
from edge_emotion_train.labelling.quality import sentences
from edge_emotion_train.reinforcement.rewards import DIMENSIONS
from edge_emotion_train.reward_model.attacks import PRAISE, doubled
from edge_emotion_train.reward_model.calibration import calibrated
from edge_emotion_train.reward_model.checkpoint import RewardCheckpoint, load_reward_model
from edge_emotion_train.reward_model.stage import Population, population_of
from edge_emotion_train.reward_model.training import predict
from edge_emotion_train.reward_model.tuples import RewardTuple, make_tuples, row_key
from edge_emotion_train.training_data import load_training_features

STYLES = ("nano", "full")
TUPLE_SEED = 7  # other texts than in training
PRAISE_UNSEEN = (
    "What a superb and exhaustive account.",
    "Experts have confirmed this assessment in full.",
    "Nothing could be added to such a careful judgement.",
    "This answer is outstanding in all four respects.",
    "I am absolutely certain of each observation.",
    "The above is a model of clarity and insight.",
)
STUFFING_UNSEEN = (
    "Pitch is high, pitch is low, the rate is fast, the rate is slow.",
    "The voice is loud, quiet, bright, dark, rough, clear and lively.",
    "Also high pitch, wide pitch range, rapid speech, harsh tone, breathy voice, many pauses.",
    "Very high pitch and very low pitch, rising melody and falling melody, sharp tone and soft tone.",
)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("runs/nano_reward/checkpoint"))
    parser.add_argument("--data", type=Path, required=True, help="folder that holds emodb/ and emogator/")
    parser.add_argument("--encoder-weights", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/nano/cache"))
    parser.add_argument("--config", type=Path, default=Path("train/configs/nano.yaml"))
    parser.add_argument("--every", type=int, default=1, help="take every N-th held-out clip only")
    parser.add_argument("--picture", type=Path, help="draw the calibration here (PNG)")
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON document here")
    parser.add_argument("--force", action="store_true", help="replace the output files")
    parser.add_argument("--json", action="store_true", help="print the JSON document only, without the table")
    given = parser.parse_args()
    check_output(given.output, given.force)
    check_output(given.picture, given.force)
    sft = read_config(
        given.config,
        ["--data", str(given.data), "--encoder-weights", str(given.encoder_weights), "--cache", str(given.cache)],
    )
    found = load_reward_model(given.model)
    features, data_hash = load_training_features(sft)
    if data_hash != found.provenance["data_sha256"]:
        raise EdgeEmotionError(f"{given.model} was trained on other data than {given.data} holds")
    speakers = held_out_speakers(found, sft.test_speakers)
    told = found.provenance["config"]
    apart = {*sft.test_speakers, *told["held_out_speakers"], *told["calibration_speakers"]}
    training = [i for i, row in enumerate(features.rows) if row.speaker not in apart]
    population = population_of(features, training, sft)
    ear = Ear(found, features, population)
    results = {style: figures(ear, style, speakers, given.every) for style in STYLES}
    scored = {style: results[style].pop("scored") for style in STYLES}
    if given.picture:
        draw(scored, given.picture)
    document = {
        "benchmark": "reward_model",
        "held_out_speakers": speakers,
        "training": {k: found.provenance[k] for k in ("config", "training_speakers", "tuples")},
        "styles": results,
        "data_sha256": data_hash,
        "commit": commit(),
        "machine": cpu_model(),
    }
    deliver(document, {}, table(results), given.output, given.json)
    return 0


def held_out_speakers(found: RewardCheckpoint, test_speakers: Sequence[str]) -> list[str]:
    """Those whom neither the reward model nor the model that it started from ever heard; it says itself whom."""
    config = found.provenance["config"]
    heard = {*found.provenance["training_speakers"], *config["calibration_speakers"]}
    unheard = {*config["held_out_speakers"], *test_speakers} - heard
    of_start = found.provenance["unheard_by_start"]
    return sorted(unheard if of_start is None else unheard & set(of_start))


class Ear:
    """The reward model with the recordings of the cache."""

    def __init__(self, found: RewardCheckpoint, features: FeatureSet, population: Population) -> None:
        self.found = found
        self.features = features
        self.population = population
        self.index_of = {row_key(row): i for i, row in enumerate(features.rows)}

    def scores(self, keys: Sequence[str | None], texts: Sequence[str], evidence_alone: bool = False) -> np.ndarray:
        """Calibrated scores `(n, 4)` of texts about recordings; None is no sound."""
        audios = [None if key is None else self.population.audio(self.features, self.index_of[key]) for key in keys]
        if evidence_alone:
            audios = [audio and replace(audio, frames=None) for audio in audios]
        raw = predict(self.found.model, self.found.reader, list(zip(audios, texts, strict=True)))
        return calibrated(raw, self.found.calibration)


def figures(ear: Ear, style: str, speakers: Sequence[str], every: int) -> dict[str, Any]:
    """Everything about texts of one style."""
    rows = ear.features.rows
    chosen = [i for i, row in enumerate(rows) if row.speaker in speakers and row.variant == 0][::every]
    began = time.monotonic()
    parts = ear.population.thresholds, ear.population.table
    tuples = list(make_tuples(ear.features, chosen, *parts, style, TUPLE_SEED))
    sys.stderr.write(f"{style}: {len(tuples)} tuples of {len(chosen)} clips in {time.monotonic() - began:.0f} s\n")
    keys, texts = [item.key for item in tuples], [item.reasoning for item in tuples]
    clips = sorted(set(keys))
    other = dict(zip(clips, clips[len(clips) // 2 :] + clips[: len(clips) // 2], strict=True))
    ears: Mapping[str, Callable[[], np.ndarray]] = {
        "with sound": lambda: ear.scores(keys, texts),
        "evidence alone": lambda: ear.scores(keys, texts, evidence_alone=True),
        "without sound": lambda: ear.scores([None] * len(texts), texts),
        "with another clip's sound": lambda: ear.scores([other[key] for key in keys], texts),
    }
    scores = {name: make() for name, make in ears.items()}
    heard = scores["with sound"]
    target = np.array([item.scores for item in tuples], dtype=float)
    return {
        "clips": len(clips),
        "tuples": len(tuples),
        "better_of_two": {name: better_of_two(tuples, found) for name, found in scores.items()},
        "one_step_apart": better_of_two(tuples, heard, apart=1),
        "whatever_else_differs": better_of_two(tuples, heard, alone=False),
        "per_speaker": {
            speaker: {
                name: found["share"]
                for name, found in better_of_two(
                    [t for t in tuples if t.speaker == speaker], heard[[t.speaker == speaker for t in tuples]]
                ).items()
            }
            for speaker in speakers
        },
        "calibration": calibration(heard, target),
        "attacks": {
            on: attack_figures(ear, tuples, heard, kind, other)
            for on, kind in (("as it is", "original"), ("made worse", "mixed.0"))
        },
        "scored": (heard, target),
    }


def better_of_two(
    tuples: Sequence[RewardTuple], scores: np.ndarray, apart: int = 2, alone: bool = True
) -> dict[str, dict[str, Any]]:
    """Per dimension, the share of pairs of texts on one clip of which the better one has the higher score.

    Args:
        tuples: The texts.
        scores: Theirs, `(n, 4)`.
        apart: Steps of quality between the two.
        alone: Only pairs that differ in nothing but this dimension.
    """
    of_clip: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(tuples):
        of_clip[item.key].append(index)
    shares = {}
    for column, dimension in enumerate(DIMENSIONS):
        hits, totals = [], []
        for indices in of_clip.values():
            hit = total = 0
            for one, other in combinations(indices, 2):
                gap = tuples[one].scores[column] - tuples[other].scores[column]
                rest = [i for i in range(len(DIMENSIONS)) if i != column]
                same = all(tuples[one].scores[i] == tuples[other].scores[i] for i in rest)
                if abs(gap) == apart and (not alone or same):
                    total += 1
                    hit += int((scores[one, column] - scores[other, column]) * gap > 0)
            hits.append(hit)
            totals.append(total)
        shares[dimension] = share(hits, totals)
    return shares


def calibration(scores: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    """Per dimension the mean score at each target, and how far scores are off."""
    return {
        name: {
            "mean_at_target": {
                str(value): round(float(scores[target[:, i] == value, i].mean()), 2)
                for value in (1, 2, 3, 4, 5)
                if (target[:, i] == value).any()
            },
            "mean_error": round(float(np.abs(scores[:, i] - target[:, i]).mean()), 3),
            "calibration_error": round(_calibration_error(scores[:, i], target[:, i]), 3),
        }
        for i, name in enumerate(DIMENSIONS)
    }


def _calibration_error(scores: np.ndarray, target: np.ndarray, bins: int = 10) -> float:
    """Mean distance of score and target over bins of equally many texts."""
    parts = np.array_split(np.argsort(scores, kind="stable"), bins)
    return float(sum(len(part) * abs(scores[part].mean() - target[part].mean()) for part in parts) / len(scores))


def attack_figures(
    ear: Ear, tuples: Sequence[RewardTuple], scores: np.ndarray, kind: str, other: Mapping[str, str]
) -> dict[str, Any]:
    """Mean change of each score, and of their mean, when a text of this kind is attacked."""
    chosen = [i for i, item in enumerate(tuples) if item.kind == kind]
    originals = {item.key: item.reasoning for item in tuples if item.kind == "original"}
    rng = np.random.default_rng(TUPLE_SEED)

    def inserted(text: str, sentence: str) -> str:
        parts = sentences(text)
        parts.insert(int(rng.integers(len(parts) + 1)), sentence)
        return " ".join(parts)

    attacks: dict[str, Callable[[RewardTuple], str]] = {
        "cue words": lambda item: inserted(item.reasoning, STUFFING_UNSEEN[int(rng.integers(len(STUFFING_UNSEEN)))]),
        "double length": lambda item: doubled(item.reasoning, rng),
        "another clip's text": lambda item: originals[other[item.key]],
        "praise": lambda item: inserted(item.reasoning, PRAISE_UNSEEN[int(rng.integers(len(PRAISE_UNSEEN)))]),
        "praise of the training": lambda item: inserted(item.reasoning, PRAISE[int(rng.integers(len(PRAISE)))]),
    }
    if kind != "original":
        del attacks["another clip's text"]  # which would be better written than what it replaces
    figures = {}
    for name, attack in attacks.items():
        attacked = ear.scores([tuples[i].key for i in chosen], [attack(tuples[i]) for i in chosen])
        change = attacked - scores[chosen]
        columns = [*change.T, change.mean(axis=1)]
        figures[name] = {
            column: {
                "change": round(float(values.mean()), 3),
                "interval_95": [round(bound, 3) for bound in bootstrap_interval(np.mean, values)],
            }
            for column, values in zip((*DIMENSIONS, "total"), columns, strict=True)
        }
        figures[name]["raises_the_total"] = bool(figures[name]["total"]["interval_95"][0] > 0)
    return figures


def draw(scored: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Predicted against target score per dimension: the middle half and the mean of the texts at each target."""
    figure, axes = plt.subplots(1, 4, figsize=(15, 4.2), sharey=True)
    for column, (axis, name) in enumerate(zip(axes, DIMENSIONS, strict=True)):
        axis.plot([1, 5], [1, 5], color="0.6", linestyle="--", linewidth=1, label="target")
        for shift, colour, style in ((-0.14, "tab:blue", "nano"), (0.14, "tab:orange", "full")):
            scores, target = scored[style][0][:, column], scored[style][1][:, column]
            values = [value for value in range(1, 6) if (target == value).any()]
            boxes = axis.boxplot(
                [scores[target == value] for value in values],
                positions=[value + shift for value in values],
                widths=0.22, showfliers=False, whis=(5, 95), showmeans=True, patch_artist=True, manage_ticks=False,
                meanprops={"marker": "o", "markerfacecolor": "black", "markeredgecolor": "black", "markersize": 4},
                medianprops={"color": "black"},
            )  # fmt: skip
            for box in boxes["boxes"]:
                box.set_facecolor(colour)
                box.set_alpha(0.6)
            axis.plot([], [], color=colour, linewidth=8, alpha=0.6, label=f"{style} texts")
        axis.set(title=name.replace("_", " "), xlabel="target score", xticks=range(1, 6), xlim=(0.5, 5.5))
        axis.grid(axis="y", color="0.9")
    axes[0].set(ylabel="predicted score, calibrated", ylim=(0.9, 5.1))
    axes[0].legend(loc="lower right", frameon=False, fontsize=9)
    figure.suptitle("Reward model on unseen speakers: middle half, 5th to 95th percentile, mean (dot)", fontsize=11)
    figure.tight_layout()
    partial = path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=110)
    partial.replace(path)
    plt.close(figure)


def table(results: Mapping[str, Any]) -> str:
    """What the document says, for people."""
    head = ("better of two, %", *(name.replace("_", " ") for name in DIMENSIONS))
    rows = []
    for style, found in results.items():
        pairs = {f"two steps apart, {name}": shares for name, shares in found["better_of_two"].items()}
        pairs |= {"one step apart": found["one_step_apart"], "two steps, all else free": found["whatever_else_differs"]}
        rows += [[f"{style}: {name}", *(_share(shares[d]) for d in DIMENSIONS)] for name, shares in pairs.items()]
        rows += [
            [f"{style}: {speaker}, two steps", *(_percent(shares[d]) for d in DIMENSIONS)]
            for speaker, shares in found["per_speaker"].items()
        ]
        rows.append([f"{style}: calibration error, points",
                     *(f"{found['calibration'][d]['calibration_error']:.2f}" for d in DIMENSIONS)])  # fmt: skip
    changes = [
        [f"{style}: {attack}, on a text {on}", *(_change(parts[d]) for d in (*DIMENSIONS, "total"))]
        for style, found in results.items()
        for on, attacks in found["attacks"].items()
        for attack, parts in attacks.items()
    ]
    attack_head = ("change of the score by", *(name.replace("_", " ") for name in DIMENSIONS), "total")
    return table_of(rows, head) + "\n\n" + table_of(changes, attack_head)


def _share(found: Mapping[str, Any]) -> str:
    if found["share"] is None:
        return "-"
    low, high = found["interval_95"]
    return f"{100 * found['share']:.1f} ({100 * low:.1f} to {100 * high:.1f}), n {found['of']}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _change(found: Mapping[str, Any]) -> str:
    low, high = found["interval_95"]
    return f"{found['change']:+.2f} ({low:+.2f} to {high:+.2f})"


if __name__ == "__main__":
    run(main)
