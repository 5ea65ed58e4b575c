"""The step `measure`: a recording to its measures, the shape of its melody and the prominence of its words.

The file is read and decoded once. A stage that fails costs its own field and says why; only a recording that cannot be
read costs the record.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge_emotion import audio, prosody, speech
from edge_emotion.audio import SAMPLE_RATE_HZ, Audio, load_audio
from edge_emotion.errors import AudioError, EdgeEmotionError
from edge_emotion.prosody import Contour, Measure, Prosody, measure_prosody
from edge_emotion.prosody.contour_shape import describe_shape

from . import alignment, stress, text_rate
from .alignment import align_words
from .records import Failure, IntonationShape, Outcome, Record, Word
from .store import code_sha256
from .stress import word_prominence
from .text_rate import rate_by_text

SIGNIFICANT_DIGITS = 6
# Alignments of a given text that cost more are dubious, and so are the times of their words.
HIGHEST_ALIGN_COST = 3
# How far the end of a clip may lie behind that of its file: tables round.
LATEST_END_S = 0.05


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
        code = code_sha256(sys.modules[__name__], audio, speech, prosody, stress, alignment, text_rate)
        return {"align": self.align, "code_sha256": code}

    def __call__(self, record: Record) -> Outcome:
        """Measures one clip.

        Raises:
            AudioError: The recording cannot be read.
        """
        recording, sha256 = _decode_once(record.audio, file_state(record))
        samples = _part(recording, record)
        failures: list[Failure] = []

        def attempt(field: str, stage: Callable[[], Any]) -> Any:
            try:
                return stage()
            except Exception as error:
                cause = str(error) if isinstance(error, EdgeEmotionError) else f"{type(error).__name__}: {error}"
                failures.append(Failure(record.id, "measure", cause, lost=field))
                return None

        measured: Prosody | None = attempt("measures", lambda: measure_prosody(samples))
        done = replace(record, audio_sha256=sha256, warnings=recording.warnings)
        if measured is not None:
            contour = measured.contour
            by_text = attempt("rate by the text", lambda: text_measures(record, measured))
            done = replace(
                done,
                measures={name: rounded(measure) for name, measure in (by_text or measured.measures).items()},
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


def text_measures(record: Record, prosody: Prosody) -> Mapping[str, Measure]:
    """The measures, the rate by the syllables of the text where they can be counted: surer than what can be heard."""
    rate = rate_by_text(prosody.measures, record.text, record.language) if record.text else None
    return prosody.measures if rate is None else {**prosody.measures, rate.name: rate}


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
    except OSError as error:
        load_audio(path)  # says what is wrong
        raise AudioError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        recording = load_audio(content)
    except AudioError as error:
        raise AudioError(str(error).replace("bytes", path, 1)) from None
    return replace(recording, source=path), hashlib.sha256(content).hexdigest()


def _part(recording: Audio, record: Record) -> np.ndarray:
    start_s, duration_s = record.start_s or 0.0, recording.duration_s
    end_s = duration_s if record.end_s is None else record.end_s
    if not 0.0 <= start_s < end_s <= duration_s + LATEST_END_S:
        raise AudioError(
            f"{record.audio} lasts {duration_s:.3f} s; the clip from {start_s:g} to {end_s:g} s is not in it"
        )
    return recording.samples[round(start_s * SAMPLE_RATE_HZ) : round(end_s * SAMPLE_RATE_HZ)]
