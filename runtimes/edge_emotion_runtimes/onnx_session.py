"""ONNX Runtime sessions as this project opens them; the only module that imports onnxruntime.

What a package lists is not what runs: onnxruntime with CUDA lists its providers on a machine without a GPU, too, and
then runs on the processor with a line in a log. So the session is asked after it was made, and where a provider is
missing, its library is asked why.
"""

from __future__ import annotations

import ctypes
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edge_emotion.errors import BundleError, RuntimeUnavailableError

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"
# On these, values lie in the GPU's memory.
GPU_PROVIDERS = (TENSORRT_PROVIDER, CUDA_PROVIDER)
INSTALL_LINE = "pip install onnxruntime"
GPU_INSTALL_LINE = "pip uninstall onnxruntime && pip install onnxruntime-gpu"
_LIBRARIES = {
    CUDA_PROVIDER: "libonnxruntime_providers_cuda.so",
    TENSORRT_PROVIDER: "libonnxruntime_providers_tensorrt.so",
}


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
    path: Path,
    threads: int,
    providers: Sequence[str] = (CPU_PROVIDER,),
    what: str = "audio encoder",
    provider_options: Mapping[str, Mapping[str, str]] | None = None,
) -> Any:
    """A session over an ONNX file, with those of the providers that this onnxruntime has, the processor last.

    Args:
        path: The ONNX file.
        threads: Threads within an operator on the processor.
        providers: Execution providers, best first.
        what: What the file is, for messages.
        provider_options: Options of each provider, as onnxruntime documents them.

    Raises:
        BundleError: The file is missing or damaged.
        RuntimeUnavailableError: onnxruntime is not installed, or refuses a provider's options.
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
    if {*runnable} - {CPU_PROVIDER}:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    chosen = list(dict.fromkeys([*runnable, CPU_PROVIDER]))
    given = provider_options or {}
    try:
        # It prints about providers that fail, and results go to stdout.
        with redirect_stdout(sys.stderr):
            return runtime.InferenceSession(
                str(path), options, providers=[(name, dict(given.get(name, {}))) for name in chosen]
            )
    except Exception as error:  # onnxruntime's exceptions share no public base class
        if chosen != [CPU_PROVIDER] and _opens_on_the_processor(runtime, path, options):
            raise RuntimeUnavailableError(
                f"onnxruntime cannot run {path.name} on {chosen[0]} ({error}); choose device cpu, or another precision"
            ) from error
        raise BundleError(f"{path}: onnxruntime cannot load it ({error}); fetch or export it again") from error


def _opens_on_the_processor(runtime: ModuleType, path: Path, options: Any) -> bool:
    """Whether the file is good, so that it was the device that failed."""
    try:
        runtime.InferenceSession(str(path), options, providers=[CPU_PROVIDER])
    except Exception:  # onnxruntime's exceptions share no public base class
        return False
    return True


def why_not(provider: str) -> str:
    """Why a provider is not in a session although it was asked for, and what to do."""
    runtime = library()
    if provider not in runtime.get_available_providers():
        known = provider in GPU_PROVIDERS
        remedy = GPU_INSTALL_LINE if known else f"it has: {', '.join(runtime.get_available_providers())}"
        return f"this onnxruntime was built without it; {remedy}"
    folder = Path(str(runtime.__file__)).parent / "capi"
    missing = _missing_library(folder / _LIBRARIES.get(provider, ""))
    if missing:
        return f"{missing}; install what this onnxruntime needs of CUDA, cuDNN and TensorRT"
    return "the libraries are here, so there is no usable GPU: check nvidia-smi"


def _missing_library(path: Path) -> str:
    """What the loader says of a shared library; empty where it can be loaded, or is not a file of its own."""
    if not path.is_file():
        return ""
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def nodes_by_provider(session: Any) -> dict[str, int]:
    """How many nodes each provider computes; empty where this onnxruntime does not tell."""
    try:
        parts = session.get_provider_graph_assignment_info()
        return dict(Counter(part.ep_name for part in parts for _ in part.get_nodes()))
    except Exception:  # an older onnxruntime, or a session that does not record it
        return {}


def run_on_device(
    session: Any, outputs: Sequence[str], inputs: Mapping[str, np.ndarray], device: str, index: int = 0
) -> list[Any]:
    """One run whose inputs are copied to the device once and whose outputs are copied back once.

    Args:
        session: Of `open_session`.
        outputs: Names of the outputs.
        inputs: Values by name.
        device: Where the first provider's values lie: `cuda`, or `cpu`.
        index: Number of the GPU.
    """
    runtime = library()
    binding = session.io_binding()
    kept = {name: runtime.OrtValue.ortvalue_from_numpy(value, device, index) for name, value in inputs.items()}
    for name, value in kept.items():
        binding.bind_ortvalue_input(name, value)
    for name in outputs:
        binding.bind_output(name, device, index)
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()
