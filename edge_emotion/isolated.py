"""Asking a library something in a process of its own, which may crash or hang without ending this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What a probe said, or how it ended: `problem` is None where it answered, `signal` the name of what killed it."""

    value: Any = None
    problem: str | None = None
    signal: str | None = None


def ask(statement: str, expression: str, timeout_s: float = TIMEOUT_S) -> Answer:
    """Runs a statement in a fresh Python and returns an expression's value, which JSON must be able to hold."""
    code = f"import importlib.metadata, json; {statement}\nprint(); print(json.dumps({expression}))"
    path = os.pathsep.join(folder for folder in sys.path if folder)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(problem=f"it took more than {timeout_s:.0f} s", signal="timeout")
    if done.returncode == 0:
        try:
            return Answer(json.loads(done.stdout.splitlines()[-1]))
        except (ValueError, IndexError):
            return Answer(problem="it gave no answer")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return Answer(problem=f"it ends the process with {name}", signal=name)
    return Answer(problem=(done.stderr.strip().splitlines() or ["it ended without saying why"])[-1])
