"""What an analysis costs on this machine: python benchmarks/latency.py --bundle nano

Warm runs of one clip in this process, which imports nothing but the device side; cold starts of the command line and
the import in processes of their own. Close other programs first: what else runs is in the figures.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from common import (
    REPOSITORY,
    add_common_arguments,
    check_output,
    deliver,
    provenance,
    run,
    table_of,
    with_progress,
)

import edge_emotion
from edge_emotion.audio import SAMPLE_RATE_HZ, load_audio
from edge_emotion.bundle import Bundle, load_bundle
from edge_emotion.errors import EdgeEmotionError

WARM_UPS, COLD_STARTS, IMPORTS = 3, 3, 10
DEFAULT_CLIP = REPOSITORY / "examples" / "emodb_16_happiness.wav"
# `maxrss` counts kilobytes, on macOS bytes.
RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024
TIME_AN_IMPORT = """
import sys, time
start = time.perf_counter()
import edge_emotion
named = time.perf_counter()
for name in edge_emotion.__all__:
    getattr(edge_emotion, name)
print(named - start, time.perf_counter() - start, "torch" in sys.modules)
"""


def cut_clip(clip: Path, duration_s: float, folder: Path) -> Path:
    """The first seconds of a recording as a 16 bit wav.

    Raises:
        EdgeEmotionError: The recording is shorter than that.
    """
    samples = load_audio(clip).samples
    length = round(duration_s * SAMPLE_RATE_HZ)
    if length < 1 or length > len(samples):
        most_s = len(samples) / SAMPLE_RATE_HZ
        raise EdgeEmotionError(f"--duration {duration_s:g} of {clip.name}, which is {most_s:.2f} s long; give less")
    path = folder / f"{clip.stem}.wav"
    soundfile.write(path, samples[:length], SAMPLE_RATE_HZ, "PCM_16")
    return path


def time_warm_runs(analyzer: edge_emotion.Analyzer, clip: Path, runs: int) -> dict[str, Any]:
    """Median and 95th percentile of every stage and moment of `timing_s`, and how fast words come."""
    timings: list[Mapping[str, float]] = []
    tokens: list[int] = []
    for index in with_progress(range(WARM_UPS + runs), "warm runs"):
        pieces: list[str] = []
        result = analyzer.analyze(clip, on_text=pieces.append)
        if index >= WARM_UPS:
            timings.append(result.timing_s)
            tokens.append(len(pieces))
    stages = list(dict.fromkeys(stage for timing in timings for stage in timing))
    spread = {stage: _spread_ms([timing.get(stage, 0.0) for timing in timings]) for stage in stages}
    rates = [count / timing["think"] for count, timing in zip(tokens, timings, strict=True) if timing.get("think")]
    return {
        "warm_ms": spread,
        "tokens": int(np.median(tokens)),
        # The slow end of a rate is its low end.
        "tokens_per_s": {"median": round(float(np.median(rates)), 1), "p5": round(float(np.quantile(rates, 0.05)), 1)}
        if rates
        else None,
    }


def time_cold_starts(clip: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Wall time of `edge-emotion analyze` from start to exit, and its peak memory."""
    script = shutil.which("edge-emotion", path=Path(sys.executable).parent)
    program = [script] if script else [sys.executable, "-c", "from edge_emotion.cli.app import main; main()"]
    options = ["--bundle", given.bundle, "--encoder", given.encoder, "--llm", given.llm]
    seconds = [_timed([*program, "analyze", str(clip), *options])[0] for _ in range(COLD_STARTS)]
    # Of the children that were waited for, the largest: nothing else was started before.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * RSS_UNIT_BYTES
    return {
        "runs_s": [round(second, 3) for second in seconds],
        "median_s": round(float(np.median(seconds)), 3),
        "max_s": round(max(seconds), 3),
        "peak_rss_mb": _megabytes(peak),
    }


def time_imports() -> dict[str, Any]:
    """Median time of `import edge_emotion`, and with every public name of it; neither may bring torch."""
    outputs = [_timed([sys.executable, "-c", TIME_AN_IMPORT])[1].split() for _ in range(IMPORTS)]
    alone, with_names = ([float(output[column]) for output in outputs] for column in (0, 1))
    return {
        "import_ms": round(1000 * float(np.median(alone)), 1),
        "with_all_names_ms": round(1000 * float(np.median(with_names)), 1),
        "brings_torch": any(output[2] == "True" for output in outputs),
    }


def sizes_of(bundle: Bundle, given: argparse.Namespace) -> dict[str, float]:
    """Megabytes (10^6 bytes) of the whole bundle and of the two files that run."""
    files = [path for path in bundle.path.rglob("*") if path.is_file()]
    used = (bundle.encoder_path(given.encoder), bundle.llm_path(given.llm))
    return {
        "bundle_mb": _megabytes(sum(path.stat().st_size for path in files)),
        "encoder_mb": _megabytes(used[0].stat().st_size),
        "llm_mb": _megabytes(used[1].stat().st_size),
    }


def describe(document: Mapping[str, Any]) -> str:
    """The figures as a Markdown table."""
    warm, cold, sizes = document["warm_ms"], document["cold_start"], document["size"]
    rows = [(f"{name}, ms", f"{_of(warm, key, 'median')}", f"{_of(warm, key, 'p95')}") for name, key in MOMENTS]
    stages = [stage for stage in warm if stage not in dict(MOMENTS).values()]
    rows += [(f"  stage {stage}, ms", _of(warm, stage, "median"), _of(warm, stage, "p95")) for stage in stages]
    if rate := document["tokens_per_s"]:
        rows.append(("tokens per second (p5)", f"{rate['median']:.0f}", f"{rate['p5']:.0f}"))
    rows += [
        ("peak memory of the process, MB", f"{document['peak_rss_mb']:.0f}", ""),
        ("`edge-emotion analyze`, cold start to exit, s (largest)", f"{cold['median_s']:.2f}", f"{cold['max_s']:.2f}"),
        ("`import edge_emotion`, ms", f"{document['import']['import_ms']:.0f}", ""),
        ("bundle, MB", f"{sizes['bundle_mb']:.1f}", ""),
    ]
    return table_of(rows, ("what", "median", "p95"))


MOMENTS = (
    ("label by the head", "time_to_label_head"),
    ("first word", "time_to_first_word"),
    ("whole explanation and result", "total"),
)


def _spread_ms(seconds: Sequence[float]) -> dict[str, float]:
    median, p95 = np.quantile(seconds, (0.5, 0.95))
    return {"median": round(1000 * float(median), 2), "p95": round(1000 * float(p95), 2)}


def _of(warm: Mapping[str, Mapping[str, float]], stage: str, column: str) -> str:
    return f"{warm[stage][column]:.1f}" if stage in warm else "-"


def _megabytes(size: float) -> float:
    return round(size / 1e6, 2)


def _timed(command: Sequence[str]) -> tuple[float, str]:
    """Wall time and output of a command.

    Raises:
        EdgeEmotionError: It failed.
    """
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        said = done.stderr.strip()[-500:]
        raise EdgeEmotionError(f"`{' '.join(command)[:200]}` ended with {done.returncode}: {said}")
    return seconds, done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30, help="warm runs that are timed")
    parser.add_argument("--clip", type=Path, default=DEFAULT_CLIP, help="recording that is analysed")
    parser.add_argument("--duration", type=float, default=3.0, help="its first seconds that are taken")
    add_common_arguments(parser)
    given = parser.parse_args(arguments)
    check_output(given.output, given.force)
    if given.runs < 1:
        raise EdgeEmotionError(f"--runs {given.runs}: give at least 1")
    bundle = load_bundle(given.bundle)
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        clip = cut_clip(given.clip, given.duration, Path(folder))
        cold_start = time_cold_starts(clip, given)
        imports = time_imports()
        with edge_emotion.load(given.bundle, encoder=given.encoder, llm=given.llm, strict=True) as analyzer:
            result = analyzer.analyze(clip)
            warm = time_warm_runs(analyzer, clip, given.runs)
    document = {
        "benchmark": "latency",
        **provenance(bundle),
        "variants": {"encoder": given.encoder, "llm": given.llm},
        "clip": {"name": given.clip.name, "duration_s": given.duration},
        "runs": given.runs,
        **warm,
        "peak_rss_mb": _megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES),
        "cold_start": cold_start,
        "import": imports,
        "size": sizes_of(bundle, given),
        "threads": {part: (result.runtime[part] or {}).get("threads") for part in ("encoder", "llm")},
        "load_average_before": round(busy, 2),
    }
    deliver(document, {}, describe(document), given.output, given.json)
    return 0


if __name__ == "__main__":
    run(main)
