"""The encoder on TensorRT, with a GPU that exists only in memory: every way in which a machine can be wrong."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_emotion.errors import AudioError, BundleError, RuntimeUnavailableError
from edge_emotion_runtimes import cuda_api, engine_cache, tensorrt_api, tensorrt_builder
from edge_emotion_runtimes.engine_cache import EngineCache
from edge_emotion_runtimes.onnx_encoder import OnnxEncoder
from edge_emotion_runtimes.tensorrt_encoder import TensorrtEncoder

from .fake_gpu import Gpu, install


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.fixture
def load(gpu, onnx_path, cache):
    """Opens the tiny encoder on the GPU; closes what it opened, and holds it to leave nothing behind."""
    opened = []

    def make(path: Path = onnx_path, **options) -> TensorrtEncoder:
        opened.append(TensorrtEncoder(path, min_samples=1600, **{"cache": cache} | options))
        return opened[-1]

    yield make
    for encoder in opened:
        encoder.close()
    assert gpu.live == 0


def test_it_computes_what_onnxruntime_does(load, onnx_path):
    encoder = load()
    with OnnxEncoder(onnx_path, threads=1) as reference:
        for samples in (1600, 30_000, 80_000, 80_001, 240_001, 480_000):
            ours, theirs = encoder.encode(noise(samples)), reference.encode(noise(samples))
            np.testing.assert_array_equal(ours.embeddings, theirs.embeddings)
            np.testing.assert_array_equal(ours.emotion_logits, theirs.emotion_logits)


def test_it_says_what_runs_and_where(load, gpu):
    described = load().describe()
    assert described["runtime"] == "tensorrt"
    assert described["version"] == "10.3.0"
    assert described["providers"] == ["TensorRT on Orin"]
    assert described["compute_capability"] == "8.7"
    assert described["cuda"] == "12.6"
    assert described["profiles"] == [[1600, 40800, 80000], [80001, 160000, 240000], [240001, 360000, 480000]]
    assert "built in" in described["notes"][0]


def test_the_second_time_nothing_is_built(load, gpu):
    load().close()
    second = load()
    assert gpu.builds == 1
    assert second.describe()["notes"] == []


@pytest.mark.parametrize(("name", "value"), [("release", "11.4.0"), ("capability", (11, 0)), ("driver", 13000)])
def test_another_machine_builds_its_own(load, gpu, monkeypatch, name, value):
    load().close()
    setattr(gpu, name, value)
    install(monkeypatch, gpu)
    load()
    assert gpu.builds == 2


def edit_header(path: Path, edit) -> None:
    data = path.read_bytes()
    start = len(engine_cache.MAGIC) + 4
    size = int.from_bytes(data[start - 4 : start], "little")
    header = json.loads(data[start : start + size])
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(engine_cache.MAGIC + len(text).to_bytes(4, "little") + text + data[start + size :])


def from_another_gpu(path: Path) -> None:
    edit_header(path, lambda header: header["key"].update(gpu="Thor", compute_capability="11.0"))


def from_another_version(path: Path) -> None:
    edit_header(path, lambda header: header["key"].update(tensorrt="8.6.2"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (from_another_gpu, "built for gpu Thor, here it is Orin"),
        (from_another_version, "built for tensorrt 8.6.2, here it is 10.3.0"),
        (cut, "cut off"),
        (flip, "checksum"),
        (lambda path: path.write_bytes(b""), "damaged"),
    ],
    ids=["another gpu", "another version", "cut", "flipped", "empty"],
)
def test_a_cached_engine_that_is_wrong_is_built_again_and_told(load, gpu, cache, spoil, message):
    first = load()
    expected = first.encode(noise(8000)).embeddings
    first.close()
    (path,) = cache.folder.glob("*.engine")
    spoil(path)
    again = load()
    assert message in again.describe()["notes"][0]
    assert gpu.builds == 2
    np.testing.assert_array_equal(again.encode(noise(8000)).embeddings, expected)
    again.close()
    assert load().describe()["notes"] == []


def test_an_engine_that_is_wrong_goes_even_where_the_new_one_cannot_be_kept(load, cache, monkeypatch):
    load().close()
    (path,) = cache.folder.glob("*.engine")
    flip(path)

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(engine_cache.os, "fsync", fail)
    assert load().encode(noise(8000)).embeddings.shape == (5, 32)
    assert not path.exists()


def test_an_engine_that_tensorrt_refuses_is_built_again(load, gpu, cache):
    first = load()
    key = first._key
    first.close()
    cache.store(key, b"whole, and yet no engine", {})
    again = load()
    assert "refused by TensorRT" in again.describe()["notes"][0]
    assert "kPLAN_MAGIC" in again.describe()["notes"][0]
    assert gpu.builds == 2


def test_an_engine_that_cannot_be_loaded_even_when_new(load, gpu):
    gpu.refusing.add("deserialize_cuda_engine")
    with pytest.raises(RuntimeUnavailableError, match=r"just built.*incompatible device"):
        load()


def test_a_full_disk_does_not_stop_it(load, gpu, cache, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(engine_cache.os, "fsync", fail)
    encoder = load()
    assert any("disk is full" in note for note in encoder.describe()["notes"])
    assert encoder.encode(noise(8000)).embeddings.shape == (5, 32)
    assert not list(cache.folder.glob("*.engine"))
    assert not list(cache.folder.glob("*.partial"))


def test_no_permission_to_keep_it_does_not_stop_it(load, tmp_path):
    (tmp_path / "file").write_text("")
    encoder = load(cache=EngineCache(tmp_path / "file" / "engines"))
    assert any("cannot be kept" in note for note in encoder.describe()["notes"])
    assert encoder.encode(noise(8000)).embeddings.shape == (5, 32)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("cudaGetDeviceCount", "cudaErrorInsufficientDriver", "no NVIDIA driver"),
        ("cudaGetDeviceCount", "cudaErrorNoDevice", "no GPU is seen"),
        ("cudaSetDevice", "cudaErrorIllegalAddress", "cudaErrorIllegalAddress"),
    ],
)
def test_a_machine_without_a_gpu_is_told_so(load, gpu, function, error, message):
    gpu.failing[function] = error
    with pytest.raises(RuntimeUnavailableError, match=message):
        load()


def test_a_gpu_that_is_not_there(load, gpu):
    with pytest.raises(RuntimeUnavailableError, match=r"no GPU 3 here; there are: 0 \(Orin\)"):
        load(device=3)
    gpu.count = 0
    with pytest.raises(RuntimeUnavailableError, match="there are: none"):
        load()


@pytest.mark.parametrize("function", ["cudaMalloc", "cudaMallocHost"])
def test_memory_that_runs_out_when_it_is_run(load, gpu, function):
    encoder = load()
    gpu.failing[function] = "cudaErrorMemoryAllocation"
    with pytest.raises(RuntimeUnavailableError, match="memory is full"):
        encoder.encode(noise(8000))
    assert gpu.live == 0
    gpu.failing.clear()
    assert encoder.encode(noise(8000)).embeddings.shape == (5, 32)


def test_no_room_for_a_context(load, gpu):
    encoder = load()
    gpu.refusing.add("create_execution_context")
    with pytest.raises(RuntimeUnavailableError, match="no room"):
        encoder.encode(noise(8000))
    assert gpu.live == 0


def test_memory_that_runs_out_while_building(load, gpu, cache):
    gpu.refusing.add("build_serialized_network")
    with pytest.raises(RuntimeUnavailableError, match=r"memory ran out.*OutOfMemory"):
        load()
    assert not list(cache.folder.glob("*.engine"))


def test_too_little_memory_is_refused_before_the_build(load, gpu, monkeypatch):
    monkeypatch.setattr(tensorrt_builder, "available_memory", lambda: 2**29)
    with pytest.raises(RuntimeUnavailableError, match=r"takes about 0\.7 GiB, 0\.5 GiB of memory are available"):
        load()
    assert gpu.builds == 0


def test_a_run_that_fails(load, gpu):
    encoder = load()
    gpu.failing["cudaStreamSynchronize"] = "cudaErrorIllegalAddress"
    with pytest.raises(RuntimeUnavailableError, match="cudaErrorIllegalAddress"):
        encoder.encode(noise(8000))


def test_the_same_length_again_is_replayed_as_a_graph(load, gpu):
    encoder = load()
    expected = [encoder.encode(noise(8000, seed)).embeddings for seed in range(4)]
    assert gpu.captures == 1
    assert gpu.runs == 4
    assert encoder.describe()["cuda_graph_launches"] == 3
    encoder.encode(noise(9600))  # another length ends it
    assert len(gpu.graphs) == 0
    again = [encoder.encode(noise(8000, seed)).embeddings for seed in range(4)]
    np.testing.assert_array_equal(expected, again)
    assert gpu.captures == 2


@pytest.mark.parametrize("failing", ["capture", "cudaStreamBeginCapture", "cudaGraphInstantiate"])
def test_an_engine_that_cannot_be_recorded_runs_all_the_same(load, gpu, failing):
    if failing == "capture":
        gpu.refusing.add(failing)
    else:
        gpu.failing[failing] = "cudaErrorStreamCaptureUnsupported"
    encoder = load()
    first = [encoder.encode(noise(8000)).embeddings for _ in range(3)]
    assert all((embeddings == first[0]).all() for embeddings in first)
    assert [note for note in encoder.describe()["notes"] if "no CUDA graph" in note] != []
    assert encoder.describe()["cuda_graph_launches"] == 0


def test_a_profile_takes_memory_only_when_its_lengths_come(load, gpu):
    encoder = load()
    assert gpu.live == 0
    encoder.encode(noise(8000))
    of_one = gpu.live
    encoder.encode(noise(9600))
    assert gpu.live == of_one
    encoder.encode(noise(200_000))
    assert gpu.live == 2 * of_one


def test_a_thousand_sounds_allocate_nothing_more(load, gpu):
    encoder = load()
    encoder.encode(noise(1600))
    before = gpu.live
    for samples in range(1600, 2600):
        encoder.encode(noise(samples))
    assert gpu.live == before


def test_lengths_that_it_was_not_built_for(load):
    encoder = load(max_samples=100_000)
    with pytest.raises(AudioError, match="at most 100000"):
        encoder.encode(noise(100_001))
    with pytest.raises(AudioError, match="at least 1600"):
        encoder.encode(noise(1599))
    assert encoder.encode(noise(100_000)).embeddings.shape == (62, 32)


def test_another_thread_uses_the_gpu_that_was_chosen(load, gpu):
    gpu.count = 2
    encoder, seen = load(device=1), []

    def work() -> None:
        encoder.encode(noise(8000))
        seen.append(gpu.device_of_thread.index)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [1]


def test_a_node_that_tensorrt_does_not_know_is_named(load, onnx_path, tmp_path):
    model = onnx.load(onnx_path)
    model.graph.node.append(onnx.helper.make_node("Unique", ["emotion_logits"], ["planted"], "planted/Unique"))
    onnx.save(model, tmp_path / "planted.onnx")
    with pytest.raises(BundleError, match=r"planted/Unique \(Unique\): unsupported"):
        load(tmp_path / "planted.onnx")


def test_a_missing_file(load, tmp_path):
    with pytest.raises(BundleError, match="no such file"):
        load(tmp_path / "absent.onnx")


def test_a_graph_that_is_not_of_the_contract(load, onnx_path, tmp_path):
    model = onnx.load(onnx_path)
    del model.graph.output[1]
    onnx.save(model, tmp_path / "headless.onnx")
    with pytest.raises(BundleError, match="no emotion_logits"):
        load(tmp_path / "headless.onnx")


def test_nan_from_a_device_is_an_error(load, onnx_path, tmp_path):
    model = onnx.load(onnx_path)
    head = next(value for value in model.graph.initializer if value.name == "head")
    head.CopyFrom(onnx.numpy_helper.from_array(np.full((32, 7), np.nan, np.float32), "head"))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(RuntimeUnavailableError, match="NaN or infinity on TensorRT on Orin"):
        load(tmp_path / "nan.onnx").encode(noise(8000))


def test_timings_are_kept_and_those_of_another_machine_are_not_used(load, cache, gpu):
    load().close()
    timing = cache.folder / "8.7-10.3.0.timing"
    assert timing.read_bytes() == b"+"
    next(cache.folder.glob("*.engine")).unlink()
    load().close()
    assert timing.read_bytes() == b"++"
    timing.write_bytes(b"other")
    next(cache.folder.glob("*.engine")).unlink()
    load()
    assert timing.read_bytes() == b"+"


def test_where_cuda_python_was_before(monkeypatch, onnx_path, cache):
    install(monkeypatch, gpu := Gpu(), place="cuda.cudart")
    try:
        with TensorrtEncoder(onnx_path, cache=cache) as encoder:
            assert encoder.encode(noise(8000)).embeddings.shape == (5, 32)
        assert gpu.live == 0
    finally:
        cuda_api.library.cache_clear()
        tensorrt_api.library.cache_clear()


@pytest.mark.parametrize("missing", ["tensorrt", "cuda"])
def test_a_package_that_is_missing(load, gpu, monkeypatch, missing):
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, name, None)
    cuda_api.library.cache_clear()
    tensorrt_api.library.cache_clear()
    with pytest.raises(RuntimeUnavailableError, match=f"{missing}.* cannot be imported.*(pip|apt) install"):
        load()
