"""The plots of a report, as SVG that takes its colours and its type from the page's style sheet."""

from __future__ import annotations

import hashlib
import html
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

# Stand-ins that matplotlib draws with, and the custom property of the page that takes their place.
_COLOURS = (
    "ink", "soft", "line", "page", "accent", "wave",
    "level-lowest", "level-low", "level-middle", "level-high", "level-highest", "level-none",
)  # fmt: skip
COLOUR: Mapping[str, str] = {name: f"#f0{index:02x}0d" for index, name in enumerate(_COLOURS)}
THREE_LEVELS = ("level-low", "level-middle", "level-high")
FIVE_LEVELS = ("level-lowest", "level-low", "level-middle", "level-high", "level-highest")
SETTINGS: dict[Any, Any] = {
    "font.size": 11.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "text.color": COLOUR["ink"],
    "axes.edgecolor": COLOUR["line"],
    "axes.labelcolor": COLOUR["soft"],
    "xtick.color": COLOUR["line"],
    "ytick.color": COLOUR["line"],
    "xtick.labelcolor": COLOUR["soft"],
    "ytick.labelcolor": COLOUR["ink"],
    "axes.linewidth": 1.0,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
}

CARD_WIDTH = 400
NAME_WIDTH, VALUES_WIDTH, GAP = 96, 212, 12
TOP, BOTTOM = 8, 36
MOST_NAMED_ROWS = 24
RANKED_HEIGHT = 300
FEW_VALUES = 8
HERTZ_TICKS = (50, 75, 100, 150, 200, 300, 400, 600, 800)
MOST_RANKS, SHARE_BARS = 300, 40
MIDDLE_SHARE = (0.5, 99.5)


@dataclass(frozen=True)
class Row:
    """One group of clips in a plot.

    Attributes:
        name: The group's name.
        values: Reliable values of the measure.
        cuts: The group's own cuts between levels, if it has any.
        shares: Share of clips at each level and, last, of those without; empty where the measure has no levels.
    """

    name: str
    values: np.ndarray
    cuts: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scale:
    """How a measure is drawn.

    Attributes:
        label: What the axis says, with the unit.
        logarithmic: Equal ratios are equal distances.
        percent: A share, drawn as per cent.
    """

    label: str
    logarithmic: bool = False
    percent: bool = False


def level_colours(count: int) -> tuple[str, ...]:
    """Names of the colours of a cue's levels, from low to high."""
    return FIVE_LEVELS if count == 5 else THREE_LEVELS


def groups_svg(rows: Sequence[Row], scale: Scale, cuts: Sequence[float], label: str, plural: str) -> str:
    """Distribution of a measure in groups of clips, one row each, and their levels beside it.

    Args:
        rows: Up to 24 are drawn one by one with their names; more as a band, sorted by their medians.
        scale: Of the measure.
        cuts: Cuts between levels that bands are drawn for; empty for none.
        label: What the picture shows, for those who cannot see it.
        plural: What the groups are called.
    """
    named = len(rows) <= MOST_NAMED_ROWS
    row_height = 26 if len(rows) <= 12 else 17
    height = TOP + BOTTOM + (len(rows) * row_height if named else RANKED_HEIGHT)
    with style():
        figure = Figure((CARD_WIDTH / 72, height / 72), dpi=72)
        bottom, tall = BOTTOM / height, 1 - (TOP + BOTTOM) / height
        left, wide = NAME_WIDTH / CARD_WIDTH, VALUES_WIDTH / CARD_WIDTH
        axes = figure.add_axes((left, bottom, wide, tall))
        _value_axis(axes, scale, [row.values for row in rows], [*cuts, *(cut for row in rows for cut in row.cuts)])
        _level_bands(axes, cuts)
        if named:
            _draw_named(axes, rows)
        else:
            _draw_ranked(axes, rows, plural)
        if any(row.shares for row in rows):
            start = (NAME_WIDTH + VALUES_WIDTH + GAP) / CARD_WIDTH
            beside = figure.add_axes((start, bottom, 1 - start - 4 / CARD_WIDTH, tall))
            _draw_shares(beside, rows, axes.get_ylim(), named)
        return to_svg(figure, label)


def histogram_svg(values: np.ndarray, axis_label: str, label: str, whole: bool = False, percent: bool = False) -> str:
    """How often each value occurs.

    Args:
        values: At least one, finite.
        axis_label: What the axis says.
        label: What the picture shows, for those who cannot see it.
        whole: Values are whole numbers: one bar each where they are few.
        percent: Values are shares.
    """
    low, high = float(values.min()), float(values.max())
    if whole and high - low <= 40:
        edges = np.arange(low - 0.5, high + 1.0)
    else:
        edges = np.linspace(low, high if high > low else low + 1.0, 21)
    counts, edges = np.histogram(values, edges)
    height = 150
    with style():
        figure = Figure((CARD_WIDTH / 72, height / 72), dpi=72)
        axes = figure.add_axes((44 / CARD_WIDTH, BOTTOM / height, 1 - 56 / CARD_WIDTH, 1 - (TOP + BOTTOM) / height))
        axes.bar(
            edges[:-1], counts, 0.92 * np.diff(edges), align="edge", color=COLOUR["accent"], alpha=0.8, linewidth=0
        )
        axes.set_ylim(0, counts.max() * 1.08)
        axes.set_xlim(edges[0], edges[-1])
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole))
        if percent:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.set_xlabel(axis_label)
        axes.tick_params(axis="y", labelcolor=COLOUR["soft"])
        open_frame(axes)
        return to_svg(figure, label)


def to_svg(figure: Figure, label: str) -> str:
    """A figure as an `svg` element without ids of its own, scripts or fonts; `label` is read aloud for it."""
    for artist in (artist for axes in figure.axes for artist in axes.get_children()):
        artist.set_clip_on(False)  # nothing is drawn beyond its axes, so no picture needs clip paths
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The page's own font draws the text, so what matplotlib's lacks does not matter.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(
            buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")), transparent=True
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    body = text[text.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    # Groups have the same names in every picture, and only marks are ever referred to; those must differ on one page.
    body = re.sub(r"<g id=\"[^\"]*\"", "<g", body)
    own = hashlib.sha256(label.encode("utf-8", "replace")).hexdigest()[:8]
    body = re.sub(r"(id=\"|xlink:href=\"#)(?=m)", rf"\g<1>{own}", body)
    body = re.sub(r"font-family: [^;\"]+; ", "", body)
    body = re.sub(r" transform=\"rotate\(-0 [^)]*\)\"", "", body)
    body = re.sub(r"(?<![\w#.])-?\d+\.\d{2,}", lambda number: f"{float(number.group()):.1f}", body)
    for name, colour in COLOUR.items():
        body = body.replace(colour, f"var(--{name})")
    body = re.sub(r">\s+<", "><", body)
    body = re.sub(r"\s*\n\s*", " ", body)
    width, height = (round(float(size) * 72) for size in figure.get_size_inches())
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{html.escape(label)}">{body.strip()}'
    )


def style() -> Any:
    """How everything is drawn, as a context."""
    return matplotlib.rc_context(SETTINGS)


def shortened(name: str, most: int) -> str:
    """At most so many characters, the middle left out."""
    if len(name) <= most:
        return name
    kept = most - 1
    return f"{name[: kept - kept // 2]}…{name[len(name) - kept // 2 :]}"


def open_frame(axes: Axes) -> None:
    """Only the line along the bottom."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.patch.set_visible(False)


def value_ticks(axes_axis: Any, scale: Scale, low: float, high: float, most: int = 5) -> None:
    """Ticks for a measure between two values."""
    if scale.logarithmic:
        ticks = [tick for tick in HERTZ_TICKS if low <= tick <= high]
        axes_axis.set_major_locator(FixedLocator(ticks) if len(ticks) > 1 else MaxNLocator(most))
        axes_axis.set_minor_locator(NullLocator())
        axes_axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes_axis.set_major_locator(MaxNLocator(most))
        if scale.percent:
            axes_axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:g}%"))


def _value_axis(axes: Axes, scale: Scale, values: Iterable[np.ndarray], cuts: Sequence[float]) -> None:
    pooled = np.concatenate([*values, np.zeros(0)])
    ends = [*np.percentile(pooled, MIDDLE_SHARE), *cuts] if len(pooled) else [*cuts, 1.0, 2.0]
    low, high = float(min(ends)), float(max(ends))
    if scale.logarithmic:
        axes.set_xscale("log")
        low, high = low * 0.95, high * 1.05
    else:
        margin = 0.04 * (high - low) or 0.5
        low, high = low - margin, high + margin
    axes.set_xlim(low, high)
    value_ticks(axes.xaxis, scale, low, high)
    axes.set_xlabel(scale.label)
    open_frame(axes)


def _level_bands(axes: Axes, cuts: Sequence[float]) -> None:
    if not cuts:
        return
    low, high = axes.get_xlim()
    edges = [low, *(min(max(cut, low), high) for cut in cuts), high]
    for start, end, name in zip(edges[:-1], edges[1:], level_colours(len(cuts) + 1), strict=True):
        axes.axvspan(start, end, color=COLOUR[name], alpha=0.22, linewidth=0)
    for cut in cuts:
        axes.axvline(cut, color=COLOUR["soft"], linewidth=0.8, dashes=(3, 2))


def _draw_named(axes: Axes, rows: Sequence[Row]) -> None:
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [shortened(row.name, 12) for row in rows])
    place, back = _placing(axes)
    low, high = (place(value) for value in axes.get_xlim())
    grid = np.linspace(low, high, 64)
    for index, row in enumerate(rows):
        base = index + 0.28
        placed = place(row.values)
        inside = placed[(placed >= low) & (placed <= high)]
        if len(row.values) < FEW_VALUES:
            axes.plot(back(inside), np.full(len(inside), base), "o", color=COLOUR["accent"], markersize=3.5, alpha=0.8)
        else:
            hill = base - 0.68 * _density(inside, grid)
            axes.fill(
                back(grid[[0, *range(len(grid)), -1]]),
                [base, *hill, base],
                color=COLOUR["accent"],
                alpha=0.45,
                linewidth=0,
            )
            p25, p50, p75 = np.clip(np.percentile(row.values, (25, 50, 75)), *axes.get_xlim())
            axes.plot([p25, p75], [base, base], color=COLOUR["accent"], linewidth=3, solid_capstyle="butt")
            axes.plot([p50, p50], [base - 0.2, base + 0.14], color=COLOUR["ink"], linewidth=2, solid_capstyle="butt")
        for cut in row.cuts:
            axes.plot([cut, cut], [index - 0.45, index + 0.45], color=COLOUR["soft"], linewidth=1.1, dashes=(2, 1.4))


def _placing(axes: Axes) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """From values to equal distances on the axis, and back."""
    return (np.log, np.exp) if axes.get_xscale() == "log" else (lambda value: value, lambda value: value)


def _density(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Smoothed by a Gaussian of Silverman's width; the highest place is 1."""
    step = grid[1] - grid[0]
    if len(values) == 0:
        return np.zeros_like(grid)
    spread = min(values.std(), float(np.subtract(*np.percentile(values, (75, 25)))) / 1.34) or values.std()
    width = max(0.9 * spread * len(values) ** -0.2, step)
    counts, _ = np.histogram(values, np.append(grid - step / 2, grid[-1] + step / 2))
    reach = np.arange(-len(grid) + 1, len(grid)) * step
    smooth = np.convolve(counts, np.exp(-0.5 * (reach / width) ** 2))[len(grid) - 1 : 2 * len(grid) - 1]
    return smooth / smooth.max()


def _draw_ranked(axes: Axes, rows: Sequence[Row], plural: str) -> None:
    known = [row for row in rows if len(row.values)]
    axes.set_ylim(len(known) - 0.5, -0.5)
    ranks = np.unique(np.linspace(0, len(known) - 1, MOST_RANKS).round().astype(int))
    quartiles = np.array([np.percentile(known[rank].values, (25, 50, 75)) for rank in ranks])
    # Single ones have few clips: what is drawn of their middle half is the mean of about 2 % of neighbours.
    near = max(1, len(ranks) // 50)
    low, high = (_smoothed(quartiles[:, place], near) for place in (0, 2))
    low, middle, high = np.clip([low, quartiles[:, 1], high], *axes.get_xlim())
    axes.fill([*low, *high[::-1]], [*ranks, *ranks[::-1]], color=COLOUR["accent"], alpha=0.35, linewidth=0)
    axes.plot(middle, ranks, color=COLOUR["ink"], linewidth=1.5)
    axes.set_yticks([0, len(known) - 1], [shortened(known[0].name, 12), shortened(known[-1].name, 12)])
    axes.text(-0.06, 0.5, f"{len(known)} {plural},\nby median", transform=axes.transAxes, ha="right", va="center",
              color=COLOUR["soft"])  # fmt: skip


def _smoothed(values: np.ndarray, near: int) -> np.ndarray:
    """Mean of each value and `near` on both sides, fewer at the ends."""
    return np.array([values[max(0, place - near) : place + near + 1].mean() for place in range(len(values))])


def _draw_shares(axes: Axes, rows: Sequence[Row], limits: tuple[float, float], named: bool) -> None:
    rows = rows if named else [row for row in rows if len(row.values)]
    shares = np.array([row.shares for row in rows])
    centres, height = np.arange(len(rows), dtype=float), 0.68
    if not named:
        # Neighbours in rank are shown together: a single one has too few clips for a share.
        parts = np.array_split(np.arange(len(rows)), min(SHARE_BARS, len(rows)))
        shares = np.array([shares[part].mean(axis=0) for part in parts])
        centres, height = np.array([part.mean() for part in parts]), 1.02 * len(rows) / len(parts)
    starts = np.cumsum(shares, axis=1) - shares
    for level, name in enumerate((*level_colours(shares.shape[1] - 1), "level-none")):
        some = shares[:, level] > 0.0
        axes.barh(
            centres[some],
            shares[some, level],
            height,
            starts[some, level],
            color=COLOUR[name],
            linewidth=0,
            antialiased=False,
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(*limits)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(FixedLocator([0, 1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    left, right = axes.get_xticklabels()
    left.set_horizontalalignment("left")
    right.set_horizontalalignment("right")
    axes.set_xlabel("levels")
    open_frame(axes)


def finite(values: np.ndarray) -> np.ndarray:
    """The values that are numbers."""
    return values[np.isfinite(values)]


def nice_hertz(low: float, high: float) -> tuple[float, float]:
    """A range of pitches with some room, at least an octave."""
    middle = math.sqrt(low * high)
    return min(low * 0.93, middle / math.sqrt(2)), max(high * 1.07, middle * math.sqrt(2))
