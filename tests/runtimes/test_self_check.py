"""`self_check` lets a device go on that computes what the reference did, and no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import edge_emotion
from edge_emotion.bundle import load_bundle
from edge_emotion.cli.app import run
from edge_emotion.errors import RuntimeUnavailableError
from edge_emotion_runtimes import onnx_encoder, onnx_language_model, verify
from edge_emotion_runtimes.interfaces import EncoderOutput
from edge_emotion_runtimes.onnx_encoder import OnnxEncoder


def test_this_machine_passes_and_says_what_it_cost() -> None:
    with edge_emotion.load(self_check=True) as analyzer:
        found = analyzer.analyze("examples/emodb_16_sadness.wav").runtime["self_check"]
    assert found["taps"] == 12
    assert 0 <= found["worst"] <= 1
    assert 0 < found["seconds"] < 30


def test_the_label_alone_is_checked_alone() -> None:
    with edge_emotion.load(llm="none", self_check=True) as analyzer:
        assert analyzer.analyze("examples/emodb_16_sadness.wav").runtime["self_check"]["taps"] == 6


def test_the_answers_are_the_same_with_it() -> None:
    results = []
    for checked in (False, True):
        with edge_emotion.load(self_check=checked) as analyzer:
            results.append(analyzer.analyze("examples/emodb_15_anger.wav"))
    assert results[0].distribution == results[1].distribution
    assert results[0].reasoning == results[1].reasoning


def test_an_encoder_that_computes_nonsense(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As an encoder converted wrongly: finite numbers of the right shape, and not those of the reference."""
    encode = OnnxEncoder.encode

    def nonsense(self: OnnxEncoder, samples: np.ndarray) -> EncoderOutput:
        output = encode(self, samples)
        return EncoderOutput(output.embeddings[::-1].copy(), output.emotion_logits)

    monkeypatch.setattr(onnx_encoder.OnnxEncoder, "encode", nonsense)
    with pytest.raises(RuntimeUnavailableError, match="taps of the encoder are off"):
        edge_emotion.load(self_check=True)
    edge_emotion.load().close()
    assert run(["analyze", "examples/emodb_16_sadness.wav", "--self-check"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "computes something else" in captured.err


def test_a_language_model_that_computes_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    """As llama.cpp on boards where offloading went wrong: one character again and again."""
    logits = onnx_language_model.OnnxLanguageModel.logits

    def nonsense(self: Any) -> np.ndarray:
        shifted = logits(self).copy()
        shifted[7] += 100.0
        return shifted

    monkeypatch.setattr(onnx_language_model.OnnxLanguageModel, "logits", nonsense)
    with pytest.raises(RuntimeUnavailableError, match="language model"):
        edge_emotion.load(self_check=True)


def test_verify_takes_another_way_to_open_the_encoder() -> None:
    opened = []

    def open_encoder(path: Any) -> OnnxEncoder:
        opened.append(path.name)
        return OnnxEncoder(path, threads=1)

    report = verify.verify_bundle(load_bundle("nano", verify=False), "fp32", "int8", open_encoder=open_encoder)
    assert opened == ["encoder.fp32.onnx"]
    assert report.passed
