"""From a row of a data set to what a policy reads: token ids with audio placeholders, and the audio itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from edge_emotion.prompt import Prompt
from edge_emotion_train.features import FeatureSet
from edge_emotion_train.reinforcement.policy import AUDIO_FIELDS, prompt_ids
from edge_emotion_train.reinforcement.trainer import PromptReader, TrainingError
from edge_emotion_train.sft import AudioInputs, pad_frames

# Ends the name of a prompt whose audio tokens are withheld: the policy has its evidence tokens only.
WITHOUT_FRAMES = " without frames"


def audio_of(
    features: FeatureSet,
    cue_values: np.ndarray,
    emotion_logits: np.ndarray,
    indices: Sequence[int] | np.ndarray,
    evidence_tokens: int,
) -> AudioInputs:
    """The cached audio of some rows as one batch.

    Args:
        features: Cached features of `n` rows.
        cue_values: Evidence of the cues, `(n, cues)`.
        emotion_logits: Evidence of the emotions, `(n, labels)`.
        indices: Rows wanted.
        evidence_tokens: Evidence tokens of the model.
    """
    pieces = [
        torch.from_numpy(np.array(features.frames[features.offsets[i] : features.offsets[i + 1]]))
        .float()
        .transpose(0, 1)
        for i in indices
    ]
    frames, mask = pad_frames(pieces, evidence_tokens)
    chosen = list(indices)
    return AudioInputs(
        torch.from_numpy(cue_values[chosen]).float(), torch.from_numpy(emotion_logits[chosen]).float(), frames, mask
    )


def cached_prompts(
    features: FeatureSet,
    cue_values: np.ndarray,
    emotion_logits: np.ndarray,
    row_of: Mapping[str, int],
    tokenizer: Tokenizer,
    prompt: Prompt,
    evidence_tokens: int,
) -> PromptReader:
    """A reader for models that train on cached encoder features.

    A prompt is a key of `row_of`, or one followed by `WITHOUT_FRAMES`.
    """
    vocabulary = tokenizer.get_vocab_size()

    def read(prompts: Sequence[str]) -> tuple[list[list[int]], dict[str, Tensor]]:
        rows = [row_of[key.removesuffix(WITHOUT_FRAMES)] for key in prompts]
        audio = audio_of(features, cue_values, emotion_logits, rows, evidence_tokens)
        withheld = torch.tensor([key.endswith(WITHOUT_FRAMES) for key in prompts])
        audio.token_mask[withheld, evidence_tokens:] = False
        if withheld.all():  # nobody hears them, so nobody need project them
            audio = replace(audio, frames=audio.frames[:, :, :0], token_mask=audio.token_mask[:, :evidence_tokens])
        fields = {name: getattr(audio, name) for name in AUDIO_FIELDS}
        require_finite(prompts, fields)
        return prompt_ids(tokenizer, prompt, vocabulary, audio), fields

    return read


def require_finite(prompts: Sequence[Any], fields: Mapping[str, Tensor]) -> None:
    """Raises TrainingError, naming the prompt, where audio holds NaN or infinity."""
    for name, tensor in fields.items():
        finite = tensor.flatten(1).isfinite().all(dim=1)
        if not finite.all():
            key = prompts[int((~finite).nonzero()[0])]
            raise TrainingError(f"{name} of {key} holds values that are not finite; mend or remove that recording")
