"""The benchmark of held-out speakers over the tiny bundle: all edits and controls of real clips, in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
pytest.importorskip("parselmouth", reason="praat-parselmouth is not installed")

import held_out_speakers
from edits import EDITS, NULL_EDITS
from figures import rows_of_speakers
from held_out_speakers import draw_partners, main, select_clips
from instruments import Listener

from edge_emotion.audio import from_samples, load_audio
from edge_emotion.bundle import load_bundle
from edge_emotion.errors import CorpusError, EdgeEmotionError
from edge_emotion.prosody import measure_prosody

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
CLIPS = {"emodb_15_anger": "15a05Wa", "emodb_16_sadness": "16b01Tb"}


@pytest.fixture(scope="module")
def emodb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of the test speakers in EmoDB's layout, cut short."""
    folder = tmp_path_factory.mktemp("data") / "emodb" / "wav"
    folder.mkdir(parents=True)
    for source, name in CLIPS.items():
        soundfile.write(folder / f"{name}.wav", load_audio(EXAMPLES / f"{source}.wav").samples[:24000], 16000)
    return folder.parent


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return load_audio(EXAMPLES / "emodb_15_anger.wav").samples[:32000]


def test_the_command_prints_every_figure_and_one_document(emodb, tiny_bundle, tmp_path, capsys):
    output = tmp_path / "result.json"
    arguments = ["--bundle", str(tiny_bundle), "--data", str(emodb.parent), "-o", str(output)]
    assert main(arguments) == 0
    stdout = capsys.readouterr().out
    document = json.loads(stdout.splitlines()[-1])
    assert document["corpus"]["clips"] == 2
    assert document["bundle"]["sha256"] == load_bundle(tiny_bundle).manifest_sha256
    assert set(document["null_edits"]["by_edit"]) == set(NULL_EDITS)
    # What the language model says comes from the embeddings it hears, and without them it says one thing of all.
    controls = document["controls"]
    assert controls["embeddings_of_another_clip"]["same_words_as_that_clip"]["share"] == 1.0
    assert controls["embeddings_removed"]["different_explanations"] == 1
    assert "UAR of the head" in stdout
    assert rows_of_speakers(document)[0][0] == "UAR of the head, speakers 15 and 16, int8+Q8_0"
    written = json.loads(output.read_text())
    assert {key: written[key] for key in document} == document
    assert set(EDITS) <= set(written["clips"][0])
    with pytest.raises(EdgeEmotionError, match="--force"):
        main(arguments)


def test_a_clip_that_fails_does_not_cost_the_others(emodb, tiny_bundle, monkeypatch, capsys):
    (emodb / "wav" / "16a01Wa.wav").write_text("no audio")
    monkeypatch.setattr(held_out_speakers, "EDITS", {})
    monkeypatch.setattr(held_out_speakers, "figures_of", lambda *_: {})
    monkeypatch.setattr(held_out_speakers, "describe", lambda _: "")
    try:
        assert main(["--bundle", str(tiny_bundle), "--data", str(emodb), "--json"]) == 1
    finally:
        (emodb / "wav" / "16a01Wa.wav").unlink()
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["corpus"]["clips"] == 2
    assert list(document["clips_failed"]) == ["emodb/16a01Wa"]
    assert "16a01Wa" in captured.err


def test_clips_are_those_of_the_speakers_and_labels(emodb):
    assert [clip.name for clip in select_clips(emodb, ["emodb_15", "emodb_16"], ("anger", "sadness"))] == [
        *CLIPS.values()
    ]
    with pytest.raises(CorpusError, match="too few"):
        select_clips(emodb, ["emodb_15"], ("anger", "sadness"))


@pytest.mark.parametrize("count", [2, 3, 50])
def test_partners_are_others_each_once(count):
    partners = draw_partners(count, seed=1)
    assert sorted(partners) == list(range(count))
    assert all(partners != np.arange(count))


def test_controls_end_with_the_call(tiny_bundle, speech):
    audio, other = from_samples(speech, 16000), from_samples(speech[8000:].copy(), 16000)
    with Listener(load_bundle(tiny_bundle)) as listener:
        elsewhere = listener.hear(other)
        embeddings = listener.last_embeddings
        own = listener.hear(audio)
        exchanged, removed = listener.hear_another(audio, embeddings), listener.hear_nothing(audio)
        again = listener.hear(audio)
    assert exchanged.reasoning == elsewhere.reasoning != own.reasoning
    assert exchanged.head_distribution == own.head_distribution
    assert removed.reasoning != own.reasoning
    assert (again.reasoning, again.distribution) == (own.reasoning, own.distribution)


def test_edits_move_what_they_name_and_nothing_else(speech):
    own = measure_prosody(speech).measures
    for name, edit in EDITS.items():
        measures = measure_prosody(edit(speech).samples).measures
        semitones = 12 * np.log2(measures["f0_median_hz"].value / own["f0_median_hz"].value)
        tempo = own["speech_duration_s"].value / measures["speech_duration_s"].value
        expected_st = {"pitch_plus_4_st": 4.0, "pitch_minus_4_st": -4.0}.get(name, 0.0)
        expected_tempo = {"rate_plus_25_percent": 1.25, "rate_minus_25_percent": 0.75}.get(name, 1.0)
        assert semitones == pytest.approx(expected_st, abs=0.5), name
        assert tempo == pytest.approx(expected_tempo, rel=0.06), name
