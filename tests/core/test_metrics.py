from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion import metrics

LABELS = ["anger", "fear", "neutral", "sadness"]
PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=40)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=25, deadline=None)
@given(PAIRS)
def test_class_metrics_equal_scikit_learn(pairs: list[tuple[str, str]]):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    truth, predicted = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert metrics.accuracy(truth, predicted) == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted))
    assert metrics.unweighted_average_recall(truth, predicted) == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(truth, predicted)
    )
    assert metrics.macro_f1(truth, predicted) == pytest.approx(
        sklearn_metrics.f1_score(truth, predicted, average="macro", zero_division=0)
    )
    assert np.array_equal(
        metrics.confusion_matrix(truth, predicted, LABELS),
        sklearn_metrics.confusion_matrix(truth, predicted, labels=LABELS),
    )


def test_no_answer_is_wrong_not_missing():
    truth, predicted = ["anger", "anger", "fear"], ["anger", None, "fear"]
    assert metrics.accuracy(truth, predicted) == pytest.approx(2 / 3)
    assert metrics.unweighted_average_recall(truth, predicted) == 0.75
    assert metrics.confusion_matrix(truth, predicted, ["anger", "fear"]).tolist() == [[1, 0], [0, 1]]
    assert metrics.macro_f1(truth, predicted) == pytest.approx((2 / 3 + 1.0) / 2)
    # The word "None" is a label like any other.
    assert metrics.accuracy(["None"], [None]) == 0.0


def test_integers_and_arrays_count_as_well():
    assert metrics.accuracy(np.array([0, 1, 2]), np.array([0, 1, 1])) == pytest.approx(2 / 3)
    assert metrics.confusion_matrix([0, 1], [1, 1], [0, 1]).tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize("function", [metrics.accuracy, metrics.unweighted_average_recall, metrics.macro_f1])
@pytest.mark.parametrize(("truth", "predicted"), [([], []), (["anger"], []), ([["anger"]], [["anger"]])])
def test_unequal_or_empty_input_is_refused(function, truth, predicted):
    with pytest.raises(ValueError, match="equally long, non-empty"):
        function(truth, predicted)


def test_concordance_is_correlation_scaled_down_by_shift_and_scale():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=500)
    assert metrics.concordance_correlation(truth, truth) == pytest.approx(1.0)
    assert metrics.concordance_correlation(truth, -truth) < -0.98
    shifted = metrics.concordance_correlation(truth, truth + 1.0)
    assert shifted == pytest.approx(2 * truth.var() / (2 * truth.var() + 1.0))
    noisy = truth + rng.normal(size=500)
    pearson = np.corrcoef(truth, noisy)[0, 1]
    expected = (
        2 * pearson * truth.std() * noisy.std() / (truth.var() + noisy.var() + (truth.mean() - noisy.mean()) ** 2)
    )
    assert metrics.concordance_correlation(truth, noisy) == pytest.approx(expected)
    assert np.isnan(metrics.concordance_correlation([1.0, 1.0], [1.0, 1.0]))


def test_calibration_error_by_hand():
    probabilities = [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]
    # Bin of 0.9: half right, gap 0.4; bin of 0.6: all right, gap 0.4.
    assert metrics.expected_calibration_error(probabilities, [0, 1, 1, 1], bins=10) == pytest.approx(0.4)
    assert metrics.expected_calibration_error([[1.0, 0.0], [0.0, 1.0]], [0, 1]) == pytest.approx(0.0)


def test_temperature_flattens_and_is_recovered():
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=2.0, size=(6000, 5))
    chances = metrics.softmax(logits)
    assert chances.sum(axis=1) == pytest.approx(np.ones(6000))
    assert metrics.softmax([1000.0, 0.0]).tolist() == [1.0, 0.0]
    assert metrics.softmax([2.0, 0.0], temperature=4.0)[0] == pytest.approx(1 / (1 + np.exp(-0.5)))
    labels = np.array([rng.choice(5, p=row) for row in chances])
    assert metrics.fit_temperature(3.0 * logits, labels) == pytest.approx(3.0, rel=0.06)
    before = metrics.expected_calibration_error(metrics.softmax(3.0 * logits), labels)
    after = metrics.expected_calibration_error(metrics.softmax(3.0 * logits, 3.0), labels)
    assert after < 0.03 < before
    with pytest.raises(ValueError, match="temperature must be above 0"):
        metrics.softmax([1.0], temperature=0.0)


@pytest.mark.parametrize("labels", [[0], [0, 2], [-1, 0], [0.0, 1.0]])
def test_labels_of_scores_must_be_class_indices(labels):
    with pytest.raises(ValueError, match="indices"):
        metrics.fit_temperature([[0.0, 1.0], [1.0, 0.0]], labels)


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for seed in range(150):
        low, high = metrics.bootstrap_interval(np.mean, rng.normal(size=60), samples=150, seed=seed)
        covered += low < 0.0 < high
    assert 0.88 <= covered / 150 <= 0.99


def test_bootstrap_by_speaker_is_wider_where_a_speakers_clips_are_alike():
    speakers = np.repeat(["a", "b", "c", "d", "e", "f"], 30)
    right = np.repeat([1.0, 1.0, 0.2, 1.0, 0.3, 0.9], 30)
    low, high = metrics.bootstrap_interval(np.mean, right, seed=3)
    wide_low, wide_high = metrics.bootstrap_interval(np.mean, right, groups=speakers, seed=3)
    assert wide_high - wide_low > 2 * (high - low)
    assert metrics.bootstrap_interval(np.mean, right, groups=speakers, seed=3) == (wide_low, wide_high)


def test_bootstrap_resamples_several_arrays_together():
    truth = ["anger", "fear", None, "anger"]
    assert metrics.bootstrap_interval(metrics.accuracy, truth, truth, samples=50) == (1.0, 1.0)
    with pytest.raises(ValueError, match="equally long"):
        metrics.bootstrap_interval(metrics.accuracy, [1, 2], [1])
    with pytest.raises(ValueError, match="one group per row"):
        metrics.bootstrap_interval(np.mean, [1.0, 2.0], groups=["a"])
