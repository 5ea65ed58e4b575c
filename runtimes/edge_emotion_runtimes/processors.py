"""How many processor cores a computation may use: the process's physical cores, within its cgroup quota."""

from __future__ import annotations

import os
from pathlib import Path

_CPU_FOLDER = Path("/sys/devices/system/cpu")
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# Below this a token takes less than a millisecond, and threads wait for each other longer than they compute.
_ONE_THREAD_BYTES = 64 * 2**20


def suitable_threads(model_bytes: int) -> int:
    """Threads for a language model whose weights take so many bytes: one for a small model, else the usable cores."""
    return 1 if model_bytes < _ONE_THREAD_BYTES else usable_cores()


def usable_cores() -> int:
    """Physical cores this process may run on, at least 1.

    Hyper-threads of one core count once (they share the arithmetic units a matrix product needs), and a container's
    quota counts (more threads than the quota are throttled, not run).
    """
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_siblings(cpu) for cpu in cpus}
    return max(1, min(len(cores), _quota()))


def _siblings(cpu: int) -> str:
    try:
        return (_CPU_FOLDER / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> int:
    try:
        limit, period = _CGROUP_QUOTA.read_text().split()
        return max(1, round(int(limit) / int(period)))
    except (OSError, ValueError):  # no cgroup, or "max": no quota
        return os.cpu_count() or 1
