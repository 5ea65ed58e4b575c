"""Example clips of a report: which ones are shown, and each drawn over time with what its text claims."""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edge_emotion.audio import SAMPLE_RATE_HZ, load_audio
from edge_emotion.cues import CUE_BY_NAME, Thresholds
from edge_emotion.errors import AudioError
from edge_emotion.labels import EMOTIONS
from edge_emotion.prosody import Contour, Prosody, measure_prosody
from edge_emotion.prosody.contour_shape import LONGEST_GAP_S, fit_melody
from edge_emotion.speech import find_speech
from edge_emotion_train.labelling.records import Record, Word
from edge_emotion_train.labelling.report_data import DataSet, stable_hash
from edge_emotion_train.labelling.report_plots import (
    COLOUR,
    Scale,
    level_colours,
    nice_hertz,
    open_frame,
    shortened,
    style,
    to_svg,
    value_ticks,
)

LONGEST_DRAWN_S = 60.0
LONGEST_EMBEDDED_S = 20.0

WIDTH, LEFT, RIGHT = 560, 44, 76
WORDS_HEIGHT, WAVE_HEIGHT, PITCH_HEIGHT, TIME_HEIGHT = 44, 64, 150, 34
ENVELOPE_POINTS = 300
INTENSITY_RANGE_DB = 50.0
CHARACTER_WIDTH = 6.0


@dataclass(frozen=True)
class Choice:
    """A clip that is shown.

    Attributes:
        row: Its row in the data set.
        why: What it was chosen for.
    """

    row: int
    why: str


def choose_clips(data: DataSet, fit: np.ndarray, per_emotion: int) -> dict[str, list[Choice]]:
    """For each emotion clips that show something: the most and the least typical ones, and some taken blindly.

    Args:
        data: All clips.
        fit: (clips,) from `DataSet.label_fit`.
        per_emotion: How many of each emotion, where there are so many.
    """
    chosen: dict[str, list[Choice]] = {}
    emotions = data.emotion.codes
    for name in sorted_emotions(data):
        code = data.emotion.names.index(name) if name is not None else -1
        rows = np.flatnonzero(emotions == code)
        known = rows[np.isfinite(fit[rows])]
        ranked = known[np.argsort(-fit[known], kind="stable")].tolist()
        blind = sorted(rows.tolist(), key=lambda row: stable_hash(str(row)))
        options = (
            (ranked, "its measured levels are the most typical of its label"),
            (ranked[::-1], "its measured levels are the least typical of its label"),
            (blind, "taken blindly"),
        )
        picked: list[Choice] = []
        for turn in range(per_emotion):
            rows_left, why = options[turn % len(options)]
            taken = {choice.row for choice in picked}
            row = next((row for row in (*rows_left, *blind) if row not in taken), None)
            if row is not None:
                picked.append(Choice(row, why if row in rows_left else "taken blindly"))
        chosen[name if name is not None else "no emotion"] = picked
    return chosen


def sorted_emotions(data: DataSet) -> list[str | None]:
    """The emotions that occur, in the order of `EMOTIONS`; None last where some clips have none."""
    present = set(data.emotion.names)
    known = [name for name in EMOTIONS if name in present]
    other = sorted(present - set(known))
    return [*known, *other, *([None] if (data.emotion.codes < 0).any() else [])]


@dataclass(frozen=True)
class DrawnClip:
    """A clip over time.

    Attributes:
        svg: None where it cannot be drawn.
        audio: The clip as a data URI (FLAC); None where it was not asked for or is too long.
        problem: Why something is missing; None where nothing is.
    """

    svg: str | None
    audio: str | None
    problem: str | None


def draw_clip(
    record: Record, thresholds: Thresholds, claims: Sequence[Mapping[str, Any]], embed_audio: bool
) -> DrawnClip:
    """Draws a clip; never raises for audio that is missing, broken or too long.

    Args:
        record: Of the clip.
        thresholds: Cuts that hold for it.
        claims: Of its text, numbered from 1 in this order.
        embed_audio: Put the sound itself in too.
    """
    measured = (record.measures or {}).get("duration_s")
    if measured and measured.value and measured.value > LONGEST_DRAWN_S:
        return DrawnClip(None, None, f"longer than {LONGEST_DRAWN_S:g} s, so it is not drawn")
    try:
        samples = load_audio(record.audio).samples
    except (AudioError, OSError) as error:
        return DrawnClip(None, None, f"the recording cannot be read: {error}")
    first = round((record.start_s or 0.0) * SAMPLE_RATE_HZ)
    last = len(samples) if record.end_s is None else round(record.end_s * SAMPLE_RATE_HZ)
    samples = samples[first:last]
    if len(samples) == 0 or len(samples) > LONGEST_DRAWN_S * SAMPLE_RATE_HZ:
        return DrawnClip(None, None, f"{len(samples) / SAMPLE_RATE_HZ:.1f} s long, so it is not drawn")
    svg = clip_svg(samples, record, thresholds, claims)
    small = len(samples) <= LONGEST_EMBEDDED_S * SAMPLE_RATE_HZ
    problem = (
        None if small or not embed_audio else f"longer than {LONGEST_EMBEDDED_S:g} s, so its sound is not embedded"
    )
    return DrawnClip(svg, _data_uri(samples) if embed_audio and small else None, problem)


def _data_uri(samples: np.ndarray) -> str:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1.0, 1.0), SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(buffer.getvalue()).decode()


def clip_svg(samples: np.ndarray, record: Record, thresholds: Thresholds, claims: Sequence[Mapping[str, Any]]) -> str:
    """Words, waveform with level, and pitch of a clip over time, with the claims that can be seen in them.

    Args:
        samples: (n,) at 16 kHz.
        record: Of the clip; times of its words count from the beginning of `samples`.
        thresholds: Cuts that hold for it.
        claims: Of its text, numbered from 1 in this order.
    """
    prosody = measure_prosody(samples)
    duration_s = len(samples) / SAMPLE_RATE_HZ
    start_s = record.start_s or 0.0
    words = [word for word in record.words or () if word.start_s is not None and word.end_s is not None]
    numbers = {
        str(claim["cue"]): (number, str(claim["level"])) for number, claim in reversed(list(enumerate(claims, 1)))
    }
    heights = (WORDS_HEIGHT if words else 6, WAVE_HEIGHT, PITCH_HEIGHT)
    height = sum(heights) + TIME_HEIGHT + 10
    with style():
        figure = Figure((WIDTH / 72, height / 72), dpi=72)
        top = height - 2
        panels = []
        for tall in heights:
            box = (LEFT / WIDTH, (top - tall) / height, 1 - (LEFT + RIGHT) / WIDTH, tall / height)
            panels.append(figure.add_axes(box))
            panels[-1].set_xlim(0.0, duration_s)
            panels[-1].patch.set_visible(False)
            top -= tall + 4
        _draw_words(panels[0], words, start_s, duration_s)
        _draw_wave(panels[1], samples, prosody.contour, numbers.get("pauses"))
        _draw_pitch(panels[2], prosody, thresholds, numbers)
        panels[2].set_xlabel("time (s)")
        return to_svg(figure, f"Words, waveform and pitch of {record.id} over time")


def _draw_words(axes: Axes, words: Sequence[Word], start_s: float, duration_s: float) -> None:
    axes.set_axis_off()
    axes.set_ylim(0.0, 1.0)
    room = (WIDTH - LEFT - RIGHT) / duration_s
    right = [-math.inf, -math.inf]
    for index, word in enumerate(words):
        begin, end = (word.start_s or 0.0) - start_s, (word.end_s or 0.0) - start_s
        if word.prominence is not None:
            tall = 0.06 + 0.94 * min(max(word.prominence, 0.0), 1.0)
            axes.bar(begin, tall, end - begin, align="edge", color=COLOUR["accent"], alpha=0.22, linewidth=0)
        axes.axvline(begin, color=COLOUR["line"], linewidth=0.8)
        text = shortened(word.text, 18)
        half = 0.5 * len(text) * CHARACTER_WIDTH / room
        middle, row = (begin + end) / 2, index % 2
        if middle - half > right[row]:
            axes.text(middle, 0.68 if row else 0.2, text, ha="center", va="center", color=COLOUR["ink"])
            right[row] = middle + half


def _draw_wave(axes: Axes, samples: np.ndarray, contour: Contour, pauses: tuple[int, str] | None) -> None:
    edges = np.linspace(0, len(samples), min(ENVELOPE_POINTS, len(samples)) + 1).astype(int)
    low, high = (reduce(samples, edges[:-1]) for reduce in (np.minimum.reduceat, np.maximum.reduceat))
    peak = max(float(np.abs(samples).max()), 1e-9)
    times_s = (edges[:-1] + edges[1:]) / 2 / SAMPLE_RATE_HZ
    axes.fill([*times_s, *times_s[::-1]], [*high / peak, *low[::-1] / peak], color=COLOUR["wave"], linewidth=0)
    axes.set_ylim(-1.05, 1.05)
    axes.set_yticks([])
    level = contour.intensity_db
    loudest = float(level.max(initial=-150.0))
    if loudest > -150.0:
        beside = axes.twinx()
        shown = np.where(level > loudest - INTENSITY_RANGE_DB, level - loudest, np.nan)
        beside.plot(contour.times_s, shown, color=COLOUR["ink"], linewidth=1.1)
        beside.set_ylim(-INTENSITY_RANGE_DB, 2.0)
        beside.set_yticks([-40, -20, 0])
        beside.set_yticklabels(["-40", "-20", "0 dB"], color=COLOUR["soft"])
        _no_frame(beside)
    if pauses:
        segments = find_speech(samples).segments
        gaps = [(before[1], after[0]) for before, after in itertools.pairwise(segments)]
        for begin, end in gaps:
            axes.axvspan(begin, end, color=COLOUR["level-high"], alpha=0.35, linewidth=0)
        if gaps:
            begin, end = max(gaps, key=lambda gap: gap[1] - gap[0])
            _badge(axes, (begin + end) / 2, 0.7, pauses[0])
    _no_frame(axes)
    axes.tick_params(labelbottom=False, bottom=False)


def _draw_pitch(axes: Axes, prosody: Prosody, thresholds: Thresholds, numbers: Mapping[str, tuple[int, str]]) -> None:
    f0_hz, times_s = prosody.contour.f0_hz, prosody.contour.times_s
    voiced = f0_hz[np.isfinite(f0_hz)]
    axes.set_yscale("log")
    cuts = thresholds.cuts.get("pitch", ())
    if len(voiced):
        low, high = nice_hertz(*(float(value) for value in np.percentile(voiced, (1, 99))))
    else:
        low, high = nice_hertz(cuts[0], cuts[-1]) if cuts else (75.0, 400.0)
    axes.set_ylim(low, high)
    value_ticks(axes.yaxis, Scale("Hz", logarithmic=True), low, high)
    axes.tick_params(axis="y", labelcolor=COLOUR["soft"])
    axes.set_ylabel("pitch (Hz)", labelpad=2)
    _draw_pitch_levels(axes, cuts, numbers.get("pitch"))
    shown = np.where((f0_hz >= low) & (f0_hz <= high), f0_hz, np.nan)
    axes.plot(times_s, shown, color=COLOUR["accent"], linewidth=2.2, solid_capstyle="round")
    if len(voiced):
        _draw_melody_claims(axes, prosody, numbers)
    if not len(voiced):
        axes.text(
            0.5, 0.5, "no voiced speech", transform=axes.transAxes, ha="center", va="center", color=COLOUR["soft"]
        )
    open_frame(axes)


def _draw_melody_claims(axes: Axes, prosody: Prosody, numbers: Mapping[str, tuple[int, str]]) -> None:
    """How far pitch varies, where it drifts, and its line with one bend, as far as the text speaks of them."""
    f0_hz = prosody.contour.f0_hz
    spoken_s = prosody.contour.times_s[np.isfinite(f0_hz)]
    values = (prosody.measures[name].value for name in ("f0_median_hz", "f0_slope_st_per_s", "f0_std_st"))
    median, slope, spread = (float("nan") if value is None else value for value in values)
    low, high = axes.get_ylim()

    def place(semitones: np.ndarray) -> np.ndarray:
        return np.clip(median * 2.0 ** (semitones / 12.0), low * 1.04, high / 1.04)

    dashed = {"color": COLOUR["ink"], "linewidth": 1.4, "dashes": (5, 3)}
    if "pitch_slope" in numbers:
        ends = spoken_s[[0, -1]]
        line = place(slope * (ends - np.median(spoken_s)))
        axes.plot(ends, line, **dashed)
        _badge(axes, ends[1], line[1], numbers["pitch_slope"][0])
    melody = fit_melody(f0_hz, np.isfinite(f0_hz))
    if "pitch_turn" in numbers and melody is not None:
        # The bend is given in time without the middle of long pauses.
        without_pauses_s = np.cumsum(np.minimum(np.diff(spoken_s, prepend=spoken_s[0]), LONGEST_GAP_S))
        bend_s = np.interp(melody.bend_position * without_pauses_s[-1], without_pauses_s, spoken_s)
        line = place(melody.values_st)
        axes.plot([spoken_s[0], bend_s, spoken_s[-1]], line, **dashed)
        _badge(axes, float(bend_s), line[1], numbers["pitch_turn"][0])
    if "pitch_variation" in numbers:
        at = float(spoken_s[0]) / 2
        axes.plot([at, at], place(np.array([-spread, spread])), color=COLOUR["ink"], linewidth=1.4, marker="_")
        _badge(axes, at, median, numbers["pitch_variation"][0])


def _draw_pitch_levels(axes: Axes, cuts: Sequence[float], claimed: tuple[int, str] | None) -> None:
    if not cuts:
        return
    levels = CUE_BY_NAME["pitch"].levels
    low, high = axes.get_ylim()
    edges = [low, *(min(max(cut, low), high) for cut in cuts), high]
    for level, name, begin, end in zip(levels, level_colours(len(levels)), edges[:-1], edges[1:], strict=True):
        if end <= begin:
            continue
        is_claimed = claimed is not None and claimed[1] == level
        axes.axhspan(begin, end, color=COLOUR[name], alpha=0.5 if is_claimed else 0.16, linewidth=0)
        tall = PITCH_HEIGHT * math.log(end / begin) / math.log(high / low)
        if tall >= 11 or is_claimed:
            middle, beside = math.sqrt(begin * end), axes.get_yaxis_transform()
            text = axes.text(1.012, middle, level, transform=beside, va="center", color=COLOUR["soft"])
            if is_claimed:
                text.set(color=COLOUR["ink"], fontweight="bold")
        if is_claimed and claimed is not None:
            _badge(axes, axes.get_xlim()[1] * 0.985, math.sqrt(begin * end), claimed[0])


def _badge(axes: Axes, x: float, y: float, number: int) -> None:
    """The number that the claim has in the text."""
    box = {"boxstyle": "circle,pad=0.22", "facecolor": COLOUR["page"], "edgecolor": COLOUR["ink"], "linewidth": 1.0}
    axes.text(x, y, str(number), ha="center", va="center", fontsize=9, color=COLOUR["ink"], bbox=box)


def _no_frame(axes: Axes) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.patch.set_visible(False)
