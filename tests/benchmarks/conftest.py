"""Makes the benchmarks importable, as they are for one another when run as scripts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random bundle of the runtimes' tests: it writes no sense, but runs as a real one."""
    spec = importlib.util.spec_from_file_location("runtimes_conftest", ROOT / "tests" / "runtimes" / "conftest.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
