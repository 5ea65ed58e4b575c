"""`edge-emotion label view` and `label convert`: training views of labelled records, and the formats of others."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from edge_emotion.cli.extras import import_from_extra
from edge_emotion.cli.terminal import printable, results_console, talk

Flag = Parameter(negative="", show_default=False)
Names = Parameter(negative="", consume_multiple=True)
Output = Parameter(name=["--output", "-o"])
SHOWN = 5


def view(
    name: str,
    folder: Path,
    /,
    *,
    output: Annotated[Path, Output],
    seed: int = 0,
    test_speakers: Annotated[list[str] | None, Names] = None,
    validation_speakers: Annotated[list[str] | None, Names] = None,
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
    source_splits: Annotated[bool, Flag] = False,
    thresholds: Path | None = None,
    processes: Annotated[int, Parameter(name=["--processes", "-p"])] = 1,
    force: Annotated[bool, Flag] = False,
    json: Annotated[bool, Flag] = False,
) -> int:
    """Make a training view of labelled clips: prosody, ordering, reasoning, grpo or reward. Nobody is in two splits.

    Parameters
    ----------
    name
        prosody (levels, intonation, stressed words), ordering (three edited variants of one sentence), reasoning (cold
        start), grpo (questions with what a reward needs) or reward (reasoning at controlled quality with scores).
    folder
        Folder that the steps of `label` wrote.
    output
        Folder for train.jsonl, validation.jsonl, test.jsonl, view.json and sound that the view makes.
    seed
        Decides the split, the wording of questions and every edit.
    test_speakers
        Speakers of the test; nobody else is drawn for it then.
    validation_speakers
        Speakers of the validation; nobody else is drawn for it then.
    shares
        Shares of clips for training, validation and test, where speakers are drawn.
    source_splits
        Keep the corpus's own split of its speakers.
    thresholds
        The thresholds.json that the levels were made with, where it lies elsewhere.
    processes
        Processes of this machine.
    force
        Replace a view that is there.
    json
        Print view.json as one line.
    """
    views = import_from_extra("edge_emotion_train.labelling.views", extra="train")
    records, groups = views.read_labelled(folder, thresholds)
    about = views.write_view(
        name, records, groups, output, seed=seed, test_speakers=test_speakers or (),
        validation_speakers=validation_speakers or (), shares=dict(zip(views.SPLITS, shares, strict=True)),
        use_source_splits=source_splits, processes=processes, force=force, progress=True,
    )  # fmt: skip
    if json:
        print(json_text.dumps(about))
        return 0
    console = results_console()
    for split, counts in about["rows"].items():
        tasks = ", ".join(f"{task} {count:,}" for task, count in counts.items())
        speakers = about["split"]["speaker_count"][split]
        console.print(f"{split}: {speakers} speakers; {tasks or 'no rows'}", markup=False, soft_wrap=True)
    console.print("proof: no speaker and no sentence-take is in two splits", markup=False)
    for note in about["split"]["notes"]:
        talk(note)
    for cause, found in list(about["problems"].items())[:SHOWN]:
        talk(f"{found['count']:,} x {printable(cause)}, for example {printable(found['examples'][0])}")
    return 0


def convert(
    source: Path,
    output: Path,
    /,
    *,
    from_: Annotated[str, Parameter(name="--from")],
    to: str,
    link: Annotated[bool, Flag] = False,
    force: Annotated[bool, Flag] = False,
    json: Annotated[bool, Flag] = False,
) -> int:
    """Convert labelled clips between formats. Nothing is lost: what a format cannot hold travels in one more column.

    Parameters
    ----------
    source
        A file, or the folder of an audiofolder.
    output
        A file, or the folder of an audiofolder.
    from_
        records, emotioncot, messages, ms-swift, audiofolder or audformat.
    to
        The same.
    link
        To audiofolder: link to the recordings rather than copy them.
    force
        Replace what is there.
    json
        Print the counts as one JSON document.
    """
    formats = import_from_extra("edge_emotion_train.labelling.formats", extra="train")
    formats.check_format(to)
    read = formats.read_format(source, from_)
    lost = formats.write_format(read.records, output, to, force=force, link=link)
    failures = [*read.failures, *lost]
    bad = sum(failure.lost is None for failure in failures)
    counts = {"written": len(read.records) - len(lost), "failed": bad, "fields_lost": len(failures) - bad}
    if json:
        print(json_text.dumps({"output": str(output), **counts}))
    else:
        results_console().print(f"{counts['written']:,} records in {output}", markup=False, soft_wrap=True)
    for failure in failures[:SHOWN]:
        talk(printable(f"{failure.id}: {failure.cause}"))
    if len(failures) > SHOWN:
        talk(f"and {len(failures) - SHOWN} more")
    return int(bad > 0)
