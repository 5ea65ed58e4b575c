"""Entry point of `edge-emotion`: the list of commands, and what becomes of errors and exit codes."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from edge_emotion.cli import analyze, bundle, doctor, export, label, plan, train, verify
from edge_emotion.cli.terminal import explain_unexpected, talk
from edge_emotion.errors import EdgeEmotionError


def _version() -> str:
    from edge_emotion import __version__

    return f"edge-emotion {__version__}"


app = App(
    name="edge-emotion",
    help="Tells which emotion a voice carries, how sure that is, why, and whether the why is true. Works offline.",
    version=_version,
    suppress_keyboard_interrupt=False,
)
app.command(analyze.analyze)
app.command(verify.verify)
app.command(bundle.app)
app.command(doctor.doctor)
app.command(plan.plan)
app.command(label.app)
app.command(train.train)
app.command(export.export)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: What follows the program's name; None takes it from the command line.

    Returns:
        Exit code: 0 all went well, 1 an input or a check failed, 2 wrong usage, 130 interrupted.
    """
    try:
        code = app(arguments, exit_on_error=False, result_action="return_value")
        sys.stdout.flush()
        return int(code or 0)
    except CycloptsError:  # cyclopts has printed it
        return 2
    except (EdgeEmotionError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # The reader of stdout has gone; Python would complain once more when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        talk(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        talk("interrupted")
        return 130
    except Exception as error:
        talk(f"error: {explain_unexpected(error)}")
        return 1


def main() -> None:
    """Console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may hold what the terminal cannot write
    sys.exit(run())
