"""Draws an `EmotionResult` for people: rich renderables, readable without colour and in 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edge_emotion.cli.terminal import printable

if TYPE_CHECKING:
    from edge_emotion.claims import CheckedClaim
    from edge_emotion.result import EmotionResult

BAR_COLUMNS = 40
MOST_SPANS = 6
# Below this a measure is shown as not measured; the claim checker draws the same line.
RELIABLE = 0.5
VERDICT_STYLES: Mapping[str, str] = {"supported": "green", "contradicted": "bold red", "not measurable": "yellow"}

# What is worth a line, in the order a listener would ask; the JSON output has every measure under its own name.
MEASURE_TITLES: Mapping[str, str] = {
    "f0_median_hz": "pitch, median",
    "f0_p5_hz": "pitch, lowest 5 %",
    "f0_p95_hz": "pitch, highest 5 %",
    "f0_std_st": "pitch variation",
    "f0_slope_st_per_s": "pitch slope",
    "syllable_rate_per_s": "syllable rate",
    "pause_share": "pauses",
    "spectral_tilt_db": "spectral tilt",
    "energy_std_db": "energy variation",
    "hnr_db": "harmonics to noise",
    "jitter_local": "jitter",
    "shimmer_local": "shimmer",
    "voiced_share": "voiced",
    "speech_duration_s": "speech",
    "snr_db": "signal to noise",
}


@dataclass(frozen=True)
class Signs:
    """Characters that carry meaning: a plain set serves terminals without UTF-8."""

    verdicts: Mapping[str, str]
    bar: str
    dash: str
    missing: str

    @classmethod
    def of(cls, console: Console) -> Signs:
        """Those that the console's encoding can print."""
        if console.encoding.lower().startswith("utf"):
            return cls({"supported": "✓", "contradicted": "✗", "not measurable": "?"}, "█", "\u2013", "\u2013")
        return cls({"supported": "+", "contradicted": "x", "not measurable": "?"}, "#", "-", "-")


def render_result(result: EmotionResult, console: Console) -> RenderableType:
    """Everything a person wants to know of one recording."""
    signs = Signs.of(console)
    parts = [
        _title(result),
        _answer(result, signs),
        *_distribution(result, signs),
        *_reasoning(result, signs),
        *_evidence(result, signs),
        *_windows(result, signs),
        *_footer(result, signs),
    ]
    return Group(*parts, "")


def render_line(result: EmotionResult) -> Text:
    """One line for one recording: label, confidence, file."""
    label = result.label or "no answer"
    sure = "uncertain" if result.uncertain else ""
    return Text.assemble(
        (f"{label:<10}", "bold"),
        f" {result.confidence:4.0%}  ",
        (f"{sure:<9}", "yellow"),
        f"  {printable(result.source)}",
    )


def mark_claims(reasoning: str, claims: Sequence[CheckedClaim], signs: Signs) -> Text:
    """The reasoning with a sign behind each claim, the claim itself in the verdict's colour."""
    reasoning = printable(reasoning)
    text, end = Text(), 0
    for checked in sorted(claims, key=lambda item: item.claim.start):
        claim = checked.claim
        if claim.start < end:  # two claims in one phrase: the sign is set once, the table lists both
            continue
        style = VERDICT_STYLES[checked.verdict]
        text.append(reasoning[end : claim.start])
        text.append(reasoning[claim.start : claim.end], style)
        text.append(f"[{signs.verdicts[checked.verdict]}]", style)
        end = claim.end
    return text.append(reasoning[end:])


def quantity(value: float | None, unit: str | None, missing: str = "\u2013") -> str:
    """A value with its unit, with as many digits as it deserves."""
    if value is None:
        return missing
    if unit == "1":
        return f"{value:.0%}" if abs(value) >= 0.1 else f"{value:.1%}"
    digits = {"Hz": 0, "dB": 1, "dBFS": 1, "st": 1, "st/s": 1, "s": 2}.get(unit or "", 1)
    unit = {"1/s": "per s"}.get(unit or "", unit or "")
    return f"{round(value, digits) + 0.0:.{digits}f} {unit}".rstrip()  # + 0.0 turns -0.0 into 0.0


def _title(result: EmotionResult) -> RenderableType:
    return Text.assemble((printable(result.source), "bold"), (f"  {result.duration_s:.2f} s", "dim"))


def _answer(result: EmotionResult, signs: Signs) -> RenderableType:
    if result.label is None:
        lines = [Text("no answer", "bold yellow")]
    elif result.uncertain:
        lines = [
            Text.assemble((f"{result.label}, {result.confidence:.0%}", "bold"), ("  but uncertain", "bold yellow"))
        ]
    else:
        lines = [Text(f"{result.label}, {result.confidence:.0%}", "bold green")]
    lines += [Text(f"{signs.dash} {reason}", "yellow") for reason in result.uncertain_reasons]
    return Padding(Group(*lines), (1, 2, 0, 2))


def _distribution(result: EmotionResult, signs: Signs) -> Iterable[RenderableType]:
    if not result.distribution:
        return
    with_head = bool(result.reasoning) and bool(result.head_distribution)
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=with_head)
    table.add_column("")
    table.add_column("")
    table.add_column("", justify="right")
    if with_head:
        table.add_column("encoder alone", justify="right", style="dim", header_style="dim")
    for label, share in sorted(result.distribution.items(), key=lambda item: -item[1]):
        style = "bold" if label == result.label else ""
        bar = Text(signs.bar * round(share * BAR_COLUMNS), "cyan")
        bar.pad_right(BAR_COLUMNS - len(bar))
        row: list[RenderableType] = [Text(label, style), bar, Text(f"{share:.0%}", style)]
        if with_head:
            row.append(f"{(result.head_distribution or {}).get(label, 0.0):.0%}")
        table.add_row(*row)
    yield Padding(table, (1, 2, 0, 2))


def _reasoning(result: EmotionResult, signs: Signs) -> Iterable[RenderableType]:
    if not result.reasoning:
        return
    yield _heading("Why" + _of_part(result, signs))
    yield Padding(mark_claims(result.reasoning, result.claims, signs), (0, 2))
    if not result.claims:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for column in ("", "it says", "measured", "verdict"):
        table.add_column(column)
    for checked in result.claims:
        style = VERDICT_STYLES[checked.verdict]
        # The measured column says already why a claim is supported or contradicted.
        why = f": {checked.reason}" if checked.verdict == "not measurable" and checked.reason else ""
        table.add_row(
            Text(signs.verdicts[checked.verdict], style),
            Text(f"{_words(checked.claim.cue)}: {_words(checked.claim.level)}"),
            Text(_measured(checked, signs)),
            Text(checked.verdict + why, style),
        )
    supported = sum(checked.verdict == "supported" for checked in result.claims)
    checkable = sum(checked.verdict != "not measurable" for checked in result.claims)
    yield _heading(f"Its claims against the measurement: {supported} of {checkable} that can be checked are supported")
    yield Padding(table, (0, 2))


def _measured(checked: CheckedClaim, signs: Signs) -> str:
    value = quantity(checked.measured_value, checked.unit, signs.missing)
    return f"{value} ({checked.measured_level})" if checked.measured_level else value


def _evidence(result: EmotionResult, signs: Signs) -> Iterable[RenderableType]:
    listed = [measure for measure in result.evidence if measure.name in MEASURE_TITLES]
    known = [measure for measure in listed if measure.value is not None and measure.reliability >= RELIABLE]
    if not listed:
        return
    order = list(MEASURE_TITLES)
    cells = [
        (MEASURE_TITLES[measure.name], quantity(measure.value, measure.unit, signs.missing))
        for measure in sorted(known, key=lambda measure: order.index(measure.name))
    ]
    half = (len(cells) + 1) // 2
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "left", "right"):
        table.add_column(justify=justify, style="dim" if justify == "left" else "")
    for row in range(half):
        right = cells[half + row] if half + row < len(cells) else ("", "")
        table.add_row(*cells[row], *right)
    yield _heading("Measured in the signal" + _of_part(result, signs))
    if cells:
        yield Padding(table, (0, 2))
    unknown = [measure for measure in listed if measure not in known]
    if unknown:
        names = ", ".join(MEASURE_TITLES[measure.name] for measure in unknown)
        reasons = "; ".join(dict.fromkeys(measure.reason or "unreliable" for measure in unknown))
        yield Padding(Text(f"not reliable here: {names} ({reasons})", "yellow"), (0, 2))


def _windows(result: EmotionResult, signs: Signs) -> Iterable[RenderableType]:
    if len(result.windows) < 2:
        return
    table = Table.grid(padding=(0, 2))
    for window in result.windows:
        share = max(window.distribution.values(), default=0.0)
        table.add_row(
            _span(window.start_s, window.end_s, signs), Text(window.label or "no answer", "bold"), f"{share:.0%}"
        )
    yield _heading(f"In {len(result.windows)} parts")
    yield Padding(table, (0, 2))


def _footer(result: EmotionResult, signs: Signs) -> Iterable[RenderableType]:
    lines = [Text(f"warning: {warning}", "yellow") for warning in result.warnings]
    lines += [Text(f"fallback: {fallback}", "yellow") for fallback in result.runtime.get("fallbacks", ())]
    lines += [
        Text(line, "dim") for line in (*_skipped(result, signs), _timing(result), *_what_ran(result.runtime)) if line
    ]
    yield Padding(Group(*lines), (1, 2, 0, 2))


def _skipped(result: EmotionResult, signs: Signs) -> Iterable[str]:
    """The spans that nobody listened to, by reason."""
    spans: dict[str, list[str]] = {}
    for skip in result.coverage.skipped:
        spans.setdefault(skip.reason, []).append(_span(skip.start_s, skip.end_s, signs))
    for reason, of_reason in spans.items():
        more = len(of_reason) - MOST_SPANS
        listed = ", ".join(of_reason[:MOST_SPANS]) + (f" and {more} more" if more > 0 else "")
        yield f"not analysed, {reason}: {listed}"


def _timing(result: EmotionResult) -> str:
    milliseconds = {stage: f"{1000 * seconds:.0f} ms" for stage, seconds in result.timing_s.items()}
    if "total" not in milliseconds:
        return ", ".join(f"{_words(stage)} {time}" for stage, time in milliseconds.items())
    moments = {"time_to_label_head": "first label after", "time_to_first_word": "first word after"}
    reached = [f"{title} {milliseconds[stage]}" for stage, title in moments.items() if stage in milliseconds]
    return f"analysed in {milliseconds['total']}" + (f": {', '.join(reached)}" if reached else "")


def _what_ran(runtime: Mapping[str, Any]) -> Iterable[str]:
    for part, title in (("encoder", "encoder"), ("llm", "language model")):
        what = runtime.get(part)
        if isinstance(what, Mapping):
            file, library, version = (str(what.get(key, "")) for key in ("file", "runtime", "version"))
            where = _plain(what.get("providers") or what.get("device") or "")
            reason = runtime.get("chosen", {}).get(part)
            yield f"{title}: {file} on {library} {version} {where}".rstrip() + (f" ({reason})" if reason else "")


def _span(start_s: float, end_s: float, signs: Signs) -> str:
    return f"{start_s:.2f} {signs.dash} {end_s:.2f} s"


def _of_part(result: EmotionResult, signs: Signs) -> str:
    """Which part of a long recording is spoken of."""
    if len(result.windows) < 2:
        return ""
    part = next((part for part in result.windows if part.reasoning == result.reasoning), None)
    return f", {_span(part.start_s, part.end_s, signs)}" if part else ""


def _heading(title: str) -> RenderableType:
    return Padding(Text(title, "bold"), (1, 2, 0, 2))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
