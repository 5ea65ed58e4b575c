"""Reasoning written by a chat model from what was measured: our own prompt, and how its answers are read.

The model never hears the clip, so it is told to speak of nothing else than the measured cues, in words that the claim
checker reads; what it invents all the same is taken out afterwards (`text_checking`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edge_emotion.errors import LabellingError
from edge_emotion.wording import PHRASES
from edge_emotion_train.labelling.built_in_writer import FEWEST_CUES, weigh
from edge_emotion_train.labelling.chat_endpoint import ChatEndpoint, Message
from edge_emotion_train.labelling.text_checking import SIZES
from edge_emotion_train.labelling.writing import Assignment
from edge_emotion_train.reasoning import MOODS, pick

# Raise it when the prompt changes.
PROMPT_VERSION = 1
SYSTEM = """\
You write down what goes through the mind of an attentive listener who works out, from the sound of a short recording, \
which emotion the voice carries. You get notes on what was measured in the recording. You do not hear it yourself, so \
the notes are all you know: whatever they do not say, you leave out.

How to write:
- Begin with the sound. First say what is heard, cue by cue, then what the cues suggest, then turn to the words.
- Reason as if the emotion were still open. The first half of the text names no emotion at all, and the text never \
begins with one. Only towards the end say which emotion fits best, and say so plainly.
- Say what speaks for that emotion and what speaks against it, and name at least one other emotion that was considered.
- State a level exactly as the notes give it. A cue that the notes call low is neither "rather low" nor "very low". \
Never describe pitch, melody, pace, tone, voice quality, loudness, pauses or breathing beyond the notes, and never say \
how a cue would be in another emotion ("anger would be louder"): compare in terms of the cues that are there.
- Give no numbers. Do not mention the notes, measurements, labels or this task.
- One paragraph of plain English prose, no headings, lists, quotes around the whole or markup. {fewest} to {most} words.
"""
SPEAKER_NOTE = (
    "These levels are relative to how this speaker usually sounds: say so once, as in \u201cfor this speaker\u201d"
)
STYLES: tuple[str, ...] = (
    "Write in the first person, in short sentences.",
    "Write in the first person, in long, flowing sentences.",
    "Write without \u201cI\u201d, as an expert who thinks aloud.",
    "Begin with the cue that is least usual, and ask yourself a question on the way.",
    "Begin with the melody and the pitch if they are known, then turn to rhythm and voice.",
    "Begin with rhythm and pauses if they are known, then turn to pitch and voice.",
    "First weigh the emotion that you will reject, then the one that you keep.",
    "Write tersely and concretely, no word too many.",
)
LENGTHS = {"full": ("about 70", "about 100", "about 130"), "nano": ("about 25", "about 35")}


@dataclass(frozen=True)
class ChatAuthor:
    """An `Author` behind a chat endpoint."""

    endpoint: ChatEndpoint

    def __call__(self, assignment: Assignment) -> str:
        """Asks for a text.

        Raises:
            LabellingError: Too few cues are reliable.
            NoAnswerError: The endpoint gave no usable answer.
            StopRun: It will give none, or the allowance is used up.
        """
        if len(assignment.findings.cues) < FEWEST_CUES:
            raise LabellingError(
                f"{len(assignment.findings.cues)} of its cues are reliable and a reasoning needs at least {FEWEST_CUES}"
            )
        messages = compose(assignment)
        return self.endpoint.ask(messages, read_answer, seed=int(assignment.rng.integers(2**31)))


def compose(assignment: Assignment) -> list[Message]:
    """The conversation that asks for a text; with what was wrong, where one was refused."""
    fewest, most = SIZES[assignment.size]
    messages: list[Message] = [
        {"role": "system", "content": SYSTEM.format(fewest=fewest, most=most)},
        {"role": "user", "content": "\n".join(_notes(assignment))},
    ]
    if assignment.refused is not None:
        refused = assignment.refused
        faults = [f"- \u201c{sentence}\u201d ({reason})" for sentence, reason in refused.removed]
        faults.append(f"- {refused.problem}")
        messages += [
            {"role": "assistant", "content": refused.text or "(nothing was left)"},
            {
                "role": "user",
                "content": "These sentences say what was not measured and were taken out, or something else is wrong:\n"
                + "\n".join(faults)
                + "\nWrite the whole text anew. Keep strictly to the levels in the notes.",
            },
        ]
    return messages


def _notes(assignment: Assignment) -> list[str]:
    findings, rng = assignment.findings, assignment.rng
    said = {name: pick(PHRASES[name][level], rng) for name, level in findings.cues.items()}
    lines = ["Notes on the recording, cue: level (one way to say it)"]
    for name, level in findings.cues.items():
        own = ", relative to this speaker" if name in findings.speakers_own else ""
        lines.append(f"- {name.replace('_', ' ')}: {level} (\u201c{said[name]}\u201d){own}")
    if findings.speakers_own:
        lines.append(f"- {SPEAKER_NOTE}")
    if findings.stressed:
        lines.append(f"- stressed words: {', '.join(findings.stressed)}")
    if findings.person:
        lines.append(f"- the speaker: {findings.person}")
    if findings.quote is None:
        lines.append("- the words are unknown: do not speak of them")
    else:
        lines.append(
            f"- the words: \u201c{findings.quote}\u201d. Quote some of them and say whether words and voice agree"
        )
        if findings.says_little:
            lines.append("- the same words are said in other moods too, so by themselves they say little")
    weighing = weigh(findings.cues, assignment.emotion, assignment.table, rng)
    label, rival = MOODS.get(assignment.emotion, assignment.emotion), MOODS.get(weighing.rival, weighing.rival)
    for side in weighing.sides:
        better, worse = MOODS.get(side.better, side.better), MOODS.get(side.worse, side.worse)
        cues = ", ".join(said[name] for name in side.cues)
        lines.append(f"- among such clips, this speaks for {better} rather than {worse}: {cues}")
    lines += [
        f"The emotion to arrive at in the end: {label}. One that was considered: {rival}.",
        f"{pick(STYLES, rng)} Length: {pick(LENGTHS[assignment.size], rng)} words.",
    ]
    return lines


# --- answers ---------------------------------------------------------------------------------------------------------

_FENCE = re.compile(r"^```\w*\s*\n(.*?)\n?```\s*$", re.DOTALL)
_TAGS = re.compile(r"</?(?:think|answer|reasoning|output)>", re.IGNORECASE)
_PREFACE = re.compile(r"^(?:sure|certainly|of course|here (?:is|'s|\u2019s))\b[^\n]{0,120}:\s*\n+", re.IGNORECASE)
_KEYS: Sequence[str] = ("reasoning", "cot_analysis", "text", "analysis", "answer")


def read_answer(text: str) -> str:
    """The reasoning in a chat model's answer, on one line and without what models put around it.

    Understands thoughts in `<think>` before the answer, code fences, a JSON object with the text, and a line such as
    "Here is the text:".

    Raises:
        ValueError: There is no text, half a JSON, or an unfinished thought.
    """
    text = re.sub(r"\s*<answer>[^<]*</answer>\s*$", "", text.strip())
    thought, ended, answer = text.rpartition("</think>")
    if ended:
        text = answer.strip() or thought.replace("<think>", "").strip()
    elif text.startswith("<think>"):
        raise ValueError("the answer ends within its thoughts")
    fenced = _FENCE.match(text)
    text = (fenced[1] if fenced else text).strip()
    if text.startswith(("{", "[", '"')) or text.startswith("```"):
        text = _from_json(text.removeprefix("```json").removeprefix("```").strip())
    text = " ".join(_PREFACE.sub("", _TAGS.sub(" ", text)).replace("**", "").split())
    if text.count('"') == 2 and text[0] == text[-1] == '"':
        text = text[1:-1].strip()
    if not any(character.isalpha() for character in text):
        raise ValueError(f"no text in {text[:60]!r}")
    return text


def _from_json(text: str) -> str:
    try:
        found = json.loads(text)
    except ValueError as error:
        if text.startswith('"') and not text.endswith("}"):
            return text
        raise ValueError(f"half a JSON or none: {error}") from None
    if isinstance(found, dict):
        found = next((found[key] for key in _KEYS if isinstance(found.get(key), str)), None)
    if not isinstance(found, str):
        raise ValueError("JSON without a text")
    return found
