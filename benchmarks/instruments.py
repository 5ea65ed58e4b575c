"""An analyzer whose language model can be given another clip's embeddings, or none: does it hear what it speaks of?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edge_emotion.bundle import Bundle
from edge_emotion.result import EmotionResult
from edge_emotion_runtimes.analyzer import Analyzer, Source
from edge_emotion_runtimes.interfaces import AudioEncoder, EncoderOutput, LanguageModel, Segment
from edge_emotion_runtimes.language_models import open_variant
from edge_emotion_runtimes.onnx_encoder import OnnxEncoder


class ExchangingEncoder:
    """An audio encoder that keeps the embeddings of its last call, and gives others instead while told to."""

    def __init__(self, encoder: AudioEncoder) -> None:
        self._encoder = encoder
        self.last: np.ndarray | None = None
        self.instead: np.ndarray | None = None

    def encode(self, samples: np.ndarray) -> EncoderOutput:
        """As the encoder, but for the exchange of the embeddings; the head's logits stay."""
        output = self._encoder.encode(samples)
        self.last = output.embeddings
        return output if self.instead is None else replace(output, embeddings=self.instead)

    def describe(self) -> dict[str, Any]:
        """As the encoder."""
        return self._encoder.describe()

    def close(self) -> None:
        """As the encoder."""
        self._encoder.close()


class DeafenableModel:
    """A language model that loses every row of audio on the way while `deaf`; in all else the model itself."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.deaf = False

    def prefill(self, segments: Sequence[Segment]) -> None:
        """As the model, without embeddings while deaf."""
        self._model.prefill([segment for segment in segments if not (self.deaf and np.ndim(segment) == 2)])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class Listener:
    """The shipped variants of a bundle behind the ordinary analyzer, with the two controls.

    Args:
        bundle: The bundle.
        encoder: Precision of the encoder.
        llm: Quantisation of the language model.
    """

    def __init__(self, bundle: Bundle, encoder: str = "int8", llm: str = "Q8_0") -> None:
        self.bundle = bundle
        self._encoder = ExchangingEncoder(OnnxEncoder(bundle.encoder_path(encoder)))
        self._llm = DeafenableModel(open_variant(bundle, bundle.llm_variant(llm)))
        self._analyzer = Analyzer(bundle, self._encoder, self._llm)  # type: ignore[arg-type]

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._analyzer.close()

    def hear(self, source: Source) -> EmotionResult:
        """The ordinary analysis."""
        self._encoder.last = None
        return self._analyzer.analyze(source)

    @property
    def last_embeddings(self) -> np.ndarray | None:
        """Embeddings `(tokens, embedding_dim)` of the last window that was heard; None where there was no speech."""
        return self._encoder.last

    def hear_another(self, source: Source, embeddings: np.ndarray | None) -> EmotionResult:
        """The analysis of a recording whose language model hears these embeddings; claims are checked against it."""
        self._encoder.instead = embeddings
        try:
            return self._analyzer.analyze(source)
        finally:
            self._encoder.instead = None

    def hear_nothing(self, source: Source) -> EmotionResult:
        """The analysis of a recording whose language model reads the prompt without any audio."""
        self._llm.deaf = True
        try:
            return self._analyzer.analyze(source)
        finally:
            self._llm.deaf = False
