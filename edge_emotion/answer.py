"""Reading what a model wrote: `<think> reasoning </think><answer> label </answer>`, the schema of EmotionThinker.

Tolerant in what it understands and strict in what it calls well formed, because the first serves people and the second
is a reward.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edge_emotion import labels as _labels

_WELL_FORMED = re.compile(r"\s*<think>(?P<think>.+?)</think>\s*<answer>(?P<answer>[^<>]*)</answer>\s*", re.DOTALL)
_TAG = re.compile(r"<\s*(/?)\s*(think|answer)\s*>", re.IGNORECASE)


@dataclass(frozen=True)
class Response:
    """A model's reply, read.

    Attributes:
        reasoning: Text of the thinking part, without tags; empty when there is none.
        label: The answered label as spelled in the list of labels, or None when none or several were named.
        well_formed: The reply is exactly one thinking part and one answer that is a label of the list, nothing else.
    """

    reasoning: str
    label: str | None
    well_formed: bool


def parse_response(text: str, labels: Sequence[str]) -> Response:
    """Read a reply; never raises.

    Args:
        text: The whole reply, the opening `<think>` included where the prompt already wrote it.
        labels: The labels that may be answered. Their aliases ("angry") are understood, but not well formed.
    """
    strict = _WELL_FORMED.fullmatch(text)
    if strict and not _TAG.search(strict["think"]) and strict["think"].strip() and strict["answer"].strip() in labels:
        return Response(strict["think"].strip(), strict["answer"].strip(), well_formed=True)
    think, answer = _split(text)
    return Response(think.strip(), _find_label(answer, labels), well_formed=False)


def is_correct(predicted: str | None, truth: str) -> bool:
    """Whether an answer names the true emotion, aliases included; the one definition for metrics and rewards."""
    return predicted is not None and _canonical(predicted) == _canonical(truth)


def _canonical(label: str) -> str:
    try:
        return _labels.normalise_label(label)
    except ValueError:
        return label.strip().casefold()


def _split(text: str) -> tuple[str, str]:
    """The thinking and the answering part of a reply whose tags may be missing, doubled or unclosed."""
    parts: dict[str, list[str]] = {"think": [], "answer": [], "": []}
    state, position = "", 0
    for tag in _TAG.finditer(text):
        closing, name = tag.group(1) == "/", tag.group(2).lower()
        # A closing tag that was never opened ends a part whose opening stood in the prompt.
        parts[name if closing and not state else state].append(text[position : tag.start()])
        state, position = "" if closing else name, tag.end()
    parts[state].append(text[position:])
    loose = " ".join(parts[""])
    think = " ".join(parts["think"])
    # Of several answers the last that says anything is the one a reader would take.
    answers = [part for part in parts["answer"] if part.strip()]
    return (think or (loose if answers else "")), (answers[-1] if answers else loose)


def _find_label(answer: str, labels: Sequence[str]) -> str | None:
    """The only label an answer names, or None; naming several is no answer."""
    found: set[str] = set()
    lowered = answer.casefold()
    for label in labels:
        names = {label.casefold()}
        if label in _labels.EMOTIONS:
            names.update(_labels.names_of(label))
        if any(re.search(rf"(?<!\w){re.escape(name).replace('_', '[ _-]')}(?!\w)", lowered) for name in names if name):
            found.add(label)
    return found.pop() if len(found) == 1 else None
