"""The training stages behind `edge-emotion train STAGE --config F`: features, prosody, sft, eval, calibrate, grpo.

The configuration's key `preset` says of which model: `nano` and `small` train on cached features of a frozen encoder,
`omni` is a Qwen2.5-Omni thinker.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edge_emotion.errors import ConfigError

from .checkpoint import (
    Checkpoint,
    TowerSizes,
    build_tower,
    load_checkpoint,
    save_checkpoint,
    state_hash,
    update_calibration,
)
from .config import SftConfig, preset_of, read_config, read_config_of
from .encoder import load_whisper_encoder
from .evaluate import (
    UNCALIBRATED,
    answer_calibration,
    evaluate_folds,
    head_calibration,
    recordings_of,
    validation_calibration,
)
from .features import weights_hash
from .pretrained import base_model_path, describe_base
from .processes import is_main, print_result
from .progress import draw_phases
from .recipe import TrainedModel, train_model
from .runs import open_run
from .training_data import load_training_features, load_triples_and_shapes

# What the weights are made of; goes into the bundle's LICENSES and model card.
SOURCE_LICENCES = {
    "Berlin Database of Emotional Speech (EmoDB)": "CC0-1.0",
    "EmoGator vocal bursts": "Apache-2.0",
    "hibari-tts synthetic speech": "Apache-2.0",
}
PRESET_LICENCES = {
    "nano": {"OpenAI Whisper tiny.en encoder": "MIT"},
    "small": {"OpenAI Whisper base encoder": "MIT", "SmolLM2-135M-Instruct (not in the bundle)": "Apache-2.0"},
}
# What may change between a run and its resumption.
_FREE = ("data", "encoder_weights", "language_model", "cache", "output", "start", "calibration", "folds", "fold_steps",
         "processes", "save_every", "resume", "force")  # fmt: skip


def run(stage: str, config_path: Path, overrides: Sequence[str] = ()) -> None:
    """Runs one stage.

    Args:
        stage: `features`, `prosody`, `sft`, `eval`, `calibrate` or `grpo`; or `plan`, which tells what these take on
            GPUs.
        config_path: YAML of an `SftConfig`; of a `GrpoConfig` for `grpo`; of the thinker's stages for preset `omni`.
        overrides: Command-line options that override it, such as `["--steps", "100"]`.

    Raises:
        ConfigError: Unknown stage, or a configuration that cannot be used.
    """
    if stage == "plan":
        from .plan import plan_stages

        plan_stages(config_path, overrides)
        return
    if preset_of(config_path) == "omni":
        # Imported here because it brings all of Qwen2.5-Omni.
        from .thinker.stages import run as run_thinker

        run_thinker(stage, config_path, overrides)
        return
    stages: dict[str, Callable[[SftConfig], None]] = {
        "features": features_stage,
        "prosody": prosody_stage,
        "sft": sft_stage,
        "eval": eval_stage,
        "calibrate": calibrate_stage,
    }
    if stage in stages:
        stages[stage](read_config(config_path, overrides))
    elif stage == "grpo":
        # Imported here because trl takes seconds to import.
        from .reinforcement.config import GrpoConfig
        from .reinforcement.stage import grpo_stage

        grpo_stage(read_config_of(GrpoConfig, config_path, overrides))
    elif stage == "reward":
        from .reward_model.config import RewardConfig
        from .reward_model.stage import reward_stage

        reward_stage(read_config_of(RewardConfig, config_path, overrides))
    else:
        raise ConfigError(f"unknown stage {stage!r}; stages: {', '.join([*stages, 'grpo', 'reward', 'plan'])}")


def features_stage(config: SftConfig) -> None:
    """Fills the cache of features."""
    features, data_hash = load_training_features(config)
    sys.stderr.write(f"{len(features.rows)} rows, data {data_hash[:16]}\n")
    if config.prosody_steps:
        prosody = load_triples_and_shapes(config)
        sys.stderr.write(f"{len(prosody.shapes)} melodies, {len(prosody.orders)} triples\n")


def prosody_stage(config: SftConfig) -> None:
    """Trains the prosody tasks alone and writes a checkpoint from which `sft` can start."""
    if not config.prosody_steps:
        raise ConfigError("prosody_steps: the stage prosody needs at least 1, given 0")
    if config.start:
        raise ConfigError("start: the stage prosody is what others start from; leave it out")
    _supervised_stage("prosody", config, 0)


def sft_stage(config: SftConfig) -> None:
    """Trains the model on every speaker but those held out and writes its checkpoint.

    The prosody tasks come first, in so far as `prosody_steps` asks for them and `start` does not stand for them.
    """
    _supervised_stage("sft", config, config.steps)


def _supervised_stage(stage: str, config: SftConfig, steps: int) -> None:
    start = _start_of(config)
    settings = {name: value for name, value in asdict(config).items() if name not in _FREE}
    begun_with = None if start is None else state_hash(start.tower, start.language_model)
    training = config.output / "training"
    if open_run(training, settings | {"stage": stage, "start": begun_with}, config.resume, config.force):
        sys.stderr.write(f"going on with the run in {training}\n")
    features, data_hash = load_training_features(config)
    unknown = sorted(set(config.validation_speakers) - {row.speaker for row in features.rows})
    if unknown:
        raise ConfigError(f"validation_speakers: nobody is called {', '.join(unknown)}")
    held_out = {*config.test_speakers, *config.validation_speakers}
    train = [i for i, row in enumerate(features.rows) if row.speaker not in held_out]
    watched = recordings_of(features.rows, config.validation_speakers)
    trained = train_model(
        features.select(train),
        config,
        steps,
        training,
        start=start,
        save_every=config.save_every,
        watched=features.select(watched) if len(watched) else None,
    )
    provenance = {
        # Paths are this machine's business, and a bundle is published.
        "config": {name: value for name, value in asdict(config).items() if not isinstance(value, Path)},
        "stage": stage,
        "start": None if start is None else start.provenance,
        "licence": "Apache-2.0",
        "languages": ["de", "en"],
        "sources": PRESET_LICENCES[config.preset] | SOURCE_LICENCES,
        "encoder_weights_sha256": weights_hash(config.encoder_weights),
        "data_sha256": data_hash,
        "commit": _commit(),
        "versions": {name: version(name) for name in ("torch", "transformers", "scikit-learn", "numpy", "tokenizers")},
        "seed": config.seed,
        "final_loss": next((entry["loss"] for entry in reversed(trained.history) if "loss" in entry), None),
    }
    if not is_main():
        return
    checkpoint = as_checkpoint(trained, config, provenance)
    if steps and config.validation_speakers:
        answers = validation_calibration(trained, features, config)
        checkpoint = replace(checkpoint, calibration={**checkpoint.calibration, "llm": answers})
    save_checkpoint(config.output, checkpoint)
    partial = config.output / "metrics.partial"
    partial.write_text("".join(json.dumps(entry) + "\n" for entry in trained.history))
    partial.rename(config.output / "metrics.jsonl")
    draw_phases(trained.history, config.output / "curves.png")


def _start_of(config: SftConfig) -> Checkpoint | None:
    """The checkpoint to start from.

    Raises:
        ConfigError: It is of other sizes, labels or cues than the configuration's.
    """
    if config.start is None:
        return None
    start = load_checkpoint(config.start)
    sizes, layers = start.sizes, start.language_model.config.num_hidden_layers
    problems = [
        f"  {name}: the checkpoint has {had}, the configuration {asked}"
        for name, had, asked in (
            ("labels", start.labels, config.labels),
            ("cues", start.cues, config.cues),
            ("encoder_layers", sizes.encoder_layers, config.encoder_layers),
            ("evidence_tokens", sizes.evidence_tokens, config.evidence_tokens),
            ("embedding_dim", sizes.embedding_dim, config.embedding_dim),
            ("language_model_layers", layers, config.language_model_layers),
        )
        if had != asked
    ]
    if problems:
        raise ConfigError(f"start: {config.start} does not fit the configuration:\n" + "\n".join(problems))
    return start


def eval_stage(config: SftConfig) -> None:
    """Prints the figures on held-out speakers as JSON: the head, and the language model over folds of speakers."""
    features, data_hash = load_training_features(config)
    result = evaluate_folds(features, config) | {"data_sha256": data_hash, "commit": _commit()}
    print_result(result)
    if config.calibration is not None and is_main():
        config.calibration.parent.mkdir(parents=True, exist_ok=True)
        partial = config.calibration.with_suffix(".partial")
        partial.write_text(json.dumps(result, indent=1) + "\n")
        partial.rename(config.calibration)


def calibrate_stage(config: SftConfig) -> None:
    """Sets the temperature of the checkpoint's answers from the held-out answers of `train eval`."""
    if config.calibration is None or not config.calibration.is_file():
        raise ConfigError("calibrate needs --calibration FILE, the result of `edge-emotion train eval`")
    calibration = answer_calibration(json.loads(config.calibration.read_text()), config)
    update_calibration(config.output, {"llm": calibration})
    sys.stderr.write(f"{config.output}: {json.dumps(calibration)}\n")


def as_checkpoint(trained: TrainedModel, config: SftConfig, provenance: dict[str, Any]) -> Checkpoint:
    """A trained model as a checkpoint, with its encoder."""
    encoder = load_whisper_encoder(config.encoder_weights, config.encoder_layers)
    sizes = TowerSizes(
        encoder_dim=encoder.positions.shape[1],
        encoder_heads=encoder.positions.shape[1] // 64,
        encoder_layers=config.encoder_layers,
        mel_bands=encoder.log_mel.filters.shape[0],
        max_frames=encoder.positions.shape[0],
        cues=len(config.cues),
        labels=len(config.labels),
        evidence_tokens=config.evidence_tokens,
        embedding_dim=config.embedding_dim,
    )
    tower = build_tower(sizes)
    for part, source in (
        (tower.encoder, encoder),
        (tower.heads, trained.evidence.module()),
        (tower.evidence, trained.model.evidence),
        (tower.audio, trained.model.audio),
    ):
        part.load_state_dict(source.state_dict())
    return Checkpoint(
        tower=tower.eval(),
        language_model=trained.model.language_model,
        tokenizer=trained.tokenizer,
        sizes=sizes,
        labels=config.labels,
        cues=config.cues,
        prompt=trained.prompt,
        thresholds=trained.thresholds,
        calibration={"head": head_calibration(trained, config), "llm": UNCALIBRATED},
        provenance=provenance,
        base_model=describe_base(base_model_path(config)) if config.preset == "small" else None,
    )


def _commit() -> str:
    if shutil.which("git") is None:
        return "unknown"
    here = Path(__file__).parent
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    changed = subprocess.run(
        ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, check=False
    )
    return (git.stdout.strip() or "unknown") + ("-dirty" if changed.stdout.strip() else "")
