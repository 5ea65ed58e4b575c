"""Writing a whole folder at once: under a temporary name, then renamed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_emotion.errors import LabellingError


@contextmanager
def new_folder(output: Path, marker: str, force: bool) -> Iterator[Path]:
    """A folder under a temporary name that takes its place when the block ends well, and vanishes when it does not.

    Args:
        output: The folder to be.
        marker: A file that such folders hold; with `force` only a folder that holds it is replaced.
        force: Replace what is there.

    Raises:
        LabellingError: It exists already, is something else, or cannot be written.
    """
    if output.exists() and not force:
        raise LabellingError(f"{output} exists already; choose another folder, or give --force to replace it")
    if output.exists() and not (output / marker).is_file():
        raise LabellingError(f"{output} holds no {marker}, so --force does not replace it; choose another folder")
    part, old = output.with_name(f".{output.name}.part"), output.with_name(f".{output.name}.old")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        if output.exists():
            shutil.rmtree(old, ignore_errors=True)
            output.rename(old)
        part.rename(output)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise LabellingError(f"{output} cannot be written: {error.strerror or error}; nothing was replaced") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
