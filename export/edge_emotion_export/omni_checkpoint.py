"""A Qwen2.5-Omni checkpoint as it is published, read tensor by tensor: neither a shard nor the model is ever in memory.

Layouts that are read: the full model (`thinker.` before every name, talker and vocoder beside it), a thinker alone as
any transformers from 4.52 on saves it, one file or shards with an index, and PEFT LoRA adapters on top of either.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from transformers import Qwen2Config
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniAudioEncoderConfig

from edge_emotion.errors import ConfigError

from .omni_lora import LoraAdapter, open_adapter

MODEL_TYPES = ("qwen2_5_omni", "qwen2_5_omni_thinker")
INDEX_NAME, SINGLE_NAME = "model.safetensors.index.json", "model.safetensors"
AUDIO_PREFIX = "audio_tower."
HEAD_NAME, EMBEDDING_NAME = "lm_head.weight", "model.embed_tokens.weight"
# Names have moved between releases of transformers; files on disk mostly keep the oldest.
_RENAMES = (
    (re.compile(r"^thinker\."), ""),
    (re.compile(r"^model\.(audio_tower|visual)\."), r"\1."),
    (re.compile(r"^model\.language_model\."), "model."),
    (re.compile(r"^language_model\.model\."), "model."),
    (re.compile(r"^language_model\.lm_head\."), "lm_head."),
)


def canonical_name(name: str) -> str:
    """A tensor's name as the first thinker had it: `audio_tower.*`, `visual.*`, `model.*`, `lm_head.weight`."""
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


@dataclass(frozen=True)
class OmniCheckpoint:
    """An opened checkpoint; tensors are read when they are asked for.

    Attributes:
        folder: The checkpoint's folder.
        text: Sizes of the language model, which is a plain Qwen2.
        audio: Sizes of the audio tower.
        tokenizer: The text tokenizer.
        adapters: LoRA adapters that are merged into what is read.
    """

    folder: Path
    text: Qwen2Config
    audio: Qwen2_5OmniAudioEncoderConfig
    tokenizer: Tokenizer
    adapters: tuple[LoraAdapter, ...] = ()
    _places: Mapping[str, tuple[Path, str]] = field(default_factory=dict)

    @property
    def tied(self) -> bool:
        """Whether the output matrix is the embedding matrix."""
        return HEAD_NAME not in self._places

    @property
    def parameters(self) -> int:
        """Parameters of the language model."""
        return sum(_size(self.shape(name)) for name in text_shapes(self.text, self.tied))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        with self._open(name) as (store, stored):
            return tuple(store.get_slice(stored).get_shape())

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows of a tensor as float32, adapters merged; the file is mapped only while this reads."""
        with self._open(name) as (store, stored):
            part = store.get_slice(stored)[start:stop].to(torch.float32, copy=True)
        for adapter in self.adapters:
            adapter.add_to(name, part, start)
        return part

    def state(self, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
        """Name without the prefix and float32 values of every tensor below a prefix, one after the other."""
        for name in self._places:
            if name.startswith(prefix):
                yield name.removeprefix(prefix), self.rows(name)

    def own_ends(self) -> list[str] | None:
        """Tokens at which the checkpoint's own generation stops; None where `generation_config.json` names none."""
        path = self.folder / "generation_config.json"
        found = _read_json(path).get("eos_token_id") if path.is_file() else None
        identities = found if isinstance(found, list) else [found]
        names = [self.tokenizer.id_to_token(identity) for identity in identities if isinstance(identity, int)]
        return sorted(name for name in names if name) or None

    def fingerprint(self) -> str:
        """Changes when a file of the checkpoint or of an adapter is replaced; reads no weights."""
        files = sorted({path for path, _ in self._places.values()})
        files += [self.folder / "config.json", self.folder / "tokenizer.json"]
        files += [path for adapter in self.adapters for path in adapter.files]
        facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _open(self, name: str) -> _Store:
        if name not in self._places:
            raise ConfigError(f"{self.folder} holds no tensor {name}; it is incomplete: fetch it again")
        return _Store(*self._places[name])


class _Store:
    """A shard, mapped inside the `with` block only: pages that stay mapped count as memory of this process."""

    def __init__(self, path: Path, stored: str) -> None:
        self._path, self._stored = path, stored

    def __enter__(self) -> tuple[Any, str]:
        self._handle = _open_shard(self._path)
        return self._handle.__enter__(), self._stored

    def __exit__(self, *error: object) -> None:
        self._handle.__exit__(*error)


def is_omni_checkpoint(folder: Path) -> bool:
    """Whether a folder looks like a Qwen2.5-Omni checkpoint, or like a LoRA adapter of one; reads no weights."""
    if (folder / "adapter_config.json").is_file():
        return True
    return (folder / "config.json").is_file() and not (folder / "metadata.json").is_file()


def open_omni(folder: Path, adapters: Sequence[Path] = ()) -> OmniCheckpoint:
    """Opens a checkpoint and checks that everything the export needs is there, in the right shapes.

    Args:
        folder: The checkpoint, or a LoRA adapter whose configuration names a folder as its base.
        adapters: LoRA adapters to merge on top, in this order.

    Raises:
        ConfigError: Says which file or tensor is missing, damaged or of another model, and what to do.
    """
    folder = Path(folder)
    if (folder / "adapter_config.json").is_file():
        return open_omni(_base_of(folder), [folder, *adapters])
    config = _read_json(folder / "config.json")
    thinker = _thinker_config(folder, config)
    if "audio_config" not in thinker:
        raise ConfigError(f"{folder}/config.json has no audio_config: this model cannot hear; give a Qwen2.5-Omni")
    places = {canonical_name(name): (path, name) for path, name in _list_tensors(folder)}
    text, audio = _text_config(folder, thinker["text_config"]), _audio_config(folder, thinker["audio_config"])
    checkpoint = OmniCheckpoint(
        folder,
        text,
        audio,
        _open_tokenizer(folder, text.vocab_size),
        tuple(open_adapter(Path(adapter), canonical_name) for adapter in adapters),
        places,
    )
    _check_tensors(checkpoint)
    return checkpoint


def text_shapes(config: Qwen2Config, tied: bool) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the language model, in the order of computation."""
    dim, hidden = config.hidden_size, config.intermediate_size
    head_dim = dim // config.num_attention_heads
    key_dim = head_dim * key_value_heads(config)
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING_NAME: (config.vocab_size, dim)}
    for layer in range(config.num_hidden_layers):
        of_layer = {
            "input_layernorm.weight": (dim,),
            "self_attn.q_proj.weight": (dim, dim), "self_attn.q_proj.bias": (dim,),
            "self_attn.k_proj.weight": (key_dim, dim), "self_attn.k_proj.bias": (key_dim,),
            "self_attn.v_proj.weight": (key_dim, dim), "self_attn.v_proj.bias": (key_dim,),
            "self_attn.o_proj.weight": (dim, dim),
            "post_attention_layernorm.weight": (dim,),
            "mlp.gate_proj.weight": (hidden, dim), "mlp.up_proj.weight": (hidden, dim),
            "mlp.down_proj.weight": (dim, hidden),
        }  # fmt: skip
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in of_layer.items()}
    shapes["model.norm.weight"] = (dim,)
    return shapes if tied else shapes | {HEAD_NAME: (config.vocab_size, dim)}


def audio_shapes(config: Qwen2_5OmniAudioEncoderConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the audio tower that is computed with."""
    dim, hidden = config.d_model, config.encoder_ffn_dim
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (dim, config.num_mel_bins, 3), "conv1.bias": (dim,),
        "conv2.weight": (dim, dim, 3), "conv2.bias": (dim,),
    }  # fmt: skip
    for layer in range(config.encoder_layers):
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"layers.{layer}.{norm}.{part}": (dim,) for part in ("weight", "bias")}
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"layers.{layer}.self_attn.{name}.weight"] = (dim, dim)
            if name != "k_proj":
                shapes[f"layers.{layer}.self_attn.{name}.bias"] = (dim,)
        shapes |= {
            f"layers.{layer}.fc1.weight": (hidden, dim), f"layers.{layer}.fc1.bias": (hidden,),
            f"layers.{layer}.fc2.weight": (dim, hidden), f"layers.{layer}.fc2.bias": (dim,),
        }  # fmt: skip
    shapes |= {"ln_post.weight": (dim,), "ln_post.bias": (dim,)}
    shapes |= {"proj.weight": (config.output_dim, dim), "proj.bias": (config.output_dim,)}
    return {AUDIO_PREFIX + name: shape for name, shape in shapes.items()}


def key_value_heads(config: Qwen2Config) -> int:
    """Heads of keys and values."""
    return int(config.num_key_value_heads or config.num_attention_heads)


def rope_theta(config: Qwen2Config) -> float:
    """Base of the rotary positions."""
    parameters: Any = config.rope_parameters
    return float(parameters["rope_theta"])


def _size(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} is missing: --checkpoint takes what `edge-emotion train` wrote, or the folder of a Qwen2.5-Omni "
            "model such as ddwang2000/EmotionThinker"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({error}); fetch the checkpoint again") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no JSON object; fetch the checkpoint again")
    return data


def _base_of(adapter: Path) -> Path:
    base = str(_read_json(adapter / "adapter_config.json").get("base_model_name_or_path") or "")
    for candidate in (Path(base), adapter / base):
        if base and (candidate / "config.json").is_file():
            return candidate
    raise ConfigError(
        f"{adapter} is a LoRA adapter of {base or 'an unnamed model'}, which is no folder here; "
        "give its base model's folder as --checkpoint and the adapter as --adapter"
    )


def _thinker_config(folder: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise ConfigError(f"{folder}/config.json says model_type {kind!r}; {' and '.join(MODEL_TYPES)} can be exported")
    thinker = config.get("thinker_config", config) if kind == MODEL_TYPES[0] else config
    if not isinstance(thinker, Mapping) or not isinstance(thinker.get("text_config"), Mapping):
        raise ConfigError(f"{folder}/config.json has no text_config; fetch the checkpoint again")
    return thinker


def _text_config(folder: Path, raw: Mapping[str, Any]) -> Qwen2Config:
    """The language model as a plain Qwen2: with audio and text only, its three rotary positions are one."""
    rope = dict(raw.get("rope_scaling") or {}) | dict(raw.get("rope_parameters") or {})
    problems = {
        f"activation {raw.get('hidden_act')!r} instead of silu": raw.get("hidden_act", "silu") != "silu",
        f"rotary positions of type {rope.get('rope_type')!r} instead of 'default'": rope.get("rope_type", "default")
        not in ("default", "mrope"),
        "sliding-window attention": bool(raw.get("use_sliding_window", False)),
    }
    if wrong := [problem for problem, found in problems.items() if found]:
        raise ConfigError(f"{folder}/config.json: the language model has {', '.join(wrong)}, which is not exported")
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    if missing := [name for name in names if not isinstance(raw.get(name), int)]:
        raise ConfigError(f"{folder}/config.json: text_config lacks {', '.join(missing)}; fetch the checkpoint again")
    theta = float(rope.get("rope_theta", raw.get("rope_theta", 1e6)))
    return Qwen2Config(
        **{name: raw[name] for name in names},
        num_key_value_heads=raw.get("num_key_value_heads") or raw["num_attention_heads"],
        max_position_embeddings=int(raw.get("max_position_embeddings", 32768)),
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=False,
    )


def _audio_config(folder: Path, raw: Mapping[str, Any]) -> Qwen2_5OmniAudioEncoderConfig:
    known = Qwen2_5OmniAudioEncoderConfig().to_dict()
    config = Qwen2_5OmniAudioEncoderConfig(**{key: raw[key] for key in raw if key in known and key != "model_type"})
    if config.activation_function != "gelu" or config.scale_embedding:
        raise ConfigError(
            f"{folder}/config.json: the audio tower has activation {config.activation_function!r} and scale_embedding "
            f"{config.scale_embedding}; only gelu without scaling is exported"
        )
    return config


def _list_tensors(folder: Path) -> Iterator[tuple[Path, str]]:
    """File and name of every tensor of the thinker, after a check that each file is whole."""
    index = folder / INDEX_NAME
    if index.is_file():
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ConfigError(f"{index} has no weight_map; fetch the checkpoint again")
    elif (folder / SINGLE_NAME).is_file():
        with _open_shard(folder / SINGLE_NAME) as store:
            weight_map = dict.fromkeys(store.keys(), SINGLE_NAME)
    else:
        raise ConfigError(f"{folder} holds neither {INDEX_NAME} nor {SINGLE_NAME}; give the folder of the weights")
    needed = {name: file for name, file in weight_map.items() if _is_needed(name)}
    missing = sorted({file for file in needed.values() if not (folder / file).is_file()})
    if missing:
        raise ConfigError(f"{folder}: shards are missing: {', '.join(missing[:5])}; fetch the checkpoint again")
    for file in sorted(set(needed.values())):
        with _open_shard(folder / file) as store:
            held = set(store.keys())
        for name in [name for name, place in needed.items() if place == file]:
            if name not in held:
                raise ConfigError(f"{folder / file} lacks {name}, which the index says it holds; fetch it again")
            yield folder / file, name


def _is_needed(name: str) -> bool:
    return canonical_name(name).startswith((AUDIO_PREFIX, "model.", "lm_head."))


def _open_shard(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path} is cut or damaged ({error}); fetch it again") from None


def _open_tokenizer(folder: Path, vocabulary: int) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(
            f"{path} is missing; save it with transformers: "
            f"AutoTokenizer.from_pretrained('{folder.name}').save_pretrained('{folder.name}')"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise ConfigError(f"{path} cannot be read ({error}); fetch it again") from None
    if tokenizer.get_vocab_size() > vocabulary:
        raise ConfigError(
            f"{path} has {tokenizer.get_vocab_size()} tokens, the model {vocabulary} rows: it is of another model"
        )
    return tokenizer


def _check_tensors(checkpoint: OmniCheckpoint) -> None:
    """Names, then shapes; and adapters must fit what they change."""
    wanted = audio_shapes(checkpoint.audio) | text_shapes(checkpoint.text, checkpoint.tied)
    missing = [name for name in wanted if name not in checkpoint._places]
    if len([name for name in missing if name.startswith(AUDIO_PREFIX)]) == len(audio_shapes(checkpoint.audio)):
        raise ConfigError(f"{checkpoint.folder} holds no audio tower (audio_tower.*): it is a text model; give an Omni")
    if missing:
        raise ConfigError(
            f"{checkpoint.folder} lacks {len(missing)} tensors, such as {', '.join(missing[:3])}: fetch it again"
        )
    wrong = [
        f"{name} is {found}, config.json says {shape}"
        for name, shape in wanted.items()
        if (found := checkpoint.shape(name)) != shape
    ]
    if wrong:
        raise ConfigError(f"{checkpoint.folder}: {'; '.join(wrong[:3])} ({len(wrong)} in all); fetch it again")
    if checkpoint.audio.output_dim != checkpoint.text.hidden_size:
        raise ConfigError(
            f"{checkpoint.folder}: the audio tower gives rows of {checkpoint.audio.output_dim}, the language model "
            f"reads {checkpoint.text.hidden_size}"
        )
    for adapter in checkpoint.adapters:
        adapter.check(wanted)
