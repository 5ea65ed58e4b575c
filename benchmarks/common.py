"""What the benchmarks share: shares with intervals, who ran what where, progress, and the document that is printed."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edge_emotion import __version__
from edge_emotion.bundle import Bundle
from edge_emotion.errors import EdgeEmotionError
from edge_emotion.metrics import bootstrap_interval

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("numpy", "onnxruntime", "llama-cpp-python", "soundfile", "soxr")
Item = TypeVar("Item")


def share(hits: Sequence[int], totals: Sequence[int], seed: int = 0) -> dict[str, Any]:
    """Share of hits with its 95 % bootstrap interval over clips.

    Args:
        hits: Hits of each clip; the hits of one clip are drawn together, because they are alike.
        totals: Of how many, for each clip; may be 0.
        seed: Seed of the resampling.

    Returns:
        `share` and `interval_95`, None where there is nothing to count, `hits` and `of`.
    """
    hit, of = int(sum(hits)), int(sum(totals))
    if not of:
        return {"share": None, "interval_95": None, "hits": 0, "of": 0}
    # A resample in which nothing can be counted says nothing: nan is left out of the quantiles.
    with np.errstate(invalid="ignore"):
        interval = bootstrap_interval(lambda some, all_: np.sum(some) / np.sum(all_), hits, totals, seed=seed)
    return {"share": round(hit / of, 4), "interval_95": [round(bound, 4) for bound in interval], "hits": hit, "of": of}


def provenance(bundle: Bundle, seed: int | None = None, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Which bundle, code, libraries and machine a result is of."""
    manifest = bundle.manifest
    return {
        "bundle": {"name": manifest.name, "version": manifest.version, "sha256": bundle.manifest_sha256},
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "seed": seed,
        "versions": {"python": platform.python_version(), "edge-emotion": __version__}
        | {name: _version(name) for name in (*PACKAGES, *packages)},
        "machine": {"cpu": cpu_model(), "cores": usable_cpus(), "system": f"{platform.system()} {platform.machine()}"},
    }


def commit() -> str:
    """The commit of this repository, with `-dirty` where tracked files differ from it."""

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        except OSError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "HEAD")
    return head + "-dirty" * bool(git("status", "--porcelain", "-uno")) if head else "unknown"


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cpus() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def with_progress(items: Sequence[Item], what: str) -> Iterator[Item]:
    """The items, with a bar on stderr; into a log, a line for every tenth part."""
    start, live = time.monotonic(), sys.stderr.isatty()
    for done, item in enumerate(items, 1):
        yield item
        tenth = done * 10 // len(items)
        if live or tenth != (done - 1) * 10 // len(items):
            left_s = (time.monotonic() - start) / done * (len(items) - done)
            bar = "#" * (2 * tenth) + "." * (20 - 2 * tenth)
            sys.stderr.write(f"{what} [{bar}] {done}/{len(items)}, {left_s:.0f} s left" + (" \r" if live else "\n"))
            sys.stderr.flush()
    if live:
        sys.stderr.write("\n")


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that every benchmark of a bundle has."""
    parser.add_argument("--bundle", default="nano", help="name of a built-in bundle, or a bundle's folder")
    parser.add_argument("--encoder", default="int8", help="precision of the encoder (default: int8, as shipped)")
    parser.add_argument("--llm", default="Q8_0", help="quantisation of the language model (default: Q8_0, as shipped)")
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON document here, with its details")
    parser.add_argument("--force", action="store_true", help="replace the output file")
    parser.add_argument("--json", action="store_true", help="print the JSON document only, without the table")


def check_output(output: Path | None, force: bool) -> None:
    """Refuse before the work, not after it.

    Raises:
        EdgeEmotionError: The output exists and `force` is false, or its folder does not.
    """
    if output and output.exists() and not force:
        raise EdgeEmotionError(f"{output} exists; give --force to replace it, or another --output")
    if output and not output.parent.is_dir():
        raise EdgeEmotionError(f"{output.parent} is not a folder; make it, or give another --output")


def deliver(
    document: Mapping[str, Any], details: Mapping[str, Any], table: str, output: Path | None, json_only: bool
) -> None:
    """Print the table and, as the last line, the document; write it with its details to the output."""
    if output:
        partial = output.with_name(output.name + ".partial")
        partial.write_text(to_json({**document, **details}), encoding="utf-8")
        partial.replace(output)
    if not json_only:
        print(table, end="\n\n")
    print(json.dumps(document))


def to_json(document: Mapping[str, Any]) -> str:
    """JSON to be committed: indented, but lists of numbers and short objects on one line each."""
    return _indented(document, "") + "\n"


def run(main: Callable[[], int]) -> None:
    """Run a benchmark's `main`; what the user can mend ends in one line, not in a traceback."""
    try:
        sys.exit(main())
    except EdgeEmotionError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def table_of(rows: Iterable[Sequence[str]], head: Sequence[str]) -> str:
    """A Markdown table whose columns line up."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    return "\n".join([text[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *text[1:]])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _indented(value: Any, indent: str) -> str:
    flat = json.dumps(value)
    if not isinstance(value, (dict, list)) or not value or len(flat) <= 110 - len(indent):
        return flat
    inner = indent + " "
    if isinstance(value, dict):
        parts = [f"{json.dumps(str(key))}: {_indented(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner + part for part in parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _indented(item, inner) for item in value) + f"\n{indent}]"
