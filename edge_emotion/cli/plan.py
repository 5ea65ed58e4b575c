"""`edge-emotion plan`: which variants fit a device, what they cost in accuracy, and the line that runs the best."""

from __future__ import annotations

import json as json_text
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from edge_emotion.cli.terminal import results_console
from edge_emotion.errors import ConfigError

if TYPE_CHECKING:
    from edge_emotion.planning import Combination, DevicePlan
    from edge_emotion.targets import Device

_THIS = "this"


def plan(
    *,
    device: str = _THIS,
    budget: str | None = None,
    bundle: str | None = None,
    size: Literal["3b", "7b"] | None = None,
    window: float | None = None,
    headless: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> int:
    """Show which variants fit a device and what they cost in accuracy; exit code 1 if none fits.

    Memory is computed from the sizes of the files, the headers of the models and stated formulas (`planning.py`);
    accuracy is what the export measured against the checkpoint. Nothing is loaded.

    Parameters
    ----------
    device
        Where it is to run: orin-nano-4g, orin-nano-8g, orin-nx-8g, orin-nx-16g, agx-orin-32g, agx-orin-64g,
        thor-128g, cpu-16g, desktop-cuda-24g (any number of GiB), or this.
    budget
        What may be taken besides the system, for example 5.5GiB; all that is left by default.
    bundle
        Name of a bundle that came with the package, or a folder; nano by default.
    size
        Plan the published Qwen2.5-Omni of this size instead, before anything is exported.
    window
        Longest piece of audio in seconds; the bundle's own by default.
    headless
        A Jetson without its desktop: the system takes 1.6 GiB instead of 2.1.
    json
        Print JSON for programs.
    """
    from edge_emotion.planning import plan_bundle, plan_full_size
    from edge_emotion.targets import parse_bytes

    if size and (bundle or window):
        raise ConfigError("--size plans a model without a bundle; give it without --bundle and --window")
    if window is not None and window <= 0:
        raise ConfigError(f"--window {window:g}; give seconds above 0")
    limit = parse_bytes(budget) if budget else None
    where = _find(device, headless)
    if size:
        from edge_emotion.model_sizes import FULL_SIZES

        made = plan_full_size(FULL_SIZES[size], where, limit)
    else:
        from edge_emotion.bundle import load_bundle

        made = plan_bundle(load_bundle(bundle or "nano", verify=False), where, limit, window)
    if json:
        print(json_text.dumps(made.to_dict(), ensure_ascii=False, indent=2))
    else:
        _show(made)
    return 0 if made.pick else 1


def _find(name: str, headless: bool) -> Device:
    from edge_emotion.gpu_libraries import this_device
    from edge_emotion.targets import HEADLESS_GIB, find_device

    found = this_device() if name == _THIS else find_device(name)
    if headless and not found.target.name.startswith("jetson"):
        raise ConfigError(f"--headless is for a Jetson, {found.name} is none")
    return replace(found, system_gib=HEADLESS_GIB) if headless else found


def _show(made: DevicePlan) -> None:
    from rich.table import Table
    from rich.text import Text

    console = results_console()
    device = made.device
    console.print(Text.assemble((f"{made.model} on {device.name}", "bold"), f": {device.target.title}"))
    console.print(
        f"memory {device.memory_gib:g} GiB, of which the system takes {device.system_gib:g}; "
        f"budget {_size(made.budget_bytes)}; audio up to {made.window_s:g} s at once",
        soft_wrap=True,
    )
    rows = [_cells(item) for item in sorted(made.combinations, key=lambda item: item.peak_bytes)]
    shown = [name for name in rows[0] if any(row[name] for row in rows)]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("")
    for name in shown:
        table.add_column(name, justify="left" if name in ("encoder", "llm") else "right", no_wrap=True)
    for item, row in zip(sorted(made.combinations, key=lambda item: item.peak_bytes), rows, strict=True):
        mark = Text("->", "bold green") if item == made.pick else Text("" if item.fits else "no", "dim")
        style = "bold" if item == made.pick else "" if item.fits else "dim"
        table.add_row(mark, *(row[name] for name in shown), style=style)
    console.print(table)
    if made.pick is None:
        console.print(Text("nothing fits: give a larger --budget, or a smaller --window", "bold red"))
        return
    _show_pick(made, made.pick)


def _show_pick(made: DevicePlan, pick: Combination) -> None:
    from rich.text import Text

    console = results_console()
    parts = ", ".join(f"{name} {_size(count)}" for name, count in pick.parts.items())
    console.print(f"\n-> {parts}", soft_wrap=True)
    runs = f"encoder on {pick.encoder_runtime}" + (
        f", language model on {pick.llm_runtime}" if pick.llm_runtime else ""
    )
    console.print(f"   planned for {runs}", soft_wrap=True)
    if made.bundle is None:
        target = made.device.target
        line = ["export", "all", "--checkpoint", "CHECKPOINT", "--clips", "RECORDINGS", "-o", "FOLDER"]
        line += ["--encoders", pick.encoder, "--llms", pick.llm]
        console.print(f"   once, for {target.name}: edge-emotion {shlex.join(line)}", soft_wrap=True)
    console.print(Text(f"   edge-emotion {shlex.join(made.analyze_arguments())}", "bold"), soft_wrap=True)
    arguments = ", ".join(f"{name}={value!r}" for name, value in made.load_arguments().items())
    console.print(Text(f"   edge_emotion.load({arguments})", "bold"), soft_wrap=True)
    if made.device.power_modes:
        name, number = next(iter(made.device.power_modes.items()))
        console.print(f"   sudo nvpmodel -m {number}  # {name}; then: sudo jetson_clocks")


def _agreement(item: Combination) -> str:
    if item.agreement is None:
        return "not measured"
    return f"{'>= ' if item.agreement_is == 'by the gates' else ''}{100 * item.agreement:.1f} %"


def _cells(item: Combination) -> dict[str, str]:
    kl, cosine = (item.figures.get(name) for name in ("logits_kl_mean", "embeddings_cosine_min"))
    return {
        "encoder": item.encoder,
        "llm": item.llm,
        "runs in": _size(item.run_bytes),
        "builds in": _size(item.build_peak_bytes) if item.build_peak_bytes else "",
        "labels stay": _agreement(item),
        "KL": "" if kl is None else f"{kl:.1e}",
        "cosine": "" if cosine is None else f"{cosine:.4f}",
        "tok/s <": f"{item.most_tokens_per_s:.0f}" if item.most_tokens_per_s else "",
    }


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
