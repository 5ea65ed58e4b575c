"""The table of the ablation: figures with intervals, differences to the supervised model, what of the paper holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import table_of

from edge_emotion_train.reinforcement.log import running_mean

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Model name to its results, one per fold."""
RESAMPLES = 2000
NAMES: Mapping[str, str] = {
    "sft_without_prosody": "SFT, no prosody SFT",
    "sft": "SFT (V1)",
    "v2": "V2 GRPO",
    "v3": "V3 untrained reward model",
    "v4": "V4 no trust",
    "v5": "V5 no schedule",
    "v6_trained": "V6 trained reward model",
    "v6_measured": "V6 measured judge",
    "right_only": "+ right answers only",
    "near_miss": "+ near misses",
    "consistent": "+ consistency",
    "noise": "noise as judge",
}
# What the paper's table 4 says: of which two models the first is better, in which column.
PAPER: Sequence[tuple[str, str, str, str]] = (
    ("GRPO raises accuracy over SFT (53.9 to 62.9)", "v2", "sft", "uar"),
    ("plain GRPO costs quality of reasoning (3.78 to 3.45)", "sft", "v2", "supported"),
    ("the reasoning reward makes reasoning better than plain GRPO does (3.98, 3.45)", "v6_measured", "v2", "supported"),
    ("the reasoning reward makes answers better than plain GRPO does (68.9, 62.9)", "v6_measured", "v2", "uar"),
    ("a trained reward model beats an untrained one in reasoning (3.98, 3.36)", "v6_trained", "v3", "supported"),
    ("a trained reward model beats an untrained one in accuracy (68.9, 66.7)", "v6_trained", "v3", "uar"),
    ("trust improves reasoning (3.98, 3.74)", "v6_measured", "v4", "supported"),
    ("trust improves accuracy (68.9, 67.7)", "v6_measured", "v4", "uar"),
    ("the late start improves accuracy (68.9, 62.8)", "v6_measured", "v5", "uar"),
    ("the late start improves reasoning (3.98, 3.76)", "v6_measured", "v5", "supported"),
    ("the whole method, judged by measurement, beats SFT in accuracy (68.9, 53.9)", "v6_measured", "sft", "uar"),
    ("the whole method, judged by measurement, beats SFT in reasoning (3.98, 3.78)", "v6_measured", "sft", "supported"),
    ("the whole method beats SFT in accuracy (68.9, 53.9)", "v6_trained", "sft", "uar"),
    ("the whole method beats SFT in reasoning (3.98, 3.78)", "v6_trained", "sft", "supported"),
)


@dataclass(frozen=True)
class Column:
    """A column: its title, its figure of some clips, and how it is written."""

    title: str
    figure: Callable[[Mapping[str, np.ndarray]], float]
    percent: bool = True


def _uar(clips: Mapping[str, np.ndarray]) -> float:
    right, truth = clips["right"], clips["truth"]
    counts = np.bincount(truth)
    hits = np.bincount(truth, weights=right, minlength=len(counts))
    return float((hits[counts > 0] / counts[counts > 0]).mean())


def _share(hits: str, of: str) -> Callable[[Mapping[str, np.ndarray]], float]:
    return lambda clips: float(clips[hits].sum() / max(1, clips[of].sum()))


def _mean(name: str) -> Callable[[Mapping[str, np.ndarray]], float]:
    return lambda clips: float(clips[name].mean())


COLUMNS: Mapping[str, Column] = {
    "uar": Column("UAR", _uar),
    "accuracy": Column("WA", _mean("right")),
    "supported": Column("claims supported", _share("supported", "checkable")),
    "exact": Column("exact level", _share("exact", "checkable")),
    "claims": Column("claims per text", _mean("claims"), percent=False),
    "well_formed": Column("format, greedy", _mean("well_formed")),
    "well_formed_sampled": Column("format, sampled", _mean("well_formed_sampled")),
    "consistent": Column("consistent", _mean("consistent")),
    "words": Column("words", _mean("words"), percent=False),
}
_COUNTS = ("supported", "exact", "checkable", "claims", "words", "well_formed", "well_formed_sampled", "consistent")


def arrays_of(results: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Clips of all folds as columns, in one order for every model."""
    clips = sorted((clip for result in results for clip in result["clips"]), key=lambda clip: clip["clip"])
    truth, names = [clip["truth"] for clip in clips], sorted({clip["truth"] for clip in clips})
    columns = {name: np.array([float(clip[name]) for clip in clips]) for name in _COUNTS}
    return columns | {
        "truth": np.array([names.index(emotion) for emotion in truth]),
        "right": np.array([float(clip["answer"] == clip["truth"]) for clip in clips]),
        "speaker": np.array([clip["speaker"] for clip in clips]),
        "clip": np.array([clip["clip"] for clip in clips]),
    }


def draws(speakers: np.ndarray, seed: int = 0, samples: int = RESAMPLES) -> list[np.ndarray]:
    """Resamples of clips: speakers are drawn, then clips of each drawn speaker; both say how far a figure carries."""
    rng = np.random.default_rng(seed)
    of = [np.flatnonzero(speakers == speaker) for speaker in np.unique(speakers)]
    chosen = (rng.integers(len(of), size=len(of)) for _ in range(samples))
    return [np.concatenate([rng.choice(of[i], size=len(of[i])) for i in picked]) for picked in chosen]


def compare(results: Results, base: str = "sft", samples: int = RESAMPLES) -> dict[str, Any]:
    """Per model and column: the figure, its interval, and the difference to `base` on the same clips with its own."""
    table: dict[str, Any] = {}
    for name, folds in results.items():
        done = {fold["seed"] for fold in folds}
        own = arrays_of(folds)
        other = arrays_of([fold for fold in results[base] if fold["seed"] in done])
        if not np.array_equal(own["clip"], other["clip"]):
            raise ValueError(f"{name} and {base} did not hear the same clips")
        resamples = draws(own["speaker"], samples=samples)
        columns = {
            column: _figures(COLUMNS[column].figure, own, None if name == base else other, resamples)
            for column in COLUMNS
        }
        texts = [len({clip["text"] for clip in fold["clips"]}) / len(fold["clips"]) for fold in folds]
        table[name] = {
            "folds": len(folds),
            "clips": len(own["clip"]),
            "different_texts": round(float(np.mean(texts)), 4),
            "training_cpu_s": round(float(np.mean([fold["training_cpu_s"] for fold in folds])), 1),
            **columns,
        }
    return table


def _figures(
    figure: Callable[[Mapping[str, np.ndarray]], float],
    own: Mapping[str, np.ndarray],
    other: Mapping[str, np.ndarray] | None,
    resamples: Sequence[np.ndarray],
) -> dict[str, Any]:
    def picked(clips: Mapping[str, np.ndarray], rows: np.ndarray) -> float:
        return figure({name: values[rows] for name, values in clips.items() if values.dtype.kind != "U"})

    values = np.array([picked(own, rows) for rows in resamples])
    found: dict[str, Any] = {"value": round(figure(own), 4), "interval_95": _interval(values)}
    if other is not None:
        change = values - np.array([picked(other, rows) for rows in resamples])
        found |= {"difference": round(figure(own) - figure(other), 4), "difference_95": _interval(change)}
    return found


def _interval(values: np.ndarray) -> list[float]:
    return [round(float(bound), 4) for bound in np.quantile(values, [0.025, 0.975])]


def markdown(table: Mapping[str, Any]) -> str:
    """Two tables: the figures, and the differences to the supervised model; bold where the interval excludes 0."""
    figures, differences = [], []
    for name in NAMES:
        if name not in table:
            continue
        row = table[name]
        figures.append(
            [NAMES[name], str(row["folds"])]
            + [_written(column, row[key]["value"], row[key]["interval_95"]) for key, column in COLUMNS.items()]
            + [f"{100 * row['different_texts']:.0f} %"]
        )
        if name != "sft":
            differences.append(
                [NAMES[name]]
                + [
                    _changed(column, row[key]["difference"], row[key]["difference_95"])
                    for key, column in COLUMNS.items()
                ]
            )
    titles = [column.title for column in COLUMNS.values()]
    return (
        table_of(figures, ["model", "folds", *titles, "different texts"])
        + "\n\nDifference to SFT on the same clips (points; bold where the interval excludes 0):\n\n"
        + table_of(differences, ["model", *titles])
        + "\n\nRows of different folds do not compare with one another, and one fold is two speakers: its intervals are"
        + " too narrow to say anything of others."
    )


def by_fold(results: Results) -> dict[str, list[dict[str, Any]]]:
    """UAR and supported claims of each model on each fold."""
    shown = ("uar", "supported", "claims")
    return {
        name: [
            {"speakers": fold["speakers"]} | {key: round(COLUMNS[key].figure(arrays_of([fold])), 4) for key in shown}
            for fold in folds
        ]
        for name, folds in results.items()
    }


def _written(column: Column, value: float, interval: Sequence[float]) -> str:
    if column.percent:
        return f"{100 * value:.1f} % ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
    return f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"


def _changed(column: Column, change: float, interval: Sequence[float]) -> str:
    factor, places = (100, 1) if column.percent else (1, 2)
    low, high = (factor * bound for bound in interval)
    text = f"{factor * change:+.{places}f} ({low:+.{places}f} to {high:+.{places}f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def replication(results: Results, samples: int = RESAMPLES) -> list[str]:
    """A sentence on each claim of the paper's ablation: does it hold at this size?"""
    sentences = []
    for claim, better, worse, column in PAPER:
        if better not in results or worse not in results:
            sentences.append(f"- *{claim}*: not measured here.")
            continue
        shared = {fold["seed"] for fold in results[better]} & {fold["seed"] for fold in results[worse]}
        pair = {name: [fold for fold in results[name] if fold["seed"] in shared] for name in (better, worse)}
        compared = compare(pair, base=worse, samples=samples)[better]
        found = compared[column]
        low, high = (100 * bound for bound in found["difference_95"])
        verdict = "holds" if low > 0 else "is contradicted" if high < 0 else "does not show at this size"
        sentences.append(
            f"- *{claim}*: **{verdict}**; {COLUMNS[column].title} {100 * found['difference']:+.1f} points "
            f"({low:+.1f} to {high:+.1f}), {NAMES[better]} minus {NAMES[worse]}, folds: {compared['folds']}."
        )
    return sentences


_PANELS = ("accuracy", "format", "reasoning", "factual_alignment", "reasoning_paid", "trust", "schedule", "kl",
           "completion_tokens")  # fmt: skip


def draw_variants(results: Results, path: Path) -> None:
    """Curves of every reinforced model, mean over its folds, as a PNG."""
    from matplotlib.figure import Figure

    shown = {name: results[name] for name in NAMES if name in results and results[name][0]["log"]}
    if not shown:
        return
    figure = Figure(figsize=(13, 9), layout="constrained")
    for axes, panel in zip(figure.subplots(3, 3).flat, _PANELS, strict=True):
        for number, (name, folds) in enumerate(shown.items()):
            steps = min(len(fold["log"]) for fold in folds)
            logged = [[entry.get(panel) for entry in fold["log"][:steps]] for fold in folds]
            values = np.array(logged, dtype=float)
            if np.isnan(values).all():
                continue
            mean = np.nanmean(values, axis=0)
            curve = mean if panel == "schedule" else running_mean(mean.tolist(), 9)
            axes.plot(range(1, steps + 1), curve, color=f"C{number}", linewidth=1.3, label=NAMES[name],
                      linestyle="-" if number < 10 else "--")  # fmt: skip
        axes.set_title(panel.replace("_", " "), fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    partial = path.with_suffix(".partial")
    figure.savefig(partial, format="png", dpi=110)
    partial.replace(path)
