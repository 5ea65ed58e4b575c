"""Which variants of a model fit a device, what they cost in accuracy, and what to run: arithmetic, nothing is loaded.

Each formula says where it comes from; `benchmarks/memory_plan.py` compares the sums with measured peak memory.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_emotion.bundle import Bundle
from edge_emotion.manifest import LlmVariant
from edge_emotion.model_sizes import FullSize, LlmShape, gguf_bytes, shape_of_gguf
from edge_emotion.targets import Device

MIB, GIB = 2**20, 2**30
# A variant is good enough whose labels agree with the checkpoint's this often; then the smaller is the faster.
GOOD_AGREEMENT = 0.98
# What the exporter's gates guarantee of a variant that is written (edge_emotion_export.parity.LIMITS).
GATES: Mapping[str, float] = {
    "F16": 0.98, "Q8_0": 0.98, "Q6_K": 0.98, "Q5_K_M": 0.95, "Q4_K_M": 0.95, "IQ4_NL": 0.95,
}  # fmt: skip
_NO_LLM = "none"
_FRAMES_PER_S = 50.0
# Whisper's towers: parameters at least, width, heads; the tower of Qwen2.5-Omni attends within pieces of 2 s.
_TOWERS = ((500e6, 1280, 20), (250e6, 1024, 16), (60e6, 768, 12), (15e6, 512, 8), (0.0, 384, 6))
_BYTES_PER_WEIGHT = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0}
_PIECE_FRAMES = 100.0
_ON_PROCESSOR = "ONNX Runtime, processor"
# Smaller ones are as fast on a processor as on a GPU that is given one clip at a time (onnxruntime#10208).
_LARGE_ENCODER_BYTES = 100_000_000


@dataclass(frozen=True)
class EncoderOption:
    """An encoder variant; `agreement` is None where only embeddings were compared, since it has no labels."""

    name: str
    bytes: int
    weights_apart: bool
    agreement: float | None
    figures: Mapping[str, float]


@dataclass(frozen=True)
class LlmOption:
    """A language-model variant with its shape; `gated` where the agreement is only what its gate guarantees."""

    name: str
    bytes: int
    runtime: str
    shape: LlmShape
    agreement: float | None
    gated: bool
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Combination:
    """One encoder with one language model on one device.

    Attributes:
        encoder: Its variant.
        llm: Its variant, or "none".
        encoder_runtime: What runs the encoder.
        llm_runtime: What runs the language model.
        parts: Name -> bytes of everything that is in memory while it runs.
        build_peak_bytes: Memory while the encoder's engine is built, once, nothing else loaded; 0 without an engine.
        fits: Whether both stay within the budget.
        agreement: Share of labels that agree with the checkpoint's, at least; None where it was not measured.
        agreement_is: "measured", "by the gates", or "not measured".
        figures: Of the receipts, how far the halves are from the checkpoint: `embeddings_cosine_min`, `logits_kl_mean`.
        most_tokens_per_s: Bandwidth over the weights' bytes: what no runtime can exceed; None where unknown.
        waits_for_the_processor: Whether a large encoder would run beside an idle GPU.
    """

    encoder: str
    llm: str
    encoder_runtime: str
    llm_runtime: str
    parts: Mapping[str, int]
    build_peak_bytes: int
    fits: bool
    agreement: float | None
    agreement_is: str
    figures: Mapping[str, float]
    most_tokens_per_s: float | None
    waits_for_the_processor: bool

    @property
    def run_bytes(self) -> int:
        """Memory while it runs."""
        return sum(self.parts.values())

    @property
    def peak_bytes(self) -> int:
        """The larger of running and building."""
        return max(self.run_bytes, self.build_peak_bytes)


@dataclass(frozen=True)
class DevicePlan:
    """Every combination, and the one to take.

    Attributes:
        model: Name of the bundle or the published model.
        bundle: Folder or name to give to `--bundle`; None where there is no bundle yet.
        device: What it is planned for.
        window_s: Longest piece of audio that is analysed at once.
        budget_bytes: What may be taken, besides the system.
        combinations: All of them, language models in the order of the bundle.
        pick: The one to take; None where nothing fits.
    """

    model: str
    bundle: str | None
    device: Device
    window_s: float
    budget_bytes: int
    combinations: tuple[Combination, ...]
    pick: Combination | None

    def analyze_arguments(self) -> list[str]:
        """What follows `edge-emotion` to run the pick; empty where nothing fits."""
        if self.pick is None:
            return []
        arguments = ["analyze", "FILE", "--bundle", self.bundle or "FOLDER", "--encoder", self.pick.encoder]
        return [*arguments, "--llm", self.pick.llm]

    def load_arguments(self) -> dict[str, str]:
        """Arguments of `edge_emotion.load` for the pick; empty where nothing fits."""
        if self.pick is None:
            return {}
        return {"bundle": self.bundle or "FOLDER", "encoder": self.pick.encoder, "llm": self.pick.llm}

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "model": self.model,
            "device": {
                "name": self.device.name,
                "target": self.device.target.name,
                "memory_gib": self.device.memory_gib,
                "system_gib": self.device.system_gib,
                "power_modes": dict(self.device.power_modes),
            },
            "window_s": self.window_s,
            "budget_bytes": self.budget_bytes,
            "combinations": [_combination_dict(item) for item in self.combinations],
            "pick": _combination_dict(self.pick) if self.pick else None,
            "analyze": shlex.join(["edge-emotion", *self.analyze_arguments()]) if self.pick else None,
            "load": self.load_arguments(),
        }


def _combination_dict(item: Combination) -> dict[str, Any]:
    fields = ("encoder", "llm", "encoder_runtime", "llm_runtime", "build_peak_bytes", "fits", "agreement",
              "agreement_is", "most_tokens_per_s", "run_bytes", "peak_bytes")  # fmt: skip
    return {name: getattr(item, name) for name in fields} | {"figures": dict(item.figures), "parts": dict(item.parts)}


def plan_bundle(
    bundle: Bundle, device: Device, budget_bytes: int | None = None, window_s: float | None = None
) -> DevicePlan:
    """Plans a bundle from its files' sizes, the headers of its language models and its receipts.

    Args:
        bundle: The bundle.
        device: Where it is to run.
        budget_bytes: What may be taken besides the system; all that is left by default.
        window_s: Longest piece of audio; the bundle's longest window by default.

    Raises:
        BundleError: A language model's header cannot be read.
    """
    encoders, llms = encoder_options(bundle), llm_options(bundle)
    longest_s = min(window_s or bundle.manifest.encoder.max_window_s, bundle.manifest.encoder.max_window_s)
    context = bundle.manifest.llm.context_tokens
    if "head" in bundle.manifest.calibration:
        llms = [*llms, None]
    name = bundle.path.name if bundle.path.parent.name == "bundles" else str(bundle.path)
    return _plan(bundle.manifest.name, name, device, budget_bytes, longest_s, encoders, llms, context)


def plan_full_size(size: FullSize, device: Device, budget_bytes: int | None = None) -> DevicePlan:
    """Plans a published model that is not exported yet: sizes by formula, agreement as its gates will guarantee it."""
    encoders = [EncoderOption(name, count, True, None, {}) for name, count in size.encoder_bytes.items()]
    llms = [
        LlmOption(name, gguf_bytes(size.llm, name), "llama.cpp", size.llm, gate, True, {})
        for name, gate in GATES.items()
    ]
    return _plan(size.name, None, device, budget_bytes, 30.0, encoders, llms, size.context_tokens)


def encoder_options(bundle: Bundle) -> list[EncoderOption]:
    """The encoder's variants with their sizes and receipts."""
    parity = _parity(bundle)
    options = []
    for variant in bundle.manifest.encoder.variants:
        files = bundle.files_of(variant.file)
        figures = parity.get(variant.precision) or parity.get(f"omni.{variant.precision}") or {}
        size = sum(bundle.manifest.files[name].size for name in files)
        agreement = figures.get("label_agreement")
        options.append(EncoderOption(variant.precision, size, len(files) > 1, agreement, figures))
    return options


def llm_options(bundle: Bundle) -> list[LlmOption | None]:
    """The language model's variants with their sizes, shape and receipts."""
    parity = _parity(bundle)
    ggufs = [variant for variant in bundle.manifest.llm.variants if variant.runtime == "llama.cpp"]
    shape = shape_of_gguf(bundle.path / ggufs[0].file) if ggufs else _largest_shape(bundle)
    options: list[LlmOption | None] = []
    for variant in bundle.manifest.llm.variants:
        key = variant.quantisation if variant.runtime == "llama.cpp" else f"llm.{variant.quantisation}"
        figures = parity.get("adapter" if variant.base else key, {})
        size = sum(bundle.manifest.files[name].size for name in bundle.files_of(variant.file))
        size += variant.base.size if variant.base else 0
        agreement = figures.get("label_agreement")
        options.append(LlmOption(variant.quantisation, size, variant.runtime, shape, agreement, False, figures))
    return options


def _parity(bundle: Bundle) -> Mapping[str, Mapping[str, float]]:
    parity = bundle.manifest.receipts.get("parity")
    return parity if isinstance(parity, Mapping) else {}


def _largest_shape(bundle: Bundle) -> LlmShape:
    """A bound where no GGUF tells the shape: a decoder has 12 x dim^2 weights a layer, each head with its own keys."""

    def weights(variant: LlmVariant) -> float:
        return bundle.manifest.files[variant.file].size / _BYTES_PER_WEIGHT.get(variant.quantisation, 1.0)

    dim = bundle.manifest.encoder.embedding_dim
    most = max(map(weights, bundle.manifest.llm.variants))
    return LlmShape(max(1, round(most / (12 * dim**2))), dim, dim, 4 * dim, 0)


def process_bytes(llm: LlmOption | None) -> int:
    """Python, NumPy, ONNX Runtime, the command line and what prosody needs: measured on x86-64, CPython 3.11.

    52 MB after importing NumPy, soundfile, soxr and onnxruntime; the command line brings it to 62; measuring the
    prosody of 30 s takes 8 more; llama.cpp's libraries 9 more.
    """
    return 70_000_000 + (9_000_000 if llm and llm.runtime == "llama.cpp" else 0)


def encoder_weight_bytes(option: EncoderOption) -> int:
    """Weights as the session holds them: 3.1 times an int8 file that has them inside, 3.6 times one of floats (it is
    read, unpacked and packed anew; measured with nano's two files), once where they lie in a file of their own (2.70 GB
    for 2.55 GB, benchmarks/export_scale.py).
    """
    return round(option.bytes * (1.0 if option.weights_apart else _unpacked(option.name)))


def _unpacked(precision: str) -> float:
    return 3.1 if precision == "int8" else 3.6


def encoder_working_bytes(option: EncoderOption, window_s: float) -> int:
    """What one pass needs, float32: c x heads x frames^2 x 4 for attention scores, 8 x frames x width x 4 for the rest.

    50 frames per second; c, the copies of the scores, is 2.5, and 1.25 with dynamic int8: both fitted to what nano
    takes at 3, 10 and 30 s (`benchmarks/memory_plan.py`). Width and heads are those of the Whisper tower of that many
    weights. A tower whose weights lie apart is that of Qwen2.5-Omni, which attends within pieces.
    """
    weights = option.bytes / _BYTES_PER_WEIGHT.get(option.name.split("-")[0], 1.0)
    _, width, heads = next(tower for tower in _TOWERS if weights >= tower[0])
    frames = _FRAMES_PER_S * window_s
    attended = frames * (min(frames, _PIECE_FRAMES) if option.weights_apart else frames)
    copies = 1.25 if option.name == "int8" else 2.5
    return round(copies * heads * attended * 4 + 8 * frames * width * 4)


def llm_weight_bytes(option: LlmOption, on_gpu: bool) -> int:
    """A GGUF once (it is mapped; on a GPU it is copied there and the mapping is given up); on a processor the types
    with a faster layout for it a second time (docs of llama.cpp's repacking; SmolLM2 Q4_0, 92 MB: 242 MB in all).
    An ONNX file three times while it is loaded, as the encoder.
    """
    if option.runtime != "llama.cpp":
        return round(option.bytes * _unpacked(option.name))
    repacked = not on_gpu and option.name in ("Q4_0", "Q4_K_M", "IQ4_NL")
    return option.bytes * (2 if repacked else 1)


def llm_working_bytes(option: LlmOption, context_tokens: int) -> int:
    """llama.cpp's compute buffer: a batch of at most 512 rows through the widest layer, and logits of at most 64 rows,
    float32 (`llama_cpp_model.py` asks for no more); ONNX Runtime's is of the same order.
    """
    rows = min(context_tokens, 512)
    shape = option.shape
    return 4 * (rows * (2 * shape.feed_forward + 6 * shape.dim) + 64 * shape.vocabulary)


def build_peak_bytes(option: EncoderOption) -> int:
    """Memory while TensorRT builds an engine: 4 times the weights plus 0.7 GB.

    A tower of 88 million float32 weights (352 MB) took 2.1 GB with TensorRT-RTX 1.7; TensorRT-Edge-LLM's users report
    3 to 4 times the weights (NVIDIA/TensorRT-Edge-LLM#30).
    """
    return 4 * option.bytes + 700_000_000


# A CUDA context with cuBLAS and the kernels of llama.cpp: an estimate, 0.3 to 0.6 GB are usual; never measured here.
_CUDA_BYTES = 600_000_000


def _plan(
    model: str,
    bundle: str | None,
    device: Device,
    budget_bytes: int | None,
    window_s: float,
    encoders: Sequence[EncoderOption],
    llms: Sequence[LlmOption | None],
    context_tokens: int,
) -> DevicePlan:
    left = round((device.memory_gib - device.system_gib) * GIB)
    budget = min(left, budget_bytes) if budget_bytes else left
    combinations = tuple(
        _combine(encoder, llm, device, budget, window_s, context_tokens) for llm in llms for encoder in encoders
    )
    return DevicePlan(model, bundle, device, window_s, budget, combinations, choose(combinations))


def choose(combinations: Sequence[Combination], good: float = GOOD_AGREEMENT) -> Combination | None:
    """Of what fits and explains: the smallest that is good enough, because reading the weights is what takes the time,
    a large encoder on the GPU where that is possible; if none is good enough, the one that agrees most, then the one
    with the most bits. Without any, the label alone, by the encoder.
    """
    fitting = [item for item in combinations if item.fits]
    explaining = [item for item in fitting if item.llm != _NO_LLM] or fitting
    enough = [item for item in explaining if item.agreement is not None and item.agreement >= good]
    if enough:
        return min(enough, key=lambda item: (item.waits_for_the_processor, item.peak_bytes))

    def closest(item: Combination) -> tuple[float, int, bool, int]:
        bits = item.parts.get("language model", 0)
        return item.agreement or 0.0, bits, not item.waits_for_the_processor, -item.peak_bytes

    return max(explaining, key=closest, default=None)


def _combine(
    encoder: EncoderOption, llm: LlmOption | None, device: Device, budget: int, window_s: float, context_tokens: int
) -> Combination:
    target = device.target
    # Dynamic int8 is arithmetic of processors; neither TensorRT nor the CUDA provider has it.
    engine = target.providers[0].startswith("Tensorrt") and encoder.name != "int8"
    encoder_on_gpu = target.has_gpu and encoder.name != "int8"
    llm_on_gpu = bool(llm and target.has_gpu and llm.runtime == "llama.cpp")
    parts = {"process": process_bytes(llm)}
    # Where the GPU has its own memory, only what lies there counts.
    on_card = not target.unified_memory and target.has_gpu
    if on_card:
        parts = {}
    if encoder_on_gpu or llm_on_gpu:
        parts["CUDA context and libraries"] = _CUDA_BYTES
    if encoder_on_gpu or not on_card:
        parts["encoder"] = encoder.bytes if encoder_on_gpu else encoder_weight_bytes(encoder)
        parts["encoder at work"] = encoder_working_bytes(encoder, window_s)
    if llm and (llm_on_gpu or not on_card):
        parts["language model"] = llm_weight_bytes(llm, llm_on_gpu)
        parts["KV cache"] = llm.shape.kv_cache_bytes(context_tokens, 2 if llm.runtime == "llama.cpp" else 4)
        parts["language model at work"] = llm_working_bytes(llm, context_tokens)
    peak = build_peak_bytes(encoder) if engine else 0
    agreement, how = _agreement(encoder, llm)
    bandwidth = device.bandwidth_gb_s
    return Combination(
        encoder=encoder.name,
        llm=llm.name if llm else _NO_LLM,
        encoder_runtime="TensorRT" if engine else "ONNX Runtime, CUDA" if encoder_on_gpu else _ON_PROCESSOR,
        llm_runtime=f"{llm.runtime}, {'CUDA' if llm_on_gpu else 'processor'}" if llm else "",
        parts=parts,
        build_peak_bytes=peak,
        fits=max(sum(parts.values()), peak) <= budget,
        agreement=agreement,
        agreement_is=how,
        figures=_kept(encoder.figures, "embeddings_cosine_min") | _kept(llm.figures if llm else {}, "logits_kl_mean"),
        most_tokens_per_s=round(bandwidth * 1e9 / llm.bytes, 1) if llm and bandwidth else None,
        waits_for_the_processor=target.has_gpu and not encoder_on_gpu and encoder.bytes > _LARGE_ENCODER_BYTES,
    )


def _kept(figures: Mapping[str, float], name: str) -> dict[str, float]:
    return {name: figures[name]} if name in figures else {}


def _agreement(encoder: EncoderOption, llm: LlmOption | None) -> tuple[float | None, str]:
    """At least so many labels stay: each half may change others, so what they change adds up."""
    known = [part.agreement for part in (encoder, llm) if part and part.agreement is not None]
    if not known:
        return None, "not measured"
    how = "by the gates" if llm and llm.gated else "measured"
    return round(max(0.0, 1.0 - sum(1.0 - share for share in known)), 4), how
