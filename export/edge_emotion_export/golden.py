"""The PyTorch reference of a checkpoint, and `golden.npz`: what it says on a few short clips.

`edge-emotion verify` replays the clips on a device, tap by tap; the parity gates compare on many more clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edge_emotion_train.checkpoint import Checkpoint
from edge_emotion_train.frontend import SAMPLE_RATE_HZ

GOLDEN_CLIPS = 3
GOLDEN_CANDIDATES = 24
GOLDEN_SECONDS = 2.0
END_TOKEN = "<|end|>"


@dataclass(frozen=True)
class ReferenceClip:
    """What the checkpoint itself, in float32, makes of one clip.

    Attributes:
        waveform: float32 `(samples,)` at 16 kHz.
        embeddings: float32 `(tokens, dim)`.
        emotion_logits: float32 `(labels,)`.
        thought: Token ids of the greedy thinking, without what ended it.
        logits: float32 `(1 + len(thought), vocabulary)`: after the prompt, and after each token of the thought.
        text: The thought as text.
        label_scores: Log-probability of each label and the closing text after the forced answer, `(labels,)`.
    """

    waveform: np.ndarray
    embeddings: np.ndarray
    emotion_logits: np.ndarray
    thought: tuple[int, ...]
    logits: np.ndarray
    text: str
    label_scores: np.ndarray


def end_token(checkpoint: Checkpoint) -> str:
    """The token that ends a text: `<|end|>` where the tokenizer has it, else the tag that closes the answer."""
    return END_TOKEN if checkpoint.tokenizer.token_to_id(END_TOKEN) is not None else checkpoint.prompt.answer_close


def stop_token_ids(checkpoint: Checkpoint) -> frozenset[int]:
    """Tokens that end the thinking: the first of each stop text, and the end of the text."""
    texts = (*checkpoint.prompt.stop, end_token(checkpoint))
    return frozenset(checkpoint.tokenizer.encode(text, add_special_tokens=False).ids[0] for text in texts)


@torch.inference_mode()
def run_reference(checkpoint: Checkpoint, waveform: np.ndarray) -> ReferenceClip:
    """Runs the whole checkpoint on one clip, float32 `(samples,)`."""
    prompt, tokenizer = checkpoint.prompt, checkpoint.tokenizer
    embeddings, emotion_logits = checkpoint.tower(torch.from_numpy(waveform)[None])
    before, after, opening = (
        tokenizer.encode(text, add_special_tokens=False).ids
        for text in (prompt.before_audio, prompt.after_audio, prompt.answer_open)
    )
    start = torch.cat([_embed(checkpoint, before), embeddings, _embed(checkpoint, after)], dim=1)
    labels = prompt.texts_of(checkpoint.labels)
    thought, logits = _think(checkpoint, start)
    answer = torch.cat([start, _embed(checkpoint, [*thought, *opening])], dim=1)
    return ReferenceClip(
        waveform=waveform,
        embeddings=embeddings[0].numpy(),
        emotion_logits=emotion_logits[0].numpy(),
        thought=tuple(thought),
        logits=logits.numpy(),
        text=tokenizer.decode(thought, skip_special_tokens=False),
        label_scores=np.array([_score(checkpoint, answer, text + prompt.answer_close) for text in labels]),
    )


def _embed(checkpoint: Checkpoint, token_ids: Sequence[int]) -> torch.Tensor:
    return checkpoint.language_model.get_input_embeddings()(torch.tensor([list(token_ids)], dtype=torch.long))


def _think(checkpoint: Checkpoint, start: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    stops, thought = stop_token_ids(checkpoint), []
    output = checkpoint.language_model(inputs_embeds=start, use_cache=True)
    rows = [output.logits[0, -1]]
    while len(thought) < checkpoint.prompt.max_think_tokens:
        token = int(rows[-1].argmax())
        if token in stops:
            break
        thought.append(token)
        output = checkpoint.language_model(
            inputs_embeds=_embed(checkpoint, [token]), past_key_values=output.past_key_values, use_cache=True
        )
        rows.append(output.logits[0, -1])
    return thought, torch.stack(rows)


def _score(checkpoint: Checkpoint, context: torch.Tensor, text: str) -> float:
    token_ids = checkpoint.tokenizer.encode(text, add_special_tokens=False).ids
    inputs = torch.cat([context, _embed(checkpoint, token_ids[:-1])], dim=1)
    logits = checkpoint.language_model(inputs_embeds=inputs).logits[0, -len(token_ids) :]
    return float(logits.double().log_softmax(dim=-1)[range(len(token_ids)), token_ids].sum())


def choose_golden(checkpoint: Checkpoint, waveforms: Sequence[np.ndarray]) -> list[ReferenceClip]:
    """Golden clips from recordings cut to their first seconds and rounded to float16, in which they are stored.

    Those whose greedy text hangs on no near tie are taken: another processor must be able to write the same words.
    """
    samples = round(GOLDEN_SECONDS * SAMPLE_RATE_HZ)
    cut = [waveform[:samples].astype(np.float16).astype(np.float32) for waveform in waveforms[:GOLDEN_CANDIDATES]]
    clips = [run_reference(checkpoint, waveform) for waveform in cut]
    return sorted(clips, key=smallest_lead, reverse=True)[:GOLDEN_CLIPS]


def smallest_lead(clip: ReferenceClip) -> float:
    """Smallest lead of a chosen token's logit over the next best."""
    best = np.partition(clip.logits, -2, axis=-1)
    return float((best[:, -1] - best[:, -2]).min())


def save_golden(path: Path, clips: Sequence[ReferenceClip], max_think_tokens: int | None = None) -> None:
    """Writes `clip{i}_waveform` (float16), `_embeddings`, `_emotion_logits`, `_first_logits`, `_text` per clip.

    Args:
        path: File to write.
        clips: What the reference says; emotion logits may be empty and are then left out.
        max_think_tokens: Where the texts are shorter than the prompt allows.
    """
    taps = {} if max_think_tokens is None else {"max_think_tokens": np.array(max_think_tokens)}
    for index, clip in enumerate(clips):
        taps |= {
            f"clip{index}_waveform": clip.waveform.astype(np.float16),
            f"clip{index}_embeddings": clip.embeddings,
            f"clip{index}_emotion_logits": clip.emotion_logits,
            f"clip{index}_first_logits": clip.logits[0],
            f"clip{index}_text": np.array(clip.text),
        }
        if not clip.emotion_logits.size:
            del taps[f"clip{index}_emotion_logits"]
    partial = path.with_name(path.stem + ".partial.npz")
    np.savez_compressed(partial, **taps)  # type: ignore[arg-type]
    partial.rename(path)
