"""What only a GPU can show. On one: `pytest -m gpu tests/runtimes`; without one each test says why it is skipped.

EDGE_EMOTION_BUNDLE names the bundle to run; the built-in one by default.
"""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from edge_emotion.bundle import Bundle, load_bundle
from edge_emotion.errors import RuntimeUnavailableError
from edge_emotion_runtimes import cuda_api, tensorrt_api
from edge_emotion_runtimes.encoders import open_encoder
from edge_emotion_runtimes.engine_cache import EngineCache
from edge_emotion_runtimes.onnx_encoder import OnnxEncoder
from edge_emotion_runtimes.onnx_session import CUDA_PROVIDER, TENSORRT_PROVIDER
from edge_emotion_runtimes.tensorrt_encoder import TensorrtEncoder

pytestmark = pytest.mark.gpu
# What int8 of the processor is not for.
PRECISIONS = ("fp32", "fp16", "int8-qdq")
COSINES = {"fp32": 0.9999, "fp16": 0.999, "int8-qdq": 0.99}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(os.environ.get("EDGE_EMOTION_BUNDLE", "nano"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> EngineCache:
    return EngineCache(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def gpu() -> cuda_api.Device:
    try:
        return cuda_api.device(0)
    except RuntimeUnavailableError as error:
        pytest.skip(f"no GPU: {error}")


@pytest.fixture(scope="module")
def with_tensorrt(gpu) -> None:
    try:
        tensorrt_api.library()
    except RuntimeUnavailableError as error:
        pytest.skip(f"no TensorRT: {error}")


def sounds(bundle: Bundle) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    longest = bundle.manifest.encoder.max_window_s
    return [
        random.normal(0, 0.1, round(seconds * 16000)).astype(np.float32)
        for seconds in (bundle.manifest.encoder.min_window_s, 3.1, 9.99, min(29.9, longest), longest)
    ]


def open_tensorrt(bundle: Bundle, precision: str, cache: EngineCache) -> TensorrtEncoder:
    spec = bundle.manifest.encoder
    file = next((variant.file for variant in spec.variants if variant.precision == precision), None)
    if file is None:
        pytest.skip(f"bundle {bundle.manifest.name} has no {precision} encoder")
    shortest, longest = (round(seconds * 16000) for seconds in (spec.min_window_s, spec.max_window_s))
    return TensorrtEncoder(bundle.path / file, 0, shortest, longest, cache)


def lowest_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    norms = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    return float(((ours * theirs).sum(axis=-1) / norms).min())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrt_computes_what_the_processor_does(with_tensorrt, bundle, cache, precision):
    with (
        open_tensorrt(bundle, precision, cache) as on_gpu,
        OnnxEncoder(bundle.encoder_path("fp32")) as on_cpu,
    ):
        for samples in sounds(bundle):
            ours, theirs = on_gpu.encode(samples), on_cpu.encode(samples)
            assert ours.embeddings.shape == theirs.embeddings.shape
            assert lowest_cosine(ours.embeddings, theirs.embeddings) >= COSINES[precision]


def test_an_engine_is_built_once(with_tensorrt, bundle, cache):
    open_tensorrt(bundle, "fp32", cache).close()
    started = time.monotonic()
    with open_tensorrt(bundle, "fp32", cache) as again:
        assert again.describe()["notes"] == []
    assert time.monotonic() - started < 10


def test_sounds_of_one_length_are_replayed_as_a_graph_and_are_the_same(with_tensorrt, bundle, cache):
    samples = sounds(bundle)[1]
    with open_tensorrt(bundle, "fp32", cache) as encoder:
        plain, *replayed = [encoder.encode(samples).embeddings for _ in range(5)]
        described = encoder.describe()
    assert described["cuda_graph_launches"] >= 3, described["notes"]
    for embeddings in replayed:
        np.testing.assert_allclose(embeddings, plain, rtol=1e-3, atol=1e-3)


def test_a_thousand_sounds_take_no_more_memory(with_tensorrt, bundle, cache):
    random = np.random.default_rng(0)
    with open_tensorrt(bundle, "fp32", cache) as encoder:
        for samples in sounds(bundle):
            encoder.encode(samples)
        before = cuda_api.free_memory()
        for _ in range(1000):
            encoder.encode(random.normal(0, 0.1, random.integers(8000, 80_000)).astype(np.float32))
        assert before - cuda_api.free_memory() < 16 * 2**20


def test_a_whole_analysis_runs_on_tensorrt(with_tensorrt, bundle):
    with open_encoder(bundle, "tensorrt", strict=True).encoder as encoder:  # type: ignore[attr-defined]
        assert encoder.describe()["runtime"] == "tensorrt"


@pytest.mark.parametrize("provider", [CUDA_PROVIDER, TENSORRT_PROVIDER])
def test_onnxruntime_runs_there_and_says_so(gpu, bundle, provider):
    try:
        on_gpu = OnnxEncoder(bundle.encoder_path("fp32"), providers=(provider,), strict=True)
    except RuntimeUnavailableError as error:
        pytest.skip(str(error))
    with on_gpu, OnnxEncoder(bundle.encoder_path("fp32")) as on_cpu:
        assert on_gpu.describe()["providers"][0] == provider
        for samples in sounds(bundle):
            ours, theirs = on_gpu.encode(samples), on_cpu.encode(samples)
            assert lowest_cosine(ours.embeddings, theirs.embeddings) >= COSINES["fp32"]
