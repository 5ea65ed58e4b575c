"""Supervised fine-tuning of projector and language model on cached features, by transformers' Trainer.

The encoder stays frozen (its features are cached). Loss: words that state a cue and the answer count fully, the words
around them less, since there are many right ways to phrase them. On a share of the samples the audio tokens or the
evidence tokens are withheld, which keeps the model from memorising its clips (`EmotionThinker` trains billions of
parameters on hundreds of hours; a small one on half an hour memorises at once).

Which example comes when, which of its texts and what is withheld follow from the seed and the sample's number alone, so
a run that is cut off and resumed goes the same way.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from edge_emotion.prompt import Prompt

from .explanations import Explanation
from .features import FeatureSet
from .model import STACKED_FRAMES, AudioProjector, EvidenceProjector

FRAME_WORD_WEIGHT = 0.3
BATCHES_SORTED = 16
TIED_WEIGHTS = "lm_head.weight"


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


@dataclass(frozen=True)
class Text:
    """What may be written after an audio.

    Attributes:
        ids: Token ids after the audio, the prompt's end first.
        weights: Of predicting each of them; 0 for what is given.
        pieces: Stretches of the row's frames that are heard, in this order; None for all of them as they are.
    """

    ids: list[int]
    weights: list[float]
    pieces: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class Example:
    """Cached audio with its evidence and texts, of which one is drawn each time.

    Attributes:
        features: Where the audio is cached.
        row: Which row of it.
        cue_values: `(cues,)`.
        emotion_logits: `(labels,)`.
        texts: At least one.
        evidence: Whether evidence tokens may be heard.
        audio: Whether anything may be heard; False for examples of text alone.
    """

    features: FeatureSet
    row: int
    cue_values: Tensor
    emotion_logits: Tensor
    texts: Sequence[Text]
    evidence: bool = True
    audio: bool = True


class DrawnExamples(Dataset):
    """A fixed number of samples drawn from groups of examples, each group with its share."""

    def __init__(
        self,
        groups: Mapping[str, Sequence[Example]],
        shares: Mapping[str, float],
        samples: int,
        seed: int,
        frames_dropped: float = 0.0,
        evidence_dropped: float = 0.0,
        batch_size: int = 1,
    ) -> None:
        """Draws the order: shares by chance, the examples of a group in permutations of all, one after the other.

        Samples of about one length come together in batches, since the longest makes the cost of all.

        Args:
            groups: Examples by the name of their group.
            shares: How often each group is drawn, in any unit; groups without examples or share are left out.
            samples: How many samples there are.
            seed: Of every choice.
            frames_dropped: Share of samples whose audio tokens are withheld.
            evidence_dropped: Share of samples whose evidence tokens are withheld.
            batch_size: Samples that are padded to one length.
        """
        self.seed, self.frames_dropped, self.evidence_dropped = seed, frames_dropped, evidence_dropped
        self.groups = {name: groups[name] for name, share in shares.items() if share > 0 and groups.get(name)}
        names = list(self.groups)
        if not names:
            raise ValueError(f"no examples in groups {', '.join(shares)}")
        rng = np.random.default_rng(seed)
        share = np.array([shares[name] for name in names])
        drawn = rng.choice(len(names), size=samples, p=share / share.sum())
        self.order = [("", 0)] * samples
        for number, name in enumerate(names):
            places, examples = np.flatnonzero(drawn == number), self.groups[name]
            rounds = -(-len(places) // len(examples))
            chosen = np.concatenate([rng.permutation(len(examples)) for _ in range(rounds)] or [places])
            for place, index in zip(places.tolist(), chosen.tolist(), strict=False):
                self.order[place] = (name, index)
        self.order = self._alike_together(batch_size, rng)

    def _alike_together(self, batch_size: int, rng: np.random.Generator) -> list[tuple[str, int]]:
        """The order, sorted by length within the samples of some batches, which then come in any order."""
        arranged: list[tuple[str, int]] = []
        for start in range(0, len(self.order), BATCHES_SORTED * batch_size):
            some = sorted(self.order[start : start + BATCHES_SORTED * batch_size], key=self._frames)
            batches = [some[first : first + batch_size] for first in range(0, len(some), batch_size)]
            arranged += [sample for place in rng.permutation(len(batches)) for sample in batches[place]]
        return arranged

    def _frames(self, sample: tuple[str, int]) -> int:
        example = self.groups[sample[0]][sample[1]]
        return int(example.features.offsets[example.row + 1] - example.features.offsets[example.row])

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, item: int) -> dict[str, Any]:
        name, index = self.order[item]
        example = self.groups[name][index]
        rng = np.random.default_rng([self.seed, item])
        text = example.texts[int(rng.integers(len(example.texts)))]
        # One number for both: audio and evidence are never withheld together.
        drop = rng.random()
        hears_frames = example.audio and not (example.evidence and drop < self.frames_dropped)
        return {
            "frames": frames_of(example.features, example.row, text.pieces),
            "cue_values": example.cue_values,
            "emotion_logits": example.emotion_logits,
            "ids": text.ids,
            "weights": text.weights,
            "hears_frames": hears_frames,
            "hears_evidence": example.audio and example.evidence and drop <= 1.0 - self.evidence_dropped,
        }


def frames_of(features: FeatureSet, row: int, pieces: Sequence[tuple[int, int]] | None = None) -> Tensor:
    """Cached frames of a row, float32 `(layers, frames, dim)`, or stretches of them in another order."""
    start, end = (int(offset) for offset in features.offsets[row : row + 2])
    spans = [(start, end)] if pieces is None else [(start + first, start + last) for first, last in pieces]
    frames = np.concatenate([features.frames[first:last] for first, last in spans])
    return torch.from_numpy(frames).float().transpose(0, 1)


def explanation_examples(
    features: FeatureSet,
    cue_values: np.ndarray,
    emotion_logits: np.ndarray,
    explanations: Sequence[Sequence[Explanation]],
    tokenizer: Tokenizer,
    prompt: Prompt,
    max_duration_s: float,
) -> list[Example]:
    """Examples of every row that has explanations and is not too long."""
    values, logits = torch.from_numpy(cue_values).float(), torch.from_numpy(emotion_logits).float()
    return [
        Example(features, i, values[i], logits[i], [tokenise(text, tokenizer, prompt) for text in texts])
        for i, texts in enumerate(explanations)
        if texts and features.rows[i].duration_s <= max_duration_s
    ]


def text_examples(examples: Sequence[Example]) -> list[Example]:
    """The same texts without any audio: where nothing is heard, the answer can only follow from what was reasoned.

    Which cues are said cannot be known here, so no more weight lies on them than on other words.
    """
    found = []
    for example in examples:
        texts = [
            replace(
                text, weights=[weight if weight > 1.0 else min(weight, FRAME_WORD_WEIGHT) for weight in text.weights]
            )
            for text in example.texts
            if max(text.weights) > 1.0  # without an answer nothing follows
        ]
        if texts:
            found.append(replace(example, texts=texts, audio=False))
    return found


def tokenise(explanation: Explanation, tokenizer: Tokenizer, prompt: Prompt) -> Text:
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
        return Text(ids, weights + [1.0] + [0.0] * (len(end_of_thought) - 1))
    answer = tokenizer.encode(explanation.label).ids + tokenizer.encode(prompt.answer_close).ids
    return Text(ids + answer, weights + [1.0] * len(end_of_thought) + [2.0] * len(answer))


class Collator:
    """Pads samples into a batch and masks what each of them is not to hear."""

    def __init__(self, before_ids: list[int], evidence_tokens: int) -> None:
        self.before_ids = torch.tensor([before_ids])
        self.evidence_tokens = evidence_tokens

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
        mask[:, self.evidence_tokens :] &= torch.tensor([[sample["hears_frames"]] for sample in samples])
        mask[:, : self.evidence_tokens] &= torch.tensor([[sample["hears_evidence"]] for sample in samples])
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
    dataset: DrawnExamples,
    collator: Collator,
    output: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    save_every: int = 0,
    callbacks: Sequence[TrainerCallback] = (),
) -> list[dict[str, float]]:
    """Trains with AdamW and a cosine schedule; returns the logged history.

    fp32 on a CPU, bf16 on a GPU. Launched under `accelerate launch`, the same call trains on several GPUs.

    Args:
        model: Trained in place.
        dataset: `steps` x `batch_size` samples for every process.
        collator: Makes batches of them.
        output: Folder of logs and checkpoints; where it holds a complete checkpoint, training goes on from there.
        steps: Optimiser steps.
        batch_size: Samples per step and process.
        learning_rate: Peak.
        seed: Of whatever the trainer draws itself.
        save_every: Steps between checkpoints, 0 for none.
        callbacks: Called by the trainer.
    """
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        train_sampling_strategy="sequential",
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(40, steps // 10),
        weight_decay=0.01,
        max_grad_norm=1.0,
        logging_steps=25,
        save_strategy="steps" if save_every else "no",
        save_steps=save_every or steps,
        save_total_limit=2,
        report_to="none",
        seed=seed,
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        disable_tqdm=False,
    )
    trainer = _Trainer(
        model=model, args=arguments, train_dataset=dataset, data_collator=collator, callbacks=list(callbacks)
    )
    resume_from = last_checkpoint(output) if save_every else None
    with redirect_stdout(sys.stderr):  # Trainer writes its log lines where results go
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    return trainer.state.log_history


class _Trainer(Trainer):
    """transformers' Trainer, which can neither write nor read tied weights of a model that is not its own class."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        state = state_dict or self.accelerator.unwrap_model(self.model).state_dict()
        super()._save(output_dir, {name: tensor for name, tensor in state.items() if not name.endswith(TIED_WEIGHTS)})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target = self.accelerator.unwrap_model(self.model if model is None else model)
        target.load_state_dict(load_file(Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME), strict=False)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run that was written to its end, None where there is none."""
    found = [path.parent for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")]  # written last
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
