"""The two seams of a runtime: what the analyzer asks of an audio encoder and of a language model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Segment = Sequence[int] | np.ndarray
"""Token ids, or embeddings float32 `(rows, embedding_dim)`."""


@dataclass(frozen=True)
class EncoderOutput:
    """What one pass gives: `embeddings` float32 `(tokens, embedding_dim)`, and `emotion_logits` float32 `(labels,)`,
    or None where the encoder has no emotion head.
    """

    embeddings: np.ndarray
    emotion_logits: np.ndarray | None


@dataclass(frozen=True)
class Token:
    """One generated token; `text` may be empty while a character is still incomplete."""

    id: int
    text: str
    logprob: float


class AudioEncoder(Protocol):
    """Waveform to embeddings for the language model and, if there is an emotion head, to its logits."""

    def encode(self, samples: np.ndarray) -> EncoderOutput:
        """Run on float32 `(n,)` samples at 16 kHz."""
        ...

    def describe(self) -> dict[str, Any]:
        """What runs, as plain types; `fallbacks` lists what was asked for and does not."""
        ...

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        ...


class LanguageModel(Protocol):
    """One running sequence of tokens and embedding rows. Refused input raises LanguageModelError, changing nothing."""

    @property
    def context_tokens(self) -> int:
        """Tokens and embedding rows the sequence may hold."""
        ...

    @property
    def position(self) -> int:
        """Tokens and embedding rows held now."""
        ...

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text, without a start token."""
        ...

    def prefill(self, segments: Sequence[Segment]) -> None:
        """Append to the sequence."""
        ...

    def logits(self) -> np.ndarray:
        """Logits of the next token, float32 `(vocabulary,)`."""
        ...

    def stream(self, max_tokens: int, stop_token_ids: Collection[int] = ()) -> Iterator[Token]:
        """Generate greedily; what is yielded is part of the sequence, the stop token is not."""
        ...

    def score_labels(self, labels: Sequence[str], closing: str = "") -> np.ndarray:
        """Log-probability of each label and the closing text as what comes next; the sequence stays as it is."""
        ...

    def save_prefix(self) -> None:
        """Remember the sequence as it is now."""
        ...

    def load_prefix(self) -> None:
        """Return to the saved prefix."""
        ...

    def reset(self) -> None:
        """Forget everything, the saved prefix too."""
        ...

    def describe(self) -> dict[str, Any]:
        """What runs, as plain types."""
        ...

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        ...
