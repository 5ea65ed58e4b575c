"""Where the command line writes: results to stdout, talk to stderr."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

DEBUG_VARIABLE = "EDGE_EMOTION_DEBUG"


def results_console() -> Console:
    """A console on stdout; colours only where a terminal shows them."""
    from rich.console import Console

    return Console(highlight=False, emoji=False)


def talk_console() -> Console:
    """A console on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, emoji=False)


def talk(message: str) -> None:
    """Prints a message on stderr."""
    print("\n".join(map(printable, message.splitlines())), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text without characters that could steer a terminal: each becomes a space or a replacement character."""
    return "".join(
        character if character.isprintable() else " " if character.isspace() else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


def explain_unexpected(error: Exception) -> str:
    """One line about an error that nobody foresaw; with EDGE_EMOTION_DEBUG set, its traceback goes to stderr too."""
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error, file=sys.stderr)
    return (
        f"unexpected {type(error).__name__}: {error} (a bug: please report it; {DEBUG_VARIABLE}=1 shows the traceback)"
    )
