"""How far the formulas of `edge-emotion plan` are from measured peak memory: python benchmarks/memory_plan.py

Runs `edge-emotion analyze` for every encoder with every language model of the bundle, on a clip of 3 s and on one of
the longest window, each in a process of its own, and compares its peak resident memory with the plan's sum.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from common import REPOSITORY, add_common_arguments, check_output, deliver, provenance, run, table_of, with_progress

from edge_emotion.audio import SAMPLE_RATE_HZ, load_audio
from edge_emotion.bundle import load_bundle
from edge_emotion.errors import EdgeEmotionError
from edge_emotion.planning import Combination, plan_bundle
from edge_emotion.targets import find_device

CLIP = REPOSITORY / "examples" / "emodb_16_happiness.wav"
DURATIONS_S = (3.0, 30.0)
# The last line of the child's stderr: peak resident memory; `maxrss` counts kilobytes on Linux.
CHILD = """
import resource, sys
from edge_emotion.cli.app import run
code = run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=sys.stderr)
sys.exit(code)
"""


def write_clip(folder: Path, duration_s: float) -> Path:
    """Speech of exactly that length without a pause to cut at: the clip's own speech, repeated."""
    samples = load_audio(CLIP).samples
    count = round(duration_s * SAMPLE_RATE_HZ)
    path = folder / f"{duration_s:g}s.wav"
    soundfile.write(path, np.resize(samples, count), SAMPLE_RATE_HZ, "PCM_16")
    return path


def measure_peak(clip: Path, bundle: str, encoder: str, llm: str) -> int:
    """Peak resident memory in bytes of one analysis by the command line.

    Raises:
        EdgeEmotionError: It failed.
    """
    command = ["analyze", str(clip), "--json", "--strict", "--bundle", bundle, "--encoder", encoder, "--llm", llm]
    done = subprocess.run([sys.executable, "-c", CHILD, *command], capture_output=True, text=True, check=False)
    lines = done.stderr.strip().splitlines()
    if done.returncode or not lines:
        raise EdgeEmotionError(f"{encoder} with {llm} failed: {done.stderr.strip()[-300:]}")
    return int(lines[-1])


def main() -> int:
    """Measure, compare, deliver."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_arguments(parser)
    given = parser.parse_args()
    check_output(given.output, given.force)
    bundle = load_bundle(given.bundle)
    folder = Path(tempfile.mkdtemp(prefix="memory-plan-"))
    try:
        runs = []
        for duration_s in DURATIONS_S:
            clip = write_clip(folder, duration_s)
            made = plan_bundle(bundle, find_device("cpu-64g"), window_s=duration_s)
            runs += [(duration_s, clip, item) for item in made.combinations]
        rows = [_compare(given.bundle, *one) for one in with_progress(runs, "analyses")]
    finally:
        shutil.rmtree(folder)
    errors = [row["error"] for row in rows]
    document = {
        "benchmark": "memory_plan",
        **provenance(bundle),
        "rows": len(rows),
        "error_max": max(errors, key=abs),
        "error_mean_abs": round(float(np.mean(np.abs(errors))), 4),
        "below_measured_by_more_than_10_percent": sum(error < -0.1 for error in errors),
        "as_shipped": next(row for row in rows if (row["encoder"], row["llm"], row["seconds"]) == ("int8", "int8", 3.0))
        if given.bundle == "nano"
        else None,
    }
    cells = [
        (
            f"{row['seconds']:g} s",
            str(row["encoder"]),
            str(row["llm"]),
            f"{row['planned_mb']:.0f}",
            f"{row['measured_mb']:.0f}",
            f"{100 * row['error']:+.0f} %",
        )
        for row in rows
    ]
    head = ("clip", "encoder", "llm", "planned MB", "measured MB", "error")
    deliver(document, {"all": rows}, table_of(cells, head), given.output, given.json)
    return 0


def _compare(bundle: str, duration_s: float, clip: Path, item: Combination) -> dict[str, float | str]:
    measured = measure_peak(clip, bundle, item.encoder, item.llm)
    return {
        "seconds": duration_s,
        "encoder": item.encoder,
        "llm": item.llm,
        "planned_mb": round(item.run_bytes / 1e6, 1),
        "measured_mb": round(measured / 1e6, 1),
        "error": round(item.run_bytes / measured - 1, 3),
    }


if __name__ == "__main__":
    run(main)
