"""`edge-emotion analyze`: recordings in, emotions and reasons out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from edge_emotion.cli.terminal import explain_unexpected, results_console, talk, talk_console
from edge_emotion.cli.writers import FORMATS, ResultFolder, to_json_line
from edge_emotion.errors import EdgeEmotionError

if TYPE_CHECKING:
    from rich.console import Console

    from edge_emotion.result import EmotionResult
    from edge_emotion_runtimes.analyzer import Analyzer


def _check_formats(_: Any, value: str | None) -> None:
    unknown = [] if value is None else [name for name in value.split(",") if name not in FORMATS]
    if unknown:
        raise ValueError(f"{unknown[0]!r}: known formats are {', '.join(FORMATS)}")


Flag = Parameter(negative="", show_default=False)


def analyze(
    files: Annotated[list[Path], Parameter(negative="")],
    /,
    *,
    json: Annotated[bool, Flag] = False,
    bundle: str = "nano",
    fast: Annotated[bool, Flag] = False,
    encoder: str = "auto",
    llm: str = "auto",
    strict: Annotated[bool, Flag] = False,
    self_check: Annotated[bool, Flag] = False,
    base: Path | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    formats: Annotated[str | None, Parameter(name=["--format", "-f"], validator=_check_formats)] = None,
    force: Annotated[bool, Flag] = False,
) -> int:
    """Tell which emotion each recording carries, how sure, why, and whether the why is true.

    Parameters
    ----------
    files
        Recordings: wav, flac, ogg or mp3, any rate and channels.
    json
        Print one JSON object per recording and line.
    bundle
        Name of a bundle that came with the package, or a folder.
    fast
        Only the label, by the encoder alone: no explanation.
    encoder
        Encoder variant, for example int8 or fp32.
    llm
        Language-model runtime (onnxruntime, llama.cpp) or variant, for example int8 or Q8_0; none for the encoder
        alone.
    strict
        Fail where something else than what was asked for would run.
    self_check
        Replay the bundle's golden clips first, and stop where this device computes something else.
    base
        Base language model of a bundle of adapters (small), where it is neither installed nor in the cache folder.
    output
        Folder for result files.
    formats
        What to write there: json (the default, one file per recording), jsonl, csv; several with commas.
    force
        Replace result files that exist.
    """
    # NumPy reads it when it is imported: threads that nothing here needs cost 0.2 s to start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import edge_emotion

    if formats is not None and output is None:
        talk("error: --format says what to write into a folder; name the folder with --output")
        return 2
    folder = ResultFolder(output, (formats or "json").split(","), files, force) if output else None
    failures: list[tuple[Path, str]] = []
    show: Callable[[EmotionResult], None] = _print_json
    console = None
    if not json:
        console = results_console()
        show = partial(_print_for_people, console, brief=folder is not None)
    watched = console if len(files) == 1 and not fast else None
    try:
        with (
            edge_emotion.load(
                bundle,
                encoder=encoder,
                llm="none" if fast else llm,
                strict=strict,
                self_check=self_check,
                base=base,
            ) as analyzer,
            _progress(len(files)) as pause,
        ):
            for index, file in enumerate(files):
                outcome = _analyze_one(analyzer, file, explain=not fast, console=watched)
                with pause():
                    if isinstance(outcome, str):
                        failures.append((file, outcome))
                        continue
                    show(outcome)
                if folder:
                    folder.add(index, outcome)
    finally:
        if folder:
            folder.close()
    return _report(failures, len(files))


def _analyze_one(analyzer: Analyzer, file: Path, *, explain: bool, console: Console | None) -> EmotionResult | str:
    """The result, or what went wrong with this recording: the others are still to be answered."""
    try:
        with _words_as_they_come(console) as on_text:
            return analyzer.analyze(file, explain=explain, on_text=on_text)
    except EdgeEmotionError as error:
        return str(error)
    except Exception as error:
        return explain_unexpected(error)


def _print_json(result: EmotionResult) -> None:
    print(to_json_line(result), flush=True)


def _print_for_people(console: Console, result: EmotionResult, *, brief: bool) -> None:
    from edge_emotion.cli.render import render_line, render_result

    console.print(render_line(result) if brief else render_result(result, console), soft_wrap=brief)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], Any]]:
    """A bar on stderr where a person watches and there is something to wait for.

    Yields:
        A function that gives a context in which the bar is away, so that results can be printed and then count.
    """
    if total < 2 or not sys.stderr.isatty():
        yield nullcontext
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("analysing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=talk_console(), transient=True, redirect_stdout=False, redirect_stderr=False)
    task = bar.add_task("", total=total)

    @contextmanager
    def pause() -> Iterator[None]:
        bar.stop()
        yield
        bar.advance(task)
        bar.start()

    bar.start()
    try:
        yield pause
    finally:
        bar.stop()


@contextmanager
def _words_as_they_come(console: Console | None) -> Iterator[Callable[[str], None] | None]:
    """Shows the reasoning while it is written, then clears it for the finished one with its claims marked."""
    if console is None or not console.is_terminal:
        yield None
        return
    from rich.live import Live
    from rich.padding import Padding
    from rich.text import Text

    text = Text(style="italic")
    with Live(Padding(text, (1, 2)), console=console, transient=True, auto_refresh=False) as live:

        def on_text(piece: str) -> None:
            text.append(piece)
            live.refresh()

        yield on_text


def _report(failures: Sequence[tuple[Path, str]], total: int) -> int:
    if not failures:
        return 0
    if total > 1:
        talk(f"{len(failures)} of {total} recordings could not be analysed:")
    for file, message in failures:
        # Most messages name the file already.
        talk(f"error: {message}" if str(file) in message else f"error: {file}: {message}")
    return 1
