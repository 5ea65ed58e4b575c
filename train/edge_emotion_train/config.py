"""Training configurations: one frozen dataclass per stage family, read strictly from YAML by cyclopts.

An unknown key, a wrong type or an impossible value is a `ConfigError` before any data is read.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import cyclopts
import yaml

from edge_emotion.cues import CUE_BY_NAME
from edge_emotion.errors import ConfigError
from edge_emotion.labels import EMOTIONS

# `nano` and `small` are trained from an `SftConfig`, `omni` by the package `thinker`.
PRESETS = ("nano", "small", "omni")

# Least value of each number. A byte-level vocabulary holds 256 bytes and 7 tags.
_AT_LEAST_ONE = (
    "encoder_layers", "evidence_tokens", "language_model_layers", "texts_per_row", "most_cues", "steps", "batch_size",
    "fold_steps", "processes", "save_every", "lora_rank",
)  # fmt: skip
_NOT_NEGATIVE = (
    "seed", "emodb_variants", "emogator_clips", "synthetic_clips", "synthetic_variants", "fewest_cues", "cue_penalty",
    "emotion_penalty", "learning_rate", "prosody_steps", "prosody_triples", "prosody_learning_rate",
)  # fmt: skip
PROSODY_TASKS = (
    "pitch_level", "energy_level", "speed_level", "intonation", "order_pitch", "order_energy", "order_speed",
)  # fmt: skip
_LEAST = dict.fromkeys(_AT_LEAST_ONE, 1) | dict.fromkeys(_NOT_NEGATIVE, 0) | {"vocabulary": 263, "folds": 2}


@dataclass(frozen=True)
class SftConfig:
    """Supervised training of a small speech language model.

    Attributes:
        data: Folder that holds the corpora (`emodb/`, `emogator/`).
        encoder_weights: Whisper encoder: a Hugging Face folder or a .safetensors file.
        cache: Folder for encoder features, synthetic speech and measures.
        output: Folder of the checkpoint.
        preset: `nano` or `small`.
        name: Name of the model.
        seed: Seed of texts, weights and batches.
        labels: Emotions the model can answer, in the order of its logits.
        cues: Cues it may speak of.
        test_speakers: Speakers that no training step, threshold or choice ever sees.
        validation_speakers: Speakers that no training step sees either: each prosody task's accuracy is followed on
            them, and the temperature of the answers set.
        emodb_variants: Augmented variants of each EmoDB clip.
        emogator_clips: Vocal bursts that teach cues and microphones, not emotions of speech.
        synthetic_clips: Synthetic utterances with controlled prosody.
        synthetic_variants: Augmented variants of each.
        encoder_layers: Whisper layers kept.
        evidence_tokens: Tokens that carry the evidence heads' outputs.
        embedding_dim: Width of the language model, a multiple of 64.
        language_model_layers: Its depth.
        vocabulary: Size of its BPE.
        language_model: Preset `small`: GGUF file of the pretrained language model, whose width `embedding_dim` must be;
            None finds SmolLM2-135M-Instruct on this machine. Its own depth and vocabulary count.
        lora_rank: Preset `small`: rank of the adapters on it.
        cue_penalty: L2 penalty of the cue regressions.
        emotion_penalty: L2 penalty of the emotion head.
        always_cues: Cues that every explanation mentions.
        confidence: Least probability of being right with which a cue is mentioned.
        fewest_cues: Cues mentioned even below that.
        most_cues: Never more.
        texts_per_row: Paraphrases written per clip.
        text_corpora: Corpora whose clips the language model learns to explain; all teach the evidence heads.
        frames_dropped: Share of samples whose audio tokens are withheld.
        evidence_dropped: Share of samples whose evidence tokens are withheld.
        prosody_steps: Optimiser steps of the prosody tasks, which come before the reasoning; 0 leaves them out.
        prosody_tasks: How often each task is drawn, in any unit; a task that is not named is left out.
        prosody_triples: Of how many recordings per EmoDB clip triples are made: the first its own, others variants.
        prosody_learning_rate: Peak of their own cosine schedule.
        start: Checkpoint of `train prosody` to start from, in place of the prosody tasks.
        text_share: Share of reasoning samples without any audio, from whose text alone the answer must follow; the
            paper mixes in 20 % of text alone.
        transcript_share: Share of samples that ask what is said; the paper mixes in 20 % of speech recognition.
        steps: Optimiser steps of the reasoning.
        batch_size: Clips per step.
        learning_rate: Peak of the cosine schedule.
        max_duration_s: Longer clips are left out of training batches.
        calibration: Result file: `train eval` writes it, `train calibrate` sets the temperature of the answers from it.
        folds: Folds of `train eval`.
        fold_steps: Optimiser steps of each fold of `train eval`.
        processes: Worker processes for features.
        save_every: Steps between the checkpoints from which an interrupted stage goes on.
        resume: Go on from the last complete one in `output`.
        force: Start anew although `output` holds a run.
    """

    data: Path
    encoder_weights: Path
    cache: Path = Path("runs/nano/cache")
    output: Path = Path("runs/nano/checkpoint")
    preset: str = "nano"
    name: str = "nano"
    seed: int = 20261122
    labels: tuple[str, ...] = tuple(label for label in EMOTIONS if label != "surprise")
    cues: tuple[str, ...] = ("pitch", "pitch_variation", "pitch_slope", "rate", "tone", "clarity", "dynamics")
    test_speakers: tuple[str, ...] = ("emodb_15", "emodb_16")
    validation_speakers: tuple[str, ...] = ()
    emodb_variants: int = 6
    emogator_clips: int = 600
    synthetic_clips: int = 300
    synthetic_variants: int = 2
    encoder_layers: int = 2
    evidence_tokens: int = 8
    embedding_dim: int = 128
    language_model_layers: int = 4
    vocabulary: int = 768
    language_model: Path | None = None
    lora_rank: int = 8
    cue_penalty: float = 0.4
    emotion_penalty: float = 1.5
    always_cues: tuple[str, ...] = ("pitch", "rate")
    confidence: float = 0.88
    fewest_cues: int = 4
    most_cues: int = 5
    texts_per_row: int = 4
    text_corpora: tuple[str, ...] = ("emodb", "emogator", "synthetic")
    frames_dropped: float = 0.5
    evidence_dropped: float = 0.2
    prosody_steps: int = 0
    prosody_tasks: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PROSODY_TASKS, 1.0))
    prosody_triples: int = 1
    prosody_learning_rate: float = 1.5e-3
    start: Path | None = None
    text_share: float = 0.0
    transcript_share: float = 0.0
    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    max_duration_s: float = 8.0
    calibration: Path | None = None
    folds: int = 5
    fold_steps: int = 500
    processes: int = 2
    save_every: int = 100
    resume: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        problems = [
            *(f"data: no folder {self.data}" for _ in [0] if not self.data.is_dir()),
            *(f"encoder_weights: nothing at {self.encoder_weights}" for _ in [0] if not self.encoder_weights.exists()),
            *(
                f"language_model: {self.language_model} is given, but preset {self.preset} trains its own"
                for _ in [0]
                if self.language_model and self.preset != "small"
            ),
            *(
                "preset: small is trained on reasoning alone, from a published model: no prosody_steps, no start"
                for _ in [0]
                if self.preset == "small" and (self.prosody_steps or self.start)
            ),
            *(f"preset: {self.preset!r} is neither nano nor small" for _ in [0] if self.preset not in PRESETS[:2]),
            *(f"labels: unknown emotion {label!r}" for label in self.labels if label not in EMOTIONS),
            *(
                f"cues: unknown cue {cue!r}; known: {', '.join(CUE_BY_NAME)}"
                for cue in self.cues
                if cue not in CUE_BY_NAME
            ),
            *(f"always_cues: {cue!r} is not among cues" for cue in self.always_cues if cue not in self.cues),
            *(
                f"embedding_dim: {self.embedding_dim} is no positive multiple of 64"
                for _ in [0]
                if self.embedding_dim % 64 or self.embedding_dim < 64
            ),
            *(
                f"{name}: holds {value!r} more than once"
                for name in ("labels", "cues", "test_speakers", "validation_speakers")
                for value in dict.fromkeys(getattr(self, name))
                if getattr(self, name).count(value) > 1
            ),
            *(f"{name}: needs at least two" for name in ("labels", "cues") if len(getattr(self, name)) < 2),
            *(
                f"{name}: must be in 0..1"
                for name in ("confidence", "frames_dropped", "evidence_dropped", "text_share", "transcript_share")
                if not 0 <= getattr(self, name) <= 1
            ),
            *(
                "frames_dropped, evidence_dropped: together more than 1 would withhold everything"
                for _ in [0]
                if self.frames_dropped + self.evidence_dropped > 1
            ),
            *(
                "text_share, transcript_share: together 1 or more would leave no reasoning"
                for _ in [0]
                if self.text_share + self.transcript_share >= 1
            ),
            *(
                f"prosody_tasks: unknown task {task!r}; known: {', '.join(PROSODY_TASKS)}"
                for task in self.prosody_tasks
                if task not in PROSODY_TASKS
            ),
            *(
                f"prosody_tasks: {task} must be at least 0, given {weight}"
                for task, weight in self.prosody_tasks.items()
                if weight < 0
            ),
            *(
                "prosody_tasks: prosody_steps need a task with a weight above 0"
                for _ in [0]
                if self.prosody_steps > 0 and not any(weight > 0 for weight in self.prosody_tasks.values())
            ),
            *(f"start: no folder {self.start}" for _ in [0] if self.start is not None and not self.start.is_dir()),
            *("resume, force: cannot both be set" for _ in [0] if self.resume and self.force),
            *(
                f"{name}: must be at least {least}, given {getattr(self, name)}"
                for name, least in _LEAST.items()
                if getattr(self, name) < least
            ),
        ]
        if problems:
            raise ConfigError("the configuration cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems))


Config = TypeVar("Config")


def preset_of(path: Path) -> str:
    """The key `preset` of a YAML file, `nano` where it has none.

    Raises:
        ConfigError: The file is missing or holds no keys, or the preset is unknown.
    """
    preset = str(_read_keys(path).get("preset", PRESETS[0]))
    if preset not in PRESETS:
        near = difflib.get_close_matches(preset, PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{path}: unknown preset {preset!r}{hint}\nknown presets: {', '.join(PRESETS)}")
    return preset


def read_config(path: Path, overrides: Sequence[str] = ()) -> SftConfig:
    """Reads an `SftConfig`; see `read_config_of`."""
    return read_config_of(SftConfig, path, overrides)


def read_config_of(kind: type[Config], path: Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file of a configuration dataclass, then overrides such as `--steps 100`.

    Raises:
        ConfigError: The file is missing, or something in it or in the overrides is unknown, of a wrong type, impossible
            or not given; all that is wrong is named at once.
    """
    given = {str(key): value for key, value in _read_keys(path).items()}
    entries = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    unknown = [key for key in given if key not in entries]
    problems = [_unknown_key(key, list(entries)) for key in unknown]
    usable = {key: value for key, value in given.items() if key in entries}
    for name, entry in entries.items():
        option = "--" + name.replace("_", "-")
        required = entry.default is MISSING and entry.default_factory is MISSING
        if required and name not in usable and not any(o.split("=")[0] in (option, f"--{name}") for o in overrides):
            problems.append(f"{name}: must be given, in the file or as {option}")
            usable[name] = "."  # stands in, so that what else is wrong is seen too
    found: Config | None = None
    for _ in range(len(entries) + 1):  # each time round, one value of a wrong type is set aside
        try:
            found = _build(kind, usable, path, overrides)
        except ConfigError as error:
            problems += [line.strip() for line in str(error).splitlines()[1:]]
        except cyclopts.CoercionError as error:
            name = error.argument.name.lstrip("-").partition(".")[0].replace("-", "_") if error.argument else ""
            problems.append(f"{name}: {error}")
            if name in usable:
                del usable[name]
                continue
        except cyclopts.CycloptsError as error:
            problems.append(str(error))
        break
    if found is None or problems:
        known = f"\nknown keys: {', '.join(entries)}" if unknown else ""
        raise ConfigError(f"{path} cannot be used:\n" + "\n".join(f"  {line}" for line in problems) + known)
    return found


def _build(kind: type[Config], given: Mapping[str, Any], path: Path, overrides: Sequence[str]) -> Config:
    app = cyclopts.App(
        config=cyclopts.config.Dict(dict(given), source=str(path), use_commands_as_keys=False),
        result_action="return_value",
    )
    found: list[Config] = []

    def collect(*, config: Any) -> None:
        found.append(config)

    # cyclopts reads the type at run time, where the annotation of a generic says nothing.
    collect.__annotations__["config"] = Annotated[kind, cyclopts.Parameter(name="*")]
    app.default(collect)
    try:
        app(list(overrides), exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from error
        raise
    return found[0]


def _read_keys(path: Path) -> dict[Any, Any]:
    if not path.is_file():
        raise ConfigError(f"no configuration at {path}; the shipped ones are in train/configs/")
    try:
        given: Any = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{path} must hold `key: value` lines")
    return given


def _unknown_key(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
