"""llama.cpp at its lowest level, as this project needs it: import, logging, GGUF checks, batches made of NumPy arrays.

llama.cpp ends the process on input it does not expect (GGML_ASSERT), so nothing reaches it unchecked.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import importlib
import importlib.util
import logging
import os
import struct
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edge_emotion.errors import BundleError, RuntimeUnavailableError

LOGGER = logging.getLogger("edge_emotion.llama_cpp")
INSTALL_LINE = 'CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF" pip install "llama-cpp-python>=0.3.36,<0.4"'

_REQUIRED = ("llama_decode", "llama_get_memory", "llama_memory_seq_rm", "llama_memory_seq_cp", "llama_model_n_embd_inp")
_ERROR_LEVEL = 4
_GGUF_HEADER = struct.Struct("<4sIQQ")
_recent_errors: collections.deque[str] = collections.deque(maxlen=4)


@functools.cache
def library() -> ModuleType:
    """The low-level llama_cpp module, imported once, its log going to `logging`.

    Raises:
        RuntimeUnavailableError: llama-cpp-python is missing, cannot be loaded, or is of another interface version.
    """
    # libgomp spins by default while it waits: with another busy process on the cores that is up to 100 times slower.
    # It reads the variable when it is loaded, so a user's own setting and an earlier import of torch both win.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        module = _import_low_level()
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeUnavailableError(
            f"llama.cpp cannot be loaded ({error}); install it with: {INSTALL_LINE}"
        ) from error
    missing = [name for name in _REQUIRED if not hasattr(module, name)]
    if missing:
        raise RuntimeUnavailableError(
            f"this llama-cpp-python lacks {', '.join(missing)}; install the version we speak: {INSTALL_LINE}"
        )
    module.llama_log_set(_log_callback(module), ctypes.c_void_p(0))
    module.llama_backend_init()
    return module


def _import_low_level() -> ModuleType:
    """`llama_cpp.llama_cpp` without the package's `__init__`, which imports chat templates we never use (0.15 s)."""
    if "llama_cpp" in sys.modules:
        return importlib.import_module("llama_cpp.llama_cpp")
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None:
        raise ImportError("no module named llama_cpp")
    sys.modules["llama_cpp"] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module("llama_cpp.llama_cpp")
    finally:
        del sys.modules["llama_cpp"]  # whoever imports llama_cpp later gets the whole package


@functools.cache  # llama.cpp keeps the pointer for the life of the process, so must we
def _log_callback(module: ModuleType) -> Any:
    def log(level: int, text: bytes, _user_data: Any) -> None:
        message = text.decode("utf-8", "replace").rstrip()
        if level == _ERROR_LEVEL and message:
            _recent_errors.append(message)
        # Never louder: its "info" is 200 lines for each load, and its errors are told by the exceptions raised here.
        LOGGER.debug("%s", message)

    return module.llama_log_callback(log)


def recent_errors() -> str:
    """What llama.cpp last complained of, for an error message; empties the memory."""
    text = "; ".join(_recent_errors)
    _recent_errors.clear()
    return text


def check_gguf(path: Path) -> None:
    """Refuse what is plainly no GGUF model before the C library sees it.

    llama.cpp itself checks the tensors' offsets against the file's size and reports a cut file as an error.

    Raises:
        BundleError: The file is missing, too short, not a GGUF, or of a version or size that cannot be.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(_GGUF_HEADER.size)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); a GGUF language model was expected") from error
    if len(header) < _GGUF_HEADER.size or header[:4] != b"GGUF":
        raise BundleError(
            f"{path}: not a GGUF file ({size} bytes, starts with {header[:4]!r}); export or fetch it again"
        )
    _, version, tensors, keys = _GGUF_HEADER.unpack(header)
    if version not in (2, 3):
        raise BundleError(f"{path}: GGUF version {version}; versions 2 and 3 can be read. Export the model again")
    # A tensor's entry takes at least 24 bytes and a key's 13: larger counts are a damaged header.
    if not 0 < tensors <= size // 24 or not 0 < keys <= size // 13:
        raise BundleError(
            f"{path}: damaged GGUF header ({tensors} tensors, {keys} keys in {size} bytes); fetch it again"
        )


def load_model(lib: ModuleType, path: Path) -> Any:
    """The model in a file, on the processor.

    Raises:
        BundleError: llama.cpp refuses the file; says what it complained of.
    """
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 0
    recent_errors()
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise BundleError(
            f"{path}: llama.cpp cannot load it ({recent_errors() or 'no reason given'}); "
            "the file is damaged, cut, or of an unknown architecture: fetch or export it again"
        )
    return model


def check_model(lib: ModuleType, model: Any, path: Path) -> None:
    """Refuse models whose positions or memory work otherwise than `LlamaCppModel` expects."""
    reason = ""
    if lib.llama_model_rope_type(model) not in (lib.LLAMA_ROPE_TYPE_NORM, lib.LLAMA_ROPE_TYPE_NEOX):
        reason = "it does not use plain rotary positions"
    elif lib.llama_model_has_encoder(model) or not lib.llama_model_has_decoder(model):
        reason = "it is not a decoder-only model"
    elif lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model):
        reason = "its recurrent memory cannot go back to a saved prefix"
    if reason:
        architecture = metadata(lib, model, b"general.architecture")
        raise BundleError(f"{path}: architecture {architecture!r} cannot be used: {reason}; use a Llama or Qwen model")


def free(lib: ModuleType, context: Any, model: Any) -> None:
    """Give context and model back, in that order."""
    lib.llama_free(context)
    lib.llama_model_free(model)


def metadata(lib: ModuleType, model: Any, key: bytes) -> str:
    """A value of the model's metadata as text; empty where there is none."""
    buffer = ctypes.create_string_buffer(256)
    size = lib.llama_model_meta_val_str(model, key, buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace") if size >= 0 else ""


def _pointer(array: np.ndarray, ctype: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctype))


def decode(
    lib: ModuleType,
    context: Any,
    rows: np.ndarray,
    positions: np.ndarray,
    outputs: np.ndarray,
    sequences: np.ndarray | None = None,
) -> int:
    """One `llama_decode` over checked input, without copying it.

    Args:
        lib: The low-level module.
        context: The llama context.
        rows: Token ids int32 `(n,)`, or embeddings float32 `(n, width)`, C-contiguous.
        positions: int32 `(n,)`, consecutive within each sequence.
        outputs: int8 `(n,)`, 1 where logits are wanted.
        sequences: int32 `(n,)`, the sequence of each row; None: all in sequence 0.

    Returns:
        llama.cpp's return code; 0 is success.
    """
    batch = lib.llama_batch()
    batch.n_tokens = len(rows)
    if rows.ndim == 1:
        batch.token = _pointer(rows, ctypes.c_int32)
    else:
        batch.embd = _pointer(rows, ctypes.c_float)
    batch.pos = _pointer(positions, ctypes.c_int32)
    batch.logits = _pointer(outputs, ctypes.c_int8)
    # The arrays below must outlive the call; NULL means sequence 0 for every row.
    if sequences is not None:
        counts = np.ones(len(rows), np.int32)
        addresses = sequences.ctypes.data + sequences.itemsize * np.arange(len(rows), dtype=np.uintp)
        batch.n_seq_id = _pointer(counts, ctypes.c_int32)
        batch.seq_id = ctypes.cast(addresses.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)))
    return int(lib.llama_decode(context, batch))
