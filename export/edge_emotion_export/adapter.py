"""The language model of a checkpoint of adapters: one GGUF file of a few megabytes, and proofs that it is the same."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from gguf import GGMLQuantizationType, GGUFReader, LlamaFileType

from edge_emotion.errors import ExportError
from edge_emotion_runtimes.llama_cpp_model import LlamaCppModel
from edge_emotion_train.checkpoint import Checkpoint

from .card import FileMetadata
from .gguf_adapter import dequantise, export_adapter
from .golden import ReferenceClip
from .measure import TOLERANCE_FLOORS, language_model_figures, tokenizer_figures
from .parity import check
from .publishing import talk

ADAPTER_NAME = "llm.lora.gguf"


def write_adapter(
    checkpoint: Checkpoint, references: Sequence[ReferenceClip], folder: Path, labelled: FileMetadata
) -> dict[str, dict[str, float]]:
    """Writes `llm.lora.gguf`; returns its parity figures, exact ones first.

    Exact means: the base dequantised, everything in F32. What runs on the device rounds activations to 8 bits besides.

    Raises:
        ExportError: A figure is outside its limit.
    """
    base = _base_path(checkpoint)
    parity: dict[str, dict[str, float]] = {}
    context_tokens = min(512, checkpoint.language_model.config.max_position_embeddings)
    with TemporaryDirectory(prefix=".base.", dir=folder.parent) as scratch:
        plain, exact = Path(scratch, "base.F32.gguf"), Path(scratch, "adapter.F32.gguf")
        talk(f"{base.name} in F32")
        dequantise(base, plain)
        export_adapter(checkpoint.language_model, exact, GGMLQuantizationType.F32, labelled.gguf())
        options = {"threads": 1, "kv_type": "f32", "flash_attention": False}
        with closing(LlamaCppModel(plain, context_tokens, adapter=exact, **options)) as model:  # type: ignore[arg-type]
            parity["tokenizer"] = tokenizer_figures(checkpoint, model)
            check("tokenizer", parity["tokenizer"])
            parity["adapter.F32"] = language_model_figures(checkpoint, references, model)
            check("adapter.F32", parity["adapter.F32"])
    talk(f"language model {ADAPTER_NAME} on {base.name}")
    export_adapter(checkpoint.language_model, folder / ADAPTER_NAME, GGMLQuantizationType.F16, labelled.gguf())
    with closing(LlamaCppModel(base, context_tokens, threads=1, adapter=folder / ADAPTER_NAME)) as model:
        parity["adapter"] = language_model_figures(checkpoint, references, model)
        check("adapter", parity["adapter"])
    return parity


def quantisation_of(checkpoint: Checkpoint) -> str:
    """The base model's quantisation as the bundle names it, for example `Q4_1`.

    Raises:
        ExportError: The base model does not say it, or it is none that this project has tolerances for.
    """
    field = GGUFReader(_base_path(checkpoint)).get_field("general.file_type")
    name = LlamaFileType(field.contents()).name.removeprefix("MOSTLY_") if field else "nothing"
    known = [quantisation for quantisation in TOLERANCE_FLOORS["first_logits"] if quantisation.isupper()]
    if name not in known:
        raise ExportError(
            f"{_base_path(checkpoint).name} says {name} of its quantisation; adapters can be exported for a base in "
            f"{', '.join(known)}"
        )
    return name


def _base_path(checkpoint: Checkpoint) -> Path:
    if checkpoint.base_path is None:
        raise ExportError("the checkpoint's language model stands on no base model")
    return checkpoint.base_path
