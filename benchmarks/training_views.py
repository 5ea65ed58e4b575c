"""Every training view over EmoDB, from recordings: python benchmarks/training_views.py --data DIR [-o FILE]

DIR holds EmoDB. Prints rows per view and split, the proof that nobody and no sentence-take is on two sides, whether the
same seed gives the same bytes, how far the edits of the ordering task reached what was asked (by our measures, and the
order by Praat's), and whether the scores of the reward-model tuples mean what they say. Speakers 15 and 16 are the
test; no threshold and no wording is learnt from them.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import common
import numpy as np
import parselmouth

from edge_emotion.audio import SAMPLE_RATE_HZ, load_audio
from edge_emotion.cues import CUE_BY_NAME, Thresholds
from edge_emotion_train.augment import track_pitch
from edge_emotion_train.labelling import steps
from edge_emotion_train.labelling.quality import DIMENSIONS, find_mentions
from edge_emotion_train.labelling.records import Record
from edge_emotion_train.labelling.rows import SPLITS, Row, read_view
from edge_emotion_train.labelling.sources import SourceSpec, read_sources
from edge_emotion_train.labelling.views import VIEWS, read_labelled, write_view
from edge_emotion_train.labelling.writing import write
from edge_emotion_train.reasoning import CueEmotionTable

TEST_SPEAKERS = ("emodb_15", "emodb_16")
# Ordering edits sound, and reward tuples rewrite texts: these two are repeated on every eighth clip only.
SLOW_VIEWS = ("ordering", "reward")
EVERY = 8
MEASURES = {
    "factual_alignment": ("supported_share", "contradicted_claims"),
    "interpretative_quality": ("sound_share",),
    "caption_completeness": ("stated_share", "stated_cues"),
    "fluency_and_structural_clarity": ("kept_word_pairs",),
}


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of EmoDB")
    parser.add_argument("--size", default="full", choices=("full", "nano"), help="size of the reasoning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON document here")
    parser.add_argument("--force", action="store_true", help="replace the output file")
    parser.add_argument("--json", action="store_true", help="print the JSON document only, without the table")
    given = parser.parse_args()
    common.check_output(given.output, given.force)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        records, groups = label(given.data, folder, given.size)
        results, rows = {}, {}
        for name in VIEWS:
            start = time.monotonic()
            about = make(name, records, groups, folder / name, given.seed, given.processes)
            seconds = time.monotonic() - start
            rows[name] = [row for split in SPLITS for row in read_view(folder / name, split)]
            results[name] = summary(about, seconds) | repeat(name, records, groups, folder, given.seed, about)
        document = {
            "views": results,
            "ordering": ordering_figures(rows["ordering"], results["ordering"]),
            "reward": reward_figures(rows["reward"], records),
            "size": given.size,
            "seed": given.seed,
            "commit": common.commit(),
            "versions": {name: version(name) for name in ("numpy", "praat-parselmouth", "edge-emotion")},
            "machine": {"cpu": common.cpu_model(), "cores": common.usable_cpus()},
        }
    common.deliver(document, {}, table(document), given.output, given.json)
    return 0


def label(data: Path, folder: Path, size: str) -> tuple[list[Record], Mapping[str, Thresholds]]:
    """EmoDB through the data engine: measured, levelled, explained."""
    engine = folder / "labelled"
    steps.measure(read_sources([SourceSpec("emodb", data.absolute())]), engine)
    steps.calibrate([engine], engine, held_out=TEST_SPEAKERS, progress=False)
    write(engine, size=size, held_out=TEST_SPEAKERS, progress=False)
    return read_labelled(engine)


def make(
    name: str,
    records: Sequence[Record],
    groups: Mapping[str, Thresholds],
    folder: Path,
    seed: int,
    processes: int = 1,
) -> dict[str, Any]:
    """One view, with the fixed test speakers."""
    return write_view(
        name, records, groups, folder, seed=seed, test_speakers=TEST_SPEAKERS, processes=processes, progress=True
    )


def summary(about: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What of `view.json` goes into the result; `seconds` depend on what else the machine does."""
    split = about["split"]
    return {
        "rows": about["rows"],
        "row_count": split["row_count"],
        "records_with_rows": about["records_with_rows"],
        "problems": {cause: found["count"] for cause, found in about["problems"].items()},
        "rows_sha256": about["rows_sha256"],
        "proof": {key: split[key] for key in ("holds", "shared", "speakers", "take_count", "sha256")},
        "audio_files": about["audio"]["files"],
        "seconds": round(seconds, 1),
    }


def repeat(
    name: str,
    records: Sequence[Record],
    groups: Mapping[str, Thresholds],
    folder: Path,
    seed: int,
    first: Mapping[str, Any],
) -> dict[str, Any]:
    """The view again: records in reverse and two processes, then another seed."""
    some, one = list(records), first
    if name in SLOW_VIEWS:
        some = list(records)[::EVERY]
        one = make(name, some, groups, folder / f"{name}-first", seed)
    again = make(name, some[::-1], groups, folder / f"{name}-again", seed, processes=2)
    other = make(name, some, groups, folder / f"{name}-other", seed + 1)
    return {
        "same_seed_same_bytes": again["files"] == one["files"] and again["audio"] == one["audio"],
        "other_seed_other_rows": other["rows_sha256"] != one["rows_sha256"],
        "repeated_on_records": len(some),
    }


# --- ordering --------------------------------------------------------------------------------------------------------


def ordering_figures(rows: Sequence[Row], view: Mapping[str, Any]) -> dict[str, Any]:
    """Per attribute: how many were reached, how near to what was asked, and how often each order occurs."""
    figures = {}
    for attribute in ("pitch", "energy", "speed"):
        own = [row for row in rows if row["task"] == f"order_{attribute}"]
        ratio = attribute == "speed"
        errors = [
            abs(v["measured"] / v["asked"] - 1.0 if ratio else v["measured"] - v["asked"])
            for row in own
            for v in row["variants"]
        ]
        ordered = [sorted(v["measured"] for v in row["variants"]) for row in own]
        steps_between = [b / a if ratio else b - a for some in ordered for a, b in pairwise(some)]
        refused = {c: n for c, n in view["problems"].items() if c.startswith(f"order_{attribute}")}
        orders: dict[str, int] = defaultdict(int)
        for row in own:
            orders[row["answer"]] += 1
        figures[attribute] = {
            "reached": len(own),
            "refused": refused,
            "reached_share": round(len(own) / (len(own) + sum(refused.values())), 4),
            "mean_error": round(float(np.mean(errors)), 4),
            "largest_error": round(float(np.max(errors)), 4),
            "smallest_step": round(float(np.min(steps_between)), 3),
            "unit": own[0]["unit"],
            "rarest_order_share": round(min(orders.values()) / len(own), 4),
            "commonest_order_share": round(max(orders.values()) / len(own), 4),
        }
    pitch_rows = [row for row in rows if row["task"] == "order_pitch"]
    agrees = [praat_order(row) == [v["place"] for v in row["variants"]] for row in pitch_rows]
    return figures | {"praat_hears_the_order_of_pitch": common.share(list(map(int, agrees)), [1] * len(agrees))}


def praat_order(row: Row) -> list[str]:
    """The places in the order heard, by the median F0 that Praat finds in each variant."""
    samples = load_audio(row["audio"][0]).samples
    heard = []
    for variant in row["variants"]:
        part = samples[round(variant["start_s"] * SAMPLE_RATE_HZ) : round(variant["end_s"] * SAMPLE_RATE_HZ)]
        f0_hz = track_pitch(parselmouth.Sound(part.astype(np.float64), SAMPLE_RATE_HZ)).selected_array["frequency"]
        heard.append(float(np.median(f0_hz[f0_hz > 0])) if np.any(f0_hz > 0) else math.nan)
    ranks = np.argsort(np.argsort(heard))
    return [("low", "medium", "high")[rank] for rank in ranks]


# --- reward ----------------------------------------------------------------------------------------------------------


def reward_figures(rows: Sequence[Row], records: Sequence[Record]) -> dict[str, Any]:
    """What the texts of each score are like, per dimension, among rows in which only it was lowered."""
    by_id = {record.id: record for record in records}
    table = CueEmotionTable().fit([_levels(r) for r in records], [str(r.emotion) for r in records])
    figures: dict[str, Any] = {}
    for dimension in DIMENSIONS:
        own = [row for row in rows if _kind(row) in ("original", dimension)]
        figures[dimension] = {
            str(value): _describe([row for row in own if row["scores"][dimension] == value], dimension, by_id, table)
            for value in (1, 2, 3, 4, 5)
        }
        for measure in MEASURES[dimension]:
            means = [figures[dimension][str(value)].get(measure) for value in (1, 2, 3, 4, 5)]
            known = [mean for mean in means if mean is not None]
            rising = all(a < b for a, b in pairwise(known))
            falling = all(a > b for a, b in pairwise(known))
            figures[dimension][f"{measure}_monotone"] = falling if measure == "contradicted_claims" else rising
        figures[dimension]["other_scores_untouched"] = all(
            row["scores"][other] == 5 for row in own for other in DIMENSIONS if other != dimension
        )
    borrowed = [row for row in rows if _kind(row) == "borrowed"]
    figures["borrowed_mean_scores"] = {
        d: round(float(np.mean([row["scores"][d] for row in borrowed])), 3) for d in DIMENSIONS
    }
    figures["tuples_per_record"] = round(len(rows) / len({row["sources"][0] for row in rows}), 2)
    return figures


def _describe(
    rows: Sequence[Row], dimension: str, by_id: Mapping[str, Record], table: CueEmotionTable
) -> dict[str, Any]:
    if not rows:
        return {"rows": 0}
    described: dict[str, Any] = {"rows": len(rows)}
    for measure in MEASURES[dimension]:
        described[measure] = round(float(np.mean([row["measured"][measure] for row in rows])), 4)
    if dimension == "interpretative_quality":
        named = [_last_emotion(row["reasoning"]) for row in rows]
        truth = [emotion == row["emotion"] for emotion, row in zip(named, rows, strict=True)]
        fit = [
            dict(table.rank(_levels(by_id[row["sources"][0]])))[emotion]
            for emotion, row in zip(named, rows, strict=True)
            if emotion
        ]
        described["concludes_the_true_emotion"] = round(float(np.mean(truth)), 4)
        described["probability_of_the_conclusion_given_the_cues"] = round(float(np.mean(fit)), 4)
    return described


def _last_emotion(text: str) -> str | None:
    """The emotion that the conclusion names first: "anger, with fear in second place"."""
    sentence = text.strip().rstrip(".").rpartition(". ")[2]
    mentions = find_mentions(sentence) or find_mentions(text)[-1:]
    return mentions[0].emotion if mentions else None


def _kind(row: Row) -> str:
    return row["id"].split("#reward.")[1].partition(".")[0]


def _levels(record: Record) -> dict[str, str]:
    found = (record.levels or {}).items()
    return {name: level.level for name, level in found if level.level and name in CUE_BY_NAME}


# --- the table -------------------------------------------------------------------------------------------------------


def table(document: Mapping[str, Any]) -> str:
    """What the document says, for people."""
    views = common.table_of(
        (
            [
                name,
                *(f"{view['row_count'][split]:,}" for split in SPLITS),
                "holds" if view["proof"]["holds"] else "BROKEN",
                "yes" if view["same_seed_same_bytes"] else "NO",
                "yes" if view["other_seed_other_rows"] else "NO",
                f"{sum(view['problems'].values())}",
                f"{view['seconds']:.0f}",
            ]
            for name, view in document["views"].items()
        ),
        ("view", *SPLITS, "proof", "same seed same bytes", "other seed other rows", "not made", "s"),
    )
    order = common.table_of(
        (
            [
                name,
                f"{100 * found['reached_share']:.1f} %",
                f"{found['mean_error']:.3f} {found['unit']}",
                f"{found['largest_error']:.3f}",
                f"{found['smallest_step']:.2f}",
                f"{100 * found['rarest_order_share']:.0f}-{100 * found['commonest_order_share']:.0f} %",
            ]
            for name, found in document["ordering"].items()
            if name in ("pitch", "energy", "speed")
        ),
        ("ordering", "reached", "mean error", "largest", "smallest step", "share of an order"),
    )
    praat = document["ordering"]["praat_hears_the_order_of_pitch"]
    reward = common.table_of(
        (
            [
                f"{dimension}: {measure}",
                *(_number(document["reward"][dimension][str(value)].get(measure)) for value in (1, 2, 3, 4, 5)),
                "yes" if document["reward"][dimension][f"{measure}_monotone"] else "NO",
            ]
            for dimension in DIMENSIONS
            for measure in MEASURES[dimension]
        ),
        ("reward tuples, mean at score", "1", "2", "3", "4", "5", "monotone"),
    )
    return f"{views}\n\n{order}\nPraat hears the order of pitch in {praat['hits']} of {praat['of']}\n\n{reward}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    common.run(main)
