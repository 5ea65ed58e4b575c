"""Augmentation at 16 kHz: prosody edits (PSOLA, by Praat) and what a microphone, a room or a codec does to a voice.

A prosody edit changes what is to be measured, so labels of prosody are taken after it; a channel effect must change no
answer. Each variant is drawn from a hash of the clip and its index: the same on every machine, unlike any neighbour's.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import parselmouth
import soundfile
import soxr
from numpy.typing import NDArray
from parselmouth.praat import call, run

from edge_emotion.audio import SAMPLE_RATE_HZ

Samples: TypeAlias = NDArray[np.float32]

PEAK_LIMIT = 0.99
MIN_EDIT_S = 0.1  # Praat needs a few periods of its lowest pitch
PITCH_FLOOR_HZ, PITCH_CEILING_HZ = 65.0, 650.0
PITCH_SHIFT_ST = (-4.0, 4.0)
RANGE_FACTOR = (0.6, 1.6)
DURATION_FACTOR = (0.75, 1.33)


@dataclass(frozen=True)
class ProsodyEdit:
    """A change of melody and tempo: semitones, factor on the F0 excursion around the median, factor on duration."""

    pitch_shift_st: float = 0.0
    range_factor: float = 1.0
    duration_factor: float = 1.0


@dataclass(frozen=True)
class Variant:
    """What `augment` does to a clip: an edit (or none), the names of channel effects in order, a final gain in dB."""

    edit: ProsodyEdit | None
    effects: tuple[str, ...]
    gain_db: float
    seed: int


def clip_seed(clip_id: str, index: int) -> int:
    """A 128-bit seed from the full name of a clip and the index of its variant."""
    return int.from_bytes(hashlib.sha256(f"{clip_id}\0{index}".encode()).digest()[:16], "big")


def draw_variant(clip_id: str, index: int) -> Variant:
    """Choose the edit and effects of one variant; 4 of 5 have an edit, most have one or two effects, some have none."""
    seed = clip_seed(clip_id, index)
    rng = np.random.default_rng(seed)
    edit = _draw_edit(rng) if rng.random() < 0.8 else None
    count = int(rng.choice(4, p=(0.12, 0.42, 0.36, 0.10)))
    names = tuple(CHANNEL_EFFECTS)
    # A room is heard before the microphone's noise, and both before the codec: effects keep the order of the table.
    chosen = sorted(rng.choice(len(names), size=count, replace=False).tolist())
    return Variant(edit, tuple(names[i] for i in chosen), float(rng.uniform(-20.0, 6.0)), seed)


def augment(samples: Samples, clip_id: str, variant: int) -> Samples:
    """One variant of a clip, always the same for the same name and index.

    Args:
        samples: float32 (n,) at 16 kHz.
        clip_id: Name that no other clip has, such as corpus and file name.
        variant: Index >= 0; the clip itself is none of its variants.

    Returns:
        float32 (m,), finite, peak <= 0.99; m differs from n only by the edit's duration factor. A clip too short or
        too quiet to carry a voice keeps its melody and tempo.
    """
    return apply_variant(samples, draw_variant(clip_id, variant))


def apply_variant(samples: Samples, variant: Variant) -> Samples:
    """Do what `draw_variant` chose."""
    samples = _clean(samples)
    rng = np.random.default_rng([variant.seed, 1])
    if variant.edit is not None and len(samples) >= MIN_EDIT_S * SAMPLE_RATE_HZ:
        samples = edit_prosody(samples, variant.edit)
    for name in variant.effects:
        samples = CHANNEL_EFFECTS[name](samples, rng)
    return limit_peak(apply_gain(samples, variant.gain_db))


def _draw_edit(rng: np.random.Generator) -> ProsodyEdit:
    """Each of the three changes is left out now and then, so that cues do not always move together."""
    shift = float(rng.uniform(*PITCH_SHIFT_ST)) if rng.random() < 0.75 else 0.0
    spread = _log_uniform(rng, *RANGE_FACTOR) if rng.random() < 0.6 else 1.0
    duration = _log_uniform(rng, *DURATION_FACTOR) if rng.random() < 0.75 else 1.0
    return ProsodyEdit(shift, spread, duration)


# --- prosody edits ---------------------------------------------------------------------------------------------------


def edit_prosody(samples: Samples, edit: ProsodyEdit) -> Samples:
    """Change melody and tempo by PSOLA; the voice's timbre stays.

    Raises:
        ValueError: Fewer than 0.1 s of samples, or a factor that is not positive.
    """
    if len(samples) < MIN_EDIT_S * SAMPLE_RATE_HZ:
        raise ValueError(f"{len(samples)} samples given; a prosody edit needs >= {MIN_EDIT_S} s at 16 kHz")
    if edit.range_factor <= 0 or edit.duration_factor <= 0:
        raise ValueError(f"{edit}: factors must be > 0")
    length = round(len(samples) * edit.duration_factor)
    if not np.any(samples):
        return np.zeros(length, np.float32)
    if edit == ProsodyEdit():
        return samples.copy()
    # Praat stretches unvoiced sounds by pieces of random length.
    run("random_initializeWithSeedUnsafelyButPredictably (1)")
    sound = parselmouth.Sound(samples.astype(np.float64), SAMPLE_RATE_HZ)
    pitch = track_pitch(sound)
    f0_hz = pitch.selected_array["frequency"]
    manipulation = call([sound, pitch], "To Manipulation")
    if np.any(f0_hz > 0):
        median_hz = float(np.median(f0_hz[f0_hz > 0]))
        centre_hz = median_hz * 2.0 ** (edit.pitch_shift_st / 12.0)
        pitch_tier = call(manipulation, "Extract pitch tier")
        call(pitch_tier, "Formula", f"{centre_hz:.9g} * (self / {median_hz:.9g}) ^ {edit.range_factor:.9g}")
        call([manipulation, pitch_tier], "Replace pitch tier")
    if edit.duration_factor != 1.0:
        duration_tier = call("Create DurationTier", "tempo", 0.0, sound.duration)
        call(duration_tier, "Add point", 0.0, edit.duration_factor)
        call([manipulation, duration_tier], "Replace duration tier")
    edited = call(manipulation, "Get resynthesis (overlap-add)").values[0]
    return limit_peak(fit_length(_clean(edited), length))


def track_pitch(sound: parselmouth.Sound) -> parselmouth.Pitch:
    """F0 in two passes: the first finds the voice's own floor and ceiling (De Looze and Hirst 2008), which keeps octave
    errors, and the leaps an edit would make of them, out of the second."""
    pitch = sound.to_pitch_ac(time_step=0.02, pitch_floor=PITCH_FLOOR_HZ, pitch_ceiling=PITCH_CEILING_HZ)
    f0_hz = pitch.selected_array["frequency"]
    if np.count_nonzero(f0_hz) < 5:
        return pitch
    lower, upper = np.percentile(f0_hz[f0_hz > 0], (25, 75))
    floor_hz = float(np.clip(0.75 * lower, PITCH_FLOOR_HZ, 300.0))
    ceiling_hz = float(np.clip(2.2 * upper, 200.0, PITCH_CEILING_HZ))
    return sound.to_pitch_ac(time_step=0.01, pitch_floor=floor_hz, pitch_ceiling=max(ceiling_hz, 2.0 * floor_hz))


def shift_pitch(samples: Samples, semitones: float) -> Samples:
    """Raise (> 0) or lower (< 0) the voice by exactly this many semitones; length, tempo and timbre stay."""
    return edit_prosody(samples, ProsodyEdit(pitch_shift_st=semitones))


def change_rate(samples: Samples, factor: float) -> Samples:
    """Speak `factor` times as fast (1.25 is 25 % faster, the clip shorter); pitch and timbre stay."""
    if factor <= 0:
        raise ValueError(f"rate factor {factor} given; it must be > 0 (1.25 speaks 25 % faster)")
    return edit_prosody(samples, ProsodyEdit(duration_factor=1.0 / factor))


def scale_range(samples: Samples, factor: float) -> Samples:
    """Make the melody wider (> 1) or flatter (< 1): excursions from the median in semitones, times `factor`."""
    return edit_prosody(samples, ProsodyEdit(range_factor=factor))


# --- null edits: what must change no answer --------------------------------------------------------------------------


def apply_gain(samples: Samples, gain_db: float) -> Samples:
    """Louder or quieter by this many decibels; not limited, so that it can be undone."""
    return (samples * np.float32(10.0 ** (gain_db / 20.0))).astype(np.float32)


def pad_with_silence(samples: Samples, before_s: float, after_s: float) -> Samples:
    """Digital silence before and after."""
    return np.pad(samples, (round(before_s * SAMPLE_RATE_HZ), round(after_s * SAMPLE_RATE_HZ))).astype(np.float32)


def resample_round_trip(samples: Samples, rate_hz: int = 44_100) -> Samples:
    """To another sample rate and back; the same length, and the same sound up to half the lower rate."""
    there = soxr.resample(samples, SAMPLE_RATE_HZ, rate_hz)
    return fit_length(_clean(soxr.resample(there, rate_hz, SAMPLE_RATE_HZ)), len(samples))


# --- channel effects: (samples, rng) -> samples of the same length ---------------------------------------------------


def room(samples: Samples, rng: np.random.Generator) -> Samples:
    """A small room: noise that decays by 60 dB in 0.1-0.5 s, 4-20 dB below the direct sound."""
    decay_s = rng.uniform(0.1, 0.5)
    length = round(decay_s * SAMPLE_RATE_HZ)
    time_s = np.arange(length) / SAMPLE_RATE_HZ
    tail = rng.standard_normal(length) * 10.0 ** (-3.0 * time_s / decay_s)
    tail[: round(rng.uniform(0.001, 0.008) * SAMPLE_RATE_HZ)] = 0.0  # the first reflection comes after the direct sound
    tail *= 10.0 ** (rng.uniform(-20.0, -4.0) / 20.0) / np.linalg.norm(tail)
    fast = _fast_length(len(samples) + length)
    wet = np.fft.irfft(np.fft.rfft(samples, fast) * np.fft.rfft(tail, fast), fast)[: len(samples)]
    return limit_peak((samples + wet).astype(np.float32))


def tilt(samples: Samples, rng: np.random.Generator) -> Samples:
    """A dull or bright microphone: -3 to +3 dB per octave around 1 kHz, at most 9 dB anywhere."""
    return tilt_spectrum(samples, float(rng.uniform(-3.0, 3.0)))


def tilt_spectrum(samples: Samples, db_per_octave: float, limit_db: float = 9.0) -> Samples:
    """Tilt the spectrum around 1 kHz by this many dB per octave, no further than `limit_db` either way."""
    return _shape_spectrum(
        samples, lambda hz: np.clip(db_per_octave * np.log2(np.maximum(hz, 20.0) / 1000.0), -limit_db, limit_db)
    )


def noise(samples: Samples, rng: np.random.Generator) -> Samples:
    """White or pink noise, 20-45 dB below the speech."""
    snr_db, pink = rng.uniform(20.0, 45.0), rng.random() < 0.5
    hiss = rng.standard_normal(len(samples)).astype(np.float32)
    if pink:
        hiss = _shape_spectrum(hiss, lambda hz: -10.0 * np.log10(np.maximum(hz, 20.0) / 1000.0))
    level = float(np.sqrt(np.mean(hiss**2))) if len(hiss) else 0.0
    scale = speech_rms(samples) * 10.0 ** (-snr_db / 20.0) / max(level, 1e-9)
    return limit_peak((samples + np.float32(scale) * hiss).astype(np.float32))


def band_limit(samples: Samples, rng: np.random.Generator) -> Samples:
    """A telephone's 300-3400 Hz, or a low-pass at 3.5-7.5 kHz."""
    low_hz, high_hz = (300.0, 3400.0) if rng.random() < 0.35 else (0.0, rng.uniform(3500.0, 7500.0))

    def gain_db(hz: NDArray[Any]) -> NDArray[Any]:
        octaves_below = np.log2(low_hz / np.maximum(hz, 1.0)) if low_hz else np.zeros_like(hz)
        octaves_above = np.log2(np.maximum(hz, 1.0) / high_hz)
        return -np.minimum(36.0 * np.maximum(octaves_below, 0.0) + 72.0 * np.maximum(octaves_above, 0.0), 80.0)

    return _shape_spectrum(samples, gain_db)


def codec(samples: Samples, rng: np.random.Generator) -> Samples:
    """Ogg Vorbis, MP3, or telephone mu-law at 8 kHz; the codec's delay is taken out."""
    kind, compression = ("VORBIS", "MP3", "MU_LAW")[rng.integers(3)], float(rng.uniform(0.4, 0.95))
    samples = limit_peak(samples)
    if len(samples) < MIN_EDIT_S * SAMPLE_RATE_HZ:
        return samples
    if kind == "VORBIS":
        decoded = _through_file(samples, "OGG", "VORBIS", compression)
    elif kind == "MP3":
        decoded = _through_file(samples, "MP3", "MPEG_LAYER_III", compression)
    else:
        narrow = mu_law(_clean(soxr.resample(samples, SAMPLE_RATE_HZ, 8000)))
        decoded = soxr.resample(narrow, 8000, SAMPLE_RATE_HZ)
    return limit_peak(take_out_delay(_clean(decoded), samples))


def round_trip(samples: Samples, rng: np.random.Generator) -> Samples:
    """A recorder of another sample rate."""
    return limit_peak(resample_round_trip(samples, int(rng.choice((44_100, 48_000, 22_050, 11_025)))))


CHANNEL_EFFECTS: Mapping[str, Callable[[Samples, np.random.Generator], Samples]] = MappingProxyType(
    {
        "room": room,
        "tilt": tilt,
        "noise": noise,
        "band_limit": band_limit,
        "codec": codec,
        "round_trip": round_trip,
    }
)


# --- small tools -----------------------------------------------------------------------------------------------------


def speech_rms(samples: Samples, frame_s: float = 0.02) -> float:
    """RMS over the frames within 30 dB of the loudest one: the level of the speech, not of its pauses."""
    frame = round(frame_s * SAMPLE_RATE_HZ)
    if len(samples) < frame:
        return float(np.sqrt(np.mean(samples**2))) if len(samples) else 0.0
    power = np.mean(samples[: len(samples) // frame * frame].reshape(-1, frame).astype(np.float64) ** 2, axis=1)
    return float(np.sqrt(np.mean(power[power >= power.max() * 1e-3])))


def limit_peak(samples: Samples, peak: float = PEAK_LIMIT) -> Samples:
    """Scale the whole clip down where its peak is above `peak`; never up."""
    highest = float(np.max(np.abs(samples), initial=0.0))
    return samples if highest <= peak else (samples * np.float32(peak / highest)).astype(np.float32)


def fit_length(samples: Samples, length: int) -> Samples:
    """Cut or pad the end by silence to exactly `length` samples."""
    return samples[:length] if len(samples) >= length else np.pad(samples, (0, length - len(samples)))


def mu_law(samples: Samples) -> Samples:
    """8-bit mu-law (ITU-T G.711's curve) and back; input within -1..1."""
    companded = np.sign(samples) * np.log1p(255.0 * np.abs(samples)) / np.log(256.0)
    quantised = np.round(companded * 127.0) / 127.0
    return (np.sign(quantised) * np.expm1(np.abs(quantised) * np.log(256.0)) / 255.0).astype(np.float32)


def _clean(samples: NDArray[np.floating]) -> Samples:
    return np.nan_to_num(np.asarray(samples), nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _shape_spectrum(samples: Samples, gain_db: Callable[[NDArray[Any]], NDArray[Any]]) -> Samples:
    """Filter with zero phase, so nothing moves in time; 0.1 s of padding keeps the filter from wrapping around."""
    length = _fast_length(len(samples) + SAMPLE_RATE_HZ // 10)
    hz = np.fft.rfftfreq(length, 1.0 / SAMPLE_RATE_HZ)
    gain = (10.0 ** (gain_db(hz) / 20.0)).astype(np.float32)
    shaped = np.fft.irfft(np.fft.rfft(samples, length) * gain, length)[: len(samples)]
    return limit_peak(shaped.astype(np.float32))


def _fast_length(length: int) -> int:
    """A transform length of small prime factors, at least `length`."""
    return -(-length // 2048) * 2048


def _through_file(samples: Samples, container: str, subtype: str, compression: float) -> NDArray[np.float32]:
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", SAMPLE_RATE_HZ, 1, subtype, format=container, compression_level=compression
    ) as file:
        for start in range(0, len(samples), SAMPLE_RATE_HZ):  # libsndfile's Vorbis overflows its stack on long writes
            file.write(samples[start : start + SAMPLE_RATE_HZ])
    buffer.seek(0)
    return np.asarray(soundfile.read(buffer, dtype="float32")[0], np.float32)


def take_out_delay(decoded: Samples, original: Samples, max_delay: int = 4000) -> Samples:
    """Take out a codec's delay (some MP3 streams name none), found by cross-correlation, and fit the length."""
    if len(decoded) == len(original):
        return decoded
    length = _fast_length(len(decoded) + len(original))
    correlation = np.fft.irfft(np.fft.rfft(decoded, length) * np.conj(np.fft.rfft(original, length)), length)
    delay = int(np.argmax(correlation[: min(max_delay, len(decoded))]))
    return fit_length(decoded[delay:], len(original))
