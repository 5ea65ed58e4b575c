"""What the prosody tasks need beside the features of clips: the shapes of melodies, and triples to be put in order.

A triple is one sentence edited three times (`labelling/ordering.py`) and encoded as the one recording it is. As with
the features of clips, everything passes through the frozen encoder once and is cached.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from edge_emotion.audio import load_audio
from edge_emotion.errors import AudioError
from edge_emotion.prosody import measure_prosody
from edge_emotion.prosody.contour_shape import describe_shape

from .augment import augment
from .corpora import Clip
from .encoder import WhisperEncoder, load_whisper_encoder
from .features import FeatureRow, FeatureSet, encode_window, inputs_hash, row_of, speech_window
from .labelling.ordering import PLACES, SILENCE_S, NotReachedError, Triple, make_triple
from .model import ENCODER_FRAMES_PER_S, POOLED_FRAMES

# Raise when anything that changes the cached numbers changes, as the version of `features`.
VERSION = 1
FRAMES_PER_S = ENCODER_FRAMES_PER_S / POOLED_FRAMES


@dataclass(frozen=True)
class Shape:
    """The melody of a clip or variant: one of `contour_shape.SHAPES`, or None where it cannot be told."""

    clip: str
    variant: int
    shape: str | None
    confidence: float


@dataclass(frozen=True)
class Order:
    """What is known of a triple.

    Attributes:
        attribute: `pitch`, `energy` or `speed`.
        places: Its places in the order heard: ("low", "high", "medium").
        cuts: Cached frames at which the second and the third begin, in the middle of the silence before.
    """

    attribute: str
    places: tuple[str, ...]
    cuts: tuple[int, ...]


@dataclass(frozen=True)
class ProsodyFeatures:
    """Cached.

    Attributes:
        shapes: Of clips and variants.
        triples: Encoder features; `variant` of a row is that of the clip that was edited.
        orders: One per row of `triples`.
        failures: Why triples are missing, and how many for that reason.
    """

    shapes: list[Shape]
    triples: FeatureSet
    orders: list[Order]
    failures: Mapping[str, int]


def extract_prosody_features(
    tasks: Sequence[tuple[Clip, int, int]], weights: Path, layers: int, cache: Path, processes: int = 2
) -> ProsodyFeatures:
    """Shapes of clips and their variants, and triples, from the cache when it holds exactly these.

    Args:
        tasks: Clips of speech, each with its number of augmented variants, and of how many recordings of it, the first
            its own and others variants, triples are made.
        weights: Whisper encoder weights.
        layers: Encoder layers to keep.
        cache: Folder of caches; each is named by a hash of all inputs.
        processes: Worker processes.
    """
    inputs = inputs_hash([(clip, variants) for clip, variants, _ in tasks], weights, layers)
    digest = hashlib.sha256(f"{VERSION} {[triples for *_, triples in tasks]} {inputs}".encode()).hexdigest()[:16]
    folder = cache / f"prosody-{digest}"
    if not folder.is_dir():
        partial = cache / f"prosody-{digest}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(partial, _run(tasks, weights, layers, processes))
        partial.rename(folder)
    return load_prosody_features(folder)


def load_prosody_features(folder: Path) -> ProsodyFeatures:
    """Reads a cache folder."""
    shapes = [Shape(**line) for line in _read_lines(folder / "shapes.jsonl")]
    rows, orders = [], []
    for line in _read_lines(folder / "triples.jsonl"):
        rows.append(FeatureRow(**line["row"]))
        orders.append(Order(line["attribute"], tuple(line["places"]), tuple(line["cuts"])))
    triples = FeatureSet(
        rows,
        np.load(folder / "statistics.npy"),
        np.load(folder / "frames.npy", mmap_mode="r"),
        np.load(folder / "offsets.npy"),
    )
    return ProsodyFeatures(shapes, triples, orders, json.loads((folder / "failures.json").read_text()))


_encoder: WhisperEncoder | None = None
_TripleFeatures = tuple[dict[str, Any], np.ndarray, np.ndarray]
_Result = tuple[list[Shape], list[_TripleFeatures], list[str]]


def _start_worker(weights: Path, layers: int) -> None:
    global _encoder
    torch.set_num_threads(1)
    _encoder = load_whisper_encoder(weights, layers)


def _run(tasks: Sequence[tuple[Clip, int, int]], weights: Path, layers: int, processes: int) -> Iterator[_Result]:
    with ProcessPoolExecutor(processes, get_context("spawn"), _start_worker, (weights, layers)) as pool:
        yield from tqdm(pool.map(_process_clip, tasks, chunksize=4), total=len(tasks), desc="prosody", unit="clip")


def _process_clip(task: tuple[Clip, int, int]) -> _Result:
    clip, variants, edited = task
    shapes: list[Shape] = []
    triples: list[_TripleFeatures] = []
    failures: list[str] = []
    try:
        recording = load_audio(clip.path).samples
    except AudioError as error:
        return [], [], [f"{clip.path}: {error}"]
    for variant in range(variants + 1):
        samples = augment(recording, clip.clip_id, variant) if variant else recording
        window = speech_window(samples)
        if window is None:
            continue
        found = describe_shape(measure_prosody(window).contour)
        shapes.append(Shape(clip.clip_id, variant, found.shape, round(found.confidence, 3)))
        for attribute in PLACES if variant < edited else ():
            try:
                triple = make_triple(samples, attribute, clip.clip_id, variant)
            except NotReachedError as error:
                failures.append(f"{attribute}: {error}")
                continue
            triples.append(_encode(clip, variant, triple))
    return shapes, triples, failures


def _encode(clip: Clip, variant: int, triple: Triple) -> _TripleFeatures:
    assert _encoder is not None
    samples = load_audio(triple.flac).samples
    line = {
        "row": asdict(row_of(clip, variant, len(samples), {})),
        "attribute": triple.attribute,
        "places": [heard.place for heard in triple.variants],
        "cuts": [round((heard.start_s - SILENCE_S / 2) * FRAMES_PER_S) for heard in triple.variants[1:]],
    }
    return line, *encode_window(_encoder, samples)


def _write(folder: Path, results: Iterator[_Result]) -> None:
    shapes: list[Shape] = []
    triples: list[_TripleFeatures] = []
    failures: dict[str, int] = {}
    for clip_shapes, clip_triples, clip_failures in results:
        shapes += clip_shapes
        triples += clip_triples
        for failure in clip_failures:
            failures[failure] = failures.get(failure, 0) + 1
    lengths = [len(frames) for _, frames, _ in triples]
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64))
    nothing = np.zeros((0, 1, 1), np.float16)  # no recording may allow a triple, and none may be asked for
    np.save(folder / "frames.npy", np.concatenate([frames for _, frames, _ in triples] or [nothing]))
    np.save(folder / "statistics.npy", np.array([statistics for _, _, statistics in triples], np.float32))
    _write_lines(folder / "shapes.jsonl", [asdict(shape) for shape in shapes])
    _write_lines(folder / "triples.jsonl", [line for line, _, _ in triples])
    (folder / "failures.json").write_text(json.dumps(failures, indent=1) + "\n")


def _write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]
