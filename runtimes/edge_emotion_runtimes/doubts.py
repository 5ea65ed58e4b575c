"""When an answer should not be relied on, and the reasons in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_emotion.prosody import Prosody

# Far outside what 100 clips of EmoDB's training speakers show: voiced share >= 0.38, syllables >= 3, deviation of pitch
# >= 1.3 semitones, of energy >= 5.5 dB, speech >= 15 dB above the background.
FEW_VOICED_SHARE = 0.15
FEWEST_SYLLABLES = 2.0
STEADY_PITCH_ST = 0.2
STEADY_ENERGY_DB = 2.0
LOW_SNR_DB = 10.0


def find_doubts(
    prosodies: Sequence[Prosody],
    *,
    label: str | None,
    confidence: float,
    abstain_below: float,
    head_label: str | None,
    min_speech_s: float,
    skipped: Sequence[str] = (),
) -> tuple[str, ...]:
    """Reasons to be uncertain, most telling first; empty where there is none.

    Args:
        prosodies: What was measured in each analysed window.
        label: The answer, None without one.
        confidence: Its calibrated probability.
        abstain_below: Lowest confidence to rely on.
        head_label: The encoder's own answer, None where it has none.
        min_speech_s: Least speech the encoder needs, in seconds.
        skipped: Why parts of the recording were not analysed.
    """
    if label is None:
        return (f"nothing was analysed: {', '.join(dict.fromkeys(skipped)) or 'no speech'}",)
    doubts = []
    speech_s = sum(_value(prosody, "speech_duration_s") or 0.0 for prosody in prosodies)
    if speech_s < min_speech_s:
        doubts.append(f"only {speech_s:.2f} s of speech; at least {min_speech_s:.2f} s are needed")
    if _mostly(prosodies, _is_unvoiced):
        doubts.append("hardly any voiced speech: this may be noise or whispering")
    elif _mostly(prosodies, _is_steady):
        doubts.append("pitch or loudness hardly moves: this may be a tone or a machine")
    elif _mostly(prosodies, _has_no_syllables):
        doubts.append("fewer than two syllables: this may not be speech")
    if _mostly(prosodies, _is_noisy):
        doubts.append(f"noisy: speech stands less than {LOW_SNR_DB:.0f} dB above the background")
    if confidence < abstain_below:
        doubts.append(f"confidence {confidence:.2f} is below {abstain_below:.2f}")
    if head_label not in (None, label):
        doubts.append(f"the encoder alone hears {head_label}, the language model {label}")
    return tuple(doubts)


def _value(prosody: Prosody, name: str) -> float | None:
    return prosody.measures[name].value


def _mostly(prosodies: Sequence[Prosody], condition: Callable[[Prosody], bool]) -> bool:
    durations = [(_value(prosody, "duration_s") or 0.0, condition(prosody)) for prosody in prosodies]
    return sum(duration for duration, holds in durations if holds) > 0.5 * sum(duration for duration, _ in durations)


def _is_unvoiced(prosody: Prosody) -> bool:
    return (_value(prosody, "voiced_share") or 0.0) < FEW_VOICED_SHARE


def _has_no_syllables(prosody: Prosody) -> bool:
    rate, speech_s = _value(prosody, "syllable_rate_per_s"), _value(prosody, "speech_duration_s")
    return (rate or 0.0) * (speech_s or 0.0) < FEWEST_SYLLABLES


def _is_steady(prosody: Prosody) -> bool:
    pitch_st, energy_db = _value(prosody, "f0_std_st"), _value(prosody, "energy_std_db")
    return (pitch_st is not None and pitch_st < STEADY_PITCH_ST) or (
        energy_db is not None and energy_db < STEADY_ENERGY_DB
    )


def _is_noisy(prosody: Prosody) -> bool:
    # Without a pause the value is only a lower bound, but a low one is rare in clean speech: 1 in 60 cuts of 1 s.
    snr_db = _value(prosody, "snr_db")
    return snr_db is not None and snr_db < LOW_SNR_DB
