"""Memory by formula, accuracy by receipts, and the choice between what fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion.bundle import load_bundle
from edge_emotion.errors import BundleError, ConfigError
from edge_emotion.gguf_header import read_gguf_keys
from edge_emotion.model_sizes import FULL_SIZES, LlmShape, gguf_bytes, shape_of_gguf
from edge_emotion.planning import Combination, choose, plan_bundle, plan_full_size
from edge_emotion.targets import find_device

GIB_BYTES = 2**30

NANO = load_bundle("nano", verify=False)


def combination(llm: str, agreement: float | None, size: int, fits: bool = True, waits: bool = False) -> Combination:
    return Combination("int8", llm, "", "", {"language model": size}, 0, fits, agreement, "measured", {}, None, waits)


def test_sizes_of_published_files() -> None:
    """Qwen2.5-7B as others have published it, in GB."""
    published = {"F16": 15.24, "Q8_0": 8.10, "Q6_K": 6.25, "Q5_K_M": 5.44, "Q4_K_M": 4.68}
    for quantisation, size in published.items():
        assert gguf_bytes(FULL_SIZES["7b"].llm, quantisation) / 1e9 == pytest.approx(size, rel=0.005)


def test_parameters_of_published_models() -> None:
    # Counted from the checkpoints' shapes by benchmarks/export_scale.py.
    assert FULL_SIZES["3b"].llm.parameters == pytest.approx(3_397_103_616, rel=0.001)
    assert FULL_SIZES["7b"].llm.parameters == pytest.approx(7_615_616_512, rel=0.001)


def test_kv_cache_by_hand() -> None:
    assert LlmShape(36, 2048, 256, 11008, 1).kv_cache_bytes(1000) == 2 * 36 * 256 * 1000 * 2


def test_unknown_quantisation() -> None:
    with pytest.raises(ConfigError, match="Q4_K_M"):
        gguf_bytes(FULL_SIZES["3b"].llm, "Q3_K_S")


def test_shape_of_the_shipped_model() -> None:
    assert shape_of_gguf(NANO.path / "llm.Q8_0.gguf") == LlmShape(4, 128, 128, 384, 596)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"\xff" * 40, b"PK" + bytes(60)])
def test_damaged_headers(content: bytes, tmp_path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.gguf"):
        read_gguf_keys(path)


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 30_000))
def test_a_header_that_was_cut_never_crashes(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cut") / "model.gguf"
    path.write_bytes((NANO.path / "llm.Q8_0.gguf").read_bytes()[:cut])
    whole = shape_of_gguf(NANO.path / "llm.Q8_0.gguf")
    try:
        shape = shape_of_gguf(path)
    except BundleError as error:
        said = str(error)
    else:
        said = "model.gguf" if shape == whole else f"another shape: {shape}"
    assert "model.gguf" in said


def test_the_smallest_that_is_good_enough() -> None:
    few, good, best = combination("Q4", 0.95, 4), combination("Q6", 0.98, 6), combination("F16", 1.0, 16)
    assert choose([few, best, good]) is good
    assert choose([few, replace(good, fits=False), best]) is best
    assert choose([few, combination("IQ4", 0.95, 3)]) is few
    assert choose([replace(few, fits=False)]) is None


def test_without_room_for_a_model_the_label_alone() -> None:
    alone = combination("none", 1.0, 0)
    assert choose([alone, combination("Q8", 1.0, 8, fits=False)]) is alone
    assert choose([alone, combination("Q8", 0.5, 8)]) is not alone


def test_a_large_encoder_does_not_wait_for_the_processor() -> None:
    waiting, quick = combination("Q6", 0.98, 6, waits=True), combination("Q6", 0.98, 7)
    assert choose([waiting, quick]) is quick


def test_nano_on_the_smallest_board() -> None:
    made = plan_bundle(NANO, find_device("orin-nano-8g"), round(5.5 * GIB_BYTES))
    assert made.budget_bytes == round((7.4 - 2.1) * GIB_BYTES)
    assert made.pick
    assert (made.pick.encoder, made.pick.llm) == ("int8", "int8")
    assert made.load_arguments() == {"bundle": "nano", "encoder": "int8", "llm": "int8"}
    parity = NANO.manifest.receipts["parity"]
    assert made.pick.figures["logits_kl_mean"] == parity["llm.int8"]["logits_kl_mean"]
    assert len(made.combinations) == 2 * (4 + 1)


def test_as_much_as_nano_takes_as_shipped() -> None:
    """Peak memory of one analysis of 3 s in benchmarks/results/nano_latency.json: 122.9 MB."""
    made = plan_bundle(NANO, find_device("cpu-4g"), window_s=3.0)
    assert made.pick
    assert made.pick.run_bytes / 1e6 == pytest.approx(122.9, rel=0.1)


@pytest.mark.parametrize("size", FULL_SIZES)
def test_full_size_by_the_gates(size: str) -> None:
    made = plan_full_size(FULL_SIZES[size], find_device("agx-orin-64g"))
    assert made.pick
    assert made.pick.agreement == 0.98
    assert made.pick.encoder_runtime == "TensorRT"
    assert made.pick.build_peak_bytes > 0
    assert plan_full_size(FULL_SIZES[size], find_device("cpu-2g")).pick is None


def test_what_does_not_run_on_a_card_does_not_count_there() -> None:
    made = plan_full_size(FULL_SIZES["3b"], find_device("desktop-cuda-24g"))
    on_processor = next(item for item in made.combinations if item.encoder == "int8")
    assert "encoder" not in on_processor.parts
    assert on_processor.waits_for_the_processor


@settings(max_examples=25, deadline=None)
@given(st.floats(0.5, 30.0), st.floats(0.5, 30.0))
def test_more_audio_never_takes_less(first_s: float, second_s: float) -> None:
    short, long = sorted((first_s, second_s))
    plans = [plan_bundle(NANO, find_device("cpu-4g"), window_s=window) for window in (short, long)]
    for less, more in zip(plans[0].combinations, plans[1].combinations, strict=True):
        assert less.run_bytes <= more.run_bytes
