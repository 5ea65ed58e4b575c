"""Recordings that cannot be used cost no other: they are named and left out, up to a share that means a mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_emotion.errors import CorpusError
from edge_emotion_train.corpora import Clip, read_corpus
from edge_emotion_train.features import extract_features


@pytest.fixture
def corpus(tmp_path: Path, voice: Callable[[int, float], np.ndarray]) -> tuple[list[tuple[Clip, int]], Path]:
    """Eight clips in EmoDB's layout, and their folder."""
    folder = tmp_path / "emodb" / "wav"
    folder.mkdir(parents=True)
    for i in range(8):
        soundfile.write(folder / f"03a0{i % 7 + 1}{'WN'[i // 7]}a.wav", voice(i, 0.8), 16000)
    return [(clip, 0) for clip in read_corpus("emodb", folder.parent)], folder


@pytest.fixture
def weights(tmp_path: Path, transformers_encoder: Callable, write_weights: Callable) -> Path:
    return write_weights(transformers_encoder(max_frames=150, dim=64), tmp_path / "encoder.safetensors")


def test_a_corrupt_and_a_silent_recording_are_named_and_left_out(
    corpus: tuple[list[tuple[Clip, int]], Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks, _ = corpus
    corrupt, silent = (Path(tasks[i][0].path) for i in (1, 4))
    corrupt.write_bytes(b"RIFF....WAVEnothing")
    soundfile.write(silent, np.zeros(16000, np.float32), 16000)
    features = extract_features(tasks, weights, 2, tmp_path / "cache", processes=1)
    assert len(features.rows) == 6
    lost = {tasks[i][0].clip_id for i in (1, 4)}
    assert not lost & {row.clip for row in features.rows}
    told = [line for line in capsys.readouterr().err.splitlines() if line.endswith("it is left out")]
    assert len(told) == 2
    assert all(any(str(path) in line for line in told) for path in (corrupt, silent))
    assert any("nobody speaks" in line for line in told)


def test_too_many_of_them_end_the_run(
    corpus: tuple[list[tuple[Clip, int]], Path], weights: Path, tmp_path: Path
) -> None:
    tasks, _ = corpus
    for clip, _ in tasks[:6]:
        Path(clip.path).write_bytes(b"nothing")
    with pytest.raises(CorpusError, match="6 of 8 clips gave no features, first: "):
        extract_features(tasks, weights, 2, tmp_path / "cache", processes=1)
    assert not (tmp_path / "cache").exists()
