"""The encoder against transformers' Whisper, and what it says of files it cannot use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edge_emotion.errors import ConfigError
from edge_emotion_train.encoder import load_whisper_encoder

Make = Callable[..., torch.nn.Module]


def largest_differences(theirs: torch.nn.Module, weights: Path, waveform: np.ndarray) -> list[float]:
    """Largest differences of the states after each layer, given the same log-mel features."""
    ours = load_whisper_encoder(weights)
    batch = torch.from_numpy(waveform)[None]
    with torch.inference_mode():
        states = ours(batch)[0]
        expected = theirs(ours.log_mel(batch), output_hidden_states=True).hidden_states
        # transformers norms what leaves its last layer; the layers in between come as they are.
        pairs = [(states[0], expected[1][0]), (theirs.layer_norm(states[1]), expected[2][0])]
    return [float((left - right).abs().max()) for left, right in pairs]


@pytest.mark.parametrize("prefix", ["encoder.", "model.encoder."])
def test_states_equal_transformers(
    tmp_path: Path, transformers_encoder: Make, write_weights: Make, voice: Callable, prefix: str
) -> None:
    theirs = transformers_encoder(max_frames=100)
    weights = write_weights(theirs, tmp_path / "encoder.safetensors", prefix)
    assert max(largest_differences(theirs, weights, voice(0, 2.0))) < 1e-5


def test_states_equal_transformers_on_thirty_seconds(
    tmp_path: Path, transformers_encoder: Make, write_weights: Make, voice: Callable
) -> None:
    theirs = transformers_encoder(max_frames=1500, dim=64)
    write_weights(theirs, tmp_path / "model.safetensors")
    assert max(largest_differences(theirs, tmp_path, voice(0, 30.0))) < 1e-5


def test_a_short_clip_has_the_first_positions(
    tmp_path: Path, transformers_encoder: Make, write_weights: Make, voice: Callable
) -> None:
    """transformers insists on its full length; an encoder of that length with the first positions must agree."""
    theirs = transformers_encoder(max_frames=100)
    weights = write_weights(theirs, tmp_path / "encoder.safetensors")
    shorter = transformers_encoder(max_frames=40)
    tensors = theirs.state_dict()
    shorter.load_state_dict(tensors | {"embed_positions.weight": tensors["embed_positions.weight"][:40]})
    assert max(largest_differences(shorter, weights, voice(2, 0.8))) < 1e-5


def test_fewer_layers_are_the_first_ones(
    tmp_path: Path, transformers_encoder: Make, write_weights: Make, voice: Callable
) -> None:
    weights = write_weights(transformers_encoder(layers=3), tmp_path / "encoder.safetensors")
    waveform = torch.from_numpy(voice(1, 0.7))[None]
    two, three = load_whisper_encoder(weights, 2), load_whisper_encoder(weights, 3)
    with torch.inference_mode():
        assert two(waveform).shape == (1, 2, 35, 128)
        torch.testing.assert_close(two(waveform), three(waveform)[:, :2])


def test_loaded_encoder_is_frozen_and_half_precision_files_are_widened(
    tmp_path: Path, transformers_encoder: Make, write_weights: Make
) -> None:
    encoder = load_whisper_encoder(write_weights(transformers_encoder().half(), tmp_path / "half.safetensors"))
    assert not encoder.training
    assert all(not p.requires_grad and p.dtype == torch.float32 for p in encoder.parameters())


def test_missing_file_is_named(tmp_path: Path) -> None:
    for given in (tmp_path, tmp_path / "absent.safetensors"):
        with pytest.raises(ConfigError, match=r"no encoder weights at .*safetensors"):
            load_whisper_encoder(given)


def test_too_few_layers_are_counted(tmp_path: Path, transformers_encoder: Make, write_weights: Make) -> None:
    weights = write_weights(transformers_encoder(), tmp_path / "encoder.safetensors")
    with pytest.raises(ConfigError, match="holds 2 Whisper encoder layers, 3 were asked for"):
        load_whisper_encoder(weights, layers=3)


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    save_file({"encoder.layer.0.weight": torch.zeros(2)}, tmp_path / "bert.safetensors")
    with pytest.raises(ConfigError, match="holds 0 Whisper encoder layers"):
        load_whisper_encoder(tmp_path / "bert.safetensors")
    (tmp_path / "page.safetensors").write_text("<html>not found</html>")
    with pytest.raises(ConfigError, match=r"is not a \.safetensors file"):
        load_whisper_encoder(tmp_path / "page.safetensors")
