"""`edge-emotion export`: hands a trained checkpoint to `edge_emotion_export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from edge_emotion.cli.extras import import_from_extra


def export(
    part: Literal["all", "encoder", "llm"] = "all",
    /,
    *,
    checkpoint: Path,
    clips: Annotated[list[Path], Parameter(negative="", consume_multiple=True)],
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    name: str = "nano",
    bundle_version: str | None = None,
    force: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> int:
    """Write a bundle from a checkpoint, each file only after parity with its parent (needs the extra "export").

    Parameters
    ----------
    part
        What to write: a whole bundle, or one half of it.
    checkpoint
        Folder that training wrote.
    clips
        Recordings, or folders of them, that parity is measured on.
    output
        Folder of the bundle.
    name
        Name of the bundle.
    bundle_version
        Version of the bundle; the package's by default.
    force
        Replace a bundle that is there.
    """
    exporter = import_from_extra("edge_emotion_export.export", extra="export")
    return exporter.main(
        part, checkpoint=checkpoint, output=output, clips=clips, force=force, name=name, version=bundle_version
    )
