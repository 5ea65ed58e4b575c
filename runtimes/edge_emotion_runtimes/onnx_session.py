"""ONNX Runtime sessions as this project opens them; the only module that imports onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from edge_emotion.errors import BundleError, RuntimeUnavailableError

CPU_PROVIDER = "CPUExecutionProvider"
INSTALL_LINE = "pip install onnxruntime"


def library() -> ModuleType:
    """The onnxruntime module.

    Raises:
        RuntimeUnavailableError: It is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeUnavailableError(f"onnxruntime cannot be imported ({error}): {INSTALL_LINE}") from error
    onnxruntime.set_default_logger_severity(3)  # its warnings about absent devices are told by `fallbacks`
    return onnxruntime


def open_session(
    path: Path, threads: int, providers: Sequence[str] = (CPU_PROVIDER,), what: str = "audio encoder"
) -> Any:
    """A session over an ONNX file, with those of the providers that this onnxruntime has, the processor last.

    Raises:
        BundleError: The file is missing or damaged.
        RuntimeUnavailableError: onnxruntime is not installed.
    """
    runtime = library()
    if not path.is_file():
        raise BundleError(f"{path}: no such file; an ONNX {what} was expected")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A waiting thread that spins steals the core from the language model and the prosody measures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A pattern is kept for each input length ever seen: with recordings of every length that is a slow leak.
    options.enable_mem_pattern = False
    runnable = [provider for provider in providers if provider in runtime.get_available_providers()]
    try:
        return runtime.InferenceSession(str(path), options, providers=[*dict.fromkeys([*runnable, CPU_PROVIDER])])
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise BundleError(f"{path}: onnxruntime cannot load it ({error}); fetch or export it again") from error
