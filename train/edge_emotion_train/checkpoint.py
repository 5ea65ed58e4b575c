"""A trained model as a folder: what training writes, evaluation reads and export turns into a bundle.

metadata.json            labels, cues, sizes, prompt, thresholds, calibration, provenance
tower.safetensors        encoder, evidence heads, projectors
language_model/          Hugging Face folder of the language model, or a PEFT folder of adapters, and its tokenizer.json
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import LlamaForCausalLM

from edge_emotion.base_models import BaseModel, find_base_model
from edge_emotion.cues import Thresholds
from edge_emotion.errors import ConfigError
from edge_emotion.prompt import Prompt

from .encoder import WhisperEncoder
from .model import AudioProjector, AudioTower, EvidenceHeads, EvidenceProjector


@dataclass(frozen=True)
class TowerSizes:
    """Sizes that rebuild an `AudioTower`."""

    encoder_dim: int = 384
    encoder_heads: int = 6
    encoder_layers: int = 2
    mel_bands: int = 80
    max_frames: int = 1500
    cues: int = 7
    labels: int = 7
    evidence_tokens: int = 8
    embedding_dim: int = 128


@dataclass(frozen=True)
class Checkpoint:
    """A model with everything that is needed to run, evaluate and export it.

    Attributes:
        tower: Audio side, in evaluation mode.
        language_model: Text side, in evaluation mode.
        tokenizer: Its byte-level BPE tokenizer, with the prompt's tags as single added tokens.
        sizes: Sizes of the tower.
        labels: Emotions in the order of the logits.
        cues: Cue names in the order of the evidence heads.
        prompt: Texts around the audio.
        thresholds: Cut points of the cues' levels.
        calibration: Per head (`llm`, `head`): temperature, ece, abstain_below.
        provenance: Config, data hashes, seed, versions, commit.
        base_model: The published file that the language model's adapters stand on; None where it is all its own.
        base_path: Where that file is on this machine.
    """

    tower: AudioTower
    language_model: LlamaForCausalLM
    tokenizer: Tokenizer
    sizes: TowerSizes
    labels: tuple[str, ...]
    cues: tuple[str, ...]
    prompt: Prompt
    thresholds: Thresholds
    calibration: Mapping[str, Mapping[str, float]]
    provenance: Mapping[str, Any]
    base_model: BaseModel | None = None
    base_path: Path | None = None


def build_tower(sizes: TowerSizes) -> AudioTower:
    """An `AudioTower` of these sizes with fresh weights."""
    layers, dim = sizes.encoder_layers, sizes.encoder_dim
    return AudioTower(
        WhisperEncoder(dim, sizes.encoder_heads, layers, sizes.mel_bands, sizes.max_frames),
        EvidenceHeads(layers * 4 * dim, sizes.cues, sizes.labels),
        EvidenceProjector(sizes.cues, sizes.labels, sizes.evidence_tokens, sizes.embedding_dim),
        AudioProjector(layers, dim, sizes.embedding_dim),
    )


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes the folder; files appear under their names only when complete."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(checkpoint.tower.state_dict(), folder / "tower.partial")
    (folder / "tower.partial").rename(folder / "tower.safetensors")
    checkpoint.language_model.save_pretrained(folder / "language_model")
    checkpoint.tokenizer.save(str(folder / "language_model" / "tokenizer.json"))
    metadata = {
        "sizes": asdict(checkpoint.sizes),
        "labels": list(checkpoint.labels),
        "cues": list(checkpoint.cues),
        "prompt": checkpoint.prompt.to_dict(),
        "thresholds": checkpoint.thresholds.to_dict(),
        "calibration": {name: dict(values) for name, values in checkpoint.calibration.items()},
        "provenance": dict(checkpoint.provenance),
    }
    if checkpoint.base_model:
        metadata["base_model"] = asdict(checkpoint.base_model)
    _write_metadata(folder / "metadata.json", metadata)


def update_calibration(folder: Path, calibration: Mapping[str, Mapping[str, float]]) -> None:
    """Replaces entries of a checkpoint's calibration.

    Raises:
        ConfigError: The folder is not a checkpoint.
    """
    path = folder / "metadata.json"
    if not path.is_file():
        raise ConfigError(f"{folder} is not a checkpoint: metadata.json is missing; run `edge-emotion train sft` first")
    metadata = json.loads(path.read_text())
    metadata["calibration"] |= {name: dict(values) for name, values in calibration.items()}
    _write_metadata(path, metadata)


def _write_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(metadata, indent=2) + "\n")
    partial.rename(path)


def load_checkpoint(folder: Path, base: Path | None = None) -> Checkpoint:
    """Reads a folder that `save_checkpoint` wrote.

    Args:
        folder: The checkpoint.
        base: File of the base model of its adapters; None finds it on this machine.

    Raises:
        ConfigError: The folder is not a checkpoint, or a part of it is missing.
        BundleError: The base model is not on this machine.
    """
    for part in ("metadata.json", "tower.safetensors", "language_model/tokenizer.json"):
        if not (folder / part).is_file():
            raise ConfigError(
                f"{folder} is not a checkpoint: {part} is missing; train one with `edge-emotion train sft`"
            )
    metadata = json.loads((folder / "metadata.json").read_text())
    base_model = BaseModel(**metadata["base_model"]) if "base_model" in metadata else None
    base_path = find_base_model(base_model, base) if base_model else None
    kind = "adapter_config.json" if base_model else "config.json"
    if not (folder / "language_model" / kind).is_file():
        raise ConfigError(f"{folder} is not a checkpoint: language_model/{kind} is missing; train it again")
    sizes = TowerSizes(**metadata["sizes"])
    tower = build_tower(sizes)
    tower.load_state_dict(load_file(folder / "tower.safetensors"))
    return Checkpoint(
        tower=tower.eval(),
        language_model=_load_language_model(folder / "language_model", base_path),
        tokenizer=Tokenizer.from_file(str(folder / "language_model" / "tokenizer.json")),
        sizes=sizes,
        labels=tuple(metadata["labels"]),
        cues=tuple(metadata["cues"]),
        prompt=Prompt.from_dict(metadata["prompt"]),
        thresholds=Thresholds.from_dict(metadata["thresholds"]),
        calibration=metadata["calibration"],
        provenance=metadata["provenance"],
        base_model=base_model,
        base_path=base_path,
    )


def _load_language_model(folder: Path, base_path: Path | None) -> LlamaForCausalLM:
    if base_path is None:
        return LlamaForCausalLM.from_pretrained(folder).eval()
    # Imported here because it imports the training, and PEFT takes a second.
    from .pretrained import load_language_model

    model, _ = load_language_model(base_path)
    model.load_adapter(str(folder))
    return model.eval()


def state_hash(*models: nn.Module) -> str:
    """SHA-256 of the weights of models."""
    digest = hashlib.sha256()
    for model in models:
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
