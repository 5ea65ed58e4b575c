"""The recordings that parity is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_emotion.audio import load_audio
from edge_emotion.errors import ExportError
from edge_emotion_train.frontend import SAMPLE_RATE_HZ

from .onnx_encoder import MIN_SAMPLES

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


def load_clips(clips: Sequence[Path], max_samples: int) -> list[np.ndarray]:
    """Waveforms of recordings and of folders of recordings, float32 `(samples,)` at 16 kHz, cut to `max_samples`.

    Raises:
        ExportError: None are given, or one is too short to be encoded.
        AudioError: One cannot be read.
    """
    paths: list[Path] = []
    for clip in map(Path, clips):
        inside = sorted(path for path in clip.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
        found = inside if clip.is_dir() else [clip]
        if not found:
            raise ExportError(f"{clip} holds no recordings ({', '.join(AUDIO_SUFFIXES)})")
        paths += found
    if not paths:
        raise ExportError("parity is measured on real recordings: give some, or a folder of them, with --clips")
    waveforms = [load_audio(path).samples[:max_samples] for path in paths]
    short = [str(path) for path, waveform in zip(paths, waveforms, strict=True) if len(waveform) < MIN_SAMPLES]
    if short:
        limit_s = MIN_SAMPLES / SAMPLE_RATE_HZ
        raise ExportError(f"clips must be at least {limit_s:g} s long; shorter: {', '.join(short[:5])}")
    return [np.ascontiguousarray(waveform, dtype=np.float32) for waveform in waveforms]
