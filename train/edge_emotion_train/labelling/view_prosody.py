"""Rows of the prosody tasks: which level has a cue, how does the melody move, which words are stressed.

The answers are the measurements of the records. Levels are asked three-way, as the paper does. Where the measured value
is closer to a threshold than it can be measured, the neighbouring level is `accepted` too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edge_emotion.claims import MIN_RELIABILITY
from edge_emotion.cues import CUE_BY_NAME, Cue, Thresholds, distance_outside
from edge_emotion_train.augment import clip_seed
from edge_emotion_train.labelling.records import Record
from edge_emotion_train.labelling.rows import Row, assistant_message, user_message
from edge_emotion_train.labelling.stress import stressed_words

# Task to its cues, the first that has a level counts, and the names of the levels in the question, from low to high.
# Energy is loudness where the gain is known. Elsewhere it is vocal effort, which a microphone's gain does not change:
# who speaks with force sounds sharp (Traunmueller and Eriksson 2000).
LEVEL_TASKS: Mapping[str, tuple[tuple[str, ...], tuple[str, str, str]]] = {
    "pitch_level": (("pitch",), ("low", "medium", "high")),
    "energy_level": (("loudness", "tone"), ("low", "medium", "high")),
    "speed_level": (("rate",), ("slow", "medium", "fast")),
}
INTONATIONS: tuple[str, ...] = ("rising", "falling", "rising-falling", "falling-rising", "flat", "expressive")
MIN_CONFIDENCE = 0.3

QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "pitch_level": (
        "How high is the pitch of this voice? Choose one of: {options}.",
        "Listen to the pitch of the speaker. Is it {alternatives}?",
        "Classify the pitch level of this recording as {alternatives}.",
    ),
    "energy_level": (
        "How much energy is in this voice? Choose one of: {options}.",
        "Listen to how forcefully the speaker talks. Is the energy {alternatives}?",
        "Classify the energy level of this voice as {alternatives}.",
    ),
    "speed_level": (
        "How fast does the speaker talk? Choose one of: {options}.",
        "Listen to the speaking rate. Is it {alternatives}?",
        "Classify the speaking rate of this recording as {alternatives}.",
    ),
    "intonation": (
        "How does the melody of this voice move? Choose one of: {options}.",
        "Describe the intonation of this recording as {alternatives}.",
        "Listen to the pitch contour. Is it {alternatives}?",
    ),
    "stress": (
        'The speaker says: "{text}" Which words are stressed? List them in the order in which they are spoken.',
        'Listen to the sentence "{text}" and name the words that stand out.',
        'Which words does the speaker emphasise in "{text}"? List them in order.',
    ),
}


def prosody_rows(record: Record, split: str, audio: str, groups: Mapping[str, Thresholds], seed: int) -> Iterator[Row]:
    """Every prosody row that a record's measurements allow.

    Args:
        record: Measured and calibrated.
        split: Of the row.
        audio: Path of the recording.
        groups: Thresholds by the keys that `Level.thresholds` names.
        seed: Decides which wording of a question is used.
    """
    for task, (cue_names, names) in LEVEL_TASKS.items():
        cue = next((CUE_BY_NAME[name] for name in cue_names if _has_level(record, name)), None)
        if cue is None:
            continue
        level, value = (record.levels or {})[cue.name], (record.measures or {})[cue.measure].value
        thresholds = groups.get(level.thresholds or "")
        answer = three_way(cue.levels, str(level.level), names)
        near: tuple[str, ...] = ()
        if thresholds and cue.name in thresholds.cuts and value is not None:
            near = accepted_levels(cue, value, thresholds, names)
        yield _row(record, split, audio, task, names, answer, seed) | {
            "accepted": [name for name in names if name == answer or name in near],
            "cue": cue.name,
            "value": value,
            "reliability": level.reliability,
            "thresholds": level.thresholds,
        }
    shape = record.intonation
    if shape and shape.shape in INTONATIONS and shape.confidence >= MIN_CONFIDENCE:
        yield _row(record, split, audio, "intonation", INTONATIONS, shape.shape, seed) | {
            "accepted": [shape.shape],
            "reliability": shape.confidence,
        }
    words = record.words or ()
    spoken = tuple(word.text for word in words)
    stressed = [word.text for word in stressed_words(words)]
    if record.text and 0 < len(stressed) < len(spoken):
        yield _row(record, split, audio, "stress", spoken, ", ".join(stressed), seed) | {
            "accepted": stressed,
            "prominence": [word.prominence for word in words],
        }


def three_way(levels: Sequence[str], level: str, names: Sequence[str]) -> str:
    """Five levels become three by joining each extreme with its neighbour."""
    middle = len(levels) // 2
    index = levels.index(level)
    return names[0] if index < middle else names[1] if index == middle else names[2]


def accepted_levels(cue: Cue, value: float, thresholds: Thresholds, names: Sequence[str]) -> tuple[str, ...]:
    """The three-way answers that a value measured no surer than this allows."""
    near = [level for level in cue.levels if distance_outside(cue, level, value, thresholds) <= cue.uncertainty]
    allowed = {three_way(cue.levels, level, names) for level in near}
    return tuple(name for name in names if name in allowed)


def question(task: str, name: str, seed: int, options: Sequence[str], text: str | None) -> str:
    """One of the wordings of a task's question, always the same for the same name and seed."""
    rng = np.random.default_rng(clip_seed(f"{seed}\0{name}\0{task}", 0))
    wording = QUESTIONS[task][int(rng.integers(len(QUESTIONS[task])))]
    alternatives = f"{', '.join(options[:-1])} or {options[-1]}"
    return wording.format(options=", ".join(options), alternatives=alternatives, text=text)


def answered(text: str) -> str:
    """An answer as the assistant gives it, for the parser of `edge_emotion.answer`."""
    return f"<answer>{text}</answer>"


def _has_level(record: Record, name: str) -> bool:
    level = (record.levels or {}).get(name)
    measure = (record.measures or {}).get(CUE_BY_NAME[name].measure)
    if level is None or level.level is None or measure is None or measure.value is None:
        return False
    return level.reliability >= MIN_RELIABILITY


def _row(
    record: Record, split: str, audio: str, task: str, options: Sequence[str], answer: str, seed: int
) -> Row:  # fmt: skip
    asked = question(task, record.id, seed, options, record.text)
    return {
        "id": f"{record.id}#{task}",
        "task": task,
        "split": split,
        "speaker": record.speaker,
        "sources": [record.id],
        "audio": [audio],
        "messages": [user_message([audio], asked), assistant_message(answered(answer))],
        "answer": answer,
        "options": list(options),
    }
