"""Building engines: what a failed import means, releases, profiles, memory, and a real compiler where there is one."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from edge_emotion.errors import BundleError, RuntimeUnavailableError
from edge_emotion_runtimes import tensorrt_api, tensorrt_builder
from edge_emotion_runtimes.tensorrt_builder import BuildOptions, build_engine, check_memory, profiles


def test_the_memory_guard():
    check_memory(2**30, 5 * 2**30, "memory")
    with pytest.raises(RuntimeUnavailableError, match=r"4\.7 GiB, 4\.6 GiB of memory"):
        check_memory(2**30, int(4.6 * 2**30), "memory")
    assert tensorrt_builder.available_memory() > 2**20


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("No module named 'tensorrt'", "cannot be imported"),
        ("libnvinfer.so.10: cannot open shared object file", "bindings are of TensorRT 10"),
        ("libnvonnxparser.so.11: cannot open shared object file", "library libnvonnxparser.so.11 is not"),
        ("libcudart.so.12: cannot open shared object file", "install CUDA and its driver"),
        ("libcublasLt.so.13: cannot open shared object file", "needs libcublasLt"),
    ],
)
@pytest.mark.parametrize(("machine", "line"), [("aarch64", "python3-libnvinfer"), ("x86_64", "pip install tensorrt")])
def test_what_a_failed_import_means(monkeypatch, message, told, machine, line):
    monkeypatch.setattr(tensorrt_api.platform, "machine", lambda: machine)
    explained = tensorrt_api._explain(message)
    assert told in explained
    assert line in explained


@pytest.mark.parametrize("version", ["8.6.2", "10.0.1", "10.2.0", "", "nonsense", "12.0"])
def test_a_release_that_this_was_not_written_for(version):
    with pytest.raises(RuntimeUnavailableError, match=r"10\.3 to 11"):
        tensorrt_api.check_release(version)


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1.11", "11.0.0.114", "11.4.0.106"])
def test_releases_that_it_was_written_for(version):
    assert tensorrt_api.check_release(version) >= (10, 3)


def test_profiles_cover_every_length_once():
    for fewest, most in [(1600, 480_000), (4800, 80_000), (4800, 80_001), (100_000, 200_000), (4800, 320_000)]:
        found = profiles(fewest, most)
        assert found[0][0] == fewest
        assert found[-1][2] == most
        assert all(low <= usual <= high for low, usual, high in found)
        assert all(after[0] == before[2] + 1 for before, after in itertools.pairwise(found))


def test_the_options_that_change_an_engine_are_in_its_key():
    fields = {field.name for field in dataclasses.fields(BuildOptions)}
    assert {name for name, _ in BuildOptions().flags()} == fields - {"workspace_bytes"}
    assert BuildOptions(tf32=True).flags() != BuildOptions().flags()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encoder.fp32.onnx", "encoder.int8.onnx"])
def test_a_real_compiler_takes_what_is_shipped_and_names_what_it_does_not(name):
    """TensorRT-RTX compiles without a GPU: the same parser and the same names as TensorRT 11."""
    tensorrt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    path = Path(__file__).parents[2] / "edge_emotion" / "bundles" / "nano" / name
    logger = tensorrt_api.create_logger(tensorrt)
    if name == "encoder.fp32.onnx":
        built = build_engine(tensorrt, logger, path, profiles(4800, 480_000))
        assert len(built.engine) > 10**6
        assert built.layers > 300
    else:
        with pytest.raises(BundleError, match=r"DynamicQuantizeLinear.*layers\.0\.query/MatMul_quant"):
            build_engine(tensorrt, logger, path, profiles(4800, 480_000))
