"""Trust, schedule and total reward against worked examples and against what must hold of any group."""

from __future__ import annotations

import math
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edge_emotion_train.reinforcement.ptr import (
    LEAST_REASONING,
    ProgressiveSchedule,
    TrustRule,
    group_trust,
    paid_reasoning,
    total_reward,
)

NAN = math.nan


@pytest.mark.parametrize(
    ("reasoning", "right", "expected"),
    [
        pytest.param([0.8, 0.6, 0.4, 0.4], [1, 1, 0, 0], 1.0, id="right answers are reasoned better"),
        pytest.param([0.5, 0.5, 0.5, 0.5], [1, 1, 0, 0], 1.0, id="equally well"),
        pytest.param([0.4, 0.4, 0.8, 0.6], [1, 1, 0, 0], math.exp(-0.3), id="worse by 0.3"),
        pytest.param([0.2, 1.0, 1.0, 1.0], [1, 0, 0, 0], math.exp(-0.8), id="the lowest there is"),
        pytest.param([0.9, 0.3, 0.6, 0.6], [1, 1, 1, 0], 1.0, id="means, not maxima"),
        pytest.param([0.2, NAN, 0.6, NAN], [1, 1, 0, 0], math.exp(-0.4), id="missing rewards count on neither side"),
    ],
)
def test_trust_of_worked_examples(reasoning: list[float], right: list[int], expected: float) -> None:
    trust = group_trust(torch.tensor([reasoning]), torch.tensor([right]).bool())
    assert trust.tolist() == pytest.approx([expected], abs=1e-6)


@pytest.mark.parametrize("right", [[1, 1, 1], [0, 0, 0]])
def test_groups_without_a_comparison_are_trusted_or_withheld(right: list[int]) -> None:
    arguments = torch.tensor([[0.2, 0.6, 1.0]]), torch.tensor([right]).bool()
    assert group_trust(*arguments).item() == 1.0
    assert group_trust(*arguments, "withheld").item() == 0.0
    only_wrong_are_judged = torch.tensor([[NAN, 0.6, 1.0]]), torch.tensor([[1, 0, 0]]).bool()
    assert group_trust(*only_wrong_are_judged, "withheld").item() == 0.0


def test_groups_do_not_touch_each_other() -> None:
    reasoning = torch.tensor([[0.4, 0.8], [0.8, 0.4], [0.3, 0.9]])
    right = torch.tensor([[1, 0], [1, 0], [1, 1]]).bool()
    assert group_trust(reasoning, right).tolist() == pytest.approx([math.exp(-0.4), 1.0, 1.0])


def test_total_of_a_worked_example() -> None:
    """Two right answers reasoned at 0.4, two wrong ones at 0.6: trust exp(-0.2), weights 0.3, 1.0 and 0.5."""
    format_ = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    outcome = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    reasoning = torch.tensor([[0.4, 0.4, 0.6, 0.6]])
    paid = 0.5 * math.exp(-0.2)
    expected = [1.3 + paid * 0.4, 1.3 + paid * 0.4, 0.3 + paid * 0.6, paid * 0.6]
    assert total_reward(format_, outcome, reasoning).tolist()[0] == pytest.approx(expected)
    half = total_reward(format_, outcome, reasoning, schedule=0.5).tolist()[0]
    assert half[3] == pytest.approx(0.5 * paid * 0.6)
    off = total_reward(format_, outcome, reasoning, schedule=0.0).tolist()[0]
    assert off == pytest.approx([1.3, 1.3, 0.3, 0.0])


def test_variants() -> None:
    outcome = torch.tensor([[1.0, 0.0, 0.5, 0.0]])
    reasoning = torch.tensor([[0.4, 0.8, 0.8, 0.8]])
    trust = math.exp(-0.4)
    paid, found = paid_reasoning(reasoning, outcome, 1.0, TrustRule())
    assert found.item() == pytest.approx(trust)
    assert paid.tolist()[0] == pytest.approx([0.4 * trust, *[0.8 * trust] * 3])
    paid, found = paid_reasoning(reasoning, outcome, 1.0, TrustRule(enabled=False))
    assert (found.item(), paid.tolist()[0]) == (1.0, pytest.approx(reasoning.tolist()[0]))
    # The gate still closes although the wrong answers, a near miss among them, are then paid nothing.
    paid, found = paid_reasoning(reasoning, outcome, 1.0, TrustRule(pay_wrong=False))
    assert found.item() == pytest.approx(trust)
    assert paid.tolist()[0] == pytest.approx([0.4 * trust, 0.0, 0.0, 0.0])


def test_a_missing_reward_becomes_the_mean_of_its_group() -> None:
    reasoning = torch.tensor([[0.4, 0.8, NAN, 0.6], [NAN, NAN, NAN, NAN]])
    outcome = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
    paid, trust = paid_reasoning(reasoning, outcome, 1.0, TrustRule())
    assert paid[0].tolist() == pytest.approx([0.4, 0.8, 0.6, 0.6])
    assert paid[1].tolist() == [0.0] * 4
    assert trust.tolist() == [1.0, 1.0]


@st.composite
def groups(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    size = draw(st.integers(2, 8))
    count = draw(st.integers(1, 3))
    points = st.floats(LEAST_REASONING, 1.0)
    reasoning = draw(st.lists(st.lists(points, min_size=size, max_size=size), min_size=count, max_size=count))
    right = draw(st.lists(st.lists(st.booleans(), min_size=size, max_size=size), min_size=count, max_size=count))
    return torch.tensor(reasoning), torch.tensor(right)


@settings(deadline=None)
@given(groups())
def test_trust_lies_between_its_bounds(group: tuple[Tensor, Tensor]) -> None:
    trust = group_trust(*group)
    assert bool((trust <= 1.0).all())
    assert bool((trust >= math.exp(-(1.0 - LEAST_REASONING)) - 1e-6).all())


@settings(deadline=None)
@given(groups(), st.randoms())
def test_the_order_within_a_group_does_not_matter(group: tuple[Tensor, Tensor], random: Random) -> None:
    reasoning, right = group
    order = list(range(reasoning.shape[1]))
    random.shuffle(order)
    torch.testing.assert_close(group_trust(reasoning[:, order], right[:, order]), group_trust(reasoning, right))
    totals = total_reward(torch.ones_like(reasoning), right.float(), reasoning)
    shuffled = total_reward(torch.ones_like(reasoning), right[:, order].float(), reasoning[:, order])
    torch.testing.assert_close(shuffled, totals[:, order])


@settings(deadline=None)
@given(groups(), st.floats(0.0, 0.5))
def test_trust_grows_with_right_reasoning_and_falls_with_wrong(group: tuple[Tensor, Tensor], more: float) -> None:
    reasoning, right = group
    trust = group_trust(reasoning, right)
    assert bool((group_trust(reasoning + more * right, right) >= trust - 1e-6).all())
    assert bool((group_trust(reasoning + more * ~right, right) <= trust + 1e-6).all())


@settings(deadline=None)
@given(groups(), st.floats(0.0, 1.0))
def test_a_right_answer_always_beats_a_wrong_one(group: tuple[Tensor, Tensor], schedule: float) -> None:
    """At the paper's weights no reasoning makes up for a wrong answer, whatever trust and schedule."""
    reasoning, right = group
    totals = total_reward(torch.ones_like(reasoning), right.float(), reasoning, schedule)
    for row, answers in zip(totals, right, strict=True):
        if answers.any() and not answers.all():
            assert row[answers].min() > row[~answers].max()


def test_the_switch_waits_for_a_full_window_above_the_threshold() -> None:
    schedule = ProgressiveSchedule("switch", threshold=0.5, window=3)
    weights = [schedule.update(accuracy) for accuracy in (1.0, 1.0, 0.0, 0.0, 0.4, 0.8, 0.4, 0.0, 0.0)]
    #                             averages of three:  -    -    .67 ...
    assert weights == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]  # once on it stays on
    slow = ProgressiveSchedule("switch", threshold=0.5, window=3)
    assert [slow.update(accuracy) for accuracy in (0.0, 0.6, 0.6, 0.2, 0.8)] == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert slow.accuracy == pytest.approx(1.6 / 3)


def test_the_ramp_grows_linearly_from_the_switch() -> None:
    schedule = ProgressiveSchedule("ramp", threshold=0.5, window=2, ramp=4)
    weights = [schedule.update(accuracy) for accuracy in (0.0, 0.4, 0.7, 0.1, 0.0, 0.0, 0.0)]
    assert weights == pytest.approx([0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0])


def test_always_is_on_from_the_first_batch() -> None:
    schedule = ProgressiveSchedule("always")
    assert (schedule.weight, schedule.update(0.0)) == (1.0, 1.0)


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 1.0), max_size=12), st.lists(st.floats(0.0, 1.0), max_size=12))
def test_a_restored_schedule_goes_on_as_if_never_stopped(before: list[float], after: list[float]) -> None:
    whole, first, second = (ProgressiveSchedule("ramp", 0.6, window=4, ramp=5) for _ in range(3))
    for accuracy in before:
        assert whole.update(accuracy) == first.update(accuracy)
    second.restore(first.state())
    assert [second.update(accuracy) for accuracy in after] == [whole.update(accuracy) for accuracy in after]


@pytest.mark.parametrize("wrong", [{"kind": "sometimes"}, {"window": 0}, {"ramp": 0}])
def test_impossible_schedules_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        ProgressiveSchedule(**wrong)
