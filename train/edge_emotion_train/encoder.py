"""Whisper's audio encoder at the clip's true length, cut after the layers that carry prosody.

Same mathematics and weights as `transformers.WhisperModel.encoder`, which insists on 30 s of padded input and cannot be
exported with a free length; the parity test holds the two together. Only the layers named by `layers` are kept.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from edge_emotion.errors import ConfigError

from .frontend import LogMel


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer of Whisper; `(batch, frames, dim)` to the same shape."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward_in = nn.Linear(dim, 4 * dim)
        self.feed_forward_out = nn.Linear(4 * dim, dim)

    def forward(self, states: Tensor) -> Tensor:
        batch, frames, dim = states.shape
        normed = self.attention_norm(states)
        query, key, value = (
            projection(normed).view(batch, frames, self.heads, dim // self.heads).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        states = states + self.output(attended.transpose(1, 2).reshape(batch, frames, dim))
        hidden = nn.functional.gelu(self.feed_forward_in(self.feed_forward_norm(states)))
        return states + self.feed_forward_out(hidden)


class WhisperEncoder(nn.Module):
    """Waveform `(batch, samples)` to the states after each kept layer, `(batch, layers, frames, dim)`, 50 frames/s."""

    def __init__(
        self, dim: int = 384, heads: int = 6, layers: int = 2, bands: int = 80, max_frames: int = 1500
    ) -> None:
        super().__init__()
        self.log_mel = LogMel(bands)
        self.convolution_1 = nn.Conv1d(bands, dim, kernel_size=3, padding=1)
        self.convolution_2 = nn.Conv1d(dim, dim, kernel_size=3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.zeros(max_frames, dim))
        self.layers = nn.ModuleList(EncoderLayer(dim, heads) for _ in range(layers))

    def forward(self, waveform: Tensor) -> Tensor:
        features = nn.functional.gelu(self.convolution_1(self.log_mel(waveform)))
        states = nn.functional.gelu(self.convolution_2(features)).transpose(1, 2)
        states = states + self.positions[: states.shape[1]]
        kept = []
        for layer in self.layers:
            states = layer(states)
            kept.append(states)
        return torch.stack(kept, dim=1)


_LAYER_NAMES = {
    "self_attn_layer_norm": "attention_norm",
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.out_proj": "output",
    "final_layer_norm": "feed_forward_norm",
    "fc1": "feed_forward_in",
    "fc2": "feed_forward_out",
}


def load_whisper_encoder(weights: Path, layers: int = 2) -> WhisperEncoder:
    """Builds the first layers of a Whisper encoder from Hugging Face weights.

    Args:
        weights: A `.safetensors` file with Hugging Face names, or a folder that holds one (for example a download of
            openai/whisper-tiny.en).
        layers: How many transformer layers to keep.

    Raises:
        ConfigError: No such file, no Whisper encoder in it, or fewer layers than asked for.
    """
    files = [weights] if weights.is_file() else sorted(weights.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"no encoder weights at {weights}: give a .safetensors file or a folder of openai/whisper-*")
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(files[0], framework="pt") as store:
            for name in store.keys():  # noqa: SIM118 - a safe_open handle has keys() but no iterator
                if "encoder." in name and "decoder." not in name:
                    tensors[name.split("encoder.", 1)[1]] = store.get_tensor(name).float()
    except SafetensorError as error:
        raise ConfigError(f"{files[0]} is not a .safetensors file: {error}") from error
    available = 1 + max((int(name.split(".")[1]) for name in tensors if name.startswith("layers.")), default=-1)
    if available < layers:
        raise ConfigError(f"{files[0]} holds {available} Whisper encoder layers, {layers} were asked for")
    dim, bands = tensors["conv1.weight"].shape[:2]
    encoder = WhisperEncoder(dim, dim // 64, layers, bands, tensors["embed_positions.weight"].shape[0])
    encoder.load_state_dict(_rename(tensors, layers))
    return encoder.eval().requires_grad_(False)


def _rename(tensors: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    renamed = {"positions": tensors["embed_positions.weight"]}
    for index in (1, 2):
        for part in ("weight", "bias"):
            renamed[f"convolution_{index}.{part}"] = tensors[f"conv{index}.{part}"]
    for layer in range(layers):
        for theirs, ours in _LAYER_NAMES.items():
            for part in ("weight", "bias"):
                if f"layers.{layer}.{theirs}.{part}" in tensors:
                    renamed[f"layers.{layer}.{ours}.{part}"] = tensors[f"layers.{layer}.{theirs}.{part}"]
    return renamed
