"""One HTML page that shows whether a labelled data set is right: `write_report`."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from tqdm import tqdm

from edge_emotion.errors import LabellingError
from edge_emotion_train.labelling.calibrate import ThresholdGroups
from edge_emotion_train.labelling.records import Record, RecordFile
from edge_emotion_train.labelling.report_cards import cards_by_group, counted, other_measures, whole
from edge_emotion_train.labelling.report_checks import checks, doubtful_rows
from edge_emotion_train.labelling.report_clips import choose_clips
from edge_emotion_train.labelling.report_data import DataSet
from edge_emotion_train.labelling.report_plots import MOST_NAMED_ROWS
from edge_emotion_train.labelling.report_sections import (
    example,
    failures_of,
    intonation,
    reasoning,
    reliability,
    summary,
    threshold_groups,
    word_prominence,
)
from edge_emotion_train.labelling.steps import ERRORS, LABELLED, LEVELLED, MEASURED, THRESHOLDS
from edge_emotion_train.labelling.store import write_atomically

# Nothing that a data set says may steer a browser or turn round the text beside it.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


def write_report(
    folder: Path,
    output: Path,
    *,
    thresholds: Path | None = None,
    examples: int = 3,
    audio: bool = False,
    force: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes the report of a folder of the data engine.

    The same folder always gives the same bytes. Memory grows by a few hundred bytes a clip.

    Args:
        folder: As `edge-emotion label` wrote it.
        output: The HTML file.
        thresholds: The `thresholds.json` that the levels were made with; None for the one in the folder.
        examples: Clips of each emotion that are drawn.
        audio: Put the sound of those clips into the page.
        force: Replace a file that is there.
        progress: A bar on stderr.

    Returns:
        `output`, `bytes`, `clips`, `examples` (clips drawn) and `problems` (examples that could not be).

    Raises:
        LabellingError: The folder holds no records, a file in it cannot be read, or the output exists or cannot be
            written, or `examples` is negative.
    """
    if examples < 0:
        raise LabellingError(f"{examples} examples of each emotion asked for; give 0 or more")
    if output.exists() and not force:
        raise LabellingError(f"{output} exists; choose another name, or give --force to replace it")
    steps = _read_steps(folder / "run.json")
    source = _latest_output(folder, steps)
    if thresholds is None and (folder / THRESHOLDS).exists():
        thresholds = folder / THRESHOLDS
    groups = ThresholdGroups.read(thresholds).groups if thresholds else {}
    # Into a log, a line now and then.
    pace = {"file": sys.stderr, "mininterval": 0.2 if sys.stderr.isatty() else 30.0, "dynamic_ncols": True}
    clips = next((step.get("out") for step in steps.values() if step.get("output") == source.name), None)
    with tqdm(RecordFile((source,)), "report", clips, unit="clip", disable=not progress, **pace) as records_read:
        data = DataSet.of(records_read, groups)
    fit = data.label_fit()
    chosen = choose_clips(data, fit, examples)
    doubtful = doubtful_rows(data, fit)
    wanted = {choice.row for choices in chosen.values() for choice in choices} | set(doubtful)
    records = _rows(source, wanted | set(data.texts.contradicted[:10]))
    failures = failures_of(folder / ERRORS)
    drawn = {
        emotion: [example(data, records[choice.row], choice, fit, groups, audio) for choice in choices]
        for emotion, choices in chosen.items()
    }
    page = _render(
        name=folder.resolve().name,
        source=source.name,
        steps=steps,
        summary=summary(data, steps, failures),
        checks=checks(data, steps, failures, fit, records),
        failures=failures,
        warnings=data.warnings.most_common(10),
        groups=cards_by_group(data, groups),
        others=other_measures(data),
        thresholds=threshold_groups(data, groups),
        reliability=reliability(data),
        intonation=intonation(data),
        words=word_prominence(data),
        reasoning=reasoning(data, failures),
        doubtful=[(records[row], float(fit[row])) for row in doubtful],
        examples=drawn,
    )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabellingError(
            f"{output.parent} cannot be made: {error.strerror or error}; choose another place"
        ) from None
    write_atomically(output, page)
    shown = [item for items in drawn.values() for item in items]
    return {
        "output": str(output),
        "bytes": len(page.encode()),
        "clips": data.rows,
        "examples": sum(item["svg"] is not None for item in shown),
        "problems": [f"{item['id']}: {item['problem']}" for item in shown if item["problem"]],
    }


def _latest_output(folder: Path, steps: Mapping[str, Any]) -> Path:
    if not folder.is_dir():
        raise LabellingError(f"{folder} is no folder; give the one that `edge-emotion label` wrote")
    names = [str(step.get("output")) for step in reversed(list(steps.values()))]
    for name in (*names, LABELLED, LEVELLED, MEASURED):
        if Path(name).name == name and (folder / name).is_file():
            return folder / name
    raise LabellingError(
        f"{folder} holds no {LABELLED}, {LEVELLED} or {MEASURED}; `edge-emotion label measure` makes records from "
        "recordings"
    )


def _read_steps(path: Path) -> dict[str, dict[str, Any]]:
    try:
        steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabellingError(f"{path} cannot be read ({error!r}); the steps of `edge-emotion label` write it") from None
    if not isinstance(steps, dict) or not all(isinstance(step, dict) for step in steps.values()):
        raise LabellingError(f"{path} does not list the steps of a run; the steps of `edge-emotion label` write it")
    return steps


def _rows(source: Path, wanted: set[int]) -> dict[int, Record]:
    return {row: record for row, record in enumerate(RecordFile((source,))) if row in wanted}


def _render(**context: Any) -> str:
    page = _template().render(most_named=MOST_NAMED_ROWS, **context)
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", page).encode("utf-8", "replace").decode()


@functools.cache
def _template() -> jinja2.Template:
    package = resources.files("edge_emotion_train.labelling")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["count"] = whole
    environment.filters["of"] = counted
    environment.globals["style"] = Markup(package.joinpath("report.css").read_text(encoding="utf-8"))
    return environment.from_string(package.joinpath("report.html.jinja").read_text(encoding="utf-8"))
