"""Targets and devices by name, sizes as people write them, boards from folders of files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_emotion.board import device_of, jetpack_of, read_board
from edge_emotion.errors import ConfigError
from edge_emotion.targets import DEVICES, TARGETS, find_device, find_target, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("5.5GiB", 5_905_580_032), ("800MB", 800_000_000), (" 6 g ", 6 * 2**30), ("1gb", 10**9), ("512MiB", 2**29)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "5.5", "0GiB", "-1GiB", "1TiB", "GiB", "1e3MB", "0.0000000001MB"])
def test_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match=r"5\.5GiB"):
        parse_bytes(text)


@given(st.integers(1, 9999))
def test_machines_of_any_size(gib: int) -> None:
    assert find_device(f"cpu-{gib}g").memory_gib == gib
    assert find_device(f"desktop-cuda-{gib}g").target is TARGETS["desktop-cuda"]


@pytest.mark.parametrize("name", ["orin-nano", "cpu-0g", "cpu-1.5g", "thor-64g", ""])
def test_unknown_device_names_the_known(name: str) -> None:
    with pytest.raises(ConfigError, match="orin-nano-8g"):
        find_device(name)


def test_unknown_target() -> None:
    with pytest.raises(ConfigError, match="jetson-thor"):
        find_target("jetson")


def test_boards_are_of_known_targets_and_leave_room() -> None:
    for device in DEVICES.values():
        assert device.target is TARGETS[device.target.name]
        assert 0 < device.system_gib < device.memory_gib
        assert len(set(device.power_modes.values())) == len(device.power_modes)


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [("36.4.7", "6.2.1"), ("36.4.3", "6.2"), ("36.3.0", "6.0"), ("36.5.0", "6.2.2"), ("38.2.0", "7.0"),
     ("39.2.0", "7.2"), ("35.4.1", "5.1"), ("36.9.9", "6"), ("40.1", None), ("3", None), ("360.1", None)],
)  # fmt: skip
def test_jetpack_of_a_release(l4t: str, jetpack: str | None) -> None:
    assert jetpack_of(l4t) == jetpack


def test_orin_nano(orin_nano: Path) -> None:
    board = read_board(orin_nano)
    assert (board.is_jetson, board.l4t, board.jetpack) == (True, "36.4.7", "6.2.1")
    assert board.power_mode == "15W"
    assert board.power_modes["MAXN_SUPER"] == 2
    assert (board.disk_swap_bytes, board.zram_bytes) == (0, 3_995_926_528)
    assert board.clocks_pinned is False
    assert board.has_desktop
    assert board.temperatures_c == {"cpu-thermal": 51.5}
    device = device_of(board)
    assert device.name == "this orin-nano-8g"
    assert device.target is TARGETS["jetson-orin-nano"]
    assert device.memory_gib == pytest.approx(7.4, abs=0.05)


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    board = read_board(tmp_path)
    assert (board.is_jetson, board.l4t, board.memory_bytes, board.power_mode) == (False, None, None, None)
    assert device_of(board).target is TARGETS["cpu"]


def test_a_card_without_its_driver(tmp_path: Path) -> None:
    for name, vendor, kind in (("0", "0x10de", "0x030000"), ("1", "0x10de", "0x040300"), ("2", "0x8086", "0x030000")):
        folder = tmp_path / "sys/bus/pci/devices" / name
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(vendor + "\n")
        (folder / "class").write_text(kind + "\n")
    board = read_board(tmp_path)
    assert (board.nvidia_cards, board.driver) == (1, None)
