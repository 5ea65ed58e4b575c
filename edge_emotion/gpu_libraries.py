"""NVIDIA's libraries on this machine: driver, CUDA, cuDNN, TensorRT. Each is found by file and asked in isolation."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_emotion.board import device_of, read_board
from edge_emotion.isolated import Answer, ask
from edge_emotion.targets import Device

_FOLDERS = (
    "usr/lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu/nvidia", "usr/lib/aarch64-linux-gnu/tegra",
    "usr/lib/x86_64-linux-gnu", "usr/local/cuda/lib64", "usr/local/cuda/targets/*/lib", "usr/lib64", "usr/lib/wsl/lib",
)  # fmt: skip
# Where wheels put them, below site-packages.
_WHEEL_FOLDERS = ("nvidia/*/lib", "tensorrt_libs")
_TIMEOUT_S = 20.0

_DRIVER = """
import ctypes
lib = ctypes.CDLL(PATH)
def call(name, *arguments):
    code = getattr(lib, name)(*arguments)
    if code:
        raise RuntimeError(f"{name} failed with error {code}")
def number(name, *arguments):
    value = ctypes.c_int()
    call(name, ctypes.byref(value), *arguments)
    return value.value
call("cuInit", 0)
cards = []
for index in range(number("cuDeviceGetCount")):
    text, size = ctypes.create_string_buffer(256), ctypes.c_size_t()
    call("cuDeviceGetName", text, 256, index)
    call("cuDeviceTotalMem_v2", ctypes.byref(size), index)
    capability = f"{number('cuDeviceGetAttribute', 75, index)}.{number('cuDeviceGetAttribute', 76, index)}"
    cards.append({"name": text.value.decode(), "compute capability": capability, "memory_bytes": size.value})
version = number("cuDriverGetVersion")
answer = {"version": f"{version // 1000}.{version % 1000 // 10}", "cards": cards}
"""
_CUDA = """
import ctypes
value = ctypes.c_int()
code = ctypes.CDLL(PATH).cudaRuntimeGetVersion(ctypes.byref(value))
if code:
    raise RuntimeError(f"cudaRuntimeGetVersion failed with error {code}")
answer = {"version": f"{value.value // 1000}.{value.value % 1000 // 10}"}
"""
_CUDNN = """
import ctypes
lib = ctypes.CDLL(PATH)
lib.cudnnGetVersion.restype = ctypes.c_size_t
number = lib.cudnnGetVersion()
major, rest = (number // 10000, number % 10000) if number >= 90000 else (number // 1000, number % 1000)
answer = {"version": f"{major}.{rest // 100}.{rest % 100}"}
"""
_TENSORRT = """
import ctypes
number = ctypes.CDLL(PATH).getInferLibVersion()
major, rest = (number // 10000, number % 10000) if number >= 100000 else (number // 1000, number % 1000)
answer = {"version": f"{major}.{rest // 100}.{rest % 100}"}
"""


@dataclass(frozen=True)
class Library:
    """One library: the names it may have, the newest first, and what to ask it."""

    files: tuple[str, ...]
    code: str


LIBRARIES: Mapping[str, Library] = {
    "driver": Library(("libcuda.so.1",), _DRIVER),
    "CUDA": Library(("libcudart.so.13", "libcudart.so.12"), _CUDA),
    "cuDNN": Library(("libcudnn.so.9", "libcudnn.so.8"), _CUDNN),
    "TensorRT": Library(("libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so.8"), _TENSORRT),
}


@dataclass(frozen=True)
class Found:
    """A library's file, None where there is none, and what it answered."""

    file: Path | None
    answer: Answer

    @property
    def version(self) -> str | None:
        """Its version; None where it did not answer."""
        return self.answer.value["version"] if self.answer.value else None


def find(name: str, root: Path = Path("/"), timeout_s: float = _TIMEOUT_S) -> Found:
    """Looks for one of `LIBRARIES` below `root` and asks it for its version."""
    library = LIBRARIES[name]
    folders = list(_folders(root))
    for file in library.files:
        for folder in folders:
            path = folder / file
            if path.exists():
                return Found(path, ask(f"PATH = {str(path)!r}\n{library.code}", "answer", timeout_s))
    return Found(None, Answer(problem="not found"))


def python_tensorrt() -> Answer:
    """What `import tensorrt` gives: its version."""
    return ask("import tensorrt", "{'version': tensorrt.__version__}", _TIMEOUT_S)


def dist_packages_with_tensorrt(root: Path = Path("/")) -> Path | None:
    """The system's folder of packages that holds TensorRT's bindings, which a virtual environment does not see."""
    found = sorted(root.glob("usr/lib/python3*/dist-packages/tensorrt"))
    return found[-1].parent if found else None


def _folders(root: Path) -> Iterator[Path]:
    if root == Path("/"):
        yield from map(Path, filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)))
        for site in map(Path, sys.path):
            if site.name in ("site-packages", "dist-packages"):
                for pattern in _WHEEL_FOLDERS:
                    yield from sorted(site.glob(pattern))
    for pattern in _FOLDERS:
        yield from sorted(root.glob(pattern))


def cards_of(driver: Found) -> list[dict[str, Any]]:
    """Name, compute capability and memory of each GPU that the driver gives."""
    return driver.answer.value["cards"] if driver.answer.value else []


def this_device(root: Path = Path("/")) -> Device:
    """What to plan for here: the board, the first GPU that the driver gives, or the processor."""
    board = read_board(root)
    cards = [] if board.is_jetson else cards_of(find("driver", root))
    return device_of(board, cards[0]["memory_bytes"] if cards else 0)
