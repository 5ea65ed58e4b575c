"""Where a long export is written: a folder beside the target that survives a break and becomes the target at the end.

What is finished in it is known by name in `.state.json`, which belongs to one checkpoint, one set of clips and one
version of the exporter; for any other the folder is begun anew.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edge_emotion.bundle import MANIFEST_NAME
from edge_emotion.errors import ExportError

STATE_NAME = ".state.json"
PARITY_NAME = "parity.json"


class Workspace:
    """The folder, and what is finished in it."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self._state: dict[str, Any] = {"key": key, "finished": {}}
        try:
            found = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        if folder.is_dir() and found.get("key") == key:
            self._state = found
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._save()

    @property
    def finished(self) -> Mapping[str, Any]:
        """What was noted, by name."""
        return self._state["finished"]

    def once(self, name: str, work: Callable[[], Any]) -> Any:
        """The result of some work, which must be plain types; work that was finished before a break is not repeated."""
        if name not in self.finished:
            result = work()
            self._state["finished"][name] = result
            self._save()
        return self.finished[name]

    def arrays(self, name: str, work: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """As `once`, for arrays, which are kept in a hidden file of the folder."""
        path = self.folder / f".{name}.npz"

        def write() -> bool:
            partial = path.with_suffix(".partial.npz")
            np.savez(partial, **dict(work()))  # type: ignore[arg-type]
            partial.rename(path)
            return True

        self.once(name, write)
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    def _save(self) -> None:
        partial = self.folder / f"{STATE_NAME}.partial"
        partial.write_text(json.dumps(self._state, indent=1), encoding="utf-8")
        os.replace(partial, self.folder / STATE_NAME)


@contextmanager
def workspace(target: Path, key: str, force: bool) -> Iterator[Workspace]:
    """A workspace that takes the target's place when the block ends well, and else stays for the next attempt.

    Raises:
        ExportError: The target is there and `force` is not given, or it is not an export.
    """
    if target.exists() and not force:
        raise ExportError(f"{target} is there already; give --force to replace it, or another --output")
    if target.exists() and not (target.is_dir() and (_is_export(target) or not any(target.iterdir()))):
        raise ExportError(f"{target} is not an earlier export, so it is not replaced; give another --output")
    work = Workspace(target.with_name(f".{target.name}.export"), key)
    yield work
    for hidden in work.folder.glob(".*"):
        hidden.unlink()
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    work.folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _is_export(folder: Path) -> bool:
    return (folder / MANIFEST_NAME).is_file() or (folder / PARITY_NAME).is_file()
