"""What supervised training reports: a JSON line per step while it goes, a picture of the curves at its end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_emotion_train.reinforcement.log import JsonLines

# trl's name of a quantity to ours.
COLUMNS: Mapping[str, str] = {
    "loss": "loss",
    "mean_token_accuracy": "token_accuracy",
    "entropy": "entropy",
    "grad_norm": "gradient_norm",
    "learning_rate": "learning_rate",
    "num_tokens": "tokens",
    "eval_loss": "validation_loss",
    "eval_mean_token_accuracy": "validation_token_accuracy",
}
_PANELS: Mapping[str, Sequence[str]] = {
    "loss": ("loss", "validation_loss"),
    "tokens said as written": ("token_accuracy", "validation_token_accuracy"),
    "gradient norm": ("gradient_norm",),
    "learning rate": ("learning_rate",),
}


class SupervisedLines(JsonLines):
    """Appends a JSON line per logged step, and one per validation."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        entry = {ours: logs[theirs] for theirs, ours in COLUMNS.items() if theirs in logs} if logs else {}
        if ("loss" in entry or "validation_loss" in entry) and state.is_world_process_zero:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": state.global_step} | entry) + "\n")


def draw_supervised(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws the columns of `entries` over the steps as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.4), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(_PANELS)), _PANELS.items(), strict=True):
        axes.set_title(title, fontsize=9)
        for name in names:
            points = [(entry["step"], entry[name]) for entry in entries if entry.get(name) is not None]
            if points:
                steps, values = zip(*points, strict=True)
                axes.plot(steps, values, linewidth=1.2, marker="." if len(points) < 30 else "", label=name)
        if len(axes.lines) > 1:
            axes.legend(fontsize=7, frameon=False)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    partial = path.with_suffix(".partial")
    figure.savefig(partial, format="png", dpi=110)
    partial.replace(path)
