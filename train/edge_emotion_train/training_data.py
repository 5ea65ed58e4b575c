"""The clips that a small model is trained on, and their features: what the stages of nano have in common."""

from __future__ import annotations

import numpy as np

from edge_emotion.errors import ConfigError

from .config import SftConfig
from .corpora import Clip, corpus_hash, read_corpus
from .features import FeatureSet, extract_features
from .processes import main_first
from .prosody_features import ProsodyFeatures, extract_prosody_features
from .synthetic import synthetic_clips


def collect_clips(config: SftConfig) -> list[tuple[Clip, int]]:
    """Every clip of the configured corpora with its number of augmented variants; test speakers get none."""
    tasks = [
        (clip, 0 if clip.speaker in config.test_speakers else config.emodb_variants)
        for clip in read_corpus("emodb", config.data / "emodb")
    ]
    if config.emogator_clips:
        bursts = [clip for clip in read_corpus("emogator", config.data / "emogator") if clip.split == "train"]
        chosen = np.random.default_rng(config.seed).permutation(len(bursts))[: config.emogator_clips]
        tasks += [(bursts[i], 0) for i in sorted(chosen)]
    if config.synthetic_clips:
        folder = config.cache / f"synthetic-{config.synthetic_clips}-{config.seed}"
        tasks += [
            (clip, config.synthetic_variants) for clip in synthetic_clips(config.synthetic_clips, config.seed, folder)
        ]
    return tasks


def load_training_features(config: SftConfig) -> tuple[FeatureSet, str]:
    """Features of all clips, and the SHA-256 of the corpora."""
    with main_first():
        tasks = collect_clips(config)
    unknown = sorted(set(config.test_speakers) - {clip.speaker for clip, _ in tasks})
    if unknown:
        raise ConfigError(f"test_speakers: nobody is called {', '.join(unknown)}; a misspelt one would be trained on")
    with main_first():
        features = extract_features(
            tasks, config.encoder_weights, config.encoder_layers, config.cache, config.processes
        )
    return features, corpus_hash([clip for clip, _ in tasks])


def load_triples_and_shapes(config: SftConfig) -> ProsodyFeatures:
    """What the prosody tasks need beside the features, of every clip of speech: of laughs and sighs nothing is asked.

    Triples are made of the recordings of EmoDB: of synthetic speech only the melodies are used.
    """
    with main_first():
        tasks = [
            (clip, variants, min(config.prosody_triples, variants + 1) if clip.corpus == "emodb" else 0)
            for clip, variants in collect_clips(config)
            if clip.corpus != "emogator"
        ]
        return extract_prosody_features(
            tasks, config.encoder_weights, config.encoder_layers, config.cache, config.processes
        )


def transcripts(config: SftConfig) -> dict[str, str]:
    """What is said in each clip whose text is known, by clip."""
    return {clip.clip_id: clip.text for clip, _ in collect_clips(config) if clip.text}
