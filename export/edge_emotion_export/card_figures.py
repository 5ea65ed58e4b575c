"""What benchmarks found out about a bundle, as sections of its model card.

Result files are those of `benchmarks/held_out_speakers.py` (through the bundle's own files) and of `edge-emotion train
eval` (folds of speakers, before export). Precision, recall and F1 of each emotion come from the confusion matrix, which
holds every answer; their intervals are 95 % bootstrap intervals over its clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_emotion.errors import EdgeEmotionError
from edge_emotion.metrics import bootstrap_interval

SPEAKERS, FOLDS = "held_out_speakers", "folds"
_ANSWERERS = {"language_model": "explained answer", "head": "encoder alone"}


def figure_sections(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown for every result.

    Raises:
        EdgeEmotionError: A result is of no kind that is known here, or lacks a figure.
    """
    lines: list[str] = []
    for result in results:
        try:
            lines += _speaker_lines(result) if kind_of(result) == SPEAKERS else _fold_lines(result)
        except (KeyError, TypeError, ValueError) as error:
            raise EdgeEmotionError(f"a result lacks a figure ({error!r}); run its benchmark again") from error
    return lines


def kind_of(result: Mapping[str, Any]) -> str:
    """Which benchmark wrote a result.

    Raises:
        EdgeEmotionError: None that a card tells of.
    """
    if result.get("benchmark") == SPEAKERS:
        return SPEAKERS
    if "head_leave_one_speaker_out" in result:
        return FOLDS
    name = result.get("benchmark", "no benchmark")
    raise EdgeEmotionError(
        f"a model card tells of benchmarks/held_out_speakers.py and `edge-emotion train eval`, not of {name!r}"
    )


def class_figures(confusion: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, Any]]:
    """Precision, recall and F1 of each label with 95 % bootstrap intervals over clips.

    Args:
        confusion: Truth -> answer -> clips.

    Returns:
        Label -> `clips` and, under each figure's name, `(value, low, high)`; None where it has no value.
    """
    labels = list(confusion)
    pairs = [(labels.index(truth), labels.index(answer)) for truth, row in confusion.items()
             for answer, count in row.items() for _ in range(count)]  # fmt: skip
    truth, answers = (np.array(side) for side in zip(*pairs, strict=True))
    found: dict[str, dict[str, Any]] = {}
    for index, label in enumerate(labels):
        hit, true, said = (truth == index) & (answers == index), truth == index, answers == index
        figures = {
            "precision": (hit, said),
            "recall": (hit, true),
            "f1": (2 * hit, said.astype(int) + true.astype(int)),
        }
        found[label] = {"clips": int(true.sum())} | {name: _share(*parts) for name, parts in figures.items()}
    return found


def weakest(results: Sequence[Mapping[str, Any]]) -> str | None:
    """A sentence that names the emotions found least often, None where none was measured."""
    speakers = next((result for result in results if kind_of(result) == SPEAKERS), None)
    if speakers is None:
        return None
    answer = speakers["answers"]["language_model"]
    least = sorted(answer["recall"].items(), key=lambda item: item[1])[:2]
    parts = []
    for label, recall in least:
        row = {other: count for other, count in answer["confusion"][label].items() if other != label and count}
        taken = max(row, key=row.__getitem__) if row else None
        parts.append(f"{label} ({recall:.0%}" + (f", mostly taken for {taken})" if taken else ")"))
    return f"It finds these least often: {' and '.join(parts)}."


def _share(part: np.ndarray, whole: np.ndarray) -> tuple[float, float, float] | None:
    if not whole.sum():
        return None
    with np.errstate(invalid="ignore"):
        low, high = bootstrap_interval(lambda some, all_: np.sum(some) / np.sum(all_), part.astype(int), whole)
    return float(part.sum() / whole.sum()), float(low), float(high)


def _speaker_lines(result: Mapping[str, Any]) -> list[str]:
    corpus, variants = result["corpus"], result["variants"]
    who = ", ".join(corpus["speakers"])
    lines = [
        "## Answers on speakers it never heard",
        "",
        f"{corpus['clips']} clips of {who}, by this bundle's files ({variants['encoder']} encoder, {variants['llm']} "
        f"language model), {result['date']}. Intervals: {result['intervals']}.",
        "",
        "| | UAR | accuracy | calibration error |",
        "|---|---|---|---|",
        *(
            f"| {name} | {_interval(found['uar'])} | {_interval(found['accuracy'])} | {found['ece']:.3f} |"
            for key, name in _ANSWERERS.items()
            if (found := result["answers"].get(key))
        ),
        "",
    ]
    for key, name in _ANSWERERS.items():
        if key in result["answers"]:
            lines += _class_lines(name, result["answers"][key]["confusion"])
    return lines + _doubt_lines(result["doubts"]) + _claim_lines(result["claims"], result["controls"])


def _class_lines(name: str, confusion: Mapping[str, Mapping[str, int]]) -> list[str]:
    labels = list(confusion)
    return [
        f"### Each emotion: {name}",
        "",
        "| emotion | clips | precision | recall | F1 |",
        "|---|---|---|---|---|",
        *(
            f"| {label} | {found['clips']} | {_triple(found['precision'])} | {_triple(found['recall'])} | "
            f"{_triple(found['f1'])} |"
            for label, found in class_figures(confusion).items()
        ),
        "",
        f"Confusion, rows the truth: | {' | '.join(labels)} |".replace(
            "Confusion, rows the truth: ", "| truth \\ answer "
        ),
        "|---" * (len(labels) + 1) + "|",
        *(
            f"| {truth} | " + " | ".join(str(row[answer]) for answer in labels) + " |"
            for truth, row in confusion.items()
        ),
        "",
    ]


def _doubt_lines(doubts: Mapping[str, Any]) -> list[str]:
    return [
        "## Doubt",
        "",
        f"It calls {_shared(doubts['uncertain'])} of its answers uncertain. Of those that it calls certain "
        f"{_shared(doubts['right_when_certain'])} are right, of the uncertain ones "
        f"{_shared(doubts['right_when_uncertain'])}.",
        "",
    ]


def _claim_lines(claims: Mapping[str, Any], controls: Mapping[str, Any]) -> list[str]:
    return [
        "## Whether its reasons are true",
        "",
        f"{claims['checkable_per_explanation']:.1f} statements of an explanation can be checked against the signal; "
        f"{_shared(claims['supported'])} are supported, {_shared(claims['exact_level'])} without any tolerance.",
        "",
        "| cue | statements | supported |",
        "|---|---|---|",
        *(f"| {cue.replace('_', ' ')} | {found['of']} | {_shared(found)} |" for cue, found in claims["by_cue"].items()),
        "",
        "Controls, of which a true explanation must be far above: explanations of other clips "
        f"{_shared(controls['explanation_of_another_clip']['supported'])}, embeddings of another clip "
        f"{_shared(controls['embeddings_of_another_clip']['supported'])}, no embeddings "
        f"{_shared(controls['embeddings_removed']['supported'])}.",
        "",
    ]


def _fold_lines(result: Mapping[str, Any]) -> list[str]:
    model, head = result["language_model"], result["head_leave_one_speaker_out"]
    rows = {
        "encoder alone, each speaker left out once": head,
        "explained answer, folds of speakers": model["answer"],
        "encoder alone, same folds": model["head_same_folds"],
    }
    return [
        "## The recipe on every speaker in turn",
        "",
        "Models trained by the same recipe on the other speakers, in fewer steps than this one, before export.",
        "",
        "| | clips | UAR | accuracy |",
        "|---|---|---|---|",
        *(
            f"| {name} | {found['clips']} | {found['uar']:.1%} ({found['uar_95'][0]:.1%} to {found['uar_95'][1]:.1%}) "
            f"| {found['accuracy']:.1%} |"
            for name, found in rows.items()
        ),
        "",
        f"Of their checkable statements {model['claims_supported']:.1%} are supported.",
        "",
    ]


def _interval(found: Mapping[str, Any]) -> str:
    low, high = found["interval_95"]
    return f"{found['value']:.1%} ({low:.1%} to {high:.1%})"


def _shared(found: Mapping[str, Any]) -> str:
    if found["share"] is None:
        return "none"
    low, high = found["interval_95"]
    return f"{found['share']:.1%} ({low:.1%} to {high:.1%})"


def _triple(found: tuple[float, float, float] | None) -> str:
    return "never" if found is None else f"{found[0]:.0%} ({found[1]:.0%} to {found[2]:.0%})"
