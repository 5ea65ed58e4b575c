"""Training views of labelled records: `write_view`, one folder per view. What a row holds is in `rows`."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from edge_emotion.cues import CUE_BY_NAME, Thresholds
from edge_emotion.errors import EdgeEmotionError, LabellingError
from edge_emotion_train.augment import clip_seed
from edge_emotion_train.labelling.calibrate import ThresholdGroups
from edge_emotion_train.labelling.clips import is_part, load_clip, plain_name, write_clip
from edge_emotion_train.labelling.folders import new_folder
from edge_emotion_train.labelling.ordering import PLACES, UNITS, NotReachedError, make_triple, order_question
from edge_emotion_train.labelling.records import Record, json_line
from edge_emotion_train.labelling.rows import SPLITS, Row, assistant_message, user_message
from edge_emotion_train.labelling.splits import SHARES, Split, prove_split, split_records
from edge_emotion_train.labelling.steps import LABELLED, LEVELLED, THRESHOLDS, record_files
from edge_emotion_train.labelling.view_prosody import answered, prosody_rows
from edge_emotion_train.labelling.view_reasoning import emotion_labels, grpo_row, reasoning_row
from edge_emotion_train.labelling.view_reward import CannotRateError, reward_rows
from edge_emotion_train.reasoning import CueEmotionTable

VIEWS: Mapping[str, str] = {
    "prosody": "levels of pitch, energy and speed, intonation, stressed words",
    "ordering": "three edited variants of one sentence, to be put in order",
    "reasoning": "reasoning and answer, for the cold start",
    "grpo": "questions with what a reward needs to judge an answer",
    "reward": "reasoning at controlled quality with its scores, for the reward model",
}
SCHEMA_VERSION = 1
EXAMPLES = 3


@dataclass(frozen=True)
class Job:
    """One record to be made into rows.

    Attributes:
        record: The record.
        split: Where its rows go.
        groups: The thresholds that its levels were made with.
        lender: A record whose reasoning is lent to it.
    """

    record: Record
    split: str
    groups: Mapping[str, Thresholds]
    lender: Record | None = None


@dataclass(frozen=True)
class Made:
    """What became of a record: rows, and causes of what could not be made."""

    record_id: str
    rows: tuple[Row, ...]
    problems: tuple[str, ...]


def write_view(
    name: str,
    records: Sequence[Record],
    groups: Mapping[str, Thresholds],
    output: Path,
    *,
    seed: int = 0,
    test_speakers: Iterable[str] = (),
    validation_speakers: Iterable[str] = (),
    shares: Mapping[str, float] = SHARES,
    use_source_splits: bool = False,
    processes: int = 1,
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Make one view of labelled records, whole or not at all.

    The same records, seed and options give the same bytes, in whatever order the records come and with any number of
    processes. A record of which something cannot be made is counted in `view.json` under its cause.

    Args:
        name: One of `VIEWS`.
        records: With unique ids.
        groups: Thresholds by the keys that `Level.thresholds` names.
        output: Folder of the view.
        seed: Decides the split, the wording of questions and every edit.
        test_speakers: See `split_records`, as the next three.
        validation_speakers: As above.
        shares: As above.
        use_source_splits: As above.
        processes: Processes of this machine.
        force: Replace the folder.
        progress: A bar with the time left, on stderr.

    Returns:
        What `view.json` holds.

    Raises:
        LabellingError: Unknown view, the folder exists, or no record gives a row.
        CorpusError: The records cannot be split, or a leak was found; nothing is written then.
    """
    if name not in VIEWS:
        raise LabellingError(f"unknown view {name!r}; views are {', '.join(VIEWS)}")
    records = sorted(records, key=lambda record: record.id)
    split = split_records(records, seed, test_speakers, validation_speakers, shares, use_source_splits)
    with new_folder(output, "view.json", force) as folder:
        make = _maker(name, records, split, folder, seed)
        jobs = [Job(record, split.of[record.id], _own_groups(record, groups)) for record in records]
        if name == "reward":
            jobs = _with_lenders(jobs, seed)
        made = list(_make_all(make, jobs, processes, f"view {name}" if progress else None))
        rows = [row for result in made for row in result.rows]
        if not rows:
            causes = "; ".join(f"{cause} ({count})" for cause, count in _causes(made).most_common(5))
            raise LabellingError(f"no record gives a row of the view {name}: {causes or 'there are no records'}")
        about = _describe(name, seed, records, made, rows, split)
        for part in SPLITS:
            lines = "".join(json_line(row) + "\n" for row in rows if row["split"] == part)
            (folder / f"{part}.jsonl").write_text(lines, encoding="utf-8")
            about["files"][f"{part}.jsonl"] = hashlib.sha256(lines.encode()).hexdigest()
        about["audio"] = _audio_hash(folder / "audio")
        (folder / "view.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return about


def read_labelled(folder: Path, thresholds: Path | None = None) -> tuple[list[Record], Mapping[str, Thresholds]]:
    """The last records that the steps of the data engine wrote into a folder, and the thresholds of their levels.

    Args:
        folder: Holds `labelled.jsonl` or `levelled.jsonl`.
        thresholds: The `thresholds.json`, where it lies elsewhere.

    Raises:
        LabellingError: One of them is missing or is something else.
    """
    records = list(record_files([folder], LABELLED, LEVELLED))
    path = thresholds or folder / THRESHOLDS
    if not path.is_file():
        raise LabellingError(f"{path} does not exist; say with --thresholds where the thresholds of these levels lie")
    return records, ThresholdGroups.read(path).groups


# --- rows of one record ----------------------------------------------------------------------------------------------


def _maker(name: str, records: Sequence[Record], split: Split, folder: Path, seed: int) -> partial[Made]:
    labels = emotion_labels(records)
    table = None
    if name == "reward":
        known = [r for r in records if split.of[r.id] == "train" and r.emotion and r.levels]
        if not known:
            raise LabellingError("the reward view needs training records with emotion and levels; there are none")
        table = CueEmotionTable().fit([_levels(r) for r in known], [str(r.emotion) for r in known])
    return partial(_make, name, labels=labels, table=table, folder=folder, seed=seed)


def _make(
    name: str, job: Job, labels: Sequence[str], table: CueEmotionTable | None, folder: Path, seed: int
) -> Made:  # fmt: skip
    record, problems = job.record, []
    rows: list[Row] = []
    try:
        if not Path(record.audio).is_file():
            raise FileNotFoundError("the recording does not exist")
        audio = "" if name == "ordering" else _own_audio(record, folder)
        for row in _rows(name, job, audio, labels, table, folder, seed, problems):
            rows.append(row)
    except (EdgeEmotionError, CannotRateError) as error:
        problems.append(str(error).replace(record.audio, "the recording").replace(record.id, "the record"))
    except (OSError, ValueError) as error:
        problems.append(f"{type(error).__name__}: {str(error).replace(record.id, 'the record')}")
    return Made(record.id, tuple(rows), tuple(problems))


def _rows(
    name: str,
    job: Job,
    audio: str,
    labels: Sequence[str],
    table: CueEmotionTable | None,
    folder: Path,
    seed: int,
    problems: list[str],
) -> Iterator[Row]:
    record = job.record
    if name == "prosody":
        yield from prosody_rows(record, job.split, audio, job.groups, seed)
    elif name == "ordering":
        yield from _ordering_rows(record, job.split, folder, seed, problems)
    elif name == "reasoning":
        yield reasoning_row(record, job.split, audio, labels, seed)
    elif name == "grpo":
        if record.emotion is None or record.measures is None or record.levels is None:
            raise ValueError("the record needs an emotion, measures and levels")
        yield grpo_row(record, job.split, audio, labels, job.groups, seed)
    elif table is not None:
        yield from reward_rows(record, job.split, audio, job.groups, table, job.lender, seed)


def _ordering_rows(record: Record, split: str, folder: Path, seed: int, problems: list[str]) -> Iterator[Row]:
    samples = load_clip(record)
    for attribute, places in PLACES.items():
        try:
            with threadpool_limits(1):  # sums of several BLAS threads would differ in their last bits
                triple = make_triple(samples, attribute, record.id, seed)
        except NotReachedError as error:
            problems.append(f"order_{attribute}: {error}")
            continue
        audio = f"audio/{plain_name(record.id)}.{attribute}.flac"
        _write_bytes(folder / audio, triple.flac)
        yield {
            "id": f"{record.id}#order_{attribute}",
            "task": f"order_{attribute}",
            "split": split,
            "speaker": record.speaker,
            "sources": [record.id],
            "audio": [audio],
            "messages": [user_message([audio], order_question(attribute)), assistant_message(answered(triple.answer))],
            "answer": triple.answer,
            "options": list(places),
            "unit": UNITS[attribute],
            "variants": [asdict(variant) for variant in triple.variants],
        }


def _own_audio(record: Record, folder: Path) -> str:
    """The record's file; where it is only a part of one, a cut of it in the view's folder."""
    if not is_part(record):
        return record.audio
    audio = f"audio/{plain_name(record.id)}.flac"
    write_clip(record, folder / audio)
    return audio


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


# --- all records -----------------------------------------------------------------------------------------------------


def _make_all(make: partial[Made], jobs: Sequence[Job], processes: int, what: str | None) -> Iterator[Made]:
    rest_s = 0.1 if sys.stderr.isatty() else 30.0
    bar = partial(tqdm, total=len(jobs), desc=what, disable=what is None, file=sys.stderr, mininterval=rest_s)
    if processes <= 1:
        yield from bar(map(make, jobs))
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from bar(pool.map(make, jobs, chunksize=8))


def _own_groups(record: Record, groups: Mapping[str, Thresholds]) -> dict[str, Thresholds]:
    names = {level.thresholds for level in (record.levels or {}).values()}
    return {name: groups[name] for name in names if name is not None and name in groups}


def _with_lenders(jobs: Sequence[Job], seed: int) -> list[Job]:
    """Each record borrows the reasoning of a record of its split with another emotion, if there is one."""
    pools: dict[tuple[str, str], list[Record]] = {}
    for job in jobs:
        if job.record.reasoning and job.record.emotion:
            pools.setdefault((job.split, job.record.emotion), []).append(job.record)
    lent = []
    for job in jobs:
        rng = np.random.default_rng(clip_seed(f"{seed}\0{job.record.id}\0lender", 0))
        others = [
            pool for (split, emotion), pool in pools.items() if split == job.split and emotion != job.record.emotion
        ]
        pool = others[int(rng.integers(len(others)))] if others else []
        lent.append(Job(job.record, job.split, job.groups, pool[int(rng.integers(len(pool)))] if pool else None))
    return lent


def _levels(record: Record) -> dict[str, str]:
    return {name: level.level for name, level in (record.levels or {}).items() if level.level and name in CUE_BY_NAME}


# --- what view.json says ---------------------------------------------------------------------------------------------


def _describe(
    name: str, seed: int, records: Sequence[Record], made: Sequence[Made], rows: Sequence[Row], split: Split
) -> dict[str, Any]:
    causes = _causes(made)
    examples: dict[str, list[str]] = {}
    for result in made:
        for cause in dict.fromkeys(result.problems):
            examples.setdefault(cause, []).append(result.record_id)
    counts = Counter((row["split"], row["task"]) for row in rows)
    return {
        "schema_version": SCHEMA_VERSION,
        "view": name,
        "seed": seed,
        "labels": list(emotion_labels(records)),
        "records": len(records),
        "records_sha256": records_hash(records),
        "records_with_rows": sum(bool(result.rows) for result in made),
        "rows": {part: {t: n for (s, t), n in sorted(counts.items()) if s == part} for part in SPLITS},
        "problems": {cause: {"count": n, "examples": examples[cause][:EXAMPLES]} for cause, n in causes.most_common()},
        "rows_sha256": rows_hash(rows),
        "files": {},
        "split": {"seed": split.seed, "notes": list(split.notes), **prove_split(rows, records)},
    }


def records_hash(records: Iterable[Record]) -> str:
    """SHA-256 over records, with recordings by their file names alone, so that it is the same wherever the data lie."""
    total = hashlib.sha256()
    for record in records:
        total.update(replace(record, audio=Path(record.audio).name).to_json().encode() + b"\n")
    return total.hexdigest()


def rows_hash(rows: Iterable[Row]) -> str:
    """SHA-256 over rows, with recordings by their file names alone."""
    total = hashlib.sha256()
    for row in rows:
        bare = json.loads(json_line(row), object_hook=_without_folders)
        total.update(json_line({**bare, "audio": [Path(name).name for name in bare["audio"]]}).encode() + b"\n")
    return total.hexdigest()


def _without_folders(value: dict[str, Any]) -> dict[str, Any]:
    return {**value, "path": Path(value["path"]).name} if value.get("type") == "audio" else value


def _causes(made: Sequence[Made]) -> Counter[str]:
    return Counter(cause for result in made for cause in result.problems)


def _audio_hash(folder: Path) -> dict[str, Any]:
    """How many files the view made itself, and a SHA-256 over their names and bytes."""
    total, count = hashlib.sha256(), 0
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        total.update(f"{path.name}\t{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        count += 1
    return {"files": count, "sha256": total.hexdigest() if count else None}
