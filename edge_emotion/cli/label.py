"""`edge-emotion label`: the data engine, a command per step, each a thin layer over `edge_emotion_train.labelling`."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from edge_emotion.cli import label_views, label_write
from edge_emotion.cli.extras import import_from_extra
from edge_emotion.cli.processors import process_count
from edge_emotion.cli.terminal import printable, results_console, talk
from edge_emotion.errors import EdgeEmotionError

if TYPE_CHECKING:
    from edge_emotion_train.labelling.engine import Counts

app = App(
    name="label",
    help='Recordings to measured, levelled, explained and checked emotion data (needs the extra "train").',
)
app.command(label_write.write)
app.command(label_views.view)
app.command(label_views.convert)
Flag = Parameter(negative="", show_default=False)
Output = Parameter(name=["--output", "-o"])


def labelling(module: str) -> ModuleType:
    """A module of the data engine."""
    return import_from_extra(f"edge_emotion_train.labelling.{module}", extra="train")


@app.command
def measure(
    sources: Annotated[list[str], Parameter(negative="")],
    /,
    *,
    output: Annotated[Path, Output],
    language: str | None = None,
    align: bool = True,
    processes: Annotated[int, Parameter(name=["--processes", "-p"])] = 1,
    ray: Annotated[bool, Flag] = False,
    shard: str | None = None,
    retry_failed: Annotated[bool, Flag] = False,
    force: Annotated[bool, Flag] = False,
    json: Annotated[bool, Flag] = False,
) -> int:
    """Measure pitch, rate, energy, voice and melody of every clip. Interrupted, it goes on where it was.

    Parameters
    ----------
    sources
        [NAME=]PATH: the folder of a corpus that is known by its name, a table of clips (.jsonl, .csv), a folder of
        recordings, or one recording.
    output
        Folder for measured.jsonl, errors.jsonl and run.json.
    language
        ISO 639 code of the speech, where a source does not tell.
    align
        Find when each word is spoken where the text is known and English.
    processes
        Processes of this machine; 0 for as many as it has processors.
    ray
        Run on a Ray cluster (RAY_ADDRESS), or on this machine through Ray (needs the extra "ray").
    shard
        I/N: only the I-th of N parts, each into its own folder; their outputs one after the other are the whole.
    retry_failed
        Try clips again that failed in an earlier run.
    force
        Throw away what this folder holds of an earlier run.
    json
        Print the counts as one JSON document.
    """
    sources_module, steps = labelling("sources"), labelling("steps")
    specs = [sources_module.SourceSpec.parse(text) for text in sources]
    counts = steps.measure(
        sources_module.read_sources(specs, language), output, align=align, processes=process_count(processes), ray=ray,
        shard=parse_shard(shard), retry_failed=retry_failed, force=force,
    )  # fmt: skip
    return report_counts(counts, output, ("source", "measure"), json)


@app.command
def calibrate(
    inputs: Annotated[list[Path], Parameter(negative="")],
    /,
    *,
    output: Annotated[Path | None, Output] = None,
    thresholds: Path | None = None,
    speaker_clips: int | None = None,
    corpus_clips: int | None = None,
    held_out: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    same_gain: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    force: Annotated[bool, Flag] = False,
    json: Annotated[bool, Flag] = False,
) -> int:
    """Tell how high, fast, clear... each measured clip is, against its speaker, its corpus or a population.

    Parameters
    ----------
    inputs
        Folders that `label measure` wrote, or their measured.jsonl.
    output
        Folder for levelled.jsonl and thresholds.json; the input's own where there is one input folder.
    thresholds
        Use this thresholds.json rather than find thresholds in these clips: for a few new clips, or a single one.
    speaker_clips
        Fewest clips for a speaker's own thresholds (20).
    corpus_clips
        Fewest clips for a corpus's thresholds (50).
    held_out
        Test speakers: their clips count for nobody's thresholds but their own.
    same_gain
        Corpora recorded with one gain throughout and not normalised: only there loudness is told, for each speaker.
    force
        Replace other levels and thresholds.
    json
        Print the counts as one JSON document.
    """
    steps = labelling("steps")
    folder = output_folder(inputs, output)
    least = {"speaker_clips": speaker_clips, "corpus_clips": corpus_clips}
    counts = steps.calibrate(
        inputs, folder, thresholds=thresholds, held_out=held_out or (), same_gain=same_gain or (), force=force,
        **{name: value for name, value in least.items() if value is not None},
    )  # fmt: skip
    return report_counts(counts, folder, ("calibrate",), json)


@app.command
def report(
    folder: Path,
    /,
    *,
    output: Annotated[Path, Output],
    thresholds: Path | None = None,
    examples: int = 3,
    audio: Annotated[bool, Flag] = False,
    force: Annotated[bool, Flag] = False,
    json: Annotated[bool, Flag] = False,
) -> int:
    """Show a labelled data set on one HTML page: what is in it, how sure it is, and what deserves a second look.

    Parameters
    ----------
    folder
        Folder that the steps of `label` wrote; the last step's records are shown.
    output
        The HTML file; it is complete in itself.
    thresholds
        The thresholds.json that the levels were made with, where it lies elsewhere.
    examples
        Clips of each emotion that are drawn over time.
    audio
        Put the sound of these clips into the page, to be played there.
    force
        Replace a file that is there.
    json
        Print what was written as one JSON document.
    """
    written = labelling("report").write_report(
        folder, output, thresholds=thresholds, examples=examples, audio=audio, force=force
    )
    if json:
        print(json_text.dumps(written))
    else:
        about = f"{written['clips']:,} clips, {written['examples']} drawn, {written['bytes'] / 1e6:.1f} MB"
        results_console().print(f"{output}: {about}", markup=False, soft_wrap=True)
    for problem in written["problems"]:
        talk(f"not drawn in full: {problem}")
    return int(bool(written["problems"]))


def output_folder(inputs: list[Path], output: Path | None) -> Path:
    """Where a step that reads what another wrote puts its own output.

    Raises:
        EdgeEmotionError: It must be said.
    """
    if output is not None:
        return output
    if len(inputs) == 1 and inputs[0].is_dir():
        return inputs[0]
    if len(inputs) == 1 and not inputs[0].exists():
        raise EdgeEmotionError(f"{inputs[0]} does not exist; give a folder that an earlier step wrote")
    raise EdgeEmotionError("several inputs, or a file: say with --output in which folder the result shall be")


def parse_shard(text: str | None) -> tuple[int, int]:
    """(i, n) of "i/n".

    Raises:
        EdgeEmotionError: It is something else.
    """
    if text is None:
        return 1, 1
    try:
        number, of = (int(part) for part in text.split("/"))
    except ValueError:
        number, of = 0, 0
    if not 1 <= number <= of:
        raise EdgeEmotionError(f"--shard {text}: give I/N with 1 <= I <= N, for example 2/8")
    return number, of


def report_counts(counts: Counts, folder: Path, steps: tuple[str, ...], json: bool) -> int:
    """Prints what became of the clips; 1 if any was lost."""
    if json:
        print(json_text.dumps({"folder": str(folder), **counts.to_dict()}))
        return int(counts.failed > 0)
    from rich.table import Table
    from rich.text import Text

    console = results_console()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column()
    rows: list[tuple[int, Any]] = [
        (counts.total, "clips"),
        (counts.out, f"records in {folder / counts.output}"),
        (counts.failed, "clips lost"),
        (counts.fields_lost, "fields missing in records"),
        (counts.skipped, "taken over from an earlier run"),
    ]
    for count, what in rows:
        table.add_row(f"{count:,}", Text(what))
    console.print(table)
    if counts.failed or counts.fields_lost:
        found, more = labelling("steps").causes(folder, steps)
        talk(f"why, in full in {folder / 'errors.jsonl'}:")
        for lost, example, count in found:
            what = "clip" if lost is None else lost
            talk(f"  {count:,} x {what}, for example {printable(example)}")
        if more:
            talk(f"  and {more} other causes")
    return int(counts.failed > 0)
