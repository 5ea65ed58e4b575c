"""What kind of machine this is, read from files only, so that a folder of files can stand in for any board."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edge_emotion.targets import DEVICES, TARGETS, Device, find_device

# L4T release -> JetPack, the longest start that matches.
_JETPACKS = {
    "32": "4", "35": "5.1", "36.2": "6.0 preview", "36.3": "6.0", "36.4.0": "6.1", "36.4.2": "6.1", "36.4.3": "6.2",
    "36.4.4": "6.2.1", "36.4.7": "6.2.1", "36.4": "6.2", "36.5": "6.2.2", "36": "6", "38.2": "7.0", "38.4": "7.1",
    "38": "7", "39.2": "7.2", "39": "7.2",
}  # fmt: skip
_RELEASE = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")
_POWER_MODEL = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>")
_NVIDIA_VENDOR = "0x10de"


@dataclass(frozen=True)
class Board:
    """What files say of a machine.

    Attributes:
        model: Board's or processor's name.
        machine: `x86_64` or `aarch64`.
        is_jetson: Whether it is one of NVIDIA's boards.
        l4t: Release of Jetson Linux, "36.4.7" for example; None elsewhere, or in a container that hides it.
        jetpack: The JetPack of that release; None where unknown.
        memory_bytes: As the kernel reports it; None where it does not.
        available_bytes: What could be taken now.
        disk_swap_bytes: Swap on disk; compressed memory (zram) is no help to a build and is counted apart.
        zram_bytes: Swap in compressed memory.
        power_mode: Name of the mode of `nvpmodel`; None where there is none.
        power_modes: Name -> number of every mode.
        clocks_pinned: Whether the processor's clocks stand still at their highest, as `jetson_clocks` leaves them.
        has_desktop: Whether a graphical session is started at boot.
        in_container: Whether this runs inside a container.
        nvidia_cards: NVIDIA devices on the PCI bus.
        driver: Version of NVIDIA's kernel driver; None where it is not loaded.
        temperatures_c: Name -> degrees Celsius of each thermal zone that answers.
    """

    model: str
    machine: str
    is_jetson: bool
    l4t: str | None
    jetpack: str | None
    memory_bytes: int | None
    available_bytes: int | None
    disk_swap_bytes: int
    zram_bytes: int
    power_mode: str | None
    power_modes: Mapping[str, int]
    clocks_pinned: bool | None
    has_desktop: bool
    in_container: bool
    nvidia_cards: int
    driver: str | None
    temperatures_c: Mapping[str, float]


def read_board(root: Path = Path("/")) -> Board:
    """Reads what there is below `root`; what is missing or not allowed is left out."""
    release = _RELEASE.search(_text(root / "etc/nv_tegra_release"))
    l4t = f"{release[1]}.{release[2]}" if release else None
    model = _text(root / "proc/device-tree/model").strip("\0\n ")
    memory = _meminfo(root)
    modes = {name: int(number) for number, name in _POWER_MODEL.findall(_text(root / "etc/nvpmodel.conf"))}
    disk_swap, zram = _swap(root)
    compatible = _text(root / "proc/device-tree/compatible")
    return Board(
        model=model or _processor_name(root),
        machine=platform.machine() if root == Path("/") else _text(root / "machine").strip() or platform.machine(),
        is_jetson=bool(release) or "nvidia,tegra" in compatible or "Jetson" in model,
        l4t=l4t,
        jetpack=jetpack_of(l4t) if l4t else None,
        memory_bytes=memory.get("MemTotal"),
        available_bytes=memory.get("MemAvailable"),
        disk_swap_bytes=disk_swap,
        zram_bytes=zram,
        power_mode=_power_mode(root, modes),
        power_modes=modes,
        clocks_pinned=_clocks_pinned(root),
        has_desktop=_links_to(root / "etc/systemd/system/default.target", "graphical.target"),
        in_container=(root / ".dockerenv").exists() or (root / "run/.containerenv").exists(),
        nvidia_cards=_nvidia_cards(root),
        driver=_driver(root),
        temperatures_c=_temperatures(root),
    )


def jetpack_of(l4t: str) -> str | None:
    """The JetPack of a release of Jetson Linux, by the longest start that is known."""
    known = [start for start in _JETPACKS if l4t == start or l4t.startswith(start + ".")]
    return _JETPACKS[max(known, key=len)] if known else None


def device_of(board: Board, card_bytes: int = 0) -> Device:
    """The device to plan for on this machine, with the memory it really has.

    Args:
        board: The machine.
        card_bytes: Memory of its GPU, where that has its own and its driver answers.
    """
    if card_bytes and not board.is_jetson:
        like = find_device("desktop-cuda-1g")
        return replace(like, name="this machine's GPU", memory_gib=round(card_bytes / 2**30, 1))
    gib = (board.memory_bytes or 0) / 2**30
    if board.is_jetson:
        target = _jetson_target(board)
        near = [device for device in DEVICES.values() if device.target.name == target]
        like = min(near, key=lambda device: abs(device.memory_gib - gib))
        modes = board.power_modes or like.power_modes
        return Device("this " + like.name, like.target, round(gib, 1), like.system_gib, like.bandwidth_gb_s, modes)
    # What others have taken by now is not there to be planned with.
    taken = ((board.memory_bytes or 0) - (board.available_bytes or board.memory_bytes or 0)) / 2**30
    return Device("this machine", TARGETS["cpu"], round(gib, 1), round(taken, 1), None, {})


def _jetson_target(board: Board) -> str:
    if "Thor" in board.model:
        return "jetson-thor"
    return "jetson-agx-orin" if "AGX Orin" in board.model else "jetson-orin-nano"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _processor_name(root: Path) -> str:
    for line in _text(root / "proc/cpuinfo").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _meminfo(root: Path) -> dict[str, int]:
    """Bytes of each entry."""
    pairs = re.findall(r"^(\w+):\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return {name: int(count) * 1024 for name, count in pairs}


def _swap(root: Path) -> tuple[int, int]:
    """Bytes of swap on disk and in compressed memory."""
    disk = zram = 0
    for line in _text(root / "proc/swaps").splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 3 and fields[2].isdigit():
            if "zram" in fields[0]:
                zram += int(fields[2]) * 1024
            else:
                disk += int(fields[2]) * 1024
    return disk, zram


def _power_mode(root: Path, modes: Mapping[str, int]) -> str | None:
    found = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if not found:
        return None
    number = int(found[1])
    return next((name for name, other in modes.items() if other == number), str(number))


def _clocks_pinned(root: Path) -> bool | None:
    folder = root / "sys/devices/system/cpu/cpu0/cpufreq"
    low, high = (_text(folder / name).strip() for name in ("scaling_min_freq", "cpuinfo_max_freq"))
    return low == high if low and high else None


def _links_to(path: Path, name: str) -> bool:
    try:
        return os.readlink(path).endswith(name)
    except OSError:
        return False


def _nvidia_cards(root: Path) -> int:
    try:
        vendors = [_text(path / "vendor").strip() for path in (root / "sys/bus/pci/devices").iterdir()]
    except OSError:
        return 0
    # Sound and USB functions of a card are devices of their own; only displays and accelerators are counted.
    classes = [_text(path / "class")[:4] for path in (root / "sys/bus/pci/devices").iterdir()]
    return sum(vendor == _NVIDIA_VENDOR and kind == "0x03" for vendor, kind in zip(vendors, classes, strict=True))


def _driver(root: Path) -> str | None:
    found = re.search(r"Kernel Module.*?(\d+\.\d+(?:\.\d+)?)\s", _text(root / "proc/driver/nvidia/version"))
    return found[1] if found else None


def _temperatures(root: Path) -> dict[str, float]:
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        degrees = _text(zone / "temp").strip()
        if degrees.lstrip("-").isdigit():
            found[_text(zone / "type").strip() or zone.name] = round(int(degrees) / 1000, 1)
    return found
