"""`edge-emotion bundle`: what a bundle holds, and whether it is still what was exported."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from edge_emotion.cli.extras import import_from_extra
from edge_emotion.cli.terminal import results_console, talk

if TYPE_CHECKING:
    from edge_emotion.bundle import Bundle

app = App(name="bundle", help="Look into a bundle, or check its files.")
Json = Annotated[bool, Parameter(negative="", show_default=False, help="Print JSON for programs.")]


@app.command
def inspect(bundle: str = "nano", /, *, json: Json = False) -> int:
    """Show what a bundle holds: labels, variants, prompt, calibration, provenance, receipts.

    Parameters
    ----------
    bundle
        Name of a bundle that came with the package, or a folder.
    """
    from edge_emotion.bundle import load_bundle

    loaded = load_bundle(bundle, verify=False)
    if json:
        print(json_text.dumps(loaded.manifest.to_dict(), ensure_ascii=False, indent=2))
    else:
        _show(loaded)
    return 0


@app.command
def verify(bundle: str = "nano", /, *, json: Json = False) -> int:
    """Check every file of a bundle against the size and SHA-256 in its manifest.

    Parameters
    ----------
    bundle
        Name of a bundle that came with the package, or a folder.
    """
    from edge_emotion.bundle import load_bundle

    loaded = load_bundle(bundle, verify=True)
    files = loaded.manifest.files
    mib = round(sum(file.size for file in files.values()) / 2**20, 2)
    if json:
        print(json_text.dumps({"bundle": str(loaded.path), "intact": True, "files": len(files), "mib": mib}))
    else:
        print(f"{loaded.path}: intact, {len(files)} files, {mib:.1f} MiB")
    return 0


@app.command
def card(
    bundle: str = "nano",
    /,
    *,
    results: Annotated[list[Path], Parameter(negative="", consume_multiple=True)],
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    force: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> int:
    """Write a bundle's model card with the figures that benchmarks found (needs the extra "export").

    Parameters
    ----------
    bundle
        Name of a bundle that came with the package, or a folder.
    results
        Result files of benchmarks/held_out_speakers.py and of `edge-emotion train eval`, measured on this bundle.
    output
        File of the card; README.md of the bundle by default, whose manifest is then written anew.
    force
        Replace the output file.
    """
    writer = import_from_extra("edge_emotion_export.card", extra="export")
    talk(writer.write_card(bundle, results, output, force))
    return 0


def _show(bundle: Bundle) -> None:
    from rich.table import Table
    from rich.text import Text

    manifest, console = bundle.manifest, results_console()
    console.print(Text.assemble((f"{manifest.name} {manifest.version}", "bold"), f"  {bundle.path}"), soft_wrap=True)
    files = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    files.add_column("file")
    files.add_column("MiB", justify="right")
    files.add_column("sha256")
    for name, file in manifest.files.items():
        files.add_row(name, f"{file.size / 2**20:.2f}", file.sha256[:16])
    console.print(files)
    shown_above = ("schema_version", "name", "version", "files")
    for key, value in manifest.to_dict().items():
        if key in shown_above:
            continue
        console.print(Text.assemble(("\n" + key, "bold")))
        for line in _lines(value):
            console.print(Text(line), soft_wrap=True)


def _lines(value: Any, depth: int = 1) -> list[str]:
    """A nested value as indented lines; whatever is short stays on one."""
    indent = "  " * depth
    if isinstance(value, dict):
        lines: list[str] = []
        for key, item in value.items():
            short = json_text.dumps(item, ensure_ascii=False)
            if len(short) <= 88 or not isinstance(item, dict | list):
                lines.append(f"{indent}{key}: {item if isinstance(item, str) else short}")
            else:
                lines += [f"{indent}{key}:", *_lines(item, depth + 1)]
        return lines
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [line for item in value for line in (f"{indent}-", *_lines(item, depth + 1))]
    if isinstance(value, list):
        return [indent + ", ".join(str(item) for item in value)]
    return [f"{indent}{value}"]
