from __future__ import annotations

import copy
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion import bundle as bundle_module
from edge_emotion.bundle import (
    Bundle,
    Calibration,
    EncoderSpec,
    EncoderVariant,
    LlmSpec,
    LlmVariant,
    Manifest,
    load_bundle,
    sha256_of,
    verify_files,
    write_manifest,
)
from edge_emotion.cues import Thresholds
from edge_emotion.errors import BundleError
from edge_emotion.prompt import Prompt

DRAFT = Manifest(
    name="nano",
    version="0.1.0",
    licence="Apache-2.0",
    languages=("de",),
    labels=("anger", "fear", "neutral"),
    files={},
    encoder=EncoderSpec(
        variants=(EncoderVariant("encoder.int8.onnx", "int8", 17), EncoderVariant("encoder.fp32.onnx", "fp32", 17)),
        sample_rate_hz=16000,
        embedding_dim=192,
        tokens_per_second=12.5,
        summary_tokens=1,
        min_window_s=0.3,
        max_window_s=30.0,
    ),
    llm=LlmSpec((LlmVariant("llm.Q8_0.gguf", "Q8_0"),), "llama", 512),
    prompt=Prompt(),
    thresholds=Thresholds({"pitch": (110.0, 150.0, 200.0, 260.0)}, "population: a test"),
    calibration={"llm": Calibration(1.3, 0.04, 0.45), "head": Calibration(0.9, 0.03, 0.4)},
    provenance={"seed": 7, "note": "aufgenommen in München"},
    receipts={"parity": {"int8": {"cosine": 0.997}}},
)
FILES = {
    "encoder.fp32.onnx": b"fp32" * 1000,
    "encoder.int8.onnx": b"int8" * 500,
    "llm.Q8_0.gguf": b"GGUF" + bytes(range(256)) * 20,
    "licences/whisper.txt": b"MIT",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid bundle."""
    root = tmp_path / "bundle"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    write_manifest(root, DRAFT)
    return root


def valid_dict() -> dict[str, Any]:
    entry = {"size": 3, "sha256": "0" * 64}
    return replace(DRAFT, files={}).to_dict() | {"files": {name: dict(entry) for name in FILES}}


def edit_manifest(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(data | changes))


def test_written_bundle_loads_and_round_trips(folder: Path) -> None:
    opened = load_bundle(folder)
    assert replace(opened.manifest, files={}) == DRAFT
    assert set(opened.manifest.files) == set(FILES)
    assert opened.manifest.files["encoder.fp32.onnx"].size == 4000
    assert Manifest.from_dict(json.loads(opened.manifest.to_json())) == opened.manifest
    assert opened.manifest_sha256 == sha256_of(folder / "manifest.json")


def test_variants_are_found_by_name_and_the_first_is_preferred(folder: Path) -> None:
    opened = load_bundle(str(folder))
    assert opened.encoder_path() == folder / "encoder.int8.onnx"
    assert opened.encoder_path("fp32") == folder / "encoder.fp32.onnx"
    assert opened.llm_path("Q8_0") == folder / "llm.Q8_0.gguf"
    with pytest.raises(BundleError, match=r"no encoder precision 'fp16'; it has: int8, fp32"):
        opened.encoder_path("fp16")
    with pytest.raises(BundleError, match=r"Q4_K_M.*it has: Q8_0"):
        opened.llm_path("Q4_K_M")


def test_changed_byte_is_found_by_hash_only(folder: Path) -> None:
    path = folder / "llm.Q8_0.gguf"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"llm\.Q8_0\.gguf was changed(.|\n)*again"):
        load_bundle(folder)
    opened = load_bundle(folder, verify=False)
    with pytest.raises(BundleError, match="was changed"):
        verify_files(opened.path, opened.manifest, ["llm.Q8_0.gguf"])
    verify_files(opened.path, opened.manifest, ["encoder.int8.onnx"])


def test_truncated_gguf_is_found_by_size_without_reading_it(folder: Path) -> None:
    path = folder / "llm.Q8_0.gguf"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BundleError, match=r"llm\.Q8_0\.gguf has 2,000 bytes, the manifest says 5,124"):
        load_bundle(folder, verify=False)


def test_truncated_gguf_with_its_size_forged_is_found_by_hash(folder: Path) -> None:
    path = folder / "llm.Q8_0.gguf"
    path.write_bytes(path.read_bytes()[:2000])
    data = json.loads((folder / "manifest.json").read_text())
    data["files"]["llm.Q8_0.gguf"]["size"] = 2000
    edit_manifest(folder, files=data["files"])
    with pytest.raises(BundleError, match=r"llm\.Q8_0\.gguf was changed"):
        load_bundle(folder)


def test_all_wrong_files_are_listed(folder: Path) -> None:
    (folder / "encoder.fp32.onnx").unlink()
    (folder / "licences/whisper.txt").write_bytes(b"GPL")
    with pytest.raises(BundleError, match=r"encoder.fp32.onnx is missing(.|\n)*whisper.txt was changed"):
        load_bundle(folder)


def test_declared_size_of_10_gb_is_only_compared(folder: Path) -> None:
    data = json.loads((folder / "manifest.json").read_text())
    data["files"]["encoder.fp32.onnx"]["size"] = 10 * 10**9
    edit_manifest(folder, files=data["files"])
    with pytest.raises(BundleError, match="has 4,000 bytes, the manifest says 10,000,000,000"):
        load_bundle(folder)


def test_link_that_leaves_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "encoder.fp32.onnx"
    outside = tmp_path / "outside.onnx"
    os.replace(path, outside)
    path.symlink_to(outside)
    with pytest.raises(BundleError, match="is a link that leaves"):
        load_bundle(folder)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(BundleError, match="cannot be read"):
        load_bundle(folder)


def test_folder_link_inside_and_linked_bundle_are_fine(folder: Path, tmp_path: Path) -> None:
    os.rename(folder / "encoder.fp32.onnx", folder / "real.onnx")
    (folder / "encoder.fp32.onnx").symlink_to("real.onnx")
    (tmp_path / "link").symlink_to(folder)
    assert load_bundle(tmp_path / "link").manifest.name == "nano"


def test_pipe_in_place_of_a_file_does_not_hang(folder: Path) -> None:
    (folder / "encoder.fp32.onnx").unlink()
    os.mkfifo(folder / "encoder.fp32.onnx")
    with pytest.raises(BundleError, match="is not a plain file"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../outside.onnx",
        "a/../../b",
        "./encoder.fp32.onnx",
        "a//b",
        "a\\..\\b",
        "C:x",
        "a\0b",
        ".hidden",
        "",
        "a/",
        "x" * 300,
        "a\n",
    ],
)
def test_unsafe_file_names_are_refused(name: str) -> None:
    data = valid_dict()
    data["files"][name] = {"size": 3, "sha256": "0" * 64}
    with pytest.raises(BundleError, match="must be a relative path in the folder"):
        Manifest.from_dict(data)


def test_names_that_differ_in_capitals_only_are_refused() -> None:
    data = valid_dict()
    data["files"]["LLM.Q8_0.gguf"] = {"size": 3, "sha256": "0" * 64}
    with pytest.raises(BundleError, match="in capitals only"):
        Manifest.from_dict(data)


def test_newer_schema_says_upgrade(folder: Path) -> None:
    edit_manifest(folder, schema_version=2, brand_new_key=1)
    with pytest.raises(BundleError, match=r"manifest.json: .*schema_version 2.*up to 1: upgrade"):
        load_bundle(folder)


def test_all_problems_are_listed_at_once() -> None:
    data = valid_dict()
    del data["licence"]
    data["labls"] = []
    data["encoder"]["embedding_dim"] = 0
    data["encoder"]["variants"][0]["file"] = "nowhere.onnx"
    data["llm"]["variants"] = []
    data["calibration"]["head"]["temperature"] = "1"
    data["thresholds"]["cuts"]["pitch"] = [1, 2]
    data["prompt"]["stop"] = 3
    with pytest.raises(BundleError) as caught:
        Manifest.from_dict(data)
    message = str(caught.value)
    for part in (
        "licence: missing",
        "labls: unknown; known here",
        "encoder.embedding_dim: expected a whole number from 1",
        'encoder.variants[0].file: "nowhere.onnx" is not listed under files',
        "llm.variants: expected a list of objects that is not empty",
        'calibration.head.temperature: expected a number from 0.001 to 1000, given "1"',
        "thresholds: cue 'pitch' needs 4 rising cuts",
        "prompt: ",
    ):
        assert part in message
    assert message.count("\n  - ") == 8


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("encoder", {"min_window_s": 40.0}, "encoder.min_window_s: must be below max_window_s"),
        ("encoder", {"variants": [{"file": "llm.Q8_0.gguf", "precision": "a", "opset": 17}] * 2}, '"a" is there twice'),
        ("labels", ["anger", "anger"], "labels: holds the same text twice"),
        ("files", {}, "files: expected at least one file"),
        ("receipts", {"x": float("nan")}, "receipts: expected an object that JSON can hold"),
        ("schema_version", True, "schema_version: expected a whole number"),
        ("schema_version", 0, "schema_version: expected a whole number"),
    ],
)
def test_impossible_values_are_refused(key: str, value: Any, part: str) -> None:
    data = valid_dict()
    data[key] = data[key] | value if key == "encoder" else value
    with pytest.raises(BundleError) as caught:
        Manifest.from_dict(data)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b'{"files": {}, "files": {}}', "the same name twice: 'files'"),
        (b'{"receipts": {"x": NaN}}', "NaN is not a number in JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"9" * 10_000, "is not valid JSON"),
        (b" " * (4 * 2**20 + 1), "is larger than"),
        (b"[1]", "expected an object, given"),
    ],
)
def test_broken_manifest_files(folder: Path, content: bytes, part: str) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=part) as caught:
        load_bundle(folder)
    assert "manifest.json" in str(caught.value)


def test_missing_manifest_and_missing_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest.json is missing"):
        load_bundle(tmp_path)
    monkeypatch.setattr(bundle_module, "BUNDLES_FOLDER", folder.parent)
    for name in ("nanno", str(tmp_path / "nowhere"), "a\0b", "x" * 5000):
        with pytest.raises(BundleError, match="built-in bundle: bundle"):
            load_bundle(name)
    assert load_bundle("bundle").path == folder


def test_write_manifest_refuses_to_overwrite_and_leaves_nothing_behind(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match="give force"):
        write_manifest(folder, DRAFT)
    with pytest.raises(BundleError, match="is not listed under files"):
        write_manifest(folder, replace(DRAFT, llm=replace(DRAFT.llm, variants=(LlmVariant("x.gguf", "F16"),))), True)
    assert (folder / "manifest.json").read_bytes() == before
    (folder / ".DS_Store").write_bytes(b"hidden files are no part of a bundle")
    written = write_manifest(folder, replace(DRAFT, version="0.2.0"), force=True)
    assert load_bundle(folder) == Bundle(folder, written)
    assert sorted(path.name for path in folder.iterdir() if path.is_file() and path.name[0] != ".") == sorted(
        ["manifest.json", *(name for name in FILES if "/" not in name)]
    )
    (folder / "outside").symlink_to("/etc/hostname")
    with pytest.raises(BundleError, match="plain files only"):
        write_manifest(folder, DRAFT, force=True)


def test_interrupted_write_keeps_the_old_manifest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(bundle_module.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_manifest(folder, replace(DRAFT, version="0.2.0"), force=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def paths_of(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix, *(path for key, item in items for path in paths_of(item, (*prefix, key)))]


PATHS = paths_of(valid_dict())[1:]


@given(JSON)
@settings(max_examples=50, deadline=None)
def test_any_json_is_a_bundle_error(data: Any) -> None:
    with pytest.raises(BundleError):
        Manifest.from_dict(data)


@given(st.lists(st.tuples(st.sampled_from(PATHS), JSON), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_any_change_of_a_valid_manifest_is_a_bundle_error_or_a_manifest(changes: list[tuple[Any, Any]]) -> None:
    data = valid_dict()
    for path, value in changes:
        place = data
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change removed the place
    try:
        manifest = Manifest.from_dict(data)
    except BundleError:
        return
    assert Manifest.from_dict(json.loads(manifest.to_json())) == manifest
