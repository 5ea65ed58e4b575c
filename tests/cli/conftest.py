"""Hand-made results, and an analyzer that needs no models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edge_emotion
from edge_emotion.claims import CheckedClaim, Claim
from edge_emotion.errors import AudioError
from edge_emotion.prosody import Measure
from edge_emotion.result import Coverage, EmotionResult, WindowResult
from edge_emotion.windows import Skipped

REASONING = "The pitch is very high and the voice speaks fast, with a rough tone."


def make_claim(text: str, cue: str, level: str, **checked: Any) -> CheckedClaim:
    start = REASONING.index(text)
    return CheckedClaim(Claim(cue, level, start, start + len(text), text), **checked)


CLAIMS = (
    make_claim(
        "pitch is very high",
        "pitch",
        "very high",
        verdict="supported",
        measured_value=291.4,
        measured_level="very high",
        unit="Hz",
        reason="291 Hz is very high",
    ),
    make_claim(
        "speaks fast",
        "rate",
        "fast",
        verdict="contradicted",
        measured_value=3.1,
        measured_level="slow",
        unit="1/s",
        reason="3.1 per s is slow",
    ),
    make_claim(
        "rough tone",
        "clarity",
        "rough",
        verdict="not measurable",
        measured_value=None,
        measured_level=None,
        unit="dB",
        reason="too little voiced speech",
    ),
)
EVIDENCE = (
    Measure("f0_median_hz", 291.4, "Hz", 0.1, 1.8, 0.97, None),
    Measure("syllable_rate_per_s", 3.1, "1/s", 0.1, 1.8, 0.9, None),
    Measure("pause_share", 0.04, "1", 0.1, 1.8, 1.0, None),
    Measure("hnr_db", None, "dB", 0.1, 1.8, 0.0, "too little voiced speech"),
)


@pytest.fixture
def make_result() -> Callable[..., EmotionResult]:
    """A factory of results; keywords replace fields."""

    def make(source: str = "clip.wav", **changes: Any) -> EmotionResult:
        distribution = {"happiness": 0.71, "anger": 0.22, "fear": 0.07}
        window = WindowResult(
            start_s=0.1,
            end_s=1.8,
            label="happiness",
            distribution=distribution,
            head_distribution={"happiness": 0.4, "anger": 0.55, "fear": 0.05},
            reasoning=REASONING,
            claims=CLAIMS,
        )
        fields: dict[str, Any] = {
            "source": source,
            "duration_s": 1.9,
            "label": "happiness",
            "distribution": distribution,
            "confidence": 0.71,
            "uncertain": False,
            "uncertain_reasons": (),
            "head_distribution": window.head_distribution,
            "agreement": False,
            "reasoning": REASONING,
            "claims": CLAIMS,
            "faithfulness": 0.5,
            "evidence": EVIDENCE,
            "windows": (window,),
            "coverage": Coverage(((0.1, 1.8),), (Skipped(0.0, 0.1, "no speech"), Skipped(1.8, 1.9, "no speech"))),
            "timing_s": {"encoder": 0.041, "think": 0.21, "time_to_label_head": 0.045, "total": 0.27},
            "runtime": {
                "encoder": {
                    "runtime": "onnxruntime",
                    "version": "1.32.0",
                    "file": "encoder.int8.onnx",
                    "providers": ["CPU"],
                },
                "llm": None,
                "fallbacks": [],
            },
            "bundle": {"name": "nano", "version": "0.1.0", "sha256": "0" * 64},
            "warnings": (),
        }
        return EmotionResult(**(fields | changes))

    return make


class FakeAnalyzer:
    """Answers `good*` files, refuses `bad*` files, and stumbles over `odd*` files."""

    def __init__(self, make: Callable[..., EmotionResult]) -> None:
        self.make = make
        self.calls: list[dict[str, Any]] = []
        self.closed = False

    def __enter__(self) -> FakeAnalyzer:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def analyze(self, audio: Path, explain: bool = True, on_text: Callable[[str], None] | None = None) -> EmotionResult:
        self.calls.append({"file": audio, "explain": explain})
        if audio.name.startswith("bad"):
            raise AudioError(f"{audio} is not a recording; give wav, flac, ogg or mp3")
        if audio.name.startswith("odd"):
            raise ZeroDivisionError("division by zero")
        if audio.name.startswith("stop"):
            raise KeyboardInterrupt
        if on_text:
            for word in REASONING.split(" "):
                on_text(word + " ")
        return self.make(str(audio))


@pytest.fixture
def analyzer(monkeypatch: pytest.MonkeyPatch, make_result: Callable[..., EmotionResult]) -> FakeAnalyzer:
    """Stands in for what `edge_emotion.load` opens; `analyzer.loaded` holds the arguments."""
    fake = FakeAnalyzer(make_result)

    def load(bundle: str = "nano", **options: Any) -> FakeAnalyzer:
        fake.loaded = {"bundle": bundle, **options}  # type: ignore[attr-defined]
        return fake

    monkeypatch.setattr(edge_emotion, "load", load)
    return fake
