"""Training views as a whole: rows, splits with proof, the same bytes for the same seed, and nothing half written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edge_emotion.answer import parse_response
from edge_emotion.audio import load_audio
from edge_emotion.claims import check_claims, parse_claims
from edge_emotion.cli.app import run
from edge_emotion.errors import CorpusError, LabellingError
from edge_emotion.labels import EMOTIONS
from edge_emotion_train.labelling import views
from edge_emotion_train.labelling.built_in_writer import record_rng, write
from edge_emotion_train.labelling.calibrate import ThresholdGroups
from edge_emotion_train.labelling.findings import findings_of
from edge_emotion_train.labelling.records import IntonationShape, Reasoning, Record, Word
from edge_emotion_train.labelling.rows import SPLITS, as_prompt_and_completion, checker_inputs, read_view
from edge_emotion_train.labelling.views import VIEWS, write_view
from tests.labelling.listener import ALL_CUTS, BACKGROUND, GROUPS, make_record, make_table

DATA = Path(__file__).parents[1] / "data"
CLIPS = (DATA / "emodb_03a02Nc.flac", DATA / "emodb_14a04Aa.flac")
WORDS = (Word("Das", 0.0, 0.2, 0.1), Word("will", 0.2, 0.4, 0.1), Word("sie", 0.4, 0.6, 0.95))
LEVELS = {"pitch": "very high", "rate": "fast", "tone": "sharp", "clarity": "rough", "dynamics": "strong"}


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Six speakers with two clips each; the two committed clips, and noises that carry no voice."""
    made = []
    for number in range(12):
        emotion = ("anger", "sadness")[number % 2]
        levels = LEVELS if emotion == "anger" else {"pitch": "low", "rate": "slow", "tone": "soft", "clarity": "clear"}
        record = make_record(
            levels, id=f"corpus/{number:02}", audio=str(CLIPS[number % 2]), speaker=f"corpus_s{number // 2}",
            emotion=emotion, text=f"Das will sie {number}", words=WORDS, intonation=IntonationShape("falling", 0.8),
        )  # fmt: skip
        text = write(findings_of(record, BACKGROUND), emotion, make_table(), "full", record_rng(0, record.id))
        # Parts of the same files, or one recording would be in several splits.
        span = {"start_s": 0.01 * number, "end_s": None}
        made.append(replace(record, reasoning=Reasoning(text, "built-in", "full"), **span))  # type: ignore[arg-type]
    return made


@pytest.fixture
def make(records: list[Record], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def make_view(name: str, folder: str = "view", **options: Any) -> dict[str, Any]:
        given = options.pop("records", records)
        return write_view(name, given, GROUPS, tmp_path / folder, **options)

    return make_view


def whole(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", VIEWS)
def test_same_seed_same_bytes_in_any_order(
    make: Callable[..., Any], records: list[Record], tmp_path: Path, name: str
) -> None:
    some = records[:4] if name in ("ordering", "reward") else records
    first = make(name, "a", records=some, seed=3)
    second = make(name, "b", records=list(reversed(some)), seed=3)
    assert first == second
    assert whole(tmp_path / "a") == whole(tmp_path / "b")
    assert make(name, "c", records=some, seed=4)["rows_sha256"] != first["rows_sha256"]


def test_several_processes_give_the_same_bytes(make: Callable[..., Any], tmp_path: Path) -> None:
    make("prosody", "one")
    make("prosody", "two", processes=2)
    assert whole(tmp_path / "one") == whole(tmp_path / "two")


@pytest.mark.parametrize("name", ["prosody", "reasoning", "grpo"])
def test_rows_have_what_every_row_has_and_the_proof_holds(make: Callable[..., Any], tmp_path: Path, name: str) -> None:
    about = make(name, test_speakers=["corpus_s0"], validation_speakers=["corpus_s3"])
    ids: Counter[str] = Counter()
    for split in SPLITS:
        rows = read_view(tmp_path / "view", split)
        assert sum(about["rows"][split].values()) == len(rows) == about["split"]["row_count"][split]
        for row in rows:
            ids[row["id"]] += 1
            assert row["split"] == split
            assert Path(row["audio"][0]).is_file()
            parts = [part["path"] for part in row["messages"][0]["content"] if part["type"] == "audio"]
            assert parts == row["audio"]
            assert len(load_audio(row["audio"][0]).samples) > 0
    assert max(ids.values()) == 1
    assert about["split"]["holds"]
    assert about["split"]["speakers"]["test"] == ["corpus_s0"]
    assert about["split"]["speakers"]["validation"] == ["corpus_s3"]


def test_prosody_answers_are_the_measurements(make: Callable[..., Any], records: list[Record], tmp_path: Path) -> None:
    make("prosody")
    by_id = {row["id"]: row for split in SPLITS for row in read_view(tmp_path / "view", split)}
    answers = {task: by_id[f"corpus/00#{task}"]["answer"] for task in ("pitch_level", "speed_level", "energy_level")}
    assert answers == {"pitch_level": "high", "speed_level": "fast", "energy_level": "high"}
    assert by_id["corpus/00#energy_level"]["cue"] == "tone"
    assert by_id["corpus/00#intonation"]["answer"] == "falling"
    assert by_id["corpus/00#stress"]["answer"] == "sie"
    for row in by_id.values():
        assert row["answer"] in row["options"] or row["task"] == "stress"
        assert row["answer"] in row["accepted"] or row["task"] == "stress"
        assert all(option in row["messages"][0]["content"][1]["text"] for option in row["options"] if len(option) > 3)
        assert row["messages"][-1]["content"][0]["text"] == f"<answer>{row['answer']}</answer>"


def test_beside_a_threshold_both_levels_are_accepted(
    make: Callable[..., Any], records: list[Record], tmp_path: Path
) -> None:
    measure = records[0].measures["syllable_rate_per_s"]  # type: ignore[index]
    near = replace(measure, value=ALL_CUTS.cuts["rate"][1] + 0.1)
    make("prosody", records=[replace(records[0], measures={**records[0].measures, measure.name: near})])  # type: ignore[dict-item]
    row = next(row for row in read_view(tmp_path / "view", "train") if row["task"] == "speed_level")
    assert (row["answer"], row["accepted"]) == ("fast", ["medium", "fast"])


def test_loudness_is_energy_where_the_gain_is_known(make: Callable[..., Any], tmp_path: Path) -> None:
    make("prosody", records=[make_record({"loudness": "quiet", "tone": "sharp"}, audio=str(CLIPS[0]), speaker="s")])
    (row,) = read_view(tmp_path / "view", "train")
    assert (row["task"], row["cue"], row["answer"]) == ("energy_level", "loudness", "low")


def test_reasoning_follows_the_answer_s_schema(make: Callable[..., Any], records: list[Record], tmp_path: Path) -> None:
    make("reasoning")
    for row in read_view(tmp_path / "view", "train"):
        response = parse_response(row["messages"][-1]["content"][0]["text"], EMOTIONS)
        assert response.well_formed
        assert (response.reasoning, response.label) == (row["reasoning"], row["emotion"])
        assert row["labels"] == ["anger", "sadness"]
        split = as_prompt_and_completion(row)
        assert split["prompt"] + split["completion"] == row["messages"]


def test_a_grpo_row_is_enough_to_check_a_text(make: Callable[..., Any], records: list[Record], tmp_path: Path) -> None:
    make("grpo")
    row = read_view(tmp_path / "view", "train")[0]
    record = next(record for record in records if record.id == row["sources"][0])
    assert [message["role"] for message in row["messages"]] == ["user"]
    claims = parse_claims(record.reasoning.text + " The voice has a medium pitch.")  # type: ignore[union-attr]
    expected = check_claims(claims, record.prosody(), ALL_CUTS)
    found = check_claims(claims, *checker_inputs(row))
    assert [item.verdict for item in found] == [item.verdict for item in expected]
    assert {"supported", "contradicted"} <= {item.verdict for item in found}


@pytest.mark.parametrize("name", ["prosody", "grpo"])
def test_rows_survive_arrow(make: Callable[..., Any], tmp_path: Path, name: str) -> None:
    datasets = pytest.importorskip("datasets")
    make(name)
    rows = read_view(tmp_path / "view", "train")
    there = datasets.Dataset.from_list(rows)
    for row, arrow in zip(rows, there, strict=True):
        assert arrow["audio"] == row["audio"]
        assert [p["path"] for p in arrow["messages"][0]["content"] if p["type"] == "audio"] == row["audio"]
        if name == "grpo":
            claims = parse_claims("A very high pitch and a slow pace.")
            assert check_claims(claims, *checker_inputs(arrow)) == check_claims(claims, *checker_inputs(row))


def test_ordering_makes_its_own_sound(make: Callable[..., Any], records: list[Record], tmp_path: Path) -> None:
    about = make("ordering", records=records[:2])
    rows = [row for split in SPLITS for row in read_view(tmp_path / "view", split)]
    assert {row["task"] for row in rows} == {"order_pitch", "order_energy", "order_speed"}
    assert about["audio"]["files"] == len(rows)
    for row in rows:
        heard = [variant["place"] for variant in row["variants"]]
        assert row["answer"] == ", ".join(heard)
        assert sorted(heard) == sorted(row["options"])
        assert soundfile.info(row["audio"][0]).duration >= row["variants"][-1]["end_s"]


def test_reward_rows_lend_within_their_split(make: Callable[..., Any], records: list[Record], tmp_path: Path) -> None:
    make("reward", test_speakers=["corpus_s0"], validation_speakers=["corpus_s1"])
    split_of = {
        r.id: split
        for split in SPLITS
        for row in read_view(tmp_path / "view", split)
        for r in records
        if r.id in row["sources"]
    }
    lenders = [
        (row["split"], row["lender"])
        for split in SPLITS
        for row in read_view(tmp_path / "view", split)
        if row["lender"]
    ]
    assert len(lenders) == 12
    assert all(split_of[lender] == split for split, lender in lenders)


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_bad_records_are_counted_and_cost_no_other(
    make: Callable[..., Any], records: list[Record], tmp_path: Path
) -> None:
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(16_000), 16_000)
    rubbish = tmp_path / "rubbish.wav"
    rubbish.write_bytes(b"no sound at all")
    bad = [
        replace(records[0], id="corpus/x1", audio=str(silence), start_s=None),
        replace(records[0], id="corpus/x2", audio=str(rubbish), start_s=None),
        replace(records[0], id="corpus/x3", audio=str(tmp_path / "missing.wav"), start_s=None),
        replace(records[0], id="corpus/x4", start_s=99.0),
    ]
    about = make("ordering", records=[records[0], *bad])
    assert about["records"] == 5
    assert about["records_with_rows"] == 1
    assert sum(found["count"] for found in about["problems"].values()) == 3 + 1 + 1 + 1
    assert any("no speech" in cause for cause in about["problems"])
    assert any("does not exist" in cause for cause in about["problems"])
    assert any("outside the recording" in cause for cause in about["problems"])
    assert about["problems"]["order_pitch: no speech found"]["examples"] == ["corpus/x1"]


def test_records_without_what_a_view_needs_are_counted(make: Callable[..., Any], records: list[Record]) -> None:
    poor = [replace(records[2], id="corpus/a", reasoning=None), replace(records[2], id="corpus/b", emotion=None)]
    about = make("reasoning", records=[*records, *poor])
    assert {cause.split(": ")[-1]: found["count"] for cause, found in about["problems"].items()} == {
        "the record has no reasoning": 1,
        "the record has no emotion": 1,
    }


def test_a_view_of_nothing_is_an_error_and_leaves_nothing(make: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(LabellingError, match="no record gives a row"):
        make("reasoning", records=[make_record(LEVELS, audio=str(CLIPS[0]))])
    assert list(tmp_path.iterdir()) == []


def test_a_leak_stops_the_view(make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = views.split_records

    def careless(records: list[Record], *arguments: Any) -> Any:
        split = honest(records, *arguments)
        return replace(split, of={**split.of, "corpus/00": "test", "corpus/01": "train"})

    monkeypatch.setattr(views, "split_records", careless)
    with pytest.raises(CorpusError, match="both in train and in test"):
        make("reasoning")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_unasked(make: Callable[..., Any], tmp_path: Path) -> None:
    make("grpo")
    before = whole(tmp_path / "view")
    with pytest.raises(LabellingError, match="exists already"):
        make("grpo", seed=1)
    assert whole(tmp_path / "view") == before
    make("grpo", seed=1, force=True)
    assert whole(tmp_path / "view") != before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "final.txt").write_text("years of work")
    with pytest.raises(LabellingError, match="does not replace it"):
        make("grpo", "thesis", force=True)
    assert (tmp_path / "thesis" / "final.txt").exists()


def test_a_failure_while_writing_keeps_the_old_view(
    make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("grpo")
    before = whole(tmp_path / "view")

    def full_disk(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(views, "_audio_hash", full_disk)
    with pytest.raises(LabellingError, match="No space left on device; nothing was replaced"):
        make("grpo", force=True, seed=2)
    assert whole(tmp_path / "view") == before
    assert [path.name for path in tmp_path.iterdir()] == ["view"]


def test_reading_what_is_no_view_says_so(make: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no split 'dev'; splits are train"):
        read_view(tmp_path, "dev")
    with pytest.raises(CorpusError, match="make the view with"):
        read_view(tmp_path, "train")
    (tmp_path / "train.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(CorpusError, match="line 1: not a row"):
        read_view(tmp_path, "train")


# --- command line ----------------------------------------------------------------------------------------------------


def test_the_commands_make_a_view_and_convert(
    records: list[Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "labelled"
    folder.mkdir()
    (folder / "labelled.jsonl").write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")
    assert run(["label", "view", "reasoning", str(folder), "-o", str(tmp_path / "v")]) == 1
    assert "--thresholds" in capsys.readouterr().err
    (folder / "thresholds.json").write_text(ThresholdGroups(GROUPS).to_json(), encoding="utf-8")
    arguments = ["label", "view", "reasoning", str(folder), "-o", str(tmp_path / "v"), "--test-speakers", "corpus_s1"]
    assert run([*arguments, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["split"]["speakers"]["test"] == ["corpus_s1"]
    assert run(arguments) == 1
    assert "--force" in capsys.readouterr().err
    source, there, back = folder / "labelled.jsonl", tmp_path / "cot.jsonl", tmp_path / "back.jsonl"
    assert run(["label", "convert", str(source), str(there), "--from", "records", "--to", "emotioncot"]) == 0
    assert run(["label", "convert", str(there), str(back), "--from", "emotioncot", "--to", "records"]) == 0
    assert back.read_bytes() == source.read_bytes()
    assert run(["label", "convert", str(there), str(tmp_path / "x"), "--from", "records", "--to", "messages"]) == 1
    assert "no row of this format" in capsys.readouterr().err
