"""Rows of the reasoning cold start and of GRPO: the emotion question of the paper, with and without what to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_emotion.cues import CUE_BY_NAME, CUES, Thresholds
from edge_emotion.labels import EMOTIONS
from edge_emotion.prompt import Prompt
from edge_emotion_train.augment import clip_seed
from edge_emotion_train.labelling.records import Record
from edge_emotion_train.labelling.rows import Row, assistant_message, user_message

QUESTIONS: tuple[str, ...] = (
    "What is the emotion expressed in this audio clip? Please choose one from the following options: {labels}.",
    "Which emotion does this voice carry, and why? Choose one of: {labels}.",
    "Listen to how this is said. Explain what you hear, then choose the emotion from: {labels}.",
)


def emotion_labels(records: Sequence[Record]) -> tuple[str, ...]:
    """The emotions that occur, in the order of `EMOTIONS`: what the model may choose from."""
    found = {record.emotion for record in records}
    return tuple(emotion for emotion in EMOTIONS if emotion in found)


def emotion_question(record: Record, labels: Sequence[str], seed: int) -> str:
    """One of the wordings of the question, always the same for the same record and seed."""
    rng = np.random.default_rng(clip_seed(f"{seed}\0{record.id}\0emotion", 0))
    return QUESTIONS[int(rng.integers(len(QUESTIONS)))].format(labels=", ".join(labels))


def full_answer(reasoning: str, emotion: str) -> str:
    """What the assistant says: the schema of `edge_emotion.answer`, with the tags of `edge_emotion.prompt`."""
    return "<think>" + Prompt().completion(reasoning, emotion)


def reasoning_row(record: Record, split: str, audio: str, labels: Sequence[str], seed: int) -> Row:
    """A row of the cold start.

    Raises:
        ValueError: The record has no emotion or no reasoning.
    """
    if record.reasoning is None or record.emotion is None:
        raise ValueError(f"{record.id} has no {'emotion' if record.emotion is None else 'reasoning'}")
    return _base(record, split, audio, "reasoning", labels) | {
        "messages": [
            user_message([audio], emotion_question(record, labels, seed)),
            assistant_message(full_answer(record.reasoning.text, record.emotion)),
        ],
        "reasoning": record.reasoning.text,
        "writer": record.reasoning.writer,
        "size": record.reasoning.size,
    }


def grpo_row(
    record: Record, split: str, audio: str, labels: Sequence[str], groups: Mapping[str, Thresholds], seed: int
) -> Row:
    """A GRPO prompt with all that a reward needs to judge a text about the recording."""
    return _base(record, split, audio, "grpo", labels) | {
        "messages": [user_message([audio], emotion_question(record, labels, seed))],
        **measured_fields(record, groups),
        "intonation": record.intonation.shape if record.intonation else None,
        "text": record.text,
    }


def measured_fields(record: Record, groups: Mapping[str, Thresholds]) -> dict[str, Any]:
    """`levels`, `measures` and `thresholds` of a row: every column for every cue, so that all rows are alike."""
    thresholds = record_thresholds(record, groups).to_dict()
    measures = record.measures or {}
    return {
        "levels": {cue.name: level_name(record, cue.name) for cue in CUES},
        "measures": {
            name: measures[name].to_dict() if name in measures else None
            for name in dict.fromkeys(cue.measure for cue in CUES)
        },
        "thresholds": {**thresholds, "cuts": {cue.name: thresholds["cuts"].get(cue.name) for cue in CUES}},
    }


def level_name(record: Record, cue: str) -> str | None:
    """A record's level of a cue, None where it has none."""
    level = (record.levels or {}).get(cue)
    return level.level if level else None


def record_thresholds(record: Record, groups: Mapping[str, Thresholds]) -> Thresholds:
    """The cuts that a record's levels were made with; each cue may be of another group."""
    cuts, sources = {}, dict[str, None]()
    for name, level in (record.levels or {}).items():
        group = groups.get(level.thresholds or "")
        if group is not None and name in group.cuts and name in CUE_BY_NAME:
            cuts[name] = group.cuts[name]
            sources[str(level.thresholds)] = None
    return Thresholds(cuts, ", ".join(sources) or "none")


def _base(record: Record, split: str, audio: str, task: str, labels: Sequence[str]) -> Row:
    return {
        "id": f"{record.id}#{task}",
        "task": task,
        "split": split,
        "speaker": record.speaker,
        "sources": [record.id],
        "audio": [audio],
        "emotion": record.emotion,
        "labels": list(labels),
    }
