"""`measure_prosody`: every measure of a recording, with how far it can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from edge_emotion.cues import LEAST_TURN_ST
from edge_emotion.prosody.contour_shape import fit_melody
from edge_emotion.prosody.intensity import intensity_db
from edge_emotion.prosody.intonation import FEWEST_FRAMES, describe_intonation
from edge_emotion.prosody.pitch import PitchTrack, track_pitch
from edge_emotion.prosody.records import UNITS, Contour, Measure, Prosody
from edge_emotion.prosody.rhythm import pauses, syllable_rate
from edge_emotion.prosody.threads import one_thread_for_numpy
from edge_emotion.prosody.voice_quality import harmonics_to_noise_db, perturbation
from edge_emotion.speech import (
    FRAME_S,
    FRAME_SAMPLES,
    LEVEL_FLOOR_DB,
    SAMPLE_RATE_HZ,
    SILENCE_BELOW_LOUD_DB,
    SpeechActivity,
    find_speech,
    loud_level_db,
    noise_floor_db,
)

MARGIN_FRAMES = 5
# With less than this a measure is less reliable in proportion.
ENOUGH_VOICED_S = 0.25
ENOUGH_VOICED_SHARE = 0.2
ENOUGH_CONTOUR_S = 0.5
ENOUGH_SPEECH_S = 1.0
ENOUGH_SPEECH_FOR_A_SHARE_S = 0.1
ENOUGH_NUCLEI = 4
ENOUGH_PERIOD_PAIRS = 25
ENOUGH_NOISE_FRAMES = 10
ENOUGH_SNR_DB = 10.0


@dataclass(frozen=True)
class SpeechSpan:
    """The stretch from shortly before the first to shortly after the last speech.

    Attributes:
        first: Frame of the recording at which it begins; below 0 where it reaches before the recording.
        samples: (frames * 160,) scaled to a peak of 1, with zeros beyond the recording.
        peak: The highest absolute sample before scaling.
        speech: (frames,) bool.
        level_db: (frames,) as in `SpeechActivity`.
    """

    first: int
    samples: np.ndarray
    peak: float
    speech: np.ndarray
    level_db: np.ndarray


_Value = tuple[float | None, float, str | None]


def measure_prosody(samples: np.ndarray, activity: SpeechActivity | None = None) -> Prosody:
    """Measure the prosody of a recording.

    All values but `level_dbfs` are independent of gain, and all but `duration_s` of digital silence (a multiple of
    10 ms) before and after.

    Args:
        samples: (n,) float32 at 16 kHz, finite.
        activity: Speech activity of the same samples, if known already.

    Returns:
        One `Measure` for every name in `UNITS`; without speech, nearly all have no value, and a reason.
    """
    samples = np.asarray(samples, dtype=np.float32)
    with one_thread_for_numpy():
        return _measure(samples, find_speech(samples) if activity is None else activity)


def _measure(samples: np.ndarray, activity: SpeechActivity) -> Prosody:
    frames = len(activity.speech)
    contour = Contour((np.arange(frames) + 0.5) * FRAME_S, np.full(frames, np.nan), np.full(frames, LEVEL_FLOOR_DB))
    duration_s = len(samples) / SAMPLE_RATE_HZ
    values: dict[str, _Value] = dict.fromkeys(UNITS, (None, 0.0, "no speech found"))
    start_s, end_s = 0.0, duration_s
    if activity.segments:
        start_s, end_s = activity.segments[0][0], min(activity.segments[-1][1], duration_s)
        span = speech_span(samples, activity)
        pitch = track_pitch(span.samples)
        intensity = np.maximum(intensity_db(span.samples) + 20.0 * math.log10(span.peak), LEVEL_FLOOR_DB)
        voiced = (pitch.f0_hz > 0.0) & span.speech
        _fill(contour, span.first, np.where(voiced, pitch.f0_hz, np.nan), intensity)
        snr = _signal_to_noise(activity)
        trust = _trust_in_noise(snr, pitch.periodicity[voiced])
        values |= _pitch_values(pitch.f0_hz, voiced, span.speech, trust)
        values |= _voice_values(span, pitch, intensity, voiced, trust)
        values |= _level_values(activity, span)
        values |= _rhythm_values(activity, span, voiced, trust)
        values["snr_db"] = snr
    else:
        values["speech_duration_s"] = (0.0, 1.0, None)
    measures = {
        name: Measure(name, value, UNITS[name], start_s, end_s, reliability, reason)
        for name, (value, reliability, reason) in values.items()
    }
    measures["duration_s"] = Measure("duration_s", duration_s, "s", 0.0, duration_s, 1.0)
    return Prosody(MappingProxyType(measures), contour)


def speech_span(samples: np.ndarray, activity: SpeechActivity) -> SpeechSpan:
    """Cut out the speech with 50 ms on both sides; `activity` must hold speech."""
    spoken = np.flatnonzero(activity.speech)
    first, last = int(spoken[0]) - MARGIN_FRAMES, int(spoken[-1]) + 1 + MARGIN_FRAMES
    low, high = max(first, 0), min(last, len(activity.speech))
    # Always the same length, filled with zeros: digital silence around a recording must not change a single bit.
    cut = np.zeros((last - first) * FRAME_SAMPLES, dtype=np.float32)
    inside = samples[low * FRAME_SAMPLES : high * FRAME_SAMPLES]
    offset = (low - first) * FRAME_SAMPLES
    cut[offset : offset + len(inside)] = inside
    peak = float(np.max(np.abs(cut)))
    speech = np.zeros(last - first, dtype=bool)
    level_db = np.full(last - first, LEVEL_FLOOR_DB)
    speech[low - first : high - first] = activity.speech[low:high]
    level_db[low - first : high - first] = activity.level_db[low:high]
    return SpeechSpan(first, cut / np.float32(peak), peak, speech, level_db)


def _fill(contour: Contour, first: int, f0_hz: np.ndarray, intensity: np.ndarray) -> None:
    low, high = max(first, 0), min(first + len(f0_hz), len(contour.f0_hz))
    contour.f0_hz[low:high] = f0_hz[low - first : high - first]
    contour.intensity_db[low:high] = intensity[low - first : high - first]


def _signal_to_noise(activity: SpeechActivity) -> _Value:
    silence_db = loud_level_db(activity.level_db) - SILENCE_BELOW_LOUD_DB
    speech_db = _mean_power_db(activity.level_db[activity.speech])
    noise_db = activity.level_db[~activity.speech & (activity.level_db > silence_db)]
    if len(noise_db) > 0:
        return speech_db - float(np.median(noise_db)), min(1.0, len(noise_db) / ENOUGH_NOISE_FRAMES), None
    # Without a pause the quietest frames are still speech: the ratio is then a lower bound, and marked unreliable.
    return speech_db - noise_floor_db(activity.level_db), 0.0, None


def _trust_in_noise(snr: _Value, periodicity: np.ndarray) -> float:
    snr_db, reliability, _ = snr
    least_db = snr_db or 0.0
    if reliability < 1.0 and len(periodicity) > 0:
        # Neither level nor harmonicity can be better than the noise allows: the higher one is the better lower bound.
        least_db = max(least_db, float(harmonics_to_noise_db(periodicity).mean()))
    return float(np.clip(least_db / ENOUGH_SNR_DB, 0.0, 1.0))


def _pitch_values(f0_hz: np.ndarray, voiced: np.ndarray, speech: np.ndarray, trust: float) -> dict[str, _Value]:
    share = float(voiced.sum() / speech.sum())
    share_trust = min(1.0, float(speech.sum()) * FRAME_S / ENOUGH_SPEECH_FOR_A_SHARE_S)
    values: dict[str, _Value] = {"voiced_share": (share, share_trust * trust, None)}
    intonation = describe_intonation(f0_hz, voiced)
    if intonation is None:
        names = [name for name in UNITS if name.startswith("f0_")]
        return values | dict.fromkeys(names, (None, 0.0, "fewer than 3 voiced frames"))
    reliability = min(1.0, intonation.voiced_s / ENOUGH_VOICED_S) * min(1.0, share / ENOUGH_VOICED_SHARE) * trust
    moving = reliability * min(1.0, intonation.voiced_s / ENOUGH_CONTOUR_S, intonation.span_s / ENOUGH_CONTOUR_S)
    melody = fit_melody(f0_hz, voiced)
    turn_st = 0.0 if melody is None else melody.turn_st
    turn = melody.bend_position if melody and abs(turn_st) >= LEAST_TURN_ST else None
    return values | {
        "f0_median_hz": (intonation.median_hz, reliability, None),
        "f0_p5_hz": (intonation.p5_hz, reliability, None),
        "f0_p95_hz": (intonation.p95_hz, reliability, None),
        "f0_range_st": (intonation.range_st, reliability, None),
        "f0_std_st": (intonation.std_st, reliability, None),
        "f0_slope_st_per_s": (intonation.slope_st_per_s, moving, None),
        "f0_turn_st": (turn_st, moving, None),
        "f0_turn_position": (None, 0.0, "the contour has no clear turn") if turn is None else (turn, moving, None),
    }


def _voice_values(
    span: SpeechSpan, pitch: PitchTrack, intensity: np.ndarray, voiced: np.ndarray, trust: float
) -> dict[str, _Value]:
    count = int(voiced.sum())
    reliability = min(1.0, count * FRAME_S / ENOUGH_VOICED_S) * trust
    # Voiced speech stands out of noise and of cut edges; where there is none, all speech is a poor substitute.
    frames = voiced if count >= FEWEST_FRAMES else span.speech
    low, high = (float(power) for power in pitch.band_power[frames].sum(axis=0, dtype=np.float64))
    values: dict[str, _Value] = {
        "energy_std_db": (float(intensity[frames].std()), reliability, None),
        "spectral_tilt_db": (None, 0.0, "no energy in 0.05-5 kHz"),
    }
    if low > 0.0 and high > 0.0:
        values["spectral_tilt_db"] = (10.0 * math.log10(high / low), reliability, None)
    if count < FEWEST_FRAMES:
        names = ("hnr_db", "jitter_local", "shimmer_local")
        return values | dict.fromkeys(names, (None, 0.0, "fewer than 3 voiced frames"))
    values["hnr_db"] = (float(harmonics_to_noise_db(pitch.periodicity[voiced]).mean()), reliability, None)
    jitter, shimmer, pairs = perturbation(span.samples, np.where(voiced, pitch.f0_hz, 0.0))
    pair_trust = min(1.0, pairs / ENOUGH_PERIOD_PAIRS) * trust
    for name, value in (("jitter_local", jitter), ("shimmer_local", shimmer)):
        values[name] = (None, 0.0, "no two neighbouring periods") if math.isnan(value) else (value, pair_trust, None)
    return values


def _level_values(activity: SpeechActivity, span: SpeechSpan) -> dict[str, _Value]:
    speech_s = float(activity.speech.sum()) * FRAME_S
    level_db = _mean_power_db(span.level_db[span.speech])
    return {
        "level_dbfs": (level_db, min(1.0, speech_s / ENOUGH_SPEECH_FOR_A_SHARE_S), None),
        "speech_duration_s": (speech_s, 1.0, None),
    }


def _rhythm_values(activity: SpeechActivity, span: SpeechSpan, voiced: np.ndarray, trust: float) -> dict[str, _Value]:
    speech_s = float(span.speech.sum()) * FRAME_S
    time_trust = min(1.0, speech_s / ENOUGH_SPEECH_S)
    rate, nuclei = syllable_rate(span.samples, voiced, span.speech)
    share, count = pauses(activity)
    values: dict[str, _Value] = {
        "pause_share": (share, time_trust, None),
        "pause_count": (float(count), time_trust, None),
        "syllable_rate_per_s": (rate, time_trust * min(1.0, nuclei / ENOUGH_NUCLEI) * trust, None),
    }
    if nuclei == 0:
        values["syllable_rate_per_s"] = (None, 0.0, "no syllable nucleus found")
    return values


def _mean_power_db(level_db: np.ndarray) -> float:
    return float(10.0 * np.log10(np.mean(10.0 ** (level_db / 10.0))))
