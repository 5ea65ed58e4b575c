"""The ONNX Runtime encoder: damaged and unfitting files, providers, memory."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_emotion.errors import AudioError, BundleError, RuntimeUnavailableError
from edge_emotion_runtimes.onnx_encoder import CPU_PROVIDER, OnnxEncoder
from edge_emotion_runtimes.onnx_session import library


def edited(source: Path, target: Path, edit) -> Path:
    model = onnx.load(source)
    edit(model)
    onnx.save(model, target)
    return target


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "audio"


def drop_head(model: onnx.ModelProto) -> None:
    del model.graph.output[1]


def spoil_labels(model: onnx.ModelProto) -> None:
    next(entry for entry in model.metadata_props if entry.key == "labels").value = "anger, fear"


def forget_a_label(model: onnx.ModelProto) -> None:
    next(entry for entry in model.metadata_props if entry.key == "labels").value = '["anger", "fear"]'


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (rename_input, "exactly `waveform`"),
        (drop_head, "emotion_logits"),
        (spoil_labels, "metadata"),
        (forget_a_label, "7 emotion logits for 2 labels"),
    ],
)
def test_another_graph_than_the_contract_is_refused(onnx_path, tmp_path, edit, message):
    with pytest.raises(BundleError, match=message):
        OnnxEncoder(edited(onnx_path, tmp_path / "edited.onnx", edit))


def test_the_sample_rate_is_read_from_the_file(onnx_path, tmp_path):
    def slow_down(model: onnx.ModelProto) -> None:
        next(entry for entry in model.metadata_props if entry.key == "sample_rate").value = "8000"

    with OnnxEncoder(edited(onnx_path, tmp_path / "slow.onnx", slow_down), threads=1) as encoder:
        assert encoder.describe()["sample_rate_hz"] == 8000


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_cut_file_is_an_error(onnx_path, tmp_path, share):
    data = onnx_path.read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BundleError, match=r"cut\.onnx"):
        OnnxEncoder(cut)


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "absent.onnx", tmp_path):
        with pytest.raises(BundleError, match="no such file"):
            OnnxEncoder(path)


def test_a_file_without_metadata_is_taken(onnx_path, tmp_path):
    path = edited(onnx_path, tmp_path / "bare.onnx", lambda model: model.ClearField("metadata_props"))
    with OnnxEncoder(path, threads=1) as encoder:
        assert encoder.labels == ()
        assert encoder.sample_rate_hz == 16000


def test_a_provider_that_does_not_run_is_a_recorded_fallback(onnx_path):
    with OnnxEncoder(onnx_path, threads=1, providers=("NoSuchProvider", CPU_PROVIDER)) as encoder:
        assert encoder.providers == (CPU_PROVIDER,)
        assert encoder.fallbacks == (
            "encoder: NoSuchProvider was asked for and does not run here (this onnxruntime was built without it; "
            f"it has: {', '.join(library().get_available_providers())}); CPUExecutionProvider does",
        )
        assert encoder.encode(np.zeros(1600, np.float32)).embeddings.shape[0] == 1


def test_under_strict_it_is_an_error(onnx_path):
    with pytest.raises(RuntimeUnavailableError, match="NoSuchProvider"):
        OnnxEncoder(onnx_path, providers=("NoSuchProvider",), strict=True)


def test_no_threads_are_refused(onnx_path):
    with pytest.raises(RuntimeUnavailableError, match="threads"):
        OnnxEncoder(onnx_path, threads=0)


def test_too_short_for_the_graph_is_an_error_not_a_crash(encoder):
    """400 samples pass the check, and this graph needs 1600 for its first token."""
    with pytest.raises((AudioError, RuntimeUnavailableError)):
        encoder.encode(np.zeros(500, np.float32))


def test_nonsense_from_a_device_is_an_error(onnx_path, tmp_path):
    def divide_by_zero(model: onnx.ModelProto) -> None:
        filters = next(value for value in model.graph.initializer if value.name == "head")
        filters.CopyFrom(onnx.numpy_helper.from_array(np.full((32, 7), np.nan, np.float32), "head"))

    with (
        OnnxEncoder(edited(onnx_path, tmp_path / "nan.onnx", divide_by_zero), threads=1) as encoder,
        pytest.raises(RuntimeUnavailableError, match="NaN or infinity"),
    ):
        encoder.encode(np.ones(1600, np.float32))


def test_a_missing_library_says_how_to_install_it(onnx_path, monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *arguments):
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real_import(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(RuntimeUnavailableError, match="pip install onnxruntime"):
        OnnxEncoder(onnx_path)


def test_recordings_of_every_length_do_not_grow_the_memory(encoder):
    """onnxruntime keeps a memory plan for each input length unless told not to: 1.4 MiB over these 6000."""
    samples = np.zeros(10_000, np.float32)

    def use(lengths: range) -> None:
        for length in lengths:
            encoder.encode(samples[:length])

    use(range(9000, 10_000))
    before = resident_bytes()
    use(range(1600, 7600))
    assert resident_bytes() - before < 700 * 1024


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
