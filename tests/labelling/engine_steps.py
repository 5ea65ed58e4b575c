"""Steps that the tests of the engine run, here because processes must be able to import them."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

from edge_emotion.errors import EdgeEmotionError
from edge_emotion_train.labelling.records import Failure, Outcome, Record
from edge_emotion_train.labelling.workers import StopRun


def records(count: int) -> list[Record]:
    return [Record(id=f"corpus/{number:04d}", audio=f"/{number}.wav", corpus="corpus") for number in range(count)]


def add_text(record: Record) -> Record | Outcome:
    """Fails for every tenth record, and loses a field for every seventh."""
    number = int(record.id[-4:])
    if number % 10 == 9:
        raise EdgeEmotionError(f"{record.id} is bad")
    done = replace(record, text=f"text {number}")
    if number % 7 == 3:
        return Outcome(done, (Failure(record.id, "step", "no words", lost="words"),))
    return done


def add_text_slowly(record: Record) -> Record | Outcome:
    """As `add_text`, slow enough to be interrupted, in an order that is not the source's."""
    time.sleep(0.002 * (1 + hash(record.id) % 3))
    return add_text(record)


def die_at_13(record: Record) -> Record | Outcome:
    if record.id.endswith("0013"):
        os.kill(os.getpid(), 9)
    return add_text(record)


def stop_at_13(record: Record) -> Record | Outcome:
    if record.id.endswith("0013"):
        raise StopRun("the budget of 1 dollar is spent")
    return add_text(record)


def note_call(folder: Path, record: Record) -> Record:
    """Leaves a line for every call."""
    with (folder / "calls").open("a") as file:
        file.write(record.id + "\n")
    return replace(record, text="called")
