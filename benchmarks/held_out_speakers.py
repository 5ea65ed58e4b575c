"""Answers, claims and edits on speakers that training never heard: python benchmarks/held_out_speakers.py --data DIR

Runs the shipped variants of a bundle through the ordinary analyzer, each clip once as it is, once per edit and once per
control. Intervals are 95 % bootstrap intervals over clips: two speakers are too few to draw speakers, so they say how
much the figures depend on these clips, not how other speakers would do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import add_common_arguments, check_output, deliver, provenance, run, table_of, with_progress
from edits import EDITS
from instruments import Listener
from speaker_figures import (
    Heard,
    answer_figures,
    claim_figures,
    control_figures,
    counterfactual_figures,
    doubt_figures,
    head_label,
    null_figures,
)

from edge_emotion.audio import load_audio
from edge_emotion.bundle import load_bundle
from edge_emotion.errors import CorpusError, EdgeEmotionError
from edge_emotion.metrics import unweighted_average_recall
from edge_emotion.result import EmotionResult
from edge_emotion_train.corpora import Clip, corpus_hash, read_corpus, split_by_speaker

INTERVALS = "95 % bootstrap over clips, which are of few speakers: not over speakers"


def select_clips(data: Path, speakers: Sequence[str], labels: Sequence[str]) -> list[Clip]:
    """The recordings of these EmoDB speakers whose emotion the bundle knows, in the order of their names."""
    folder = data / "emodb" if (data / "emodb").is_dir() else data
    _, held_out = split_by_speaker(read_corpus("emodb", folder), speakers)
    clips = sorted((clip for clip in held_out if clip.emotion in labels), key=lambda clip: clip.clip_id)
    if len(clips) < 2:
        raise CorpusError(f"{len(clips)} clips of {', '.join(speakers)} are too few: the controls exchange clips")
    return clips


def hear_all(listener: Listener, clips: Sequence[Clip], seed: int) -> tuple[list[Heard], dict[str, str]]:
    """Every analysis of every clip, and why clips are missing: one that cannot be analysed does not cost the others."""
    firsts, embeddings, failed = {}, {}, {}
    for clip in with_progress(clips, "clips, edits, no audio"):
        try:
            audio = load_audio(clip.path)
            own = listener.hear(audio)
            embeddings[clip.clip_id] = listener.last_embeddings
            edited = {name: listener.hear(edit(audio.samples)) for name, edit in EDITS.items()}
            firsts[clip.clip_id] = (clip, own, edited, listener.hear_nothing(audio))
        except (EdgeEmotionError, ValueError) as error:
            failed[clip.clip_id] = str(error)
    names = list(firsts)
    if len(names) < 2:
        raise EdgeEmotionError(f"{len(names)} of {len(clips)} clips could be analysed; the first problems: {failed}")
    partners, heard = draw_partners(len(names), seed), []
    for index, name in with_progress(list(enumerate(names)), "audio of another clip"):
        clip, own, edited, removed = firsts[name]
        partner = int(partners[index])
        exchanged = listener.hear_another(load_audio(clip.path), embeddings[names[partner]])
        heard.append(Heard(name, clip.speaker, str(clip.emotion), own, edited, removed, exchanged, partner))
    return heard, failed


def draw_partners(count: int, seed: int) -> np.ndarray:
    """For each of `count` clips another one at random, each once and none its own."""
    order = np.random.default_rng(seed).permutation(count)
    partners = np.empty(count, dtype=int)
    partners[order] = np.roll(order, -1)
    return partners


def figures_of(heard: Sequence[Heard], listener: Listener, seed: int) -> dict[str, Any]:
    """Every figure of the benchmark, as plain types."""
    manifest = listener.bundle.manifest
    truth = [item.truth for item in heard]
    return {
        "answers": {
            "head": answer_figures(truth, [item.own.head_distribution for item in heard], manifest.labels, seed)
            | {"uar_per_speaker": _per_speaker(heard, [head_label(item.own) for item in heard])},
            "language_model": answer_figures(truth, [item.own.distribution for item in heard], manifest.labels, seed)
            | {"uar_per_speaker": _per_speaker(heard, [item.own.label for item in heard])},
        },
        "doubts": doubt_figures(heard, seed),
        "claims": claim_figures([item.own.claims for item in heard], seed),
        "controls": control_figures(heard, manifest.thresholds, seed),
        "counterfactual": counterfactual_figures(heard, manifest.thresholds, seed),
        "null_edits": null_figures(heard, seed),
    }


def _per_speaker(heard: Sequence[Heard], answers: Sequence[str | None]) -> dict[str, float]:
    result = {}
    for speaker in dict.fromkeys(item.speaker for item in heard):
        pairs = [(item.truth, answer) for item, answer in zip(heard, answers, strict=True) if item.speaker == speaker]
        result[speaker] = round(unweighted_average_recall(*zip(*pairs, strict=True)), 4)
    return result


def details_of(heard: Sequence[Heard]) -> list[dict[str, Any]]:
    """What was said of each clip, to be read and counted again."""
    return [
        {
            "clip": item.clip,
            "truth": item.truth,
            "head": head_label(item.own),
            "uncertain": item.own.uncertain,
            "confidence": round(item.own.confidence, 4),
            "reasoning": item.own.reasoning,
            "own": _in_short(item.own),
            **{name: _in_short(result) for name, result in item.edited.items()},
            "embeddings_of": heard[item.partner].clip,
            "exchanged": _in_short(item.exchanged),
            "removed": _in_short(item.removed),
        }
        for item in heard
    ]


def _in_short(result: EmotionResult) -> dict[str, Any]:
    marks = {"supported": "+", "contradicted": "-", "not measurable": "?"}
    claims = [f"{marks[item.verdict]} {item.claim.cue}: {item.claim.level}" for item in result.claims]
    return {"label": result.label, "claims": claims}


# --- for people ------------------------------------------------------------------------------------------------------


def describe(figures: Mapping[str, Any]) -> str:
    """The main figures as a Markdown table."""
    head, answer = figures["answers"]["head"], figures["answers"]["language_model"]
    claims, controls, moves = figures["claims"], figures["controls"], figures["counterfactual"]
    doubts, kept = figures["doubts"], figures["null_edits"]
    other, exchanged = controls["explanation_of_another_clip"], controls["embeddings_of_another_clip"]
    removed = controls["embeddings_removed"]
    rows = [
        ("UAR of the head", _value(head["uar"]), ">= 88 %"),
        ("UAR of the language model's answer", _value(answer["uar"]), ">= 82 %"),
        ("accuracy, head", _value(head["accuracy"]), ""),
        ("accuracy, language model", _value(answer["accuracy"]), ""),
        ("calibration error (ECE), head and answer", f"{_number(head['ece'])} and {_number(answer['ece'])}", ""),
        ("results that call themselves uncertain", _share(doubts["uncertain"]), ""),
        ("right when certain", _share(doubts["right_when_certain"]), ""),
        ("checkable claims supported", _share(claims["supported"]), ">= 90 %"),
        ("checkable claims of exactly the measured level", _share(claims["exact_level"]), ""),
        ("checkable claims per explanation", f"{claims['checkable_per_explanation']:.2f}", ">= 3"),
        ("explanations with at least 3", _share(claims["at_least_3_checkable"]), ""),
        ("control: explanation of another clip, supported", _share(other["supported"]), "< 60 %"),
        ("control: embeddings of another clip, supported", _share(exchanged["supported"]), "as above"),
        ("control: embeddings of another clip, UAR", _value(exchanged["answer_uar"]), "chance"),
        ("control: embeddings removed, supported", _share(removed["supported"]), "as above"),
        ("control: embeddings removed, UAR", _value(removed["answer_uar"]), "chance"),
        *_move_rows(moves),
        ("null edits: same label and claims", _share(kept["all_edits"]["label_and_claims"]), ">= 97 %"),
        *(
            (f"  {name}: label, claims", f"{_percent(one['label'])}, {_percent(one['claims'])}", "")
            for name, one in kept["by_edit"].items()
        ),
        *((f"claims on {cue} supported", _share(one), "") for cue, one in claims["by_cue"].items()),
    ]
    return table_of(rows, ("what", "figure", "asked"))


def _move_rows(moves: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    named = [("pitch or rate changed", moves["all_edits"]), *((name, one) for name, one in moves["by_edit"].items())]
    named += [(f"{cue}, lowered to raised", one) for cue, one in moves["lowered_to_raised"].items()]
    rows = []
    for index, (name, one) in enumerate(named):
        rows.append((f"{name}: claim follows", _share(one["right"]), "" if index else ">= 80 %"))
        every = one["all_pairs"]
        rest = f"{every['stays']} stay, {every['wrong']} wrong, {every['not_stated']} not stated"
        rows.append(("  over all pairs", f"{_share(every['right'])}, {rest}", ""))
    return rows


def _value(figure: Mapping[str, Any]) -> str:
    return _with_bounds(figure["value"], figure["interval_95"])


def _share(figure: Mapping[str, Any]) -> str:
    if figure["share"] is None:
        return "nothing to count"
    return f"{_with_bounds(figure['share'], figure['interval_95'])} of {figure['of']}"


def _percent(figure: Mapping[str, Any]) -> str:
    return "-" if figure["share"] is None else f"{100 * figure['share']:.1f} %"


def _with_bounds(value: float, bounds: Sequence[float]) -> str:
    return f"{100 * value:.1f} % ({100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 where a clip could not be analysed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of EmoDB, or the folder that holds emodb/")
    parser.add_argument("--speakers", nargs="+", default=["emodb_15", "emodb_16"], help="the speakers to test on")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals and of the exchange of clips")
    add_common_arguments(parser)
    given = parser.parse_args(arguments)
    check_output(given.output, given.force)
    bundle = load_bundle(given.bundle)
    clips = select_clips(given.data, given.speakers, bundle.manifest.labels)
    with Listener(bundle, given.encoder, given.llm) as listener:
        heard, failed = hear_all(listener, clips, given.seed)
        figures = figures_of(heard, listener, given.seed)
    document = {
        "benchmark": "held_out_speakers",
        **provenance(bundle, given.seed, packages=("praat-parselmouth",)),
        "variants": {"encoder": given.encoder, "llm": given.llm},
        "corpus": {"name": "emodb", "speakers": given.speakers, "clips": len(heard), "sha256": corpus_hash(clips)},
        "clips_failed": failed,
        "intervals": INTERVALS,
        **figures,
    }
    for clip, reason in failed.items():
        print(f"error: {clip}: {reason}", file=sys.stderr)
    deliver(document, {"clips": details_of(heard)}, describe(figures), given.output, given.json)
    return 1 if failed else 0


if __name__ == "__main__":
    run(main)
