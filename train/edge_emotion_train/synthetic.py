"""A corpus of synthetic English speech: emotional speech is scarce, and prosody must be learned from many voices.

Voices, ways of speaking and sentences are drawn independently, so that no cue can be told from another.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import parselmouth
import soundfile
from tqdm import tqdm

from edge_emotion.audio import SAMPLE_RATE_HZ
from edge_emotion.errors import CorpusError
from edge_emotion_train.augment import Samples, clip_seed, track_pitch
from edge_emotion_train.corpora import Clip, read_corpus
from edge_emotion_train.synthesis import MARGIN_S, ProsodySpec, Voice, asked_median_hz, syllable_count, synthesise

VERSION = 1  # raise it when the same seed gives other speech


def sentences() -> tuple[str, ...]:
    """80 short, emotionally neutral English sentences, written for this project."""
    text = resources.files("edge_emotion_train").joinpath("synthetic_sentences.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


def draw_voice(index: int, seed: int) -> Voice:
    """A voice out of endlessly many: size and pitch go together as they do in people, with room for exceptions."""
    rng = np.random.default_rng(clip_seed(f"voice {seed}", index))
    size = rng.uniform()
    f0_median_hz = 105.0 * 2.0 ** (1.2 * size + rng.normal(0.0, 2.0) / 12.0)
    return Voice(
        name=f"synthetic_{seed}_{index:03d}",
        f0_median_hz=float(np.clip(f0_median_hz, 80.0, 300.0)),
        formant_factor=float(0.82 + 0.32 * size + rng.normal(0.0, 0.02)),
        breath_db=float(rng.uniform(-3.0, 6.0)),
        colour_db=tuple(float(v) for v in rng.normal(0.0, 2.0, size=5)),
    )


def draw_spec(rng: np.random.Generator) -> ProsodySpec:
    """A way of speaking: every quantity is drawn by itself, so that no cue can be told from another."""
    return ProsodySpec(
        pitch_shift_st=float(rng.uniform(-5.0, 7.0)),
        range_factor=float(np.exp(rng.uniform(np.log(0.35), np.log(2.0)))),
        slope_st=float(rng.uniform(-6.0, 8.0)) if rng.random() < 0.7 else 0.0,
        rate_factor=float(np.exp(rng.uniform(np.log(0.65), np.log(1.5)))),
        tilt_db_per_octave=float(rng.uniform(-3.0, 3.0)),
        breath_db=float(rng.uniform(-6.0, 9.0)) if rng.random() < 0.6 else 0.0,
        jitter=float(rng.uniform(0.0, 0.03)) if rng.random() < 0.3 else 0.0,
        dynamics_factor=float(rng.uniform(0.6, 1.5)) if rng.random() < 0.5 else 1.0,
        pause_s=float(rng.uniform(0.15, 0.6)) if rng.random() < 0.25 else 0.0,
    )


def measure_reached(samples: Samples, text: str) -> Mapping[str, float | None]:
    """What Praat hears in the result, to set beside what was asked; None where nothing is voiced."""
    f0_hz = track_pitch(parselmouth.Sound(samples.astype(np.float64), SAMPLE_RATE_HZ)).selected_array["frequency"]
    f0_hz = f0_hz[f0_hz > 0]
    speech_s = len(samples) / SAMPLE_RATE_HZ - 2 * MARGIN_S
    reached: dict[str, float | None] = {"f0_median_hz": None, "f0_std_st": None}
    if len(f0_hz):
        reached["f0_median_hz"] = round(float(np.median(f0_hz)), 2)
        reached["f0_std_st"] = round(float(np.std(12.0 * np.log2(f0_hz))), 3)
    reached["syllables_per_s"] = round(syllable_count(text) / speech_s, 3)
    return reached


def synthetic_clips(
    count: int, seed: int, folder: str | Path, voices: int = 60, force: bool = False, progress: bool = True
) -> list[Clip]:
    """Write a corpus of synthetic speech: `audio/*.flac` and `manifest.jsonl` with asked and reached prosody.

    A folder that already holds exactly this corpus is read and not written again.

    Args:
        count: Number of clips; clip i is the same whatever the count.
        seed: Of sentences, voices and prosody.
        folder: Where to write; made if it is missing.
        voices: Number of speakers the clips are dealt to.
        force: Replace what is already there.
        progress: Show a bar on stderr.

    Returns:
        The clips, as `read_corpus("synthetic", folder)` gives them. They have no emotion.

    Raises:
        CorpusError: The folder holds another corpus and `force` is not set, or count or voices is < 1.
    """
    folder, recipe = Path(folder), {"version": VERSION, "count": count, "seed": seed, "voices": voices}
    manifest, recipe_file = folder / "manifest.jsonl", folder / "recipe.json"
    if count < 1 or voices < 1:
        raise CorpusError(f"{count} clips of {voices} voices asked for; both must be >= 1")
    if manifest.exists() and not force:
        held = json.loads(recipe_file.read_text(encoding="utf-8")) if recipe_file.exists() else "another corpus"
        if held != recipe:
            raise CorpusError(f"{folder} holds {held}, not {recipe}; give another folder, or force to replace it")
        return read_corpus("synthetic", folder)
    manifest.unlink(missing_ok=True)
    shutil.rmtree(folder / "audio", ignore_errors=True)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    indices = tqdm(range(count), desc="synthetic speech", unit="clip", disable=not progress)
    rows = [_write_clip(index, seed, voices, folder) for index in indices]
    recipe_file.write_text(json.dumps(recipe) + "\n", encoding="utf-8")
    partial = folder / "manifest.jsonl.part"
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    partial.replace(manifest)
    return read_corpus("synthetic", folder)


def _write_clip(index: int, seed: int, voices: int, folder: Path) -> dict[str, Any]:
    noise_seed = clip_seed(f"synthetic {seed}", index)
    rng = np.random.default_rng(noise_seed)
    voice, spec, text = draw_voice(index % voices, seed), draw_spec(rng), str(rng.choice(sentences()))
    samples = synthesise(text, spec, voice, noise_seed)
    audio = f"audio/s{seed}_{index:05d}.flac"
    soundfile.write(folder / audio, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
    return {
        "audio": audio,
        "speaker": voice.name,
        "emotion": None,
        "language": "en",
        "text": text,
        "gender": None,
        "syllables": syllable_count(text),
        "duration": round(len(samples) / SAMPLE_RATE_HZ, 3),
        "asked": {"f0_median_hz": round(asked_median_hz(spec, voice), 2), **asdict(spec)},
        "reached": dict(measure_reached(samples, text)),
        "voice": asdict(voice),
        "licence": "Apache-2.0 (made with hibari-tts)",
    }
