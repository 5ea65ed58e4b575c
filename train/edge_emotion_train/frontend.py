"""Whisper's log-mel front end as a torch module that exports into the encoder's graph, made independent of gain.

Method: openai/whisper `audio.py` (25 ms Hann window, 10 ms hop, 80 Slaney mel bands, log10, 8 decades of range). Three
departures: the loudest bin is always at the same place (a microphone's gain is unknown, so no answer may depend on it);
bands that reach above 7 kHz repeat the last one below (resamplers and codecs cut there, so no answer may depend on it);
and the signal is padded with zeros instead of its reflection, which every runtime computes alike.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

SAMPLE_RATE_HZ = 16000
WINDOW_SAMPLES = 400
HOP_SAMPLES = 160
MEL_BANDS = 80
# Where Whisper sees the maximum of loud, close speech: log10 power of about 1.5 before its (x + 4) / 4.
REFERENCE_LOG_POWER = 1.5
DYNAMIC_RANGE_DECADES = 8.0
HIGHEST_TRUSTED_HZ = 7000.0


def mel_filter_bank(bands: int = MEL_BANDS) -> np.ndarray:
    """Slaney-normalised triangular mel filters, float32 `(bands, 201)`; equal to Whisper's own table."""
    from transformers.audio_utils import mel_filter_bank as hugging_face_filters

    filters = hugging_face_filters(
        num_frequency_bins=1 + WINDOW_SAMPLES // 2,
        num_mel_filters=bands,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE_HZ / 2,
        sampling_rate=SAMPLE_RATE_HZ,
        norm="slaney",
        mel_scale="slaney",
    )
    return np.ascontiguousarray(filters.T, dtype=np.float32)


def hold_highest_bands(filters: np.ndarray) -> np.ndarray:
    """Filters `(bands, bins)` in which every band that reaches above 7 kHz repeats the last one that does not."""
    bin_hz = SAMPLE_RATE_HZ / WINDOW_SAMPLES
    reach_hz = np.array([np.flatnonzero(row).max() for row in filters]) * bin_hz
    last = int(np.flatnonzero(reach_hz <= HIGHEST_TRUSTED_HZ).max())
    return filters[np.minimum(np.arange(len(filters)), last)]


class LogMel(nn.Module):
    """Waveform `(batch, samples)` at 16 kHz to log-mel features `(batch, bands, samples // 160)`."""

    kernels: Tensor
    filters: Tensor

    def __init__(self, bands: int = MEL_BANDS) -> None:
        super().__init__()
        window = np.hanning(WINDOW_SAMPLES + 1)[:-1]
        angles = 2 * np.pi * np.outer(np.arange(1 + WINDOW_SAMPLES // 2), np.arange(WINDOW_SAMPLES)) / WINDOW_SAMPLES
        kernels = np.concatenate([np.cos(angles), -np.sin(angles)]) * window
        self.register_buffer("kernels", torch.tensor(kernels[:, None, :], dtype=torch.float32), persistent=False)
        self.register_buffer("filters", torch.tensor(hold_highest_bands(mel_filter_bank(bands))), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        level = waveform.abs().amax(dim=1, keepdim=True).clamp(min=1e-9)
        padded = nn.functional.pad(waveform / level, (WINDOW_SAMPLES // 2, WINDOW_SAMPLES // 2 - HOP_SAMPLES))
        spectrum = nn.functional.conv1d(padded[:, None, :], self.kernels, stride=HOP_SAMPLES)
        real, imaginary = spectrum.chunk(2, dim=1)
        power = torch.matmul(self.filters, real.square() + imaginary.square())
        log_power = power.clamp(min=1e-10).log10()
        loudest = log_power.amax(dim=(1, 2), keepdim=True)
        relative = torch.maximum(log_power - loudest, torch.full_like(loudest, -DYNAMIC_RANGE_DECADES))
        return (relative + REFERENCE_LOG_POWER + 4.0) / 4.0
