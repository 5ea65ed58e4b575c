"""Cuts a recording into the pieces the encoder hears; each second is in a window, or skipped with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge_emotion.speech import FRAME_SAMPLES, LEVEL_FLOOR_DB, SAMPLE_RATE_HZ, runs_of

if TYPE_CHECKING:
    from edge_emotion.speech import SpeechActivity

MARGIN_S = 0.1
LONG_PAUSE_S = 1.0
# A cut is looked for in this last part of the longest window.
CUT_SEARCH_SHARE = 1 / 3
NO_SPEECH = "no speech"
TOO_SHORT = "too short"


@dataclass(frozen=True)
class Window:
    """A piece that is analysed, from `start_s` to `end_s` of the recording."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class Skipped:
    """A piece that is not analysed, and why (`no speech`, `too short`)."""

    start_s: float
    end_s: float
    reason: str


@dataclass(frozen=True)
class Plan:
    """Windows and skipped pieces, each in order of time; together they tile the recording."""

    windows: tuple[Window, ...]
    skipped: tuple[Skipped, ...]


def cut_windows(
    activity: SpeechActivity, duration_s: float, max_window_s: float = 30.0, min_window_s: float = 0.3
) -> Plan:
    """Plans which pieces of a recording are analysed.

    Silence before and after speech is left out but for 100 ms, digital silence entirely, so that padding a recording
    moves its windows and changes nothing else. Speech that fits one window stays whole, with its pauses. Longer
    recordings lose their pauses of more than 1 s, and speech without such a pause is cut at its longest pause near the
    limit, or where it is quietest.

    Args:
        activity: Where somebody speaks, from `find_speech` on the whole recording.
        duration_s: Length of the recording.
        max_window_s: Longest window, margins included.
        min_window_s: Speech of less than this in one place is skipped as too short.

    Returns:
        Windows and skipped pieces that tile [0, duration_s] exactly; edges are whole frames except the recording's end.

    Raises:
        ValueError: The limits leave no room for a window, or `duration_s` is not that of the activity's recording.
    """
    frames, rate = len(activity.speech), round(1.0 / activity.frame_s)
    longest, shortest = int(max_window_s * rate + 1e-6), max(1, int(np.ceil(min_window_s * rate - 1e-6)))
    if longest < 3 * shortest:
        raise ValueError(f"max_window_s ({max_window_s:g}) must be at least 3 times min_window_s ({min_window_s:g})")
    if not (frames - 1) / rate - 1e-6 <= duration_s <= frames / rate + 1e-6:
        raise ValueError(f"duration_s is {duration_s:g}, but the speech activity is of {frames} frames of 1/{rate} s")

    groups = _groups(activity.speech, round(LONG_PAUSE_S * rate))
    enough = [group for group in groups if np.count_nonzero(activity.speech[slice(*group)]) >= shortest]
    if enough and _length(_with_margin((enough[0][0], enough[-1][1]), activity, rate)) <= longest:
        enough = [(enough[0][0], enough[-1][1])]
    windows = [
        piece for group in enough for piece in _cut(_with_margin(group, activity, rate), activity, longest, shortest)
    ]
    too_short = [
        _with_margin(group, activity, rate)
        for group in groups
        if not any(start <= group[0] and group[1] <= end for start, end in enough)
    ]
    if frames < shortest:
        too_short = [(0, frames)]
    return _plan(windows, too_short, frames, duration_s, rate)


def window_samples(samples: np.ndarray, window: Window) -> np.ndarray:
    """The samples of a window, filled up with zeros to whole frames of 10 ms.

    A recording's last frame may be incomplete; filled up, it is the same whether silence follows in the file or not.

    Args:
        samples: (n,) float32 at 16 kHz, the whole recording.
        window: One of the plan's windows.

    Returns:
        (m,) float32, m a multiple of 160.
    """
    piece = samples[round(window.start_s * SAMPLE_RATE_HZ) : round(window.end_s * SAMPLE_RATE_HZ)]
    return np.pad(piece, (0, -len(piece) % FRAME_SAMPLES))


def _groups(speech: np.ndarray, long_pause: int) -> list[tuple[int, int]]:
    """Stretches of speech as frames [start, end), joined over pauses that are not long."""
    groups: list[tuple[int, int]] = []
    for start, end in runs_of(speech):
        if groups and start - groups[-1][1] <= long_pause:
            groups[-1] = (groups[-1][0], end)
        else:
            groups.append((start, end))
    return groups


def _with_margin(group: tuple[int, int], activity: SpeechActivity, rate: int) -> tuple[int, int]:
    margin = round(MARGIN_S * rate)
    sounding = np.flatnonzero(activity.level_db > LEVEL_FLOOR_DB)
    first, last = (int(sounding[0]), int(sounding[-1]) + 1) if len(sounding) else (0, len(activity.speech))
    return min(group[0], max(group[0] - margin, first)), max(group[1], min(group[1] + margin, last))


def _length(span: tuple[int, int]) -> int:
    return span[1] - span[0]


def _cut(span: tuple[int, int], activity: SpeechActivity, longest: int, shortest: int) -> list[tuple[int, int]]:
    """Pieces of at most `longest` frames, none shorter than `shortest`."""
    pieces = []
    start, end = span
    while end - start > longest:
        low = start + longest - int(longest * CUT_SEARCH_SHARE)
        cut = _best_cut(activity, low, min(start + longest, end - shortest))
        pieces.append((start, cut))
        start = cut
    return [*pieces, (start, end)]


def _best_cut(activity: SpeechActivity, low: int, high: int) -> int:
    """The middle of the longest pause between two frames, or the quietest frame where there is none."""
    pauses = runs_of(~activity.speech[low:high])
    if pauses:
        start, end = max(pauses, key=_length)
        return low + (start + end + 1) // 2
    return low + int(np.argmin(activity.level_db[low:high]))


def _plan(
    windows: Sequence[tuple[int, int]], too_short: Sequence[tuple[int, int]], frames: int, duration_s: float, rate: int
) -> Plan:
    def edge_s(frame: int) -> float:
        return frame / rate if frame < frames else duration_s

    kept, skipped, position = [], [], 0
    for (start, end), short in sorted([(span, False) for span in windows] + [(span, True) for span in too_short]):
        if position < start:
            skipped.append(Skipped(edge_s(position), edge_s(start), NO_SPEECH))
        if short:
            skipped.append(Skipped(edge_s(start), edge_s(end), TOO_SHORT))
        else:
            kept.append(Window(edge_s(start), edge_s(end)))
        position = end
    if position < frames:
        skipped.append(Skipped(edge_s(position), duration_s, NO_SPEECH))
    return Plan(tuple(kept), tuple(skipped))
