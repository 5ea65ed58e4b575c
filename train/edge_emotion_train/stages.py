"""The training stages behind `edge-emotion train STAGE --config F`: features, sft, eval, calibrate, grpo.

The configuration's key `preset` says of which model: `nano` and `small` train on cached features of a frozen encoder,
`omni` is a Qwen2.5-Omni thinker.
"""

from __future__ import annotations

import hashlib
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

from .checkpoint import Checkpoint, TowerSizes, build_tower, save_checkpoint, update_calibration
from .config import SftConfig, preset_of, read_config, read_config_of
from .encoder import load_whisper_encoder
from .evaluate import UNCALIBRATED, answer_calibration, evaluate_folds, head_calibration, validation_calibration
from .features import weights_hash
from .pretrained import base_model_path, describe_base
from .processes import is_main, print_result
from .recipe import TrainedModel, train_model
from .training_data import load_training_features

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


def run(stage: str, config_path: Path, overrides: Sequence[str] = ()) -> None:
    """Runs one stage.

    Args:
        stage: `features`, `sft`, `eval`, `calibrate` or `grpo`; or `plan`, which tells what these take on GPUs.
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


def sft_stage(config: SftConfig) -> None:
    """Trains the shipped model on every speaker but the test speakers and writes its checkpoint."""
    features, data_hash = load_training_features(config)
    small = config.preset == "small"  # which is too long to be trained in folds, or in one go
    unseen = {*config.test_speakers, *(config.validation_speakers if small else ())}
    train = [i for i, row in enumerate(features.rows) if row.speaker not in unseen]
    logs = config.output / "logs" / _training_hash(config, data_hash) if small else config.output / "logs"
    trained = train_model(
        features.select(train), config, config.steps, logs, save_every=config.save_every if small else 0
    )
    provenance = {
        # Paths are this machine's business, and a bundle is published.
        "config": {name: value for name, value in asdict(config).items() if not isinstance(value, Path)},
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
    checkpoint = _as_checkpoint(trained, config, provenance)
    if small and config.validation_speakers:
        answers = validation_calibration(trained, features, config)
        checkpoint = replace(checkpoint, calibration={**checkpoint.calibration, "llm": answers})
    save_checkpoint(config.output, checkpoint)
    with (config.output / "metrics.jsonl").open("w") as log:
        log.writelines(json.dumps(entry) + "\n" for entry in trained.history)


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


def _as_checkpoint(trained: TrainedModel, config: SftConfig, provenance: dict[str, Any]) -> Checkpoint:
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


def _training_hash(config: SftConfig, data_hash: str) -> str:
    """Names this very training: no other may go on from its checkpoints."""
    settings = {name: str(value) for name, value in asdict(config).items() if not isinstance(value, Path)}
    return hashlib.sha256(json.dumps([settings, data_hash]).encode()).hexdigest()[:12]


def _commit() -> str:
    if shutil.which("git") is None:
        return "unknown"
    here = Path(__file__).parent
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    changed = subprocess.run(
        ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, check=False
    )
    return (git.stdout.strip() or "unknown") + ("-dirty" if changed.stdout.strip() else "")
