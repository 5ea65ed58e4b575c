"""The checks of a report: what a careful person would look at first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from edge_emotion.cues import CUES
from edge_emotion_train.labelling.records import Record
from edge_emotion_train.labelling.report_cards import counted, title, words
from edge_emotion_train.labelling.report_clips import sorted_emotions
from edge_emotion_train.labelling.report_data import DataSet
from edge_emotion_train.labelling.report_sections import step_counts

MOST_DOUBTFUL = 12
DOUBTFUL_BELOW = 0.05
FEW_MEASURED = 0.8
FEW_CLIPS = 20
Kind = Literal["bad", "look", "good"]


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes:
        kind: `bad` must not be, `look` may be right but deserves a look.
        text: What was found.
        section: Where the page tells more.
    """

    kind: Kind
    text: str
    section: str


def checks(
    data: DataSet, steps: Mapping[str, Any], failures: Mapping[str, Any], fit: np.ndarray, records: Mapping[int, Record]
) -> list[Check]:
    """What was looked at, the worst first.

    Args:
        data: All clips.
        steps: From `run.json`.
        failures: From `failures_of`.
        fit: From `DataSet.label_fit`.
        records: Some of the records by row, among them the first whose text has a contradicted claim.
    """
    found = [
        *_count_checks(data, steps, failures),
        *_text_checks(data, records),
        *_measure_checks(data),
        *_label_checks(data, fit),
    ]
    order: tuple[Kind, ...] = ("bad", "look", "good")
    return sorted(found, key=lambda check: order.index(check.kind))


def doubtful_rows(data: DataSet, fit: np.ndarray) -> list[int]:
    """The clips whose measured levels fit their label least, at most `MOST_DOUBTFUL`."""
    rows = np.flatnonzero(fit < DOUBTFUL_BELOW)
    return rows[np.argsort(fit[rows], kind="stable")][:MOST_DOUBTFUL].tolist()


def _check(wrong: object, section: str, when_wrong: str, when_right: str, kind: Kind = "look") -> Check:
    return Check(kind, when_wrong, section) if wrong else Check("good", when_right, section)


def _count_checks(data: DataSet, steps: Mapping[str, Any], failures: Mapping[str, Any]) -> Iterator[Check]:
    rows = step_counts(steps)
    wrong = [row["name"] for row in rows if not row["adds_up"]]
    if rows:
        yield _check(
            wrong,
            "clips",
            f"Counts do not add up: {', '.join(wrong)}.",
            "Counts add up: clips in = clips out + clips lost, in every step.",
            "bad",
        )
    lost = counted(failures["lost"], "clip")
    yield _check(failures["lost"], "failures", f"{lost} lost on the way.", "No clip was lost.")
    twice = sum(count - 1 for count in data.recordings.values())
    yield _check(
        twice,
        "clips",
        f"{counted(twice, 'clip')} with byte for byte the recording of another clip.",
        "No recording is there twice.",
    )


def _text_checks(data: DataSet, records: Mapping[int, Record]) -> Iterator[Check]:
    texts = data.texts
    if not texts.count:
        return
    wrong = sum(count for (_, verdict), count in texts.verdicts.items() if verdict == "contradicted")
    first = f", for example {records[texts.contradicted[0]].id}" if texts.contradicted else ""
    how = "checked anew for this page" if texts.checked_anew else "as stored with them"
    yield _check(
        wrong,
        "reasoning",
        f"{counted(wrong, 'claim')} against the measurement, in {counted(len(texts.contradicted), 'text')}{first}.",
        f"No claim in {counted(texts.count, 'text')} contradicts its measurement ({how}).",
        "bad",
    )
    if texts.checked_anew:
        yield _check(
            texts.differing,
            "reasoning",
            f"{counted(texts.differing, 'text')} with other claims or verdicts than those stored with them.",
            "The claims stored with the texts are those that this page finds in them.",
            "bad",
        )
    without = data.rows - texts.count
    yield _check(
        without,
        "reasoning",
        f"{counted(without, 'clip')} without a reasoning text.",
        "Every clip has a reasoning text.",
    )


def _measure_checks(data: DataSet) -> Iterator[Check]:
    if data.measures and data.rows:
        few = [title(cue.measure) for cue in CUES if np.isfinite(data.measure(cue.measure)).mean() < FEW_MEASURED]
        yield _check(
            few,
            "reliability",
            f"Measured reliably in fewer than {FEW_MEASURED:.0%} of the clips: {', '.join(few)}.",
            f"Every cue was measured reliably in at least {FEW_MEASURED:.0%} of the clips.",
        )
    if data.cues:
        codes = {cue: data.level_codes(cue.name) for cue in CUES if cue.name in data.cues}
        without = [words(cue.name) for cue, found in codes.items() if (found < 0).all()]
        unused = [
            f"{words(cue.name)} {level}"
            for cue, found in codes.items()
            for place, level in enumerate(cue.levels)
            if (found >= 0).any() and not (found == place).any()
        ]
        listed = [f"no levels at all for {', '.join(without)}"] if without else []
        listed += [f"no clip with {', '.join(unused)}"] if unused else []
        text = "; ".join(listed)
        yield _check(listed, "measures", f"{text[:1].upper()}{text[1:]}.", "Every level of every cue occurs.")


def _label_checks(data: DataSet, fit: np.ndarray) -> Iterator[Check]:
    counts = data.emotion.counts()
    rare = [f"{name} ({counts[name]})" for name in sorted_emotions(data) if name and counts[name] < FEW_CLIPS]
    if rare:
        yield Check("look", f"Emotions with fewer than {FEW_CLIPS} clips: {', '.join(rare)}.", "clips")
    if counts[None]:
        yield Check("look", f"{counted(counts[None], 'clip')} without an emotion.", "clips")
    if len(data.corpus.names) > 1:
        emotions, corpora = data.emotion.codes, data.corpus.codes
        single = [
            f"{name} ({data.corpus.names[corpora[emotions == code][0]]})"
            for code, name in enumerate(data.emotion.names)
            if len(np.unique(corpora[emotions == code])) == 1
        ]
        if single:
            yield Check("look", f"Emotions that only one corpus has: {', '.join(single)}.", "clips")
    doubtful = int((fit < DOUBTFUL_BELOW).sum())
    if doubtful:
        text = f"{counted(doubtful, 'clip')} with levels that are rare for the label and frequent for another."
        yield Check("look", text, "doubtful")
