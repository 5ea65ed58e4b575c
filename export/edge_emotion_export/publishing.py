"""A bundle's folder on its way out: written beside the target, proved, published whole or not at all, told of."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_emotion.bundle import MANIFEST_NAME, load_bundle
from edge_emotion.errors import ExportError


def talk(message: str) -> None:
    """One line on stderr."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201 - the command line's progress


@contextmanager
def published(target: Path, force: bool) -> Iterator[Path]:
    """A folder beside the target to write in; it takes the target's place when the block ends well."""
    if target.exists() and not force:
        raise ExportError(f"{target} is there already; give --force to replace it, or another --output")
    ours = {MANIFEST_NAME, "parity.json"}
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not ours & set(names_in(target)))):
        raise ExportError(f"{target} is not an earlier export, so it is not replaced; give another --output")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        folder, old = Path(scratch, "new"), Path(scratch, "old")
        folder.mkdir()
        yield folder
        if target.exists():
            target.rename(old)
        try:
            folder.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise


def names_in(folder: Path) -> list[str]:
    """Names of the files, sorted."""
    return sorted(path.name for path in folder.iterdir())


def sizes_in(folder: Path) -> dict[str, int]:
    """Bytes of each file."""
    return {name: (folder / name).stat().st_size for name in names_in(folder)}


def prove(folder: Path, base: Path | None = None) -> None:
    """Opens the finished bundle as a device does, and replays its golden clips with every variant.

    Args:
        folder: The bundle.
        base: Base model of a bundle of adapters.

    Raises:
        ExportError: A tap is off.
    """
    from edge_emotion_runtimes.verify import verify_bundle

    talk("verifying the finished bundle")
    bundle = load_bundle(str(folder.resolve()))
    encoders = [variant.precision for variant in bundle.manifest.encoder.variants]
    models = [variant.quantisation for variant in bundle.manifest.llm.variants]
    for encoder, llm in [*((encoder, models[0]) for encoder in encoders), *((encoders[0], llm) for llm in models[1:])]:
        failed = [tap for tap in verify_bundle(bundle, encoder, llm, base=base).taps if not tap.passed]
        if failed:
            raise ExportError(f"the finished bundle fails its own golden clips with {encoder} and {llm}: {failed}")


def report(folder: Path) -> None:
    """Says what was written and how large it is."""
    sizes = sizes_in(folder)
    for name, size in sizes.items():
        talk(f"  {name:20s} {size / 1e6:7.3f} MB")
    talk(f"  {'in all':20s} {sum(sizes.values()) / 1e6:7.3f} MB in {folder}")
