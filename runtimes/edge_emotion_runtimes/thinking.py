"""The thinking of a language model: where it ends, and what is left to force before the answer.

A model with the tags as tokens of its own stops at one of them. Others write `</think>` in several tokens of their own
choice, which may hold more than the tag: those are stopped by the text.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_emotion.prompt import Prompt
from edge_emotion_runtimes.interfaces import LanguageModel

OPENING = "<think>"
"""A model that opens its thinking itself is not quoted with the tag."""


class Thinking:
    """Runs the thinking of one language model with one prompt."""

    def __init__(self, llm: LanguageModel, prompt: Prompt) -> None:
        self._llm, self._prompt = llm, prompt
        ids = {text: llm.tokenize(text) for text in prompt.stop}
        self._stop_ids = frozenset(found[0] for found in ids.values() if len(found) == 1)
        self._stop_texts = tuple(text for text, found in ids.items() if len(found) > 1)

    def run(self, on_text: Callable[[str], None] = lambda _: None) -> tuple[str, str]:
        """Thinks from where the model is.

        Args:
            on_text: Called with each piece of the reasoning, as soon as it cannot be the beginning of a tag.

        Returns:
            The reasoning, and the part of `answer_open` that the model has not written itself.
        """
        written, told = "", 0
        for token in self._llm.stream(self._prompt.max_think_tokens, self._stop_ids):
            written += token.text
            if stop := self._first_stop(written):
                reasoning, _, beyond = written.partition(stop)
                _tell(reasoning, told, len(reasoning), on_text)
                return _without_opening(reasoning), self._left_to_force(stop, beyond)
            if not OPENING.startswith(written.lstrip()):  # else it may become the tag
                told = _tell(written, told, len(written) - self._held_back(written), on_text)
        _tell(written, told, len(written), on_text)
        return _without_opening(written), self._prompt.answer_open

    def _first_stop(self, written: str) -> str | None:
        found = [text for text in self._stop_texts if text in written]
        return min(found, key=written.index) if found else None

    def _left_to_force(self, stop: str, beyond: str) -> str:
        """`answer_open` without what was written of it; a model may go on in the token that ends the tag."""
        left = self._prompt.answer_open.removeprefix(stop)
        return left.removeprefix(beyond) if left.startswith(beyond) else left

    def _held_back(self, written: str) -> int:
        """How many characters at the end may be the beginning of a stop text."""
        longest = max(map(len, self._stop_texts), default=1) - 1
        sizes = range(min(longest, len(written)), 0, -1)
        return next((size for size in sizes if any(text.startswith(written[-size:]) for text in self._stop_texts)), 0)


def answer_without_thinking(prompt: Prompt) -> str:
    """What to force for an answer at once: nothing is closed that the prompt has not opened."""
    if OPENING in prompt.after_audio:
        return prompt.answer_open
    closing = next((text for text in prompt.stop if prompt.answer_open.startswith(text)), "")
    return prompt.answer_open.removeprefix(closing) or prompt.answer_open


def _tell(written: str, told: int, until: int, on_text: Callable[[str], None]) -> int:
    """Passes on what was written since, without an opening tag; returns how far that goes."""
    told = max(told, len(written) - len(_without_opening(written)))
    if until > told:
        on_text(written[told:until])
    return max(told, until)


def _without_opening(text: str) -> str:
    bare = text.lstrip()
    return bare.removeprefix(OPENING) if bare.startswith(OPENING) else text
