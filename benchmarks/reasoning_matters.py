"""Does nano's answer depend on what it reasoned, and both on what it heard?  python benchmarks/reasoning_matters.py ...

Before and after reinforcement, on the held-out speakers of the folds that `grpo_ptr.py` has trained in `--work`:

- *head*: UAR of the explained answer minus that of the model's own emotion head, which hears the same.
- *cues of another emotion*: in each think text the levels of its cues are replaced by those most typical of another
  emotion (drawn by the seed for each clip, never the true or the answered one), in the same words otherwise; the change
  of the probability of that emotion and of the label answered before. Twice: the cues alone, with the text's
  interpretation as it was; and with an interpretation that names what such cues suggest.
- *audio of another clip* and *audio removed*: UAR of the answer, and claims that the clip itself bears out.

Intervals are 95 % bootstrap intervals that draw speakers and then clips of each.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import check_output, commit, cpu_model, deliver, run, table_of
from grpo_ptr import FOLDS
from grpo_ptr_models import BATCH, MODELS, Fold, Heard, reinforced, supervised, verdicts
from grpo_ptr_table import NAMES, draws

from edge_emotion.claims import parse_claims
from edge_emotion.cues import CUE_BY_NAME
from edge_emotion.errors import EdgeEmotionError
from edge_emotion.wording import PHRASES
from edge_emotion_train.config import SftConfig, read_config
from edge_emotion_train.evaluate import recordings_of
from edge_emotion_train.features import FeatureSet
from edge_emotion_train.generate import generate
from edge_emotion_train.reasoning import MOODS, CueEmotionTable
from edge_emotion_train.recipe import measured_levels
from edge_emotion_train.reinforcement.prompts import audio_of
from edge_emotion_train.reinforcement.replies import label_scores_after
from edge_emotion_train.sft import AudioInputs, SpeechLanguageModel
from edge_emotion_train.training_data import load_training_features


def typical_levels(table: CueEmotionTable, emotion: str) -> dict[str, str]:
    """Of each cue the level that speaks most for an emotion against the others."""
    return {
        name: max(cue.levels, key=lambda level: dict(table.rank({name: level}))[emotion])
        for name, cue in CUE_BY_NAME.items()
        if name in PHRASES
    }


def with_cues_of(text: str, levels: Mapping[str, str], rng: np.random.Generator) -> str:
    """A text whose every claim states the level of `levels`, in one of our own phrases."""
    pieces, at = [], 0
    for claim in parse_claims(text):
        if claim.cue not in levels:
            continue
        options = PHRASES[claim.cue][levels[claim.cue]]
        # Our phrases bring their own article, and the span of a claim need not hold the one before it.
        before = re.sub(r"\ban? (voice )?$", "", text[at : claim.start], flags=re.IGNORECASE)
        pieces += [before, options[int(rng.integers(len(options)))]]
        at = claim.end
    whole = "".join([*pieces, text[at:]])
    return whole[:1].upper() + whole[1:]


def interpreted_as(text: str, names: Sequence[str]) -> str:
    """A text whose last sentence says that its cues point to these emotions."""
    sentences = text.rstrip(".").split(". ")
    described = ". ".join(sentences[:-1]) if len(sentences) > 1 else sentences[0]
    return f"{described}. Together these cues point to {' or '.join(MOODS.get(name, name) for name in names)}."


def heard_by(features: FeatureSet, heard: Heard, indices: np.ndarray, tokens: int, removed: bool) -> AudioInputs:
    """The audio of some rows; removed, no token of it is left."""
    audio = audio_of(features, *heard.evidence, indices, tokens)
    if removed:
        audio.token_mask[:] = False
    return audio


def in_batches(indices: np.ndarray, act: Callable[[np.ndarray], Any]) -> list[Any]:
    """`act` of the rows, batch by batch."""
    return [act(indices[start : start + BATCH]) for start in range(0, len(indices), BATCH)]


def one_fold(name: str, features: FeatureSet, sft: SftConfig, fold: Fold, folder: Path) -> list[dict[str, Any]]:
    """A record of every held-out clip."""
    heard = supervised(features, sft, fold, folder, prosody=name != "sft_without_prosody")
    speech = reinforced(name, heard, folder)
    trained, labels = heard.trained, list(sft.labels)
    indices = recordings_of(features.rows, fold.speakers)
    rows, rng = [features.rows[i] for i in indices], np.random.default_rng(fold.seed)
    others = indices[(np.arange(len(indices)) + rng.integers(1, len(indices))) % len(indices)]

    def said(chosen: np.ndarray, removed: bool = False) -> tuple[list[str], np.ndarray]:
        parts = in_batches(chosen, lambda some: generate(
            speech, trained.tokenizer, trained.prompt, labels,
            heard_by(features, heard, some, speech.evidence.tokens, removed)))  # fmt: skip
        return [text for part in parts for text in part.reasoning], np.concatenate([p.label_scores for p in parts])

    def after(texts: Sequence[str]) -> np.ndarray:
        return probabilities(speech, features, heard, labels, indices, texts)

    texts, scores = said(indices)
    swapped, swapped_scores = said(others)
    deaf, deaf_scores = said(indices, removed=True)
    speakers = [row for row in features.rows if row.speaker not in fold.speakers and row.corpus == "emodb"
                and row.variant == 0]  # fmt: skip
    table = CueEmotionTable().fit(
        [measured_levels(row, trained.thresholds) for row in speakers], [str(row.emotion) for row in speakers]
    )
    answers = scores.argmax(axis=1)
    aims = [
        int(rng.choice([i for i, label in enumerate(labels) if label != row.emotion and i != answer]))
        for row, answer in zip(rows, answers, strict=True)
    ]
    replaced = [
        with_cues_of(text, typical_levels(table, labels[aim]), rng) for text, aim in zip(texts, aims, strict=True)
    ]
    suggested = [
        interpreted_as(text, [emotion for emotion, _ in table.rank(stated_levels(text))[:2]]) for text in replaced
    ]
    before, cues, whole = after(texts), after(replaced), after(suggested)
    return [
        {
            "clip": row.clip,
            "speaker": row.speaker,
            "truth": labels.index(str(row.emotion)),
            "answer": int(answers[i]),
            "head": int(heard.head_logits[indices[i]].argmax()),
            "answer_swapped": int(swapped_scores[i].argmax()),
            "answer_deaf": int(deaf_scores[i].argmax()),
            **{f"{how}_{key}": value for how, text in (("own", texts[i]), ("swapped", swapped[i]), ("deaf", deaf[i]))
               for key, value in verdicts(text, row, trained.thresholds).items() if key in ("checkable", "supported")},
            **{f"{how}_{key}": value for how, found in (("cues", cues[i]), ("whole", whole[i]))
               for key, value in (("aim", float(found[aims[i]] - before[i][aims[i]])),
                                  ("answer", float(found[answers[i]] - before[i][answers[i]])),
                                  ("moved", float(found.argmax() != answers[i])))},
            "text": texts[i],
            "replaced": replaced[i],
        }
        for i, row in enumerate(rows)
    ]  # fmt: skip


def stated_levels(text: str) -> dict[str, str]:
    """Cue name to the level that a text states, the last where it states several."""
    return {claim.cue: claim.level for claim in parse_claims(text)}


def probabilities(
    speech: SpeechLanguageModel,
    features: FeatureSet,
    heard: Heard,
    labels: Sequence[str],
    indices: np.ndarray,
    texts: Sequence[str],
) -> np.ndarray:
    """Probability of each label after given reasonings, `(n, labels)`."""
    given = dict(zip(indices.tolist(), texts, strict=True))
    scores = np.concatenate(
        in_batches(
            indices,
            lambda some: label_scores_after(
                speech,
                heard.trained.tokenizer,
                heard.trained.prompt,
                labels,
                heard_by(features, heard, some, speech.evidence.tokens, False),
                [given[int(i)] for i in some],
            ),
        )
    )
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def uar(records: Sequence[Mapping[str, Any]], answer: str) -> float:
    """Mean recall of the emotions that occur."""
    truth = np.array([record["truth"] for record in records])
    right = np.array([record[answer] for record in records]) == truth
    return float(np.mean([right[truth == label].mean() for label in np.unique(truth)]))


def _supported(how: str) -> Callable[[Sequence[Mapping[str, Any]]], float]:
    return lambda records: (
        sum(r[f"{how}_supported"] for r in records) / max(1, sum(r[f"{how}_checkable"] for r in records))
    )


def _mean(name: str) -> Callable[[Sequence[Mapping[str, Any]]], float]:
    return lambda records: float(np.mean([record[name] for record in records]))


FIGURES: Mapping[str, tuple[str, Callable[[Sequence[Mapping[str, Any]]], float]]] = {
    "answer_uar": ("UAR of the answer", lambda records: uar(records, "answer")),
    "head_uar": ("UAR of the head", lambda records: uar(records, "head")),
    "answer_minus_head": ("answer minus head", lambda records: uar(records, "answer") - uar(records, "head")),
    "cues_aim": ("cues of another emotion: change of its P", _mean("cues_aim")),
    "cues_answer": ("cues of another emotion: change of P of the answer", _mean("cues_answer")),
    "cues_moved": ("cues of another emotion: answers that change", _mean("cues_moved")),
    "whole_aim": ("cues and interpretation of another: change of its P", _mean("whole_aim")),
    "whole_answer": ("cues and interpretation of another: change of P of the answer", _mean("whole_answer")),
    "whole_moved": ("cues and interpretation of another: answers that change", _mean("whole_moved")),
    "swapped_uar": ("audio of another clip: UAR", lambda records: uar(records, "answer_swapped")),
    "deaf_uar": ("audio removed: UAR", lambda records: uar(records, "answer_deaf")),
    "own_supported": ("claims supported", _supported("own")),
    "swapped_supported": ("audio of another clip: claims supported", _supported("swapped")),
    "deaf_supported": ("audio removed: claims supported", _supported("deaf")),
}


def figures(records: Sequence[Mapping[str, Any]], samples: int = 1000) -> dict[str, Any]:
    """Every figure with its interval."""
    resamples = draws(np.array([record["speaker"] for record in records]), samples=samples)
    return {
        name: {
            "value": round(figure(records), 4),
            "interval_95": [
                round(float(bound), 4)
                for bound in np.quantile([figure([records[i] for i in rows]) for rows in resamples], [0.025, 0.975])
            ],
        }
        for name, (_, figure) in FIGURES.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds emodb/ and emogator/")
    parser.add_argument("--encoder-weights", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/nano/cache"))
    parser.add_argument("--work", type=Path, default=Path("runs/grpo_ptr"), help="folder of the runs of grpo_ptr.py")
    parser.add_argument("--config", type=Path, default=Path("train/configs/nano.yaml"))
    parser.add_argument("--models", nargs="+", default=["sft", "v6_measured"], choices=list(MODELS), metavar="MODEL")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--force", action="store_true")
    given = parser.parse_args()
    check_output(given.output, given.force)
    paths = ["--data", str(given.data), "--encoder-weights", str(given.encoder_weights), "--cache", str(given.cache)]
    sft = read_config(given.config, paths)
    features, _ = load_training_features(sft)
    features = features.select([i for i, row in enumerate(features.rows) if row.speaker not in sft.test_speakers])
    folds = [
        fold for fold in FOLDS if all((given.work / fold.name / f"{name}.json").is_file() for name in given.models)
    ]
    if not folds:
        raise EdgeEmotionError(f"{given.work} holds no fold with {', '.join(given.models)}; run grpo_ptr.py first")
    records = {
        name: [record for fold in folds for record in one_fold(name, features, sft, fold, given.work / fold.name)]
        for name in given.models
    }
    found = {name: figures(of) for name, of in records.items()}
    table = table_of(
        [
            [title]
            + ["{:.1f} ({:.1f} to {:.1f})".format(*(100 * x for x in (row["value"], *row["interval_95"])))
               for row in (found[name][key] for name in given.models)]
            for key, (title, _) in FIGURES.items()
        ],
        ["figure, %", *(NAMES[name] for name in given.models)],
    )  # fmt: skip
    document = {
        "benchmark": "reasoning_matters",
        "speakers": [speaker for fold in folds for speaker in fold.speakers],
        "clips": len(next(iter(records.values()))),
        "models": found,
        "examples": {name: [{key: r[key] for key in ("clip", "text", "replaced")} for r in of[:3]]
                     for name, of in records.items()},
        "commit": commit(),
        "machine": cpu_model(),
    }  # fmt: skip
    deliver(document, {}, table, given.output, json_only=False)
    return 0


if __name__ == "__main__":
    run(main)
