"""EmotionCoT's JSONL: one clip a line with three-way levels and the reasoning in `cot_analysis`.

Read under every name that its released files and its API script use (`field_names`, and below); written under those of
the data set's card. Levels of five steps are shown in three; the full ones are in the column for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_emotion.claims import MIN_RELIABILITY

from .field_names import FIELD_NAMES
from .records import IntonationShape, Level, Outcome, Reasoning, Record
from .sources import record_of
from .stress import stressed_words

CORPUS = "emotioncot"
# Our names to EmotionCoT's; boredom has none there and keeps ours.
EMOTION_NAMES: Mapping[str, str] = {
    "anger": "angry", "happiness": "happy", "sadness": "sad", "disgust": "contempt/disgust",
}  # fmt: skip
# Field to cue, and EmotionCoT's names of its levels from low to high with ours.
LEVEL_FIELDS: Mapping[str, tuple[str, tuple[tuple[str, tuple[str, ...]], ...]]] = {
    "pitch_level": ("pitch", (("low", ("low", "very low")), ("normal", ("medium",)), ("high", ("high", "very high")))),
    "energy_level": ("loudness", (("low", ("quiet",)), ("normal", ("medium",)), ("high", ("loud",)))),
    "speed_level": ("rate", (("slow", ("slow",)), ("normal", ("moderate",)), ("fast", ("fast",)))),
}
REASONING_NAMES = ("cot_analysis", "reasoning")
INTONATION_NAMES = ("intonation", "intonation_contour", "contour_shape")
STRESS_NAMES = ("stressed_words", "stress", "stress_words")
UNKNOWN_SHAPES = ("uncertain", "too_short", "insufficient_voiced", "")
FULL_WORDS = 50
_TAKEN = {alias for aliases in FIELD_NAMES.values() for alias in aliases}


def emotioncot_row(record: Record) -> dict[str, Any]:
    """A record as a line of EmotionCoT; what the source had beside our fields stays under its own name."""
    emotion = EMOTION_NAMES.get(record.emotion or "", record.emotion)
    row: dict[str, Any] = {
        "id": record.id,
        "audio_path": record.audio,
        "transcription": record.text,
        "emotion": emotion if emotion is not None else record.extra.get("label"),
        "dataset": record.corpus,
        "speaker": record.speaker,
        "language": record.language,
        "gender": record.gender.capitalize() if record.gender else None,
    }
    for field in LEVEL_FIELDS:
        row[field] = _shown_level(record, field)
    shape = record.intonation
    row["intonation"] = (shape.shape or "uncertain") if shape else None
    row["stressed_words"] = [word.text for word in stressed_words(record.words)] if record.words else None
    row["cot_analysis"] = record.reasoning.text if record.reasoning else None
    for key, value in record.extra.items():
        if row.get(key) is None and key not in _TAKEN:
            row[key] = value
    return row


def parse_emotioncot(row: Mapping[str, Any], folder: Path, place: str) -> Outcome:
    """A line of EmotionCoT as a record. Levels come without a measurement, so they count as just reliable enough."""
    outcome = record_of(row, folder, CORPUS, place)
    if outcome.record is None:
        return outcome
    text = next((row[name] for name in REASONING_NAMES if isinstance(row.get(name), str) and row[name]), None)
    record = replace(
        outcome.record,
        extra={key: value for key, value in outcome.record.extra.items() if key not in REASONING_NAMES or not text},
        levels=_levels(row) or None,
        intonation=_intonation(row),
        reasoning=Reasoning(text, CORPUS, "full" if len(text.split()) >= FULL_WORDS else "nano") if text else None,
    )
    return Outcome(record, outcome.failures)


def _shown_level(record: Record, field: str) -> str | None:
    cue, names = LEVEL_FIELDS[field]
    level = (record.levels or {}).get(cue)
    return next((name for name, ours in names if level and level.level in ours), None)


def _levels(row: Mapping[str, Any]) -> dict[str, Level]:
    levels = {}
    for field, (cue, names) in LEVEL_FIELDS.items():
        ours = dict(names).get(str(row.get(field)).strip().casefold())
        if ours:
            levels[cue] = Level(ours[0], MIN_RELIABILITY, "source")
    return levels


def _intonation(row: Mapping[str, Any]) -> IntonationShape | None:
    given = next((row[name] for name in INTONATION_NAMES if isinstance(row.get(name), str)), None)
    if given is None:
        return None
    shape = given.strip().casefold()
    if shape in UNKNOWN_SHAPES:
        return IntonationShape(None, 0.0, f"the source says {shape or 'nothing'}")
    return IntonationShape({"level": "flat"}.get(shape, shape), MIN_RELIABILITY)
