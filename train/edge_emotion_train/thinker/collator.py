"""Conversations to a training batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edge_emotion_train.labelling.rows import Row
from edge_emotion_train.thinker.processor import END, read_conversations
from edge_emotion_train.thinker.rows import reply_of

IGNORED = -100


class ConversationCollator:
    """Rows to a right-padded batch; only the assistant's last message, with its end, is learned.

    Args:
        processor: Of `processor.omni_processor`.
        rows: All rows; an item of the data set is `{"row": index}`, which no table format can change.
    """

    def __init__(self, processor: Any, rows: Sequence[Row]) -> None:
        self.processor = processor
        self.rows = rows
        self.pad_id = int(processor.tokenizer.pad_token_id)

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        rows = [self.rows[int(item["row"])] for item in items]
        prompts, audio = read_conversations(self.processor, [row["messages"][:-1] for row in rows])
        ids, labels = [], []
        for row, prompt in zip(rows, prompts, strict=True):
            answer = self.processor.tokenizer(reply_of(row) + END)["input_ids"]
            ids.append(torch.tensor([*prompt, *answer]))
            labels.append(torch.tensor([IGNORED] * len(prompt) + answer))
        lengths = torch.tensor([len(row) for row in ids])
        input_ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self.pad_id)
        return {
            "input_ids": input_ids,
            "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
            "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            **audio,
        }
