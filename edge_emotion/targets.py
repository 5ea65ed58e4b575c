"""The devices this project is for: their memory, what can run there, how exact, and at which power.

A *target* is a kind of machine that a bundle is exported for; a *device* is one such machine with its memory. Memory
and power modes are what people with the boards report (`system_gib`, `power_modes`), bandwidths are data-sheet values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edge_emotion.errors import ConfigError

# What a kernel leaves of the memory printed on the box: an Orin Nano of 8 GiB reports 7.4; taken for every Jetson.
_USABLE_SHARE = 7.4 / 8.0


@dataclass(frozen=True)
class Target:
    """A kind of machine.

    Attributes:
        name: As in `edge-emotion export --target`.
        title: For people.
        machine: What `uname -m` says there.
        unified_memory: Whether GPU and processor share one memory.
        compute_capability: Of its GPU, "8.7" for example; None without a GPU or where it varies.
        encoder_precisions: Worth exporting for it, the preferred one first.
        llm_quantisations: The same of the language model.
        providers: Execution providers of ONNX Runtime that suit it, the best first.
        provider_options: Options of these providers, by provider.
        cmake_args: How llama.cpp is compiled there.
    """

    name: str
    title: str
    machine: str
    unified_memory: bool
    compute_capability: str | None
    encoder_precisions: tuple[str, ...]
    llm_quantisations: tuple[str, ...]
    providers: tuple[str, ...]
    provider_options: Mapping[str, Mapping[str, str]]
    cmake_args: str

    @property
    def has_gpu(self) -> bool:
        """Whether anything but the processor can run models there."""
        return self.providers != ("CPUExecutionProvider",)

    def to_dict(self) -> dict[str, object]:
        """What an export records of it, as plain types."""
        return {
            "name": self.name,
            "encoder_precisions": list(self.encoder_precisions),
            "llm_quantisations": list(self.llm_quantisations),
            "providers": list(self.providers),
            "provider_options": {name: dict(options) for name, options in self.provider_options.items()},
        }


@dataclass(frozen=True)
class Device:
    """A machine with its memory.

    Attributes:
        name: As in `edge-emotion plan --device`.
        target: What kind it is.
        memory_gib: Memory that models can be in, as its system reports it: of the GPU where that has its own.
        system_gib: What the system takes of it before anything runs.
        bandwidth_gb_s: How fast it is read, 10^9 bytes per second; None where unknown.
        power_modes: Name -> number of each mode of `nvpmodel`, the fastest first; empty where there is none.
    """

    name: str
    target: Target
    memory_gib: float
    system_gib: float
    bandwidth_gb_s: float | None
    power_modes: Mapping[str, int]


_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"
# TF32 rounds what fp32 was chosen for; the search for the fastest convolution costs memory that boards lack.
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
_TENSORRT_OPTIONS = {"trt_engine_cache_enable": "1", "trt_timing_cache_enable": "1"}
_PORTABLE = "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF"


def _jetson(name: str, title: str, compute_capability: str, quantisations: tuple[str, ...], extra: str = "") -> Target:
    architecture = compute_capability.replace(".", "")
    return Target(
        name=name,
        title=title,
        machine="aarch64",
        unified_memory=True,
        compute_capability=compute_capability,
        encoder_precisions=("fp16", "int8", "fp32"),
        llm_quantisations=quantisations,
        # onnxruntime with CUDA for Jetson is on no registry that stays; the encoder runs on TensorRT or the processor.
        providers=(_TENSORRT, _CUDA, _CPU),
        provider_options={_TENSORRT: _TENSORRT_OPTIONS, _CUDA: _CUDA_OPTIONS},
        cmake_args=f"-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES={architecture}{extra} -DLLAVA_BUILD=OFF",
    )


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target(
            name="cpu",
            title="processor only, any x86-64 with AVX2 or aarch64",
            machine="x86_64 or aarch64",
            unified_memory=True,
            compute_capability=None,
            encoder_precisions=("int8", "fp32"),
            llm_quantisations=("int8", "Q8_0", "Q4_K_M"),
            providers=(_CPU,),
            provider_options={},
            cmake_args=_PORTABLE,
        ),
        Target(
            name="desktop-cuda",
            title="desktop or server with an NVIDIA GPU",
            machine="x86_64",
            unified_memory=False,
            compute_capability=None,
            encoder_precisions=("fp16", "fp32", "int8"),
            llm_quantisations=("Q8_0", "F16", "Q6_K", "Q5_K_M", "Q4_K_M"),
            providers=(_CUDA, _CPU),
            provider_options={_CUDA: _CUDA_OPTIONS},
            cmake_args="-DGGML_CUDA=ON -DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF",
        ),
        # Without NO_VMM, llama.cpp reserves 32 GiB of addresses, which a board of 8 GiB refuses.
        _jetson("jetson-orin-nano", "Jetson Orin Nano and Orin NX", "8.7", ("Q4_K_M", "IQ4_NL", "Q8_0"),
                " -DGGML_CUDA_NO_VMM=ON"),
        _jetson("jetson-agx-orin", "Jetson AGX Orin", "8.7", ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M")),
        _jetson("jetson-thor", "Jetson Thor", "11.0", ("Q8_0", "F16", "Q6_K", "Q4_K_M")),
    )
}  # fmt: skip

# Numbers of the modes as JetPack 6.2 (Orin Nano Super) and the boards' own nvpmodel.conf have them; a board whose
# list differs is right (`edge-emotion doctor` reads it there).
_SUPER_MODES = {"MAXN_SUPER": 2, "25W": 1, "15W": 0, "7W": 3}
_AGX_MODES = {"MAXN": 0, "50W": 3, "30W": 2, "15W": 1}
_THOR_MODES = {"MAXN": 0, "120W": 1, "90W": 2, "70W": 3}
# What Ubuntu takes on an Orin Nano, with its desktop and without, as people with the board report.
_JETSON_SYSTEM_GIB = 2.1
HEADLESS_GIB = 1.6

_BOARDS = {
    # name: target, GiB on the box, GB/s, power modes
    "orin-nano-4g": ("jetson-orin-nano", 4, 51.0, {}),
    "orin-nano-8g": ("jetson-orin-nano", 8, 102.0, _SUPER_MODES),
    "orin-nx-8g": ("jetson-orin-nano", 8, 102.0, {}),
    "orin-nx-16g": ("jetson-orin-nano", 16, 102.0, {}),
    "agx-orin-32g": ("jetson-agx-orin", 32, 205.0, {}),
    "agx-orin-64g": ("jetson-agx-orin", 64, 205.0, _AGX_MODES),
    "thor-128g": ("jetson-thor", 128, 273.0, _THOR_MODES),
}
DEVICES: Mapping[str, Device] = {
    name: Device(name, TARGETS[target], round(gib * _USABLE_SHARE, 1), _JETSON_SYSTEM_GIB, bandwidth, modes)
    for name, (target, gib, bandwidth, modes) in _BOARDS.items()
}
# Machines of any size: what their system takes of the memory meant, GiB.
_SIZED = {"cpu": 1.0, "desktop-cuda": 0.8}
_SIZED_NAME = re.compile(r"(cpu|desktop-cuda)-(\d{1,4})g")


def find_target(name: str) -> Target:
    """A target by its name.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in TARGETS:
        raise ConfigError(f"unknown target {name!r}; known: {', '.join(TARGETS)}")
    return TARGETS[name]


def find_device(name: str) -> Device:
    """A device by its name: a board, or `cpu-16g`, `desktop-cuda-24g` with any number of GiB.

    Raises:
        ConfigError: There is none of that name.
    """
    if name in DEVICES:
        return DEVICES[name]
    if sized := _SIZED_NAME.fullmatch(name):
        target, gib = sized[1], int(sized[2])
        if gib:
            return Device(name, TARGETS[target], float(gib), _SIZED[target], None, {})
    raise ConfigError(
        f"unknown device {name!r}; known: {', '.join(DEVICES)}, and cpu-Ng and desktop-cuda-Ng with N GiB of memory, "
        "for example cpu-16g"
    )


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(GiB|GB|G|MiB|MB|M)\s*", re.IGNORECASE)
_UNITS = {"gib": 2**30, "gb": 10**9, "g": 2**30, "mib": 2**20, "mb": 10**6, "m": 2**20}


def parse_bytes(text: str) -> int:
    """Bytes of a size such as `5.5GiB`, `800MB` or `6G` (G and M mean GiB and MiB).

    Raises:
        ConfigError: It is no size above 0.
    """
    found = _SIZE.fullmatch(text)
    size = round(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
    if size <= 0:
        raise ConfigError(f"{text!r} is no size; write it like 5.5GiB or 800MB")
    return size
