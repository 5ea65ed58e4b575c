"""Runs one step of the data engine over all records, restartably: `run_step`.

A step is a function of one record, picklable, that returns the record with its fields added:

    def write(record: Record) -> Record | Outcome: ...

    run_step("write", functools.partial(write, options), RecordFile((folder / "levelled.jsonl",)), folder,
             output="labelled.jsonl", settings={"model": model, "seed": seed}, threads=8)

- It raises an `EdgeEmotionError` where the clip is lost (the message becomes the cause in `errors.jsonl`), returns an
  `Outcome` with failures where only a field is, and raises `StopRun` to end the run with everything done so far kept.
- It must give the same result for the same record and settings: then one process, several, threads and Ray give the
  same bytes, and a run that was killed gives those of one that was not. The output's order is the source's.
- Each result is appended to a journal as soon as it is ready. When all are there the output is published under its name
  in one go. A second run takes over every result whose input and settings have not changed.
- What a step needs only once per process (a client, a model) it makes when it is first called, and keeps.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from edge_emotion import __version__
from edge_emotion.errors import LabellingError

from .records import Failure, Outcome, Record, json_line
from .store import NO_FAILURES, Entry, Journal, keys_path, publish, published_failures, read_published, write_atomically
from .workers import Step, StopRun, execute

__all__ = ["Counts", "Source", "Step", "StopRun", "run_step"]

# What a source yields: a record, or an `Outcome` where something was wrong with it or with what should have been one.
Source: TypeAlias = Iterable["Record | Outcome"]


# Of SHA-256, in hexadecimal; a key is one of the id and one of everything else.
DIGEST_LENGTH = 24


@dataclass(frozen=True)
class Counts:
    """What became of the clips: `total == out + failed`, always.

    Attributes:
        total: Clips of the source.
        out: Records written.
        failed: Clips that are lost; each has a line without `lost` in `errors.jsonl`.
        fields_lost: Fields that are missing in records written; each has a line with `lost`.
        skipped: Clips taken over from an earlier run.
        output: The file.
        output_sha256: Of its bytes.
    """

    total: int
    out: int
    failed: int
    fields_lost: int
    skipped: int
    output: str
    output_sha256: str

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "in": self.total, "out": self.out, "failed": self.failed, "fields_lost": self.fields_lost,
            "skipped": self.skipped, "output": self.output, "output_sha256": self.output_sha256,
        }  # fmt: skip


def run_step(
    name: str,
    step: Step,
    source: Source,
    folder: Path,
    output: str,
    settings: Mapping[str, Any],
    *,
    processes: int = 1,
    threads: int = 1,
    ray: bool = False,
    fingerprint: Callable[[Record], str] | None = None,
    shard: tuple[int, int] = (1, 1),
    retry_failed: bool = False,
    force: bool = False,
    progress: bool = True,
) -> Counts:
    """Applies a step to every record of a source and publishes the result.

    Args:
        name: Of the step, in `run.json` and `errors.jsonl`.
        step: See above.
        source: Gone through twice, so a list or a `RecordFile`, no generator. Ids must be unique.
        folder: Made if it does not exist. One run at a time.
        output: Name of the output in it, `something.jsonl`.
        settings: Everything beside the record that results depend on, the code too (`store.code_sha256`); JSON types.
        processes: Processes of this machine.
        threads: More than one for a step that waits for a network.
        ray: Through Ray Data.
        fingerprint: What results depend on beside record and settings, for example size and time of the audio file.
        shard: (i, n): only the i-th of n equal parts of the source. Outputs of all parts, one after the other, are the
            output of the whole.
        retry_failed: Try clips again that failed in an earlier run.
        force: Throw away what the folder holds of this step.
        progress: A bar with the time left, on stderr.

    Raises:
        LabellingError: The folder holds results of other settings or of records that the source no longer has, is
            in use, or cannot be written. What was done is kept.
        StopRun: The step ended the run. What was done is kept.
    """
    target, journal_path = folder / output, folder / f".{Path(output).stem}.journal"
    state = hashlib.sha256(json_line([name, settings]).encode()).hexdigest()
    with _sole_user(folder):
        if force:
            for path in (journal_path, target, keys_path(target)):
                path.unlink(missing_ok=True)
        plan = [item.without_record() for item in _shard(_plan(name, source, fingerprint), shard)]
        known = _published(target, state, plan)
        journal = Journal(journal_path, state)
        try:
            known |= journal.entries
            known = {key: entry for key, entry in known.items() if not retry_failed or entry.length is not None}
            wanted = {item.key for item in plan if not item.lost} - known.keys()
            items = (item for item in _shard(_plan(name, source, fingerprint), shard) if item.key in wanted)
            todo = ((item.key, item.record) for item in items if item.record is not None)
            with _bar(name, len(plan), len(plan) - len(wanted), progress) as bar:
                for done in execute(name, step, todo, processes, threads, ray):
                    journal.append(done.key, done.line, done.failures)
                    bar.update()
            known |= journal.entries
            results = [(item.key, _entry(item, known)) for item in plan]
            sha256 = publish(target, state, results)
        except StopRun as stop:
            raise StopRun(f"{stop}. What is done is kept; give the same command again to go on") from None
        finally:
            journal.close()
        counts = _count(results, len(plan) - len(wanted), output, sha256)
        _write_run(folder, name, settings, plan, counts)
        journal_path.unlink()
    return counts


class _Item(NamedTuple):
    """One place of the source: its record, or what was wrong there."""

    key: str
    record: Record | None
    failures: tuple[Failure, ...]
    lost: bool

    def without_record(self) -> _Item:
        return self._replace(record=None)


def _plan(name: str, source: Source, fingerprint: Callable[[Record], str] | None) -> Iterator[_Item]:
    seen: dict[str, None] = {}
    for place, given in enumerate(source, start=1):
        record, failures = (given, ()) if isinstance(given, Record) else (given.record, given.failures)
        if record is not None and record.id in seen:
            cause = f"the id {record.id!r} is there already; ids must be unique in a run: rename one of the two"
            record, failures = None, (*failures, Failure(record.id, name, cause))
        about = [place, *(failure.to_dict() for failure in failures)]
        if record is not None:
            seen[record.id] = None
            about = [record.to_dict(), fingerprint(record) if fingerprint else ""]
        key = _digest(record.id if record else place) + _digest(about)
        yield _Item(key, record, failures, record is None)


def _digest(value: Any) -> str:
    return hashlib.sha256(json_line(value).encode()).hexdigest()[:DIGEST_LENGTH]


def _shard(items: Iterator[_Item], shard: tuple[int, int]) -> Iterator[_Item]:
    number, of = shard
    if not 1 <= number <= of:
        raise LabellingError(f"part {number} of {of} does not exist; parts go from 1 to their number")
    if of == 1:
        return items
    everything = list(items)
    return iter(everything[len(everything) * (number - 1) // of : len(everything) * number // of])


def _published(target: Path, state: str, plan: Sequence[_Item]) -> dict[str, Entry]:
    """Results of an earlier run that can be taken over."""
    published = read_published(target)
    if published is None:
        return {}
    if published.settings != state:
        raise LabellingError(
            f"{target} was made with other settings or by other code (run.json beside it tells which); choose another "
            "folder, or give --force to make it anew"
        )
    ids = {item.key[:DIGEST_LENGTH] for item in plan}
    gone = sum(entry.length is not None and key[:DIGEST_LENGTH] not in ids for key, entry in published.entries.items())
    if gone:
        raise LabellingError(
            f"{target} holds {gone} records that the input does not have any more; choose another folder, or give "
            "--force to make it anew"
        )
    return published.entries


def _entry(item: _Item, known: Mapping[str, Entry]) -> Entry:
    """The result of a place of the source, with what was wrong in the source before what went wrong in the step."""
    entry = Entry(Path(), 0, None, NO_FAILURES) if item.lost else known[item.key]
    before = [failure.to_dict() for failure in item.failures]
    after = [failure for failure in json.loads(entry.failures) if failure not in before] if before else None
    return entry if after is None else entry._replace(failures=json_line([*before, *after]))


def _count(results: Sequence[tuple[str, Entry]], skipped: int, output: str, sha256: str) -> Counts:
    out = sum(entry.length is not None for _, entry in results)
    wrong = (entry.failures for _, entry in results if entry.failures != NO_FAILURES)
    lost = sum(failure["lost"] is not None for failures in wrong for failure in json.loads(failures))
    return Counts(len(results), out, len(results) - out, lost, skipped, output, sha256)


def _write_run(folder: Path, name: str, settings: Mapping[str, Any], plan: Sequence[_Item], counts: Counts) -> None:
    """Adds the step to `run.json`, and makes `errors.jsonl` from the failures of all steps, in their order."""
    path = folder / "run.json"
    try:
        steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
    except (OSError, ValueError, KeyError):
        steps = {}
    described = counts.to_dict()
    del described["skipped"]  # a run that was interrupted must leave the same file as one that was not
    steps[name] = {
        **described,
        "input_sha256": hashlib.sha256("".join(item.key for item in plan).encode()).hexdigest(),
        "settings": dict(settings),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "edge-emotion": __version__},
    }
    failures = [failure for step in steps.values() for failure in published_failures(folder / step["output"])]
    write_atomically(folder / "errors.jsonl", "".join(json_line(failure) + "\n" for failure in failures))
    write_atomically(path, json.dumps({"schema_version": 1, "steps": steps}, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def _sole_user(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise LabellingError(f"another run is writing into {folder}; wait for it, or choose another folder") from None
    except OSError as error:
        raise LabellingError(f"{folder} cannot be written: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()


def _bar(name: str, total: int, done: int, progress: bool) -> tqdm[Any]:
    live = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        desc=name,
        unit="clip",
        disable=not progress or done == total,
        mininterval=0.2 if live else 30.0,  # into a log, a line now and then
        file=sys.stderr,
        dynamic_ncols=True,
    )
