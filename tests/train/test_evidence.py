"""The closed-form heads against scikit-learn, and that nobody's evidence comes from heads that know him."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from edge_emotion.cues import CUE_BY_NAME, Thresholds, distance_outside
from edge_emotion_train.evidence import (
    EMOTION_SHARPNESS,
    assign_folds,
    fit_evidence,
    fit_thresholds,
    out_of_fold_evidence,
    position_matrix,
    residual_deviation,
    support_probability,
)
from edge_emotion_train.explanations import value_at
from edge_emotion_train.features import FeatureRow

LABELS = ("anger", "fear", "neutral")
CUES = ("pitch", "rate", "tone")
CUE_PENALTY, EMOTION_PENALTY = 0.3, 0.8
RowMaker = Callable[..., FeatureRow]


def random_rows(make_row: RowMaker, count: int = 48, features: int = 70) -> tuple[np.ndarray, list[FeatureRow]]:
    """Rows of 8 speakers, unequal emotions, some cues missing, and some rows of another corpus."""
    rng = np.random.default_rng(0)
    statistics = (rng.normal(size=(count, features)) * rng.uniform(0.1, 9, features) + 4).astype(np.float32)
    rows = []
    for i in range(count):
        positions = {name: float(rng.normal(3.0, 2.0)) for k, name in enumerate(CUES) if (i + k) % (5 + k) or k == 0}
        emotion = LABELS[0] if i % 2 else LABELS[i % 3]
        corpus = "synthetic" if i % 7 == 6 else "emodb"
        speaker = f"speaker {i % 8}" if corpus == "emodb" else f"voice {i % 3}"
        rows.append(make_row(speaker, emotion, positions, corpus=corpus))
    return statistics, rows


@pytest.mark.parametrize("features", [12, 70])
def test_dual_ridge_equals_primal_ridge(make_row: RowMaker, features: int) -> None:
    statistics, rows = random_rows(make_row, features=features)
    fit = fit_evidence(statistics, rows, CUES, LABELS, CUE_PENALTY, EMOTION_PENALTY)
    cue_values, emotion_logits = fit.predict(statistics)
    # The kernel is divided by the number of features; so are the features of the primal problem.
    scaled = (statistics - statistics.mean(axis=0)) / statistics.std(axis=0) / np.sqrt(features)
    for column, name in enumerate(CUES):
        measured = [i for i, row in enumerate(rows) if name in row.positions]
        targets = np.array([rows[i].positions[name] for i in measured])
        ridge = Ridge(CUE_PENALTY).fit(scaled[measured], (targets - targets.mean()) / targets.std())
        np.testing.assert_allclose(cue_values[:, column], ridge.predict(scaled), atol=1e-4)
    spoken = [i for i, row in enumerate(rows) if row.corpus == "emodb"]
    emotions = np.array([LABELS.index(str(rows[i].emotion)) for i in spoken])
    weights = 1.0 / np.bincount(emotions)[emotions]
    ridge = Ridge(EMOTION_PENALTY).fit(
        scaled[spoken], EMOTION_SHARPNESS * np.eye(3)[emotions], sample_weight=weights / weights.mean()
    )
    np.testing.assert_allclose(emotion_logits, ridge.predict(scaled), atol=1e-3)


def test_module_predicts_what_the_fit_predicts(make_row: RowMaker) -> None:
    statistics, rows = random_rows(make_row)
    fit = fit_evidence(statistics, rows, CUES, LABELS, CUE_PENALTY, EMOTION_PENALTY)
    with torch.inference_mode():
        outputs = fit.module()(torch.from_numpy(statistics))
    for ours, expected in zip(outputs, fit.predict(statistics), strict=True):
        np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4)


def test_a_label_without_clips_is_named(make_row: RowMaker) -> None:
    statistics, rows = random_rows(make_row)
    with pytest.raises(ValueError, match="no training clip for boredom"):
        fit_evidence(statistics, rows, CUES, (*LABELS, "boredom"), CUE_PENALTY, EMOTION_PENALTY)


def out_of_fold(statistics: np.ndarray, rows: list[FeatureRow]) -> tuple[np.ndarray, np.ndarray]:
    """Out-of-fold positions on the cues' own scales, and emotion logits."""
    values, logits = out_of_fold_evidence(statistics, rows, CUES, LABELS, CUE_PENALTY, EMOTION_PENALTY)
    positions = position_matrix(rows, CUES)
    return values * np.nanstd(positions, axis=0) + np.nanmean(positions, axis=0), logits


def test_evidence_of_a_speaker_does_not_hang_on_his_own_labels(make_row: RowMaker) -> None:
    statistics, rows = random_rows(make_row)
    changed = [
        make_row(row.speaker, "fear", dict.fromkeys(row.positions, 40.0)) if row.speaker == "speaker 2" else row
        for row in rows
    ]
    own = np.array([row.speaker == "speaker 2" for row in rows])
    for before, after in zip(out_of_fold(statistics, rows), out_of_fold(statistics, changed), strict=True):
        np.testing.assert_allclose(before[own], after[own], atol=1e-6)
        assert np.abs(before[~own] - after[~own]).max() > 0.1


def test_a_signal_that_only_names_the_speaker_is_of_no_use(make_row: RowMaker) -> None:
    """Every speaker has a pitch and one favourite emotion of his own, and features that say nothing but who speaks."""
    rng = np.random.default_rng(3)
    speakers, clips = 12, 8
    pitch = rng.permutation(np.linspace(-6, 6, speakers))
    favourite = rng.permutation(speakers) % 3
    statistics = np.repeat(np.eye(speakers), clips, axis=0) + rng.normal(size=(speakers * clips, speakers)) * 0.01
    rows = [
        make_row(
            f"speaker {s}", LABELS[favourite[s]] if c < 7 else LABELS[c % 3], {"pitch": pitch[s], "rate": pitch[s]}
        )
        for s in range(speakers)
        for c in range(clips)
    ]
    truth = position_matrix(rows, ("pitch",))[:, 0]
    emotions = np.array([LABELS.index(str(row.emotion)) for row in rows])
    penalties = (0.01, 0.01)
    fit = fit_evidence(statistics, rows, ("pitch", "rate"), LABELS, *penalties)
    seen, seen_logits = fit.predict(statistics)
    values, logits = out_of_fold_evidence(statistics, rows, ("pitch", "rate"), LABELS, *penalties, folds=12)

    def explained(predicted: np.ndarray) -> float:
        return 1 - float(np.mean((predicted * truth.std() + truth.mean() - truth) ** 2) / truth.var())

    assert explained(seen[:, 0]) > 0.95
    assert explained(values[:, 0]) < 0.05
    assert (seen_logits.argmax(axis=1) == emotions).mean() > 0.8
    assert (logits.argmax(axis=1) == emotions).mean() < 0.5


def test_out_of_fold_evidence_generalises_what_all_speakers_share(make_row: RowMaker) -> None:
    rng = np.random.default_rng(4)
    statistics = rng.normal(size=(80, 6))
    rows = [
        make_row(f"speaker {i % 8}", LABELS[int(np.argmax(statistics[i, :3]))], {"pitch": statistics[i, 3] * 4})
        for i in range(80)
    ]
    values, logits = out_of_fold_evidence(statistics, rows, ("pitch",), LABELS, 0.01, 0.01)
    truth = position_matrix(rows, ("pitch",))[:, 0]
    assert np.corrcoef(values[:, 0], truth)[0, 1] > 0.95
    assert residual_deviation(values * truth.std() + truth.mean(), truth[:, None])[0] < 0.3 * truth.std()
    assert np.mean([LABELS[k] == row.emotion for k, row in zip(logits.argmax(axis=1), rows, strict=True)]) > 0.75


def test_residual_deviation_leaves_out_what_was_not_measured() -> None:
    measured = np.array([[2.0, 10.0], [4.0, np.nan], [6.0, 30.0]])
    heard = np.array([[3.0, 12.0], [3.0, 99.0], [6.0, 26.0]])
    expected = [np.sqrt((1 + 1 + 0) / 3), np.sqrt((4 + 16) / 2)]
    np.testing.assert_allclose(residual_deviation(heard, measured), expected)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), min_size=1, max_size=60), st.integers(2, 8))
def test_folds_keep_speakers_whole_and_spread_each_corpus(speakers: list[tuple[str, int]], folds: int) -> None:
    rows = [FeatureRow("", corpus, str(speaker), None, None, 0, 1.0, {}) for corpus, speaker in speakers]
    numbers = assign_folds(rows, folds)
    assert ((numbers >= 0) & (numbers < folds)).all()
    for pair in set(speakers):
        assert len({n for n, other in zip(numbers.tolist(), speakers, strict=True) if other == pair}) == 1
    for corpus in "ab":
        fold_of = {pair: int(n) for n, pair in zip(numbers, speakers, strict=True) if pair[0] == corpus}
        sizes = [list(fold_of.values()).count(fold) for fold in range(folds)]
        assert max(sizes) - min(sizes) <= 1


def test_thresholds_lie_at_quantiles_of_the_recordings(make_row: RowMaker) -> None:
    rng = np.random.default_rng(5)
    positions = rng.normal(size=1_000)
    rows = [make_row(positions={"pitch": p, "tone": p}) for p in positions]
    variants = [make_row(positions={"pitch": 50.0, "tone": 50.0}, variant=1) for _ in range(500)]
    silent = [make_row(positions={"pitch": p}) for p in positions[:10]]
    thresholds = fit_thresholds(rows + variants + silent, ("pitch", "tone"), "a test")
    assert thresholds.source == "a test"
    pitch = [CUE_BY_NAME["pitch"].position(cut) for cut in thresholds.cuts["pitch"]]
    for name, cuts in (("pitch", pitch), ("tone", thresholds.cuts["tone"])):
        shares = np.diff([0.0, *(np.mean(positions < cut) for cut in cuts), 1.0])
        np.testing.assert_allclose(shares, 1 / len(CUE_BY_NAME[name].levels), atol=0.02)


@pytest.mark.parametrize(
    ("name", "place", "position", "deviation"),
    [
        ("tone", 0, -1.4, 1.1),
        ("tone", 1, 0.9, 0.7),
        ("tone", -1, -3.0, 2.0),
        ("pitch", 0, 5.0, 2.0),
        ("pitch", 2, 8.0, 1.5),
        ("pitch", -1, 15.0, 0.2),
    ],
)
def test_support_probability_is_how_often_the_claim_holds(
    name: str, place: int, position: float, deviation: float
) -> None:
    cue, low, high = CUE_BY_NAME[name], *{"tone": (-1.0, 1.5), "pitch": (120.0, 220.0)}[name]
    thresholds = Thresholds({name: tuple(np.linspace(low, high, len(cue.levels) - 1).tolist())}, "a test")
    level = cue.levels[place]
    true = np.random.default_rng(6).normal(position, deviation, 8_000)
    held = np.mean(
        [distance_outside(cue, level, value_at(name, p), thresholds) <= cue.uncertainty for p in true.tolist()]
    )
    assert support_probability(cue, level, position, deviation, thresholds) == pytest.approx(held, abs=0.02)
