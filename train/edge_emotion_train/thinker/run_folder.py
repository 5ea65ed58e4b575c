"""The folder of a training stage: where a run goes on, checkpoints that are whole or do not count, the result.

OUTPUT/                 the result, as Hugging Face or PEFT folder, with `metrics.jsonl`, `curves.png`, `run.json`
OUTPUT/training/        what a run needs to go on: `run.json`, `left_out.jsonl`, `checkpoint-N/`
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import Trainer

from edge_emotion.cues import Thresholds
from edge_emotion.errors import ConfigError
from edge_emotion_train import runs
from edge_emotion_train.labelling.rows import Row
from edge_emotion_train.processes import is_main, processes
from edge_emotion_train.reinforcement.trainer import WRITE_ERRORS, TrainingError
from edge_emotion_train.runs import RECORD
from edge_emotion_train.thinker.configs import TrainingConfig
from edge_emotion_train.thinker.dialogue import ANSWERS, Dialogue, known_or_same, prompt_of
from edge_emotion_train.thinker.model import ADAPTER_CONFIG

WHOLE, SPEECH = "complete.json", "edge_emotion.json"
# What may differ between a run and its resumption.
FREE = (
    "preset", "model", "base", "rows", "validation", "text_rows", "transcript_rows", "output", "resume", "force",
    "threads", "workers", "save_every", "report_to", "reward_model", "llm_url", "llm_key_variable", "llm_timeout_s",
)  # fmt: skip


def open_run(config: TrainingConfig, start: str) -> bool:
    """Readies `output/training`; True where a run goes on that was begun before.

    Args:
        config: Numbers of the run.
        start: Fingerprint of the weights it starts from.

    Raises:
        ConfigError: The folder holds a run and neither `resume` nor `force` is set, that run was another one, or it
            holds something else.
    """
    folder = config.output / "training"
    settings = {name: value for name, value in asdict(config).items() if name not in FREE} | {"start": start}
    if not (folder / RECORD).is_file() and config.output.is_dir() and any(config.output.iterdir()):
        raise ConfigError(f"{config.output} holds other files; choose an empty folder")
    if runs.open_run(folder, settings, config.resume, config.force):
        return True
    if is_main():
        for path in config.output.iterdir():  # an earlier result is none of this run
            if path != folder:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    processes().wait_for_everyone()
    return False


def remember(folder: Path, name: str, value: str) -> None:
    """Keeps a fact of the run; a resumed run must find the same one.

    Raises:
        ConfigError: It was another one.
    """
    path = folder / RECORD
    known = json.loads(path.read_text())
    if known.get(name, value) != value:
        raise ConfigError(f"the run in {folder.parent} had other {name} and cannot go on; start anew with --force")
    if name not in known and is_main():
        write_json(path, known | {name: value})
    processes().wait_for_everyone()


def last_whole(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end, None where there is none."""
    found = [path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


class WholeCheckpoints(Trainer):
    """A Trainer whose checkpoints end with a mark, so that one cut off while it was written is known as such."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir))
        try:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                write_json(folder / f"checkpoint-{self.state.global_step}" / WHOLE, {"step": self.state.global_step})
        except WRITE_ERRORS as error:
            raise TrainingError(
                f"step {self.state.global_step}: the checkpoint could not be written ({error}). Make room in {folder}; "
                f"training then resumes from {last_whole(folder) or 'its start'}"
            ) from error


def publish(output: Path, save: Callable[[Path], None], tokenizer: Any, about: Mapping[str, Any]) -> None:
    """Puts a result into `output`: the file that makes it a model comes last, so half a result is none.

    Args:
        output: Folder of the stage.
        save: Writes the weights into a folder; called on every process, since sharded weights are gathered for it.
        tokenizer: Goes with them.
        about: What `run.json` says of the result.
    """
    part = output / "training" / "result.partial"
    if is_main():
        shutil.rmtree(part, ignore_errors=True)
    processes().wait_for_everyone()
    save(part)
    processes().wait_for_everyone()
    if not is_main():
        return
    tokenizer.save_pretrained(part)
    (part / "training_args.bin").unlink(missing_ok=True)  # Trainer's own, a pickle that names this machine's folders
    write_json(part / RECORD, about)
    last = ("config.json", ADAPTER_CONFIG)
    for path in sorted((p for p in part.iterdir() if p.is_file()), key=lambda p: (p.name in last, p.name)):
        path.replace(output / path.name)
    shutil.rmtree(part)


def speech_of(dialogue: Dialogue, rows: Sequence[Row]) -> dict[str, Any]:
    """How a trained model is spoken with, as the export reads it from `edge_emotion.json`."""
    labels = list(dict.fromkeys(label for row in rows for label in row.get("labels") or ()))
    about: dict[str, Any] = {
        "prompt": prompt_of(dialogue, labels).to_dict(),
        "labels": [known_or_same(answer) for answer in ANSWERS] if dialogue == "emotionthinker" else labels,
    }
    cuts = {json.dumps(row["thresholds"], sort_keys=True) for row in rows if row.get("thresholds")}
    if len(cuts) == 1:
        given = json.loads(cuts.pop())
        known = {name: value for name, value in given["cuts"].items() if value is not None}
        about["thresholds"] = Thresholds.from_dict(given | {"cuts": known}).to_dict()
    return about


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
