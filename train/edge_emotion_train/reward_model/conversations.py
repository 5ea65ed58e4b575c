"""The reward model over Qwen2.5-Omni's thinker: the rubric of the reward view as the thinker reads it, and its body.

Head, losses, training loop and judge are those of the small preset; only what reads the recording is another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edge_emotion_train.labelling.rows import user_message
from edge_emotion_train.labelling.view_reward import RUBRIC
from edge_emotion_train.reward_model.model import RewardModel
from edge_emotion_train.reward_model.readers import Batch, Item, pad_right, statements
from edge_emotion_train.thinker.model import load_thinker
from edge_emotion_train.thinker.processor import END, audio_token_ids, read_conversations


@dataclass(frozen=True)
class ConversationReader:
    """Reads paths of recordings and reasonings, through the thinker's processor.

    The scores are read where the answer would begin, after the prompt for it.
    """

    processor: Any

    def __call__(self, items: Sequence[Item]) -> Batch:
        asked = [
            [user_message([] if audio is None else [str(audio)], RUBRIC.format(reasoning=reasoning))]
            for audio, reasoning in items
        ]
        rows, audio = read_conversations(self.processor, asked)
        input_ids, attention_mask = pad_right([torch.tensor(row) for row in rows])
        offsets = [self._tail(reasoning, row) for (_, reasoning), row in zip(items, rows, strict=True)]
        placeholder = audio_token_ids(self.processor)[0]
        marks = {
            "heard": input_ids == placeholder,
            "stated": statements(attention_mask, [reasoning for _, reasoning in items], offsets),
        }
        return Batch({"input_ids": input_ids, "attention_mask": attention_mask, **marks, **audio}, offsets)

    def _tail(self, reasoning: str, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Characters that the tokens of the reasoning, and of what follows it, cover; none where it cannot be told."""
        tail = self.processor.tokenizer(f" {reasoning}{END}\n<|im_start|>assistant\n", return_offsets_mapping=True)
        if list(ids[-len(tail["input_ids"]) :]) != tail["input_ids"]:
            return []
        # One less: the blank before the reasoning. What follows the reasoning covers none of it.
        inside = [(max(0, start - 1), end - 1) for start, end in tail["offset_mapping"]]
        return [(min(start, len(reasoning)), min(end, len(reasoning))) for start, end in inside]


def thinker_reward_model(folder: Path, claim_weight: float = 1.0) -> RewardModel:
    """A reward model over the thinker in a folder, published or derived; its heads are fresh.

    Raises:
        ConfigError: The folder holds no thinker.
    """
    thinker = load_thinker(folder, trainable=True)
    return RewardModel(thinker.model, thinker.config.text_config.hidden_size, claim_weight)
