"""What every audio-encoder runtime must do; the fixture `encoder` runs these for each of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edge_emotion.errors import AudioError, RuntimeUnavailableError


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.1, 1.0, 2.345, 30.0])
def test_shapes_follow_the_true_length(encoder, tiny, seconds):
    samples = noise(int(16000 * seconds))
    output = encoder.encode(samples)
    assert output.embeddings.shape == (len(samples) // tiny.samples_per_token, tiny.embedding_dim)
    assert output.emotion_logits.shape == (len(tiny.labels),)
    assert output.embeddings.dtype == output.emotion_logits.dtype == np.float32


def test_the_same_samples_give_the_same_numbers(encoder):
    first, again = encoder.encode(noise(16000)), encoder.encode(noise(16000))
    np.testing.assert_array_equal(first.embeddings, again.embeddings)
    np.testing.assert_array_equal(first.emotion_logits, again.emotion_logits)


def test_an_earlier_output_is_not_overwritten(encoder):
    output = encoder.encode(noise(16000, seed=1))
    kept = output.embeddings.copy()
    encoder.encode(noise(16000, seed=2))
    np.testing.assert_array_equal(output.embeddings, kept)


def test_samples_that_are_a_view(encoder):
    samples = noise(32000)
    np.testing.assert_array_equal(
        encoder.encode(samples[::2]).embeddings, encoder.encode(samples[::2].copy()).embeddings
    )


def test_threads_do_not_disturb_each_other(encoder):
    clips = [noise(8000 + 1600 * index, index) for index in range(8)]
    alone = [encoder.encode(clip).emotion_logits for clip in clips]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda clip: encoder.encode(clip).emotion_logits, clips))
    np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0, np.float32),
        np.zeros(399, np.float32),
        np.zeros(16000),
        np.zeros(16000, np.int16),
        np.zeros((1, 16000), np.float32),
        np.full(16000, np.nan, np.float32),
        np.full(16000, -np.inf, np.float32),
        [0.0] * 16000,
    ],
    ids=["none", "too few", "float64", "int16", "two axes", "nan", "infinity", "list"],
)
def test_what_is_not_audio_is_refused(encoder, samples):
    with pytest.raises(AudioError):
        encoder.encode(samples)
    assert np.isfinite(encoder.encode(noise(16000)).emotion_logits).all()


def test_close_twice_then_encoding_is_refused(encoder):
    encoder.close()
    encoder.close()
    with pytest.raises(RuntimeUnavailableError, match="closed"):
        encoder.encode(noise(16000))


def test_describe_tells_what_runs(encoder, tiny):
    described = encoder.describe()
    assert described["embedding_dim"] == tiny.embedding_dim
    assert described["labels"] == list(tiny.labels)
    assert described["sample_rate_hz"] == 16000
    assert described["fallbacks"] == []
    assert described["providers"]
    assert described["version"]
