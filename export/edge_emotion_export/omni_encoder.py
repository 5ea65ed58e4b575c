"""The audio tower of Qwen2.5-Omni with Whisper's front end, waveform in, embeddings out, at the clip's true length.

The tower hears in chunks of 2 s that know nothing of each other, so a clip is a batch of chunks; the last one is padded
and masked. Same mathematics as `transformers`, whose own module cannot be exported; the gate holds the two together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniAudioEncoderConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import SinusoidsPositionEmbedding

from edge_emotion_train.frontend import DYNAMIC_RANGE_DECADES, HOP_SAMPLES, WINDOW_SAMPLES, LogMel, mel_filter_bank

TOKENS_PER_S = 25.0
MASKED = -30000.0  # its exponential is 0 in float32, and float16 can hold it


class Projection(nn.Module):
    """`nn.Linear` with its matrix stored `(in, out)`: the graph then multiplies by it as it is."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, values: Tensor) -> Tensor:
        product = torch.matmul(values, self.weight)
        return product if self.bias is None else product + self.bias


class WhisperFeatures(nn.Module):
    """Waveform `(1, samples)` to log-mel features `(1, bands, ceil(samples / 160))`, as `WhisperFeatureExtractor`.

    That pads with zeros to its maximal length: the signal is mirrored at its start and followed by silence.
    """

    kernels: Tensor
    filters: Tensor

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.register_buffer("kernels", LogMel(bands).kernels)
        self.register_buffer("filters", torch.tensor(mel_filter_bank(bands)))

    def forward(self, waveform: Tensor) -> Tensor:
        start = waveform[:, 1 : WINDOW_SAMPLES // 2 + 1].flip(1)
        # As many zeros as let every frame that touches the signal count for its maximum.
        silence = waveform.new_zeros((1, WINDOW_SAMPLES // 2 + 3 * HOP_SAMPLES))
        padded = torch.cat([start, waveform, silence], dim=1)
        spectrum = nn.functional.conv1d(padded[:, None, :], self.kernels, stride=HOP_SAMPLES)
        real, imaginary = spectrum.chunk(2, dim=1)
        power = torch.matmul(self.filters, real.square() + imaginary.square())
        log_power = power.clamp(min=1e-10).log10()
        floor = log_power.amax(dim=(1, 2), keepdim=True) - DYNAMIC_RANGE_DECADES
        features = (torch.maximum(log_power, floor) + 4.0) / 4.0
        frames = (waveform.shape[1] + HOP_SAMPLES - 1) // HOP_SAMPLES
        return features[:, :, :frames]


class ChunkAttention(nn.Module):
    """Attention within each chunk; names are the checkpoint's."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.v_proj, self.out_proj = (Projection(dim, dim) for _ in range(3))
        self.k_proj = Projection(dim, dim, bias=False)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        chunks, positions, dim = states.shape
        query, key, value = (
            projection(states).view(chunks, positions, self.heads, dim // self.heads).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = torch.matmul(query * (dim // self.heads) ** -0.5, key.transpose(2, 3)) + bias
        attended = torch.matmul(scores.softmax(dim=-1), value)
        return self.out_proj(attended.transpose(1, 2).reshape(chunks, positions, dim))


class ChunkLayer(nn.Module):
    """Pre-norm transformer layer of the audio tower."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = ChunkAttention(dim, heads)
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.fc1, self.fc2 = Projection(dim, hidden), Projection(hidden, dim)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        states = states + self.self_attn(self.self_attn_layer_norm(states), bias)
        states = states + self.fc2(nn.functional.gelu(self.fc1(self.final_layer_norm(states))))
        if states.dtype == torch.float16:  # as transformers does, so that one loud unit is not infinite
            limit = torch.finfo(torch.float16).max - 1000
            states = states.clamp(-limit, limit)
        return states


class ChunkTower(nn.Module):
    """Waveform `(1, samples)` at 16 kHz to embeddings `(1, tokens, dim)`, 25 a second."""

    positions: Tensor

    def __init__(self, config: Qwen2_5OmniAudioEncoderConfig) -> None:
        super().__init__()
        dim = config.d_model
        self.frames = 2 * config.n_window
        self.features = WhisperFeatures(config.num_mel_bins)
        self.conv1 = nn.Conv1d(config.num_mel_bins, dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, kernel_size=3, stride=2, padding=1)
        heads, hidden = config.encoder_attention_heads, config.encoder_ffn_dim
        self.layers = nn.ModuleList(ChunkLayer(dim, heads, hidden) for _ in range(config.encoder_layers))
        self.ln_post, self.proj = nn.LayerNorm(dim), Projection(dim, config.output_dim)
        table = SinusoidsPositionEmbedding(config.max_source_positions, dim).positional_embedding
        self.register_buffer("positions", table[: config.n_window].clone())

    def halve(self) -> ChunkTower:
        """The same tower computing in float16, but for the front end."""
        for module in (self.conv1, self.conv2, self.layers, self.ln_post, self.proj):
            module.half()
        return self

    def forward(self, waveform: Tensor) -> Tensor:
        features = self.features(waveform).to(self.conv1.weight.dtype)
        frames = features.shape[2]
        count = (frames + self.frames - 1) // self.frames
        padded = nn.functional.pad(features[0], (0, self.frames - 1))[:, : count * self.frames]
        chunks = padded.reshape(-1, count, self.frames).transpose(0, 1)
        heard = (torch.arange(count * self.frames) < frames).reshape(count, 1, self.frames).to(chunks.dtype)
        states = nn.functional.gelu(self.conv1(chunks)) * heard  # its bias sounds in the padding, too
        states = nn.functional.gelu(self.conv2(states)).transpose(1, 2) + self.positions.to(chunks.dtype)
        bias = ((1.0 - heard[:, :, ::2]) * MASKED)[:, None]
        for layer in self.layers:
            states = layer(states, bias)
        pairs = states.reshape(count * self.frames // 4, 2, -1)
        embeddings = self.proj(self.ln_post((pairs[:, 0] + pairs[:, 1]) / 2))
        tokens = ((frames - 1) // 2 + 1) // 2
        return embeddings[None, :tokens].float()
