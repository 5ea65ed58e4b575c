"""Compares our prosody measures with Praat on real speech: python benchmarks/prosody_vs_praat.py --data DIR

DIR holds EmoDB as `manifest.jsonl` and the audio it names. Praat (parselmouth) gets the same floor, ceiling and time
step. The last line on stdout is one JSON document; `--json` prints nothing else there.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import parselmouth
import soundfile
from parselmouth.praat import call

from edge_emotion.prosody import Prosody, measure_prosody
from edge_emotion.prosody.contour_shape import MelodyLine, fit_melody
from edge_emotion.prosody.pitch import CEILING_HZ, FLOOR_HZ
from edge_emotion.speech import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE_HZ, find_speech

Result = TypeVar("Result")
GROSS_ERROR = 0.2
TARGETS = {
    "f0_median_within_2_percent_share": (">=", 0.98),
    "gross_pitch_error_share": ("<=", 0.02),
    "voicing_agreement": (">=", 0.93),
    "intensity_difference_db": ("<=", 0.5),
    "time_ratio": ("<=", 1.0),
}


class PraatProsody(NamedTuple):
    """What Praat measures of the same set."""

    pitch: parselmouth.Pitch
    intensity: parselmouth.Intensity
    hnr_db: float
    jitter: float
    shimmer: float
    tilt_db: float


def measure_with_praat(samples: np.ndarray) -> PraatProsody:
    """Pitch, intensity, harmonicity, periods, jitter, shimmer and band energies, each by Praat's own command.

    Harmonicity is taken from the pitch's strength, as ours is; Praat's separate command would double the time.
    """
    sound = parselmouth.Sound(samples, SAMPLE_RATE_HZ)
    pitch = sound.to_pitch_ac(FRAME_S, FLOOR_HZ, 15, False, 0.03, 0.45, 0.01, 0.35, 0.14, CEILING_HZ)
    intensity = sound.to_intensity(100.0, FRAME_S, True)
    strength = pitch.selected_array["strength"][pitch.selected_array["frequency"] > 0]
    hnr_db = float(np.mean(10.0 * np.log10(strength / (1.0 - np.minimum(strength, 1.0 - 1e-4)))))
    periods = call([sound, pitch], "To PointProcess (cc)")
    jitter = call(periods, "Get jitter (local)", 0, 0, 0.0001, 0.02, 1.3)
    shimmer = call([sound, periods], "Get shimmer (local)", 0, 0, 0.0001, 0.02, 1.3, 1.6)
    spectrum = sound.to_spectrum(True)
    low, high = (call(spectrum, "Get band energy", *band) for band in ((50.0, 1000.0), (1000.0, 5000.0)))
    return PraatProsody(pitch, intensity, hnr_db, jitter, shimmer, 10.0 * math.log10(high / low))


def praat_harmonicity_cc_db(samples: np.ndarray) -> float:
    """Praat's "To Harmonicity (cc)", the usual one in the literature, with a shorter window than the pitch's."""
    sound = parselmouth.Sound(samples, SAMPLE_RATE_HZ)
    return call(sound.to_harmonicity_cc(FRAME_S, FLOOR_HZ, 0.1, 1.0), "Get mean", 0, 0)


def compare(prosody: Prosody, praat: PraatProsody, speech: np.ndarray) -> dict[str, float]:
    """Figures of one clip; frames are matched by time."""
    ours_hz = np.nan_to_num(prosody.contour.f0_hz)
    praat_hz = np.zeros(len(ours_hz))
    index = np.round(praat.pitch.xs() / FRAME_S - 0.5).astype(int)
    praat_hz[index] = praat.pitch.selected_array["frequency"]
    both = (ours_hz > 0) & (praat_hz > 0)
    ratio = ours_hz[both] / praat_hz[both]
    level_times = praat.intensity.xs()
    praat_db = np.interp(prosody.contour.times_s, level_times, praat.intensity.values[0])
    inside = speech & (prosody.contour.times_s >= level_times[0]) & (prosody.contour.times_s <= level_times[-1])
    # Praat's decibels are re 20 micropascal: only their course can be compared.
    difference_db = (prosody.contour.intensity_db - praat_db)[inside]

    def value(name: str) -> float:
        measured = prosody.measures[name].value
        return math.nan if measured is None else measured

    return {
        "f0_median_ratio": value("f0_median_hz") / float(np.median(praat_hz[praat_hz > 0])),
        "frames": len(ours_hz),
        "frames_agreeing": int(((ours_hz > 0) == (praat_hz > 0)).sum()),
        "frames_both_voiced": int(both.sum()),
        "frames_gross_error": int((np.abs(ratio - 1.0) > GROSS_ERROR).sum()),
        "intensity_difference_db": float(np.abs(difference_db - np.median(difference_db)).mean()),
        "hnr_db": value("hnr_db"),
        "hnr_praat_pitch_db": praat.hnr_db,
        "jitter": value("jitter_local"),
        "jitter_praat": praat.jitter,
        "shimmer": value("shimmer_local"),
        "shimmer_praat": praat.shimmer,
        "tilt_db": value("spectral_tilt_db"),
        "tilt_praat_db": praat.tilt_db,
    }


def summarise(clips: list[dict[str, float]]) -> dict[str, Any]:
    """Figures over all clips: shares of clips or of frames, means of clips, and medians of times."""
    column = {name: np.array([clip[name] for clip in clips]) for name in clips[0]}

    def against(name: str, other: str) -> dict[str, float]:
        finite = np.isfinite(column[name]) & np.isfinite(column[other])
        ours, praat = column[name][finite], column[other][finite]
        return {
            "correlation": round(float(np.corrcoef(ours, praat)[0, 1]), 3),
            "bias": round(float((ours - praat).mean()), 4),
            "median_abs_difference": round(float(np.median(np.abs(ours - praat))), 4),
        }

    ratio = column["ours_s_per_s"] / column["praat_s_per_s"]
    return {
        "clips": len(clips),
        "f0_median_within_2_percent_share": round(float((np.abs(column["f0_median_ratio"] - 1.0) <= 0.02).mean()), 4),
        "gross_pitch_error_share": round(
            float(column["frames_gross_error"].sum() / column["frames_both_voiced"].sum()), 5
        ),
        "voicing_agreement": round(float(column["frames_agreeing"].sum() / column["frames"].sum()), 4),
        "intensity_difference_db": round(float(column["intensity_difference_db"].mean()), 4),
        "hnr_against_praat_pitch_strength": against("hnr_db", "hnr_praat_pitch_db"),
        "hnr_against_praat_cc": against("hnr_db", "hnr_praat_cc_db"),
        "jitter_against_praat": against("jitter", "jitter_praat"),
        "shimmer_against_praat": against("shimmer", "shimmer_praat"),
        "tilt_against_praat_whole_clip": against("tilt_db", "tilt_praat_db"),
        "ours_ms_per_audio_s": round(1000.0 * float(np.median(column["ours_s_per_s"])), 3),
        "praat_ms_per_audio_s": round(1000.0 * float(np.median(column["praat_s_per_s"])), 3),
        "time_ratio": round(float(np.median(ratio)), 3),
        "time_ratio_p95": round(float(np.percentile(ratio, 95)), 3),
        "time_ratio_with_the_shape_of_the_melody": round(
            float(np.median(column["all_of_ours_s_per_s"] / column["praat_s_per_s"])), 3
        ),
    }


def timed(function: Callable[[np.ndarray], Result], samples: np.ndarray) -> tuple[Result, float]:
    """What the function returns, and its wall time in seconds."""
    start = time.perf_counter()
    result = function(samples)
    return result, time.perf_counter() - start


def melody_line(f0_hz: np.ndarray) -> MelodyLine | None:
    """The turn of the melody, which Praat does not give."""
    return fit_melody(f0_hz, ~np.isnan(f0_hz))


def run(folder: Path) -> list[dict[str, float]]:
    """Compare every clip of the manifest, alternating which side is timed first."""
    records = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    clips = []
    for number, record in enumerate(records):
        samples, rate = soundfile.read(folder / record["audio"], dtype="float32")
        if rate != SAMPLE_RATE_HZ:
            raise SystemExit(f"{record['audio']} has {rate} Hz; this comparison needs {SAMPLE_RATE_HZ} Hz")
        # Whole frames: then Praat's frames, which are centred on the clip, fall on ours.
        samples = np.pad(samples, (0, -len(samples) % FRAME_SAMPLES))
        double = samples.astype(np.float64)
        if number == 0:
            measure_prosody(samples)
            measure_with_praat(double)
        if number % 2 == 0:
            prosody, ours_s = timed(measure_prosody, samples)
            praat, praat_s = timed(measure_with_praat, double)
        else:
            praat, praat_s = timed(measure_with_praat, double)
            prosody, ours_s = timed(measure_prosody, samples)
        # What only we measure is timed apart, so that the ratio is of the same measures.
        _, melody_s = timed(melody_line, prosody.contour.f0_hz)
        clip = compare(prosody, praat, find_speech(samples).speech)
        clip["hnr_praat_cc_db"] = praat_harmonicity_cc_db(double)
        duration_s = len(samples) / SAMPLE_RATE_HZ
        seconds = {"ours_s_per_s": ours_s - melody_s, "praat_s_per_s": praat_s, "all_of_ours_s_per_s": ours_s}
        clips.append(clip | {name: value / duration_s for name, value in seconds.items()})
        if (number + 1) % 50 == 0 or number + 1 == len(records):
            print(f"{number + 1} of {len(records)} clips", file=sys.stderr)
    return clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of EmoDB, with manifest.jsonl")
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON document here")
    parser.add_argument("--json", action="store_true", help="nothing but the JSON document on stdout")
    arguments = parser.parse_args()
    if not (arguments.data / "manifest.jsonl").is_file():
        raise SystemExit(f"{arguments.data} has no manifest.jsonl; --data is the folder that holds it")
    summary = summarise(run(arguments.data))
    summary["targets_met"] = {
        name: summary[name] >= bound if sign == ">=" else summary[name] <= bound
        for name, (sign, bound) in TARGETS.items()
    }
    summary["where"] = {"machine": platform.machine(), "python": platform.python_version(), "numpy": np.__version__}
    summary["where"]["praat"] = parselmouth.PRAAT_VERSION
    if not arguments.json:
        for name, (sign, bound) in TARGETS.items():
            verdict = "met" if summary["targets_met"][name] else "NOT met"
            print(f"{name:36s} {summary[name]:>8} {sign} {bound}: {verdict}")
    document = json.dumps(summary)
    if arguments.output:
        temporary = arguments.output.with_suffix(".tmp")
        temporary.write_text(document + "\n", encoding="utf-8")
        temporary.replace(arguments.output)
    print(document)


if __name__ == "__main__":
    main()
