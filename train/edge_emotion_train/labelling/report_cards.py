"""The cards of a report that show a measure and its levels in groups of clips, and the words for measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from edge_emotion.cues import CUES, Cue, Thresholds
from edge_emotion_train.labelling.report_clips import sorted_emotions
from edge_emotion_train.labelling.report_data import DataSet, Names
from edge_emotion_train.labelling.report_plots import MOST_NAMED_ROWS, Row, Scale, finite, groups_svg, level_colours

# Title and how a value is written, in the order in which measures are listed.
TITLES: Mapping[str, str] = {
    "f0_median_hz": "pitch, median",
    "f0_std_st": "pitch variation",
    "f0_slope_st_per_s": "pitch slope",
    "syllable_rate_per_s": "syllable rate",
    "spectral_tilt_db": "spectral tilt",
    "hnr_db": "harmonics to noise",
    "energy_std_db": "energy variation",
    "pause_share": "share of pauses",
    "f0_p5_hz": "pitch, lowest 5 %",
    "f0_p95_hz": "pitch, highest 5 %",
    "f0_range_st": "pitch range",
    "f0_turn_st": "turn of the melody",
    "f0_turn_position": "place of the turn",
    "voiced_share": "voiced share",
    "level_dbfs": "level",
    "pause_count": "number of pauses",
    "jitter_local": "jitter",
    "shimmer_local": "shimmer",
    "snr_db": "signal to noise",
    "duration_s": "duration",
    "speech_duration_s": "duration of speech",
}
COUNTS = frozenset({"pause_count"})
DIGITS: Mapping[str, int] = {"Hz": 0, "dB": 1, "dBFS": 1, "st": 1, "st/s": 1, "s": 2, "1/s": 1}
UNIT_WORDS: Mapping[str, str] = {"1/s": "per s", "1": ""}
TABLE_ENDS = 10


def title(measure: str) -> str:
    """What a measure is called."""
    return TITLES.get(measure, measure.replace("_", " "))


def words(name: str) -> str:
    """A name of a cue or step for people."""
    return name.replace("_", " ")


def whole(count: int) -> str:
    """A whole number with its thousands set apart."""
    return f"{count:,}".replace(",", "\u202f")


def counted(count: int, noun: str) -> str:
    """So many of something: "1 clip", "2 corpora"."""
    plural = {"corpus": "corpora"}.get(noun, f"{noun}s")
    return f"{whole(count)} {noun if count == 1 else plural}"


def number(value: float, measure: str, unit: str) -> str:
    """A value with as many digits as it deserves, without its unit."""
    if not np.isfinite(value):
        return "\u2013"
    if measure in COUNTS:
        return f"{value:.1f}"
    if unit == "1":
        return f"{value:.1%}".replace("-", "\u2212")
    digits = DIGITS.get(unit, 2)
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\u2212")


def with_unit(value: float, measure: str, unit: str) -> str:
    """A value with its unit."""
    return f"{number(value, measure, unit)} {UNIT_WORDS.get(unit, unit)}".strip()


def scale_of(measure: str, unit: str) -> Scale:
    """How a measure is drawn."""
    if measure in COUNTS:
        return Scale("pauses per clip")
    if unit == "1":
        return Scale(title(measure), percent=True)
    return Scale(f"{title(measure)} ({UNIT_WORDS.get(unit, unit)})", logarithmic=unit == "Hz")


def main_cuts(data: DataSet, cue: Cue, thresholds: Mapping[str, Thresholds]) -> tuple[tuple[float, ...], str]:
    """Cuts to draw for all clips of a data set, and whose they are.

    Where several groups of thresholds are in use, each cut is the median over the clips of those that hold for them.
    """
    uses = {key: count for key, count in data.group_uses(cue.name).items() if cue.name in cuts_of(thresholds, key)}
    if not uses:
        return (), "No thresholds, so no levels."
    cuts = np.array([cuts_of(thresholds, key)[cue.name] for key in uses])
    median = np.median(np.repeat(cuts, list(uses.values()), axis=0), axis=0)
    if len(uses) == 1:
        return tuple(median.tolist()), f"Bands: {group_name(next(iter(uses)))}."
    kinds: dict[str, list[int]] = {}
    for key, count in sorted(uses.items(), reverse=True):
        kinds.setdefault(key.partition(":")[0], []).append(count)
    listed = [
        (kind if kind == "population" else counted(len(counts), kind))
        + (f" ({counted(sum(counts), 'clip')})" if len(kinds) > 1 else "")
        for kind, counts in kinds.items()
    ]
    return tuple(median.tolist()), f"Bands: median of the cuts of {' and '.join(listed)}."


def cuts_of(thresholds: Mapping[str, Thresholds], key: str) -> Mapping[str, tuple[float, ...]]:
    """Cue to cuts of a group; none where the group is unknown."""
    return thresholds[key].cuts if key in thresholds else {}


def group_name(key: str) -> str:
    """`speaker:03` as "speaker 03"."""
    kind, _, name = key.partition(":")
    return f"{kind} {name}".strip()


def cards_by_group(data: DataSet, thresholds: Mapping[str, Thresholds]) -> list[dict[str, Any]]:
    """The cards of all cues that have levels, by emotion, by speaker and by corpus, each where there are several."""
    emotions = [(name, _codes_of(data.emotion, name)) for name in sorted_emotions(data)]
    speakers = [(name, _codes_of(data.speaker, name)) for name in _sorted_names(data.speaker)]
    corpora = [(name, _codes_of(data.corpus, name)) for name in _sorted_names(data.corpus)]
    shown = [cue for cue in CUES if _has_levels(data, cue)] or CUES
    groupings = (("emotion", "emotions", emotions), ("speaker", "speakers", speakers), ("corpus", "corpora", corpora))
    return [
        {
            "key": key,
            "plural": plural,
            "count": len(groups),
            "cards": [card for cue in shown if (card := _cue_card(data, cue, thresholds, key, plural, groups))],
        }
        for key, plural, groups in groupings
        if len(groups) > 1 or (key == "emotion" and data.rows)
    ]


def other_measures(data: DataSet) -> list[dict[str, Any]]:
    """Cards by emotion of the measures of which no clip has a level."""
    shown = [cue for cue in CUES if _has_levels(data, cue)] or CUES
    with_levels = {cue.measure for cue in shown}
    names = [name for name in (*TITLES, *sorted(set(data.measures) - set(TITLES))) if name not in with_levels]
    groups = [(name, _codes_of(data.emotion, name)) for name in sorted_emotions(data)]
    return [
        card for name in names if name in data.measures and (card := _card(data, name, "emotion", "emotions", groups))
    ]


def _has_levels(data: DataSet, cue: Cue) -> bool:
    return bool((data.level_codes(cue.name) >= 0).any())


def _codes_of(column: Names, name: str | None) -> np.ndarray:
    codes = column.codes
    return np.flatnonzero(codes == (-1 if name is None else column.names.index(name)))


def _sorted_names(column: Names) -> list[str | None]:
    return [*sorted(column.names), *([None] if (column.codes < 0).any() else [])]


def _cue_card(
    data: DataSet,
    cue: Cue,
    thresholds: Mapping[str, Thresholds],
    key: str,
    plural: str,
    groups: Sequence[tuple[str | None, np.ndarray]],
) -> dict[str, Any] | None:
    cuts, note = main_cuts(data, cue, thresholds)
    codes = data.level_codes(cue.name) if _has_levels(data, cue) else None
    used = data.group_uses(cue.name)
    own = {
        name: cuts_of(thresholds, f"{key}:{name}").get(cue.name, ()) if f"{key}:{name}" in used else ()
        for name, _ in groups
    }
    if any(own.values()) and len(groups) <= MOST_NAMED_ROWS:
        note += f" Dashes in a row: that {key}'s own."
    counts = None
    if codes is not None:
        kinds = [*range(len(cue.levels)), -1]
        counts = {name: [int((codes[rows] == kind).sum()) for kind in kinds] for name, rows in groups}
    card = _card(data, cue.measure, key, plural, groups, cuts, own, counts, cue.levels)
    if card is not None:
        card |= {
            "title": words(cue.name),
            "note": note,
            "levels": list(zip(level_colours(len(cue.levels)), cue.levels, strict=True)) if counts else [],
        }
    return card


def _card(
    data: DataSet,
    measure: str,
    key: str,
    plural: str,
    groups: Sequence[tuple[str | None, np.ndarray]],
    cuts: tuple[float, ...] = (),
    own: Mapping[str | None, tuple[float, ...]] | None = None,
    counts: Mapping[str | None, list[int]] | None = None,
    levels: Sequence[str] = (),
) -> dict[str, Any] | None:
    values = data.measure(measure)
    if not np.isfinite(values).any():
        return None
    unit = data.measures[measure].unit
    unknown = f"{key} unknown"
    rows, table = [], []
    for name, places in groups:
        known = finite(values[places])
        shares = tuple(count / max(1, len(places)) for count in counts[name]) if counts else ()
        rows.append(Row(name if name is not None else unknown, known, (own or {}).get(name, ()), shares))
        quartiles = np.percentile(known, (25, 50, 75)) if len(known) else [np.nan] * 3
        cells = [whole(len(places)), whole(len(known)), *(number(float(value), measure, unit) for value in quartiles)]
        table.append(
            (rows[-1].name, float(quartiles[1]), [*cells, *(whole(count) for count in (counts or {}).get(name, ()))])
        )
    if len(rows) > MOST_NAMED_ROWS:
        by_median = sorted(range(len(rows)), key=lambda place: (np.isnan(table[place][1]), table[place][1]))
        rows, table = [rows[place] for place in by_median], [table[place] for place in by_median]
        measured = sum(len(row.values) > 0 for row in rows)
        table = [*table[:TABLE_ENDS], *table[max(TABLE_ENDS, measured - TABLE_ENDS) : measured]]
    scale = scale_of(measure, unit)
    heads = ["clips", "reliable", "25 %", "median", "75 %", *levels, *(["no level"] if counts else [])]
    return {
        "title": title(measure),
        "measure": title(measure),
        "unit": UNIT_WORDS.get(unit, unit),
        "svg": Markup(
            groups_svg(rows, scale, cuts, f"{scale.label} by {key}; the table below has the numbers", plural)
        ),
        "levels": [],
        "note": "",
        "key": key,
        "heads": heads,
        "table": [(name, cells) for name, _, cells in table],
        "left_out": len(rows) - len(table),
    }
