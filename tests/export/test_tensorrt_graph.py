"""Encoders for TensorRT: their types, their parity with the fp32 encoder, and what is never written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from edge_emotion.audio import load_audio
from edge_emotion.bundle import load_bundle
from edge_emotion.errors import ExportError
from edge_emotion_export import parity, tensorrt_graph, tensorrt_variants
from edge_emotion_export.omni_checkpoint import open_omni
from edge_emotion_export.omni_graph import write_encoder
from edge_emotion_export.tensorrt_calibration import largest_values
from edge_emotion_export.tensorrt_graph import write_fp16, write_int8_qdq
from edge_emotion_export.tensorrt_lint import lint
from edge_emotion_export.tensorrt_variants import add_tensorrt_encoders, write_tensorrt_encoders
from edge_emotion_runtimes.onnx_encoder import OnnxEncoder
from edge_emotion_runtimes.verify import verify_bundle
from tests.thinker.tiny_omni import build_thinker, save_published, train_tokenizer

ROOT = Path(__file__).parents[2]
NANO = ROOT / "edge_emotion" / "bundles" / "nano"
FP32 = NANO / "encoder.fp32.onnx"
# Speakers 03 and 14 for the ranges and the gate; 15 and 16 are never used for anything that is written.
CLIPS = sorted((ROOT / "tests" / "data").glob("*.flac"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano with encoders for TensorRT."""
    folder = tmp_path_factory.mktemp("exported") / "nano-tensorrt"
    add_tensorrt_encoders(str(NANO), folder, [whole_and_cut(tmp_path_factory.mktemp("clips"))])
    return folder


def whole_and_cut(folder: Path) -> Path:
    """Every second recording gives ranges, the others the parity: here parts of the former, because they are few."""
    for index, path in enumerate(CLIPS):
        samples = load_audio(path).samples
        soundfile.write(folder / f"{index}.wav", samples, 16000)
        soundfile.write(folder / f"{index}_cut.wav", samples[: len(samples) // 2], 16000)
    return folder


def weights_of(model: onnx.ModelProto) -> dict[str, TensorProto]:
    return {constant.name: constant for constant in model.graph.initializer}


def test_both_pass_their_gates_and_are_in_the_manifest(bundle):
    manifest = load_bundle(bundle).manifest
    assert [variant.precision for variant in manifest.encoder.variants] == ["int8", "fp32", "fp16", "int8-qdq"]
    for precision, verdict in manifest.receipts["tensorrt"].items():
        assert verdict["passed"]
        assert verdict["written"]
        assert verdict["figures"]["label_agreement"] == 1.0
        assert manifest.receipts["parity"][precision] == verdict["figures"]
        assert manifest.receipts["limits"][precision]["embeddings_cosine_min"]["at_least"]
    assert "encoder.int8-qdq.onnx" in (bundle / "README.md").read_text()


@pytest.mark.parametrize("precision", ["fp16", "int8-qdq"])
def test_the_bundle_verifies_with_them(bundle, precision):
    assert verify_bundle(str(bundle), precision, "int8").passed


@pytest.mark.parametrize(("precision", "cosine"), [("fp16", 0.999), ("int8-qdq", 0.9)])
def test_another_speaker_gets_the_same_answer(bundle, precision, cosine):
    """Two recordings are few for int8's ranges."""
    samples = load_audio(ROOT / "examples" / "emodb_16_sadness.wav").samples
    with OnnxEncoder(FP32, threads=1) as parent, OnnxEncoder(bundle / f"encoder.{precision}.onnx", threads=1) as child:
        ours, theirs = parent.encode(samples), child.encode(samples)
    assert parity.cosine_min(ours.embeddings, theirs.embeddings) > cosine
    assert np.argmax(ours.emotion_logits) == np.argmax(theirs.emotion_logits)
    assert child.labels == parent.labels


@pytest.mark.parametrize("precision", ["fp16", "int8-qdq"])
def test_the_lint_finds_nothing(bundle, precision):
    assert lint(bundle / f"encoder.{precision}.onnx") == []


def test_the_front_end_stays_in_float32_and_the_layers_do_not(bundle):
    weights = weights_of(onnx.load(bundle / "encoder.fp16.onnx"))
    kinds = {name: weights[name].data_type for name in ("encoder.log_mel.kernels", "encoder.log_mel.filters")}
    assert set(kinds.values()) == {TensorProto.FLOAT}
    halves = [name for name, constant in weights.items() if constant.data_type == TensorProto.FLOAT16]
    assert len([name for name in halves if name.startswith("encoder.layers.")]) > 10
    assert not [name for name in halves if name.startswith(("heads.", "evidence.", "encoder.log_mel."))]


def test_only_the_chosen_products_are_in_int8_around_zero(bundle):
    model = onnx.load(bundle / "encoder.int8-qdq.onnx")
    weights, made = weights_of(model), {name: node for node in model.graph.node for name in node.output}
    pairs = {name for name, node in made.items() if node.op_type == "DequantizeLinear"}
    quantised = [node for node in model.graph.node if pairs & {*node.input}]
    names = {node.name.rsplit(".", 1)[1] for node in quantised}
    assert names == {"query/MatMul", "key/MatMul", "feed_forward_in/MatMul", "feed_forward_out/MatMul"}
    assert len(quantised) == 8
    for node in model.graph.node:
        if node.op_type.endswith("tizeLinear"):
            assert weights[node.input[2]].data_type == TensorProto.INT8
            assert not numpy_helper.to_array(weights[node.input[2]]).any()
            assert (numpy_helper.to_array(weights[node.input[1]]) > 0).all()


def test_in_true_float16_arithmetic_it_is_still_within_its_gate(bundle):
    """ONNX Runtime's processor computes float16 in float32; this evaluator rounds after every node, as a GPU does."""
    from onnx.reference import ReferenceEvaluator

    samples = load_audio(CLIPS[0]).samples[:12_000]
    model = onnx.load(bundle / "encoder.fp16.onnx")
    embeddings, logits = ReferenceEvaluator(model).run(["embeddings", "emotion_logits"], {"waveform": samples[None]})
    with OnnxEncoder(FP32, threads=1) as parent:
        expected = parent.encode(samples)
    limit = parity.LIMITS["fp16"]["embeddings_cosine_min"].value
    assert parity.cosine_min(expected.embeddings, np.asarray(embeddings)[0]) >= limit
    assert np.argmax(logits) == np.argmax(expected.emotion_logits)


def test_calibration_sees_the_largest_value_of_every_channel():
    samples = [load_audio(path).samples for path in CLIPS]
    both, first = largest_values(FP32, samples), largest_values(FP32, samples[:1])
    assert set(both) == {"layer_norm", "layer_norm_1", "gelu_2", "layer_norm_2", "layer_norm_3", "gelu_3"}
    assert all(both[name].shape == ((1536,) if "gelu" in name else (384,)) for name in both)
    assert all((both[name] >= first[name]).all() for name in both)
    assert any((both[name] > first[name]).any() for name in both)
    assert not list(NANO.glob(".*partial"))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_smoothing_changes_no_product(seed, loudness):
    """A channel is divided by what its row of the matrix is multiplied with."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(5, 16)) * generator.lognormal(0, 2, 16) * loudness
    matrix = generator.normal(size=(16, 3)) * generator.lognormal(0, 1, (16, 1))
    sizes = tensorrt_graph._sizes(np.abs(values).max(axis=0), [np.abs(matrix).max(axis=1)])
    assert np.isfinite(sizes).all()
    assert (sizes > 0).all()
    np.testing.assert_allclose((values / sizes) @ (matrix * sizes[:, None]), values @ matrix, rtol=1e-6, atol=1e-9)


def test_smoothing_is_worth_its_node(tmp_path):
    """Without it the lowest cosine is farther from 1."""
    samples = [load_audio(path).samples for path in CLIPS]
    ranges = largest_values(FP32, samples)
    write_int8_qdq(FP32, tmp_path / "smooth.onnx", ranges)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorrt_graph, "_sizes", lambda limits, rows: np.ones_like(limits))
        write_int8_qdq(FP32, tmp_path / "rough.onnx", ranges)
    smooth, rough = (
        tensorrt_variants.parity_figures(FP32, tmp_path / name, samples)["embeddings_cosine_min"]
        for name in ("smooth.onnx", "rough.onnx")
    )
    assert 1.0 - smooth < 0.7 * (1.0 - rough)


def edited(source: Path, target: Path, edit) -> Path:
    model = onnx.load(source)
    edit(model)
    onnx.save(model, target)
    return target


def test_a_weight_beyond_float16_is_refused(tmp_path):
    def grow(model: onnx.ModelProto) -> None:
        name = "encoder.convolution_1.bias"
        bias = next(constant for constant in model.graph.initializer if constant.name == name)
        bias.CopyFrom(numpy_helper.from_array(np.full(384, 1e6, np.float32), bias.name))

    source = edited(FP32, tmp_path / "loud.onnx", grow)
    with pytest.raises(ExportError, match=r"convolution_1\.bias.*float16"):
        write_fp16(source, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_graph_without_a_transformer_and_a_damaged_one_are_refused(tmp_path):
    def rename(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.name = node.name.replace("layers.", "parts.")

    with pytest.raises(ExportError, match="no transformer"):
        write_fp16(edited(FP32, tmp_path / "renamed.onnx", rename), tmp_path / "out.onnx")
    (tmp_path / "cut.onnx").write_bytes(FP32.read_bytes()[:100_000])
    with pytest.raises(ExportError, match=r"cut\.onnx"):
        write_fp16(tmp_path / "cut.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("ranges", [{}, {"layer_norm": np.zeros(384, np.float32)}, {"layer_norm": np.ones(3)}])
def test_a_range_that_is_missing_or_impossible_is_refused(tmp_path, ranges):
    with pytest.raises(ExportError, match="no range of layer_norm"):
        write_int8_qdq(FP32, tmp_path / "out.onnx", ranges)


def only_the_encoder(folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(FP32, folder)
    return folder


def test_what_fails_its_gate_is_not_written_unless_it_is_to_be_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(parity.LIMITS, "int8-qdq", {"embeddings_cosine_min": parity.Limit(0.99999, at_least=True)})
    waveforms = [load_audio(path).samples for path in CLIPS]
    folder = only_the_encoder(tmp_path / "folder")
    verdict = write_tensorrt_encoders(folder, waveforms, ["int8-qdq"])["int8-qdq"]
    assert not verdict["passed"]
    assert not verdict["written"]
    assert "embeddings_cosine_min" in verdict["why"]
    assert [path.name for path in folder.iterdir()] == [FP32.name]
    kept = write_tensorrt_encoders(folder, waveforms, ["int8-qdq"], keep_failing=True)["int8-qdq"]
    assert kept["written"]
    assert not kept["passed"]
    assert (folder / "encoder.int8-qdq.onnx").is_file()


def test_one_recording_is_too_few_and_no_fp32_encoder_is_said(tmp_path):
    samples = load_audio(CLIPS[0]).samples
    with pytest.raises(ExportError, match="at least two"):
        write_tensorrt_encoders(only_the_encoder(tmp_path / "one"), [samples])
    with pytest.raises(ExportError, match="export fp32, too"):
        write_tensorrt_encoders(tmp_path, [samples, samples])


def test_a_target_that_exists_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ExportError, match="there already"):
        add_tensorrt_encoders(str(NANO), tmp_path / "mine", CLIPS)
    assert not list((tmp_path / "mine").iterdir())


@pytest.fixture(scope="module")
def omni_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 audio tower of a tiny random Qwen2.5-Omni, as its exporter writes it."""
    tokenizer = train_tokenizer()
    checkpoint = save_published(tmp_path_factory.mktemp("omni") / "tiny", build_thinker(tokenizer), tokenizer)
    folder = tmp_path_factory.mktemp("tower")
    write_encoder(open_omni(checkpoint), folder / "encoder.fp32.onnx", "fp32", {"sample_rate": "16000"})
    return folder


@pytest.mark.parametrize("inline_bytes", [2**30, 1000], ids=["one file", "weights apart"])
def test_the_tower_of_a_qwen_omni(omni_folder, tmp_path, monkeypatch, inline_bytes):
    monkeypatch.setattr(tensorrt_graph, "MAX_INLINE_BYTES", inline_bytes)
    folder = tmp_path / "tower"
    shutil.copytree(omni_folder, folder)
    waveforms = [load_audio(path).samples[:24_000] for path in CLIPS]
    verdicts = write_tensorrt_encoders(folder, [*waveforms, waveforms[0][:20_000], waveforms[0]], keep_failing=True)
    for precision, verdict in verdicts.items():
        assert verdict["gate"] == f"omni.{precision}"
        assert verdict["figures"]["embeddings_cosine_min"] > (0.999 if precision == "fp16" else 0.95)
        assert (folder / f"encoder.{precision}.onnx.data").is_file() == (inline_bytes == 1000)
        assert lint(folder / f"encoder.{precision}.onnx") == []
    assert not list(folder.glob("*.partial"))
    model = onnx.load(folder / "encoder.int8-qdq.onnx", load_external_data=False)
    names = [node.name for node in model.graph.node if node.name.endswith("/quantise")]
    assert "layers.0.fc1/MatMul/quantise" in names
    assert not [name for name in names if "v_proj" in name or "out_proj" in name]


def test_a_copy_shares_weights_and_leaves_the_original_as_it_was(bundle):
    assert (bundle / "llm.int8.onnx").stat().st_ino == (NANO / "llm.int8.onnx").stat().st_ino or (
        bundle.stat().st_dev != NANO.stat().st_dev
    )
    assert "int8-qdq" not in (NANO / "README.md").read_text()
    assert load_bundle(NANO).manifest.encoder.variants != load_bundle(bundle).manifest.encoder.variants
