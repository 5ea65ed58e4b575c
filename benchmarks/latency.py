"""What an analysis costs on this machine: python benchmarks/latency.py --bundle nano --llm onnxruntime llama.cpp

Warm runs of one clip in this process, which imports nothing but the device side; cold starts of the command line and
the import in processes of their own. Several language models take turns, so that what else runs on the machine is in
the figures of each; the first is the one of the document's own figures. Close other programs first all the same.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
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

WARM_UPS, COLD_STARTS, IMPORTS, LOADS = 3, 3, 10, 5
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


def time_warm_runs(analyzers: Mapping[str, edge_emotion.Analyzer], clip: Path, runs: int) -> dict[str, dict[str, Any]]:
    """For each analyzer: median and 95th percentile of each stage and moment of `timing_s`, and how fast words come."""
    timings: dict[str, list[Mapping[str, float]]] = {name: [] for name in analyzers}
    tokens: dict[str, list[int]] = {name: [] for name in analyzers}
    for index in with_progress(range(WARM_UPS + runs), "warm runs"):
        for name, analyzer in analyzers.items():
            pieces: list[str] = []
            result = analyzer.analyze(clip, on_text=pieces.append)
            if index >= WARM_UPS:
                timings[name].append(result.timing_s)
                tokens[name].append(len(pieces))
    return {name: _warm_figures(timings[name], tokens[name]) for name in analyzers}


def _warm_figures(timings: Sequence[Mapping[str, float]], tokens: Sequence[int]) -> dict[str, Any]:
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


def time_cold_starts(clip: Path, given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Wall time of `edge-emotion analyze` from start to exit and its peak memory, for each language model in turn."""
    script = shutil.which("edge-emotion", path=Path(sys.executable).parent)
    program = [script] if script else [sys.executable, "-c", "from edge_emotion.cli.app import main; main()"]
    options = ["--bundle", given.bundle, "--encoder", given.encoder]
    runs: dict[str, list[tuple[float, float]]] = {llm: [] for llm in given.llm}
    for _ in range(COLD_STARTS):
        for llm in given.llm:
            seconds, _, peak = _timed([*program, "analyze", str(clip), *options, "--llm", llm])
            runs[llm].append((seconds, peak))
    return {
        llm: {
            "runs_s": [round(second, 3) for second, _ in found],
            "median_s": round(float(np.median([second for second, _ in found])), 3),
            "max_s": round(max(second for second, _ in found), 3),
            "peak_rss_mb": _megabytes(max(peak for _, peak in found)),
        }
        for llm, found in runs.items()
    }


def time_loads(given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time of `edge_emotion.load` with everything imported, for each language model in turn."""
    seconds: dict[str, list[float]] = {llm: [] for llm in given.llm}
    for index in range(1 + LOADS):
        for llm in given.llm:
            start = time.perf_counter()
            edge_emotion.load(given.bundle, encoder=given.encoder, llm=llm, strict=True).close()
            seconds[llm] += [time.perf_counter() - start] * (index > 0)
    return {llm: _spread_ms(found) for llm, found in seconds.items()}


def time_imports() -> dict[str, Any]:
    """Median time of `import edge_emotion`, and with every public name of it; neither may bring torch."""
    outputs = [_timed([sys.executable, "-c", TIME_AN_IMPORT])[1].split() for _ in range(IMPORTS)]
    alone, with_names = ([float(output[column]) for output in outputs] for column in (0, 1))
    return {
        "import_ms": round(1000 * float(np.median(alone)), 1),
        "with_all_names_ms": round(1000 * float(np.median(with_names)), 1),
        "brings_torch": any(output[2] == "True" for output in outputs),
    }


def quantisation_of(bundle: Bundle, file: str) -> str:
    """What the bundle calls a language-model file."""
    return next(variant.quantisation for variant in bundle.manifest.llm.variants if variant.file == file)


def sizes_of(bundle: Bundle, given: argparse.Namespace, llm_file: str) -> dict[str, float]:
    """Megabytes (10^6 bytes) of the whole bundle and of the two files that run."""
    files = [path for path in bundle.path.rglob("*") if path.is_file()]
    return {
        "bundle_mb": _megabytes(sum(path.stat().st_size for path in files)),
        "encoder_mb": _megabytes(bundle.encoder_path(given.encoder).stat().st_size),
        "llm_mb": _megabytes((bundle.path / llm_file).stat().st_size),
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
        ("loading the bundle, ms", f"{document['load_ms']['median']:.1f}", f"{document['load_ms']['p95']:.1f}"),
        ("`edge-emotion analyze`, cold start to exit, s (largest)", f"{cold['median_s']:.2f}", f"{cold['max_s']:.2f}"),
        ("its peak memory, MB", f"{document['peak_rss_mb']:.0f}", ""),
        ("`import edge_emotion`, ms", f"{document['import']['import_ms']:.0f}", ""),
        ("bundle, MB", f"{sizes['bundle_mb']:.1f}", ""),
    ]
    table = table_of(rows, ("what", "median", "p95"))
    return f"{table}\n\n{compare(document)}" if document["language_models"][1:] else table


def compare(document: Mapping[str, Any]) -> str:
    """The language models side by side, each figure with its ratio to that of the first."""
    first = document["language_models"][0]
    return table_of(
        [
            (
                f"{one['asked']}: {one['file']} on {one['runtime']} {one['version']}, {one['threads']} thread(s)",
                *(f"{_figure(one, key):.2f} ({_figure(one, key) / _figure(first, key):.2f})" for key in COMPARED),
            )
            for one in document["language_models"]
        ],
        ("language model (ratio to the first)", *COMPARED),
    )


COMPARED = (
    "load_ms", "prefill_ms", "time_to_first_word_ms", "tokens_per_s", "score_ms", "total_ms", "cold_start_s", "rss_mb"
)  # fmt: skip


def _figure(one: Mapping[str, Any], key: str) -> float:
    other = {
        "load_ms": one["load_ms"]["median"],
        "tokens_per_s": (one["tokens_per_s"] or {}).get("median", math.nan),
        "cold_start_s": one["cold_start"]["median_s"],
        "rss_mb": one["cold_start"]["peak_rss_mb"],
    }
    return other[key] if key in other else one["warm_ms"][key.removesuffix("_ms")]["median"]


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


def _timed(command: Sequence[str]) -> tuple[float, str, float]:
    """Wall time, output and peak memory in bytes of a command.

    Raises:
        EdgeEmotionError: It failed.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=output, stderr=errors)
        _, status, usage = os.wait4(child.pid, 0)  # tells this child's peak; `getrusage` tells the largest of all
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        for file in (output, errors):
            file.seek(0)
        if child.returncode:
            said = errors.read().strip()[-500:]
            raise EdgeEmotionError(f"`{' '.join(command)[:200]}` ended with {child.returncode}: {said}")
        return seconds, output.read(), usage.ru_maxrss * RSS_UNIT_BYTES


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, conflict_handler="resolve"
    )
    parser.add_argument("--runs", type=int, default=30, help="warm runs that are timed")
    parser.add_argument("--clip", type=Path, default=DEFAULT_CLIP, help="recording that is analysed")
    parser.add_argument("--duration", type=float, default=3.0, help="its first seconds that are taken")
    add_common_arguments(parser)
    parser.add_argument(
        "--llm",
        nargs="+",
        default=["auto"],
        help="runtimes or quantisations of the language model, the first the main one",
    )
    given = parser.parse_args(arguments)
    check_output(given.output, given.force)
    if given.runs < 1:
        raise EdgeEmotionError(f"--runs {given.runs}: give at least 1")
    bundle = load_bundle(given.bundle)
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        clip = cut_clip(given.clip, given.duration, Path(folder))
        cold_starts = time_cold_starts(clip, given)
        imports = time_imports()
        loads = time_loads(given)
        analyzers = {
            llm: opened.enter_context(edge_emotion.load(given.bundle, encoder=given.encoder, llm=llm, strict=True))
            for llm in given.llm
        }
        ran = {llm: analyzer.analyze(clip).runtime for llm, analyzer in analyzers.items()}
        warm = time_warm_runs(analyzers, clip, given.runs)
    models = [
        {"asked": llm}
        | {key: ran[llm]["llm"][key] for key in ("runtime", "version", "file", "threads")}
        | warm[llm]
        | {"load_ms": loads[llm], "cold_start": cold_starts[llm]}
        for llm in given.llm
    ]
    first = models[0]
    document = {
        "benchmark": "latency",
        **provenance(bundle),
        "variants": {"encoder": given.encoder, "llm": quantisation_of(bundle, first["file"])},
        "clip": {"name": given.clip.name, "duration_s": given.duration},
        "runs": given.runs,
        **warm[given.llm[0]],
        "load_ms": first["load_ms"],
        "peak_rss_mb": first["cold_start"]["peak_rss_mb"],
        "cold_start": first["cold_start"],
        "import": imports,
        "size": sizes_of(bundle, given, first["file"]),
        "threads": {"encoder": ran[given.llm[0]]["encoder"]["threads"], "llm": first["threads"]},
        "language_models": models,
        "load_average_before": round(busy, 2),
    }
    deliver(document, {}, describe(document), given.output, given.json)
    return 0


if __name__ == "__main__":
    run(main)
