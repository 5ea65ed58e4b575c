"""edge-emotion: which emotion a voice carries, how sure, why, and whether the why is true; on the device, offline.

The public names are imported when first used, so that `import edge_emotion` stays quick.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edge_emotion.errors import (
    AudioError,
    BundleError,
    ConfigError,
    CorpusError,
    EdgeEmotionError,
    ExportError,
    LanguageModelError,
    RuntimeUnavailableError,
)

if TYPE_CHECKING:
    from edge_emotion.audio import Audio, from_samples, load_audio
    from edge_emotion.bundle import Bundle, load_bundle
    from edge_emotion.labels import EMOTIONS
    from edge_emotion.prosody import Prosody, measure_prosody
    from edge_emotion.result import EmotionResult
    from edge_emotion_runtimes.analyzer import Analyzer

__version__ = "0.1.0"

__all__ = [
    "EMOTIONS",
    "Analyzer",
    "Audio",
    "AudioError",
    "Bundle",
    "BundleError",
    "ConfigError",
    "CorpusError",
    "EdgeEmotionError",
    "EmotionResult",
    "ExportError",
    "LanguageModelError",
    "Prosody",
    "RuntimeUnavailableError",
    "__version__",
    "from_samples",
    "load",
    "load_audio",
    "load_bundle",
    "measure_prosody",
]

_MODULE_OF = {
    "Analyzer": "edge_emotion_runtimes.analyzer",
    "Audio": "edge_emotion.audio",
    "Bundle": "edge_emotion.bundle",
    "EMOTIONS": "edge_emotion.labels",
    "EmotionResult": "edge_emotion.result",
    "Prosody": "edge_emotion.prosody",
    "from_samples": "edge_emotion.audio",
    "load_audio": "edge_emotion.audio",
    "load_bundle": "edge_emotion.bundle",
    "measure_prosody": "edge_emotion.prosody",
}


def load(
    bundle: str = "nano",
    encoder: str = "auto",
    llm: str = "auto",
    device: str = "auto",
    strict: bool = False,
    self_check: bool = False,
    base: str | os.PathLike[str] | None = None,
) -> Analyzer:
    """Opens a bundle and the runtimes that run it; `analyze` of what it returns takes recordings.

    Args:
        bundle: Name of a built-in bundle, or a bundle's folder.
        encoder: Runtime of the audio encoder, with its precision if it matters; `auto` chooses.
        llm: Runtime of the language model, with its quantisation if it matters; `auto` chooses.
        device: Where to run; `auto` chooses.
        strict: A runtime or device other than the one asked for is an error instead of a warning.
        self_check: Replay the bundle's golden clips first, and refuse a device that computes something else; what it
            cost is in `runtime["self_check"]` of every result.
        base: File or folder of the base language model of a bundle that holds adapters of one, such as `small`; None
            looks where it is usually found.

    Raises:
        BundleError: The bundle is missing, changed or too new, or its base language model is missing.
        RuntimeUnavailableError: A runtime or device that was asked for cannot run here, or computes something else.
    """
    from edge_emotion_runtimes.selection import load as load_analyzer

    return load_analyzer(
        bundle, encoder=encoder, llm=llm, device=device, strict=strict, self_check=self_check, base=base
    )


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
