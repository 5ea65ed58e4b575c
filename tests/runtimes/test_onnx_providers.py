"""onnxruntime-gpu on a machine without a GPU: it lists CUDA, and runs on the processor.

The fake behaves as onnxruntime-gpu 1.31.1 was seen to: both providers are listed, a session that asks for them is made
without them, and about TensorRT it prints to stdout.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edge_emotion.errors import RuntimeUnavailableError
from edge_emotion_runtimes import onnx_encoder, onnx_session
from edge_emotion_runtimes.onnx_encoder import OnnxEncoder
from edge_emotion_runtimes.onnx_session import CPU_PROVIDER, CUDA_PROVIDER, TENSORRT_PROVIDER, nodes_by_provider


class GpuBuild(types.ModuleType):
    """The real onnxruntime, as if it had been built with CUDA."""

    def __init__(self, folder: Path) -> None:
        super().__init__("onnxruntime")
        self.__file__ = str(folder / "__init__.py")
        self.asked: list[list[tuple[str, dict]]] = []

    def __getattr__(self, name):
        return getattr(onnxruntime, name)

    def get_available_providers(self):
        return [TENSORRT_PROVIDER, CUDA_PROVIDER, CPU_PROVIDER]

    def InferenceSession(self, path, options, providers):
        self.asked.append(providers)
        if TENSORRT_PROVIDER in [provider[0] for provider in providers]:
            print("*************** EP Error ***************")  # noqa: T201
        return onnxruntime.InferenceSession(path, options, providers=[CPU_PROVIDER])


@pytest.fixture
def build(monkeypatch, tmp_path) -> GpuBuild:
    made = GpuBuild(tmp_path)
    (tmp_path / "capi").mkdir()
    for name in ("cuda", "tensorrt"):
        (tmp_path / "capi" / f"libonnxruntime_providers_{name}.so").write_bytes(b"no library")
    monkeypatch.setitem(sys.modules, "onnxruntime", made)
    return made


@pytest.mark.parametrize("providers", [(CUDA_PROVIDER,), (TENSORRT_PROVIDER, CUDA_PROVIDER)])
def test_it_is_a_recorded_fallback_with_the_loaders_reason(build, onnx_path, providers, capsys):
    with OnnxEncoder(onnx_path, threads=1, providers=providers) as encoder:
        assert encoder.encode(np.zeros(1600, np.float32)).embeddings.shape == (1, 32)
        described = encoder.describe()
    assert described["providers"] == [CPU_PROVIDER]
    assert described["nodes"] == {CPU_PROVIDER: 6}
    assert len(described["fallbacks"]) == len(providers)
    for provider, fallback in zip(providers, described["fallbacks"], strict=True):
        assert fallback.startswith(f"encoder: {provider} was asked for and does not run here (")
        assert "file too short" in fallback or "invalid ELF header" in fallback
        assert fallback.endswith("CPUExecutionProvider does")
    assert capsys.readouterr().out == ""


def test_under_strict_it_is_an_error(build, onnx_path):
    with pytest.raises(RuntimeUnavailableError, match=CUDA_PROVIDER):
        OnnxEncoder(onnx_path, providers=(CUDA_PROVIDER,), strict=True)


def test_libraries_that_are_whole_leave_the_gpu(build, monkeypatch):
    monkeypatch.setattr(onnx_session.ctypes, "CDLL", lambda path: None)
    assert "no usable GPU" in onnx_session.why_not(CUDA_PROVIDER)


def test_a_build_without_cuda_names_the_one_with_it():
    if CUDA_PROVIDER in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    assert "pip install onnxruntime-gpu" in onnx_session.why_not(CUDA_PROVIDER)


def test_options_and_the_number_of_the_gpu_reach_the_session(build, onnx_path):
    options = {CUDA_PROVIDER: {"use_tf32": "0"}}
    with OnnxEncoder(onnx_path, threads=1, providers=(CUDA_PROVIDER,), provider_options=options, device=1):
        pass
    assert build.asked[0] == [(CUDA_PROVIDER, {"device_id": "1", "use_tf32": "0"}), (CPU_PROVIDER, {})]


def test_a_provider_that_is_there_and_computes_nothing_is_a_fallback(build, onnx_path, monkeypatch):
    """As when every node of a graph is one that CUDA has no kernel for."""

    class Idle:
        def __init__(self, session) -> None:
            self._session = session

        def __getattr__(self, name):
            return getattr(self._session, name)

        def get_providers(self):
            return [CUDA_PROVIDER, CPU_PROVIDER]

    opened = build.InferenceSession
    monkeypatch.setattr(build, "InferenceSession", lambda *given, **named: Idle(opened(*given, **named)), raising=False)
    with OnnxEncoder(onnx_path, threads=1, providers=(CUDA_PROVIDER,)) as encoder:
        assert "it takes none of the 6 nodes" in encoder.fallbacks[0]


def test_on_a_gpu_the_encoder_binds_its_memory(onnx_path, monkeypatch):
    calls = []

    def bound(session, outputs, inputs, device, index):
        calls.append((device, index))
        return session.run(outputs, inputs)

    with OnnxEncoder(onnx_path, threads=1, device=1) as encoder:
        expected = encoder.encode(np.ones(1600, np.float32)).embeddings
        monkeypatch.setattr(encoder, "providers", (CUDA_PROVIDER, CPU_PROVIDER))
        monkeypatch.setattr(onnx_encoder, "run_on_device", bound)
        np.testing.assert_array_equal(encoder.encode(np.ones(1600, np.float32)).embeddings, expected)
    assert calls == [("cuda", 1)]


def test_a_device_that_fails_is_not_a_damaged_file(build, onnx_path, monkeypatch):
    def fail(path, options, providers):
        if providers == [CPU_PROVIDER]:
            return onnxruntime.InferenceSession(path, options, providers=providers)
        raise RuntimeError("CUDA failure 2: out of memory")

    monkeypatch.setattr(build, "InferenceSession", fail, raising=False)
    with pytest.raises(RuntimeUnavailableError, match=r"on CUDAExecutionProvider.*out of memory.*choose device cpu"):
        OnnxEncoder(onnx_path, providers=(CUDA_PROVIDER,))


def test_nodes_are_counted_where_onnxruntime_tells(onnx_path):
    session = onnx_session.open_session(onnx_path, 1)
    assert nodes_by_provider(session) == {}  # not recorded for the processor alone
