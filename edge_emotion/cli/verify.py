"""`edge-emotion verify`: does this device compute what the reference computed?"""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from edge_emotion.cli.terminal import results_console, talk

if TYPE_CHECKING:
    from edge_emotion_runtimes.verify import Report


def verify(
    bundle: str = "nano",
    *,
    encoder: str = "auto",
    llm: str = "auto",
    base: Path | None = None,
    report: Path | None = None,
    gpu_tests: Annotated[bool, Parameter(show_default=False)] = True,
    force: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> int:
    """Replay the bundle's golden clips here and compare each tap with the reference; exit code 1 where one is off.

    Parameters
    ----------
    bundle
        Name of a bundle that came with the package, or a folder.
    encoder
        Encoder variant, for example int8 or fp32.
    llm
        Language-model variant, for example int8 or Q8_0, or runtime (onnxruntime, llama.cpp).
    base
        Base language model of a bundle of adapters (small), where it is neither installed nor in the cache folder.
    report
        Run everything that can run here, every variant on every runtime, and write one file that can be sent back: .md
        (readable, with the JSON at its end) or .json. It names no folder, user or host.
    gpu_tests
        For a report: also the repository's tests that need a GPU, where there is a checkout; leave out with
        --no-gpu-tests.
    force
        Replace a report that exists.
    json
        Print JSON for programs.
    """
    from importlib import import_module

    if report:
        return _report(report, bundle, gpu_tests, force, json)
    verifier = import_module("edge_emotion_runtimes.verify")
    found: Report = verifier.verify_bundle(bundle, encoder=encoder, llm=llm, base=base)
    if json:
        print(json_text.dumps(found.to_dict(), ensure_ascii=False, indent=2))
    else:
        _show(found)
    return 0 if found.passed else 1


def _report(path: Path, bundle: str, gpu_tests: bool, force: bool, json: bool) -> int:
    from importlib import import_module

    from edge_emotion.bundle import load_bundle
    from edge_emotion.cli.doctor import examine, report_dict

    reports, texts = (import_module(f"edge_emotion_runtimes.{name}") for name in ("device_report", "report_text"))
    texts.check_target(path, force)
    opened = load_bundle(bundle, verify=True)
    talk("doctor")
    made = reports.make_report(opened, report_dict(examine()), gpu_tests, talk)
    texts.write_report(path, made)
    print(json_text.dumps(made, ensure_ascii=False) if json else texts.to_markdown(made))
    talk(f"written to {path}: send this file")
    return 0 if made["passed"] else 1


def _show(report: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    console = results_console()
    console.print(Text(f"{report.bundle}: encoder {report.encoder}, language model {report.llm}", "bold"))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for column in ("", "clip", "tap", "compared by"):
        table.add_column(column)
    table.add_column("difference", justify="right")
    table.add_column("tolerance", justify="right")
    for tap in report.taps:
        mark = Text("ok", "green") if tap.passed else Text("off", "bold red")
        table.add_row(mark, str(tap.clip), tap.name, tap.metric, f"{tap.difference:.2e}", f"{tap.tolerance:.2e}")
    console.print(table)
    failed = sum(not tap.passed for tap in report.taps)
    if failed:
        console.print(
            Text(f"{failed} of {len(report.taps)} taps are off: do not trust this device's results", "bold red")
        )
    else:
        console.print(Text(f"all {len(report.taps)} taps agree with the reference", "bold green"))
