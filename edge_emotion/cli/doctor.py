"""`edge-emotion doctor`: what this machine has, what is missing, and the line that mends it."""

from __future__ import annotations

import json as json_text
import os
import platform
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from edge_emotion.cli.terminal import results_console

DEFAULT_BUNDLE = "nano"
_PROBE_TIMEOUT_S = 60.0
# What the default bundle runs without, and what it is for.
_OPTIONAL = {
    "llama-cpp-python": "a second runtime for language models, the faster one for large ones; needs a compiler"
}
# The package that holds each runtime of a language model.
_PACKAGE_OF = {"onnxruntime": "onnxruntime", "llama.cpp": "llama-cpp-python"}
_MEND_BUNDLE = "pip install --force-reinstall --no-deps edge-emotion"

# How each package is imported as `m`, and what it then says about itself: an expression that gives a dict. llama.cpp is
# loaded as the runtime loads it.
_PROBES: dict[str, tuple[str, str]] = {
    "numpy": ("import numpy as m", "{'version': m.__version__}"),
    "onnxruntime": (
        "import onnxruntime as m",
        "{'version': m.__version__, 'providers': m.get_available_providers()}",
    ),
    "llama-cpp-python": (
        "from edge_emotion_runtimes.llama_cpp_bindings import library; m = library()",
        "{'version': importlib.metadata.version('llama-cpp-python'), 'llama.cpp': m.llama_version().decode(),"
        " 'system': ' '.join(m.llama_print_system_info().decode().split()),"
        " 'gpu offload': m.llama_supports_gpu_offload()}",
    ),
    "soundfile": ("import soundfile as m", "{'version': m.__version__, 'libsndfile': m.__libsndfile_version__}"),
    "soxr": ("import soxr as m", "{'version': m.__version__}"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: Package or bundle.
        works: Whether it can be used.
        details: What it says about itself.
        problem: What is wrong; None where it works.
        mend: The exact line that mends it; None where it works or no line can.
        optional: What it is for, where the default bundle runs without it.
    """

    name: str
    works: bool
    details: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    mend: str | None = None
    optional: str | None = None


def doctor(
    *, json: Annotated[bool, Parameter(negative="", show_default=False, help="Print JSON for programs.")] = False
) -> int:
    """Show what this machine has, what is missing, and how to mend it; exit code 1 if the default bundle cannot run."""
    machine = describe_machine()
    packages = [replace(probe_package(name), optional=_OPTIONAL.get(name)) for name in _PROBES]
    working = {item.name for item in packages if item.works}
    bundles = [_with_a_runtime(item, working) for item in find_bundles()]
    ready = all(item.works or item.optional for item in packages) and any(
        item.name == DEFAULT_BUNDLE and item.works for item in bundles
    )
    if json:
        report = {
            "ready": ready,
            "machine": machine,
            "packages": [asdict(item) for item in packages],
            "bundles": [asdict(item) for item in bundles],
        }
        print(json_text.dumps(report, ensure_ascii=False, indent=2))
    else:
        _show(machine, packages, bundles, ready)
    return 0 if ready else 1


def describe_machine() -> dict[str, Any]:
    """Python, system, processor, cores this process may use, memory."""
    from edge_emotion import __version__

    return {
        "edge_emotion": __version__,
        "python": platform.python_version(),
        "system": _system_name(),
        "processor": _processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
    }


def probe_package(name: str) -> Finding:
    """Imports a package and asks it what it is.

    In a process of its own: a library compiled for another processor ends the process instead of raising.
    """
    statement, expression = _PROBES[name]
    code = f"import importlib.metadata, json; {statement}; print(); print(json.dumps({expression}))"
    path = os.pathsep.join(folder for folder in sys.path if folder)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding(name, False, problem=f"importing it took more than {_PROBE_TIMEOUT_S:.0f} s")
    if done.returncode == 0:
        return Finding(name, True, json_text.loads(done.stdout.splitlines()[-1]))
    mend = _install_line(name)
    if done.returncode < 0:
        ended = signal.Signals(-done.returncode).name
        problem = f"importing it ends the process with {ended}: was it built for another processor?"
        rebuild = mend.replace("pip install", "pip install --no-cache-dir --force-reinstall --no-deps")
        return Finding(name, False, problem=problem, mend=rebuild)
    last_line = (done.stderr.strip().splitlines() or ["it cannot be imported"])[-1]
    return Finding(name, False, problem=last_line.removeprefix("ModuleNotFoundError: "), mend=mend)


def _install_line(name: str) -> str:
    if name == "llama-cpp-python":
        from edge_emotion_runtimes.llama_cpp_bindings import INSTALL_LINE

        return INSTALL_LINE
    return f"pip install {name}"


def find_bundles() -> list[Finding]:
    """The bundles that came with the package, each checked file by file."""
    from edge_emotion.bundle import BUNDLES_FOLDER, load_bundle
    from edge_emotion.errors import BundleError

    names = {DEFAULT_BUNDLE, *(path.name for path in BUNDLES_FOLDER.glob("*/") if path.name[0] not in "._")}
    findings = []
    for name in sorted(names):
        try:
            bundle = load_bundle(name)
        except BundleError as error:
            findings.append(Finding(name, False, problem=str(error), mend=_MEND_BUNDLE))
        else:
            manifest = bundle.manifest
            mib = round(sum(file.size for file in manifest.files.values()) / 2**20, 1)
            runtimes = list(dict.fromkeys(variant.runtime for variant in manifest.llm.variants))
            details = {"version": manifest.version, "mib": mib, "path": str(bundle.path), "runtimes": runtimes}
            findings.append(Finding(name, True, details))
    return findings


def _with_a_runtime(bundle: Finding, working: set[str]) -> Finding:
    """The finding of a bundle, wrong where none of the packages can run its language model."""
    needed = [_PACKAGE_OF[runtime] for runtime in bundle.details.get("runtimes", ())]
    if not bundle.works or working & set(needed):
        return bundle
    problem = f"its language model runs on {' or '.join(needed)}, which cannot be used here"
    return replace(bundle, works=False, problem=problem, mend=_install_line(needed[0]))


def _system_name() -> str:
    try:
        pretty = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform()
    return f"{pretty}, Linux {platform.release()}, {platform.machine()}"


def _processor_name() -> str:
    """Model of the processor; boards name themselves in the device tree."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
        return Path("/proc/device-tree/model").read_text(encoding="utf-8", errors="replace").strip("\0\n")
    except OSError:
        return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (ValueError, OSError):
        return None


def _show(machine: dict[str, Any], packages: list[Finding], bundles: list[Finding], ready: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    console = results_console()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    for key, value in machine.items():
        table.add_row(key.replace("_gib", ", GiB").replace("_", "-"), str(value))
    console.print(table)
    for title, findings in (("Packages", packages), ("Bundles", bundles)):
        console.print(Text(f"\n{title}", "bold"))
        table = Table.grid(padding=(0, 2))
        for item in findings:
            details = "\n".join(f"{key} {_plain(value)}" for key, value in item.details.items())
            mark = Text("ok", "green") if item.works else Text("--", "dim") if item.optional else Text("no", "bold red")
            table.add_row(mark, item.name, Text(item.problem or details))
        console.print(table)
    console.print()
    for item in (*packages, *bundles):
        if item.mend:
            what = Text.assemble("to mend ", (item.name, "bold"))
            if item.optional:
                what = Text.assemble("optional: ", (item.name, "bold"), f", {item.optional}")
            console.print(Text.assemble(what, f":\n  {item.mend}"), soft_wrap=True)
    state, style = ("can", "bold green") if ready else ("cannot", "bold red")
    console.print(Text(f"the default bundle, {DEFAULT_BUNDLE}, {state} run here", style))


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
