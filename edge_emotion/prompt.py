"""What a language model reads around the audio and how its answer is forced, for training and runtime alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """Texts around the audio embeddings; the defaults are those of nano.

    The language model reads `before_audio`, the embeddings, `after_audio`, and thinks freely until a text of `stop` or
    `max_think_tokens`. Then `answer_open` is forced and the label is chosen by the score of label + `answer_close`.

    Attributes:
        before_audio: Constant text before the embeddings; a runtime keeps it in its cache.
        after_audio: Text between the embeddings and the thinking.
        answer_open: Forced after the thinking.
        answer_close: Ends the answer; scored with each label so that no label is a prefix of another.
        stop: Texts that end the thinking (the end-of-text token always does).
        max_think_tokens: Longest thinking, in tokens.
        label_texts: What the model writes for each label, in the labels' order; empty where it writes the label itself.
    """

    before_audio: str = "<|audio|>"
    after_audio: str = "<|/audio|><think>"
    answer_open: str = "</think><answer>"
    answer_close: str = "</answer>"
    stop: tuple[str, ...] = ("</think>",)
    max_think_tokens: int = 72
    label_texts: tuple[str, ...] = ()

    def texts_of(self, labels: Sequence[str]) -> tuple[str, ...]:
        """What the model writes for each label.

        Raises:
            ValueError: There are label texts, but not one for each label.
        """
        if self.label_texts and len(self.label_texts) != len(labels):
            raise ValueError(f"prompt has {len(self.label_texts)} label_texts for {len(labels)} labels")
        return self.label_texts or tuple(labels)

    def completion(self, reasoning: str, label: str) -> str:
        """The text that follows `after_audio` in a training example."""
        return f"{reasoning}{self.answer_open}{label}{self.answer_close}"

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        texts = {"label_texts": list(self.label_texts)} if self.label_texts else {}
        plain = {name: value for name, value in asdict(self).items() if name != "label_texts"}
        return plain | {"stop": list(self.stop)} | texts

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Prompt:
        """Inverse of `to_dict`.

        Raises:
            ValueError: A key is missing or unknown, or a value has the wrong type.
        """
        names = {field.name for field in fields(cls)}
        data = {"label_texts": (), **data}
        if set(data) != names:
            missing, unknown = sorted(names - set(data)), sorted(map(str, set(data) - names))
            raise ValueError(f"prompt must have exactly the keys {sorted(names)}; missing {missing}, unknown {unknown}")
        texts = {name: data[name] for name in names - {"stop", "max_think_tokens", "label_texts"}}
        stop, max_think_tokens, spoken = data["stop"], data["max_think_tokens"], data["label_texts"]
        if not isinstance(stop, (list, tuple)) or not all(isinstance(text, str) for text in (*texts.values(), *stop)):
            raise ValueError("prompt: every text must be a string, and stop a list of strings")
        if not isinstance(spoken, (list, tuple)) or not all(text and isinstance(text, str) for text in spoken):
            raise ValueError("prompt: label_texts must be a list of strings, none of them empty")
        if isinstance(max_think_tokens, bool) or not isinstance(max_think_tokens, int) or max_think_tokens < 0:
            raise ValueError(f"prompt: max_think_tokens must be a whole number >= 0, given {max_think_tokens!r}")
        return cls(**texts, stop=tuple(stop), max_think_tokens=max_think_tokens, label_texts=tuple(spoken))
