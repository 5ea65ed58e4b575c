"""The rows of every training view, and `read_view`, which loads them.

A view is a folder: `train.jsonl`, `validation.jsonl`, `test.jsonl` with one row a line, `view.json` (counts, seed,
hashes, proof of the split) and, where the view makes sound of its own, `audio/`. Every row has

    id        unique in the view
    task      `pitch_level`, `energy_level`, `speed_level`, `intonation`, `stress`, `order_pitch`, `order_energy`,
              `order_speed`, `reasoning`, `grpo`, `reward`
    split     `train`, `validation`, `test`
    speaker   unique over corpora, None where unknown (such rows are training rows)
    sources   ids of the records it is made of
    audio     paths, in the order of the audio parts of `messages`
    messages  [{"role": "user" | "assistant", "content": [{"type": "audio", "path": P}, {"type": "text", "text": T}]}]

and, by task,

    levels, intonation, stress
              `answer` (the text inside `<answer>`), `options`, `accepted` (options that a measurement this uncertain
              allows; `answer` is one of them), `cue`, `value`, `reliability`, `thresholds` (key of the group)
    order_*   `answer` ("low, high, medium"), `options`, `variants`: per variant in the order heard `place`, `asked`,
              `measured`, `start_s`, `end_s`; `unit` of asked and measured
    reasoning `emotion`, `labels`, `reasoning`, `writer`, `size`; the assistant says
              `<think>reasoning</think><answer>emotion</answer>`
    grpo      no assistant message; `emotion`, `labels`, `levels` (cue to level), `measures` (name to a `Measure`),
              `thresholds` ({"cuts", "source"}), `intonation`, `text`; `checker_inputs(row)` gives what the claim
              checker takes
    reward    `reasoning` at controlled quality, `scores` (the four dimensions, 1-5), `targets` (what was aimed at),
              `measured` (share of supported claims, ...), `emotion`, `lender` (id of the record whose reasoning was
              borrowed); the assistant says the scores as JSON

A column that some rows of a data set lack reads as None once it went through Arrow; `checker_inputs` allows for that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_emotion.cues import Thresholds
from edge_emotion.errors import CorpusError
from edge_emotion.prosody.records import Contour, Measure, Prosody

SPLITS: tuple[str, ...] = ("train", "validation", "test")
Row = dict[str, Any]


def read_view(path: str | Path, split: str) -> list[Row]:
    """The rows of one split, ready to use: paths of sound that the view made itself are resolved.

    Args:
        path: The view's folder.
        split: One of `SPLITS`.

    Raises:
        CorpusError: No such split, the folder is no view, or a line of it is no row.
    """
    if split not in SPLITS:
        raise CorpusError(f"no split {split!r}; splits are {', '.join(SPLITS)}")
    folder = Path(path)
    file = folder / f"{split}.jsonl"
    if not file.is_file():
        raise CorpusError(f"{folder} has no {split}.jsonl; make the view with `edge-emotion label view`")
    rows = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                rows.append(resolve_audio(row, folder))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CorpusError(f"{file}, line {number}: not a row of a view ({error}); make the view anew") from None
    return rows


def resolve_audio(row: Row, folder: Path) -> Row:
    """The row with every relative audio path put below the view's folder."""
    messages = [
        {
            **message,
            "content": [
                {**part, "path": str(folder / part["path"])} if part["type"] == "audio" else part
                for part in message["content"]
            ],
        }
        for message in row["messages"]
    ]
    return {**row, "audio": [str(folder / name) for name in row["audio"]], "messages": messages}


def user_message(audio: Sequence[str], text: str) -> dict[str, Any]:
    """What is asked: the recordings, then the question."""
    return {"role": "user", "content": [*({"type": "audio", "path": path} for path in audio), text_part(text)]}


def assistant_message(text: str) -> dict[str, Any]:
    """What is to be said."""
    return {"role": "assistant", "content": [text_part(text)]}


def text_part(text: str) -> dict[str, str]:
    """A text part of a message."""
    return {"type": "text", "text": text}


def as_prompt_and_completion(row: Row) -> Row:
    """The row with `prompt` and `completion` in place of `messages`, the columns that trl's trainers take.

    `completion` is missing where the view has no assistant message (`grpo`).
    """
    asked = [message for message in row["messages"] if message["role"] != "assistant"]
    said = [message for message in row["messages"] if message["role"] == "assistant"]
    rest = {key: value for key, value in row.items() if key != "messages"}
    return {**rest, "prompt": asked, **({"completion": said} if said else {})}


def checker_inputs(row: Mapping[str, Any]) -> tuple[Prosody, Thresholds]:
    """What `edge_emotion.claims.check_claims` takes beside the claims, from a `grpo` row."""
    nothing = np.zeros(0)
    measures = {name: Measure(**measure) for name, measure in row["measures"].items() if measure is not None}
    cuts = {name: value for name, value in row["thresholds"]["cuts"].items() if value is not None}
    return Prosody(measures, Contour(nothing, nothing, nothing)), Thresholds.from_dict(
        {"cuts": cuts, "source": row["thresholds"]["source"]}
    )
