"""Tests and fits word prominence on listeners' scores of EmoDB: python benchmarks/word_stress.py --data DIR

DIR holds EmoDB with `manifest.jsonl`; clips whose words are aligned cleanly take part. Each word's human prominence
(0..3) is that of its most prominent syllable. Compared are chance, the sentence prior (what other speakers stress in
the same sentence), the acoustics alone, and both together. Whatever is fitted is fitted without the speaker it is
tested on, and never on the test speakers 15 and 16. Prints the weights that belong into
`edge_emotion_train/labelling/stress.py`; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np
import soundfile
from scipy.optimize import minimize
from scipy.stats import rankdata

from edge_emotion.errors import EdgeEmotionError
from edge_emotion.metrics import bootstrap_interval
from edge_emotion.prosody import Contour, measure_prosody
from edge_emotion.prosody.pitch import track_pitch
from edge_emotion.speech import FRAME_S
from edge_emotion_train.labelling import stress
from edge_emotion_train.labelling.records import Word

TEST_SPEAKERS = ("emodb_15", "emodb_16")
# Above it the alignment says that sounds of the written syllables were not spoken.
CLEAN_ALIGNMENT_COST = 3
RIDGE = 3.0
HIGHEST_SCORE = 3.0
# What counts as stressed when `stressed_words` is tested: half of the scale or more.
STRESSED_SCORE = 1.5
WAVELET_S = 0.1
CHARACTERS, HIGH_LEVEL, TILT, WAVELET = "characters", "level above 1 kHz", "spectral tilt", "pitch wavelet of 100 ms"
PRIOR = "sentence prior"
DEVIATION = "spearman_of_deviation_from_the_sentence"
TRIED = (CHARACTERS, HIGH_LEVEL, TILT, WAVELET)


class Clip(NamedTuple):
    """One clip: who says what, human scores (words,), shipped cues (words, 4), cues tried beside (words, 4), words."""

    speaker: str
    sentence: str
    human: np.ndarray
    cues: np.ndarray
    tried: np.ndarray
    words: tuple[Word, ...]


Scores = list[np.ndarray]
"""The score of each word, clip by clip."""


# --- data ------------------------------------------------------------------------------------------------------------


def read_clips(folder: Path) -> list[Clip]:
    """The cleanly aligned clips of the manifest, measured."""
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        raise EdgeEmotionError(f"{folder} has no manifest.jsonl; --data is the folder of EmoDB that holds it")
    records = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    aligned = [row for row in records if row.get("words") and row["word_align_cost"] <= CLEAN_ALIGNMENT_COST]
    return [clip_of(record, folder) for record in common.with_progress(aligned, "measuring")]


def clip_of(record: Mapping[str, Any], folder: Path) -> Clip:
    samples, _ = soundfile.read(folder / record["audio"], dtype="float32")
    contour = measure_prosody(samples).contour
    words = tuple(Word(word["word"], word["start"], word["end"]) for word in record["words"])
    return Clip(
        record["speaker"],
        record["text_code"],
        np.array([word["prominence"] or 0.0 for word in record["words"]]),
        stress.relative_cues(stress.word_cues(contour, words)),
        standard_scores(tried_cues(samples, contour, words)),
        stress.word_prominence(contour, words),
    )


def tried_cues(samples: np.ndarray, contour: Contour, words: Sequence[Word]) -> np.ndarray:
    """(words, 4) cues that are no part of the measure, because they did not help: `TRIED`."""
    power = track_pitch(samples).band_power + 1e-9
    high_db, tilt_db = 10.0 * np.log10(power[:, 1]), 10.0 * np.log10(power[:, 1] / power[:, 0])
    index, voiced = np.arange(len(contour.f0_hz)), np.isfinite(contour.f0_hz)
    melody = np.interp(index, index[voiced], 12.0 * np.log2(contour.f0_hz[voiced]))
    wave = np.convolve(np.pad(melody, len(MEXICAN_HAT) // 2, mode="edge"), MEXICAN_HAT, mode="valid")
    parts = [stress.frames_of(contour, word) for word in words]
    rows = [
        (np.log(len(word.text)), np.percentile(high_db[part], 95), tilt_db[part].mean(), wave[part].max())
        for word, part in zip(words, parts, strict=True)
        if part is not None
    ]
    return np.array(rows)


def _mexican_hat() -> np.ndarray:
    time_s = np.arange(-0.3, 0.3001, FRAME_S) / WAVELET_S
    curve = (1.0 - time_s**2) * np.exp(-0.5 * time_s**2)
    return (curve - curve.mean()) / np.abs(curve).sum()


MEXICAN_HAT = _mexican_hat()


def standard_scores(values: np.ndarray) -> np.ndarray:
    """(words, columns) in standard deviations from the mean of the clip."""
    return (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-6)


# --- fitting ---------------------------------------------------------------------------------------------------------


def fit(cues: Sequence[np.ndarray], humans: Sequence[np.ndarray]) -> np.ndarray:
    """(cues,) weights under which the most prominent words are the likeliest choice among the words of their clip."""
    targets = [(human == human.max()) / (human == human.max()).sum() for human in humans]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = 0.5 * RIDGE * float(weights @ weights), RIDGE * weights
        for matrix, target in zip(cues, targets, strict=True):
            score = matrix @ weights
            log_share = score - score.max() - np.log(np.exp(score - score.max()).sum())
            value -= float(target @ log_share)
            slope = slope + matrix.T @ (np.exp(log_share) - target)
        return value, slope

    return minimize(loss, np.zeros(cues[0].shape[1]), jac=True, method="L-BFGS-B").x


def fit_scale(scores: np.ndarray, human: np.ndarray) -> np.ndarray:
    """Slope and intercept of the logistic curve from scores to human scores of 0..1."""

    def loss(curve: np.ndarray) -> float:
        logit = curve[0] * scores + curve[1]
        return float(np.sum(np.logaddexp(0.0, logit) - human * logit))

    return minimize(loss, np.array([1.0, -1.0])).x


def without_speaker(clips: Sequence[Clip], cues_of: Callable[[Clip, str], np.ndarray]) -> Scores:
    """Scores of every clip from weights that were fitted without its speaker and without the test speakers.

    Args:
        clips: All clips.
        cues_of: Cues of a clip, given the speaker who is tested and of whom nothing may be known.
    """
    scores: dict[int, np.ndarray] = {}
    for speaker in sorted({clip.speaker for clip in clips}):
        known = [clip for clip in clips if clip.speaker not in (speaker, *TEST_SPEAKERS)]
        weights = fit([cues_of(clip, speaker) for clip in known], [clip.human for clip in known])
        scores |= {
            index: cues_of(clip, speaker) @ weights for index, clip in enumerate(clips) if clip.speaker == speaker
        }
    return [scores[index] for index in range(len(clips))]


def prior_of(clip: Clip, clips: Sequence[Clip], unseen: Sequence[str]) -> np.ndarray:
    """(words, 2) share of speakers' clips in which the word is the most prominent, and its mean score."""
    others = [other.human for other in clips if other.sentence == clip.sentence and other.speaker not in unseen]
    if not others:
        return np.zeros((len(clip.human), 2))
    human = np.array(others)
    top = human == human.max(axis=1, keepdims=True)
    return np.stack([(top / top.sum(axis=1, keepdims=True)).mean(axis=0), human.mean(axis=0)], axis=1)


# --- what is told ----------------------------------------------------------------------------------------------------


def hits(scores: Scores, clips: Sequence[Clip]) -> np.ndarray:
    """(clips,) 1 where the word of the highest score is, for listeners, one of the most prominent."""
    pairs = zip(scores, clips, strict=True)
    return np.array([float(clip.human[int(score.argmax())] == clip.human.max()) for score, clip in pairs])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation."""
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def correlations(scores: Scores, clips: Sequence[Clip]) -> np.ndarray:
    """(clips,) Spearman's correlation over the words of each clip."""
    pairs = zip(scores, clips, strict=True)
    return np.array([spearman(score, clip.human) for score, clip in pairs])


def deviation(scores: Scores, clips: Sequence[Clip]) -> tuple[float, list[float]]:
    """Spearman's correlation of how each word deviates from its mean in that sentence, human against ours; interval.

    A word's usual prominence in the sentence is taken out, so what a prior of the sentence may know is gone.
    """
    ours, human, speakers = [], [], []
    for sentence in sorted({clip.sentence for clip in clips}):
        rows = [index for index, clip in enumerate(clips) if clip.sentence == sentence]
        ours_here = np.array([standard_scores(scores[row][:, None])[:, 0] for row in rows])
        human_here = np.array([clips[row].human for row in rows])
        ours += (ours_here - ours_here.mean(axis=0)).ravel().tolist()
        human += (human_here - human_here.mean(axis=0)).ravel().tolist()
        speakers += [clips[row].speaker for row in rows for _ in clips[row].human]

    interval = bootstrap_interval(spearman, ours, human, groups=speakers, samples=300)
    return spearman(np.array(ours), np.array(human)), [round(bound, 3) for bound in interval]


def mean_with_interval(values: np.ndarray, clips: Sequence[Clip]) -> dict[str, Any]:
    """Mean over clips with its 95 % interval by bootstrap over speakers."""
    low, high = bootstrap_interval(np.mean, values, groups=[clip.speaker for clip in clips])
    return {"mean": round(float(np.mean(values)), 4), "interval_95": [round(low, 4), round(high, 4)]}


def figures(name: str, scores: Scores, prior: Scores, clips: Sequence[Clip]) -> dict[str, Any]:
    """Everything that is told of one way of scoring, beside the prior."""
    found, prior_found = hits(scores, clips), hits(prior, clips)
    unusual = prior_found == 0.0
    told = {
        "most_prominent_word_found": mean_with_interval(found, clips),
        "more_than_the_prior": mean_with_interval(found - prior_found, clips),
        "found_where_the_prior_is_wrong": round(float(found[unusual].mean()), 4),
        "spearman_over_words": mean_with_interval(correlations(scores, clips), clips),
    }
    if not name.startswith(PRIOR):
        correlation, interval = deviation(scores, clips)
        told[DEVIATION] = {"value": round(correlation, 3), "interval_95": interval}
    return told


def stressed_figures(clips: Sequence[Clip]) -> dict[str, float]:
    """Precision and recall of `stressed_words` against scores of listeners of at least half the scale."""
    human = np.concatenate([clip.human for clip in clips]) >= STRESSED_SCORE
    chosen = [{id(word) for word in stress.stressed_words(clip.words)} for clip in clips]
    ours = np.array([id(word) in some for clip, some in zip(clips, chosen, strict=True) for word in clip.words])
    both = int((human & ours).sum())
    precision, recall = both / int(ours.sum()), both / int(human.sum())
    return {
        "precision": round(precision, 3),
        "recall": round(recall, 3),
        "f1": round(2.0 * precision * recall / (precision + recall), 3),
        "words": len(human),
    }


def score_all(clips: Sequence[Clip]) -> dict[str, Scores]:
    """Scores of the clips by each way of scoring."""

    def both(clip: Clip, unseen: str) -> np.ndarray:
        known = prior_of(clip, clips, (clip.speaker, unseen, *TEST_SPEAKERS))
        return np.concatenate([clip.cues, standard_scores(known)], axis=1)

    # The prior may know every other speaker, the test speakers too: it is a rival, not a part of the measure.
    priors = [prior_of(clip, clips, (clip.speaker,)) for clip in clips]
    return {
        f"{PRIOR}: most often on top": [prior[:, 0] for prior in priors],
        f"{PRIOR}: highest mean score": [prior[:, 1] for prior in priors],
        "acoustics, shipped weights": [clip.cues @ np.array(stress.WEIGHTS) for clip in clips],
        "acoustics": without_speaker(clips, lambda clip, _: clip.cues),
        "acoustics and sentence prior": without_speaker(clips, both),
    }


def variants(clips: Sequence[Clip]) -> dict[str, Scores]:
    """Each cue alone, the measure without it, and with each cue that was tried."""
    scores: dict[str, Scores] = {}
    for column, name in enumerate(stress.CUE_NAMES):
        scores[f"{name} alone"] = [clip.cues[:, column] for clip in clips]
        kept = [index for index in range(len(stress.CUE_NAMES)) if index != column]
        scores[f"without {name}"] = without_speaker(clips, lambda clip, _, kept=kept: clip.cues[:, kept])
    for column, name in enumerate(TRIED):
        scores[f"with {name}"] = without_speaker(
            clips,
            lambda clip, _, column=column: np.concatenate([clip.cues, clip.tried[:, column : column + 1]], axis=1),
        )
    return scores


def report(clips: list[Clip]) -> dict[str, Any]:
    """The document."""
    scores = score_all(clips)
    prior_name = f"{PRIOR}: highest mean score"
    groups = {
        "training_speakers": [i for i, clip in enumerate(clips) if clip.speaker not in TEST_SPEAKERS],
        "test_speakers": [i for i, clip in enumerate(clips) if clip.speaker in TEST_SPEAKERS],
    }
    document: dict[str, Any] = {}
    for group, rows in groups.items():
        some = [clips[row] for row in rows]
        prior = [scores[prior_name][row] for row in rows]
        chance = np.array([(clip.human == clip.human.max()).mean() for clip in some])
        document[group] = {
            "clips": len(some),
            "words": sum(len(clip.human) for clip in some),
            "chance": round(float(chance.mean()), 4),
            "stressed_words": stressed_figures(some),
            **{name: figures(name, [score[row] for row in rows], prior, some) for name, score in scores.items()},
        }
    known = [clips[row] for row in groups["training_speakers"]]
    weights = fit([clip.cues for clip in known], [clip.human for clip in known])
    total = np.concatenate([clip.cues @ weights for clip in known])
    curve = fit_scale(total, np.concatenate([clip.human for clip in known]) / HIGHEST_SCORE)
    document["fitted_on_training_speakers"] = {"weights": weights.round(2).tolist(), "curve": curve.round(2).tolist()}
    document["shipped"] = {"weights": list(stress.WEIGHTS), "curve": [stress.SLOPE, stress.INTERCEPT]}
    document["variants_on_training_speakers"] = {
        name: {
            "most_prominent_word_found": round(float(hits(scored, known).mean()), 4),
            "spearman_over_words": round(float(np.nanmean(correlations(scored, known))), 4),
        }
        for name, scored in variants(known).items()
    }
    return document


def table(document: Mapping[str, Any]) -> str:
    """What a person reads."""
    rows = []
    for group in ("training_speakers", "test_speakers"):
        some = document[group]
        rows.append([group, f"chance, {some['clips']} clips", f"{some['chance']:.1%}", "", "", ""])
        for name, item in some.items():
            if isinstance(item, dict) and "most_prominent_word_found" in item:
                found, more = item["most_prominent_word_found"], item["more_than_the_prior"]
                low, high = found["interval_95"]
                rows.append(
                    [
                        group,
                        name,
                        f"{found['mean']:.1%} ({low:.1%} to {high:.1%})",
                        f"{more['mean']:+.1%} ({more['interval_95'][0]:+.1%} to {more['interval_95'][1]:+.1%})",
                        f"{item['spearman_over_words']['mean']:.2f}",
                        f"{item.get(DEVIATION, {}).get('value', '')}",
                    ]
                )
    head = ["speakers", "by", "most prominent word found", "more than the prior", "Spearman", "of deviation"]
    return common.table_of(rows, head)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of EmoDB, with manifest.jsonl")
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON document here")
    parser.add_argument("--force", action="store_true", help="replace the output file")
    parser.add_argument("--json", action="store_true", help="print the JSON document only, without the table")
    arguments = parser.parse_args()
    common.check_output(arguments.output, arguments.force)
    document = report(read_clips(arguments.data))
    common.deliver(document, {}, table(document), arguments.output, arguments.json)
    return 0


if __name__ == "__main__":
    common.run(main)
