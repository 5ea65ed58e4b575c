"""Which encoder runs where: what was asked for, or a recorded fallback, or under strict an error."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edge_emotion.bundle import load_bundle, write_manifest
from edge_emotion.errors import BundleError, RuntimeUnavailableError
from edge_emotion_runtimes import encoders, onnx_session, selection
from edge_emotion_runtimes.encoders import open_encoder, provider_options

CLIP = Path(__file__).parents[2] / "examples" / "emodb_16_sadness.wav"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGE_EMOTION_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def opening(bundle):
    """Opens an encoder of the tiny bundle; closes it."""
    opened = []

    def make(*arguments, **options):
        opened.append(open_encoder(bundle, *arguments, **options))
        return opened[-1]

    yield make
    for found in opened:
        found.encoder.close()


def ran(opened) -> tuple[str, str]:
    described = opened.encoder.describe()
    return described["runtime"], described["file"]


def test_without_a_gpu_auto_is_the_processor_and_says_why(opening):
    opened = opening()
    assert ran(opened) == ("onnxruntime", "encoder.int8.onnx")
    assert opened.device.startswith("cpu: no GPU that CUDA can use (")
    assert opened.fallbacks == ()


@pytest.mark.parametrize(
    ("asked", "device", "runtime", "file"),
    [
        ("auto", "cuda", "tensorrt", "encoder.fp32.onnx"),
        ("tensorrt", "auto", "tensorrt", "encoder.fp32.onnx"),
        ("tensorrt/int8", "auto", "tensorrt", "encoder.int8.onnx"),
        ("tensorrt", "cpu", "tensorrt", "encoder.fp32.onnx"),
        ("int8", "cuda", "tensorrt", "encoder.int8.onnx"),
        ("onnxruntime/fp32", "cpu", "onnxruntime", "encoder.fp32.onnx"),
        ("auto", "cpu", "onnxruntime", "encoder.int8.onnx"),
    ],
)
def test_what_is_asked_for_is_taken(opening, gpu, asked, device, runtime, file):
    opened = opening(asked, device, strict=True)
    assert ran(opened) == (runtime, file)
    assert opened.fallbacks == ()
    assert opened.device.startswith("cuda" if runtime == "tensorrt" else "cpu")


def test_a_whole_analysis_runs_on_tensorrt(bundle_path, gpu):
    with (
        selection.load(bundle_path, encoder="tensorrt", llm="none", strict=True) as on_gpu,
        selection.load(bundle_path, encoder="fp32", llm="none", device="cpu") as on_cpu,
    ):
        ours, theirs = on_gpu.analyze(CLIP), on_cpu.analyze(CLIP)
    assert ours.label == theirs.label
    assert ours.runtime["encoder"]["runtime"] == "tensorrt"
    assert ours.runtime["encoder"]["providers"] == ["TensorRT on Orin"]
    assert ours.runtime["fallbacks"] == []
    assert gpu.runs > 0
    assert gpu.live == 0


def test_an_engine_is_built_before_the_language_model_takes_the_memory(bundle_path, gpu, monkeypatch):
    built_before, open_first = [], selection._open_first

    def open_after(*arguments):
        built_before.append(gpu.builds)
        return open_first(*arguments)

    monkeypatch.setattr(selection, "_open_first", open_after)
    selection.load(bundle_path, encoder="tensorrt").close()
    assert built_before == [1]


@pytest.mark.parametrize("first_s", [0.001, 0.1])
def test_with_a_gpu_auto_measures_both_and_takes_the_faster(opening, gpu, monkeypatch, first_s):
    times, measured = iter([first_s, 0.01]), []

    def seconds(encoder):
        measured.append(encoder)
        return next(times)

    monkeypatch.setattr(encoders, "_seconds", seconds)
    opened = opening()
    (dropped,) = [encoder for encoder in measured if encoder is not opened.encoder]
    with pytest.raises(RuntimeUnavailableError, match="closed"):
        dropped.encode(np.zeros(8000, np.float32))
    assert ran(opened)[0] == ("tensorrt" if first_s < 0.01 else "onnxruntime")
    assert opened.device.startswith("cuda: the faster, 1.0 ms" if first_s < 0.01 else "cpu: the faster, 100.0 ms")
    assert "10.0 ms on the processor" in opened.device
    assert opened.fallbacks == ()


def test_the_measurement_is_one(opening, gpu):
    found = encoders._seconds(opening("fp32", "cpu").encoder)
    assert 0 < found < 5


def test_a_gpu_that_fails_is_a_fallback_to_the_processor(opening, gpu):
    gpu.failing["cudaMemGetInfo"] = "cudaErrorMemoryAllocation"
    opened = opening("tensorrt", "cuda")
    assert ran(opened) == ("onnxruntime", "encoder.int8.onnx")
    (fallback,) = opened.fallbacks
    assert fallback.startswith("encoder: encoder.fp32.onnx was to run on tensorrt: ")
    assert "memory is full" in fallback
    with pytest.raises(RuntimeUnavailableError, match="memory is full"):
        opening("tensorrt", "cuda", strict=True)


def test_without_tensorrt_and_without_cuda_each_fallback_is_told(bundle_path, monkeypatch):
    monkeypatch.setattr(encoders.tensorrt_api, "is_installed", lambda: True)
    with selection.load(bundle_path, llm="none", device="cuda") as analyzer:
        runtime = analyzer.analyze(CLIP).runtime
    assert runtime["encoder"]["providers"] == ["CPUExecutionProvider"]
    assert [entry.split(": ")[1] for entry in runtime["fallbacks"]] == [
        "encoder.fp32.onnx was to run on tensorrt",
        "encoder.fp32.onnx was to run on onnxruntime",
    ]
    with pytest.raises(RuntimeUnavailableError, match="CUDAExecutionProvider"):
        selection.load(bundle_path, llm="none", device="cuda", strict=True)


def test_a_graph_that_tensorrt_cannot_take_is_a_fallback(bundle_path, tmp_path, gpu, monkeypatch):
    from edge_emotion_runtimes import tensorrt_builder

    def refuse(*_, **__):
        raise BundleError("planted/Unique (Unique): unsupported")

    monkeypatch.setattr(tensorrt_builder, "build_engine", refuse)
    with open_encoder(load_bundle(bundle_path), "tensorrt").encoder as encoder:  # type: ignore[attr-defined]
        assert encoder.describe()["runtime"] == "onnxruntime"
    with pytest.raises(BundleError, match="planted/Unique"):
        open_encoder(load_bundle(bundle_path), "tensorrt", strict=True)


def test_a_file_that_was_changed_is_refused_whatever_runs_it(bundle_path, tmp_path, gpu):
    copy = tmp_path / "bundle"
    shutil.copytree(bundle_path, copy)
    data = bytearray((copy / "encoder.fp32.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "encoder.fp32.onnx").write_bytes(data)
    with pytest.raises(BundleError, match="does not match its manifest"):
        open_encoder(load_bundle(copy, verify=False), "tensorrt")


def test_names_that_are_not_known(bundle):
    for asked in ("openvino", "tensorrt/int4", "tensorrt/", "/fp32", "fp32/tensorrt"):
        with pytest.raises(BundleError, match="has no encoder"):
            open_encoder(bundle, asked)
    for device in ("tpu", "cpu:1", "cuda:", "cuda:x", "cuda:-1", "auto:0", ""):
        with pytest.raises(RuntimeUnavailableError, match="unknown device"):
            open_encoder(bundle, device=device)


def test_the_second_gpu(opening, gpu):
    gpu.count = 2
    assert opening("auto", "cuda:1", strict=True).encoder.describe()["device"] == 1
    with pytest.raises(RuntimeUnavailableError, match="no GPU 2 here"):
        opening("tensorrt", "cuda:2", strict=True)


def test_options_come_from_the_target_of_the_export(bundle_path, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(bundle_path, copy)
    manifest = load_bundle(copy).manifest
    target = {"name": "mine", "provider_options": {"CUDAExecutionProvider": {"use_tf32": 1}}}
    manifest = write_manifest(copy, _with_target(manifest, target), force=True)
    ranges = [(1600, 40_800, 80_000), (80_001, 100_000, 120_000)]
    options = provider_options(manifest.provenance, ["ab" * 32], ranges)
    assert options["CUDAExecutionProvider"] == {"use_tf32": "1"}
    tensorrt = options["TensorrtExecutionProvider"]
    assert tensorrt["trt_profile_min_shapes"] == "waveform:1x1600,waveform:1x80001"
    assert tensorrt["trt_profile_max_shapes"] == "waveform:1x80000,waveform:1x120000"
    assert tensorrt["trt_engine_cache_path"].endswith("onnxruntime/abababababababab")
    default = provider_options({}, ["ab" * 32], ranges)
    assert default["CUDAExecutionProvider"]["use_tf32"] == "0"


def _with_target(manifest, target):
    from dataclasses import replace

    return replace(manifest, provenance={**manifest.provenance, "target": target})


def test_io_binding_gives_what_a_plain_run_does(bundle, monkeypatch):
    """On the processor's memory, which is the only one here: the same calls as on a GPU's."""
    session = onnx_session.open_session(bundle.path / "encoder.fp32.onnx", 1)
    samples = np.random.default_rng(0).normal(0, 0.1, (1, 8000)).astype(np.float32)
    outputs = ["embeddings", "emotion_logits"]
    bound = onnx_session.run_on_device(session, outputs, {"waveform": samples}, "cpu")
    plain = session.run(outputs, {"waveform": samples})
    for ours, theirs in zip(bound, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)
