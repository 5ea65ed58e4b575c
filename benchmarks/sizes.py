"""nano and small side by side on speakers that training never heard: python benchmarks/sizes.py --data DIR

Every recording is analysed by each bundle in turn, so that whatever else the machine does disturbs both alike: read the
times as ratios. The control gives each language model the audio of another recording. Intervals are 95 % bootstrap
intervals over clips, which are of two speakers. `--bundles` compares others.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import check_output, deliver, provenance, run, share, table_of, with_progress
from held_out_speakers import INTERVALS, draw_partners, select_clips
from instruments import Listener
from speaker_figures import answer_figures, claim_figures, head_label

from edge_emotion.audio import load_audio
from edge_emotion.bundle import Bundle, load_bundle
from edge_emotion.errors import BundleError
from edge_emotion.result import EmotionResult
from edge_emotion_train.corpora import Clip, corpus_hash

MOMENTS = {"label by the head": "time_to_label_head", "first word": "time_to_first_word", "whole": "total"}


def open_bundles(names: Sequence[str]) -> list[Bundle]:
    """The bundles, which must answer the same emotions.

    Raises:
        BundleError: One is missing, or they have different labels.
    """
    bundles = [load_bundle(name) for name in names]
    for bundle in bundles[1:]:
        if set(bundle.manifest.labels) != set(bundles[0].manifest.labels):
            raise BundleError(f"{bundle.manifest.name} and {bundles[0].manifest.name} answer different emotions")
    return bundles


def hear_all(
    listeners: Sequence[Listener], clips: Sequence[Clip], partners: np.ndarray
) -> tuple[list[list[EmotionResult]], list[list[EmotionResult]]]:
    """Of each listener, what it says of every clip, and what it says when it hears the clip's partner."""
    own: list[list[EmotionResult]] = [[] for _ in listeners]
    embeddings: list[list[np.ndarray | None]] = [[] for _ in listeners]
    for clip in with_progress(clips, "clips"):
        audio = load_audio(clip.path)
        for index, listener in enumerate(listeners):
            own[index].append(listener.hear(audio))
            embeddings[index].append(listener.last_embeddings)
    exchanged: list[list[EmotionResult]] = [[] for _ in listeners]
    for clip, partner in with_progress(list(zip(clips, partners, strict=True)), "audio of another clip"):
        audio = load_audio(clip.path)
        for index, listener in enumerate(listeners):
            exchanged[index].append(listener.hear_another(audio, embeddings[index][partner]))
    return own, exchanged


def figures_of(
    bundle: Bundle,
    truth: Sequence[str],
    own: Sequence[EmotionResult],
    exchanged: Sequence[EmotionResult],
    seed: int,
) -> dict[str, Any]:
    """Every figure of one bundle."""
    labels = bundle.manifest.labels
    one_each = [1] * len(own)
    bases = [variant.base for variant in bundle.manifest.llm.variants]
    control = claim_figures([result.claims for result in exchanged], seed)
    return {
        "version": bundle.manifest.version,
        "sha256": bundle.manifest_sha256,
        "bytes": sum(entry.size for entry in bundle.manifest.files.values()),
        "base_bytes": bases[0].size if bases[0] else 0,
        "head": answer_figures(truth, [result.head_distribution for result in own], labels, seed),
        "answer": answer_figures(truth, [result.distribution for result in own], labels, seed),
        "answer_is_the_heads": share([result.label == head_label(result) for result in own], one_each, seed),
        "uncertain": share([result.uncertain for result in own], one_each, seed),
        "claims": claim_figures([result.claims for result in own], seed),
        "answer_with_another_clips_audio": answer_figures(
            truth, [result.distribution for result in exchanged], labels, seed
        )["uar"],
        "claims_with_another_clips_audio": {
            key: control[key] for key in ("supported", "exact_level", "checkable_per_explanation")
        },
        "median_s": {
            name: median(result.timing_s[key] for result in own if key in result.timing_s)
            for name, key in MOMENTS.items()
        },
    }


def describe(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures as a Markdown table, a column for each bundle."""

    def percent(value: float | None, bounds: Sequence[float] | None) -> str:
        if value is None or bounds is None:
            return "nothing to count"
        return f"{100 * value:.1f} % ({100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})"

    def valued(*path: str) -> list[str]:
        found = [_at(one, path) for one in figures.values()]
        return [percent(item.get("value", item.get("share")), item["interval_95"]) for item in found]

    def plain(style: str, *path: str, scale: float = 1.0) -> list[str]:
        return [style.format(_at(one, path) * scale) for one in figures.values()]

    rows = [
        ("UAR of the head", *valued("head", "uar")),
        ("UAR of the explained answer", *valued("answer", "uar")),
        ("answer is the head's", *valued("answer_is_the_heads")),
        ("calibration error (ECE) of the answer", *plain("{:.3f}", "answer", "ece")),
        ("answers that call themselves uncertain", *valued("uncertain")),
        ("checkable claims supported", *valued("claims", "supported")),
        ("checkable claims of exactly the measured level", *valued("claims", "exact_level")),
        ("checkable claims per explanation", *plain("{:.2f}", "claims", "checkable_per_explanation")),
        ("control, audio of another clip: claims", *valued("claims_with_another_clips_audio", "supported")),
        ("control, audio of another clip: UAR", *valued("answer_with_another_clips_audio")),
        ("bundle, MB", *plain("{:.1f}", "bytes", scale=1e-6)),
        ("base model besides, MB", *plain("{:.1f}", "base_bytes", scale=1e-6)),
        ("median: label by the head, ms", *plain("{:.0f}", "median_s", "label by the head", scale=1e3)),
        ("median: first word, ms", *plain("{:.0f}", "median_s", "first word", scale=1e3)),
        ("median: whole explanation and checks, ms", *plain("{:.0f}", "median_s", "whole", scale=1e3)),
    ]
    return table_of(rows, ("what", *figures))


def _at(tree: Any, path: Sequence[str]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of EmoDB, or the folder that holds emodb/")
    parser.add_argument("--speakers", nargs="+", default=["emodb_15", "emodb_16"], help="the speakers to test on")
    parser.add_argument("--bundles", nargs="+", default=["nano", "small"], help="names of bundles, or folders")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals and of the exchange of clips")
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON document here, with its details")
    parser.add_argument("--force", action="store_true", help="replace the output file")
    parser.add_argument("--json", action="store_true", help="print the JSON document only, without the table")
    given = parser.parse_args(arguments)
    check_output(given.output, given.force)
    bundles = open_bundles(given.bundles)
    clips = select_clips(given.data, given.speakers, bundles[0].manifest.labels)
    truth = [str(clip.emotion) for clip in clips]
    with ExitStack() as opened:
        listeners = [
            opened.enter_context(
                Listener(
                    bundle, bundle.manifest.encoder.variants[0].precision, bundle.manifest.llm.variants[0].quantisation
                )
            )
            for bundle in bundles
        ]
        own, exchanged = hear_all(listeners, clips, draw_partners(len(clips), given.seed))
    figures = {
        bundle.manifest.name: figures_of(bundle, truth, own[i], exchanged[i], given.seed)
        for i, bundle in enumerate(bundles)
    }
    about = provenance(bundles[0], given.seed, packages=("praat-parselmouth",))
    document = {
        "benchmark": "sizes",
        **{key: value for key, value in about.items() if key != "bundle"},
        "corpus": {"name": "emodb", "speakers": given.speakers, "clips": len(clips), "sha256": corpus_hash(clips)},
        "intervals": INTERVALS,
        "bundles": figures,
    }
    details = {
        "clips": [
            {
                "clip": clip.clip_id,
                "truth": clip.emotion,
                **{
                    bundle.manifest.name: {"label": own[i][k].label, "reasoning": own[i][k].reasoning}
                    for i, bundle in enumerate(bundles)
                },
            }
            for k, clip in enumerate(clips)
        ]
    }
    deliver(document, details, describe(figures), given.output, given.json)
    return 0


if __name__ == "__main__":
    run(main)
