"""Rows of the data engine's views: read, their recordings checked, and mixed by weights into the order of training.

What cannot be heard is left out before training begins, by name and cause: a missing or unreadable recording, one that
is too long for the memory, or too short to give the model a single token.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from edge_emotion.audio import load_audio
from edge_emotion.errors import AudioError, ConfigError, CorpusError
from edge_emotion_train.labelling.rows import Row, assistant_message, resolve_audio, text_part, user_message
from edge_emotion_train.thinker.dialogue import Dialogue, NoAnswerError, spoken
from edge_emotion_train.thinker.processor import audio_parts

SHORTEST_S = 0.1
NAMED = 10
TRANSCRIPT_QUESTIONS = (
    "Write down what is said in this recording.",
    "What does the speaker say?",
    "Transcribe this recording.",
)


@dataclass(frozen=True)
class LeftOut:
    """A row that training goes without, and why."""

    id: str
    reason: str


def read_rows(files: Sequence[Path]) -> list[Row]:
    """Rows of view files (JSON lines); audio paths are relative to the file.

    Raises:
        CorpusError: A file cannot be read, or a line of it is no row.
    """
    rows = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(f"{file} cannot be read: {error}") from error
        for number, line in enumerate(lines, 1):
            if line.strip():
                rows.append(_row(line, file, number))
    return rows


def check_recordings(
    rows: Sequence[Row], longest_s: float, threads: int = 4, progress: bool = True
) -> tuple[list[Row], list[LeftOut]]:
    """The rows whose recordings can be heard whole, and the others.

    Args:
        rows: Of `read_rows`.
        longest_s: Most seconds of sound in a row.
        threads: Recordings decoded at a time.
        progress: A bar on stderr.
    """
    paths = list(dict.fromkeys(path for row in rows for path in paths_of(row)))
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(_duration, paths)
        checked = dict(zip(paths, tqdm(found, "recordings", len(paths), disable=not progress), strict=True))
    kept, left_out = [], []
    for row in rows:
        problem = _problem([(path, checked[path]) for path in paths_of(row)], longest_s)
        if problem:
            left_out.append(LeftOut(row["id"], problem))
        else:
            kept.append(row)
    return kept, left_out


def speak(rows: Sequence[Row], dialogue: Dialogue) -> tuple[list[Row], list[LeftOut]]:
    """Rows with the conversations of a dialogue; rows that it cannot answer are left out."""
    kept, left_out = [], []
    for row in rows:
        try:
            kept.append({**row, "messages": spoken(dialogue, row)})
        except NoAnswerError as error:
            left_out.append(LeftOut(row["id"], str(error)))
    return kept, left_out


def transcript_rows(rows: Sequence[Row], seed: int) -> tuple[list[Row], list[LeftOut]]:
    """Rows that ask for the words, of rows that know them: speech recognition beside the reasoning."""
    rng = np.random.default_rng(seed)
    made, left_out = [], []
    for row in rows:
        if not row.get("text"):
            left_out.append(LeftOut(row["id"], "its words are not known"))
            continue
        asked = TRANSCRIPT_QUESTIONS[int(rng.integers(len(TRANSCRIPT_QUESTIONS)))]
        messages = [user_message(paths_of(row), asked), assistant_message(str(row["text"]))]
        base = {key: row.get(key) for key in ("split", "speaker", "sources", "audio")}
        made.append({**base, "id": f"{row['id']}#transcript", "task": "transcript", "messages": messages})
    return made, left_out


def report_left_out(left_out: Sequence[LeftOut], path: Path) -> None:
    """Says on stderr how many rows are left out, why, and which; all of them go into a file of JSON lines."""
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in left_out))
    partial.replace(path)
    if not left_out:
        return
    sys.stderr.write(f"{len(left_out)} rows are left out:\n")
    for item in left_out[:NAMED]:
        sys.stderr.write(f"  {item.id}: {item.reason}\n")
    if len(left_out) > NAMED:
        sys.stderr.write(f"  and {len(left_out) - NAMED} more, all of them in {path}\n")


def mixture(rows: Sequence[Row], weights: Mapping[str, float], epochs: int, seed: int) -> list[int]:
    """The rows in the order of training, each task's as often as its weight says, mixed within each epoch.

    The order is written out, so that a run that resumes goes on in it.

    Args:
        rows: All rows.
        weights: How often a row of a task is seen in an epoch: 1 where not named, 0.5 every other row, 0 never.
        epochs: Passes.
        seed: Of the order.

    Raises:
        ConfigError: A weight names a task that no row has.
    """
    tasks: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        tasks.setdefault(str(row.get("task")), []).append(index)
    unknown = sorted(set(weights) - set(tasks))
    if unknown:
        raise ConfigError(
            f"weights: no row has the task {', '.join(unknown)}; the rows have {', '.join(sorted(tasks))}"
        )
    counts = {task: weights.get(task, 1.0) * len(found) for task, found in tasks.items()}
    return _passes(tasks, counts, epochs, seed)


def with_shares(
    main: Sequence[int], others: Mapping[str, tuple[Sequence[int], float]], epochs: int, seed: int
) -> list[int]:
    """Further rows spread among those of `mixture`.

    Args:
        main: Order of the main rows over all epochs.
        others: Name to its rows and their share of all rows, below 1 in sum.
        epochs: Passes that `main` makes.
        seed: Of the order.
    """
    whole = len(main) / (1.0 - sum(share for _, share in others.values()))
    added = {name: list(indices) for name, (indices, share) in others.items() if share}
    counts = {name: whole * others[name][1] / epochs for name in added}
    extra = _passes(added, counts, epochs, seed + 1)
    # A seeded place for each: sorting by it mixes them evenly and keeps the order within each kind.
    rng = np.random.default_rng(seed + 2)
    places = np.concatenate([(np.arange(len(part)) + rng.random(len(part))) / max(1, len(part))
                             for part in (main, extra)])  # fmt: skip
    both = [*main, *extra]
    return [both[i] for i in np.argsort(places, kind="stable")]


def rows_hash(rows: Sequence[Row], order: Sequence[int] = ()) -> str:
    """SHA-256 over rows and their order, with recordings by their file names alone."""
    total = hashlib.sha256(json.dumps(list(map(int, order))).encode())
    for row in rows:
        said = [[m["role"], [p.get("text") or Path(p["path"]).name for p in m["content"]]] for m in row["messages"]]
        total.update(json.dumps([row["id"], said]).encode())
    return total.hexdigest()


def paths_of(row: Row) -> list[str]:
    """The recordings that a row's conversation hears, in order."""
    return [str(part["path"]) for part in audio_parts(row["messages"])]


def reply_of(row: Row) -> str:
    """The text of the assistant's message, which is the last one."""
    return "".join(part["text"] for part in row["messages"][-1]["content"])


def _row(line: str, file: Path, number: int) -> Row:
    try:
        row = json.loads(line)
        messages = [
            {**m, "content": [text_part(m["content"])] if isinstance(m["content"], str) else m["content"]}
            for m in row["messages"]
        ]
        if not messages:
            raise ValueError("messages is empty")
        named = {"id": f"{file.parent.name}/{file.name}:{number}", "task": "text", "audio": []}
        return resolve_audio({**named, **row, "messages": messages}, file.parent)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorpusError(f"{file}, line {number}: no row of a view ({error}); it needs `messages`") from None


def _duration(path: str) -> float | str:
    try:
        return load_audio(path).duration_s
    except AudioError as error:
        return str(error)


def _problem(checked: Sequence[tuple[str, float | str]], longest_s: float) -> str | None:
    for path, found in checked:
        if isinstance(found, str):
            return found
        if found < SHORTEST_S:
            return f"{path} lasts {found:.3f} s, less than {SHORTEST_S} s"
    total = sum(float(found) for _, found in checked)
    return f"{total:.1f} s of sound, more than max_duration_s {longest_s:g}" if total > longest_s else None


def _passes(groups: Mapping[str, Sequence[int]], counts: Mapping[str, float], epochs: int, seed: int) -> list[int]:
    """`counts` rows of each group per epoch, the groups mixed; a group's rows recur only when all have been seen."""
    rng = np.random.default_rng(seed)
    streams = {name: _endless(indices, rng) for name, indices in groups.items()}
    order: list[int] = []
    for epoch in range(epochs):
        drawn = []
        for name, count in counts.items():
            drawn += [next(streams[name]) for _ in range(round(count * (epoch + 1)) - round(count * epoch))]
        order += [drawn[i] for i in rng.permutation(len(drawn))]
    return order


def _endless(indices: Sequence[int], rng: Any) -> Iterator[int]:
    while True:
        yield from (indices[i] for i in rng.permutation(len(indices)))
