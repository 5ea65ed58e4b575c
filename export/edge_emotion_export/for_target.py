"""Exporting for a kind of device: which variants it wants, and what the manifest then says of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_emotion.bundle import MANIFEST_NAME, load_bundle
from edge_emotion.errors import ExportError
from edge_emotion.targets import Target, find_target

from .omni_checkpoint import open_omni
from .omni_graph import PRECISIONS
from .omni_quantise import odd_widths
from .omni_variants import LLM_VARIANTS
from .tensorrt_variants import TENSORRT_PRECISIONS, TensorrtPrecision, add_tensorrt_encoders


def wanted_variants(name: str, odd: Callable[[str], Any] = lambda _: False) -> dict[str, list[str]]:
    """`encoders` and `llms` of a Qwen2.5-Omni export for a target, where the user asked for none.

    Args:
        name: The target.
        odd: Whether a quantisation's blocks do not divide the model's widths, so that it would be no smaller.

    Raises:
        ConfigError: There is no such target.
    """
    target = find_target(name)
    llms = [variant for variant in target.llm_quantisations if variant in LLM_VARIANTS and not odd(variant)]
    return {"encoders": [name for name in target.encoder_precisions if name in PRECISIONS], "llms": llms}


def wanted_for(name: str, checkpoint_folder: Path, adapters: Sequence[Path] = ()) -> dict[str, list[str]]:
    """`wanted_variants` for a checkpoint, whose widths decide which quantisations are worth it."""
    checkpoint = open_omni(checkpoint_folder, adapters)
    return wanted_variants(name, lambda quantisation: odd_widths(checkpoint, quantisation))


@contextmanager
def with_gpu_encoders(name: str, output: Path, clips: Sequence[Path], force: bool) -> Iterator[Path]:
    """A folder to export a bundle to; encoders for the target's GPU are added when the block ends well.

    Raises:
        ExportError: The output is there already, or no encoder for the GPU passed its gate.
        ConfigError: There is no such target.
    """
    wanted = find_target(name).encoder_precisions
    precisions: list[TensorrtPrecision] = [precision for precision in TENSORRT_PRECISIONS if precision in wanted]
    if output.exists() and not force:
        raise ExportError(f"{output} is there already; give --force to replace it, or another --output")
    if output.exists() and not (output / MANIFEST_NAME).is_file():
        raise ExportError(f"{output} is not an earlier export, so it is not replaced; give another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        finished = Path(scratch, "plain")
        yield finished
        if precisions:
            add_tensorrt_encoders(finished, Path(scratch, "complete"), clips, precisions)
            finished = Path(scratch, "complete")
        record_target(finished, find_target(name))
        if output.exists():
            output.rename(Path(scratch, "old"))
        shutil.move(finished, output)


def record_target(bundle_folder: Path, target: Target) -> None:
    """Writes what the bundle was made for into its manifest: `provenance.target`, with providers and their options."""
    manifest = load_bundle(bundle_folder.resolve(), verify=False).manifest
    told = replace(manifest, provenance=dict(manifest.provenance) | {"target": target.to_dict()})
    partial = bundle_folder / f".{MANIFEST_NAME}.{os.getpid()}"
    partial.write_text(told.to_json(), encoding="utf-8")
    partial.replace(bundle_folder / MANIFEST_NAME)
