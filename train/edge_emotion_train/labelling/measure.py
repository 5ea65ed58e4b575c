"""The step `measure`: a recording to its measures, the shape of its melody and the prominence of its words.

The file is read and decoded once. A stage that fails costs its own field and says why; only a recording that cannot be
read costs the record.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge_emotion import __version__
from edge_emotion.audio import SAMPLE_RATE_HZ, Audio, load_audio
from edge_emotion.errors import AudioError, EdgeEmotionError
from edge_emotion.prosody import Contour, Measure, Prosody, measure_prosody
from edge_emotion.prosody.contour_shape import describe_shape

from .alignment import align_words
from .records import Failure, IntonationShape, Outcome, Record, Word
from .stress import word_prominence

# Raise it when the same recording gives other values.
VERSION = 1
SIGNIFICANT_DIGITS = 6
# Alignments of a given text that cost more are dubious, and so are the times of their words.
HIGHEST_ALIGN_COST = 3


@dataclass(frozen=True)
class Measuring:
    """The step, as `run_step` takes it.

    Attributes:
        align: Find the times of words where the text is known, they are not given, and its language can be aligned.
    """

    align: bool = True

    @property
    def settings(self) -> Mapping[str, Any]:
        """What results depend on beside the recordings."""
        return {"version": VERSION, "edge-emotion": __version__, "align": self.align}

    def __call__(self, record: Record) -> Outcome:
        """Measures one clip.

        Raises:
            AudioError: The recording cannot be read.
        """
        audio, sha256 = _decode_once(record.audio, file_state(record))
        samples = _part(audio, record)
        failures: list[Failure] = []

        def attempt(field: str, stage: Callable[[], Any]) -> Any:
            try:
                return stage()
            except Exception as error:
                cause = str(error) if isinstance(error, EdgeEmotionError) else f"{type(error).__name__}: {error}"
                failures.append(Failure(record.id, "measure", cause, lost=field))
                return None

        prosody: Prosody | None = attempt("measures", lambda: measure_prosody(samples))
        done = replace(record, audio_sha256=sha256, warnings=audio.warnings)
        if prosody is not None:
            contour = prosody.contour
            done = replace(
                done,
                measures={name: rounded(measure) for name, measure in prosody.measures.items()},
                intonation=attempt("intonation", lambda: intonation_shape(contour)),
                words=attempt("prominence", lambda: measure_words(record, samples, contour, self.align))
                or record.words,
            )
        return Outcome(done, tuple(failures))


class _NoWords(EdgeEmotionError):
    """The words of a known text have no times."""


def intonation_shape(contour: Contour) -> IntonationShape:
    """The shape of the melody as a record holds it."""
    found = describe_shape(contour)
    return IntonationShape(found.shape, round(found.confidence, 3), found.reason)


def measure_words(record: Record, samples: np.ndarray, contour: Contour, align: bool) -> tuple[Word, ...] | None:
    """The words with their prominence; None where no text is known.

    Args:
        record: With words and their times, or with a text.
        samples: (n,) float32 at 16 kHz.
        contour: Of the same samples.
        align: Whether times may be looked for.

    Raises:
        EdgeEmotionError: The text is known, but not when its words are spoken; says why.
    """
    if record.words is not None:
        cost = record.extra.get("word_align_cost")
        if isinstance(cost, (int, float)) and cost > HIGHEST_ALIGN_COST:
            raise _NoWords(f"the given word times are dubious: their alignment costs {cost:g}, above 3")
        return word_prominence(contour, record.words)
    if not record.text or not align:
        return None
    aligned = align_words(samples, record.text, record.language)
    if aligned.words is None:
        raise _NoWords(str(aligned.reason))
    return word_prominence(contour, aligned.words)


def rounded(measure: Measure) -> Measure:
    """To 6 significant digits, far finer than anything is measured: shorter files, and alike on every processor."""
    return replace(
        measure,
        value=None if measure.value is None else _significant(measure.value),
        start_s=round(measure.start_s, 4),
        end_s=round(measure.end_s, 4),
        reliability=round(measure.reliability, 4),
    )


def _significant(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def file_state(record: Record) -> str:
    """Size and time of change of the recording: when they are others, it is measured again."""
    try:
        status = os.stat(record.audio)
    except (OSError, ValueError):
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


@functools.lru_cache(maxsize=1)  # many clips of one long file follow each other
def _decode_once(path: str, state: str) -> tuple[Audio, str]:
    if state == "missing":
        load_audio(path)  # says what is wrong
    try:
        with open(path, "rb") as file:
            content = file.read()
    except (OSError, ValueError):
        audio = load_audio(path)
        raise AudioError(f"{audio.source} changed while it was read") from None
    try:
        audio = load_audio(content)
    except AudioError as error:
        raise AudioError(str(error).replace("bytes", path, 1)) from None
    return replace(audio, source=path), hashlib.sha256(content).hexdigest()


def _part(audio: Audio, record: Record) -> np.ndarray:
    start_s = record.start_s or 0.0
    end_s = audio.duration_s if record.end_s is None else record.end_s
    if not 0.0 <= start_s < end_s <= audio.duration_s + 0.05:
        raise AudioError(
            f"{record.audio} lasts {audio.duration_s:.3f} s; the clip from {start_s:g} to {end_s:g} s is not in it"
        )
    return audio.samples[round(start_s * SAMPLE_RATE_HZ) : round(end_s * SAMPLE_RATE_HZ)]
