"""Metadata of an ONNX file, against the onnx package that writes it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_emotion.errors import BundleError
from edge_emotion_runtimes.onnx_metadata import rate_and_labels, read_metadata

NANO = Path(__file__).parents[2] / "edge_emotion" / "bundles" / "nano"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.mark.parametrize("name", ["encoder.fp32.onnx", "encoder.int8.onnx", "llm.int8.onnx"])
def test_the_shipped_files(name):
    expected = {entry.key: entry.value for entry in onnx.load(NANO / name).metadata_props}
    assert expected
    assert read_metadata(NANO / name) == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(metadata=st.dictionaries(TEXTS, TEXTS, max_size=5), version=st.integers(-(2**63), 2**63 - 1))
def test_what_onnx_writes(tmp_path, onnx_path, metadata, version):
    model = onnx.load(onnx_path)
    model.model_version = version
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, tmp_path / "model.onnx")
    assert read_metadata(tmp_path / "model.onnx") == metadata


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_a_cut_file_is_an_error_or_has_less(tmp_path, onnx_path, share):
    data = onnx_path.read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(data[: int(share * len(data))])
    try:
        found = read_metadata(cut)
    except BundleError:
        return
    assert found.items() <= read_metadata(onnx_path).items()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_any_bytes_end_in_an_answer_or_an_error(tmp_path, data):
    (tmp_path / "noise.onnx").write_bytes(data)
    with contextlib.suppress(BundleError):
        assert isinstance(read_metadata(tmp_path / "noise.onnx"), dict)


def test_a_missing_file_and_metadata_that_is_nonsense(tmp_path):
    with pytest.raises(BundleError, match=r"absent\.onnx"):
        read_metadata(tmp_path / "absent.onnx")
    for metadata in ({"labels": "anger, fear"}, {"sample_rate": "fast"}, {"labels": "3"}):
        with pytest.raises(BundleError, match="metadata"):
            rate_and_labels(metadata, tmp_path)
    assert rate_and_labels({}, tmp_path) == (16000, ())
