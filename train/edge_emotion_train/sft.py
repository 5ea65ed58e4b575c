"""Supervised fine-tuning of projector and language model on cached features, by transformers' Trainer.

The encoder stays frozen (its features are cached). Loss: words that state a cue and the answer count fully, the words
around them less, since there are many right ways to phrase them. On a share of the samples the audio tokens or the
evidence tokens are withheld, which keeps the model from memorising its clips (`EmotionThinker` trains billions of
parameters on hundreds of hours; a small one on half an hour memorises at once).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import LlamaForCausalLM, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from edge_emotion.prompt import Prompt

from .explanations import Explanation
from .features import FeatureSet
from .model import STACKED_FRAMES, AudioProjector, EvidenceProjector

FRAME_WORD_WEIGHT = 0.3


@dataclass(frozen=True)
class AudioInputs:
    """One batch of cached audio.

    Attributes:
        cue_values: `(batch, cues)`.
        emotion_logits: `(batch, labels)`.
        frames: `(batch, layers, frames, dim)`, zero-padded.
        token_mask: bool `(batch, evidence tokens + audio tokens)`, False where padded or withheld.
    """

    cue_values: Tensor
    emotion_logits: Tensor
    frames: Tensor
    token_mask: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> AudioInputs:
        """The batch on another device; accelerate moves by this method what is no plain tensor."""
        tensors = (self.cue_values, self.emotion_logits, self.frames, self.token_mask)
        return AudioInputs(*(tensor.to(device, non_blocking=non_blocking) for tensor in tensors))


class SpeechLanguageModel(nn.Module):
    """Projectors and language model over cached features, for training and evaluation in batches."""

    def __init__(self, evidence: EvidenceProjector, audio: AudioProjector, language_model: LlamaForCausalLM) -> None:
        super().__init__()
        self.evidence = evidence
        self.audio = audio
        self.language_model = language_model

    def embed(self, before_ids: Tensor, inputs: AudioInputs, after_ids: Tensor) -> Tensor:
        """Embeddings `(batch, before + audio + after, dim)` of text, audio, text."""
        embedding = self.language_model.get_input_embeddings()
        batch = len(inputs.frames)
        evidence = self.evidence(inputs.cue_values, inputs.emotion_logits)
        parts = [embedding(before_ids).expand(batch, -1, -1), evidence, self.audio(inputs.frames), embedding(after_ids)]
        return torch.cat(parts, dim=1)

    def forward(
        self,
        before_ids: Tensor,
        inputs: AudioInputs,
        text_ids: Tensor,
        text_mask: Tensor,
        targets: Tensor,
        weights: Tensor,
    ) -> dict[str, Tensor]:
        """Weighted cross-entropy of `targets` `(batch, text)`; `text_ids` begin with the prompt's end."""
        embeddings = self.embed(before_ids, inputs, text_ids)
        before_mask = inputs.token_mask.new_ones(len(text_ids), before_ids.shape[1])
        mask = torch.cat([before_mask, inputs.token_mask, text_mask], dim=1)
        hidden = self.language_model.model(
            inputs_embeds=embeddings, attention_mask=mask.long(), position_ids=position_ids(mask), use_cache=False
        ).last_hidden_state
        logits = self.language_model.lm_head(hidden[:, -text_ids.shape[1] :])
        losses = nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=0.05 if self.training else 0.0
        )
        return {"loss": (losses * weights.flatten()).sum() / weights.sum().clamp(min=1.0)}


def position_ids(mask: Tensor) -> Tensor:
    """Positions `(batch, tokens)` that count only tokens that are there, as the runtime's unpadded prompt does."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


class ExplanationDataset(Dataset):
    """Rows with their evidence and tokenised explanations; a random one of a row's texts each time."""

    def __init__(
        self,
        features: FeatureSet,
        cue_values: np.ndarray,
        emotion_logits: np.ndarray,
        explanations: Sequence[Sequence[Explanation]],
        tokenizer: Tokenizer,
        prompt: Prompt,
        max_duration_s: float,
    ) -> None:
        self.features = features
        self.cue_values = torch.from_numpy(cue_values).float()
        self.emotion_logits = torch.from_numpy(emotion_logits).float()
        self.indices = [
            index
            for index, texts in enumerate(explanations)
            if texts and features.rows[index].duration_s <= max_duration_s
        ]
        self.texts = {
            index: [tokenise(text, tokenizer, prompt) for text in explanations[index]] for index in self.indices
        }

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> dict[str, Any]:
        index = self.indices[item]
        texts = self.texts[index]
        ids, weights = texts[int(torch.randint(len(texts), ()))]
        start, end = self.features.offsets[index : index + 2]
        return {
            "frames": torch.from_numpy(np.array(self.features.frames[start:end])).float().transpose(0, 1),
            "cue_values": self.cue_values[index],
            "emotion_logits": self.emotion_logits[index],
            "ids": ids,
            "weights": weights,
        }


def tokenise(explanation: Explanation, tokenizer: Tokenizer, prompt: Prompt) -> tuple[list[int], list[float]]:
    """Token ids after the audio and the weight of predicting each of them (0 for the prompt's own end)."""
    ids = tokenizer.encode(prompt.after_audio).ids
    weights = [0.0] * len(ids)
    encoded = tokenizer.encode(explanation.reasoning)
    ids += encoded.ids
    weights += [
        1.0 if any(start < stop and end > begin for begin, stop in explanation.cue_spans) else FRAME_WORD_WEIGHT
        for start, end in encoded.offsets
    ]
    end_of_thought = tokenizer.encode(prompt.answer_open).ids
    ids += end_of_thought
    if explanation.label is None:
        return ids, weights + [1.0] + [0.0] * (len(end_of_thought) - 1)
    answer = tokenizer.encode(explanation.label).ids + tokenizer.encode(prompt.answer_close).ids
    return ids + answer, weights + [1.0] * len(end_of_thought) + [2.0] * len(answer)


class Collator:
    """Pads samples into a batch and withholds audio or evidence tokens at random."""

    def __init__(
        self, before_ids: list[int], evidence_tokens: int, frames_dropped: float, evidence_dropped: float
    ) -> None:
        self.before_ids = torch.tensor([before_ids])
        self.evidence_tokens = evidence_tokens
        self.frames_dropped = frames_dropped
        self.evidence_dropped = evidence_dropped

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        length = max(len(sample["ids"]) for sample in samples)
        text_ids = torch.zeros(len(samples), length, dtype=torch.long)
        targets = torch.zeros_like(text_ids)
        weights = torch.zeros(len(samples), length)
        text_mask = torch.zeros(len(samples), length, dtype=torch.bool)
        for i, sample in enumerate(samples):
            ids = torch.tensor(sample["ids"])
            text_ids[i, : len(ids)], text_mask[i, : len(ids)] = ids, True
            targets[i, : len(ids) - 1] = ids[1:]
            weights[i, : len(ids) - 1] = torch.tensor(sample["weights"][1:])
        return {
            "before_ids": self.before_ids,
            "inputs": self.audio_inputs(samples),
            "text_ids": text_ids,
            "text_mask": text_mask,
            "targets": targets,
            "weights": weights,
        }

    def audio_inputs(self, samples: Sequence[dict[str, Any]]) -> AudioInputs:
        """The audio side of a batch, frames padded to a whole number of tokens."""
        frames, mask = pad_frames([sample["frames"] for sample in samples], self.evidence_tokens)
        drop = torch.rand(len(samples))
        mask[drop < self.frames_dropped, self.evidence_tokens :] = False
        mask[drop > 1.0 - self.evidence_dropped, : self.evidence_tokens] = False
        return AudioInputs(
            torch.stack([sample["cue_values"] for sample in samples]),
            torch.stack([sample["emotion_logits"] for sample in samples]),
            frames,
            mask,
        )


def pad_frames(pieces: Sequence[Tensor], evidence_tokens: int) -> tuple[Tensor, Tensor]:
    """Pads `(layers, frames, dim)` pieces; returns them `(batch, layers, frames, dim)` and the mask of audio tokens."""
    tokens = [-(-piece.shape[1] // STACKED_FRAMES) for piece in pieces]
    frames = torch.zeros(len(pieces), pieces[0].shape[0], max(tokens) * STACKED_FRAMES, pieces[0].shape[2])
    mask = torch.zeros(len(pieces), evidence_tokens + max(tokens), dtype=torch.bool)
    for i, piece in enumerate(pieces):
        frames[i, :, : piece.shape[1]] = piece
        mask[i, : evidence_tokens + tokens[i]] = True
    return frames, mask


def train_language_model(
    model: SpeechLanguageModel,
    dataset: ExplanationDataset,
    collator: Collator,
    output: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    save_steps: int = 0,
) -> list[dict[str, float]]:
    """Trains with AdamW and a cosine schedule; returns the logged history.

    With `save_steps` the state is saved every so many steps, and a training that was interrupted goes on from there.

    fp32 on a CPU, bf16 on a GPU. Launched under `accelerate launch`, the same call trains on several GPUs.
    """
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(40, steps // 10),
        weight_decay=0.01,
        max_grad_norm=1.0,
        logging_steps=25,
        save_strategy="steps" if save_steps else "no",
        save_steps=save_steps or 500,
        save_total_limit=1,
        report_to="none",
        seed=seed,
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        disable_tqdm=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=collator)
    with redirect_stdout(sys.stderr):  # Trainer writes its log lines where results go
        trainer.train(resume_from_checkpoint=get_last_checkpoint(output) if save_steps and output.is_dir() else None)
    return trainer.state.log_history
