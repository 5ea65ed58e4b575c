"""Frozen encoder features and measured prosody of every clip and its augmented variants, computed once and cached.

The encoder does not train, so each clip passes through it once; what follows (evidence heads, language model, folds)
reads from this cache. The same speech window, front end and measures are used here as on the device.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from edge_emotion.audio import SAMPLE_RATE_HZ, load_audio
from edge_emotion.cues import CUES
from edge_emotion.errors import AudioError, CorpusError
from edge_emotion.prosody import measure_prosody
from edge_emotion.speech import find_speech
from edge_emotion.windows import cut_windows, window_samples

from .augment import augment
from .corpora import Clip
from .encoder import WhisperEncoder, load_whisper_encoder
from .labelling.calibrate import SPEECH_CUES
from .model import pool_frames, utterance_statistics

# Raise when anything that changes the cached numbers changes: front end, encoder, statistics, augmentation, measures.
CACHE_VERSION = 3
MINIMUM_RELIABILITY = 0.5


@dataclass(frozen=True)
class FeatureRow:
    """One clip or variant.

    Attributes:
        clip: Corpus and file name.
        variant: 0 for the recording itself, 1.. for augmented variants.
        positions: Cue name to the measured value on the cue's own scale; absent when not measured reliably.
    """

    clip: str
    corpus: str
    speaker: str
    emotion: str | None
    text_code: str | None
    variant: int
    duration_s: float
    positions: dict[str, float]


@dataclass(frozen=True)
class FeatureSet:
    """Cached features of `n` rows.

    Attributes:
        rows: `n` descriptions.
        statistics: float32 `(n, layers * 4 * dim)`.
        frames: float16 `(total, layers, dim)`, 25 per second, all rows one after the other.
        offsets: int64 `(n + 1,)`, row `i` owns `frames[offsets[i]:offsets[i + 1]]`.
    """

    rows: list[FeatureRow]
    statistics: np.ndarray
    frames: np.ndarray
    offsets: np.ndarray

    def select(self, indices: Sequence[int] | np.ndarray) -> FeatureSet:
        """The rows at these indices, frames copied."""
        pieces = [self.frames[self.offsets[i] : self.offsets[i + 1]] for i in indices]
        offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
        return FeatureSet(
            [self.rows[i] for i in indices], self.statistics[list(indices)], np.concatenate(pieces), offsets
        )


def speech_window(samples: np.ndarray) -> np.ndarray | None:
    """The first window the device would analyse of these 16 kHz samples, or None when nobody speaks."""
    activity = find_speech(samples)
    windows = cut_windows(activity, len(samples) / SAMPLE_RATE_HZ).windows
    return window_samples(samples, windows[0]) if windows else None


def encode_window(encoder: WhisperEncoder, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pooled frames float16 `(frames, layers, dim)` and statistics float32 `(features,)` of one window."""
    with torch.inference_mode():
        states = encoder(torch.from_numpy(window)[None])
        pooled = pool_frames(states)[0].transpose(0, 1)
        return pooled.half().numpy(), utterance_statistics(states)[0].numpy()


def cue_positions(window: np.ndarray, speech: bool = True) -> dict[str, float]:
    """Measured cue values on their own scales; a cue that cannot be measured reliably is absent.

    Args:
        window: `(samples,)` at 16 kHz.
        speech: False for laughs, sighs and growls, which have a pitch and a tone but no pace and no melody of speech.
    """
    measures = measure_prosody(window).measures
    positions = {}
    for cue in CUES:
        measure = measures[cue.measure]
        if not speech and cue.name in SPEECH_CUES:
            continue
        if measure.value is not None and measure.reliability >= MINIMUM_RELIABILITY:
            positions[cue.name] = cue.position(measure.value)
    return positions


_encoder: WhisperEncoder | None = None


def _start_worker(weights: Path, layers: int) -> None:
    global _encoder
    torch.set_num_threads(1)
    _encoder = load_whisper_encoder(weights, layers)


def row_of(clip: Clip, variant: int, samples: int, positions: dict[str, float]) -> FeatureRow:
    """The row of a clip's variant that is `samples` long at 16 kHz."""
    return FeatureRow(
        clip=clip.clip_id,
        corpus=clip.corpus,
        speaker=clip.speaker,
        emotion=clip.emotion,
        text_code=clip.extra.get("text_code"),
        variant=variant,
        duration_s=samples / SAMPLE_RATE_HZ,
        positions=positions,
    )


def _process_clip(task: tuple[Clip, int]) -> tuple[list[tuple[FeatureRow, np.ndarray, np.ndarray]], str | None]:
    clip, variants = task
    assert _encoder is not None
    try:
        samples = load_audio(clip.path).samples
    except AudioError as error:
        return [], f"{clip.path}: {error}"
    results = []
    for variant in range(variants + 1):
        window = speech_window(augment(samples, clip.clip_id, variant) if variant else samples)
        if window is None:
            continue
        row = row_of(clip, variant, len(window), cue_positions(window, speech=clip.corpus != "emogator"))
        results.append((row, *encode_window(_encoder, window)))
    return results, None if results else f"{clip.path}: nobody speaks"


def extract_features(
    tasks: Sequence[tuple[Clip, int]], weights: Path, layers: int, cache: Path, processes: int = 2
) -> FeatureSet:
    """Features of clips with their numbers of variants, from the cache when it holds exactly these.

    Args:
        tasks: Clips, each with how many augmented variants to add.
        weights: Whisper encoder weights.
        layers: Encoder layers to keep.
        cache: Folder of caches; each is named by a hash of all inputs.
        processes: Worker processes.

    Raises:
        CorpusError: More than 2 % of the clips gave nothing.
    """
    folder = cache / f"features-{inputs_hash(tasks, weights, layers)}"
    if (folder / "rows.jsonl").is_file():
        return load_features(folder)
    rows: list[FeatureRow] = []
    frames: list[np.ndarray] = []
    statistics: list[np.ndarray] = []
    failures: list[str] = []
    for results, failure in _run(tasks, weights, layers, processes):
        if failure:
            failures.append(failure)
            tqdm.write(f"{failure}; it is left out", file=sys.stderr)
        for row, row_frames, row_statistics in results:
            rows.append(row)
            frames.append(row_frames)
            statistics.append(row_statistics)
    if len(failures) > max(5, 0.02 * len(tasks)):
        raise CorpusError(f"{len(failures)} of {len(tasks)} clips gave no features, first: {failures[0]}")
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in frames])])
    features = FeatureSet(rows, np.stack(statistics), np.concatenate(frames), offsets)
    _save_features(folder, features, failures)
    return features


def _run(
    tasks: Sequence[tuple[Clip, int]], weights: Path, layers: int, processes: int
) -> Iterator[tuple[list[tuple[FeatureRow, np.ndarray, np.ndarray]], str | None]]:
    with ProcessPoolExecutor(processes, get_context("spawn"), _start_worker, (weights, layers)) as pool:
        yield from tqdm(pool.map(_process_clip, tasks, chunksize=8), total=len(tasks), desc="features", unit="clip")


def inputs_hash(tasks: Sequence[tuple[Clip, int]], weights: Path, layers: int) -> str:
    """Short hash of everything that cached features are made of: recordings, variants, encoder."""
    digest = hashlib.sha256(f"{CACHE_VERSION} {layers} {weights_hash(weights)}".encode())
    for clip, variants in tasks:
        digest.update(f"{clip.clip_id} {clip.emotion} {clip.speaker} {variants}\n".encode())
        digest.update(hashlib.sha256(Path(clip.path).read_bytes()).digest())
    return digest.hexdigest()[:16]


def weights_hash(weights: Path) -> str:
    """SHA-256 of an encoder's weight files."""
    files = [weights] if weights.is_file() else sorted(weights.glob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _save_features(folder: Path, features: FeatureSet, failures: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "statistics.npy", features.statistics)
    np.save(folder / "frames.npy", features.frames)
    np.save(folder / "offsets.npy", features.offsets)
    (folder / "failures.txt").write_text("".join(f"{line}\n" for line in failures))
    partial = folder / "rows.partial"
    partial.write_text("".join(json.dumps(asdict(row)) + "\n" for row in features.rows))
    partial.rename(folder / "rows.jsonl")


def load_features(folder: Path) -> FeatureSet:
    """Reads a cache folder."""
    rows = [FeatureRow(**json.loads(line)) for line in (folder / "rows.jsonl").read_text().splitlines()]
    return FeatureSet(
        rows,
        np.load(folder / "statistics.npy"),
        np.load(folder / "frames.npy", mmap_mode="r"),
        np.load(folder / "offsets.npy"),
    )
