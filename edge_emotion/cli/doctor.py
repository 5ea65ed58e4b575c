"""`edge-emotion doctor`: what this machine has, what is missing, and the line that mends it."""

from __future__ import annotations

import json as json_text
import os
import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from edge_emotion.board import Board, read_board
from edge_emotion.board_checks import Finding, check_llama_cpp, check_machine
from edge_emotion.cli.terminal import results_console
from edge_emotion.isolated import ask

if TYPE_CHECKING:
    from edge_emotion.manifest import Manifest

DEFAULT_BUNDLE = "nano"
ROOT = Path("/")
# What the default bundle runs without, and what it is for.
_OPTIONAL = {
    "llama-cpp-python": "a second runtime for language models, the faster one for large ones; needs a compiler"
}
_GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider")
# The package that holds each runtime of a language model.
_PACKAGE_OF = {"onnxruntime": "onnxruntime", "llama.cpp": "llama-cpp-python"}
_MEND_BUNDLE = "pip install --force-reinstall --no-deps edge-emotion"

# How each package is imported as `m`, and what it then says about itself: an expression that gives a dict. llama.cpp is
# loaded as the runtime loads it.
_PROBES: dict[str, tuple[str, str]] = {
    "numpy": ("import numpy as m", "{'version': m.__version__}"),
    "onnxruntime": (
        "import onnxruntime as m",
        "{'version': m.__version__, 'providers': m.get_available_providers(), 'distributions': sorted("
        "d.metadata['Name'] for d in importlib.metadata.distributions()"
        " if str(d.metadata['Name']).startswith('onnxruntime') and 'genai' not in d.metadata['Name'])}",
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


def doctor(
    *, json: Annotated[bool, Parameter(negative="", show_default=False, help="Print JSON for programs.")] = False
) -> int:
    """Show what this machine has, what is missing, and how to mend it; exit code 1 if the default bundle cannot run."""
    report = examine()
    if json:
        print(json_text.dumps(report_dict(report), ensure_ascii=False, indent=2))
    else:
        _show(report)
    return 0 if report.ready else 1


@dataclass(frozen=True)
class Examination:
    """What was found: the machine's facts, its GPU and settings, packages, bundles, and whether nano can run."""

    machine: dict[str, Any]
    board: list[Finding]
    packages: list[Finding]
    bundles: list[Finding]
    ready: bool


def examine() -> Examination:
    """Looks at everything; a library that crashes or hangs becomes a finding."""
    board = read_board(ROOT)
    packages = [replace(probe_package(name), optional=_OPTIONAL.get(name)) for name in _PROBES]
    working = {item.name for item in packages if item.works}
    bundles = [_with_a_runtime(item, working) for item in find_bundles()]
    ready = all(item.works or item.optional for item in packages) and any(
        item.name == DEFAULT_BUNDLE and item.works for item in bundles
    )
    on_board = check_machine(board, ROOT)
    has_gpu = any(item.name == "NVIDIA driver" and item.works for item in on_board)
    on_board += _check_gpu_packages(board, packages, has_gpu)
    return Examination(describe_machine(), on_board, packages, bundles, ready)


def report_dict(report: Examination) -> dict[str, Any]:
    """Plain types for JSON."""
    groups = {"board": report.board, "packages": report.packages, "bundles": report.bundles}
    findings = {name: [asdict(item) for item in items] for name, items in groups.items()}
    return {"ready": report.ready, "machine": report.machine, **findings}


def _check_gpu_packages(board: Board, packages: list[Finding], has_gpu: bool) -> list[Finding]:
    """Whether the packages can use the GPU; what a package lists is no evidence, so a session is opened."""
    findings = []
    onnxruntime = next((item for item in packages if item.name == "onnxruntime" and item.works), None)
    if onnxruntime:
        several = onnxruntime.details.get("distributions", [])
        if len(several) > 1:
            problem = f"{' and '.join(several)} overwrite each other's files"
            mend = f"pip uninstall -y {' '.join(several)} && pip install {several[-1]}"
            findings.append(Finding("onnxruntime, twice", False, {}, problem, mend))
        if listed := [name for name in _GPU_PROVIDERS if name in onnxruntime.details.get("providers", [])]:
            findings += [_prove_provider(name, board) for name in listed]
        elif has_gpu and not board.is_jetson:
            mend = 'pip uninstall -y onnxruntime && pip install "onnxruntime-gpu[cuda,cudnn]"'
            findings.append(
                Finding("onnxruntime on the GPU", False, {}, "built for the processor only", mend, "large encoders")
            )
    llama = next((item for item in packages if item.name == "llama-cpp-python" and item.works), None)
    if llama and (wrong := check_llama_cpp(board, llama.details, has_gpu)):
        findings.append(wrong)
    return findings


def _prove_provider(provider: str, board: Board) -> Finding:
    """Whether a session really runs on a provider that the package lists."""
    from edge_emotion.bundle import BUNDLES_FOLDER

    model = str(BUNDLES_FOLDER / DEFAULT_BUNDLE / "encoder.fp32.onnx")
    opened = f"m.InferenceSession({model!r}, providers=[{provider!r}, 'CPUExecutionProvider'])"
    answer = ask("import onnxruntime as m; m.set_default_logger_severity(4)", f"{opened}.get_providers()")
    name = f"onnxruntime, {provider}"
    if answer.value and provider in answer.value:
        return Finding(name, True, {"runs on": answer.value[0]})
    problem = answer.problem or f"listed, but a session runs on {', '.join(answer.value)}"
    mend = None if board.is_jetson else 'pip install "onnxruntime-gpu[cuda,cudnn]"'
    return Finding(name, False, {}, problem, mend, "large encoders")


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
    """Imports a package and asks it what it is: a library compiled for another processor ends the process that does."""
    answer = ask(*_PROBES[name])
    if answer.problem is None:
        return Finding(name, True, answer.value)
    mend = _install_line(name)
    if answer.signal == "timeout":
        return Finding(name, False, problem=f"importing it: {answer.problem}")
    if answer.signal:
        rebuild = mend.replace("pip install", "pip install --no-cache-dir --force-reinstall --no-deps")
        problem = f"importing it: {answer.problem}: was it built for another processor?"
        return Finding(name, False, problem=problem, mend=rebuild)
    return Finding(name, False, problem=answer.problem.removeprefix("ModuleNotFoundError: "), mend=mend)


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
            optional = None if name == DEFAULT_BUNDLE else "another model than the default one"
            findings.append(_with_its_base(Finding(name, True, details, optional=optional), manifest))
    return findings


def _with_its_base(bundle: Finding, manifest: Manifest) -> Finding:
    """The finding of a bundle, wrong where it holds only adapters and the model they change is not on this machine."""
    from edge_emotion.base_models import find_base_model, install_line
    from edge_emotion.errors import BundleError

    bases = [variant.base for variant in manifest.llm.variants]
    if not bases or None in bases:
        return bundle
    base = bases[0]
    assert base is not None
    try:
        return replace(bundle, details={**bundle.details, "base": str(find_base_model(base))})
    except BundleError as error:
        return replace(bundle, works=False, problem=str(error), mend=install_line(base))


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


def _show(report: Examination) -> None:
    from rich.table import Table
    from rich.text import Text

    console = results_console()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    for key, value in report.machine.items():
        table.add_row(key.replace("_gib", ", GiB").replace("_", "-"), str(value))
    console.print(table)
    groups = {"GPU and settings": report.board, "Packages": report.packages, "Bundles": report.bundles}
    for title, findings in groups.items():
        console.print(Text(f"\n{title}", "bold"))
        table = Table.grid(padding=(0, 2))
        for item in findings:
            details = "\n".join(f"{key} {_plain(value)}" for key, value in item.details.items())
            mark = Text("ok", "green") if item.works else Text("--", "dim") if item.optional else Text("no", "bold red")
            said = item.problem or details
            table.add_row(
                mark, item.name, Text(f"{said}; wanted: {item.wanted}" if item.problem and item.wanted else said)
            )
        console.print(table)
    console.print()
    for item in (*report.board, *report.packages, *report.bundles):
        if item.mend:
            what = Text.assemble("to mend ", (item.name, "bold"))
            if item.optional:
                what = Text.assemble("optional: ", (item.name, "bold"), f", {item.optional}")
            console.print(Text.assemble(what, f":\n  {item.mend}"), soft_wrap=True)
    state, style = ("can", "bold green") if report.ready else ("cannot", "bold red")
    console.print(Text(f"the default bundle, {DEFAULT_BUNDLE}, {state} run here", style))


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
