"""A PEFT LoRA adapter, merged into rows of weights as they are read: W + scale * B A."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from edge_emotion.errors import ConfigError

WEIGHTS_NAME = "adapter_model.safetensors"
_KEY = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<part>[AB])(?:\.\w+)?\.weight$")
_REFUSED = {"use_dora": "DoRA magnitudes", "fan_in_fan_out": "transposed weights", "alora_invocation_tokens": "aLoRA"}


@dataclass(frozen=True)
class LoraAdapter:
    """Matrices A `(rank, in)` and B `(out, rank)`, and the scale, for each tensor that the adapter changes."""

    folder: Path
    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor, float]]

    @property
    def files(self) -> tuple[Path, ...]:
        """What the adapter is read from."""
        return (self.folder / "adapter_config.json", self.folder / WEIGHTS_NAME)

    def add_to(self, name: str, rows: torch.Tensor, start: int) -> None:
        """Adds the change to float32 rows of a tensor, which begin at row `start`, in place."""
        if name in self.factors:
            down, up, scale = self.factors[name]
            rows.add_(up[start : start + len(rows)] @ down, alpha=scale)

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuses an adapter that would change tensors that are not there, or of another shape.

        Raises:
            ConfigError: Names them.
        """
        # The picture tower is not exported, so what changes it changes nothing here.
        heard = {name: value for name, value in self.factors.items() if not name.startswith("visual.")}
        wrong = [
            f"{name} {(len(up), down.shape[1])}"
            for name, (down, up, _) in heard.items()
            if shapes.get(name) != (len(up), down.shape[1])
        ]
        if wrong or not heard:
            raise ConfigError(
                f"{self.folder} does not fit this checkpoint: it changes {', '.join(wrong[:3]) or 'nothing in it'}; "
                "give the model it was trained on"
            )


def open_adapter(folder: Path, canonical_name: Callable[[str], str]) -> LoraAdapter:
    """Reads an adapter folder, which is small enough to be in memory.

    Args:
        folder: Holds `adapter_config.json` and `adapter_model.safetensors`.
        canonical_name: Gives the name of a tensor of the checkpoint whatever release of transformers named it.

    Raises:
        ConfigError: A file is missing or damaged, or the adapter is of a kind that cannot be merged.
    """
    config, tensors = _read(folder)
    if config.get("peft_type") != "LORA":
        raise ConfigError(f"{folder} is a {config.get('peft_type')} adapter; only LoRA adapters can be merged")
    refused = [what for key, what in _REFUSED.items() if config.get(key)]
    refused += ["trained biases"] * (config.get("bias", "none") != "none")
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if match is None:
            refused.append(f"the tensor {key}")
            continue
        parts.setdefault(match["module"], {})[match["part"]] = tensor.to(torch.float32)
    if refused:
        raise ConfigError(
            f"{folder} has {', '.join(refused[:4])}, which cannot be merged while streaming; merge it with PEFT "
            "(`merge_and_unload`), save the model, and give that folder"
        )
    if broken := [module for module, pair in parts.items() if len(pair) != 2]:
        raise ConfigError(f"{folder / WEIGHTS_NAME} lacks half of {', '.join(broken[:3])}; save the adapter again")
    factors = {}
    for module, pair in parts.items():
        name = canonical_name(module + ".weight")
        factors[name] = (pair["A"], pair["B"], _scale(config, module, rank=len(pair["A"])))
    return LoraAdapter(folder, factors)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    for name in ("adapter_config.json", WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder / name} is missing; give the folder that PEFT's save_pretrained wrote")
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return config, load_file(folder / WEIGHTS_NAME)
    except (ValueError, OSError, SafetensorError) as error:
        raise ConfigError(f"{folder} is damaged ({error}); save the adapter again") from None


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """PEFT's rule: alpha over rank, or over its root; patterns match the end of a module's name."""
    alpha = float(config.get("lora_alpha", rank))
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(value)
            break
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
