"""What supervised training of a small model reports: JSON lines while it goes, each task's accuracy, a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from .reinforcement.log import JsonLines


class PhaseLines(JsonLines):
    """Appends a JSON line per logged step to `metrics.jsonl` in the folder of the phase."""

    def __init__(self) -> None:
        super().__init__(Path())

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.path = Path(args.output_dir) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        super().on_train_begin(args, state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        if logs and state.is_world_process_zero:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


class Watch(TrainerCallback):
    """Logs figures of speakers that are not trained on, at the end and every so many steps before."""

    def __init__(self, figures: Callable[[], Mapping[str, float]], every: int) -> None:
        self.figures = figures
        self.every = every

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        if state.is_world_process_zero:
            entry = dict(self.figures())
            # In the state, so that a resumed run has them; in the file, so that they are seen while it goes.
            state.log_history.append({**entry, "step": state.global_step})
            with (Path(args.output_dir) / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": state.global_step, **entry}) + "\n")


def draw_phases(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws loss and accuracies of each phase over its steps as a PNG."""
    from matplotlib.figure import Figure

    phases = list(dict.fromkeys(str(entry["phase"]) for entry in history))
    panels = [
        (phase, title, names)
        for phase in phases
        for title, names in (("loss", ["loss"]), ("accuracy on held-out speakers", _accuracies(history, phase)))
        if names
    ]
    figure = Figure(figsize=(5.2 * max(1, len(panels)), 3.8), layout="constrained")
    for number, (phase, title, names) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        axes.set_title(f"{phase}: {title}", fontsize=9)
        for name in names:
            points = [(e["step"], e[name]) for e in history if e["phase"] == phase and e.get(name) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), linewidth=1.4, marker=".", label=name.removeprefix("accuracy/"))
        if len(axes.lines) > 1:
            axes.legend(fontsize=7, frameon=False)
            axes.set_ylim(0, 1)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    partial = path.with_suffix(".partial")
    figure.savefig(partial, format="png", dpi=110)
    partial.rename(path)


def _accuracies(history: Sequence[Mapping[str, Any]], phase: str) -> list[str]:
    return sorted({name for e in history if e["phase"] == phase for name in e if name.startswith("accuracy/")})
