"""The engine: every clip exactly once, the same bytes however it runs, and nothing lost when it is stopped."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion.errors import LabellingError
from edge_emotion_train.labelling import store
from edge_emotion_train.labelling.engine import Counts, run_step
from edge_emotion_train.labelling.records import Failure, Outcome, Record, RecordFile
from edge_emotion_train.labelling.workers import StopRun
from tests.labelling.engine_steps import (
    add_text,
    add_text_slowly,
    die_at_13,
    note_call,
    records,
    stop_at_13,
)

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, step: Any = add_text, source: Any = None, count: int = 60, **options: Any) -> Counts:
    given = records(count) if source is None else source
    settings_ = options.pop("settings", {"seed": 1})
    return run_step("step", step, given, folder, "out.jsonl", settings_, progress=False, **options)


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("out.jsonl", "errors.jsonl", "run.json", ".out.keys")}


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    """What an undisturbed run in one process gives."""
    run(tmp_path / "expected")
    return outputs(tmp_path / "expected")


def test_counts_add_up_and_the_order_is_the_sources(tmp_path: Path) -> None:
    counts = run(tmp_path, count=60)
    assert (counts.total, counts.out, counts.failed, counts.fields_lost) == (60, 54, 6, 8)
    ids = [record.id for record in RecordFile((tmp_path / "out.jsonl",))]
    assert ids == [record.id for record in records(60) if not record.id.endswith("9")]
    failures = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    assert [failure["id"] for failure in failures] == sorted(failure["id"] for failure in failures)
    assert {f["cause"] for f in failures if f["lost"] is None} == {f"corpus/00{n}9 is bad" for n in range(6)}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [".lock", ".out.keys", "errors.jsonl", "out.jsonl", "run.json"]
    )


@pytest.mark.parametrize("how", [{"processes": 4}, {"threads": 5}])
def test_the_same_bytes_however_it_runs(tmp_path: Path, expected: dict[str, bytes], how: dict[str, Any]) -> None:
    run(tmp_path / "other", step=add_text_slowly, **how)
    assert outputs(tmp_path / "other") == expected


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_the_same_bytes_through_ray(tmp_path: Path, expected: dict[str, bytes]) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.labelling.test_engine import run\n"
        "run(Path(sys.argv[1]), ray=True)"
    )
    paths = os.pathsep.join(str(ROOT / name) for name in (".", "train", "runtimes", "export"))
    environment = {**os.environ, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "ray")], check=True, env=environment, timeout=300)
    assert outputs(tmp_path / "ray") == expected


def test_a_second_run_calls_the_step_for_nothing(tmp_path: Path) -> None:
    step = functools.partial(note_call, tmp_path)
    run(tmp_path / "out", step=step, count=20)
    before = outputs(tmp_path / "out")
    counts = run(tmp_path / "out", step=step, count=20)
    assert counts.skipped == 20
    assert len((tmp_path / "calls").read_text().splitlines()) == 20
    assert outputs(tmp_path / "out") == before


def test_only_what_is_new_or_changed_is_done(tmp_path: Path) -> None:
    step = functools.partial(note_call, tmp_path)
    source = records(5)
    run(tmp_path / "out", step=step, source=source)
    changed = [*source[:2], Record(source[2].id, "/elsewhere.wav", "corpus"), *source[3:], *records(7)[5:]]
    counts = run(tmp_path / "out", step=step, source=changed)
    assert (counts.total, counts.skipped) == (7, 4)
    assert (tmp_path / "calls").read_text().split()[5:] == ["corpus/0002", "corpus/0005", "corpus/0006"]
    assert next(r for r in RecordFile((tmp_path / "out/out.jsonl",)) if r.id == "corpus/0002").audio == "/elsewhere.wav"


def test_nothing_that_is_there_is_dropped_without_being_asked_to(tmp_path: Path) -> None:
    run(tmp_path, count=30)
    before = outputs(tmp_path)
    with pytest.raises(LabellingError, match="records that the input does not have any more"):
        run(tmp_path, count=20)
    with pytest.raises(LabellingError, match="other settings"):
        run(tmp_path, count=30, settings={"seed": 2})
    assert outputs(tmp_path) == before
    (tmp_path / "out.jsonl").write_bytes(before["out.jsonl"] + b"{}\n")
    with pytest.raises(LabellingError, match="was changed"):
        run(tmp_path, count=30)
    assert run(tmp_path, count=20, force=True).total == 20


def test_fingerprint_decides_what_is_done_again(tmp_path: Path) -> None:
    run(tmp_path, fingerprint=lambda record: "old")
    assert run(tmp_path, fingerprint=lambda record: "old").skipped == 60
    assert run(tmp_path, fingerprint=lambda record: "new").skipped == 0


def test_failed_clips_are_tried_again_on_request_only(tmp_path: Path) -> None:
    run(tmp_path, count=20)
    assert run(tmp_path, count=20).skipped == 20
    counts = run(tmp_path, count=20, retry_failed=True)
    assert (counts.skipped, counts.failed) == (18, 2)


def test_duplicate_ids_and_failures_of_the_source_keep_their_place(tmp_path: Path) -> None:
    a, b = records(2)
    missing = Outcome(None, (Failure("corpus/x", "source", "no audio"),))
    odd = Outcome(b, (Failure(b.id, "source", "unknown label", lost="emotion"),))
    counts = run(tmp_path, source=[a, missing, a, odd])
    assert (counts.total, counts.out, counts.failed, counts.fields_lost) == (4, 2, 2, 1)
    causes = [json.loads(line)["cause"] for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    assert causes[0] == "no audio"
    assert "ids must be unique" in causes[1]
    assert causes[2] == "unknown label"
    assert run(tmp_path, source=[a, missing, a, odd]).fields_lost == 1


def test_parts_one_after_the_other_are_the_whole(tmp_path: Path) -> None:
    run(tmp_path / "whole", count=50)
    parts = b""
    for number in (1, 2, 3):
        run(tmp_path / str(number), count=50, shard=(number, 3))
        parts += (tmp_path / str(number) / "out.jsonl").read_bytes()
    assert parts == (tmp_path / "whole/out.jsonl").read_bytes()
    with pytest.raises(LabellingError, match="part 4 of 3"):
        run(tmp_path / "4", shard=(4, 3))


@pytest.mark.parametrize("how", [{}, {"processes": 2}, {"threads": 3}])
def test_a_step_can_end_the_run_and_the_next_goes_on(
    tmp_path: Path, expected: dict[str, bytes], how: dict[str, Any]
) -> None:
    with pytest.raises(StopRun, match=r"budget of 1 dollar is spent\. What is done is kept"):
        run(tmp_path / "out", step=stop_at_13, **how)
    assert not (tmp_path / "out/out.jsonl").exists()
    counts = run(tmp_path / "out")
    assert counts.skipped >= 13 or how
    assert outputs(tmp_path / "out") == expected


def test_a_process_that_dies_costs_one_clip(tmp_path: Path) -> None:
    counts = run(tmp_path, step=die_at_13, processes=2)
    assert (counts.total, counts.failed) == (60, 7)
    failure = next(json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines() if "0013" in line)
    assert failure["lost"] is None
    assert "process that worked on it died" in failure["cause"]


KILLED = """
import sys
from pathlib import Path
from tests.labelling.engine_steps import add_text_slowly
from tests.labelling.test_engine import run
if __name__ == "__main__":
    run(Path(sys.argv[1]), step=add_text_slowly, count=400, processes=int(sys.argv[2]))
"""


@pytest.mark.parametrize("processes", [1, 3])
def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(tmp_path: Path, processes: int) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    paths = os.pathsep.join(str(ROOT / name) for name in (".", "train", "runtimes", "export"))
    arguments = [sys.executable, str(script), str(tmp_path / "out"), str(processes)]
    child = subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": paths}, start_new_session=True)
    journal = tmp_path / "out/.out.journal"
    deadline = time.monotonic() + 60
    while (not journal.exists() or journal.read_bytes().count(b"\n") < 60) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = journal.read_bytes().count(b"\n") - 1
    assert 0 < done < 400
    assert not (tmp_path / "out/out.jsonl").exists()
    counts = run(tmp_path / "out", count=400)
    assert counts.skipped >= done - 1
    run(tmp_path / "undisturbed", count=400)
    assert outputs(tmp_path / "out") == outputs(tmp_path / "undisturbed")
    if processes > 1:
        wait_until_no_process_is_left(child.pid)


def wait_until_no_process_is_left(group: int) -> None:
    """The workers of a parent that was killed end by themselves."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    raise AssertionError("workers outlive a parent that was killed")


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 10**6))
def test_a_journal_cut_anywhere_is_continued(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    with pytest.raises(StopRun):
        run(folder, step=stop_at_13, count=30)
    journal = folder / ".out.journal"
    content = journal.read_bytes()
    journal.write_bytes(content[: cut % (len(content) + 1)])
    run(folder, count=30)
    run(folder / "undisturbed", count=30)
    assert outputs(folder) == outputs(folder / "undisturbed")


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_line_without_its_end_is_dropped(tmp_path: Path, missing: int) -> None:
    with pytest.raises(StopRun):
        run(tmp_path / "out", step=stop_at_13)
    journal = tmp_path / "out/.out.journal"
    journal.write_bytes(journal.read_bytes()[:-missing])
    run(tmp_path / "out")
    run(tmp_path / "undisturbed")
    assert outputs(tmp_path / "out") == outputs(tmp_path / "undisturbed")


def test_nothing_new_is_begun_when_a_run_ends(tmp_path: Path) -> None:
    seen = []

    def step(record: Record) -> Record | Outcome:
        seen.append(record.id)
        return stop_at_13(record)

    with pytest.raises(StopRun):
        run(tmp_path, step=step, count=60)
    assert len(seen) == 14


class FullDisk:
    """A file on a disk with room for so many more bytes."""

    def __init__(self, file: Any, room: list[int]) -> None:
        self.file, self.room = file, room

    def write(self, content: bytes) -> int:
        taken = content[: self.room[0]]
        if not taken:
            raise OSError(28, "No space left on device")
        self.room[0] -= len(taken)
        return self.file.write(taken)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [1, 200, 4000])
def test_a_full_disk_is_said_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, bytes], room: int
) -> None:
    left = [room]
    original = store.Journal.__init__

    def on_a_full_disk(self: store.Journal, path: Path, state: str) -> None:
        original(self, path, state)
        self._file = FullDisk(self._file, left)  # type: ignore[assignment]

    with monkeypatch.context() as patch:
        patch.setattr(store.Journal, "__init__", on_a_full_disk)
        with pytest.raises(LabellingError, match=r"No space left on device\. What is done so far is kept"):
            run(tmp_path / "out")
    run(tmp_path / "out")
    assert outputs(tmp_path / "out") == expected


def test_a_disk_that_is_full_when_publishing_keeps_the_old_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, count=20)
    before = outputs(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", raising(OSError(28, "No space left on device")))
        with pytest.raises(LabellingError, match="No space left"):
            run(tmp_path, count=30)
    assert outputs(tmp_path) == before
    assert run(tmp_path, count=30).skipped >= 20


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_killed_while_publishing_the_next_run_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    class Killed(BaseException):
        pass

    done = [0]
    original = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if done[0] == renames:
            raise Killed
        done[0] += 1
        return original(self, target)

    run(tmp_path / "out", count=20)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(Killed):
            run(tmp_path / "out", count=30)
    counts = run(tmp_path / "out", count=30)
    assert counts.skipped == 30
    run(tmp_path / "undisturbed", count=30)
    assert outputs(tmp_path / "out") == outputs(tmp_path / "undisturbed")


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    def run_inside(record: Record) -> Record:
        with pytest.raises(LabellingError, match="another run is writing"):
            run(tmp_path, count=1)
        return record

    assert run(tmp_path, step=run_inside, count=1).out == 1


def test_an_error_that_nobody_foresaw_costs_its_clip(tmp_path: Path) -> None:
    def divide(record: Record) -> Record:
        if record.id.endswith("3"):
            raise ZeroDivisionError("by zero")
        return record

    counts = run(tmp_path, step=divide, count=10)
    assert (counts.out, counts.failed) == (9, 1)
    assert "unexpected ZeroDivisionError: by zero" in (tmp_path / "errors.jsonl").read_text()


def test_the_source_is_read_as_it_is_needed(tmp_path: Path) -> None:
    class Counting(Sequence[Record]):
        """Notes how far it was read when the step ran."""

        read = 0

        def __len__(self) -> int:
            return 5000

        def __getitem__(self, index: Any) -> Any:
            raise NotImplementedError

        def __iter__(self) -> Any:
            for Counting.read, record in enumerate(records(5000)):
                yield record

    ahead = []

    def step(record: Record) -> Record:
        ahead.append(Counting.read - int(record.id[-4:]))
        return record

    run(tmp_path, step=step, source=Counting(), threads=4)
    assert max(ahead) < 64


def test_wrong_ways_of_running_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabellingError, match="choose one"):
        run(tmp_path, processes=2, threads=2)
    with pytest.raises(LabellingError, match="at least 1 process"):
        run(tmp_path, processes=0)


def raising(error: Exception) -> Any:
    def function(*_: Any) -> None:
        raise error

    return function
