"""Progressive trust-aware reasoning reward (GRPO-PTR, EmotionThinker, arXiv 2601.15668): the arithmetic alone.

A group holds the G completions of one prompt. Its reasoning rewards count in full while right answers are reasoned at
least as well as wrong ones; otherwise by `exp(mean right - mean wrong)`. They count for nothing until the answers have
become accurate enough. Where the sources are silent, the choice made here is named and can be changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

FORMAT_WEIGHT, OUTCOME_WEIGHT, REASONING_WEIGHT = 0.3, 1.0, 0.5
# Lowest reasoning reward of a judge that gives 1 to 5 points, and with it the lowest possible trust.
LEAST_REASONING = 0.2


@dataclass(frozen=True)
class TrustRule:
    """How far a group's reasoning rewards count.

    Attributes:
        enabled: False always trusts (the paper's V4).
        empty_group: Trust where all answers of a group are right or all are wrong, so that nothing can be compared:
            `trusted` counts the reasoning in full, `withheld` not at all (as SophiaVL-R1's code does).
        pay_wrong: Whether a wrong answer may earn reasoning reward, as in the paper. Trust is found before it is
            taken away, else the gate could never close.
    """

    enabled: bool = True
    empty_group: Literal["trusted", "withheld"] = "trusted"
    pay_wrong: bool = True


def group_trust(reasoning: Tensor, right: Tensor, empty_group: str = "trusted") -> Tensor:
    """Trust of each group, `(groups,)`, in [0, 1].

    Args:
        reasoning: `(groups, G)` reasoning rewards; NaN where a judge gave none, which then counts on neither side.
        right: bool `(groups, G)`, which answers are right.
        empty_group: See `TrustRule`.
    """
    right_mean = _mean_where(reasoning, right)
    wrong_mean = _mean_where(reasoning, ~right)
    trust = torch.exp((right_mean - wrong_mean).clamp(max=0.0))
    return trust.nan_to_num(nan=1.0 if empty_group == "trusted" else 0.0)


def paid_reasoning(reasoning: Tensor, outcome: Tensor, schedule: float, rule: TrustRule) -> tuple[Tensor, Tensor]:
    """What the reasoning rewards are worth after trust and schedule, and the trust.

    A missing reward becomes the mean of its group: a judge that fails neither rewards nor punishes. A group without any
    reward gets 0 throughout.

    Args:
        reasoning: `(groups, G)`, NaN where missing.
        outcome: `(groups, G)` outcome rewards; an answer is right at 1, a near miss below 1 is wrong.
        schedule: Weight of the progressive schedule, 0..1.
        rule: How trust is found.

    Returns:
        Paid reasoning rewards `(groups, G)` and trust `(groups,)`.
    """
    right = outcome >= 1.0
    trust = group_trust(reasoning, right, rule.empty_group) if rule.enabled else reasoning.new_ones(len(reasoning))
    filled = torch.where(reasoning.isnan(), reasoning.nanmean(dim=1, keepdim=True).nan_to_num(nan=0.0), reasoning)
    if not rule.pay_wrong:
        filled = torch.where(right, filled, 0.0)
    return schedule * trust[:, None] * filled, trust


def total_reward(
    format_: Tensor,
    outcome: Tensor,
    reasoning: Tensor,
    schedule: float = 1.0,
    rule: TrustRule | None = None,
    weights: Sequence[float] = (FORMAT_WEIGHT, OUTCOME_WEIGHT, REASONING_WEIGHT),
) -> Tensor:
    """`a_f R_f + a_o R_o + a_t * schedule * trust * R_t` of groups, all `(groups, G)`."""
    paid, _ = paid_reasoning(reasoning, outcome, schedule, rule or TrustRule())
    return weights[0] * format_ + weights[1] * outcome + weights[2] * paid


class ProgressiveSchedule:
    """Weight of the reasoning reward: 0 until the moving average of accuracy reaches a threshold, then up to 1.

    The paper gives the threshold (about 0.5) and no more. Chosen here: accuracy is that of the policy's own samples,
    one value per generated batch; the average must span a whole window; once on, the reward stays on.

    Args:
        kind: `always` is on from the start (the paper's V5), `switch` jumps to 1, `ramp` grows linearly to 1.
        threshold: Mean accuracy that switches it on, 0..1.
        window: Batches averaged, at least 1.
        ramp: Batches from 0 to 1, at least 1; only for `ramp`.
    """

    def __init__(
        self,
        kind: Literal["always", "switch", "ramp"] = "switch",
        threshold: float = 0.5,
        window: int = 10,
        ramp: int = 20,
    ) -> None:
        if kind not in ("always", "switch", "ramp"):
            raise ValueError(f"kind must be always, switch or ramp, given {kind!r}")
        if window < 1 or ramp < 1:
            raise ValueError(f"window and ramp must be at least 1, given {window} and {ramp}")
        self.kind = kind
        self.threshold = threshold
        self.ramp = ramp
        self._recent: deque[float] = deque(maxlen=window)
        self._batches_on = 0

    @property
    def accuracy(self) -> float:
        """Moving average, NaN before the first batch."""
        return sum(self._recent) / len(self._recent) if self._recent else float("nan")

    def update(self, accuracy: float) -> float:
        """Takes a batch's accuracy and returns the weight that holds for this batch, 0..1."""
        self._recent.append(accuracy)
        full = len(self._recent) == self._recent.maxlen
        if self._batches_on or self.kind == "always" or (full and self.accuracy >= self.threshold):
            self._batches_on += 1
        return self.weight

    @property
    def weight(self) -> float:
        """The weight after the last update."""
        if self.kind == "ramp":
            return min(1.0, self._batches_on / self.ramp)
        return float(self.kind == "always" or self._batches_on > 0)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"recent": list(self._recent), "batches_on": self._batches_on}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state`."""
        self._recent.clear()
        self._recent.extend(float(value) for value in state["recent"])
        self._batches_on = int(state["batches_on"])


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the second dimension where `mask` holds and the value is no NaN; NaN where there is none."""
    counted = mask & ~values.isnan()
    return torch.where(counted, values, 0.0).sum(dim=1) / counted.sum(dim=1)
