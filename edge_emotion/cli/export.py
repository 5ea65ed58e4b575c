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
    name: str | None = None,
    bundle_version: str | None = None,
    base: Path | None = None,
    target: Literal["cpu", "desktop-cuda", "jetson-orin-nano", "jetson-agx-orin", "jetson-thor"] | None = None,
    force: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    adapters: Annotated[list[Path] | None, Parameter(name="--adapter", negative="")] = None,
    encoders: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    llms: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    importance: Annotated[bool, Parameter(show_default=False)] = True,
    keep_failing: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> int:
    """Write a bundle from a checkpoint, each file only after parity with its parent (needs the extra "export").

    Parameters
    ----------
    part
        What to write: a whole bundle, or one half of it.
    checkpoint
        Folder that training wrote; or that of a Qwen2.5-Omni model such as ddwang2000/EmotionThinker, or of a LoRA
        adapter of one.
    clips
        Recordings, or folders of them, that parity is measured on.
    output
        Folder of the bundle.
    name
        Name of the bundle: nano, or for a Qwen2.5-Omni the name of the output folder.
    bundle_version
        Version of the bundle; the package's by default.
    base
        Base language model of a checkpoint of adapters, where it is neither installed nor in the cache folder.
    target
        Kind of device: chooses the variants that suit it, adds encoders for its GPU, and is recorded in the manifest.
    force
        Replace a bundle that is there.
    adapters
        Qwen2.5-Omni: LoRA adapter to merge; may be given several times.
    encoders
        Qwen2.5-Omni: precisions of the audio tower among fp32, fp16, int8; all by default.
    llms
        Qwen2.5-Omni: quantisations of the language model among F16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, IQ4_NL; Q8_0 and, where
        the widths suit it, Q4_K_M by default.
    importance
        Qwen2.5-Omni: quantise without looking at what matters on the clips with --no-importance.
    keep_failing
        Qwen2.5-Omni: also write variants that are below their gate, marked.
    """
    given = {"adapters": adapters, "encoders": encoders, "llms": llms}
    full_size = {option: value for option, value in given.items() if value is not None}
    full_size |= {"importance": False} if not importance else {}
    full_size |= {"keep_failing": True} if keep_failing else {}
    full_size |= {"target": target} if target else {}
    full_size |= {"base": base} if base else {}
    exporter = import_from_extra("edge_emotion_export.export", extra="export")
    return exporter.main(
        part,
        checkpoint=checkpoint,
        output=output,
        clips=clips,
        force=force,
        name=name,
        version=bundle_version,
        **full_size,
    )
