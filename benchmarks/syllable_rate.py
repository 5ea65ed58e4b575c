"""Fits and tests the syllable rate against EmoDB's aligned syllables: python benchmarks/syllable_rate.py --data DIR

Leaves out each speaker together with each sentence: what is predicted was neither said by that voice nor in those
words in the fit. The test speakers 15 and 16 take no part. Prints the weights that belong into
`edge_emotion/prosody/rhythm.py`. Synthetic English speech (hibari-tts) adds other words, if it is installed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr

from edge_emotion.prosody import measures, rhythm
from edge_emotion.prosody.pitch import track_pitch
from edge_emotion.speech import SAMPLE_RATE_HZ, find_speech

TEST_SPEAKERS = ("emodb_15", "emodb_16")
# Above it the alignment says that sounds of the written syllables were not spoken.
CLEAN_ALIGNMENT_COST = 3
NOISE_BELOW_SPEECH_DB = 20.0
SYNTHETIC_CLIPS, SYNTHETIC_WEIGHT, NOISY_WEIGHT, RIDGE = 180, 0.7, 0.5, 10.0
VOWELS = frozenset("aeiouæɑɒɔəɚɛɜɪʊʌyøœɐᵊAIOWYᵻ")  # noqa: RUF001
SUBJECTS = ("the old man", "my little sister", "nobody", "our neighbour from the city", "she", "two tired soldiers")
VERBS = ("will never forget", "carried", "has been looking for", "is going to sell", "broke", "politely asked about")
OBJECTS = ("the kitchen window", "it", "an unbelievable story", "the last train to London", "everything", "the dog")
ENDS = ("yesterday evening", "because it was raining", "tonight", "without any hesitation", "on the refrigerator")


class Clip(NamedTuple):
    """Rate features of one clip and its true rate in syllables per second of speech."""

    features: np.ndarray
    rate: float
    speaker: str
    sentence: str
    clean: bool


def clip_of(samples: np.ndarray, syllables: int, speaker: str, sentence: str, clean: bool = True) -> Clip | None:
    """Features and rate of a clip; None if no speech is found in it."""
    activity = find_speech(samples)
    if not activity.segments:
        return None
    span = measures.speech_span(samples, activity)
    voiced = (track_pitch(span.samples).f0_hz > 0.0) & span.speech
    features, _ = rhythm.rate_features(span.samples, voiced, span.speech)
    return Clip(features, syllables / (activity.speech.sum() * activity.frame_s), speaker, sentence, clean)


def read_emodb(folder: Path, noise_seed: int) -> tuple[list[Clip], list[Clip]]:
    """The clips of the training speakers that have aligned syllables, as they are and with white noise at 20 dB."""
    rng = np.random.default_rng(noise_seed)
    original, noisy = [], []
    for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["speaker"] in TEST_SPEAKERS or not record.get("syllables"):
            continue
        samples, _ = soundfile.read(folder / record["audio"], dtype="float32")
        noise = rng.standard_normal(len(samples)) * samples.std() * 10.0 ** (-NOISE_BELOW_SPEECH_DB / 20.0)
        about = (len(record["syllables"]), record["speaker"], record["text_code"])
        clean = record["word_align_cost"] <= CLEAN_ALIGNMENT_COST
        pair = clip_of(samples, *about, clean), clip_of(samples + noise.astype(np.float32), *about, clean)
        if pair[0] and pair[1]:
            original.append(pair[0])
            noisy.append(pair[1])
    return original, noisy


def synthesise(seed: int) -> list[Clip]:
    """English sentences at 0.65 to 1.5 of the usual speed; empty without hibari-tts."""
    try:
        from hibari import Hibari
    except ImportError:
        print("hibari-tts is not installed: fitting without synthetic speech", file=sys.stderr)
        return []
    rng, voice, clips = np.random.default_rng(seed), Hibari(), []
    for index in range(SYNTHETIC_CLIPS):
        text = " ".join(str(rng.choice(part)) for part in (SUBJECTS, VERBS, OBJECTS, ENDS))
        phonemes = " ".join(voice.phonemize(text))
        speed = float(np.exp(rng.uniform(np.log(0.65), np.log(1.5))))
        samples = soxr.resample(np.ravel(voice(text, speed=speed, seed=index)), 24000, SAMPLE_RATE_HZ)
        clip = clip_of(samples.astype(np.float32), sum(sound in VOWELS for sound in phonemes), "synthetic", text)
        clips += [clip] if clip else []
    return clips


def fit(groups: list[tuple[list[Clip], float]]) -> np.ndarray:
    """(4,) intercept and weights by ridge regression over clips, each group with its weight."""
    features = np.array([clip.features for clips, _ in groups for clip in clips])
    rates = np.array([clip.rate for clips, _ in groups for clip in clips])
    weights = np.array([weight for clips, weight in groups for _ in clips])
    mean, scale = np.average(features, axis=0, weights=weights), features.std(axis=0)
    rate = np.average(rates, weights=weights)
    unit = (features - mean) / scale
    slopes = np.linalg.solve(
        (unit * weights[:, None]).T @ unit + RIDGE * np.eye(3), (unit * weights[:, None]).T @ (rates - rate)
    )
    return np.array([rate - mean @ (slopes / scale), *(slopes / scale)])


def agreement(predicted: np.ndarray, clips: list[Clip]) -> dict[str, Any]:
    """Pearson correlation and mean absolute error against the true rates."""
    true = np.array([clip.rate for clip in clips])
    return {
        "clips": len(clips),
        "correlation": round(float(np.corrcoef(predicted, true)[0, 1]), 3),
        "mean_abs_error_per_s": round(float(np.abs(predicted - true).mean()), 3),
        "bias_per_s": round(float((predicted - true).mean()), 3),
    }


def predict(weights: np.ndarray, clips: list[Clip]) -> np.ndarray:
    """(clips,) rates per second."""
    return weights[0] + np.array([clip.features for clip in clips]) @ weights[1:]


def cross_validate(original: list[Clip], noisy: list[Clip], synthetic: list[Clip]) -> tuple[np.ndarray, np.ndarray]:
    """Rates of each original and each noisy clip from a fit without its speaker and without its sentence."""
    rates, noisy_rates = np.zeros(len(original)), np.zeros(len(original))
    speakers, sentences = sorted({clip.speaker for clip in original}), sorted({clip.sentence for clip in original})
    for speaker, sentence in itertools.product(speakers, sentences):
        test = [i for i, clip in enumerate(original) if clip.speaker == speaker and clip.sentence == sentence]
        train = [i for i, clip in enumerate(original) if clip.speaker != speaker and clip.sentence != sentence]
        if not test:
            continue
        parts = [([original[i] for i in train], 1.0), ([noisy[i] for i in train], NOISY_WEIGHT)]
        weights = fit([*parts, (synthetic, SYNTHETIC_WEIGHT)])
        rates[test] = predict(weights, [original[i] for i in test])
        noisy_rates[test] = predict(weights, [noisy[i] for i in test])
    return rates, noisy_rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of EmoDB, with manifest.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON document here")
    arguments = parser.parse_args()
    original, noisy = read_emodb(arguments.data, arguments.seed)
    synthetic = synthesise(arguments.seed)
    rates, noisy_rates = cross_validate(original, noisy, synthetic)
    clean = [i for i, clip in enumerate(original) if clip.clean]
    shipped = np.array([rhythm.RATE_INTERCEPT, *rhythm.RATE_WEIGHTS])
    result = {
        "unseen_speaker_and_sentence": agreement(rates, original),
        "of_these_cleanly_aligned": agreement(rates[clean], [original[i] for i in clean]),
        "with_white_noise_at_20_db": agreement(noisy_rates, noisy),
        "nuclei_count_alone": agreement(np.array([clip.features[0] for clip in original]), original),
        "fitted_on_all": fit([(original, 1.0), (noisy, NOISY_WEIGHT), (synthetic, SYNTHETIC_WEIGHT)]).round(3).tolist(),
        "shipped": shipped.tolist(),
        "shipped_on_all": agreement(predict(shipped, original), original),
    }
    if synthetic:
        result["english_synthetic_from_german_only"] = agreement(predict(fit([(original, 1.0)]), synthetic), synthetic)
    document = json.dumps(result)
    if arguments.output:
        temporary = arguments.output.with_suffix(".tmp")
        temporary.write_text(document + "\n", encoding="utf-8")
        temporary.replace(arguments.output)
    print(json.dumps(result, indent=2), file=sys.stderr)
    print(document)


if __name__ == "__main__":
    main()
