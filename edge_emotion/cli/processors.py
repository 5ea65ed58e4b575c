"""How many processes a command starts."""

from __future__ import annotations

import os


def process_count(given: int) -> int:
    """The number of processes; 0 means all processors that this process may use."""
    if given:
        return given
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
