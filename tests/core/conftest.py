"""Boards made of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boards import write_board


@pytest.fixture
def orin_nano(tmp_path: Path) -> Path:
    """The root of an Orin Nano as its files show it, in its 15 W mode, with a desktop and no swap on disk."""
    return write_board(tmp_path / "orin-nano")
