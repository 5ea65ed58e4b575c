"""Replaying golden clips with tiny models: equal passes, a changed device fails, and each failure names its half."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion.bundle import load_bundle, write_manifest
from edge_emotion.cli.app import run
from edge_emotion.errors import BundleError
from edge_emotion_runtimes import verify
from edge_emotion_runtimes.llama_cpp_model import LlamaCppModel
from edge_emotion_runtimes.onnx_encoder import OnnxEncoder

TOLERANCES = {
    "embeddings": {"int8": 1e-4, "fp32": 1e-4},
    "emotion_logits": {"int8": 1e-4, "fp32": 1e-4},
    "first_logits": {"Q8_0": 1e-3},
    "text": {"Q8_0": 0.0},
}


@pytest.fixture(scope="module")
def golden_bundle(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of random models whose golden clips were computed by these models here."""
    folder = tiny.write_bundle(tmp_path_factory.mktemp("golden") / "tiny")
    manifest = load_bundle(folder).manifest
    golden: dict[str, np.ndarray] = {}
    with OnnxEncoder(folder / "encoder.int8.onnx") as encoder, LlamaCppModel(folder / "llm.Q8_0.gguf") as llm:
        for clip in range(2):
            waveform = np.random.default_rng(clip).normal(0, 0.1, 16_000 + 4_000 * clip).astype(np.float32)
            output = encoder.encode(waveform)
            first_logits, text = verify.think(llm, manifest.prompt, output.embeddings)
            golden |= {
                f"clip{clip}_waveform": waveform,
                f"clip{clip}_embeddings": output.embeddings,
                f"clip{clip}_emotion_logits": output.emotion_logits,
                f"clip{clip}_first_logits": first_logits,
                f"clip{clip}_text": np.array(text),
            }
    np.savez(folder / "golden.npz", allow_pickle=False, **golden)
    write_manifest(folder, replace(manifest, receipts={"golden": {"tolerances": TOLERANCES}}), force=True)
    return folder


@pytest.fixture
def change(golden_bundle: Path, tmp_path: Path) -> Callable[..., str]:
    """Makes a copy of the bundle with golden arrays or receipts replaced."""

    def make(receipts: dict[str, object] | None = None, **arrays: np.ndarray | None) -> str:
        folder = tmp_path / "changed"
        shutil.copytree(golden_bundle, folder)
        with np.load(golden_bundle / "golden.npz") as archive:
            golden = {name: archive[name] for name in archive.files} | arrays
        kept = {name: array for name, array in golden.items() if array is not None}
        np.savez(folder / "golden.npz", allow_pickle=False, **kept)
        manifest = load_bundle(golden_bundle).manifest
        manifest = replace(manifest, receipts=manifest.receipts if receipts is None else receipts)
        write_manifest(folder, manifest, force=True)
        return str(folder)

    return make


def test_same_models_agree(golden_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(golden_bundle), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True
    assert [(tap["clip"], tap["name"]) for tap in report["taps"]] == [
        (i, tap) for i in (0, 1) for tap in verify.METRICS
    ]
    assert run(["verify", str(golden_bundle)]) == 0
    assert "all 8 taps agree" in capsys.readouterr().out


def test_wrong_encoder_is_named(change: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", change(clip1_emotion_logits=np.linspace(0, 3, 7, dtype=np.float32)), "--json"]) == 1
    taps = json.loads(capsys.readouterr().out)["taps"]
    assert [(tap["clip"], tap["name"]) for tap in taps if not tap["passed"]] == [(1, "emotion_logits")]


def test_wrong_text_is_named(change: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", change(clip0_text=np.array("something else entirely"))]) == 1
    assert "1 of 8 taps are off" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["embeddings", "text"])
def test_incomplete_golden_clips(change: Callable[..., str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", change(**{f"clip1_{name}": None})]) == 1
    assert f"lacks clip1_{name}" in capsys.readouterr().err


def test_golden_of_another_shape_fails_without_a_crash(change: Callable[..., str]) -> None:
    report = verify.verify_bundle(change(clip0_emotion_logits=np.zeros(3, np.float32)))
    assert [tap.difference for tap in report.taps if not tap.passed] == [float("inf")]
    json.dumps(report.to_dict(), allow_nan=False)


def test_no_tolerances(change: Callable[..., str]) -> None:
    with pytest.raises(BundleError, match="no tolerance of embeddings"):
        verify.verify_bundle(change(receipts={}))


def test_no_golden_clips(tiny: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"golden\.npz"):
        verify.verify_bundle(str(tiny.write_bundle(tmp_path / "without")))


def test_unknown_variant(golden_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(golden_bundle), "--encoder", "int4"]) == 1
    assert "fp32, int8" in capsys.readouterr().err


LOGITS = st.lists(st.floats(-30, 30), min_size=5, max_size=5).map(np.array)


@settings(max_examples=50, deadline=None)
@given(LOGITS, LOGITS, st.floats(-5, 5))
def test_differences_are_zero_for_equal_and_ignore_an_offset(
    first: np.ndarray, second: np.ndarray, shift: float
) -> None:
    for difference in (verify.divergence, verify.probability_change):
        assert difference(first, first) == 0.0
        assert difference(first, second) >= 0.0
        assert difference(first + shift, second) == pytest.approx(difference(first, second), abs=1e-9)


def test_differences_grow_and_nonsense_never_passes() -> None:
    reference = np.array([1.0, 2.0, 3.0])
    assert verify.relative_error(reference * 1.1, reference) == pytest.approx(0.1)
    assert verify.divergence(reference, reference[::-1]) > verify.divergence(reference, reference * 1.1) > 0
    assert verify.word_difference("a high voice", "a high voice") == 0.0
    assert verify.word_difference("a low voice", "a high voice") == pytest.approx(1 / 3)
    nonsense = verify.relative_error(np.array([np.nan, 2.0, 3.0]), reference)
    assert not verify.Tap(0, "embeddings", "", nonsense, 1.0).passed
