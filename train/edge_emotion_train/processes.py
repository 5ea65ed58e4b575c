"""The processes of one run: what is done once, and who waits for it.

Without a launcher there is one process, which is the main one, and nothing here does anything.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState

# Features of a corpus take the first process long, and the others wait for them.
LONGEST_WAIT = timedelta(hours=12)


def processes() -> PartialState:
    """The processes of this run, joined on the first call.

    Without `cpu` accelerate overlooks them on a machine without a GPU.
    """
    if PartialState._shared_state:  # pyright: ignore[reportPrivateUsage]
        return PartialState()
    return PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)


def is_main() -> bool:
    """Whether this process writes: checkpoints, logs and results are one process's business."""
    return processes().is_main_process


@contextmanager
def main_first() -> Iterator[None]:
    """The main process does the block alone, then all others together: they find what it left in the cache.

    The cache must be on a disk that all machines of the run share.
    """
    with processes().main_process_first():
        yield


def print_result(result: Any) -> None:
    """Prints a stage's result as one JSON line, once."""
    if is_main():
        sys.stdout.write(json.dumps(result) + "\n")
