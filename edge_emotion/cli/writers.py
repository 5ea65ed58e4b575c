"""Result files of `analyze -o`: one JSON per recording, JSON lines, or a table with one row per analysed window.

Files are written under a temporary name and renamed, and never replace others unless asked to.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_emotion.errors import EdgeEmotionError

if TYPE_CHECKING:
    from edge_emotion.result import EmotionResult

FORMATS: tuple[str, ...] = ("json", "jsonl", "csv")


def to_json_line(result: EmotionResult) -> str:
    """A result as one line of strict JSON."""
    return json.dumps(result.to_dict(), allow_nan=False)


def to_csv(results: Sequence[EmotionResult]) -> str:
    """One row per analysed window; times in seconds, one column `p_<label>` for each label."""
    labels = list(dict.fromkeys(label for result in results for label in result.distribution))
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(
        ["file", "start_s", "end_s", "label", "confidence", "uncertain", *(f"p_{label}" for label in labels)]
    )
    for result in results:
        for window in result.windows:
            shares = [f"{window.distribution[label]:.4f}" if label in window.distribution else "" for label in labels]
            confidence = max(window.distribution.values(), default=0.0)
            span = (f"{window.start_s:.3f}", f"{window.end_s:.3f}")
            table.writerow([result.source, *span, window.label or "", f"{confidence:.4f}", result.uncertain, *shares])
    return buffer.getvalue()


class ResultFolder:
    """Writes results into a folder.

    Args:
        folder: Made if it does not exist.
        formats: Some of `FORMATS`.
        sources: The recordings that will be analysed; each gets its own JSON file name.
        force: Replace files that exist.

    Raises:
        EdgeEmotionError: A file exists already, or the folder cannot be made. Raised before any analysis.
    """

    def __init__(self, folder: Path, formats: Sequence[str], sources: Sequence[Path], force: bool = False) -> None:
        self._folder = folder
        self._formats = tuple(formats)
        self._json_names = _distinct_names(sources) if "json" in formats else []
        self._results: list[EmotionResult] = []
        targets = [folder / name for name in self._json_names]
        targets += [folder / f"results.{kind}" for kind in ("jsonl", "csv") if kind in formats]
        taken = [target for target in targets if target.exists()]
        if taken and not force:
            raise EdgeEmotionError(f"{taken[0]} exists already; choose another folder or add --force to replace it")
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, index: int, result: EmotionResult) -> None:
        """Takes the result of the recording number `index`; its own JSON file is written at once."""
        self._results.append(result)
        if self._json_names:
            text = json.dumps(result.to_dict(), allow_nan=False, indent=2)
            _write(self._folder / self._json_names[index], text + "\n")

    def close(self) -> None:
        """Writes the files that hold all results."""
        if "jsonl" in self._formats:
            _write(self._folder / "results.jsonl", "".join(to_json_line(result) + "\n" for result in self._results))
        if "csv" in self._formats:
            _write(self._folder / "results.csv", to_csv(self._results))


def _distinct_names(sources: Sequence[Path]) -> list[str]:
    """`speech.json` for `speech.wav`; recordings of the same name from several folders get a number."""
    names: list[str] = []
    for source in sources:
        name, number = f"{source.stem}.json", 2
        while name in names:
            name, number = f"{source.stem}-{number}.json", number + 1
        names.append(name)
    return names


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    temporary.replace(path)
