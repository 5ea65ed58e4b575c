"""Runs the data engine over corpora and shows what it promises: python benchmarks/data_engine.py --data CORPORA

CORPORA holds `emodb/` and `emogator/`. Everything goes through `edge-emotion label`: counts in = out + failed; a second
run takes over everything; killed in the middle and started again, in one process, in four and through Ray the bytes are
the same. Speed is processor time, of the whole command (start, decoding, measuring, writing) and beside the usual
tools: librosa's pYIN and Praat on the same clips, alternating, in the same process. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
from threadpoolctl import threadpool_limits

from edge_emotion.cues import CUE_BY_NAME, CUES, Cue
from edge_emotion.errors import EdgeEmotionError
from edge_emotion_train.labelling.calibrate import SPEAKER_CLIPS, even_cuts, measured_positions
from edge_emotion_train.labelling.measure import Measuring
from edge_emotion_train.labelling.records import Record, RecordFile
from edge_emotion_train.labelling.sources import SourceSpec, read_sources
from edge_emotion_train.labelling.store import file_sha256

CORPORA = ("emodb", "emogator")
TEST_SPEAKERS = ("emodb_15", "emodb_16")
COMMAND = [sys.executable, "-c", "from edge_emotion.cli.app import main; main()", "label"]
KILLED_AT = 0.3
TARGET_TIMES_REAL_TIME = 100.0
# The corpus of the paper, on a machine that many have.
ESTIMATE_CLIPS, ESTIMATE_HOURS, ESTIMATE_CORES = 35_000, 200.0, 16
DOLLARS_PER_CORE_HOUR = 0.05
FEW_CLIPS = (5, 10, 15, 20, 30)
DRAWS = 40


# --- the command, in whatever way it runs ----------------------------------------------------------------------------


def label(*arguments: str | Path) -> tuple[dict[str, Any], float, float]:
    """Runs the command; its counts, processor time of it and its workers, and wall time."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([*COMMAND, *map(str, arguments), "--json"], capture_output=True, text=True, check=False)
    wall_s, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1) or not done.stdout:
        raise EdgeEmotionError(f"label {arguments[0]} failed: {done.stderr[-2000:]}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout), cpu_s, wall_s


def kill_in_the_middle(sources: Sequence[Path], folder: Path, total: int) -> int:
    """Starts the command in two processes and kills it; the number of clips that were done by then."""
    arguments = [*COMMAND, "measure", *map(str, sources), "-o", str(folder), "-p", "2"]
    child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = folder / ".measured.journal"
    while child.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") > KILLED_AT * total:
            os.kill(child.pid, signal.SIGKILL)
            break
        time.sleep(0.05)
    child.wait()
    return journal.read_bytes().count(b"\n") - 1


def restarts(sources: Sequence[Path], work: Path, ray: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Every way of running, and the hash of its output and errors."""
    hashes = {}

    def note(way: str) -> None:
        hashes[way] = "".join(file_sha256(work / way / name) for name in ("measured.jsonl", "errors.jsonl"))

    say("one process")
    counts, cpu_s, wall_s = label("measure", *sources, "-o", work / "one")
    note("one")
    say("once more")
    again, again_cpu_s, again_wall_s = label("measure", *sources, "-o", work / "one")
    say("four processes")
    label("measure", *sources, "-o", work / "four", "-p", "4")
    note("four")
    say("killed in the middle")
    done = kill_in_the_middle(sources, work / "killed", counts["in"])
    resumed, _, _ = label("measure", *sources, "-o", work / "killed")
    note("killed")
    if ray:
        say("through Ray")
        label("measure", *sources, "-o", work / "ray", "--ray")
        note("ray")
    audio_s = sum(
        measure.value or 0.0
        for record in RecordFile((work / "one/measured.jsonl",))
        if record.measures and (measure := record.measures.get("duration_s"))
    )
    return {
        "in": counts["in"],
        "out": counts["out"],
        "failed": counts["failed"],
        "in_is_out_and_failed": counts["in"] == counts["out"] + counts["failed"],
        "fields_lost": counts["fields_lost"],
        "audio_s": round(audio_s, 1),
        "processor_s": round(cpu_s, 2),
        "wall_s": round(wall_s, 2),
        "second_run": {
            "skipped": again["skipped"],
            "all": again["skipped"] == again["in"],
            "processor_s": round(again_cpu_s, 2),
            "wall_s": round(again_wall_s, 2),
        },
        "killed": {"clips_done": done, "taken_over": resumed["skipped"]},
        "output_sha256": counts["output_sha256"],
        "same_bytes": {way: value == hashes["one"] for way, value in hashes.items() if way != "one"},
    }, hashes


# --- speed -----------------------------------------------------------------------------------------------------------


def usual_tools() -> Callable[[str], None]:
    """The same job by the tools that others use: decoding and pYIN by librosa, the rest by Praat.

    Raises:
        EdgeEmotionError: librosa or parselmouth is not installed.
    """
    try:
        import librosa
        import parselmouth
        from parselmouth.praat import call
    except ImportError as error:
        raise EdgeEmotionError(
            f'{error.name} is not installed; the comparison needs pip install "librosa==0.11.0" praat-parselmouth, or '
            "give --without-comparison"
        ) from None

    def measure(path: str) -> None:
        samples, _ = librosa.load(path, sr=16000, mono=True)
        # As the method's own pipeline calls it, which then does it once more within a narrower range.
        librosa.pyin(samples, fmin=55.0, fmax=500.0, sr=16000, frame_length=1024, hop_length=160)
        sound = parselmouth.Sound(samples.astype(np.float64), 16000)
        pitch = sound.to_pitch_ac(0.01, 60.0, 15, False, 0.03, 0.45, 0.01, 0.35, 0.14, 600.0)
        sound.to_intensity(100.0, 0.01, True)
        periods = call([sound, pitch], "To PointProcess (cc)")
        call(periods, "Get jitter (local)", 0, 0, 0.0001, 0.02, 1.3)
        call([sound, periods], "Get shimmer (local)", 0, 0, 0.0001, 0.02, 1.3, 1.6)
        spectrum = sound.to_spectrum(True)
        for band in ((50.0, 1000.0), (1000.0, 5000.0)):
            call(spectrum, "Get band energy", *band)

    return measure


def speed(records: Sequence[Record], compare: bool, every: int) -> dict[str, Any]:
    """Times real time of our step and of the usual tools, on every n-th clip of speech, alternating."""
    step = Measuring(align=False)
    clips = records[::every]
    theirs = usual_tools() if compare else None
    ours_s, theirs_s, audio_s = 0.0, 0.0, 0.0
    with threadpool_limits(1):
        step(clips[0])
        if theirs:
            theirs(clips[0].audio)  # compiles what numba compiles
        for record in common.with_progress(clips, "speed"):
            if theirs:
                theirs_s += processor_s(lambda audio=record.audio: theirs(audio))
            ours_s += processor_s(lambda clip=record: step(clip).record.to_json())  # type: ignore[union-attr]
            outcome = step(record)
            if outcome.record and outcome.record.measures:
                audio_s += outcome.record.measures["duration_s"].value or 0.0
    result: dict[str, Any] = {
        "clips": len(clips),
        "audio_s": round(audio_s, 1),
        "ours_times_real_time": round(audio_s / ours_s, 1),
    }
    if theirs:
        result["pyin_and_praat_times_real_time"] = round(audio_s / theirs_s, 2)
        result["times_faster"] = round(theirs_s / ours_s, 1)
    return result


def processor_s(work: Callable[[], Any]) -> float:
    """Processor time of this process, which others on the machine hardly disturb."""
    start = time.process_time()
    work()
    return time.process_time() - start


def estimate(processor_s_: float, audio_s: float) -> dict[str, Any]:
    """Time and cost for a corpus like the paper's, by the processor time of the whole command."""
    core_hours = ESTIMATE_HOURS * processor_s_ / audio_s
    return {
        "clips": ESTIMATE_CLIPS,
        "hours_of_speech": ESTIMATE_HOURS,
        "cores": ESTIMATE_CORES,
        "times_real_time_per_core": round(audio_s / processor_s_, 1),
        "core_hours": round(core_hours, 2),
        "minutes": round(60.0 * core_hours / ESTIMATE_CORES, 1),
        "dollars": round(core_hours * DOLLARS_PER_CORE_HOUR, 2),
        "dollars_per_core_hour": DOLLARS_PER_CORE_HOUR,
    }


# --- levels ----------------------------------------------------------------------------------------------------------


def levels(folder: Path) -> dict[str, Any]:
    """By corpus and cue: share of clips with a level, which groups gave them, and why there is none."""
    told: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    groups: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    reasons: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    clips: Counter[str] = Counter()
    for record in RecordFile((folder / "levelled.jsonl",)):
        clips[record.corpus] += 1
        for cue, level in (record.levels or {}).items():
            if level.level is None:
                reasons[record.corpus][cue][str(level.reason)] += 1
            else:
                told[record.corpus][cue][level.level] += 1
                groups[record.corpus][cue][str(level.thresholds).partition(":")[0]] += 1
    return {
        corpus: {
            cue.name: {
                "told": round(sum(told[corpus][cue.name].values()) / count, 4),
                "levels": {name: told[corpus][cue.name][name] for name in cue.levels},
                "thresholds": dict(groups[corpus][cue.name]),
                "reasons": dict(reasons[corpus][cue.name].most_common()),
            }
            for cue in CUES
        }
        for corpus, count in clips.items()
    }


def few_clips(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """How far levels by thresholds from n clips of a speaker are those from all clips; mean over cues and speakers.

    Test speakers do not take part. `same`: the same level; `within_uncertainty`: the value lies in the level, or no
    further outside it than the cue can be measured.
    """
    positions: dict[tuple[str, str], list[float]] = defaultdict(list)
    for record in records:
        if record.speaker and record.corpus == "emodb" and record.speaker not in TEST_SPEAKERS:
            for cue, position in measured_positions(record):
                positions[record.speaker, cue.name].append(position)
    rng = np.random.default_rng(0)
    result = {}
    for count in FEW_CLIPS:
        same, near = defaultdict(list), defaultdict(list)
        for (_, name), given in positions.items():
            cue, values = CUE_BY_NAME[name], np.array(given)
            edges = position_edges(cue, values)
            if len(values) < 2 * count or np.diff(edges).min() < cue.uncertainty:
                continue
            true = (values[:, None] > edges).sum(axis=1)
            for _ in range(DRAWS):
                order = rng.permutation(len(values))
                found = position_edges(cue, values[order[:count]])
                tested = order[count:]
                level = (values[tested, None] > found).sum(axis=1)
                bounds = np.concatenate([[-math.inf], edges, [math.inf]])
                outside = np.maximum(bounds[level] - values[tested], values[tested] - bounds[level + 1])
                kind = "three_levels" if len(cue.levels) == 3 else "five_levels"
                same[kind].append(float((level == true[tested]).mean()))
                near[kind].append(float((outside <= cue.uncertainty).mean()))
        result[str(count)] = {
            f"{kind}_{what}": round(float(np.mean(values[kind])), 3)
            for kind in same
            for what, values in (("same", same), ("within_uncertainty", near))
        }
    return result


def position_edges(cue: Cue, positions: np.ndarray) -> np.ndarray:
    return np.array([cue.position(cut) for cut in even_cuts(cue, positions)])


# --- all of it -------------------------------------------------------------------------------------------------------


def say(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


def report(data: Path, compare: bool, ray: bool, every: int) -> dict[str, Any]:
    sources = [data / name for name in CORPORA]
    found = [item for item in read_sources([SourceSpec.parse(str(sources[0]))]) if isinstance(item, Record)]
    say("speed")
    document: dict[str, Any] = {"speed": speed(found, compare, every)}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        document["engine"], _ = restarts(sources, work, ray)
        say("levels")
        counts, cpu_s, _ = label("calibrate", work / "one", "--held-out", *TEST_SPEAKERS)
        document["calibrate"] = {"in": counts["in"], "out": counts["out"], "processor_s": round(cpu_s, 2)}
        document["levels"] = levels(work / "one")
        document["speaker_thresholds_from_few_clips"] = few_clips(list(RecordFile((work / "one/measured.jsonl",))))
    document["estimate"] = estimate(document["engine"]["processor_s"], document["engine"]["audio_s"])
    document["speaker_clips_default"] = SPEAKER_CLIPS
    document["targets_met"] = {
        "measures_times_real_time >= 100": document["speed"]["ours_times_real_time"] >= TARGET_TIMES_REAL_TIME,
        "in = out + failed": document["engine"]["in_is_out_and_failed"],
        "a second run takes over everything": document["engine"]["second_run"]["all"],
        "the same bytes in every way": all(document["engine"]["same_bytes"].values()),
    }
    document["where"] = {
        "commit": common.commit(),
        "cpu": common.cpu_model(),
        "cores": common.usable_cpus(),
        "numpy": np.__version__,
    }
    return document


def table(document: Mapping[str, Any]) -> str:
    """What a person reads."""
    engine, speeds, costs = document["engine"], document["speed"], document["estimate"]
    rows = [
        ["clips in", f"{engine['in']:,}"],
        ["records out, clips lost", f"{engine['out']:,}, {engine['failed']}"],
        [
            "taken over by a second run",
            f"{engine['second_run']['skipped']:,} in {engine['second_run']['wall_s']:.1f} s",
        ],
        ["killed after, taken over", f"{engine['killed']['clips_done']:,}, {engine['killed']['taken_over']:,} clips"],
        ["same bytes as one process", ", ".join(f"{way}: {same}" for way, same in engine["same_bytes"].items())],
        ["measures, times real time per core", f"{speeds['ours_times_real_time']:.0f}"],
    ]
    if "times_faster" in speeds:
        rows += [
            ["pYIN and Praat, times real time per core", f"{speeds['pyin_and_praat_times_real_time']:.1f}"],
            ["times faster", f"{speeds['times_faster']:.0f}"],
        ]
    rows += [
        ["whole command, times real time per core", f"{costs['times_real_time_per_core']:.0f}"],
        [
            f"{costs['clips']:,} clips, {costs['hours_of_speech']:.0f} h, {costs['cores']} cores",
            f"{costs['minutes']:.0f} minutes, {costs['core_hours']:.1f} core hours, {costs['dollars']:.2f} $",
        ],
    ]
    rows += [
        [f"levels by {count} clips of a speaker: as by all", f"{some['three_levels_same']:.0%}"]
        for count, some in document["speaker_thresholds_from_few_clips"].items()
    ]
    rows += [[name, "met" if met else "NOT met"] for name, met in document["targets_met"].items()]
    return common.table_of(rows, ["what", "figure"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds emodb/ and emogator/")
    parser.add_argument("--every", type=int, default=16, help="speed is measured on every n-th clip (default: 16)")
    parser.add_argument("--without-comparison", action="store_true", help="no librosa and no Praat")
    parser.add_argument("--without-ray", action="store_true", help="not through Ray")
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON document here")
    parser.add_argument("--force", action="store_true", help="replace the output file")
    parser.add_argument("--json", action="store_true", help="print the JSON document only, without the table")
    arguments = parser.parse_args()
    common.check_output(arguments.output, arguments.force)
    if not arguments.without_ray and importlib.util.find_spec("ray") is None:
        raise EdgeEmotionError('ray is not installed; pip install "edge-emotion[ray]", or give --without-ray')
    document = report(arguments.data, not arguments.without_comparison, not arguments.without_ray, arguments.every)
    common.deliver(document, {}, table(document), arguments.output, arguments.json)
    return 0


if __name__ == "__main__":
    common.run(main)
