"""The folder of a training run: what it was started with, and whether it may go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_emotion.errors import ConfigError

from .processes import processes

RECORD = "run.json"


def open_run(folder: Path, settings: Mapping[str, Any], resume: bool, force: bool) -> bool:
    """Readies the folder of a run; True where one goes on that was begun before.

    Args:
        folder: Folder of the run's files; emptied where a run starts.
        settings: What must not change between a run and its resumption, as plain types for JSON.
        resume: Go on with the run that the folder holds.
        force: Start anew although it holds one.

    Raises:
        ConfigError: The folder holds a run and neither `resume` nor `force` is set, or that run was another one.
    """
    record = folder / RECORD
    settings = json.loads(json.dumps(settings))
    exists = record.is_file()
    processes().wait_for_everyone()  # nobody begins to write before everybody has looked
    if exists and not force:
        if not resume:
            raise ConfigError(f"{folder} holds a run already; go on with --resume, or start anew with --force")
        before = json.loads(record.read_text())
        changed = [
            f"  {name}: {before.get(name)!r} is now {value!r}"
            for name, value in settings.items()
            if before.get(name) != value
        ]
        if changed:
            raise ConfigError(f"the run in {folder} had other settings, so it cannot go on:\n" + "\n".join(changed))
        return True
    if processes().is_main_process:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        partial = record.with_suffix(".partial")
        partial.write_text(json.dumps(settings, indent=1) + "\n")
        partial.rename(record)
    processes().wait_for_everyone()
    return False
