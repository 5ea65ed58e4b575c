"""What a run reports: a JSON line per step while it goes, a picture of the curves at its end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

# trl's name of a quantity to ours; each reward term has a column of its own.
COLUMNS: Mapping[str, str] = {
    "loss": "loss",
    "reward": "reward",
    "reward_std": "reward_deviation",
    "rewards/format/mean": "format",
    "rewards/outcome/mean": "outcome",
    "rewards/reasoning/mean": "reasoning_paid",
    "ptr/reasoning": "reasoning",
    "ptr/reasoning_right": "reasoning_of_right",
    "ptr/reasoning_wrong": "reasoning_of_wrong",
    "ptr/trust": "trust",
    "ptr/schedule": "schedule",
    "ptr/accuracy": "accuracy",
    "ptr/moving_accuracy": "moving_accuracy",
    "ptr/groups_without_comparison": "groups_without_comparison",
    "judge/factual_alignment": "factual_alignment",
    "judge/interpretative_quality": "interpretative_quality",
    "judge/caption_completeness": "caption_completeness",
    "judge/fluency_and_structural_clarity": "fluency_and_structural_clarity",
    "judge/consistency": "consistency",
    "judge/missing": "not_judged",
    "kl": "kl",
    "entropy": "entropy",
    "clip_ratio/region_mean": "clipped_ratio",
    "completions/mean_length": "completion_tokens",
    "completions/clipped_ratio": "truncated",
    "frac_reward_zero_std": "groups_without_spread",
    "grad_norm": "gradient_norm",
    "learning_rate": "learning_rate",
    "step_time": "step_time_s",
    "time/generation": "generation_s",
    "time/scoring": "scoring_s",  # rewards and the reference's pass; what is left of the step is the update
}
_PANELS: Mapping[str, Sequence[str]] = {
    "reward": ("reward",),
    "reward terms": ("format", "outcome", "reasoning", "reasoning_paid"),
    "trust and schedule": ("trust", "schedule"),
    "accuracy of samples": ("accuracy", "moving_accuracy"),
    "judge, points 1 to 5": (
        "factual_alignment", "interpretative_quality", "caption_completeness", "fluency_and_structural_clarity",
    ),
    "reasoning of right and wrong answers": ("reasoning_of_right", "reasoning_of_wrong"),
    "KL divergence from the reference": ("kl",),
    "tokens per completion": ("completion_tokens",),
}  # fmt: skip


_AS_LOGGED = ("schedule", "moving_accuracy")  # a running mean would turn a switch into a ramp


class JsonLines(TrainerCallback):
    """Appends a JSON line per logged step; lines of steps after the one a run resumes from are dropped first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            kept = [entry for entry in read_log(self.path) if entry["step"] <= state.global_step]
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
            partial.rename(self.path)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        if logs and "ptr/accuracy" in logs and state.is_world_process_zero:
            entry = {ours: logs[theirs] for theirs, ours in COLUMNS.items() if theirs in logs}
            with self.path.open("a") as file:
                file.write(json.dumps({"step": state.global_step} | entry) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Entries of a log; a line that was cut off is left out."""
    entries = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries


def draw_curves(entries: Sequence[Mapping[str, Any]], path: Path, window: int = 9) -> None:
    """Draws every column of `entries` over the steps, faint as logged and bold as a running mean, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.5), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(2, 4).flat, _PANELS.items(), strict=True):
        axes.set_title(title, fontsize=9)
        for number, name in enumerate(names):
            points = [(entry["step"], entry[name]) for entry in entries if entry.get(name) is not None]
            if not points:
                continue
            steps, values = zip(*points, strict=True)
            colour = f"C{number}"
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            shown = values if name in _AS_LOGGED else running_mean(values, window)
            axes.plot(steps, shown, color=colour, linewidth=1.6, label=name.replace("_", " "))
        if axes.lines:
            axes.legend(fontsize=7, frameon=False)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    partial = path.with_suffix(".partial")
    figure.savefig(partial, format="png", dpi=110)
    partial.rename(path)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value with its neighbours, `window` in all."""
    half = window // 2
    pieces = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(piece) / len(piece) for piece in pieces]
