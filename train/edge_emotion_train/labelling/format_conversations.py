"""Conversations: `messages` with audio parts (trl, chat templates of transformers), and ms-swift's `<audio>` tags.

Both ask the emotion question of the paper; where a record has reasoning and emotion the assistant answers by the schema
of `edge_emotion.answer`. Read, any such file becomes records with the recording, the reasoning and the emotion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_emotion.answer import parse_response
from edge_emotion.labels import EMOTIONS

from .format_emotioncot import FULL_WORDS
from .records import Outcome, Reasoning, Record
from .rows import assistant_message, user_message
from .sources import record_of
from .view_prosody import answered
from .view_reasoning import QUESTIONS, full_answer

TAG = "<audio>"
CORPUS = "conversations"


def message_row(record: Record) -> dict[str, Any]:
    """A record as a conversation with audio parts."""
    said = _answer(record)
    messages = [user_message([record.audio], _question())]
    return {"id": record.id, "messages": [*messages, *([assistant_message(said)] if said else [])]}


def ms_swift_row(record: Record) -> dict[str, Any]:
    """A record as ms-swift reads it: a tag in the text stands for each of `audios`."""
    said = _answer(record)
    messages = [{"role": "user", "content": TAG + _question()}]
    messages += [{"role": "assistant", "content": said}] if said else []
    return {"id": record.id, "messages": messages, "audios": [record.audio]}


def parse_messages(row: Mapping[str, Any], folder: Path, place: str) -> Outcome:
    """A conversation with audio parts as a record."""
    parts = [part for content in _contents(row, "user") if not isinstance(content, str) for part in content]
    audio = [part.get("path") or part.get("audio") or part.get("url") for part in parts if part.get("type") == "audio"]
    return _parse(row, audio, folder, place)


def parse_ms_swift(row: Mapping[str, Any], folder: Path, place: str) -> Outcome:
    """A conversation of ms-swift as a record."""
    audios = row.get("audios") or []
    return _parse(row, [audios] if isinstance(audios, str) else list(audios), folder, place)


def _parse(row: Mapping[str, Any], audio: Sequence[Any], folder: Path, place: str) -> Outcome:
    if len(audio) != 1:
        raise ValueError(f"one recording is needed, {len(audio)} are given")
    said = next((content for content in _contents(row, "assistant")), None)
    if said is not None and not isinstance(said, str):
        said = "".join(part.get("text") or "" for part in said if part.get("type") == "text")
    response = parse_response(said or "", EMOTIONS)
    rest = {key: value for key, value in row.items() if key not in ("messages", "audios", "audio", "label", "emotion")}
    outcome = record_of({**rest, "audio": audio[0]}, folder, CORPUS, place)
    if outcome.record is None:
        return outcome
    thought = response.reasoning
    size = "full" if len(thought.split()) >= FULL_WORDS else "nano"
    reasoning = Reasoning(thought, CORPUS, size) if thought else None
    return Outcome(replace(outcome.record, emotion=response.label, reasoning=reasoning), outcome.failures)


def _contents(row: Mapping[str, Any], role: str) -> list[Any]:
    return [message["content"] for message in row["messages"] if message["role"] == role]


def _answer(record: Record) -> str | None:
    if record.emotion is None:
        return None
    return full_answer(record.reasoning.text, record.emotion) if record.reasoning else answered(record.emotion)


def _question() -> str:
    return QUESTIONS[0].format(labels=", ".join(EMOTIONS))
