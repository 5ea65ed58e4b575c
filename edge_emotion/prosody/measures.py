"""The measures of a stretch of speech: each with unit, time span, reliability, and a reason where it has no value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from edge_emotion.prosody.intensity import intensity_db
from edge_emotion.prosody.pitch import BAND_EDGES_HZ, PitchTrack, track_pitch
from edge_emotion.prosody.rhythm import pauses, syllable_nuclei
from edge_emotion.prosody.voice_quality import harmonics_to_noise_db, perturbation
from edge_emotion.speech import (
    DIGITAL_SILENCE_BELOW_LOUD_DB,
    FRAME_S,
    FRAME_SAMPLES,
    LEVEL_FLOOR_DB,
    SAMPLE_RATE_HZ,
    SpeechActivity,
    find_speech,
    loud_level_db,
    noise_floor_db,
)

UNITS: Mapping[str, str] = MappingProxyType(
    {
        "f0_median_hz": "Hz",
        "f0_p5_hz": "Hz",
        "f0_p95_hz": "Hz",
        "f0_range_st": "st",
        "f0_std_st": "st",
        "f0_slope_st_per_s": "st/s",
        "f0_turn_position": "1",
        "voiced_share": "1",
        "level_dbfs": "dBFS",
        "energy_std_db": "dB",
        "syllable_rate_per_s": "1/s",
        "pause_share": "1",
        "pause_count": "1",
        "spectral_tilt_db": "dB",
        "jitter_local": "1",
        "shimmer_local": "1",
        "hnr_db": "dB",
        "snr_db": "dB",
        "duration_s": "s",
        "speech_duration_s": "s",
    }
)

MARGIN_FRAMES = 5
# Fewer voiced frames, or a smaller voiced share of speech, make a pitch statistic less reliable in proportion.
ENOUGH_VOICED_FRAMES = 25
ENOUGH_VOICED_SHARE = 0.2
ENOUGH_SPEECH_S = 1.0
ENOUGH_SNR_DB = 10.0
ENOUGH_PERIOD_PAIRS = 25
ENOUGH_NOISE_FRAMES = 10
# A contour bends where a parabola fits it better than a line by this much of the variance, and this deep.
SLOPE_POINTS = 200
TURN_DEPTH_ST = 2.0
TURN_GAIN = 0.05


@dataclass(frozen=True)
class Measure:
    """One measured quantity.

    Attributes:
        name: One of `UNITS`.
        value: Value in `unit`; None where it cannot be measured.
        unit: Unit, "1" for a ratio or count.
        start_s: Start of the stretch that it describes.
        end_s: End of that stretch.
        reliability: 0 (none) to 1; at least 0.5 means that a claim may be checked against it.
        reason: Why there is no value; None where there is one.
    """

    name: str
    value: float | None
    unit: str
    start_s: float
    end_s: float
    reliability: float
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "reliability": self.reliability,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Contour:
    """Pitch and intensity over time.

    Attributes:
        times_s: (frames,) middle of each 10 ms frame.
        f0_hz: (frames,) NaN where unvoiced or not speech.
        intensity_db: (frames,) dB re full scale, -150 outside the speech.
    """

    times_s: np.ndarray
    f0_hz: np.ndarray
    intensity_db: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; None where unvoiced."""
        return {
            "times_s": [round(float(time), 3) for time in self.times_s],
            "f0_hz": [None if math.isnan(f0) else round(float(f0), 2) for f0 in self.f0_hz],
            "intensity_db": [round(float(level), 2) for level in self.intensity_db],
        }


@dataclass(frozen=True)
class Prosody:
    """Everything measured in one stretch of audio: `measures` by name, and the contour."""

    measures: Mapping[str, Measure]
    contour: Contour

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "measures": {name: measure.to_dict() for name, measure in self.measures.items()},
            "contour": self.contour.to_dict(),
        }


@dataclass(frozen=True)
class _Span:
    """The stretch from shortly before the first to shortly after the last speech, as frames of the recording."""

    first: int
    samples: np.ndarray
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
    activity = find_speech(samples) if activity is None else activity
    frames = len(activity.speech)
    contour = Contour((np.arange(frames) + 0.5) * FRAME_S, np.full(frames, np.nan), np.full(frames, LEVEL_FLOOR_DB))
    duration_s = len(samples) / SAMPLE_RATE_HZ
    values: dict[str, _Value] = dict.fromkeys(UNITS, (None, 0.0, "no speech found"))
    start_s, end_s = 0.0, duration_s
    if activity.segments:
        start_s, end_s = activity.segments[0][0], min(activity.segments[-1][1], duration_s)
        span = _speech_span(samples, activity)
        pitch = track_pitch(span.samples)
        intensity = intensity_db(span.samples)
        voiced = (pitch.f0_hz > 0.0) & span.speech
        _fill(contour, span.first, np.where(voiced, pitch.f0_hz, np.nan), intensity)
        snr = _signal_to_noise(activity)
        values |= _pitch_values(pitch.f0_hz, voiced, span.speech, _trust_in_noise(snr))
        values |= _voice_values(span, pitch, voiced, _trust_in_noise(snr))
        values |= _energy_values(activity, span, intensity)
        values |= _rhythm_values(activity, span, pitch, voiced)
        values["snr_db"] = snr
    else:
        values["speech_duration_s"] = (0.0, 1.0, None)
    values["duration_s"] = (duration_s, 1.0, None)
    measures = {
        name: Measure(name, value, UNITS[name], *((0.0, duration_s) if name == "duration_s" else (start_s, end_s)),
                      reliability, reason)
        for name, (value, reliability, reason) in values.items()
    }  # fmt: skip
    return Prosody(MappingProxyType(measures), contour)


def _speech_span(samples: np.ndarray, activity: SpeechActivity) -> _Span:
    spoken = np.flatnonzero(activity.speech)
    first, last = int(spoken[0]) - MARGIN_FRAMES, int(spoken[-1]) + 1 + MARGIN_FRAMES
    low, high = max(first, 0), min(last, len(activity.speech))
    # Always the same length, filled with zeros: digital silence around a recording must not change a single bit.
    cut = np.zeros((last - first) * FRAME_SAMPLES, dtype=np.float32)
    inside = samples[low * FRAME_SAMPLES : high * FRAME_SAMPLES]
    offset = (low - first) * FRAME_SAMPLES
    cut[offset : offset + len(inside)] = inside
    speech = np.zeros(last - first, dtype=bool)
    level_db = np.full(last - first, LEVEL_FLOOR_DB)
    speech[low - first : high - first] = activity.speech[low:high]
    level_db[low - first : high - first] = activity.level_db[low:high]
    return _Span(first, cut, speech, level_db)


def _fill(contour: Contour, first: int, f0_hz: np.ndarray, intensity: np.ndarray) -> None:
    low, high = max(first, 0), min(first + len(f0_hz), len(contour.f0_hz))
    contour.f0_hz[low:high] = f0_hz[low - first : high - first]
    contour.intensity_db[low:high] = intensity[low - first : high - first]


def _signal_to_noise(activity: SpeechActivity) -> _Value:
    loud_db = loud_level_db(activity.level_db)
    sounding = activity.level_db > loud_db - DIGITAL_SILENCE_BELOW_LOUD_DB
    noise_frames = int((sounding & ~activity.speech).sum())
    # Without a pause the quietest frames are still speech: the ratio is then a lower bound, and marked unreliable.
    snr_db = _mean_power_db(activity.level_db[activity.speech]) - noise_floor_db(activity.level_db)
    return snr_db, min(1.0, noise_frames / ENOUGH_NOISE_FRAMES), None


def _trust_in_noise(snr: _Value) -> float:
    snr_db, reliability, _ = snr
    if snr_db is None or reliability < 1.0:
        return 1.0
    return float(np.clip(snr_db / ENOUGH_SNR_DB, 0.0, 1.0))


def _pitch_values(f0_hz: np.ndarray, voiced: np.ndarray, speech: np.ndarray, trust: float) -> dict[str, _Value]:
    count, share = int(voiced.sum()), float(voiced.sum() / speech.sum())
    speech_trust = min(1.0, float(speech.sum()) * FRAME_S / 0.1)
    values: dict[str, _Value] = {"voiced_share": (share, speech_trust * trust, None)}
    names = (
        "f0_median_hz",
        "f0_p5_hz",
        "f0_p95_hz",
        "f0_range_st",
        "f0_std_st",
        "f0_slope_st_per_s",
        "f0_turn_position",
    )
    if count < 3:
        return values | dict.fromkeys(names, (None, 0.0, "fewer than 3 voiced frames"))
    reliability = min(1.0, count / ENOUGH_VOICED_FRAMES) * min(1.0, share / ENOUGH_VOICED_SHARE) * trust
    p5, median, p95 = np.percentile(f0_hz[voiced], (5, 50, 95))
    time_s = np.flatnonzero(voiced) * FRAME_S
    semitones = 12.0 * np.log2(f0_hz[voiced] / median)
    values["f0_median_hz"] = (float(median), reliability, None)
    values["f0_p5_hz"] = (float(p5), reliability, None)
    values["f0_p95_hz"] = (float(p95), reliability, None)
    values["f0_range_st"] = (float(12.0 * np.log2(p95 / p5)), reliability, None)
    values["f0_std_st"] = (float(semitones.std()), reliability, None)
    # A slope needs time as well as frames.
    slope_trust = min(1.0, count * FRAME_S / 0.5, float(time_s[-1] - time_s[0]) / 0.5)
    values["f0_slope_st_per_s"] = (_robust_slope(time_s, semitones), reliability * slope_trust, None)
    turn = _turn_position(time_s, semitones)
    if turn is None:
        values["f0_turn_position"] = (None, 0.0, "the contour has no clear turn")
    else:
        values["f0_turn_position"] = (turn, reliability * slope_trust, None)
    return values


def _robust_slope(time_s: np.ndarray, semitones: np.ndarray) -> float:
    """Theil-Sen: the median slope over all pairs of (at most 200) points, so octave errors do not tip it."""
    points = np.unique(np.linspace(0, len(time_s) - 1, min(len(time_s), SLOPE_POINTS)).round().astype(int))
    time_s, semitones = time_s[points], semitones[points]
    later, earlier = np.tril_indices(len(points), -1)
    return float(np.median((semitones[later] - semitones[earlier]) / (time_s[later] - time_s[earlier])))


def _turn_position(time_s: np.ndarray, semitones: np.ndarray) -> float | None:
    """Where between first (0) and last (1) voiced frame a parabola through the contour has its vertex."""
    span = time_s[-1] - time_s[0]
    if len(time_s) < ENOUGH_VOICED_FRAMES or span <= 0.0:
        return None
    position = (time_s - time_s[0]) / span
    parabola, line = np.polyfit(position, semitones, 2), np.polyfit(position, semitones, 1)
    variance = float(np.var(semitones))
    if variance == 0.0 or parabola[0] == 0.0:
        return None
    gain = (
        np.var(semitones - np.polyval(line, position)) - np.var(semitones - np.polyval(parabola, position))
    ) / variance
    vertex = float(-0.5 * parabola[1] / parabola[0])
    depth = abs(parabola[0]) * min(vertex, 1.0 - vertex) ** 2
    return vertex if 0.25 <= vertex <= 0.75 and depth >= TURN_DEPTH_ST and gain >= TURN_GAIN else None


def _voice_values(span: _Span, pitch: PitchTrack, voiced: np.ndarray, trust: float) -> dict[str, _Value]:
    count = int(voiced.sum())
    reliability = min(1.0, count / ENOUGH_VOICED_FRAMES) * trust
    enough = count >= 3
    values: dict[str, _Value] = {"spectral_tilt_db": _tilt(pitch.band_power, voiced if enough else span.speech)}
    tilt, _, reason = values["spectral_tilt_db"]
    if tilt is not None:
        values["spectral_tilt_db"] = (tilt, max(reliability, 0.4 * trust), reason)
    if not enough:
        return values | dict.fromkeys(
            ("hnr_db", "jitter_local", "shimmer_local"), (None, 0.0, "fewer than 3 voiced frames")
        )
    values["hnr_db"] = (float(harmonics_to_noise_db(pitch.periodicity[voiced]).mean()), reliability, None)
    jitter, shimmer, pairs = perturbation(span.samples, np.where(voiced, pitch.f0_hz, 0.0))
    pair_trust = min(1.0, pairs / ENOUGH_PERIOD_PAIRS) * trust
    for name, value in (("jitter_local", jitter), ("shimmer_local", shimmer)):
        values[name] = (None, 0.0, "no two neighbouring periods") if math.isnan(value) else (value, pair_trust, None)
    return values


def _tilt(band_power: np.ndarray, frames: np.ndarray) -> _Value:
    """Power in 1-5 kHz over 0.05-1 kHz; loud frames weigh most, so silence and noise floor hardly count."""
    split, top = BAND_EDGES_HZ.index(1000.0), BAND_EDGES_HZ.index(5000.0)
    total = band_power[frames].sum(axis=0, dtype=np.float64)
    low, high = float(total[:split].sum()), float(total[split:top].sum())
    if low <= 0.0 or high <= 0.0:
        return None, 0.0, "no energy in 0.05-5 kHz"
    return 10.0 * math.log10(high / low), 1.0, None


def _energy_values(activity: SpeechActivity, span: _Span, intensity: np.ndarray) -> dict[str, _Value]:
    speech_s = float(span.speech.sum()) * FRAME_S
    return {
        "level_dbfs": (_mean_power_db(span.level_db[span.speech]), min(1.0, speech_s / 0.1), None),
        "energy_std_db": (float(intensity[span.speech].std()), min(1.0, speech_s / (0.5 * ENOUGH_SPEECH_S)), None),
        "speech_duration_s": (float(activity.speech.sum()) * FRAME_S, 1.0, None),
    }


def _rhythm_values(activity: SpeechActivity, span: _Span, pitch: PitchTrack, voiced: np.ndarray) -> dict[str, _Value]:
    speech_s = float(span.speech.sum()) * FRAME_S
    time_trust = min(1.0, speech_s / ENOUGH_SPEECH_S)
    nuclei = syllable_nuclei(pitch.band_power, voiced, span.speech)
    share, count = pauses(activity)
    values: dict[str, _Value] = {
        "pause_share": (share, time_trust, None),
        "pause_count": (float(count), time_trust, None),
        "syllable_rate_per_s": (len(nuclei) / speech_s, time_trust * min(1.0, len(nuclei) / 4.0), None),
    }
    if len(nuclei) == 0:
        values["syllable_rate_per_s"] = (None, 0.0, "no syllable nucleus found")
    return values


def _mean_power_db(level_db: np.ndarray) -> float:
    return float(10.0 * np.log10(np.mean(10.0 ** (level_db / 10.0))))
