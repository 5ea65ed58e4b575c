"""Explanations and answers of the PyTorch model in batches: the reference for evaluation and for golden taps.

The same decoding as on the device: free thinking within a budget, the forced answer tag, then every label is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import DynamicCache

from edge_emotion.prompt import Prompt

from .sft import AudioInputs, SpeechLanguageModel, position_ids
from .tokenizer import TAGS


@dataclass(frozen=True)
class Generated:
    """What the model says of a batch.

    Attributes:
        reasoning: One think text per clip.
        label_scores: Log-probability of each label and the closing tag, float64 `(batch, labels)`.
        first_logits: Logits after the prompt, float32 `(batch, vocabulary)`.
    """

    reasoning: list[str]
    label_scores: np.ndarray
    first_logits: np.ndarray


@torch.inference_mode()
def generate(
    model: SpeechLanguageModel, tokenizer: Tokenizer, prompt: Prompt, labels: Sequence[str], inputs: AudioInputs
) -> Generated:
    """Explains and answers a batch greedily."""
    before_ids, after_ids = (
        torch.tensor([tokenizer.encode(text).ids]) for text in (prompt.before_audio, prompt.after_audio)
    )
    batch = len(inputs.frames)
    after = after_ids.expand(batch, -1)
    mask = torch.cat(
        [
            torch.ones(batch, before_ids.shape[1], dtype=torch.bool),
            inputs.token_mask,
            torch.ones_like(after, dtype=torch.bool),
        ],
        dim=1,
    )
    cache = DynamicCache()
    language_model = model.language_model
    output = language_model(
        inputs_embeds=model.embed(before_ids, inputs, after),
        attention_mask=mask.long(),
        position_ids=position_ids(mask),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    first_logits = logits = output.logits[:, -1]
    end = TAGS[-1] if tokenizer.token_to_id(TAGS[-1]) is not None else prompt.answer_close
    stop_ids = torch.tensor([tokenizer.encode(text).ids[0] for text in (*prompt.stop, end)])
    said: list[Tensor] = []
    thinking = torch.ones(batch, dtype=torch.bool)
    for _ in range(prompt.max_think_tokens):
        token = logits.argmax(dim=-1)
        thinking = thinking & ~torch.isin(token, stop_ids)
        if not thinking.any():
            break
        said.append(torch.where(thinking, token, -1))
        mask = torch.cat([mask, thinking[:, None]], dim=1)
        logits = _step(language_model, token[:, None], mask, cache)[:, -1]
    reasoning = [
        tokenizer.decode([int(step[i]) for step in said if step[i] >= 0], skip_special_tokens=False)
        for i in range(batch)
    ]
    scores = _score_labels(model, tokenizer, prompt, prompt.texts_of(labels), cache, mask)
    return Generated(reasoning, scores, first_logits.float().numpy())


def _step(language_model: torch.nn.Module, ids: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
    positions = position_ids(mask)[:, -ids.shape[1] :]
    return language_model(
        input_ids=ids, attention_mask=mask.long(), position_ids=positions, past_key_values=cache, use_cache=True
    ).logits


def _score_labels(
    model: SpeechLanguageModel,
    tokenizer: Tokenizer,
    prompt: Prompt,
    labels: Sequence[str],
    cache: DynamicCache,
    mask: Tensor,
) -> np.ndarray:
    open_ids = tokenizer.encode(prompt.answer_open).ids
    batch = len(mask)
    scores = np.zeros((batch, len(labels)))
    for column, label in enumerate(labels):
        label_ids = tokenizer.encode(label + prompt.answer_close).ids
        ids = torch.tensor([open_ids + label_ids]).expand(batch, -1)
        extended = torch.cat([mask, torch.ones_like(ids, dtype=torch.bool)], dim=1)
        logits = _step(model.language_model, ids, extended, cache).double().log_softmax(dim=-1)
        cache.crop(-ids.shape[1])
        steps = logits[:, len(open_ids) - 1 : -1]
        scores[:, column] = steps.gather(2, ids[:, len(open_ids) :, None]).sum(dim=(1, 2)).numpy()
    return scores
