"""A folder to a thinker that can be trained: a published Qwen2.5-Omni, a thinker alone, or a LoRA adapter of either.

Of a published folder only the thinker is read; transformers takes `thinker.` off the names and leaves talker and
vocoder alone. An adapter is trained on by every later stage rather than merged and followed by another: one plain PEFT
folder on one base is then all that a stage hands over, and GRPO's frozen reference is a copy of that adapter
(trl makes it), which is exactly the supervised model.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

from edge_emotion.errors import ConfigError

ADAPTER_CONFIG = "adapter_config.json"
# Bare names would hit the audio tower as well.
LORA_TARGETS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
MODEL_TYPES = ("qwen2_5_omni", "qwen2_5_omni_thinker")
_PROBED_BYTES = 1 << 20


def on_gpu() -> bool:
    """Whether this machine trains on a GPU, which decides precision and checkpointing of activations."""
    return torch.cuda.is_available()


def hardware() -> dict[str, bool]:
    """Trainer's arguments for this machine: bfloat16 and recomputed activations on a GPU, plain float32 on a CPU."""
    gpu = on_gpu()
    return {"bf16": gpu, "use_cpu": not gpu, "gradient_checkpointing": gpu}


def lora(rank: int) -> LoraConfig:
    """LoRA on the language model's linear layers, the audio parts frozen; the paper gives no rank and no alpha."""
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_TARGETS)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter and not whole weights."""
    return (folder / ADAPTER_CONFIG).is_file()


def adapter_rank(folder: Path) -> int:
    """Rank of an adapter."""
    return int(_read_json(folder / ADAPTER_CONFIG).get("r") or 0)


def base_of(folder: Path, base: Path | None = None) -> Path:
    """The folder of whole weights that a model folder stands on; itself where it is no adapter.

    Args:
        folder: A model folder.
        base: Where an adapter's base lies, if not where the adapter says.

    Raises:
        ConfigError: The base is nowhere, or no Qwen2.5-Omni.
    """
    if not is_adapter(folder):
        _require_thinker(folder)
        return folder
    named = str(_read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "")
    for candidate in [base] if base else [Path(named), folder / named]:
        if str(candidate) and (candidate / "config.json").is_file():
            _require_thinker(candidate)
            return candidate
    raise ConfigError(f"{folder} is an adapter of {base or named or 'an unnamed model'}, which is no folder here; "
                      "say with --base where its base model lies")  # fmt: skip


def load_thinker(folder: Path, base: Path | None = None, *, exact: bool = False, trainable: bool = False) -> Any:
    """A thinker, with its adapter where the folder is one.

    Args:
        folder: A model folder.
        base: See `base_of`.
        exact: Weights in float32 on a GPU, too, for training all of them: a step of 1e-5 is lost in bfloat16, whose
            neighbours are 0.4 % apart. Computing is bfloat16 there all the same. On a CPU they always are, since its
            bfloat16 is slower.
        trainable: An adapter is to be trained on.

    Raises:
        ConfigError: The folder holds no thinker, or tensors are missing.
    """
    whole = base_of(folder, base)
    dtype = torch.float32 if exact or not on_gpu() else torch.bfloat16
    try:
        loaded: Any = Thinker.from_pretrained(whole, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"{whole} cannot be loaded ({error}); fetch it again") from error
    thinker, report = loaded
    lacking = sorted(report["missing_keys"])
    if lacking:
        raise ConfigError(f"{whole} lacks {len(lacking)} tensors, such as {', '.join(lacking[:3])}; fetch it again")
    if not hasattr(thinker.config, "vision_start_token_id"):
        thinker.config.vision_start_token_id = -1  # positions are computed with it, and it is no field of the class
    thinker.config._name_or_path = str(whole.resolve())
    if not is_adapter(folder):
        return thinker
    model = PeftModel.from_pretrained(thinker, str(folder), is_trainable=trainable)
    for config in model.peft_config.values():
        config.base_model_name_or_path = str(whole.resolve())
    return model


def restore(model: Any, checkpoint: str | Path) -> None:
    """Puts a checkpoint's weights into a thinker that trains all of them.

    Trainer would load none and only warn: on disk a thinker's tensors have other names than in memory, which
    `from_pretrained` knows and Trainer does not.
    """
    saved = Thinker.from_pretrained(checkpoint, dtype=model.dtype)
    model.load_state_dict(saved.state_dict())


def thinker_of(model: Any) -> Any:
    """The thinker itself, below an adapter."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def freeze_unheard(model: Any) -> None:
    """Freezes what no recording passes: the vision tower. DDP would wait for its gradients for ever."""
    thinker_of(model).model.visual.requires_grad_(False)


def mel_bands(folder: Path, base: Path | None = None) -> int:
    """Mel bands of a model folder's audio tower."""
    config = _thinker_config(base_of(folder, base))
    return int(config.get("audio_config", {}).get("num_mel_bins", 128))


def fingerprint(folder: Path, base: Path | None = None) -> str:
    """Changes when a model folder's weights do; reads the ends of each file, since all of 7B take minutes."""
    total = hashlib.sha256()
    for place in dict.fromkeys((base_of(folder, base), folder)):
        for path in sorted([*place.glob("*.safetensors"), *place.glob("*.bin")]):
            size = path.stat().st_size
            total.update(f"{path.name}\t{size}\n".encode())
            with path.open("rb") as file:
                total.update(file.read(_PROBED_BYTES))
                file.seek(max(0, size - _PROBED_BYTES))
                total.update(file.read())
    return total.hexdigest()


def _require_thinker(folder: Path) -> None:
    _thinker_config(folder)


def _thinker_config(folder: Path) -> dict[str, Any]:
    config = _read_json(folder / "config.json")
    if config.get("model_type") not in MODEL_TYPES:
        kind = config.get("model_type")
        raise ConfigError(f"{folder}/config.json says model_type {kind!r}; a thinker is {' or '.join(MODEL_TYPES)}")
    return dict(config.get("thinker_config") or config)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path.parent} holds no {path.name}; give the folder of a Qwen2.5-Omni, of a model trained "
                          "from one, or of its LoRA adapter") from None  # fmt: skip
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({error}); fetch it again") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no JSON object; fetch it again")
    return found
