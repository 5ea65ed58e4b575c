"""Runs exported artefacts through the device's own runtimes and measures how far they are from the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer

from edge_emotion.errors import ExportError
from edge_emotion.prompt import Prompt
from edge_emotion_runtimes.interfaces import AudioEncoder, EncoderOutput, LanguageModel
from edge_emotion_runtimes.verify import ENCODER_TAPS, METRICS, divergence, measure_taps, think

from .golden import ReferenceClip
from .parity import agreement, cosine_min, max_abs, relative_max
from .sample_texts import sample_texts

# A replay on another device may differ by at least this much: other processors round, sum and quantise otherwise, and
# one near tie changes all the words after it. Where more was measured here, by three times that.
TOLERANCE_FLOORS: Mapping[str, Mapping[str, float]] = {
    "embeddings": {"fp32": 1e-3, "fp16": 0.01, "int8": 0.05, "int8-qdq": 0.05},
    "emotion_logits": {"fp32": 1e-3, "fp16": 0.01, "int8": 0.05, "int8-qdq": 0.05},
    "first_logits": {"fp32": 1e-3, "F16": 5e-3, "int8": 0.05, "Q8_0": 0.05, "Q4_1": 0.05}
    | {"Q6_K": 0.05, "Q5_K_M": 0.1, "Q4_K_M": 0.2, "IQ4_NL": 0.2},
    "text": {"fp32": 0.2, "F16": 0.2, "int8": 0.4, "Q8_0": 0.4, "Q4_1": 0.4}
    | {"Q6_K": 0.5, "Q5_K_M": 0.6, "Q4_K_M": 0.7, "IQ4_NL": 0.7},
}
TOLERANCE_FACTOR = 3.0


class Spoken(Protocol):
    """What is needed of a checkpoint to speak with it; `labels` are the texts that are scored."""

    @property
    def prompt(self) -> Prompt: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def labels(self) -> tuple[str, ...]: ...


def encoder_figures(references: Sequence[ReferenceClip], encoder: AudioEncoder) -> dict[str, float]:
    """Worst differences of embeddings and emotion logits over the clips, and the share of equal labels."""
    outputs = [encoder.encode(clip.waveform) for clip in references]
    pairs = list(zip(references, outputs, strict=True))
    logits = [(clip.emotion_logits, _head_of(out)) for clip, out in pairs]
    labels = [(int(ours.argmax()), int(theirs.argmax())) for ours, theirs in logits]
    return {
        "clips": len(pairs),
        "embeddings_relative_max": max(relative_max(clip.embeddings, out.embeddings) for clip, out in pairs),
        "embeddings_cosine_min": min(cosine_min(clip.embeddings, out.embeddings) for clip, out in pairs),
        "emotion_logits_relative_max": max(relative_max(*pair) for pair in logits),
        "label_agreement": agreement(*zip(*labels, strict=True)),
    }


def _head_of(output: EncoderOutput) -> np.ndarray:
    if output.emotion_logits is None:
        raise ExportError("the exported encoder lost its emotion head: it has no emotion_logits")
    return output.emotion_logits


def language_model_figures(
    checkpoint: Spoken, references: Sequence[ReferenceClip], model: LanguageModel
) -> dict[str, float]:
    """Differences of the logits along the reference's thought, and shares of equal greedy texts and labels."""
    worst, divergences, texts, labels = 0.0, [], [], []
    for clip in references:
        logits, scores = _follow_thought(checkpoint, clip, model)
        worst = max(worst, max_abs(clip.logits, logits))
        divergences += [divergence(ours, theirs) for ours, theirs in zip(clip.logits, logits, strict=True)]
        texts.append(think(model, checkpoint.prompt, clip.embeddings)[1])
        labels.append(int(scores.argmax()))
    return {
        "clips": len(references),
        "logits_max": worst,
        "logits_kl_mean": float(np.mean(divergences)),
        "logits_kl_max": float(np.max(divergences)),
        "text_equal": agreement([_complete(clip.text) for clip in references], [_complete(text) for text in texts]),
        "label_agreement": agreement([int(clip.label_scores.argmax()) for clip in references], labels),
    }


def end_to_end_figures(
    checkpoint: Spoken, references: Sequence[ReferenceClip], encoder: AudioEncoder, model: LanguageModel
) -> dict[str, float]:
    """Share of clips that get the same label from encoder and language model together as from the reference."""
    prompt, labels = checkpoint.prompt, []
    for clip in references:
        think(model, prompt, encoder.encode(clip.waveform).embeddings)
        model.prefill([model.tokenize(prompt.answer_open)])
        labels.append(int(model.score_labels(prompt.texts_of(checkpoint.labels), prompt.answer_close).argmax()))
    truths = [int(clip.label_scores.argmax()) for clip in references]
    return {"clips": len(references), "label_agreement": agreement(truths, labels)}


def tokenizer_figures(checkpoint: Spoken, model: LanguageModel) -> dict[str, float]:
    """Share of sample texts with the same token ids from a runtime as from the Hugging Face tokenizer."""
    tokenizer = checkpoint.tokenizer
    tags = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    texts = sample_texts(tags, [tokenizer.decode([identity]) for identity in range(tokenizer.get_vocab_size())])
    if tokenizer.normalizer is not None:  # llama.cpp has none: what it is given must be in that form
        texts = [tokenizer.normalizer.normalize_str(text) for text in texts]
    ours = [_token_ids(tokenizer, text) for text in texts]
    return {"texts": len(texts), "texts_equal": agreement(ours, [model.tokenize(text) for text in texts])}


def golden_tolerances(
    golden: Mapping[str, np.ndarray],
    checkpoint: Spoken,
    encoders: Mapping[str, AudioEncoder],
    models: Mapping[str, LanguageModel],
) -> dict[str, dict[str, float]]:
    """What each tap may differ by on another device, for each variant: `tap -> {variant: tolerance}`."""
    measured: dict[str, dict[str, float]] = {tap: {} for tap in METRICS}
    pairs = [(name, next(iter(models))) for name in encoders] + [(next(iter(encoders)), name) for name in models]
    for precision, quantisation in pairs:
        for _, tap, difference in measure_taps(golden, encoders[precision], models[quantisation], checkpoint.prompt):
            variant = precision if tap in ENCODER_TAPS else quantisation
            measured[tap][variant] = max(measured[tap].get(variant, 0.0), difference)
    return {
        tap: {
            name: min(max(TOLERANCE_FLOORS[tap][name], TOLERANCE_FACTOR * value), 1.0) for name, value in found.items()
        }
        for tap, found in measured.items()
    }


def _follow_thought(checkpoint: Spoken, clip: ReferenceClip, model: LanguageModel) -> tuple[np.ndarray, np.ndarray]:
    """Logits after the prompt and after each token of the reference's thought, and the label scores after it."""
    prompt, tokenizer = checkpoint.prompt, checkpoint.tokenizer
    model.reset()
    before, after = _token_ids(tokenizer, prompt.before_audio), _token_ids(tokenizer, prompt.after_audio)
    model.prefill([before, clip.embeddings, after])
    logits = [model.logits()]
    for token in clip.thought:
        model.prefill([[token]])
        logits.append(model.logits())
    model.prefill([_token_ids(tokenizer, prompt.answer_open)])
    return np.stack(logits), model.score_labels(prompt.texts_of(checkpoint.labels), prompt.answer_close)


def _token_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def _complete(text: str) -> str:
    """A text without a last character cut in half: one decoder shows it, the other waits for the rest."""
    return text.rstrip("\ufffd")
