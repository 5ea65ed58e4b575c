"""Runs a step over records: in this process, in threads, in several processes, or through Ray Data.

Results come in whatever order they are ready. A step that fails costs its record; a process that dies costs the one
record that killed it.
"""

from __future__ import annotations

import functools
import itertools
import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, TypeAlias

from threadpoolctl import threadpool_limits

from edge_emotion.errors import EdgeEmotionError, LabellingError, RuntimeUnavailableError

from .records import Failure, Outcome, Record

Step: TypeAlias = Callable[[Record], "Record | Outcome"]

# A measured clip takes about 20 ms: enough of them that handing over does not count, few enough to share out evenly.
RECORDS_PER_TASK = 16
TASKS_AHEAD = 2
# Ray Data holds one such window of its input at a time.
RAY_WINDOW_RECORDS = 8192


class StopRun(LabellingError):
    """Raised by a step to end the whole run, for example when a budget is spent; its record stays to be done."""


class Done(NamedTuple):
    """What became of one record: its line, None where it is lost, and what went wrong."""

    key: str
    line: str | None
    failures: tuple[Failure, ...]


class _Stopped(NamedTuple):
    cause: str


_Task: TypeAlias = "list[tuple[str, Record]]"
_Result: TypeAlias = "list[Done | _Stopped]"


def execute(
    name: str,
    step: Step,
    items: Iterable[tuple[str, Record]],
    processes: int = 1,
    threads: int = 1,
    ray: bool = False,
) -> Iterator[Done]:
    """Applies a step to keyed records.

    Args:
        name: Of the step, for failures.
        step: A function of a module, a `functools.partial` of one, or an instance that can be pickled.
        items: Read as needed: at most a few hundred records are held at once.
        processes: 1 for this process.
        threads: More than one for steps that wait for others, such as a network.
        ray: Through Ray Data, on the cluster that RAY_ADDRESS names or on this machine.

    Raises:
        StopRun: The step asked for it; what was under way came out before.
        LabellingError: More than one way of running was asked for.
        RuntimeUnavailableError: Ray is not installed.
    """
    if (processes > 1) + (threads > 1) + ray > 1:
        raise LabellingError("processes, threads and Ray cannot be combined; choose one of them")
    if processes < 1 or threads < 1:
        raise LabellingError(f"at least 1 process and 1 thread are needed, given {processes} and {threads}")
    stopped: list[str] = []
    items = itertools.takewhile(lambda _: not stopped, items)  # what is under way is still finished
    if ray:
        results = _through_ray(functools.partial(_work, name, step), items)
    elif processes > 1:
        results = _through_processes(name, step, items, processes)
    elif threads > 1:
        results = _through_threads(functools.partial(_work, name, step), items, threads)
    else:
        results = (_work(name, step, [item]) for item in items)
    with _one_blas_thread():
        for done in itertools.chain.from_iterable(results):
            if isinstance(done, _Stopped):
                stopped.append(done.cause)
            else:
                yield done
    if stopped:
        raise StopRun(stopped[0])


def _work(name: str, step: Step, task: _Task) -> _Result:
    """One task, in whatever process it runs."""
    results: _Result = []
    for key, record in task:
        try:
            results.append(_apply(name, step, key, record))
        except StopRun as stop:
            results.append(_Stopped(str(stop)))
            break
    return results


def _apply(name: str, step: Step, key: str, record: Record) -> Done:
    try:
        outcome = step(record)
        outcome = Outcome(outcome) if isinstance(outcome, Record) else outcome
        return Done(key, None if outcome.record is None else outcome.record.to_json(), outcome.failures)
    except StopRun:
        raise
    except EdgeEmotionError as error:
        cause = str(error)
    except Exception as error:
        cause = f"unexpected {type(error).__name__}: {error}"
    return Done(key, None, (Failure(record.id, name, cause),))


def _tasks(items: Iterable[tuple[str, Record]], size: int) -> Iterator[_Task]:
    iterator = iter(items)
    while task := list(itertools.islice(iterator, size)):
        yield task


def _through_threads(
    work: Callable[[_Task], _Result], items: Iterable[tuple[str, Record]], threads: int
) -> Iterator[_Result]:
    executor = ThreadPoolExecutor(threads)
    try:
        for future, _ in _as_ready(executor, work, _tasks(items, 1), threads * TASKS_AHEAD):
            yield future.result()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _through_processes(name: str, step: Step, items: Iterable[tuple[str, Record]], processes: int) -> Iterator[_Result]:
    work = functools.partial(_work, name, step)
    tasks = _tasks(items, RECORDS_PER_TASK)
    while True:
        interrupted: list[_Task] = []
        executor = _process_pool(processes)
        try:
            for future, task in _as_ready(executor, work, tasks, processes * TASKS_AHEAD):
                try:
                    yield future.result()
                except BrokenProcessPool:
                    interrupted.append(task)
        except _CannotSubmit as broken:
            interrupted.extend(broken.tasks)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
        if not interrupted:
            return
        yield from _one_by_one(name, work, [item for task in interrupted for item in task])


class _CannotSubmit(Exception):
    """The pool broke between two tasks; these tasks have not been done."""

    def __init__(self, tasks: list[_Task]) -> None:
        self.tasks = tasks


def _as_ready(
    executor: Executor, work: Callable[[_Task], _Result], tasks: Iterator[_Task], ahead: int
) -> Iterator[tuple[Future[_Result], _Task]]:
    """Futures as they are ready, never more than `ahead` under way; stops taking tasks when a future failed."""
    running: dict[Future[_Result], _Task] = {}
    failed = False
    for task in itertools.chain(tasks, [None]):
        if task is not None:
            try:
                running[executor.submit(work, task)] = task
            except BrokenProcessPool:
                raise _CannotSubmit([*running.values(), task]) from None
        while running and (task is None or failed or len(running) >= ahead):
            ready, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                failed = failed or future.exception() is not None
                yield future, running.pop(future)
        if failed:
            return


def _one_by_one(name: str, work: Callable[[_Task], _Result], items: _Task) -> Iterator[_Result]:
    """Records among which one killed its process, each on its own: the killer is found and becomes a failure."""
    executor = _process_pool(1)
    try:
        for key, record in items:
            try:
                yield executor.submit(work, [(key, record)]).result()
            except BrokenProcessPool:
                cause = "the process that worked on it died (out of memory, or a fault in a library); look at this file"
                yield [Done(key, None, (Failure(record.id, name, cause),))]
                executor.shutdown(wait=False, cancel_futures=True)
                executor = _process_pool(1)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _process_pool(processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start_process)


def _one_blas_thread() -> threadpool_limits:
    """Until it is closed: sums of several threads may differ in their last bits, and processes are enough to do."""
    return threadpool_limits(1)


def _start_process() -> None:
    _one_blas_thread()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """A parent that is killed cannot tell its workers, which would wait for ever."""
    parent.join()
    os._exit(1)


def _through_ray(work: Callable[[_Task], _Result], items: Iterable[tuple[str, Record]]) -> Iterator[_Result]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError:
        raise RuntimeUnavailableError(
            'ray is not installed; it comes with the extra "ray": pip install "edge-emotion[ray]"'
        ) from None
    for logger in ("ray", "ray.data"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    if not ray.is_initialized():
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def run(row: dict[str, Any]) -> dict[str, Any]:
        with _one_blas_thread():
            return {"result": pickle.dumps(work(pickle.loads(row["task"])))}

    for window in _tasks(items, RAY_WINDOW_RECORDS):
        rows = [{"task": pickle.dumps(task)} for task in _tasks(window, RECORDS_PER_TASK)]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(run)
        try:
            for row in dataset.iter_rows():
                yield pickle.loads(row["result"])
        except ray.exceptions.RayError as error:
            raise LabellingError(f"Ray stopped: {error}. What is done is kept; give the same command again") from error
