"""What an analysis found: the emotion, how sure, why, whether the why is true, and which seconds were listened to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from edge_emotion.claims import CheckedClaim, Claim
from edge_emotion.prosody import Measure
from edge_emotion.windows import Skipped

SCHEMA_VERSION = 1

# Probabilities are written with 4 decimals, so a distribution read back may be off by half of that per label.
_SUM_TOLERANCE = 5e-3
_TIME_TOLERANCE_S = 1e-6
# Shares that were added up in floating point may exceed 1 by this.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Coverage:
    """Which parts of the recording were analysed, and which were not and why; together they are the whole recording."""

    analysed: tuple[tuple[float, float], ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, kw_only=True)
class WindowResult:
    """What was found in one window. `claims` point into `reasoning`; distributions sum to 1 or are empty."""

    start_s: float
    end_s: float
    label: str
    distribution: Mapping[str, float]
    head_distribution: Mapping[str, float]
    reasoning: str
    claims: tuple[CheckedClaim, ...]

    def __post_init__(self) -> None:
        where = f"window {self.start_s:.3f}-{self.end_s:.3f} s"
        if not self.start_s < self.end_s:
            raise ValueError(f"{where}: must start before it ends")
        _check_distribution(f"{where}: distribution", self.distribution)
        _check_distribution(f"{where}: head_distribution", self.head_distribution)
        _check_label(where, self.label, self.distribution)


@dataclass(frozen=True, kw_only=True)
class EmotionResult:
    """The answer for one recording.

    Attributes:
        source: Path or name of the recording.
        duration_s: Its length.
        label: The emotion, or None where nothing could be analysed.
        distribution: Calibrated probability of each label; sums to 1, empty without a label.
        confidence: Probability of `label`, 0..1.
        uncertain: True where the answer should not be relied on; `uncertain_reasons` says why.
        head_distribution: The same from the encoder's head, the fast answer; empty where it did not run.
        agreement: Whether head and language model chose the same label; None where only one of them ran.
        reasoning: The language model's explanation; `claims` point into it by character.
        claims: Its acoustic statements, each compared with what was measured.
        faithfulness: Share of checkable claims that are supported, 0..1; None where there is none.
        evidence: Measures of the voice, with unit, time span and reliability.
        windows: One result per analysed window.
        coverage: What was analysed and what was not.
        timing_s: Seconds per stage.
        runtime: What really ran where, and every fallback.
        bundle: `name`, `version` and `sha256` (of the manifest) of the bundle.
        warnings: What was unusual about the recording or the run.
    """

    source: str
    duration_s: float
    label: str | None
    distribution: Mapping[str, float]
    confidence: float
    uncertain: bool
    uncertain_reasons: tuple[str, ...]
    head_distribution: Mapping[str, float]
    agreement: bool | None
    reasoning: str
    claims: tuple[CheckedClaim, ...]
    faithfulness: float | None
    evidence: tuple[Measure, ...]
    windows: tuple[WindowResult, ...]
    coverage: Coverage
    timing_s: Mapping[str, float]
    runtime: Mapping[str, Any]
    bundle: Mapping[str, str]
    warnings: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _check_distribution("distribution", self.distribution)
        _check_distribution("head_distribution", self.head_distribution)
        _check_label("result", self.label, self.distribution)
        if not -_ROUNDING <= self.confidence <= 1.0 + _ROUNDING:
            raise ValueError(f"confidence must be from 0 to 1, given {self.confidence}")
        if self.faithfulness is not None and not 0.0 <= self.faithfulness <= 1.0:
            raise ValueError(f"faithfulness must be from 0 to 1 or None, given {self.faithfulness}")
        if self.uncertain != bool(self.uncertain_reasons):
            raise ValueError(f"uncertain is {self.uncertain}, but uncertain_reasons are {self.uncertain_reasons}")
        if self.label is None and not self.uncertain:
            raise ValueError("a result without a label must be uncertain and say why")
        _check_coverage(self.coverage, self.duration_s)

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON: times with 3 decimals, probabilities with 4, measured values with 6 digits."""
        return {
            "schema_version": self.schema_version,
            "source": self.source,
            "duration_s": _time(self.duration_s),
            "label": self.label,
            "distribution": _probabilities(self.distribution),
            "confidence": round(float(self.confidence), 4),
            "uncertain": self.uncertain,
            "uncertain_reasons": list(self.uncertain_reasons),
            "head_distribution": _probabilities(self.head_distribution),
            "agreement": self.agreement,
            "reasoning": self.reasoning,
            "claims": [_claim_to_dict(claim) for claim in self.claims],
            "faithfulness": None if self.faithfulness is None else round(float(self.faithfulness), 4),
            "evidence": [_measure_to_dict(measure) for measure in self.evidence],
            "windows": [_window_to_dict(window) for window in self.windows],
            "coverage": {
                "analysed": [[_time(start_s), _time(end_s)] for start_s, end_s in self.coverage.analysed],
                "skipped": [
                    {"start_s": _time(skip.start_s), "end_s": _time(skip.end_s), "reason": skip.reason}
                    for skip in self.coverage.skipped
                ],
            },
            "timing_s": {stage: _time(seconds) for stage, seconds in self.timing_s.items()},
            "runtime": dict(self.runtime),
            "bundle": dict(self.bundle),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EmotionResult:
        """Inverse of `to_dict`, up to its rounding.

        Raises:
            ValueError: The result is of a newer schema, or something in it is missing, unknown or impossible.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"a result is an object, given {type(data).__name__}")
        if data.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(
                f"the result has schema_version {data.get('schema_version')!r:.60}, this edge-emotion reads "
                f"{SCHEMA_VERSION}; upgrade edge-emotion, or analyse the recording again"
            )
        _check_keys("result", data, [field.name for field in fields(cls)])
        try:
            result = cls(**{key: _READERS.get(key, _same)(value) for key, value in data.items()})
            result.to_dict()
            return result
        except (TypeError, AttributeError, KeyError, OverflowError) as error:
            raise ValueError(f"the result is not valid: {error}") from None


def _check_distribution(name: str, distribution: Mapping[str, float]) -> None:
    if not distribution:
        return
    if not all(-_ROUNDING <= share <= 1.0 + _ROUNDING for share in distribution.values()):
        raise ValueError(f"{name}: probabilities must be from 0 to 1, given {dict(distribution)}")
    if abs(sum(distribution.values()) - 1.0) > _SUM_TOLERANCE:
        raise ValueError(f"{name}: must sum to 1, sums to {sum(distribution.values()):.6g}")


def _check_label(where: str, label: str | None, distribution: Mapping[str, float]) -> None:
    if label is None and distribution:
        raise ValueError(f"{where}: a distribution without a label")
    if label is not None and label not in distribution:
        raise ValueError(f"{where}: label {label!r} is not in the distribution of {list(distribution)}")


def _check_coverage(coverage: Coverage, duration_s: float) -> None:
    spans = sorted([*coverage.analysed, *((skip.start_s, skip.end_s) for skip in coverage.skipped)])
    position_s = 0.0
    for start_s, end_s in [*spans, (duration_s, duration_s)]:
        if not abs(start_s - position_s) <= _TIME_TOLERANCE_S or not end_s >= start_s:
            raise ValueError(
                f"coverage must add up to the whole recording of {duration_s:.3f} s without gap or overlap; "
                f"it goes wrong between {position_s:.3f} s and {start_s:.3f} s"
            )
        position_s = end_s


def _check_keys(where: str, data: Mapping[str, Any], keys: Iterable[str]) -> None:
    expected = set(keys)
    if missing := sorted(expected - set(data)):
        raise ValueError(f"{where}: missing {', '.join(missing)}")
    if unknown := sorted(str(key) for key in set(data) - expected):
        raise ValueError(f"{where}: unknown {', '.join(unknown)}")


def _time(seconds: float) -> float:
    return round(float(seconds), 3)


def _probabilities(distribution: Mapping[str, float]) -> dict[str, float]:
    return {label: round(float(share), 4) for label, share in distribution.items()}


def _measured(value: float | None) -> float | None:
    if value is None:
        return None
    if not math.isfinite(value):
        raise ValueError(f"a measured value must be a finite number or None, given {value}")
    return float(f"{value:.6g}")


def _claim_to_dict(checked: CheckedClaim) -> dict[str, Any]:
    claim = checked.claim
    return {
        "text": claim.text,
        "start": claim.start,
        "end": claim.end,
        "cue": claim.cue,
        "level": claim.level,
        "verdict": checked.verdict,
        "measured_value": _measured(checked.measured_value),
        "measured_level": checked.measured_level,
        "unit": checked.unit,
        "reason": checked.reason,
    }


def _claim_from_dict(data: Mapping[str, Any]) -> CheckedClaim:
    claim_keys = ("cue", "level", "start", "end", "text")
    checked_keys = ("verdict", "measured_value", "measured_level", "unit", "reason")
    _check_keys("claim", data, claim_keys + checked_keys)
    if data["verdict"] not in ("supported", "contradicted", "not measurable"):
        raise ValueError(f"claim: unknown verdict {data['verdict']!r}")
    return CheckedClaim(Claim(**{key: data[key] for key in claim_keys}), **{key: data[key] for key in checked_keys})


def _measure_to_dict(measure: Measure) -> dict[str, Any]:
    return {
        "name": measure.name,
        "value": _measured(measure.value),
        "unit": measure.unit,
        "start_s": _time(measure.start_s),
        "end_s": _time(measure.end_s),
        "reliability": round(float(measure.reliability), 4),
        "reason": measure.reason,
    }


def _measure_from_dict(data: Mapping[str, Any]) -> Measure:
    _check_keys("measure", data, ("name", "value", "unit", "start_s", "end_s", "reliability", "reason"))
    return Measure(**data)


def _window_to_dict(window: WindowResult) -> dict[str, Any]:
    return {
        "start_s": _time(window.start_s),
        "end_s": _time(window.end_s),
        "label": window.label,
        "distribution": _probabilities(window.distribution),
        "head_distribution": _probabilities(window.head_distribution),
        "reasoning": window.reasoning,
        "claims": [_claim_to_dict(claim) for claim in window.claims],
    }


def _window_from_dict(data: Mapping[str, Any]) -> WindowResult:
    _check_keys("window", data, [field.name for field in fields(WindowResult)])
    return WindowResult(**{**data, "claims": _claims_from_list(data["claims"])})


def _coverage_from_dict(data: Mapping[str, Any]) -> Coverage:
    _check_keys("coverage", data, ("analysed", "skipped"))
    for skip in data["skipped"]:
        _check_keys("skipped", skip, ("start_s", "end_s", "reason"))
    analysed = tuple((float(start_s), float(end_s)) for start_s, end_s in data["analysed"])
    return Coverage(analysed, tuple(Skipped(**skip) for skip in data["skipped"]))


def _claims_from_list(claims: Sequence[Mapping[str, Any]]) -> tuple[CheckedClaim, ...]:
    return tuple(_claim_from_dict(claim) for claim in claims)


def _texts(texts: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"expected a list of texts, given {texts!r:.60}")
    return tuple(texts)


def _same(value: Any) -> Any:
    return value


_READERS = {
    "uncertain_reasons": _texts,
    "warnings": _texts,
    "claims": _claims_from_list,
    "evidence": lambda measures: tuple(_measure_from_dict(measure) for measure in measures),
    "windows": lambda windows: tuple(_window_from_dict(window) for window in windows),
    "coverage": _coverage_from_dict,
}
