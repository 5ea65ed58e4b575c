"""From recordings and reasonings to what a body reads; this reader takes cached features, `conversations.py` files.

A reader also says which characters of the reasoning its last tokens cover, by which claims find their tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from edge_emotion_train.evidence import position_matrix
from edge_emotion_train.features import FeatureSet
from edge_emotion_train.labelling.quality import claims_of, find_mentions
from edge_emotion_train.model import STACKED_FRAMES
from edge_emotion_train.reward_model.model import STATEMENTS, UNSTATED
from edge_emotion_train.sft import pad_frames
from edge_emotion_train.tokenizer import TAGS

OPENING, CLOSING = "<|audio|>", "<|/audio|><think>"
END = "</think>" + TAGS[-1]


@dataclass(frozen=True)
class CachedAudio:
    """A recording as cached features.

    Attributes:
        heard: What the evidence heads hear of each cue, on the cue's own scale, `(cues,)`.
        emotion_logits: `(labels,)`.
        frames: `(frames, layers, dim)`; None where they are withheld and the evidence alone is heard.
    """

    heard: np.ndarray
    emotion_logits: np.ndarray
    frames: np.ndarray | None


Item = tuple[Any, str]
"""A recording (`CachedAudio` or the path of a file; None to read the text alone) and the reasoning."""


@dataclass(frozen=True)
class Batch:
    """What a body reads, padded on the right, and the characters that each row's last tokens cover."""

    inputs: dict[str, Tensor]
    offsets: list[list[tuple[int, int]]]


Reader = Callable[[Sequence[Item]], Batch]


def cached_audio(
    features: FeatureSet, cue_values: np.ndarray, emotion_logits: np.ndarray, cues: Sequence[str]
) -> Callable[[int], CachedAudio]:
    """The recording of a row of cached features.

    Args:
        features: `n` rows.
        cue_values: Evidence `(n, cues)`, standardised over these rows as `evidence.out_of_fold_evidence` gives it.
        emotion_logits: Evidence `(n, labels)`.
        cues: Names of the cues.
    """
    positions = position_matrix(features.rows, cues)
    heard = cue_values * np.nanstd(positions, axis=0) + np.nanmean(positions, axis=0)

    def audio_of(index: int) -> CachedAudio:
        frames = features.frames[features.offsets[index] : features.offsets[index + 1]]
        return CachedAudio(heard[index], emotion_logits[index], frames)

    return audio_of


@dataclass(frozen=True)
class CachedReader:
    """Reads cached features and text of its own BPE.

    Attributes:
        tokenizer: Of the body; it holds the tags.
        evidence_tokens: Evidence tokens of the body.
        mean: Of the cues in the body's training population, `(cues,)`.
        scale: Their standard deviations, `(cues,)`.
        labels: Number of emotion logits.
        frame_shape: Layers and width of the frames.
        frames: Whether the frames are read; else the evidence alone.
        most_tokens: Longer texts are cut at the end, so that the body's context suffices.
    """

    tokenizer: Tokenizer
    evidence_tokens: int
    mean: np.ndarray
    scale: np.ndarray
    labels: int
    frame_shape: tuple[int, int]
    frames: bool = True
    most_tokens: int = 320

    def __call__(self, items: Sequence[Item]) -> Batch:
        silence = CachedAudio(self.mean, np.zeros(self.labels), None)
        audios = [audio or silence for audio, _ in items]
        pieces = [_piece(audio.frames if self.frames else None, self.frame_shape) for audio in audios]
        frames, heard = pad_frames(pieces, self.evidence_tokens)
        for i, (audio, _) in enumerate(items):
            if audio is None:
                heard[i] = False
            elif audio.frames is None or not self.frames:
                heard[i, self.evidence_tokens :] = False
        values = (np.stack([audio.heard for audio in audios]) - self.mean) / self.scale
        placeholder = self.tokenizer.get_vocab_size()
        before, after, end = (self.tokenizer.encode(text).ids for text in (OPENING, CLOSING, END))
        ids, offsets = [], []
        for i, (_, reasoning) in enumerate(items):
            text = self.tokenizer.encode(reasoning)
            said = text.ids[: self.most_tokens]
            ids.append(torch.tensor([*before, *[placeholder] * int(heard[i].sum()), *after, *said, *end]))
            offsets.append([*text.offsets[: self.most_tokens], *[(len(reasoning), len(reasoning))] * len(end)])
        input_ids, attention_mask = pad_right(ids)
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "heard": input_ids == placeholder,
            "stated": statements(attention_mask, [reasoning for _, reasoning in items], offsets),
            "cue_values": torch.from_numpy(values).float(),
            "emotion_logits": torch.from_numpy(np.stack([audio.emotion_logits for audio in audios])).float(),
            "frames": frames,
            "token_mask": heard,
        }
        return Batch(inputs, offsets)


def _piece(frames: np.ndarray | None, shape: tuple[int, int]) -> Tensor:
    """Frames as `(layers, frames, dim)`; one silent token where there are none."""
    if frames is None or not len(frames):
        return torch.zeros(shape[0], STACKED_FRAMES, shape[1])
    return torch.from_numpy(np.array(frames)).float().transpose(0, 1)


def statements(
    attention_mask: Tensor, reasonings: Sequence[str], offsets: Sequence[Sequence[tuple[int, int]]]
) -> Tensor:
    """What a reasoning states of cues and emotions, at the last token of each; see `RewardModel.forward`.

    Args:
        attention_mask: `(batch, tokens)`, padded on the right.
        reasonings: The texts.
        offsets: Characters of each text that the row's last tokens cover.
    """
    found = torch.full(attention_mask.shape, UNSTATED)
    for row, (reasoning, covered) in enumerate(zip(reasonings, offsets, strict=True)):
        claims = [(claim.end, (claim.cue, claim.level)) for claim in claims_of(reasoning)]
        for end, stated in [*claims, *((mention.end, mention.emotion) for mention in find_mentions(reasoning))]:
            place = token_before(end, covered)
            if place is not None and stated in STATEMENTS:
                found[row, int(attention_mask[row].sum()) - len(covered) + place] = STATEMENTS[stated]
    return found


def token_before(end: int, offsets: Sequence[tuple[int, int]]) -> int | None:
    """Index of the token that holds the character before `end`; None where no token does."""
    return next((i for i, (begin, stop) in enumerate(offsets) if begin < end <= stop), None)


def pad_right(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Ids `(batch, tokens)` and their mask; what is padded is never looked at, so any id will do."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()
