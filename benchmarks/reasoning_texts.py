"""Texts of the reasoning writer over whole corpora: python benchmarks/reasoning_texts.py --data CORPORA

CORPORA holds emodb/ and emogator/. Their clips go through `measure`, `calibrate` and `write` (both sizes); speakers 15
and 16 of EmoDB count for no threshold but their own and teach the writer nothing. Printed are claims (none may be
contradicted), lengths, variety, and how well a text classifier guesses the emotion on speakers it does not know: from
the texts with their acoustic statements masked (near chance, or a model could learn sentences instead of listening),
and with only the emotions' names masked (the control: far above chance, so the test would see it). With --folder, the
records of a folder that `edge-emotion label write` filled are judged instead, for example those of a chat model. The
last line is one JSON document.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import common

from edge_emotion.errors import EdgeEmotionError
from edge_emotion_train.labelling.calibrate import ThresholdGroups
from edge_emotion_train.labelling.leakage import guess_emotion, mask_cues, mask_emotions, mask_quotations
from edge_emotion_train.labelling.records import Record, RecordFile
from edge_emotion_train.labelling.sources import SourceSpec, read_sources
from edge_emotion_train.labelling.steps import LABELLED, THRESHOLDS, calibrate, measure
from edge_emotion_train.labelling.store import published_failures
from edge_emotion_train.labelling.text_checking import SIZES, opens_with_label
from edge_emotion_train.labelling.writing import write, writing_report
from edge_emotion_train.variety import variety_report

CORPORA = ("emodb", "emogator")
TEST_SPEAKERS = ("emodb_15", "emodb_16")
SHOWN = 4


def make_texts(data: Path, folder: Path, size: str, seed: int) -> Path:
    """The folder with the labelled records of one size."""
    if not (folder / THRESHOLDS).exists():
        measure(
            read_sources([SourceSpec.parse(f"{name}={data / name}") for name in CORPORA], None), folder, align=False
        )
        calibrate([folder], folder, held_out=TEST_SPEAKERS)
    write(folder, folder / size, size=size, seed=seed, held_out=TEST_SPEAKERS)
    return folder / size


def judge(folder: Path, thresholds: ThresholdGroups, seed: int) -> dict[str, Any]:
    """Everything of one folder of labelled records: of all together, and of each corpus."""
    path = folder / LABELLED
    records = list(RecordFile((path,)))
    failures = [failure for failure in published_failures(path) if failure["step"] == "write"]
    causes: dict[str, int] = {}
    for failure in failures:
        kind = failure["cause"].split(" (")[0]
        causes[kind] = causes.get(kind, 0) + 1
    corpora = sorted({record.corpus for record in records})
    return {
        **writing_report(records, thresholds, failures),
        "not_written_because": causes,
        "opens_with_label": sum(
            record.reasoning is not None and opens_with_label(record.reasoning.text, record.emotion or "")
            for record in records
        ),
        "corpora": {name: judge_corpus([r for r in records if r.corpus == name], thresholds, seed) for name in corpora},
    }


def judge_corpus(records: Sequence[Record], thresholds: ThresholdGroups, seed: int) -> dict[str, Any]:
    """Claims, variety and leak of one corpus."""
    report = writing_report(records, thresholds, ())
    written = [record for record in records if record.reasoning is not None]
    texts = [record.reasoning.text for record in written if record.reasoning is not None]
    emotions = [str(record.emotion) for record in written]
    speakers = [record.speaker or record.id for record in written]
    masks: dict[str, Callable[[str], str]] = {
        "cues_masked": lambda text: mask_emotions(mask_cues(text)),
        "cues_and_quotations_masked": lambda text: mask_emotions(mask_cues(mask_quotations(text))),
        "control_cues_readable": mask_emotions,
    }
    return {
        **{key: report[key] for key in ("written", "claims", "claims_per_text", "four_claims_share", "words")},
        "variety": variety_report(texts),
        "guessing": {
            name: guess_emotion([mask(text) for text in texts], emotions, speakers, seed=seed).to_dict()
            for name, mask in masks.items()
        },
    }


def examples(folder: Path) -> list[dict[str, Any]]:
    """Some texts as they are."""
    records = [record for record in RecordFile((folder / LABELLED,)) if record.reasoning is not None]
    chosen = records[:: max(1, len(records) // SHOWN)][:SHOWN]
    return [
        {"id": record.id, "emotion": record.emotion, "text": record.reasoning.text}
        for record in chosen
        if record.reasoning is not None
    ]


def table(sizes: Mapping[str, Mapping[str, Any]]) -> str:
    """What people read."""
    rows: list[Sequence[str]] = []
    for size, found in sizes.items():
        words = found["words"]
        rows += [
            (size, "texts written, of clips", f"{found['written']} of {found['records']}", ""),
            (size, "refused, repaired", f"{_percent(found['refused_share'])}, {_percent(found['repaired_share'])}", ""),
            (size, "contradicted claims", str(found["claims"]["contradicted"]), "0"),
            (size, "texts that open with the label", str(found["opens_with_label"]), "0"),
            (size, "words", f"{words['mean']:.0f} ({words['fewest']} to {words['most']})", _bounds(size)),
            (size, "claims per text", f"{found['claims_per_text']:.1f}", ">= 4" if size == "full" else ""),
            (size, "texts with 4 claims or more", _percent(found["four_claims_share"]), ""),
            (size, "self-BLEU, repeated sentences", _variety(found["variety"]), ""),
        ]
        for name, corpus in found["corpora"].items():
            for mask, guessed in corpus["guessing"].items():
                low, high = guessed["interval_95"]
                shown = f"{_percent(guessed['uar'])} ({100 * low:.1f} to {100 * high:.1f})"
                goal = "far above" if mask.startswith("control") else "chance"
                rows.append((size, f"{name}, guessed by text, {mask}", shown, f"{goal}: {_percent(guessed['chance'])}"))
    return common.table_of(rows, ("size", "what", "figure", "goal"))


def _variety(found: Mapping[str, Any]) -> str:
    return f"{found['self_bleu']:.3f}, {_percent(found['identical_share'])}"


def _bounds(size: str) -> str:
    return "{} to {}".format(*SIZES[size]) if size in SIZES else ""


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"


def provenance(seed: int) -> dict[str, Any]:
    """Which code and libraries a result is of."""
    packages = ("numpy", "scikit-learn")
    return {
        "commit": common.commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "seed": seed,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds emodb/ and emogator/")
    parser.add_argument("--folder", type=Path, help="judge the labelled records of this folder instead")
    parser.add_argument("--thresholds", type=Path, help="their thresholds.json (default: in the same folder)")
    parser.add_argument("--work", type=Path, help="keep the records in this folder, and go on where it was")
    parser.add_argument("--seed", type=int, default=0, help="of the writer and of the bootstrap")
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON document here")
    parser.add_argument("--force", action="store_true", help="replace the output file")
    parser.add_argument("--json", action="store_true", help="print the JSON document only, without the table")
    arguments = parser.parse_args()
    if (arguments.data is None) == (arguments.folder is None):
        raise EdgeEmotionError("give either --data or --folder")
    common.check_output(arguments.output, arguments.force)
    sizes, shown = {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.folder:
            thresholds = ThresholdGroups.read(arguments.thresholds or arguments.folder / THRESHOLDS)
            sizes["given"] = judge(arguments.folder, thresholds, arguments.seed)
            shown["given"] = examples(arguments.folder)
        else:
            work = arguments.work or Path(temporary)
            for size in SIZES:
                folder = make_texts(arguments.data, work, size, arguments.seed)
                sizes[size] = judge(folder, ThresholdGroups.read(work / THRESHOLDS), arguments.seed)
                shown[size] = examples(folder)
    document = {"sizes": sizes, "provenance": provenance(arguments.seed)}
    common.deliver(document, {"examples": shown}, table(sizes), arguments.output, arguments.json)
    return 0


if __name__ == "__main__":
    common.run(main)
