"""A device report as a file: readable Markdown with the whole JSON at its end, or the JSON alone; and back."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_emotion.errors import ConfigError

_JSON_BLOCK = re.compile(r"```json\n(.*)\n```\s*\Z", re.DOTALL)


def check_target(path: Path, force: bool) -> None:
    """Refuses before the work what could not be written after it.

    Raises:
        ConfigError: The file exists, its folder does not, or its ending is neither .md nor .json.
    """
    if path.suffix not in (".md", ".json"):
        raise ConfigError(f"{path}: a report is written as .md (readable, with the JSON at its end) or as .json")
    if path.exists() and not force:
        raise ConfigError(f"{path} exists; give --force to replace it, or another name")
    if not path.resolve().parent.is_dir():
        raise ConfigError(f"{path.parent} is no folder; make it first")


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Writes the report under a temporary name, then renames it."""
    text = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False)
    if path.suffix == ".md":
        text = f"{to_markdown(report)}\n## Everything\n\n```json\n{text}\n```"
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_report(path: Path) -> dict[str, Any]:
    """The report that was written to a file.

    Raises:
        ConfigError: It holds none.
    """
    text = path.read_text(encoding="utf-8")
    found = _JSON_BLOCK.search(text)
    try:
        return json.loads(found[1] if found else text)
    except ValueError as error:
        raise ConfigError(f"{path} holds no device report ({error})") from None


def to_markdown(report: Mapping[str, Any]) -> str:
    """The part of the report that people read."""
    device, bundle = report["device"], report["bundle"]
    facts = ("model", "jetpack", "l4t", "power_mode", "clocks_pinned", "cores", "memory_bytes", "driver", "python",
             "system", "load_average")  # fmt: skip
    gpus = ", ".join(gpu["name"] for gpu in device["gpus"]) or "none"
    lines = [
        f"# edge-emotion on {device['model']}",
        "",
        "**Every combination that ran computes what the reference did.**"
        if report["passed"]
        else "**Do not trust this device's results: see the combinations that are off, and the tests that failed.**",
        "",
        f"Bundle {bundle['name']} {bundle['version']}, manifest {bundle['sha256'][:12]}; {report['made']}; "
        f"device {device['id']}.",
        "",
        "## Device",
        "",
        *_table(("what", "is"), [(name, device[name]) for name in facts if device.get(name) is not None]),
        f"| GPUs | {gpus} |",
        *(f"| {name} | {version} |" for name, version in device["libraries"].items() if version),
        "",
        "## What it computes, and how fast",
        "",
        *_table(
            ("", "encoder", "on", "language model", "worst tap", "label ms", "first word ms", "all ms", "peak MB"),
            [_combination(item) for item in report["combinations"]],
        ),
        "",
        "## What doctor found",
        "",
        *_findings(report["doctor"]),
        "",
        "## Plan",
        "",
        f"{report['plan']['analyze'] or 'nothing fits'}",
        "",
        "## Tests that need a GPU",
        "",
        *_tests(report["gpu_tests"]),
        "",
    ]
    return "\n".join(lines)


def _combination(item: Mapping[str, Any]) -> tuple[Any, ...]:
    head = (item["encoder"], item["encoder_runtime"], item["llm"])
    if "taps" not in item:
        return ("did not run", *head, item["problem"], "", "", "", "")
    worst = max(item["taps"], key=lambda tap: float("inf") if tap["difference"] is None else _share(tap))
    timing = item["timing_ms"]
    times = (timing.get(name, {}).get("median", "") for name in ("time_to_label_head", "time_to_first_word", "total"))
    said = f"{worst['name']} {'not finite' if worst['difference'] is None else format(_share(worst), '.0%')}"
    return ("ok" if item["passed"] else "off", *head, said, *times, round(item["peak_rss_bytes"] / 1e6))


def _share(tap: Mapping[str, Any]) -> float:
    """The difference as a share of what is allowed."""
    if tap["tolerance"]:
        return tap["difference"] / tap["tolerance"]
    return float("inf") if tap["difference"] else 0.0


def _findings(doctor: Mapping[str, Any]) -> list[str]:
    items = [item for group in ("board", "packages", "bundles") for item in doctor.get(group, ())]
    wrong = [item for item in items if not item["works"]]
    if not wrong:
        return ["Nothing is missing."]
    return _table(("what", "problem", "mend"), [(item["name"], item["problem"], item["mend"] or "") for item in wrong])


def _tests(tests: Mapping[str, Any]) -> list[str]:
    outcomes = [f"- `{line}`" for line in tests.get("outcomes", ())]
    if not tests["ran"]:
        return [f"Not run: {tests['why']}.", "", *outcomes]
    return [*outcomes, "", *tests["end"]]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)]
