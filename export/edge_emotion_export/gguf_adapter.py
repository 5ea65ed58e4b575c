"""LoRA adapters of a language model as one GGUF file, which llama.cpp puts on the base model when it loads it.

Follows llama.cpp's `convert_lora_to_gguf.py` tensor for tensor.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType
from transformers import LlamaForCausalLM

from edge_emotion.errors import ExportError
from edge_emotion_runtimes import llama_cpp_bindings as bindings

from .gguf_llm import ARCHITECTURE, add_sizes, interleave_rotary_rows, key_value_heads

_PARTS = {".lora_A.default.weight": ".lora_a", ".lora_B.default.weight": ".lora_b"}


def export_adapter(
    language_model: LlamaForCausalLM,
    path: Path,
    kind: GGMLQuantizationType,
    metadata: Mapping[str, str | list[str]],
) -> None:
    """Writes the adapters of a model.

    Args:
        language_model: With LoRA adapters of one rank and alpha.
        path: File to write.
        kind: F32 or F16.
        metadata: Full GGUF keys with text or a list of texts.

    Raises:
        ExportError: The model has no adapters, or changes what llama.cpp's `llama` architecture has not.
    """
    config = language_model.config
    settings = getattr(language_model, "peft_config", {}).get("default")
    if settings is None:
        raise ExportError("the language model has no adapters; export it as a whole")
    partial = path.with_name(path.name + ".partial")
    writer = gguf.GGUFWriter(partial, ARCHITECTURE)
    # The shape of its base, which llama.cpp does not ask for: a plan of memory does, where the base is not at hand.
    add_sizes(writer, language_model, "F32" if kind is GGMLQuantizationType.F32 else "F16")
    for key, value in {**metadata, "general.type": "adapter"}.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(settings.lora_alpha))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for source, tensor in language_model.state_dict().items():
        ending = next((ending for ending in _PARTS if source.endswith(ending)), None)
        if ending is None:
            continue
        module = source.removesuffix(ending)
        name = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if name is None:
            raise ExportError(f"llama.cpp's {ARCHITECTURE} architecture has no tensor for {module}")
        values = tensor.detach().float().numpy()
        if _PARTS[ending] == ".lora_b" and module.endswith("q_proj"):
            values = interleave_rotary_rows(values, config.num_attention_heads)
        if _PARTS[ending] == ".lora_b" and module.endswith("k_proj"):
            values = interleave_rotary_rows(values, key_value_heads(language_model))
        quantised = gguf.quants.quantize(np.ascontiguousarray(values), kind)
        writer.add_tensor(name + _PARTS[ending], quantised, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)


def dequantise(source: Path, path: Path) -> None:
    """Writes a GGUF model with every weight as it is, in F32: what the adapters were trained on.

    Raises:
        ExportError: llama.cpp refuses.
    """
    library = bindings.library()
    parameters = library.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread, parameters.allow_requantize = int(LlamaFileType.ALL_F32), 1, True
    bindings.recent_errors()
    code = library.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(parameters))
    if code != 0:
        reason = bindings.recent_errors() or f"code {code}"
        raise ExportError(f"llama.cpp cannot dequantise {source.name} ({reason}); is the disk full?")
