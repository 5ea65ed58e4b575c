"""What the sections of a report say: counts, checks, reliability, texts and example clips, ready for the template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from edge_emotion.claims import MIN_RELIABILITY
from edge_emotion.cues import CUE_BY_NAME, CUES, Cue, Thresholds
from edge_emotion.errors import LabellingError
from edge_emotion_train.labelling.records import Record
from edge_emotion_train.labelling.report_cards import (
    TITLES,
    UNIT_WORDS,
    counted,
    group_name,
    number,
    title,
    with_unit,
    words,
)
from edge_emotion_train.labelling.report_clips import Choice, draw_clip, sorted_emotions
from edge_emotion_train.labelling.report_data import DataSet, checked_claims, without_particulars
from edge_emotion_train.labelling.report_plots import finite, histogram_svg, level_colours
from edge_emotion_train.labelling.view_reasoning import record_thresholds
from edge_emotion_train.variety import variety_report

VERDICTS: Mapping[str, str] = {"supported": "✓", "contradicted": "✗", "not measurable": "?"}
SHAPE_ORDER = ("rising", "falling", "rising-falling", "falling-rising", "flat", "expressive")
MOST_LISTED = 8
# How `writing` begins the cause where a text was written but not accepted.
REFUSED = "the text was refused"
STRESSED_WORDS = 8
ENOUGH_OF_A_WORD = 5


# --- counts ----------------------------------------------------------------------------------------------------------


def failures_of(path: Path) -> dict[str, Any]:
    """What an errors file says, alike causes together.

    Returns:
        `lost` (clips that are lost), `fields` (fields that are), and `kinds`: step, lost field, count and the first
        id and cause of each, the most frequent first.

    Raises:
        LabellingError: The file is damaged.
    """
    kinds: dict[tuple[str, str | None, str], dict[str, Any]] = {}
    lost, fields_lost = set(), 0
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                failure = json.loads(line)
                identity, step, cause, field = (failure[key] for key in ("id", "step", "cause", "lost"))
                key = (step, field, without_particulars(cause, identity))
                kind = kinds.setdefault(key, {"step": step, "lost": field, "count": 0, "id": identity, "cause": cause})
                kind["count"] += 1
                fields_lost += field is not None
                if field is None:
                    lost.add((identity, step))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabellingError(f"{path} cannot be read ({error}); the step that wrote it writes it anew") from None
    ordered = sorted(kinds.values(), key=lambda kind: -kind["count"])
    return {"lost": len(lost), "fields": fields_lost, "kinds": ordered}


def summary(data: DataSet, steps: Mapping[str, Any], failures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures at the top, the counts of each step, and how emotions lie over corpora."""
    durations = finite(data.duration_s.values).astype(float)
    corpora = sorted(data.corpus.names)
    emotions = sorted_emotions(data)
    codes = data.emotion.codes
    by_corpus = {name: data.corpus.is_name(name) for name in corpora}
    is_emotion = {e: codes == (-1 if e is None else data.emotion.names.index(e)) for e in emotions}
    duration = data.duration_s.values.astype(float)
    return {
        "clips": data.rows,
        "hours": float(durations.sum() / 3600),
        "without_duration": data.rows - len(durations),
        "speakers": len(data.speaker.names),
        "without_speaker": data.speaker.counts()[None],
        "corpora": corpora,
        "emotions": sum(emotion is not None for emotion in emotions),
        "without_emotion": data.emotion.counts()[None],
        "languages": sorted(data.language.names),
        "without_language": data.language.counts()[None],
        "transcripts": data.transcripts,
        "texts": data.texts.count,
        "lost": failures["lost"],
        "fields_lost": failures["fields"],
        "steps": step_counts(steps),
        "table": [
            {
                "emotion": emotion or "no emotion",
                "counts": [int((mask & inside).sum()) for inside in by_corpus.values()],
                "clips": int(mask.sum()),
                "minutes": float(np.nansum(duration[mask]) / 60),
                "speakers": len(np.unique(data.speaker.codes[mask & (data.speaker.codes >= 0)])),
            }
            for emotion, mask in is_emotion.items()
        ],
        "per_corpus": [
            {
                "corpus": name,
                "clips": int(inside.sum()),
                "minutes": float(np.nansum(duration[inside]) / 60),
                "speakers": len(np.unique(data.speaker.codes[inside & (data.speaker.codes >= 0)])),
                "languages": sorted(
                    {data.language.names[code] for code in np.unique(data.language.codes[inside]) if code >= 0}
                ),
            }
            for name, inside in by_corpus.items()
        ],
    }


def step_counts(steps: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each step took, gave and lost, and whether that adds up (None where run.json does not say)."""
    rows = []
    for name, step in steps.items():
        counts = {key: step.get(key) for key in ("in", "out", "failed", "fields_lost")}
        known = all(isinstance(counts[key], int) for key in ("in", "out", "failed"))
        rows.append(
            {
                "name": words(str(name)),
                **counts,
                "adds_up": counts["in"] == counts["out"] + counts["failed"] if known else None,  # type: ignore[operator]
                "settings": json.dumps(step.get("settings", {}), indent=1, ensure_ascii=False, sort_keys=True),
                "output": step.get("output"),
            }
        )
    return rows


# --- thresholds and reliability --------------------------------------------------------------------------------------


def threshold_groups(data: DataSet, thresholds: Mapping[str, Thresholds]) -> list[dict[str, Any]]:
    """For each cue the groups that gave levels, with their cuts; of many speakers the range."""
    rows = []
    for cue in CUES:
        uses = data.group_uses(cue.name)
        kinds: dict[str, list[str]] = {}
        for key in sorted(uses):
            kinds.setdefault(key if not key.startswith("speaker:") else "speaker", []).append(key)
        for kind, keys in kinds.items():
            cuts = np.array(
                [
                    thresholds[key].cuts[cue.name]
                    for key in keys
                    if key in thresholds and cue.name in thresholds[key].cuts
                ]
            )
            unit = _unit(data, cue)
            texts = []
            for column in cuts.T:
                low, high = (number(float(end), cue.measure, unit) for end in (column.min(), column.max()))
                texts.append(low if low == high else f"{low} to {high}")
            rows.append(
                {
                    "cue": words(cue.name),
                    "group": f"{counted(len(keys), 'speaker')}, each their own"
                    if kind == "speaker"
                    else group_name(kind),
                    "clips": sum(uses[key] for key in keys),
                    "cuts": texts,
                    "levels": cue.levels,
                    "unit": UNIT_WORDS.get(unit, unit),
                }
            )
    return rows


def _unit(data: DataSet, cue: Cue) -> str:
    return data.measures[cue.measure].unit if cue.measure in data.measures else cue.unit


def reliability(data: DataSet) -> list[dict[str, Any]]:
    """For each measure how many clips have a reliable value, an unreliable one, or none, and why."""
    rows = []
    for name in (*TITLES, *sorted(set(data.measures) - set(TITLES))):
        column = data.measures.get(name)
        if column is None:
            continue
        reliable = int(np.isfinite(data.measure(name)).sum())
        values, trust = column.values.values, column.reliability.values
        unreliable = int((np.isfinite(values) & (trust < MIN_RELIABILITY)).sum())
        reasons = column.reasons.most_common(MOST_LISTED)
        absent = data.rows - int(np.isfinite(trust).sum())
        if absent:
            reasons.append(("not measured at all", absent))
        rows.append(
            {
                "title": title(name),
                "reliable": reliable,
                "unreliable": unreliable,
                "missing": data.rows - reliable - unreliable,
                "reasons": reasons,
                "of": data.rows,
            }
        )
    return rows


# --- intonation and words --------------------------------------------------------------------------------------------


def intonation(data: DataSet) -> dict[str, Any] | None:
    """Shares of the shapes of the melody by emotion; None where no clip has any."""
    counts = data.shape.counts()
    if not data.shape.names and not data.shape_reasons:
        return None
    shapes = [name for name in SHAPE_ORDER if name in counts]
    shapes += sorted(set(data.shape.names) - set(shapes))
    codes, emotions = data.shape.codes, data.emotion.codes
    columns = [codes == data.shape.names.index(shape) for shape in shapes] + [codes < 0]
    confidence = finite(data.shape_confidence.values)
    rows = []
    for emotion in sorted_emotions(data):
        inside = emotions == (-1 if emotion is None else data.emotion.names.index(emotion))
        rows.append((emotion or "no emotion", int(inside.sum()), [int((inside & column).sum()) for column in columns]))
    return {
        "shapes": [*shapes, "none"],
        "rows": rows,
        "total": [int(column.sum()) for column in columns],
        "reasons": data.shape_reasons.most_common(MOST_LISTED),
        "confidence": float(np.median(confidence)) if len(confidence) else None,
    }


def word_prominence(data: DataSet) -> dict[str, Any] | None:
    """What is known of words; None where no clip has any."""
    found = data.words
    if not found.clips:
        return None
    values = finite(found.prominence.values)
    frequent = [(word, times, most) for word, (times, most) in found.by_word.items() if times >= ENOUGH_OF_A_WORD]
    frequent.sort(key=lambda item: (-item[2] / item[1], -item[1], item[0]))
    picture = (
        histogram_svg(values, "prominence of a word (0 to 1)", "Histogram of word prominence") if len(values) else ""
    )
    return {
        "clips": found.clips,
        "timed": found.timed,
        "measured": found.measured,
        "words": len(values),
        "svg": Markup(picture),
        "stressed": frequent[:STRESSED_WORDS],
        "enough": ENOUGH_OF_A_WORD,
    }


# --- reasoning -------------------------------------------------------------------------------------------------------


def reasoning(data: DataSet, failures: Mapping[str, Any]) -> dict[str, Any] | None:
    """Lengths, claims, verdicts, repairs, rejections and variety of the texts; None where there are none."""
    texts = data.texts
    rejected = [kind for kind in failures["kinds"] if kind["lost"] == "reasoning"]
    if not texts.count and not rejected:
        return None
    cues = [cue.name for cue in CUES] + sorted({cue for cue, _ in texts.verdicts} - set(CUE_BY_NAME))
    verdicts = [(words(cue), [texts.verdicts[cue, verdict] for verdict in VERDICTS]) for cue in cues]
    totals = [sum(counts[place] for _, counts in verdicts) for place in range(len(VERDICTS))]
    lengths, claims = finite(texts.words.values), finite(texts.claims.values)
    sample = texts.sample
    pictures = [
        Markup(histogram_svg(values, f"{what} of a text", f"Histogram of {what} per text", whole=True))
        if texts.count
        else ""
        for values, what in ((lengths, "words"), (claims, "claims"))
    ]
    return {
        "kinds": [(writer, size, count) for (writer, size), count in sorted(texts.kinds.items())],
        "count": texts.count,
        "words_svg": pictures[0],
        "claims_svg": pictures[1],
        "words_range": _range(lengths),
        "claims_range": _range(claims),
        "verdicts": [(cue, counts, sum(counts)) for cue, counts in verdicts if sum(counts)],
        "totals": totals,
        "differing": texts.differing,
        "repaired": sum(count for repairs, count in texts.repairs.items() if repairs),
        "repairs": sorted((repairs, count) for repairs, count in texts.repairs.items() if repairs),
        "rejected": rejected,
        "refused": sum(kind["count"] for kind in rejected if kind["cause"].startswith(REFUSED)),
        "not_written": sum(kind["count"] for kind in rejected if not kind["cause"].startswith(REFUSED)),
        "checked_anew": texts.checked_anew,
        "variety": variety_report(sample) if sample else None,
    }


def _range(values: np.ndarray) -> str:
    if not len(values):
        return "none"
    low, middle, high = values.min(), np.median(values), values.max()
    return f"median {middle:g}, {low:g} to {high:g}"


# --- examples --------------------------------------------------------------------------------------------------------


def example(
    data: DataSet,
    record: Record,
    choice: Choice,
    fit: np.ndarray,
    thresholds: Mapping[str, Thresholds],
    audio: bool,
) -> dict[str, Any]:
    """A clip with its picture, its text in pieces with the claims marked, and a scale for each cue."""
    claims = checked_claims(record, thresholds)
    drawn = draw_clip(record, record_thresholds(record, thresholds), claims, audio)
    chance = float(fit[choice.row])
    return {
        "id": record.id,
        "why": choice.why,
        "fit": chance if np.isfinite(chance) else None,
        "svg": Markup(drawn.svg) if drawn.svg else None,
        "audio": drawn.audio,
        "problem": drawn.problem,
        "speaker": record.speaker,
        "transcript": record.text,
        "intonation": record.intonation,
        "pieces": _pieces(record.reasoning.text, claims) if record.reasoning else None,
        "writer": record.reasoning.writer if record.reasoning else None,
        "gauges": [_gauge(data, cue, record, thresholds, claims) for cue in CUES if cue.name in (record.levels or {})],
        "unchecked": [claim for claim in claims if claim["cue"] not in (record.levels or {})],
    }


def _pieces(text: str, claims: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, Any] | None]]:
    """A text cut at its claims."""
    pieces: list[tuple[str, dict[str, Any] | None]] = []
    end = 0
    for place, claim in enumerate(claims, start=1):
        pieces.append((text[end : claim["start"]], None))
        pieces.append(
            (text[claim["start"] : claim["end"]], {**claim, "number": place, "sign": VERDICTS[claim["verdict"]]})
        )
        end = claim["end"]
    return [piece for piece in (*pieces, (text[end:], None)) if piece[0]]


def _gauge(
    data: DataSet,
    cue: Cue,
    record: Record,
    thresholds: Mapping[str, Thresholds],
    claims: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    level = (record.levels or {})[cue.name]
    measure = (record.measures or {}).get(cue.measure)
    value = measure.value if measure and measure.value is not None and level.level else None
    cuts = record_thresholds(record, thresholds).cuts.get(cue.name, ())
    said: dict[tuple[str, str], list[int]] = {}
    for place, claim in enumerate(claims, start=1):
        if claim["cue"] == cue.name:
            said.setdefault((claim["level"], claim["verdict"]), []).append(place)
    found: dict[str, Any] = {
        "cue": words(cue.name),
        "level": level.level,
        "value": with_unit(value, cue.measure, measure.unit) if measure and value is not None else None,
        "reason": level.reason or (measure.reason if measure else "not measured"),
        "group": group_name(level.thresholds) if level.thresholds else None,
        "said": [
            {"numbers": ", ".join(map(str, places)), "level": level, "verdict": verdict, "sign": VERDICTS[verdict]}
            for (level, verdict), places in said.items()
        ],
        "segments": [],
        "marker": None,
    }
    if value is None or not cuts:
        return found
    known = finite(data.measure(cue.measure))
    ends = [cue.position(float(end)) for end in (*np.percentile(known, (1, 99)), *cuts, value)]
    margin = 0.03 * (max(ends) - min(ends)) or 1.0
    low, high = min(ends) - margin, max(ends) + margin
    edges = [low, *(cue.position(cut) for cut in cuts), high]
    found["marker"] = 100 * (cue.position(value) - low) / (high - low)
    claimed = {level for level, _ in said}
    found["segments"] = [
        {"level": name, "colour": colour, "width": 100 * (after - before) / (high - low), "claimed": name in claimed}
        for name, colour, before, after in zip(
            cue.levels, level_colours(len(cue.levels)), edges[:-1], edges[1:], strict=True
        )
    ]
    return found
