"""Configurations: what is wrong with one is said all at once, before any data is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_emotion.errors import ConfigError
from edge_emotion_train.config import SftConfig, read_config

CONFIGS = Path(__file__).parents[2] / "train" / "configs"
SHIPPED = [CONFIGS / "nano.yaml", CONFIGS / "nano_prosody.yaml"]


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """Options that name an existing data folder and weights."""
    (tmp_path / "data").mkdir()
    (tmp_path / "weights").mkdir()
    return ["--data", str(tmp_path / "data"), "--encoder-weights", str(tmp_path / "weights")]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_load(path: Path, inputs: list[str]) -> None:
    config = read_config(path, inputs)
    assert config.data.is_dir()
    assert {"emodb_15", "emodb_16"} <= set(config.test_speakers)


def test_defaults_yield_to_the_file_and_the_file_to_options(tmp_path: Path, inputs: list[str]) -> None:
    path = write(tmp_path, "steps: 7\nfolds: 3\nlabels: [fear, anger]\nconfidence: 0.5\n")
    config = read_config(path, [*inputs, "--steps", "9", "--learning-rate", "2e-4"])
    assert (config.steps, config.folds, config.labels) == (9, 3, ("fear", "anger"))
    assert (config.confidence, config.learning_rate, config.batch_size) == (0.5, 2e-4, 32)
    assert read_config(path, inputs).steps == 7


def test_unknown_keys_are_all_named_with_suggestions(tmp_path: Path, inputs: list[str]) -> None:
    path = write(tmp_path, "stepps: 7\nlerning_rate: 1\nzebra: 2\nfolds: 3\n")
    with pytest.raises(ConfigError) as caught:
        read_config(path, inputs)
    message = str(caught.value)
    assert "unknown key 'stepps'; did you mean 'steps'?" in message
    assert "unknown key 'lerning_rate'; did you mean 'learning_rate'?" in message
    assert "unknown key 'zebra'\n" in message
    assert "'folds'" not in message


def test_impossible_values_are_all_named(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "data: /nowhere/data\nencoder_weights: /nowhere/weights\nlabels: [anger, joyy]\ncues: [pitch, smell]\n"
        "embedding_dim: 100\nconfidence: 1.5\nsteps: 0\nfolds: 1\nvocabulary: 200\ntest_speakers: [a, a]\n"
        "frames_dropped: 0.7\nevidence_dropped: 0.6\ncue_penalty: -1\n",
    )
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    message = str(caught.value)
    for problem in (
        "data: no folder /nowhere/data",
        "encoder_weights: nothing at /nowhere/weights",
        "labels: unknown emotion 'joyy'",
        "cues: unknown cue 'smell'; known: pitch",
        "always_cues: 'rate' is not among cues",
        "embedding_dim: 100",
        "confidence: must be in 0..1",
        "steps: must be at least 1, given 0",
        "folds: must be at least 2, given 1",
        "vocabulary: must be at least 263, given 200",
        "test_speakers: holds 'a' more than once",
        "frames_dropped, evidence_dropped: together more than 1",
        "cue_penalty: must be at least 0, given -1",
    ):
        assert problem in message
    assert len(message.splitlines()) == 14


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("steps: many\n", [], "steps"),
        ("steps: 3\n", ["--steps", "many"], "steps"),
        ("steps: 3\n", ["--stepps", "4"], "stepps"),
        ("- steps\n", [], "must hold `key: value` lines"),
        ("", [], "must hold `key: value` lines"),
        ("steps: [3\n", [], "is not YAML"),
    ],
)
def test_unreadable_files_and_options_are_configuration_errors(
    tmp_path: Path, inputs: list[str], text: str, options: list[str], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(write(tmp_path, text), [*inputs, *options])
    assert said in str(caught.value)


def test_missing_paths_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data"):
        read_config(write(tmp_path, "steps: 3\n"))
    with pytest.raises(ConfigError, match="no configuration at"):
        read_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize("name", ["labels", "cues"])
def test_a_choice_needs_two(tmp_path: Path, name: str) -> None:
    one = ("anger",) if name == "labels" else ("pitch",)
    with pytest.raises(ConfigError, match=f"{name}: needs at least two"):
        SftConfig(tmp_path, tmp_path, **{name: one})  # type: ignore[arg-type]


def test_everything_that_is_wrong_is_named_at_once(tmp_path: Path, inputs: list[str]) -> None:
    path = write(
        tmp_path,
        "stepps: 7\nsteps: many\nfolds: 1\nbatch_size: [3]\nprosody_tasks: {pitch: 1, speed_level: -1}\n"
        "text_share: 0.6\ntranscript_share: 0.4\nresume: true\nforce: true\nstart: /nowhere\n",
    )
    with pytest.raises(ConfigError) as caught:
        read_config(path, inputs[:2])
    message = str(caught.value)
    for problem in (
        "unknown key 'stepps'; did you mean 'steps'?",
        "steps: ",
        "batch_size: ",
        "encoder_weights: must be given, in the file or as --encoder-weights",
        "folds: must be at least 2, given 1",
        "prosody_tasks: unknown task 'pitch'; known: pitch_level",
        "prosody_tasks: speed_level must be at least 0, given -1",
        "text_share, transcript_share: together 1 or more",
        "start: no folder /nowhere",
        "resume, force: cannot both be set",
        "known keys: data, encoder_weights",
    ):
        assert problem in message


def test_tasks_are_chosen_with_their_weights(tmp_path: Path, inputs: list[str]) -> None:
    path = write(tmp_path, "prosody_steps: 5\nprosody_tasks: {pitch_level: 2, order_speed: 0.5}\n")
    assert read_config(path, inputs).prosody_tasks == {"pitch_level": 2.0, "order_speed": 0.5}
    path = write(tmp_path, "prosody_steps: 5\nprosody_tasks: {pitch_level: 0}\n")
    with pytest.raises(ConfigError, match="prosody_steps need a task with a weight above 0"):
        read_config(path, inputs)
