"""Importing the parts of edge-emotion that need more than a device has."""

from __future__ import annotations

import importlib
from types import ModuleType

from edge_emotion.errors import RuntimeUnavailableError


def import_from_extra(module: str, extra: str) -> ModuleType:
    """Imports a module whose dependencies come with an optional extra.

    Raises:
        RuntimeUnavailableError: One of its dependencies is not installed; says which extra brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.startswith("edge_emotion"):
            raise
        raise RuntimeUnavailableError(
            f'{missing} is not installed; it comes with the extra "{extra}": pip install "edge-emotion[{extra}]"'
        ) from error
