"""The speech language model: Whisper encoder, evidence heads, projector, and a small causal language model.

Follows EmotionThinker's encoder -> projector -> LLM. Two additions for small models, both from the audio alone:
utterance statistics of the encoder's middle layers feed linear heads (emotion, and the value of each cue), and their
outputs become a few evidence tokens in front of the audio tokens. Whisper's last layer is the worst for prosody, so the
projector sees a learned mix of the first layers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from edge_emotion.cues import CUES

from .encoder import WhisperEncoder

ENCODER_FRAMES_PER_S = 50
POOLED_FRAMES = 2  # encoder frames averaged into one cached frame: 25 per second
STACKED_FRAMES = 4  # cached frames stacked into one audio token: 6.25 per second
MOST_LEVELS = max(len(cue.levels) for cue in CUES)
UNREACHED = 1e4
TOKENS_PER_S = ENCODER_FRAMES_PER_S / (POOLED_FRAMES * STACKED_FRAMES)


def pool_frames(states: Tensor) -> Tensor:
    """Means of neighbouring frames: `(..., frames, dim)` to `(..., ceil(frames / 2), dim)`; a lone last frame stays."""
    padded = torch.cat([states, states[..., -1:, :]], dim=-2)
    even = states.shape[-2] + states.shape[-2] % POOLED_FRAMES
    pairs = padded[..., :even, :]
    return pairs.unflatten(-2, (-1, POOLED_FRAMES)).mean(dim=-2)


def utterance_statistics(states: Tensor) -> Tensor:
    """What a clip is like as a whole: `(batch, layers, frames, dim)` to `(batch, layers * 4 * dim)`.

    Mean (level), standard deviation (range), first temporal moment (slope) and mean absolute frame difference (rate).
    """
    frames = states.shape[2]
    mean = states.mean(dim=2)
    centred = states - mean.unsqueeze(2)
    deviation = (centred.square().mean(dim=2) + 1e-8).sqrt()
    time = (torch.arange(frames, device=states.device, dtype=states.dtype) + 0.5) / frames * 2 - 1
    moment = (centred * time[:, None]).mean(dim=2)
    movement = (states[:, :, 1:] - states[:, :, :-1]).abs().mean(dim=2)
    return torch.cat([mean, deviation, moment, movement], dim=-1).flatten(1)


class EvidenceHeads(nn.Module):
    """Standardised statistics `(batch, features)` to cue values `(batch, cues)` and emotion logits `(batch, labels)`.

    Fitted in closed form by `evidence.py`; cue values are in standard deviations of the training population.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, cues: int, labels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.cues = nn.Linear(features, cues)
        self.emotions = nn.Linear(features, labels)

    def forward(self, statistics: Tensor) -> tuple[Tensor, Tensor]:
        standardised = (statistics - self.mean) / self.scale
        return self.cues(standardised), self.emotions(standardised)


class EvidenceProjector(nn.Module):
    """Cue values `(batch, cues)` and emotion logits `(batch, labels)` to evidence tokens `(batch, tokens, dim)`.

    A cue value becomes a probability of each level first (ordinal probit: a normal error around the predicted value),
    so that the language model reads how sure a level is, and can leave out what is not.
    """

    cuts: Tensor
    deviation: Tensor

    def __init__(self, cues: int, labels: int, tokens: int, dim: int, hidden: int = 256) -> None:
        super().__init__()
        self.tokens = tokens
        # Standardised cut points, padded with values no cue ever reaches, and the heads' usual errors.
        self.register_buffer("cuts", torch.full((cues, MOST_LEVELS - 1), UNREACHED))
        self.register_buffer("deviation", torch.ones(cues))
        inputs = cues * MOST_LEVELS + labels
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, tokens * dim))

    def level_probabilities(self, cue_values: Tensor) -> Tensor:
        """Probability of each level, from low to high, `(batch, cues, levels)`."""
        below = 0.5 * (
            1.0 + torch.erf((self.cuts - cue_values[..., None]) / (self.deviation[:, None] * math.sqrt(2.0)))
        )
        return torch.cat([below, torch.ones_like(below[..., :1])], -1) - torch.cat(
            [torch.zeros_like(below[..., :1]), below], -1
        )

    def forward(self, cue_values: Tensor, emotion_logits: Tensor) -> Tensor:
        evidence = torch.cat([self.level_probabilities(cue_values).flatten(1), emotion_logits.softmax(dim=-1)], dim=-1)
        return self.layers(2.0 * evidence - 1.0).unflatten(-1, (self.tokens, -1))


class AudioProjector(nn.Module):
    """Pooled states `(batch, layers, frames, encoder_dim)` to audio tokens `(batch, ceil(frames / 4), dim)`."""

    def __init__(self, layers: int, encoder_dim: int, dim: int, hidden: int = 384) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(layers))
        self.norm = nn.LayerNorm(encoder_dim)
        self.layers = nn.Sequential(nn.Linear(STACKED_FRAMES * encoder_dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, pooled: Tensor) -> Tensor:
        # Padding comes first, so that a padded batch in training and a single clip on the device agree.
        missing = (STACKED_FRAMES - pooled.shape[2] % STACKED_FRAMES) % STACKED_FRAMES
        padded = nn.functional.pad(pooled, (0, 0, 0, missing))
        mixed = self.norm((padded * self.mix.softmax(dim=0)[:, None, None]).sum(dim=1))
        stacked = mixed.unflatten(1, (-1, STACKED_FRAMES)).flatten(2)
        return self.layers(stacked)


class AudioTower(nn.Module):
    """All that runs on the audio: waveform `(1, samples)` to `embeddings` `(1, tokens, dim)` and `emotion_logits`.

    This is the graph that export turns into ONNX. The evidence tokens come first, then the audio tokens in time.
    """

    def __init__(
        self, encoder: WhisperEncoder, heads: EvidenceHeads, evidence: EvidenceProjector, audio: AudioProjector
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = heads
        self.evidence = evidence
        self.audio = audio

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        states = self.encoder(waveform)
        cue_values, emotion_logits = self.heads(utterance_statistics(states))
        tokens = [self.evidence(cue_values, emotion_logits), self.audio(pool_frames(states))]
        return torch.cat(tokens, dim=1), emotion_logits


def build_language_model(
    vocabulary: int, dim: int = 128, layers: int = 4, heads: int = 2, context_tokens: int = 512, dropout: float = 0.0
) -> LlamaForCausalLM:
    """A Llama-type language model with tied embeddings; `dim` must be a multiple of 32 for the quantised kernels."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=dim,
            intermediate_size=3 * dim,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=context_tokens,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            attention_dropout=dropout,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    )
