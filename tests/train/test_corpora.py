"""Readers on miniature corpora of each layout: labels, speakers, and that nothing is lost without a word."""

from __future__ import annotations

import json
import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_emotion.errors import CorpusError
from edge_emotion_train.corpora import (
    Clip,
    corpus_hash,
    corpus_names,
    read_corpus,
    scan_corpus,
    speaker_folds,
    split_by_speaker,
)


def write_audio(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(1600, np.float32), 16_000)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def by_name(clips: list[Clip]) -> dict[str, Clip]:
    return {clip.name: clip for clip in clips}


def test_emodb_original_layout(tmp_path: Path) -> None:
    write_audio(tmp_path, *(f"wav/{stem}.wav" for stem in ("03a01Fa", "08b10Wd", "15a05La", "16a02Nc", "16a02Ab")))
    clips = by_name(read_corpus("EmoDB", tmp_path))
    assert {n: c.emotion for n, c in clips.items()} == {
        "03a01Fa": "happiness", "08b10Wd": "anger", "15a05La": "boredom", "16a02Nc": "neutral", "16a02Ab": "fear",
    }  # fmt: skip
    happy = clips["03a01Fa"]
    assert (happy.speaker, happy.gender, happy.language) == ("emodb_03", "male", "de")
    assert happy.text == "Der Lappen liegt auf dem Eisschrank."
    assert happy.clip_id == "emodb/03a01Fa"


def test_emodb_manifest_gives_the_same_clips_as_the_original_layout(tmp_path: Path) -> None:
    write_audio(tmp_path, "original/wav/03a01Fa.wav", "manifest/audio/03a01Fa.flac")
    row = {"audio": "audio/03a01Fa.flac", "emotion": "happiness", "speaker": "emodb_03", "gender": "male",
           "language": "de", "text": "Der Lappen liegt auf dem Eisschrank.", "recognised_pct": 90.0}  # fmt: skip
    write_text(tmp_path / "manifest/manifest.jsonl", json.dumps(row) + "\n\n")
    (original,) = read_corpus("emodb", tmp_path / "original")
    (listed,) = read_corpus("emodb", tmp_path / "manifest")
    for name in ("clip_id", "speaker", "emotion", "gender", "text", "language"):
        assert getattr(original, name) == getattr(listed, name)
    assert listed.extra["recognised_pct"] == 90.0


def test_emogator_original_names(tmp_path: Path) -> None:
    numbers = {"03": "anger", "10": "disgust", "13": "happiness", "15": "fear", "18": "neutral", "24": "sadness",
               "27": "surprise", "28": "surprise", "01": None, "30": None}  # fmt: skip
    write_audio(tmp_path, *(f"data/mp3/000007-{number}-1.wav" for number in numbers))
    clips = read_corpus("emogator", tmp_path)
    assert {c.name.split("-")[1]: c.emotion for c in clips} == numbers
    assert {c.speaker for c in clips} == {"emogator_000007"}
    assert by_name(clips)["000007-01-1"].extra["label"] == "Adoration"


def test_emogator_category_that_does_not_exist_is_a_problem(tmp_path: Path) -> None:
    write_audio(tmp_path, "000007-03-1.wav", "000007-31-1.wav")
    with pytest.raises(CorpusError, match=r"unknown label: 1 \('category 31'"):
        read_corpus("emogator", tmp_path)


def test_ravdess(tmp_path: Path) -> None:
    write_audio(tmp_path, *(f"Actor_12/03-01-{e:02d}-01-02-01-12.wav" for e in range(1, 9)))
    write_audio(tmp_path, "Actor_01/03-02-05-02-01-02-01.wav")
    clips = by_name(read_corpus("ravdess", tmp_path))
    assert [clips[f"03-01-{e:02d}-01-02-01-12"].emotion for e in range(1, 9)] == [
        "neutral", "neutral", "happiness", "sadness", "anger", "fear", "disgust", "surprise",
    ]  # fmt: skip
    speech, song = clips["03-01-01-01-02-01-12"], clips["03-02-05-02-01-02-01"]
    assert (speech.speaker, speech.gender, speech.text) == ("ravdess_12", "female", "Dogs are sitting by the door.")
    assert (song.gender, song.extra["vocal_channel"], song.extra["intensity"]) == ("male", "song", "strong")


def test_the_second_copy_inside_a_download_is_a_duplicate(tmp_path: Path) -> None:
    write_audio(tmp_path, "Actor_01/03-01-05-01-01-01-01.wav", "copy/Actor_01/03-01-05-01-01-01-01.wav")
    report = scan_corpus("ravdess", tmp_path)
    assert len(report.clips) == 1
    assert report.problem_count == len(report.problems["duplicate"]) == 1
    assert len(read_corpus("ravdess", tmp_path, strict=False)) == 1


def test_cremad(tmp_path: Path) -> None:
    labels = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness"}
    write_audio(tmp_path, *(f"AudioWAV/1001_DFA_{label}_XX.wav" for label in labels), "AudioWAV/1002_IEO_SAD_HI.wav")
    write_text(tmp_path / "VideoDemographics.csv", "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,Not\n")
    clips = by_name(read_corpus("CREMA-D", tmp_path))
    assert {clips[f"1001_DFA_{label}_XX"].emotion: label for label in labels} == {e: k for k, e in labels.items()}
    actor, other = clips["1001_DFA_ANG_XX"], clips["1002_IEO_SAD_HI"]
    assert (actor.speaker, actor.gender, actor.extra["age"]) == ("cremad_1001", "male", 51)
    assert (other.gender, other.text, other.extra["intensity"]) == (None, "It's eleven o'clock.", "HI")


def test_tess(tmp_path: Path) -> None:
    write_audio(
        tmp_path,
        "OAF_Fear/OAF_back_fear.wav",
        "YAF_pleasant_surprised/YAF_back_ps.wav",
        "YAF_sad/YAF_dog_sad.wav",
        "OAF_neutral/OA_bite_neutral.wav",
    )
    clips = by_name(read_corpus("tess", tmp_path))
    assert [c.emotion for c in clips.values()] == ["fear", "neutral", "surprise", "sadness"]
    assert clips["OA_bite_neutral"].speaker == "tess_OAF"
    assert clips["YAF_back_ps"].text == "Say the word back."


def write_iemocap(root: Path, turns: dict[str, str]) -> None:
    lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"]
    for turn, label in turns.items():
        lines.append(f"[6.2901 - 8.2357]\t{turn}\t{label}\t[2.5000, 3.0000, 3.5000]\nC-E2:\tNeutral;\t()\n")
        write_audio(root, f"Session1/sentences/wav/Ses01F_impro01/{turn}.wav")
    write_text(root / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", "\n".join(lines))
    text = "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.\nM: breath\n"
    write_text(root / "Session1/dialog/transcriptions/Ses01F_impro01.txt", text)


def test_iemocap(tmp_path: Path) -> None:
    codes = ("neu", "exc", "fru", "ang", "xxx")
    turns = {f"Ses01F_impro01_{'FM'[i % 2]}{i:03d}": code for i, code in enumerate(codes)}
    write_iemocap(tmp_path, turns)
    write_audio(tmp_path, "Session1/dialog/wav/Ses01F_impro01.wav")
    clips = by_name(read_corpus("iemocap", tmp_path))
    assert [clips[turn].emotion for turn in turns] == ["neutral", "happiness", None, "anger", None]
    first = clips["Ses01F_impro01_F000"]
    assert (first.speaker, first.gender, first.text) == ("iemocap_Ses01F", "female", "Excuse me.")
    assert (first.extra["valence"], first.extra["dominance"], first.extra["session"]) == (2.5, 3.5, 1)
    # Who speaks is told by the turn; the dialogue's name tells who wore the markers.
    assert clips["Ses01F_impro01_M001"].speaker == "iemocap_Ses01M"


def test_iemocap_reports_missing_and_unrated_audio(tmp_path: Path) -> None:
    write_iemocap(tmp_path, {"Ses01F_impro01_F000": "neu", "Ses01F_impro01_F001": "zzz", "Ses01F_impro01_F002": "sad"})
    (tmp_path / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F002.wav").unlink()
    write_audio(tmp_path, "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F009.wav")
    problems = scan_corpus("iemocap", tmp_path).problems
    assert {kind: len(items) for kind, items in problems.items()} == {
        "missing audio": 1, "unknown label": 1, "audio without a label": 1,
    }  # fmt: skip


def test_meld(tmp_path: Path) -> None:
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
    row = '1,"Oh my God, hi!",{},{},positive,0,{},8,21,"00:16:16,059","00:16:21,731"\n'
    write_text(
        tmp_path / "train_sent_emo.csv", header + row.format("Chandler", "joy", 0) + row.format("Joey", "fear", 1)
    )
    write_text(tmp_path / "test_sent_emo.csv", header + row.format("Dr. Green", "surprise", 0))
    write_audio(tmp_path, "train_splits/dia0_utt0.wav", "train_splits/dia0_utt1.wav")
    write_audio(tmp_path, "output_repeated_splits_test/dia0_utt0.wav")
    clips = by_name(read_corpus("meld", tmp_path))
    assert {n: c.emotion for n, c in clips.items()} == {
        "train/dia0_utt0": "happiness", "train/dia0_utt1": "fear", "test/dia0_utt0": "surprise",
    }  # fmt: skip
    # The same file name in two splits is two recordings.
    assert clips["test/dia0_utt0"].path != clips["train/dia0_utt0"].path
    assert clips["test/dia0_utt0"].speaker == "meld_Dr_Green"
    assert clips["train/dia0_utt0"].text == "Oh my God, hi!"
    assert Counter(c.split for c in clips.values()) == {"train": 2, "test": 1}


def test_everything_wrong_is_counted_and_named_at_once(tmp_path: Path) -> None:
    rows = [
        {"audio": "audio/a.flac", "speaker": "x_1", "emotion": "anger"},
        {"audio": "audio/b.flac", "speaker": "x_1", "emotion": "hungry"},
        {"audio": "audio/c.flac", "speaker": "x_1", "emotion": "anger"},
        {"audio": "audio/a.flac", "speaker": "x_1", "emotion": "anger"},
        {"speaker": "x_1"},
    ]
    write_text(tmp_path / "manifest.jsonl", "\n".join(map(json.dumps, rows)) + "\n{broken\n")
    write_audio(tmp_path, "audio/a.flac", "audio/b.flac", "audio/d.flac")
    with pytest.raises(CorpusError) as caught:
        read_corpus("emodb", tmp_path)
    message = str(caught.value)
    for part in (
        "1 clips of 1 speakers (anger 1)",
        "missing audio: 1 (audio/c.flac)",
        "unknown label: 1 ('hungry' of b)",
        "duplicate: 1",
        "unreadable line: 2",
        "audio without a label: 1 (audio/d.flac)",
    ):
        assert part in message
    assert [c.name for c in read_corpus("emodb", tmp_path, strict=False)] == ["a"]


@pytest.mark.parametrize("name", corpus_names())
def test_a_folder_without_the_corpus_says_what_was_expected(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="expected"):
        read_corpus(name, tmp_path)
    with pytest.raises(CorpusError, match="not a folder"):
        read_corpus(name, tmp_path / "nowhere")


def test_unknown_corpus_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="known corpora: emodb"):
        read_corpus("emodd", tmp_path)


def make_clips(speakers: int, each: int = 3) -> list[Clip]:
    return [
        Clip(Path(f"{s}_{i}.wav"), f"s{s:02d}", "anger", "x", "de", None, ("male", "female")[s % 2], None)
        for s in range(speakers)
        for i in range(each + s % 3)
    ]


@pytest.mark.parametrize(("speakers", "folds"), [(10, 5), (10, 10), (7, 3), (2, 2)])
def test_folds_hear_nobody_twice_and_test_everybody_once(speakers: int, folds: int) -> None:
    clips = make_clips(speakers)
    result = speaker_folds(clips, folds)
    assert len(result) == folds
    for fold in result:
        assert not {c.speaker for c in fold.train} & {c.speaker for c in fold.test}
        assert {c.speaker for c in fold.test} == set(fold.test_speakers)
        assert len(fold.train) + len(fold.test) == len(clips)
    assert Counter(c for fold in result for c in fold.test_speakers) == {c.speaker: 1 for c in clips}
    sizes = [len(fold.test_speakers) for fold in result]
    assert max(sizes) - min(sizes) <= 1


def test_folds_of_two_pair_a_man_and_a_woman() -> None:
    clips = make_clips(10)
    gender = {c.speaker: c.gender for c in clips}
    assert all({gender[s] for s in fold.test_speakers} == {"male", "female"} for fold in speaker_folds(clips, 5))


@pytest.mark.parametrize("folds", [0, 1, 4])
def test_impossible_folds(folds: int) -> None:
    with pytest.raises(CorpusError, match="give 2 to 3"):
        speaker_folds(make_clips(3), folds)


def test_split_by_speaker_refuses_a_speaker_who_is_not_there() -> None:
    train, test = split_by_speaker(make_clips(4), ["s01"])
    assert {c.speaker for c in test} == {"s01"}
    assert "s01" not in {c.speaker for c in train}
    with pytest.raises(CorpusError, match="s99"):
        split_by_speaker(make_clips(4), ["s01", "s99"])


def test_hash_follows_contents_and_labels_but_not_order_or_place(tmp_path: Path) -> None:
    names = ["03a01Fa.wav", "03a01Wa.wav"]
    write_audio(tmp_path, *(f"one/{n}" for n in names), *(f"two/wav/{n}" for n in names))
    one, two = read_corpus("emodb", tmp_path / "one"), read_corpus("emodb", tmp_path / "two")
    assert corpus_hash(one) == corpus_hash(two[::-1])
    soundfile.write(tmp_path / "two/wav" / names[0], np.ones(1600, np.float32) * 0.1, 16_000)
    assert corpus_hash(one) != corpus_hash(two)


def test_clips_travel_between_processes(tmp_path: Path) -> None:
    write_audio(tmp_path, "03a01Fa.wav")
    (clip,) = read_corpus("emodb", tmp_path)
    assert pickle.loads(pickle.dumps(clip)) == clip


@pytest.mark.corpus
@pytest.mark.parametrize(("name", "clips", "speakers"), [("emodb", 535, 10), ("emogator", 2499, 357)])
def test_the_real_corpora_are_complete(name: str, clips: int, speakers: int) -> None:
    root = Path(os.environ.get("EDGE_EMOTION_DATA", "")) / name
    if "EDGE_EMOTION_DATA" not in os.environ or not root.is_dir():
        pytest.skip("EDGE_EMOTION_DATA names no folder with this corpus")
    report = scan_corpus(name, root)
    assert not report.problems
    assert (len(report.clips), len({c.speaker for c in report.clips})) == (clips, speakers)
    assert all(c.emotion for c in report.clips)
