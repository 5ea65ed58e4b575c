from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion.speech import LEVEL_FLOOR_DB, SpeechActivity, find_speech, runs_of
from edge_emotion.windows import Plan, Window, cut_windows, window_samples


def activity_of(*stretches: tuple[float, bool], level_db: float = -60.0) -> SpeechActivity:
    """Speech activity from (seconds, is speech) stretches."""
    speech = np.concatenate([np.full(round(seconds * 100), is_speech) for seconds, is_speech in stretches])
    levels = np.where(speech, -20.0, level_db)
    return SpeechActivity(0.01, speech, levels, tuple((start / 100, end / 100) for start, end in runs_of(speech)))


def spans(plan: Plan) -> list[tuple[float, float]]:
    return [(window.start_s, window.end_s) for window in plan.windows]


def skips(plan: Plan) -> list[tuple[float, float, str]]:
    return [(skip.start_s, skip.end_s, skip.reason) for skip in plan.skipped]


def assert_tiles(plan: Plan, duration_s: float) -> None:
    position_s = 0.0
    for start_s, end_s in sorted(spans(plan) + [skip[:2] for skip in skips(plan)]):
        assert start_s == position_s
        assert end_s > start_s
        position_s = end_s
    assert position_s == duration_s


def test_silence_around_speech_is_skipped_but_for_a_margin() -> None:
    plan = cut_windows(activity_of((1.0, False), (2.0, True), (0.5, False)), 3.5)
    assert spans(plan) == [(0.9, 3.1)]
    assert skips(plan) == [(0.0, 0.9, "no speech"), (3.1, 3.5, "no speech")]


def test_a_recording_that_fits_keeps_its_long_pauses() -> None:
    plan = cut_windows(activity_of((1.0, True), (5.0, False), (1.0, True)), 7.0)
    assert spans(plan) == [(0.0, 7.0)]


def test_long_recordings_lose_their_long_pauses() -> None:
    plan = cut_windows(activity_of((20.0, True), (3.0, False), (20.0, True), (0.8, False), (5.0, True)), 48.8)
    assert spans(plan) == [(0.0, 20.1), (22.9, 48.8)]
    assert skips(plan) == [(20.1, 22.9, "no speech")]


def test_speech_without_long_pauses_is_cut_at_its_longest_pause_near_the_limit() -> None:
    plan = cut_windows(activity_of((22.0, True), (0.2, False), (3.0, True), (0.6, False), (20.0, True)), 45.8)
    assert spans(plan) == [(0.0, 25.5), (25.5, 45.8)]


def test_speech_without_any_pause_is_cut_where_it_is_quietest() -> None:
    activity = activity_of((50.0, True))
    activity.level_db[2712] = -33.0
    assert spans(cut_windows(activity, 50.0)) == [(0.0, 27.12), (27.12, 50.0)]


@pytest.mark.parametrize(("duration_s", "windows"), [(30.0, 1), (30.1, 2), (600.0, 20)])
def test_speech_that_reaches_the_limit(duration_s: float, windows: int) -> None:
    plan = cut_windows(activity_of((duration_s, True)), duration_s)
    assert len(plan.windows) >= windows
    assert all(0.3 <= end_s - start_s <= 30.0 for start_s, end_s in spans(plan))
    assert_tiles(plan, duration_s)


def test_a_click_is_too_short_and_does_not_stretch_the_window() -> None:
    plan = cut_windows(activity_of((0.5, False), (0.1, True), (3.0, False), (2.0, True)), 5.6)
    assert spans(plan) == [(3.5, 5.6)]
    assert skips(plan) == [(0.0, 0.4, "no speech"), (0.4, 0.7, "too short"), (0.7, 3.5, "no speech")]


def test_a_recording_of_10_ms_is_too_short() -> None:
    plan = cut_windows(find_speech(np.full(160, 0.5, np.float32)), 0.01)
    assert plan.windows == ()
    assert skips(plan) == [(0.0, 0.01, "too short")]


def test_silence_has_no_window() -> None:
    plan = cut_windows(find_speech(np.zeros(48_000, np.float32)), 3.0)
    assert plan.windows == ()
    assert skips(plan) == [(0.0, 3.0, "no speech")]


def test_impossible_limits_and_a_foreign_activity_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 times"):
        cut_windows(activity_of((1.0, True)), 1.0, max_window_s=0.5)
    with pytest.raises(ValueError, match="100 frames"):
        cut_windows(activity_of((1.0, True)), 2.0)


@given(
    st.lists(st.tuples(st.integers(1, 800), st.booleans()), min_size=1, max_size=20),
    st.integers(0, 159),
    st.floats(1.0, 30.0),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=100, deadline=None)
def test_windows_and_skipped_pieces_tile_the_recording(stretches, lost_samples, max_window_s, seed) -> None:
    activity = activity_of(*((frames / 100, is_speech) for frames, is_speech in stretches))
    activity.level_db[:] += np.random.default_rng(seed).uniform(-5, 5, len(activity.level_db))
    duration_s = (len(activity.speech) * 160 - lost_samples) / 16000
    plan = cut_windows(activity, duration_s, max_window_s)
    assert_tiles(plan, duration_s)
    for start_s, end_s in spans(plan):
        assert 0.28 < end_s - start_s <= max_window_s + 1e-9
        assert round(start_s * 100) == pytest.approx(start_s * 100)
        assert activity.speech[round(start_s * 100) : round(end_s * 100)].any()
    kept = np.zeros(len(activity.speech), bool)
    for start_s, end_s in spans(plan) + [skip[:2] for skip in skips(plan) if skip[2] == "too short"]:
        kept[round(start_s * 100) : int(np.ceil(end_s * 100 - 1e-9))] = True
    assert kept[activity.speech].all()


@given(st.integers(0, 60), st.integers(0, 60), st.integers(10_000, 40_000), st.integers(0, 2000))
@settings(max_examples=25, deadline=None)
def test_padding_with_digital_silence_gives_the_same_samples(before: int, after: int, length: int, quiet: int) -> None:
    rng = np.random.default_rng(length)
    voice = rng.standard_normal(length).astype(np.float32) * 0.1
    voice[:quiet] *= 1e-3
    padded = np.concatenate([np.zeros(160 * before, np.float32), voice, np.zeros(160 * after, np.float32)])
    plain_plan = cut_windows(find_speech(voice), len(voice) / 16000)
    padded_plan = cut_windows(find_speech(padded), len(padded) / 16000)
    assert len(plain_plan.windows) == len(padded_plan.windows) == 1
    plain = window_samples(voice, plain_plan.windows[0])
    np.testing.assert_array_equal(plain, window_samples(padded, padded_plan.windows[0]))
    assert len(plain) % 160 == 0


def test_window_samples_fills_the_last_frame_only() -> None:
    samples = np.ones(16_050, np.float32)
    piece = window_samples(samples, Window(0.5, 16_050 / 16_000))
    assert len(piece) == 8160
    assert piece.sum() == 8050
    assert len(window_samples(samples, Window(0.25, 0.5))) == 4000


def test_digital_silence_never_belongs_to_a_margin() -> None:
    activity = activity_of((1.0, False), (1.0, True), level_db=LEVEL_FLOOR_DB)
    assert spans(cut_windows(activity, 2.0)) == [(1.0, 2.0)]
