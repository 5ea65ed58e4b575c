"""Speech synthesis with known prosody, in many voices.

hibari-tts (Apache-2.0) predicts F0 and three spectra (harmonic, noise, free phase) per 12.5 ms frame and leaves the
waveform to signal processing. Everything is edited between the two: melody on F0; size of the voice, tilt, breath and
dynamics on the spectra. Nothing is cut and glued afterwards, so what was asked is what is heard.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from edge_emotion.audio import SAMPLE_RATE_HZ
from edge_emotion_train.augment import Samples, fit_length, limit_peak

SYNTH_RATE_HZ = 24_000
FRAME_S = 300 / SYNTH_RATE_HZ
VOICED_ABOVE_HZ = 40.0  # the synthesiser's own rule
F0_LIMITS_HZ = (70.0, 600.0)
F0_MEDIAN_LIMITS_HZ = (85.0, 340.0)  # of a person's calm to excited speech
MARGIN_S = 0.1
NATS_PER_DB = np.log(10.0) / 20.0
VOWELS = frozenset("AIOWYaiuæɐɑɒɔəɚɛɜɝɪʊʌᵊᵻ")  # noqa: RUF001  the G2P's alphabet; each is one syllable


@dataclass(frozen=True)
class ProsodySpec:
    """How to say it, relative to how the network would say it in the given voice.

    Attributes:
        pitch_shift_st: Median F0 above the voice's own, semitones; the median stays within 85 to 340 Hz.
        range_factor: Factor on the F0 excursion from the median, in semitones.
        slope_st: Straight line added to the melody from its first to its last voiced frame, semitones in all.
        rate_factor: Speed; 1.25 is 25 % faster. 0.5 to 2.
        tilt_db_per_octave: Spectrum around 1 kHz; < 0 is softer, > 0 sharper.
        breath_db: Noise in voiced frames, above the voice's own.
        jitter: Standard deviation of a random factor on F0 per frame.
        dynamics_factor: Factor on each frame's level below the loudest, in dB.
        pause_s: Silence put into the quietest place of the middle half.
    """

    pitch_shift_st: float = 0.0
    range_factor: float = 1.0
    slope_st: float = 0.0
    rate_factor: float = 1.0
    tilt_db_per_octave: float = 0.0
    breath_db: float = 0.0
    jitter: float = 0.0
    dynamics_factor: float = 1.0
    pause_s: float = 0.0


@dataclass(frozen=True)
class Voice:
    """A speaker: median F0, size (factor on all formants; about 0.85 is a man's), breath, and a fixed colour in dB."""

    name: str = "synthetic_heart"
    f0_median_hz: float = 193.0
    formant_factor: float = 1.0
    breath_db: float = 0.0
    colour_db: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Frames:
    """The network's answer: natural-log magnitudes and phases (601, frames), F0 in Hz (frames,)."""

    harmonic: NDArray[np.float32]
    harmonic_phase: NDArray[np.float32]
    noise: NDArray[np.float32]
    free: NDArray[np.float32]
    free_phase: NDArray[np.float32]
    f0_hz: NDArray[np.float32]

    @property
    def voiced(self) -> NDArray[np.bool_]:
        return self.f0_hz > VOICED_ABOVE_HZ


@functools.lru_cache(maxsize=1)
def _engine() -> Any:
    from hibari import Hibari  # opens its model

    return Hibari(threads=1)


@functools.lru_cache(maxsize=512)
def phonemes_of(text: str) -> str:
    """The text in the synthesiser's phonemes, sentences joined."""
    return " ".join(_engine().phonemize(text))


def syllable_count(text: str) -> int:
    """Syllables of an English text, by the vowels of its phonemes."""
    return sum(symbol in VOWELS for symbol in phonemes_of(text))


def synthesise(text: str, spec: ProsodySpec | None = None, voice: Voice | None = None, seed: int = 0) -> Samples:
    """Speak a text.

    Args:
        text: One or two short English sentences, at most 400 phonemes.
        spec: Prosody; None is the network's own.
        voice: Speaker; None is the network's own.
        seed: Of the noise and jitter.

    Returns:
        float32 (n,) at 16 kHz, peak 0.7, with 100 ms around the speech.

    Raises:
        ValueError: Nothing to say, too much to say at once, or a rate the network was not trained for.
    """
    from hibari import dsp

    rng = np.random.default_rng(seed)
    frames = _edit(_predict(text, spec := spec or ProsodySpec()), spec, voice or Voice(), rng)
    speech = dsp.synth(
        frames.harmonic, frames.harmonic_phase, frames.noise, frames.free, frames.free_phase, frames.f0_hz, rng
    )
    samples = _trim(soxr.resample(speech, SYNTH_RATE_HZ, SAMPLE_RATE_HZ).astype(np.float32))
    peak = float(np.max(np.abs(samples), initial=1e-9))
    return limit_peak(samples * np.float32(0.7 / peak))


def _predict(text: str, spec: ProsodySpec) -> _Frames:
    if not 0.5 <= spec.rate_factor <= 2.0:
        raise ValueError(f"rate factor {spec.rate_factor} given; 0.5 to 2 can be spoken")
    ids = _engine().ids(phonemes_of(text))
    if not 3 <= len(ids) <= 402:
        raise ValueError(f"{text[:60]!r} has {len(ids) - 2} phonemes; 1 to 400 can be spoken at once")
    plain = _run(ids, 1.0)
    if spec.rate_factor == 1.0 or not plain.voiced.any():
        return plain
    # The network slows and hurries as people do, vowels first, but not by the asked amount: the rest is stretched.
    hurried = _run(ids, spec.rate_factor)
    if not hurried.voiced.any():
        return plain
    return _stretch(hurried, _span(plain) / spec.rate_factor / _span(hurried))


def _run(ids: list[int], speed: float) -> _Frames:
    feeds = {"ids": np.asarray([ids], np.int64), "speed": np.asarray([speed], np.float32)}
    return _Frames(*(output[0] for output in _engine().sess.run(None, feeds)))


def _span(frames: _Frames) -> int:
    """Frames from the first voiced one to the last."""
    voiced = np.flatnonzero(frames.voiced)
    return int(voiced[-1] - voiced[0] + 1)


def _stretch(frames: _Frames, factor: float) -> _Frames:
    """The same in `factor` times as many frames; what is voiced and what is not keeps its edges."""
    count = len(frames.f0_hz)
    place = np.linspace(0, count - 1, max(2, round(count * factor)))
    lower, nearest = np.minimum(place.astype(int), count - 2), np.round(place).astype(int)
    weight = (place - lower).astype(np.float32)

    def between(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return (values[..., lower] * (1 - weight) + values[..., lower + 1] * weight).astype(np.float32)

    both_voiced = frames.voiced[lower] & frames.voiced[lower + 1]
    return _Frames(
        harmonic=between(frames.harmonic),
        harmonic_phase=between(frames.harmonic_phase),
        noise=between(frames.noise),
        free=between(frames.free),
        free_phase=frames.free_phase[:, nearest],
        f0_hz=np.where(both_voiced, between(frames.f0_hz), frames.f0_hz[nearest]).astype(np.float32),
    )


def _edit(frames: _Frames, spec: ProsodySpec, voice: Voice, rng: np.random.Generator) -> _Frames:
    frames = _resize_voice(frames, voice.formant_factor)
    bins_hz = np.arange(frames.harmonic.shape[0]) * (SYNTH_RATE_HZ / 2) / (frames.harmonic.shape[0] - 1)
    octaves = np.log2(np.maximum(bins_hz, 50.0) / 1000.0)
    shape_db = np.clip(spec.tilt_db_per_octave * octaves, -15.0, 15.0)
    for order, weight_db in enumerate(voice.colour_db, start=1):
        shape_db += weight_db * np.cos(np.pi * order * (octaves - octaves[0]) / (octaves[-1] - octaves[0]))
    level = (shape_db[:, None] + _level_change_db(frames, spec.dynamics_factor)) * NATS_PER_DB
    breath = (spec.breath_db + voice.breath_db) * NATS_PER_DB * frames.voiced
    frames = replace(
        frames,
        harmonic=(frames.harmonic + level).astype(np.float32),
        noise=(frames.noise + level + breath).astype(np.float32),
        free=(frames.free + level + breath).astype(np.float32),
        f0_hz=_melody(frames, spec, voice, rng),
    )
    return _insert_pause(frames, spec.pause_s)


def asked_median_hz(spec: ProsodySpec, voice: Voice) -> float:
    """The median F0 that `synthesise` gives this voice under this specification."""
    return float(np.clip(voice.f0_median_hz * 2.0 ** (spec.pitch_shift_st / 12.0), *F0_MEDIAN_LIMITS_HZ))


def _melody(frames: _Frames, spec: ProsodySpec, voice: Voice, rng: np.random.Generator) -> NDArray[Any]:
    """Scale, tilt and move the melody around the median of its clear frames: loud enough to be heard as voiced."""
    voiced = np.flatnonzero(frames.voiced)
    if not len(voiced):
        return frames.f0_hz
    level_db = _harmonic_level_db(frames)[voiced]
    clear = level_db >= np.percentile(level_db, 90) - 25.0
    natural_st = 12.0 * np.log2(frames.f0_hz[voiced])
    excursion_st = np.clip(natural_st - np.median(natural_st[clear]), -10.0, 10.0) * spec.range_factor
    excursion_st += spec.slope_st * ((voiced - voiced[0]) / max(voiced[-1] - voiced[0], 1) - 0.5)
    excursion_st -= np.median(excursion_st[clear])
    edited = asked_median_hz(spec, voice) * 2.0 ** (excursion_st / 12.0)
    edited *= 1.0 + spec.jitter * rng.standard_normal(len(voiced))
    result = np.zeros_like(frames.f0_hz)
    result[voiced] = np.clip(edited, *F0_LIMITS_HZ)
    return result


def _resize_voice(frames: _Frames, factor: float) -> _Frames:
    """A shorter (> 1) or longer (< 1) vocal tract: every spectrum stretched along frequency, F0 untouched."""
    if factor == 1.0:
        return frames
    bins = frames.harmonic.shape[0]
    source = np.minimum(np.arange(bins) / factor, bins - 1)
    lower = np.minimum(source.astype(int), bins - 2)
    weight = (source - lower)[:, None].astype(np.float32)

    def stretch(spectrum: NDArray[np.float32]) -> NDArray[np.float32]:
        return spectrum[lower] * (1 - weight) + spectrum[lower + 1] * weight

    return replace(
        frames,
        harmonic=stretch(frames.harmonic),
        harmonic_phase=stretch(frames.harmonic_phase),
        noise=stretch(frames.noise),
        free=stretch(frames.free),
        free_phase=frames.free_phase[np.round(source).astype(int)],  # phases wrap: they cannot be interpolated
    )


def _harmonic_level_db(frames: _Frames) -> NDArray[np.float64]:
    return 10.0 * np.log10(np.sum(np.exp(2.0 * np.minimum(frames.harmonic[:100], 7.0)), axis=0) + 1e-6)  # to 2 kHz


def _frame_level_db(frames: _Frames) -> NDArray[np.float64]:
    power = np.exp(2.0 * np.minimum(frames.harmonic, 7.0)) + np.exp(2.0 * np.minimum(frames.free, 7.0))
    return 10.0 * np.log10(np.sum(power, axis=0) + 1e-6)


def _level_change_db(frames: _Frames, factor: float) -> NDArray[np.float64]:
    """Each frame's distance from the loudest, scaled; smoothed over 60 ms and within 12 dB: stops stay stops."""
    level_db = np.convolve(np.pad(_frame_level_db(frames), 2, mode="edge"), np.ones(5) / 5, mode="valid")
    return np.clip((level_db - np.percentile(level_db, 95)) * (factor - 1.0), -12.0, 12.0)


def _insert_pause(frames: _Frames, pause_s: float) -> _Frames:
    count = round(pause_s / FRAME_S)
    voiced = np.flatnonzero(frames.voiced)
    if not count or len(voiced) < 8:
        return frames
    span = voiced[-1] - voiced[0]
    start, stop = voiced[0] + span // 4, voiced[-1] - span // 4
    level_db = np.convolve(_frame_level_db(frames), np.ones(3) / 3, mode="same")
    at = int(start + np.argmin(level_db[start:stop]))

    def widen(values: NDArray[np.float32], fill: float) -> NDArray[np.float32]:
        gap = np.full((*values.shape[:-1], count), fill, np.float32)
        return np.concatenate([values[..., :at], gap, values[..., at:]], axis=-1)

    return _Frames(
        harmonic=widen(frames.harmonic, -20.0),
        harmonic_phase=widen(frames.harmonic_phase, 0.0),
        noise=widen(frames.noise, -20.0),
        free=widen(frames.free, -9.0),
        free_phase=widen(frames.free_phase, 0.0),
        f0_hz=widen(frames.f0_hz, 0.0),
    )


def _trim(samples: Samples) -> Samples:
    """Cut the silence around the speech (40 dB below its loudest 10 ms) to 100 ms."""
    frame = SAMPLE_RATE_HZ // 100
    power = np.mean(samples[: len(samples) // frame * frame].reshape(-1, frame) ** 2, axis=1)
    loud = np.flatnonzero(power > power.max() * 1e-4)
    margin = round(MARGIN_S * SAMPLE_RATE_HZ)
    start, stop = max(0, loud[0] * frame - margin), (loud[-1] + 1) * frame + margin
    return fit_length(samples[start:], stop - start)
