"""The whole way in miniature: recordings -> training -> export -> bundle -> what a device says of a recording.

Every part is the product's own, only small: four speakers made of two real recordings, a random encoder 64 wide, a few
optimiser steps. What the model says means nothing; that each part hands on what the next one needs does.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import edge_emotion
from edge_emotion.audio import load_audio
from edge_emotion.bundle import Bundle, load_bundle
from edge_emotion.cli.app import run
from edge_emotion.errors import ConfigError
from edge_emotion.result import EmotionResult
from edge_emotion_export.export import export_all
from edge_emotion_train import stages
from edge_emotion_train.augment import ProsodyEdit, edit_prosody
from edge_emotion_train.checkpoint import load_checkpoint, state_hash

RECORDINGS = Path(__file__).parent / "data"
# EmoDB's letters, and how each is spoken here: semitones, factor on the melody's range, factor on duration.
EMOTIONS = {"W": ProsodyEdit(3.0, 1.5, 0.85), "N": ProsodyEdit(0.0, 1.0, 1.0), "T": ProsodyEdit(-2.0, 0.6, 1.2)}
# The last speaker is the test speaker.
SPEAKERS = {"03": ("03a02Nc", 0.0), "08": ("14a04Aa", 0.0), "11": ("03a02Nc", 2.5), "15": ("14a04Aa", -2.5)}
CLIPS_EACH = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an `emodb` of 36 clips of about a second: stretches of real recordings with edited prosody."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "emodb" / "wav").mkdir(parents=True)
    for speaker, (recording, pitch_shift_st) in SPEAKERS.items():
        samples = load_audio(RECORDINGS / f"emodb_{recording}.flac").samples
        starts = np.linspace(0, len(samples) - 17_600, CLIPS_EACH).astype(int)
        for letter, edit in EMOTIONS.items():
            spoken = ProsodyEdit(edit.pitch_shift_st + pitch_shift_st, edit.range_factor, edit.duration_factor)
            for take, start in enumerate(starts):
                clip = edit_prosody(samples[start : start + 17_600], spoken)
                soundfile.write(folder / "emodb" / "wav" / f"{speaker}a0{take + 1}{letter}a.wav", clip, 16000)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Whisper encoder under Hugging Face names."""
    torch.manual_seed(0)
    encoder = WhisperEncoder(
        WhisperConfig(
            d_model=64, encoder_layers=2, encoder_attention_heads=1, encoder_ffn_dim=256, max_source_positions=300
        )
    )
    for name, parameter in encoder.named_parameters():
        if parameter.ndim > 1 and "embed_positions" not in name:
            torch.nn.init.xavier_normal_(parameter)
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    save_file({f"model.encoder.{name}": value.contiguous() for name, value in encoder.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def options(data: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The configuration of a model small enough for a test, and what is given on the command line."""
    folder = tmp_path_factory.mktemp("runs")
    path = folder / "miniature.yaml"
    path.write_text(
        "name: miniature\nlabels: [anger, neutral, sadness]\ntest_speakers: [emodb_15]\n"
        "emodb_variants: 1\nemogator_clips: 0\nsynthetic_clips: 0\nembedding_dim: 64\nlanguage_model_layers: 2\n"
        "vocabulary: 384\nsteps: 40\nbatch_size: 8\nlearning_rate: 3.0e-3\ntexts_per_row: 2\nprocesses: 1\n"
        "folds: 4\nfold_steps: 5\nprosody_steps: 6\nprosody_triples: 0\nsave_every: 3\n"
    )
    paths = {"--data": data, "--encoder-weights": weights, "--cache": folder / "cache", "--output": folder / "model"}
    return path, [text for option, value in paths.items() for text in (option, str(value))]


@pytest.fixture(scope="module")
def checkpoint(options: tuple[Path, list[str]]) -> Path:
    stages.run("sft", *options)
    return Path(options[1][-1])


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("export") / "miniature"
    export_all(checkpoint, folder, [data], name="miniature")
    return load_bundle(folder)


def test_a_device_explains_a_recording(bundle: Bundle, data: Path) -> None:
    with edge_emotion.load(bundle.path) as analyzer:
        for clip in sorted(data.rglob("15*.wav"))[:3]:
            result = analyzer.analyze(clip)
            assert result.label in ("anger", "neutral", "sadness")
            assert result.reasoning
            assert sum(result.distribution.values()) == pytest.approx(1.0, abs=1e-6)
            assert result.bundle["name"] == "miniature"
            written = json.loads(json.dumps(result.to_dict()))
            assert EmotionResult.from_dict(written).to_dict() == written


def test_the_bundle_passes_its_own_verification(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(bundle.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True


def test_the_bundle_says_where_it_comes_from_but_not_where_that_lay(bundle: Bundle, data: Path, weights: Path) -> None:
    text = (bundle.path / "manifest.json").read_text()
    provenance = bundle.manifest.provenance
    assert provenance["config"]["steps"] == 40
    assert len(provenance["data_sha256"]) == 64
    assert str(data) not in text
    assert str(weights.parent) not in text
    assert "03, 08, 11" in bundle.manifest.thresholds.source


def test_training_never_saw_the_test_speaker(checkpoint: Path) -> None:
    metadata = json.loads((checkpoint / "metadata.json").read_text())
    assert metadata["thresholds"]["source"] == "population: EmoDB speakers 03, 08, 11"
    assert metadata["sizes"]["encoder_dim"] == 64
    assert metadata["calibration"]["head"]["temperature"] > 0
    lines = [json.loads(line) for line in (checkpoint / "metrics.jsonl").read_text().splitlines()]
    assert metadata["provenance"]["final_loss"] == [line["loss"] for line in lines if "loss" in line][-1]


def test_prosody_is_trained_before_reasoning(checkpoint: Path) -> None:
    lines = [json.loads(line) for line in (checkpoint / "metrics.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(line["phase"] for line in lines)) == ["prosody", "reasoning"]
    assert [line["step"] for line in lines if "train_loss" in line] == [6, 40]
    assert (checkpoint / "curves.png").stat().st_size > 1000


def test_reasoning_starts_from_a_checkpoint_of_the_prosody_tasks(
    options: tuple[Path, list[str]], tmp_path: Path
) -> None:
    path, arguments = options
    prosody, sft = tmp_path / "prosody", tmp_path / "sft"
    watching = ["--validation-speakers", "emodb_11", "--output", str(prosody)]
    with pytest.raises(ConfigError, match="nobody is called emodb-11"):
        stages.run("prosody", path, [*arguments[:-2], "--validation-speakers", "emodb-11", "--output", str(sft)])
    stages.run("prosody", path, [*arguments[:-2], *watching])
    lines = [json.loads(line) for line in (prosody / "metrics.jsonl").read_text().splitlines()]
    followed = {name for line in lines for name in line if name.startswith("accuracy/")}
    assert followed >= {"accuracy/pitch_level", "accuracy/speed_level", "accuracy/energy_level"}
    with pytest.raises(ConfigError, match="holds a run already; go on with --resume, or start anew with --force"):
        stages.run("prosody", path, [*arguments[:-2], *watching])
    before = {file.name: file.read_bytes() for file in prosody.glob("*.safetensors")}
    stages.run("prosody", path, [*arguments[:-2], *watching, "--resume"])
    assert {file.name: file.read_bytes() for file in prosody.glob("*.safetensors")} == before
    start = ["--start", str(prosody), "--output", str(sft), "--steps", "1", "--learning-rate", "0", "--force"]
    stages.run("sft", path, [*arguments[:-2], *start])
    one, other = (load_checkpoint(folder) for folder in (prosody, sft))
    assert state_hash(one.language_model, one.tower.audio) == state_hash(other.language_model, other.tower.audio)
    assert other.provenance["start"]["stage"] == "prosody"
    with pytest.raises(ConfigError, match="does not fit the configuration:\n  embedding_dim: the checkpoint has 64"):
        stages.run("sft", path, [*arguments[:-2], *start, "--embedding-dim", "128"])


def test_evaluation_holds_out_whole_speakers(
    options: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, arguments = options
    results = tmp_path / "folds.json"
    stages.run("eval", path, [*arguments, "--calibration", str(results)])
    printed = json.loads(capsys.readouterr().out)  # nothing but the result on stdout
    assert printed == json.loads(results.read_text())
    held_out = [fold["speakers_held_out"] for fold in printed["folds"]]
    assert sorted(speaker for fold in held_out for speaker in fold) == ["emodb_03", "emodb_08", "emodb_11", "emodb_15"]
    for fold in printed["folds"]:
        assert set(fold["speakers"]) == set(fold["speakers_held_out"])
        assert len(fold["truth"]) == len(fold["label_scores"]) == 9
    assert printed["head_leave_one_speaker_out"]["clips"] == printed["language_model"]["answer"]["clips"] == 36
