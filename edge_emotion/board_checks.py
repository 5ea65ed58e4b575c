"""What keeps a machine from running models on its GPU, and the line that mends it; the pitfalls of Jetsons first.

Everything is read below a root folder, so that files can stand in for a board.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_emotion import gpu_libraries
from edge_emotion.board import Board, device_of
from edge_emotion.gpu_libraries import Found, cards_of
from edge_emotion.isolated import ask
from edge_emotion.targets import Target


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: Package, bundle or part of the machine.
        works: Whether it can be used, or is as it should be.
        details: What it says about itself.
        problem: What is wrong; None where it works.
        mend: The exact line that mends it; None where it works or no line can.
        optional: What it is for, where the default bundle runs without it.
        wanted: What should be there; None where nothing in particular.
    """

    name: str
    works: bool
    details: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    mend: str | None = None
    optional: str | None = None
    wanted: str | None = None


# JetPack's major -> its CUDA, TensorRT and Python.
_OF_JETPACK = {"6": ("12", "10", "3.10"), "7": ("13", "10", "3.12")}
_FASTER = "the GPU, for larger models"
_STEADY = "speed that stays the same from run to run"
_ROOM = "room for larger models and for building engines"
# Below this, building the engine of a full-size encoder (5.4 GiB) on a board of 8 GiB ends in an out-of-memory kill.
_SMALL_BOARD_BYTES = 9 * 2**30
_SWAP_BYTES = 7 * 2**30
_MAKE_SWAP = ("fallocate -l 8G /swapfile", "chmod 600 /swapfile", "mkswap /swapfile", "swapon /swapfile")
_HOT_C = 90.0


def check_machine(board: Board, root: Path = Path("/")) -> list[Finding]:
    """Looks at the board, its GPU's libraries and its settings.

    Args:
        board: What `read_board` found below the same root.
        root: Where the machine's files are.
    """
    if not board.is_jetson and not board.nvidia_cards and not gpu_libraries.find("driver", root).file:
        return [Finding("NVIDIA GPU", False, problem="none found: models run on the processor", optional=_FASTER)]
    findings = list(_check_jetpack(board)) if board.is_jetson else []
    driver = gpu_libraries.find("driver", root)
    findings.append(_check_driver(board, driver))
    findings += [_check_library(name, board, gpu_libraries.find(name, root)) for name in ("CUDA", "cuDNN", "TensorRT")]
    findings.append(_check_python_tensorrt(board, root))
    findings.append(_check_cuda_python(findings))
    if board.is_jetson:
        findings += _check_settings(board, root)
    return findings


def _check_jetpack(board: Board) -> Iterator[Finding]:
    details = {"model": board.model, "L4T": board.l4t, "JetPack": board.jetpack}
    wanted = "JetPack 6.1 or later"
    if board.l4t is None and board.in_container:
        yield Finding("JetPack", False, details, "this container hides which JetPack the board has",
                      "docker run --runtime nvidia -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro ...",
                      _FASTER, wanted)  # fmt: skip
        return
    if (board.jetpack or "")[:1] not in _OF_JETPACK or board.jetpack in ("6.0", "6.0 preview"):
        yield Finding("JetPack", False, details, f"JetPack {board.jetpack or 'unknown'} is not supported: flash a "
                      "newer one with NVIDIA's SDK Manager", None, _FASTER, wanted)  # fmt: skip
        return
    yield Finding("JetPack", True, details, wanted=wanted)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    of_jetpack = _OF_JETPACK[(board.jetpack or "")[:1]][2]
    if python != of_jetpack:
        yield Finding("Python", False, {"version": python},
                      f"JetPack {board.jetpack} brings TensorRT's bindings for Python {of_jetpack} only",
                      f"python{of_jetpack} -m venv --system-site-packages edge-emotion-venv",
                      "TensorRT", of_jetpack)  # fmt: skip


def _check_driver(board: Board, driver: Found) -> Finding:
    name = "NVIDIA driver"
    if driver.version:
        cards = [f"{card['name']} (compute capability {card['compute capability']})" for card in cards_of(driver)]
        details = {"version": board.driver, "CUDA up to": driver.version, "GPUs": cards}
        if cards:
            return Finding(name, True, {key: value for key, value in details.items() if value})
        return Finding(name, False, details, "it finds no GPU", _container_line(board), _FASTER)
    if driver.file:
        problem = f"{driver.file.name}: {driver.answer.problem}"
        return Finding(name, False, problem=problem, mend=_container_line(board) or "sudo reboot", optional=_FASTER)
    mend = _container_line(board) or (_jetpack_line() if board.is_jetson else "sudo ubuntu-drivers install")
    return Finding(name, False, problem="libcuda.so.1 not found", mend=mend, optional=_FASTER)


def _container_line(board: Board) -> str | None:
    if not board.in_container:
        return None
    return f"docker run {'--runtime nvidia' if board.is_jetson else '--gpus all'} ..."


def _jetpack_line() -> str:
    return "sudo apt update && sudo apt install nvidia-jetpack"


def _check_library(name: str, board: Board, found: Found) -> Finding:
    cuda, tensorrt, _ = _OF_JETPACK.get((board.jetpack or "")[:1], ("12 or 13", "10 or 11", ""))
    wanted = {"CUDA": cuda, "cuDNN": "9", "TensorRT": f"{tensorrt}, from 10.3"}[name]
    jetson = {"CUDA": "cuda-runtime-" + ("12-6" if cuda == "12" else "13-2"), "cuDNN": "libcudnn9-cuda-" + cuda,
              "TensorRT": "tensorrt python3-libnvinfer"}  # fmt: skip
    if board.is_jetson:
        mend = f"sudo apt update && sudo apt install {jetson[name]}"
    else:
        mend = 'pip install "tensorrt-cu13>=10.16,<11"' if name == "TensorRT" else (
            'pip install "onnxruntime-gpu[cuda,cudnn]"')  # fmt: skip
    if not found.version:
        problem = f"{found.file.name}: {found.answer.problem}" if found.file else found.answer.problem
        return Finding(name, False, problem=problem, mend=mend, optional=_FASTER, wanted=wanted)
    details = {"version": found.version}
    if found.version.partition(".")[0] not in wanted.replace(",", "").split():
        problem = f"{found.version} is there, {wanted} is wanted"
        return Finding(name, False, details, problem, mend, _FASTER, wanted)
    if name == "TensorRT" and tuple(map(int, found.version.split(".")[:2])) < (10, 3):
        return Finding(name, False, details, f"{found.version} is too old", mend, _FASTER, wanted)
    return Finding(name, True, details, wanted=wanted)


def _check_python_tensorrt(board: Board, root: Path) -> Finding:
    name, answer = "TensorRT for Python", gpu_libraries.python_tensorrt()
    if answer.problem is None:
        library = gpu_libraries.find("TensorRT", root).version
        version = str(answer.value["version"])
        if library and version.split(".")[:2] != library.split(".")[:2]:
            problem = f"its bindings are of {version}, the library is {library}"
            mend = f"pip uninstall -y tensorrt  # then the system's own: {_bindings_line(root) or _apt_bindings()}"
            return Finding(name, False, answer.value, problem, mend, _FASTER, library)
        return Finding(name, True, answer.value)
    mend = _bindings_line(root) or (_apt_bindings() if board.is_jetson else 'pip install "tensorrt-cu13>=10.16,<11"')
    problem = answer.problem.removeprefix("ModuleNotFoundError: ")
    if _bindings_line(root):
        problem += "; the system has it, this virtual environment does not see it"
    return Finding(name, False, problem=problem, mend=mend, optional=_FASTER)


def _check_cuda_python(findings: list[Finding]) -> Finding:
    """cuda-python, which runs engines, of the same CUDA as the library that was found."""
    name = "cuda-python"
    found = next((item.details.get("version", "") for item in findings if item.name == "CUDA"), "")
    version = "cuda-python>=12.6,<13" if found.startswith("12") else "cuda-python>=13"
    answer = ask("import importlib.metadata", "{'version': importlib.metadata.version('cuda-python')}")
    mend = f"pip install '{version}'"
    if answer.problem:
        return Finding(name, False, problem="not installed", mend=mend, optional="running engines of TensorRT")
    have = str(answer.value["version"])
    if found and have.partition(".")[0] != found.partition(".")[0]:
        problem = f"{have} is for another CUDA than {found}"
        return Finding(name, False, answer.value, problem, mend, "running engines of TensorRT", version)
    return Finding(name, True, answer.value)


def _apt_bindings() -> str:
    return "sudo apt install python3-libnvinfer"


def _bindings_line(root: Path) -> str | None:
    folder = gpu_libraries.dist_packages_with_tensorrt(root)
    if not folder:
        return None
    site = "$(python -c 'import site; print(site.getsitepackages()[0])')"
    return f'echo /{folder.relative_to(root)} > "{site}/tensorrt.pth"'


def _check_settings(board: Board, root: Path) -> Iterator[Finding]:
    best = _fastest_mode(board)
    if board.power_mode and best:
        name, number = best
        fast = board.power_mode == name
        yield Finding("power mode", fast, {"mode": board.power_mode, "of": list(board.power_modes)},
                      None if fast else f"{board.power_mode}: {name} is the fastest",
                      None if fast else f"sudo nvpmodel -m {number}", None if fast else "speed", name)  # fmt: skip
    if board.clocks_pinned is not None:
        mend = None if board.clocks_pinned else "sudo jetson_clocks"
        problem = None if board.clocks_pinned else "they follow the load"
        yield Finding("clocks", board.clocks_pinned, {}, problem, mend, None if board.clocks_pinned else _STEADY)
    small = (board.memory_bytes or _SMALL_BOARD_BYTES) < _SMALL_BOARD_BYTES
    if small and board.has_desktop:
        yield Finding("desktop", False, {}, "it takes about 0.5 GiB of a small memory",
                      "sudo systemctl set-default multi-user.target && sudo reboot", _ROOM)  # fmt: skip
    if small and board.disk_swap_bytes < _SWAP_BYTES:
        disk_gib, zram_gib = board.disk_swap_bytes / 2**30, board.zram_bytes / 2**30
        problem = f"{disk_gib:.1f} GiB on disk; {zram_gib:.1f} GiB of compressed memory are no help to a build"
        line = " && ".join(f"sudo {command}" for command in _MAKE_SWAP)
        yield Finding("swap", False, {}, problem, line, _ROOM, "8 GiB on disk")
    device = root / "dev/nvmap"
    if device.exists() and not os.access(device, os.R_OK | os.W_OK):
        yield Finding("permissions", False, {}, "/dev/nvmap is not yours to open: CUDA finds no GPU",
                      "sudo usermod -aG video,render $USER  # then log in again", _FASTER)  # fmt: skip
    hot = {name: degrees for name, degrees in board.temperatures_c.items() if degrees >= _HOT_C}
    if hot:
        worst = max(hot, key=hot.__getitem__)
        yield Finding("temperature", False, hot, f"{worst} is at {hot[worst]:.0f} degrees: clocks are being lowered",
                      None, _STEADY)  # fmt: skip


def _fastest_mode(board: Board) -> tuple[str, int] | None:
    """MAXN or its like; else the mode with the most watts."""
    for name, number in board.power_modes.items():
        if name.startswith("MAXN"):
            return name, number
    watts = {name: int("".join(filter(str.isdigit, name)) or 0) for name in board.power_modes}
    return (best := max(watts, key=watts.__getitem__), board.power_modes[best]) if watts else None


def check_llama_cpp(board: Board, details: dict[str, Any], has_gpu: bool) -> Finding | None:
    """What is wrong with the way llama.cpp was built for this machine's GPU; None where nothing is.

    Args:
        board: The machine.
        details: What llama.cpp says of itself: `gpu offload` and `system`.
        has_gpu: Whether the driver gives a GPU.
    """
    target = device_of(board).target
    if not has_gpu:
        return None
    name, system = "llama.cpp on the GPU", str(details.get("system", ""))
    if not details.get("gpu offload"):
        return Finding(name, False, {}, "it was built for the processor only", _rebuild_line(board, target), _FASTER)
    wanted = (target.compute_capability or "").replace(".", "") + "0"
    if board.is_jetson and "ARCHS" in system and wanted not in system.partition("ARCHS")[2].partition("|")[0]:
        problem = f"it holds no code for this GPU ({wanted}): the first start compiles for minutes, or fails"
        return Finding(name, False, {}, problem, _rebuild_line(board, target), _FASTER)
    if "NO_VMM" in target.cmake_args and "NO_VMM = 1" not in system:
        problem = "it reserves 32 GiB of addresses, which this board refuses (built without GGML_CUDA_NO_VMM)"
        return Finding(name, False, {}, problem, _rebuild_line(board, target), _FASTER)
    return None


def _rebuild_line(board: Board, target: Target) -> str:
    arguments = target.cmake_args if board.is_jetson else "-DGGML_CUDA=ON -DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF"
    install = 'pip install --no-cache-dir --force-reinstall --no-deps "llama-cpp-python>=0.3.36,<0.4"'
    return f'CMAKE_ARGS="{arguments}" {install}'
