"""One report of a device that can be sent back: what it is, what is wrong with it, what it computes, and how fast.

Every combination runs in a process of its own, because a library that is wrong for a board may end the process. The
report names no folder, user or host of the machine.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_emotion.board import read_board
from edge_emotion.bundle import Bundle
from edge_emotion.gpu_libraries import cards_of, find, this_device
from edge_emotion.isolated import ask
from edge_emotion.planning import plan_bundle

SCHEMA = "edge-emotion device report 1"
_COMBINATION_TIMEOUT_S = 1800.0  # the first use of TensorRT builds an engine
_TESTS_TIMEOUT_S = 1800.0
_RUNS = 10
# How `encoders.open_encoder` is asked for each: its runtime and the device.
_ENCODER_ON = {
    "onnxruntime cpu": ("onnxruntime", "cpu"),
    "onnxruntime cuda": ("onnxruntime", "cuda"),
    "tensorrt": ("tensorrt", "auto"),
}

# Runs in a process of its own; `JOB` holds bundle, encoder, llm and the encoder's runtime.
_RUN = """
import os, resource, time
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
from edge_emotion_runtimes.device_report import run_combination
answer = run_combination(**JOB)
answer["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
"""


def make_report(
    bundle: Bundle,
    findings: Mapping[str, Any],
    tests: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Runs everything that can run here.

    Args:
        bundle: The bundle to check.
        findings: What `doctor` found, as plain types.
        tests: Run the tests marked `gpu`, where a checkout and pytest are at hand.
        tell: Called with what is being done.

    Returns:
        Plain types for JSON; `passed` is whether every combination that ran computes what the reference did,
        and no test marked `gpu` failed.
    """
    before = read_board().temperatures_c
    combinations = []
    for job in _jobs(bundle):
        tell(f"encoder {job['encoder']} on {job['encoder_runtime']}, language model {job['llm']}")
        answer = ask(f"JOB = {job!r}\n{_RUN}", "answer", _COMBINATION_TIMEOUT_S)
        shown = {key: value for key, value in job.items() if key != "bundle"}
        combinations.append(shown | (answer.value or {"problem": answer.problem}))
    if tests:
        tell("tests marked gpu")
    ran = [item for item in combinations if "taps" in item]
    gpu_tests = run_gpu_tests() if tests else {"ran": False, "why": "not asked for"}
    report = {
        "schema": SCHEMA,
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "device": fingerprint(),
        "bundle": {"name": bundle.manifest.name, "version": bundle.manifest.version, "sha256": bundle.manifest_sha256},
        "passed": bool(ran) and all(item["passed"] for item in ran) and gpu_tests.get("passed", True),
        "combinations": combinations,
        "temperatures_c": {"before": dict(before), "after": dict(read_board().temperatures_c)},
        "plan": plan_bundle(bundle, this_device()).to_dict(),
        "doctor": dict(findings),
        "gpu_tests": gpu_tests,
    }
    return scrub(report, private_texts(bundle.path))


def fingerprint() -> dict[str, Any]:
    """What the device is, without anything that names this one copy of it; `id` is the same for equal devices."""
    board = read_board()
    driver = find("driver")
    facts: dict[str, Any] = {
        "model": board.model,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": board.memory_bytes,
        "l4t": board.l4t,
        "jetpack": board.jetpack,
        "power_mode": board.power_mode,
        "clocks_pinned": board.clocks_pinned,
        "driver": board.driver,
        "gpus": cards_of(driver),
        "libraries": {name: find(name).version for name in ("CUDA", "cuDNN", "TensorRT")},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    swap = {"disk_swap_bytes": board.disk_swap_bytes, "zram_bytes": board.zram_bytes}
    return facts | swap | {"id": digest[:16], "load_average": round(os.getloadavg()[0], 2)}


def _jobs(bundle: Bundle) -> Iterator[dict[str, str]]:
    """Every encoder with the preferred language model, then the preferred encoder with every other language model."""
    manifest = bundle.manifest
    encoders = [variant.precision for variant in manifest.encoder.variants]
    llms = [variant.quantisation for variant in manifest.llm.variants]
    common = {"bundle": str(bundle.path.resolve())}
    for encoder in encoders:
        for runtime in encoder_runtimes(encoder):
            yield common | {"encoder": encoder, "llm": llms[0], "encoder_runtime": runtime}
    for llm in llms[1:]:
        yield common | {"encoder": encoders[0], "llm": llm, "encoder_runtime": "onnxruntime cpu"}


def encoder_runtimes(precision: str) -> list[str]:
    """What may run an encoder of this precision here; whether it does, running it tells."""
    if precision == "int8":
        return ["onnxruntime cpu"]
    listed = ask("import onnxruntime as m", "m.get_available_providers()").value or []
    runtimes = ["onnxruntime cpu"] * (precision in ("fp32", "int8-qdq"))
    runtimes += ["onnxruntime cuda"] * ("CUDAExecutionProvider" in listed and precision != "int8-qdq")
    return runtimes + ["tensorrt"] * bool(find("TensorRT").file)


def run_combination(bundle: str, encoder: str, llm: str, encoder_runtime: str) -> dict[str, Any]:
    """Replays the golden clips with one combination, then times it; plain types."""
    from contextlib import closing

    import numpy as np

    from edge_emotion.audio import from_samples
    from edge_emotion.bundle import load_bundle
    from edge_emotion_runtimes.analyzer import Analyzer
    from edge_emotion_runtimes.encoders import open_encoder
    from edge_emotion_runtimes.language_models import open_variant
    from edge_emotion_runtimes.verify import read_golden, replay

    opened = load_bundle(bundle, verify=True)
    runtime, device = _ENCODER_ON[encoder_runtime]
    start = time.perf_counter()
    with (
        # Strict: a report must not name a GPU that a processor stood in for.
        closing(open_encoder(opened, f"{runtime}/{encoder}", device, strict=True).encoder) as audio_encoder,
        closing(open_variant(opened, opened.llm_variant(llm))) as model,
    ):
        load_s = time.perf_counter() - start
        taps = replay(opened, audio_encoder, model, encoder, llm)
        model.reset()
        sounds = [value for name, value in read_golden(opened).items() if name.endswith("_waveform")]
        analyzer = Analyzer(opened, audio_encoder, model, {"fallbacks": []})
        clip = from_samples(max(sounds, key=len).astype(np.float32), opened.manifest.encoder.sample_rate_hz)
        results = [analyzer.analyze(clip) for _ in range(_RUNS + 2)][2:]
        stages = dict.fromkeys(stage for result in results for stage in result.timing_s)
        timing = {stage: [result.timing_s.get(stage, 0.0) for result in results] for stage in stages}
        # Rounded to 6 digits; a difference that is no number becomes None, which JSON can hold.
        listed = [
            asdict(tap) | {"passed": tap.passed, "difference": tap.difference if np.isfinite(tap.difference) else None}
            for tap in taps
        ]
        return {
            "passed": all(tap.passed for tap in taps),
            "taps": listed,
            "encoder_is": audio_encoder.describe(),
            "llm_is": model.describe(),
            "load_s": round(load_s, 4),
            "clip_s": round(clip.duration_s, 3),
            "runs": _RUNS,
            "timing_ms": {name: _spread(values) for name, values in timing.items()},
        }


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(1000 * second for second in seconds)
    return {"median": round(ordered[len(ordered) // 2], 2), "max": round(ordered[-1], 2)}


def run_gpu_tests() -> dict[str, Any]:
    """Runs the tests marked `gpu`, which need a checkout of the repository with pytest."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "tests").is_dir() or ask("import pytest", "1").problem:
        return {"ran": False, "why": "the tests are in the repository: run this from a checkout with pytest installed"}
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rA", "--tb=line", "-p", "no:cacheprovider", "tests"]
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=_TESTS_TIMEOUT_S, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return {"ran": False, "why": f"they took more than {_TESTS_TIMEOUT_S:.0f} s"}
    lines = done.stdout.splitlines()
    outcomes = [line for line in lines if re.match(r"(PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b", line)]
    if all(outcome.startswith("SKIPPED") for outcome in outcomes) and done.returncode in (0, 5):
        why = "every one was skipped" if outcomes else "no test is marked so"
        return {"ran": False, "why": why, "outcomes": outcomes}
    return {"ran": True, "passed": done.returncode == 0, "outcomes": outcomes, "end": lines[-1:]}


def private_texts(bundle_folder: Path) -> dict[str, str]:
    """Text -> what stands for it in a report: folders, user and host of this machine, the longest first."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = ""
    folders = {
        str(bundle_folder.resolve()): "<bundle>",
        str(Path(__file__).resolve().parents[2]): "<repository>",
        sys.prefix: "<python>",
        sys.base_prefix: "<system python>",
        os.getcwd(): "<here>",
        os.path.expanduser("~"): "<home>",
    }
    names = {platform.node(): "<host>", user: "<user>"}
    private = {text: stands for text, stands in folders.items() if len(text) > 1}
    # Short or common names would cut ordinary words to pieces.
    private |= {text: stands for text, stands in names.items() if len(text) > 3 and text not in ("root", "localhost")}
    return dict(sorted(private.items(), key=lambda pair: -len(pair[0])))


def scrub(value: Any, private: Mapping[str, str]) -> Any:
    """The value with every private text replaced, in keys too."""
    if isinstance(value, str):
        for text, stands in private.items():
            value = re.sub(rf"(?<![A-Za-z0-9]){re.escape(text)}(?![A-Za-z0-9])", stands, value)
        return re.sub(r"/(?:home|Users|tmp|root)/[^\s'\",:]*", "<path>", value)
    if isinstance(value, Mapping):
        return {scrub(key, private): scrub(item, private) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrub(item, private) for item in value]
    return value
