"""What a policy writes of its own accord, and how surely it answers after a reasoning that it is given.

`generate.py` decodes as the device does, which forces the answer's tags. Here nothing is forced, so that one sees
whether a policy keeps to the schema by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from edge_emotion.prompt import Prompt
from edge_emotion_train.reinforcement.policy import AUDIO_FIELDS, policy_of, prompt_ids
from edge_emotion_train.sft import AudioInputs, SpeechLanguageModel, position_ids


@torch.inference_mode()
def free_replies(
    speech: SpeechLanguageModel,
    tokenizer: Tokenizer,
    prompt: Prompt,
    audio: AudioInputs,
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Whole replies to a batch, from `<think>` on.

    Args:
        max_tokens: Longest completion.
        temperature: Of sampling; 0 takes the likeliest token each time.
        seed: Of sampling.
    """
    policy: Any = policy_of(speech, tokenizer, prompt)
    ids = prompt_ids(tokenizer, prompt, tokenizer.get_vocab_size(), audio)
    width = max(map(len, ids))
    padded = torch.tensor([[0] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    completions = policy.generate(
        input_ids=padded,
        attention_mask=mask,
        max_new_tokens=max_tokens,
        pad_token_id=0,
        **sampling,
        **{name: getattr(audio, name) for name in AUDIO_FIELDS},
    )[:, width:]
    end = tokenizer.encode(prompt.answer_close).ids[0]
    texts = []
    for row in completions.tolist():
        written = row[: row.index(end) + 1] if end in row else row
        texts.append("<think>" + tokenizer.decode(written, skip_special_tokens=False))
    return texts


@torch.inference_mode()
def label_scores_after(
    speech: SpeechLanguageModel,
    tokenizer: Tokenizer,
    prompt: Prompt,
    labels: Sequence[str],
    audio: AudioInputs,
    reasoning: Sequence[str],
) -> np.ndarray:
    """Log-probability of each label, float64 `(batch, labels)`, had the model reasoned so of a batch."""
    before = torch.tensor([tokenizer.encode(prompt.before_audio).ids])
    openings = [
        tokenizer.encode(prompt.after_audio).ids + tokenizer.encode(text).ids + tokenizer.encode(prompt.answer_open).ids
        for text in reasoning
    ]
    scores = np.zeros((len(openings), len(labels)))
    for column, label in enumerate(labels):
        answer = tokenizer.encode(label + prompt.answer_close).ids
        length = max(map(len, openings)) + len(answer)
        text = torch.zeros(len(openings), length, dtype=torch.long)
        mask = torch.zeros(len(openings), length, dtype=torch.bool)
        for i, opening in enumerate(openings):
            text[i, : len(opening) + len(answer)] = torch.tensor(opening + answer)
            mask[i, : len(opening) + len(answer)] = True
        whole = torch.cat([audio.token_mask.new_ones(len(text), before.shape[1]), audio.token_mask, mask], dim=1)
        logits = speech.language_model(
            inputs_embeds=speech.embed(before, audio, text),
            attention_mask=whole.long(),
            position_ids=position_ids(whole),
            use_cache=False,
            logits_to_keep=length,
        ).logits
        for i, opening in enumerate(openings):
            steps = logits[i, len(opening) - 1 : len(opening) + len(answer) - 1].double().log_softmax(dim=-1)
            scores[i, column] = float(steps.gather(1, torch.tensor(answer)[:, None]).sum())
    return scores
