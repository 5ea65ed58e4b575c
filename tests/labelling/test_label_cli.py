"""`edge-emotion label measure` and `label calibrate`: results on stdout, talk on stderr, 1 if a clip was lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edge_emotion.cli.app import run
from edge_emotion_train.labelling.records import Record, RecordFile

CLIPS = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two good recordings, one that is none, and one that is missing."""
    folder = tmp_path / "calls"
    folder.mkdir()
    for clip in CLIPS.glob("*.flac"):
        shutil.copy(clip, folder)
    (folder / "broken.wav").write_text("not a recording")
    names = ["emodb_03a02Nc.flac", "broken.wav", "missing.wav", "emodb_14a04Aa.flac"]
    rows = [{"audio": name, "speaker": "anna", "emotion": "fear"} for name in names]
    rows[3]["emotion"] = "feer"
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def json_of(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, dict[str, Any]]:
    code = run(["label", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_measure_counts_what_it_lost(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, counts = json_of(capsys, "measure", corpus, "-o", tmp_path / "out")
    assert code == 1
    assert {key: counts[key] for key in ("in", "out", "failed", "fields_lost", "skipped")} == {
        "in": 4, "out": 2, "failed": 2, "fields_lost": 1, "skipped": 0,
    }  # fmt: skip
    failures = [json.loads(line) for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
    assert [(failure["id"], failure["step"], failure["lost"]) for failure in failures] == [
        ("calls/broken", "measure", None),
        ("calls/missing", "measure", None),
        ("calls/emodb_14a04Aa", "source", "emotion"),
    ]
    assert [record.id for record in RecordFile((tmp_path / "out/measured.jsonl",))] == [
        "calls/emodb_03a02Nc", "calls/emodb_14a04Aa",
    ]  # fmt: skip


def test_for_people_there_is_a_table_and_the_causes(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["label", "measure", str(corpus), "-o", str(tmp_path / "out")]) == 1
    shown = capsys.readouterr()
    assert "2  clips lost" in shown.out
    assert "1  fields missing" in shown.out
    assert "1 x clip, for example calls/missing" in shown.err
    assert "did you mean fear" in shown.err


def test_a_mended_clip_is_measured_in_the_next_run(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_of(capsys, "measure", corpus, "-o", tmp_path / "out")
    shutil.copy(CLIPS / "emodb_14a04Aa.flac", corpus / "missing.wav")
    code, counts = json_of(capsys, "measure", corpus, "-o", tmp_path / "out")
    assert (code, counts["out"], counts["failed"], counts["skipped"]) == (1, 3, 1, 3)


def test_calibrate_writes_beside_the_measures(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_of(capsys, "measure", corpus, "-o", tmp_path / "out")
    code, counts = json_of(capsys, "calibrate", tmp_path / "out")
    assert (code, counts["in"], counts["out"], counts["output"]) == (0, 2, 2, "levelled.jsonl")
    records = list(RecordFile((tmp_path / "out/levelled.jsonl",)))
    assert all(isinstance(record, Record) and record.levels for record in records)
    assert (tmp_path / "out/thresholds.json").is_file()
    steps = json.loads((tmp_path / "out/run.json").read_text())["steps"]
    assert list(steps) == ["measure", "calibrate"]
    assert steps["measure"]["failed"] == 2
    failed = (tmp_path / "out/errors.jsonl").read_text()
    assert failed.count('"measure"') == 2  # the errors of the step before are still there
    assert run(["label", "calibrate", str(tmp_path / "out"), "--speaker-clips", "5", "--held-out", "calls_anna"]) == 0


def test_parts_can_be_calibrated_together(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("1/2", "2/2"):
        json_of(capsys, "measure", corpus, "-o", tmp_path / part[0], "--shard", part)
    assert run(["label", "calibrate", str(tmp_path / "1"), str(tmp_path / "2")]) == 1
    assert "say with --output" in capsys.readouterr().err
    _, counts = json_of(capsys, "calibrate", tmp_path / "1", tmp_path / "2", "-o", tmp_path / "all")
    assert counts["out"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["measure", "nowhere.jsonl"], "does not exist"),
        (["measure", str(CLIPS), "--shard", "3/2"], "give I/N"),
        (["measure", str(CLIPS), "--shard", "half"], "give I/N"),
        (["measure", str(CLIPS), "--processes", "-1"], "at least 1 process"),
        (["measure", f"ravdess={CLIPS}"], "no clip was found"),
        (["calibrate", "nowhere"], "does not exist"),
        (["calibrate", str(CLIPS)], "holds no measured.jsonl"),
    ],
)
def test_wrong_use_is_explained_without_a_traceback(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["-o", str(tmp_path / "out")] if "nowhere" not in arguments else []
    assert run(["label", *arguments, *output]) == 1
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""
    assert "Traceback" not in shown.err


def test_the_folder_cannot_be_made(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(["label", "measure", str(corpus), "-o", str(tmp_path / "file/out")]) == 1
    assert "cannot be written" in capsys.readouterr().err
