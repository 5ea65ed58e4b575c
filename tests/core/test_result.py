from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion.claims import CheckedClaim, Claim
from edge_emotion.prosody import Measure
from edge_emotion.result import Coverage, EmotionResult, WindowResult
from edge_emotion.windows import Skipped

CLAIM = CheckedClaim(
    Claim("pitch", "high", 4, 14, "high pitch"), "supported", 231.4567891, "high", "Hz", "231 Hz is high"
)
WINDOW = WindowResult(
    start_s=0.2,
    end_s=2.9,
    label="anger",
    distribution={"anger": 0.7, "fear": 0.3},
    head_distribution={"anger": 0.6, "fear": 0.4},
    reasoning="The high pitch.",
    claims=(CLAIM,),
)
RESULT = EmotionResult(
    source="clip.wav",
    duration_s=3.0,
    label="anger",
    distribution={"anger": 2 / 3, "fear": 1 / 3},
    confidence=2 / 3,
    uncertain=False,
    uncertain_reasons=(),
    head_distribution={"anger": 0.6, "fear": 0.4},
    agreement=True,
    reasoning="The high pitch.",
    claims=(CLAIM,),
    faithfulness=1.0,
    evidence=(Measure("f0_median_hz", 231.4567891, "Hz", 0.2, 2.9, 0.98765, None),),
    windows=(WINDOW,),
    coverage=Coverage(((0.2, 2.9),), (Skipped(0.0, 0.2, "no speech"), Skipped(2.9, 3.0, "no speech"))),
    timing_s={"encoder": 0.0212345},
    runtime={"encoder": {"providers": ["CPUExecutionProvider"], "fallbacks": []}},
    bundle={"name": "nano", "version": "0.1.0", "sha256": "0" * 64},
    warnings=("clipped: 1 %",),
)
NOTHING = replace(
    RESULT,
    label=None,
    distribution={},
    head_distribution={},
    confidence=0.0,
    uncertain=True,
    uncertain_reasons=("no speech",),
    agreement=None,
    faithfulness=None,
    claims=(),
    windows=(),
    coverage=Coverage((), (Skipped(0.0, 3.0, "no speech"),)),
)


def test_json_is_rounded_and_complete() -> None:
    data = RESULT.to_dict()
    assert data["schema_version"] == 1
    assert data["distribution"] == {"anger": 0.6667, "fear": 0.3333}
    assert data["timing_s"] == {"encoder": 0.021}
    assert data["claims"][0] == {
        "text": "high pitch",
        "start": 4,
        "end": 14,
        "cue": "pitch",
        "level": "high",
        "verdict": "supported",
        "measured_value": 231.457,
        "measured_level": "high",
        "unit": "Hz",
        "reason": "231 Hz is high",
    }
    assert data["evidence"][0]["value"] == 231.457
    assert data["evidence"][0]["reliability"] == 0.9877
    assert data["coverage"]["skipped"][0] == {"start_s": 0.0, "end_s": 0.2, "reason": "no speech"}
    assert set(data) == set(EmotionResult.__dataclass_fields__)


@pytest.mark.parametrize("result", [RESULT, NOTHING])
def test_round_trip_through_json(result: EmotionResult) -> None:
    text = json.dumps(result.to_dict(), allow_nan=False)
    again = EmotionResult.from_dict(json.loads(text))
    assert again.to_dict() == json.loads(text)
    assert again.coverage == result.coverage
    assert EmotionResult.from_dict(again.to_dict()) == again


def test_result_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        RESULT.label = "fear"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distribution": {"anger": 0.7, "fear": 0.2}}, "distribution: must sum to 1, sums to 0.9"),
        ({"head_distribution": {"anger": 1.2, "fear": -0.2}}, "head_distribution: probabilities must be from 0 to 1"),
        ({"distribution": {"anger": float("nan"), "fear": 0.5}}, "probabilities must be from 0 to 1"),
        ({"label": "joy"}, "label 'joy' is not in the distribution"),
        ({"label": None}, "a distribution without a label"),
        ({"confidence": 1.5}, "confidence must be"),
        ({"faithfulness": -0.1}, "faithfulness must be"),
        ({"uncertain": True}, "uncertain is True, but uncertain_reasons are"),
        ({"uncertain_reasons": ("low",)}, "uncertain is False, but uncertain_reasons are"),
        ({"duration_s": 3.1}, "coverage must add up .* between 3.000 s and 3.100 s"),
        ({"duration_s": 2.0}, "coverage must add up"),
        ({"duration_s": float("nan")}, "coverage must add up"),
        ({"coverage": Coverage(((0.0, 3.5), (3.5, 3.0)), ())}, "without gap or overlap"),
        ({"coverage": Coverage(((0.2, 3.0),), ())}, "between 0.000 s and 0.200 s"),
        ({"coverage": Coverage(((0.0, 2.0), (1.9, 3.0)), ())}, "without gap or overlap"),
    ],
)
def test_impossible_results_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RESULT, **changes)


def test_shares_added_up_in_floating_point_are_accepted() -> None:
    added_up = replace(RESULT, distribution={"anger": 1.0 + 2e-16, "fear": -1e-17}, confidence=1.0 + 2e-16)
    assert added_up.distribution["fear"] == -1e-17


def test_nothing_found_must_say_why() -> None:
    with pytest.raises(ValueError, match="must be uncertain and say why"):
        replace(NOTHING, uncertain=False, uncertain_reasons=())


def test_impossible_windows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"window 2.900-2.900 s: must start before it ends"):
        replace(WINDOW, start_s=2.9)
    with pytest.raises(ValueError, match="not in the distribution"):
        replace(WINDOW, label="joy")


def test_unmeasurable_number_never_reaches_json() -> None:
    with pytest.raises(ValueError, match="finite number or None"):
        replace(RESULT, evidence=(replace(RESULT.evidence[0], value=float("nan")),)).to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version 2, this edge-emotion reads 1; upgrade"),
        ({"colour": 1}, "result: unknown colour"),
        ({"windows": [{}]}, "window: missing claims"),
        ({"claims": [{"verdict": "maybe"}]}, "claim: missing"),
        ({"coverage": {"analysed": [], "skipped": []}}, "coverage must add up"),
        ({"warnings": "clipped"}, "expected a list of texts"),
        ({"distribution": 3}, "not valid"),
    ],
)
def test_foreign_json_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmotionResult.from_dict(RESULT.to_dict() | change)
    with pytest.raises(ValueError, match="missing label"):
        EmotionResult.from_dict({key: value for key, value in RESULT.to_dict().items() if key != "label"})


SCORES = st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=8)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def distribution_of(scores: list[float]) -> dict[str, float]:
    return {f"label {index}": score / sum(scores) for index, score in enumerate(scores)}


@given(SCORES, st.lists(st.floats(1e-4, 40.0), min_size=1, max_size=6), st.floats(-1e6, 1e6), TEXT)
@settings(max_examples=60, deadline=None)
def test_any_result_round_trips(scores: list[float], lengths_s: list[float], value: float, text: str) -> None:
    distribution = distribution_of(scores)
    edges = [sum(lengths_s[:count]) for count in range(len(lengths_s) + 1)]
    spans = list(pairwise(edges))
    result = replace(
        RESULT,
        source=text,
        label="label 0",
        distribution=distribution,
        head_distribution=distribution,
        confidence=distribution["label 0"],
        duration_s=edges[-1],
        windows=(),
        evidence=(replace(RESULT.evidence[0], value=value),),
        reasoning=text,
        coverage=Coverage(tuple(spans[::2]), tuple(Skipped(*span, reason=text) for span in spans[1::2])),
    )
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    again = EmotionResult.from_dict(data)
    assert again.to_dict() == data
    assert again.evidence[0].value == pytest.approx(value, rel=1e-5)
    assert again.confidence == pytest.approx(result.confidence, abs=1e-4)


@given(
    st.sampled_from(sorted(RESULT.to_dict())),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
        max_leaves=5,
    ),
)
@settings(max_examples=100, deadline=None)
def test_any_change_of_a_result_is_a_value_error_or_a_result(key: str, value: Any) -> None:
    try:
        result = EmotionResult.from_dict(RESULT.to_dict() | {key: value})
    except ValueError:
        return
    assert EmotionResult.from_dict(result.to_dict()).to_dict() == result.to_dict()
