"""The steps of the data engine as functions on folders: `measure`, then `calibrate`. `write` is in its own module."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from edge_emotion.errors import LabellingError

from .calibrate import CORPUS_CLIPS, SPEAKER_CLIPS, Levelling, ThresholdGroups, fit_groups
from .engine import Counts, Source, run_step
from .measure import Measuring, file_state
from .records import RecordFile
from .store import write_atomically

MEASURED, LEVELLED, LABELLED = "measured.jsonl", "levelled.jsonl", "labelled.jsonl"
THRESHOLDS, ERRORS = "thresholds.json", "errors.jsonl"


def measure(
    source: Source,
    folder: Path,
    *,
    align: bool = True,
    processes: int = 1,
    ray: bool = False,
    shard: tuple[int, int] = (1, 1),
    retry_failed: bool = False,
    force: bool = False,
    progress: bool = True,
) -> Counts:
    """Measures every clip of a source into `measured.jsonl`; see `run_step` for what may be raised.

    Args:
        source: From `read_sources`.
        folder: Of the outputs.
        align: Find the times of words where the text is known and English.
        processes: Processes of this machine.
        ray: Through Ray Data.
        shard: (i, n): only the i-th of n parts.
        retry_failed: Try clips again that failed before.
        force: Throw away what was measured before.
        progress: A bar on stderr.
    """
    step = Measuring(align)
    return run_step(
        "measure", step, source, folder, MEASURED, step.settings, processes=processes, ray=ray, fingerprint=file_state,
        shard=shard, retry_failed=retry_failed, force=force, progress=progress,
    )  # fmt: skip


def calibrate(
    inputs: Sequence[Path],
    folder: Path,
    *,
    thresholds: Path | None = None,
    speaker_clips: int = SPEAKER_CLIPS,
    corpus_clips: int = CORPUS_CLIPS,
    held_out: Iterable[str] = (),
    same_gain: Iterable[str] = (),
    force: bool = False,
    progress: bool = True,
) -> Counts:
    """Tells the level of every cue of measured clips into `levelled.jsonl`, and writes `thresholds.json` beside it.

    Args:
        inputs: Folders or files that `measure` wrote.
        folder: Of the outputs.
        thresholds: A `thresholds.json` to use, rather than finding thresholds in these clips.
        speaker_clips: Fewest clips for a speaker's own thresholds.
        corpus_clips: Fewest clips for those of a corpus.
        held_out: Speakers whose clips count for nobody's thresholds but their own.
        same_gain: Corpora in which a speaker's level says how loud they spoke.
        force: Replace other levels and thresholds.
        progress: A bar on stderr.

    Raises:
        LabellingError: An input is missing, the folder holds other levels, or cannot be written.
    """
    records = record_files(inputs, MEASURED)
    if thresholds is not None:
        groups = ThresholdGroups.read(thresholds)
    else:
        groups = fit_groups(records, speaker_clips, corpus_clips, held_out, same_gain)
    step = Levelling(groups)
    target, content = folder / THRESHOLDS, groups.to_json()
    if not force and target.exists() and target.read_text(encoding="utf-8") != content:
        raise LabellingError(
            f"{target} holds other thresholds, from other clips or settings; give --thresholds {target} to use them, "
            "--force to replace them and the levels, or another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content)
    return run_step("calibrate", step, records, folder, LEVELLED, step.settings, force=force, progress=progress)


def record_files(inputs: Sequence[Path], *names: str) -> RecordFile:
    """The records of folders, in which the first of `names` that exists counts, or of files.

    Raises:
        LabellingError: An input does not exist or holds none of the names.
    """
    paths = []
    for given in inputs:
        found = [given] if given.is_file() else [given / name for name in names if (given / name).is_file()]
        if not found:
            what = "does not exist" if not given.exists() else f"holds no {' or '.join(names)}"
            raise LabellingError(f"{given} {what}; give a folder that an earlier step of `edge-emotion label` wrote")
        paths.append(found[0])
    return RecordFile(tuple(paths))


def causes(folder: Path, steps: Sequence[str], shown: int = 5) -> tuple[list[tuple[str | None, str, int]], int]:
    """The most frequent causes of failure: lost field or None for the clip, an example, count; and how many more."""
    found: Counter[tuple[str | None, str]] = Counter()
    example: dict[tuple[str | None, str], str] = {}
    try:
        with (folder / ERRORS).open(encoding="utf-8") as lines:
            for line in lines:
                failure = json.loads(line)
                if failure["step"] in steps:
                    # Causes that differ in a name or number are alike.
                    kind = re.sub(r"\d+", "#", failure["cause"])[-40:]
                    found[failure["lost"], kind] += 1
                    example.setdefault((failure["lost"], kind), f"{failure['id']}: {failure['cause']}")
    except OSError:
        return [], 0
    most = found.most_common(shown)
    return [(key[0], example[key], count) for key, count in most], len(found) - len(most)
