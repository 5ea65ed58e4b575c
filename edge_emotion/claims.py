"""Which acoustic statements does a text make, and are they true of the recording? How they are read: `grammar.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edge_emotion.cues import CUE_BY_NAME, Cue, Thresholds, distance_outside, level_of
from edge_emotion.grammar import find_statements

if TYPE_CHECKING:
    from edge_emotion.prosody import Prosody

MIN_RELIABILITY = 0.5
Verdict = Literal["supported", "contradicted", "not measurable"]


@dataclass(frozen=True)
class Claim:
    """One acoustic statement of a text.

    Attributes:
        cue: Name of a cue in `CUES`.
        level: The level stated.
        start: First character of the statement in the text.
        end: Character after its last; spans of one text never overlap.
        text: The statement as written, `text[start:end]` of the whole.
    """

    cue: str
    level: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class CheckedClaim:
    """A claim beside what was measured.

    Attributes:
        claim: The claim.
        verdict: `supported` within the cue's uncertainty of the stated level, else `contradicted`; `not measurable`
            where the recording gives no reliable value, or the thresholds have no cuts for the cue.
        measured_value: In `unit`, None when not measurable.
        measured_level: The level of the measured value, None when not measurable.
        unit: Unit of the measure.
        reason: The verdict in words.
    """

    claim: Claim
    verdict: Verdict
    measured_value: float | None
    measured_level: str | None
    unit: str
    reason: str


def parse_claims(text: str) -> tuple[Claim, ...]:
    """Every acoustic statement of a text, in the order in which they stand; never raises.

    Understands the phrases of `wording.PHRASES` and ordinary English ("the pitch is elevated", "speaks quickly"). What
    is denied ("not fast"), ambiguous ("low to medium") or said of the start or end only is no claim.
    """
    return tuple(
        Claim(found.cue, found.level, found.start, found.end, text[found.start : found.end])
        for found in find_statements(text)
    )


def check_claims(claims: Sequence[Claim], prosody: Prosody, thresholds: Thresholds) -> tuple[CheckedClaim, ...]:
    """Compare claims with the measures of the same recording.

    Args:
        claims: From `parse_claims`.
        prosody: Measures of the recording the text speaks of.
        thresholds: Cut points between levels, from the bundle or re-based on the speaker.
    """
    return tuple(_check(claim, prosody, thresholds) for claim in claims)


def faithfulness(checked: Sequence[CheckedClaim]) -> float | None:
    """Share of the checkable claims that are supported, 0..1; None when nothing could be checked."""
    verdicts = [item.verdict for item in checked if item.verdict != "not measurable"]
    return verdicts.count("supported") / len(verdicts) if verdicts else None


def _check(claim: Claim, prosody: Prosody, thresholds: Thresholds) -> CheckedClaim:
    cue = CUE_BY_NAME[claim.cue]
    value, reason = _measured(cue, prosody, thresholds)
    if value is None:
        return CheckedClaim(claim, "not measurable", None, None, cue.unit, reason)
    level = level_of(cue, value, thresholds)
    distance = distance_outside(cue, claim.level, value, thresholds)
    supported = distance <= cue.uncertainty
    reason = f"measured {value:.3g} {cue.unit} is {level}"
    if level != claim.level:
        scale = "semitones" if cue.scale == "semitones" else cue.unit
        side = "within" if supported else "beyond"
        reason += f", {distance:.2g} {scale} from {claim.level}, {side} the uncertainty of {cue.uncertainty:g}"
    return CheckedClaim(claim, "supported" if supported else "contradicted", value, level, cue.unit, reason)


def _measured(cue: Cue, prosody: Prosody, thresholds: Thresholds) -> tuple[float | None, str]:
    """The value a claim of this cue is checked against, or None and why there is none."""
    measure = prosody.measures.get(cue.measure)
    if cue.name not in thresholds.cuts:
        return None, cue.unknown_without_cuts or f"no thresholds for {cue.name}"
    if measure is None or measure.value is None or not math.isfinite(measure.value):
        return None, (measure.reason if measure else None) or f"{cue.measure} could not be measured"
    if measure.reliability < MIN_RELIABILITY:
        return None, measure.reason or f"{cue.measure} is unreliable here ({measure.reliability:.2f})"
    if cue.scale == "semitones" and measure.value <= 0.0:
        return None, f"{cue.measure} must be above 0, measured {measure.value:g}"
    return float(measure.value), ""
