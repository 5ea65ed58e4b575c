"""Random models of a few kilobytes, seeded, and a bundle of them: every runtime can be tested without a trained model.

A Qwen2-type decoder with a byte-level vocabulary as GGUF and as ONNX, an ONNX encoder, a manifest. `language_model`
and `encoder` are parametrised by runtime: a later one adds its factory there and passes the same conformance tests.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_emotion.bundle import Bundle, load_bundle, write_manifest
from edge_emotion.cues import CUES, Thresholds
from edge_emotion.manifest import Calibration, EncoderSpec, EncoderVariant, LlmSpec, LlmVariant, Manifest
from edge_emotion.prompt import Prompt
from edge_emotion_export.onnx_decoder import DecoderSizes, Precision, build_decoder, save_decoder

EMBEDDING_DIM = 32
LABELS = ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness")
TAGS = ("<|audio|>", "<|/audio|>", "<think>", "</think>", "<answer>", "</answer>")
END = "<|end|>"
SAMPLES_PER_TOKEN = 1600

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MERGES = ("a n", "e r", "g er", "an ger", "t h", "th e", "\u0120 the")


def _byte_characters() -> list[str]:
    """The 256 characters byte-level BPE writes bytes with (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def vocabulary() -> list[str]:
    """Bytes, one token per merge, the tags, the end token."""
    return [*_byte_characters(), *("".join(merge.split()) for merge in _MERGES), *TAGS, END]


def token_embeddings(seed: int = 0) -> np.ndarray:
    """The model's token embedding rows, float32 `(vocabulary, EMBEDDING_DIM)`."""
    return np.random.default_rng(seed).normal(0, 0.5, (len(vocabulary()), EMBEDDING_DIM)).astype(np.float32)


LAYERS, HEADS, KEY_VALUE_HEADS, HIDDEN = 2, 2, 1, 64


def decoder_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a two-layer Qwen2 under their Hugging Face names, the same for every file format."""
    dim, random = EMBEDDING_DIM, np.random.default_rng(seed + 1)
    kv_dim = dim // HEADS * KEY_VALUE_HEADS
    weights = {
        "model.embed_tokens.weight": token_embeddings(seed),
        "model.norm.weight": np.ones(dim),
        "lm_head.weight": random.normal(0, 1, (len(vocabulary()), dim)),
    }
    shapes = {
        "input_layernorm.weight": (dim,), "post_attention_layernorm.weight": (dim,),
        "self_attn.q_proj.weight": (dim, dim), "self_attn.q_proj.bias": (dim,),
        "self_attn.k_proj.weight": (kv_dim, dim), "self_attn.k_proj.bias": (kv_dim,),
        "self_attn.v_proj.weight": (kv_dim, dim), "self_attn.v_proj.bias": (kv_dim,),
        "self_attn.o_proj.weight": (dim, dim),
        "mlp.gate_proj.weight": (HIDDEN, dim), "mlp.up_proj.weight": (HIDDEN, dim),
        "mlp.down_proj.weight": (dim, HIDDEN),
    }  # fmt: skip
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            value = np.ones(shape) if "norm" in name else random.normal(0, dim**-0.5, shape)
            weights[f"model.layers.{layer}.{name}"] = value
    return {name: value.astype(np.float32) for name, value in weights.items()}


def write_language_model(path: Path, seed: int = 0, context_tokens: int = 512) -> Path:
    """The tiny decoder as GGUF in F32."""
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_context_length(context_tokens)
    writer.add_embedding_length(EMBEDDING_DIM)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    _add_tokenizer(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, LAYERS)
    for name, value in decoder_weights(seed).items():
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_onnx_language_model(path: Path, seed: int = 0, precision: Precision = "fp32", **metadata: str) -> Path:
    """The tiny decoder as ONNX; its positions go to 2048."""
    sizes = DecoderSizes(
        vocabulary=len(vocabulary()),
        dim=EMBEDDING_DIM,
        layers=LAYERS,
        heads=HEADS,
        key_value_heads=KEY_VALUE_HEADS,
        head_dim=EMBEDDING_DIM // HEADS,
        context_tokens=2048,
        rope_theta=10_000.0,
        norm_epsilon=1e-6,
        tied=False,
    )
    facts = {
        "model_type": "edge-emotion-language-model",
        "architecture": "qwen2",
        "parameters": "1",
        "context_tokens": "2048",
        "tokenizer": tokenizer_json(),
        "end_token": str(vocabulary().index(END)),
    }
    save_decoder(build_decoder(sizes, decoder_weights(seed).get, precision), path, facts | metadata)
    return path


def tokenizer_json() -> str:
    """The vocabulary as a `tokenizer.json`, split as Qwen2 does."""
    tokens = vocabulary()
    plain = tokens[: -len(TAGS) - 1]
    split = {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": False}
    at_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return json.dumps(
        {
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, at_bytes]},
            "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(plain)}, "merges": list(_MERGES)},
            "added_tokens": [{"id": tokens.index(tag), "content": tag, "special": False} for tag in (*TAGS, END)],
        }
    )


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokens = vocabulary()
    types = [gguf.TokenType.NORMAL] * (len(tokens) - len(TAGS) - 1)
    types += [gguf.TokenType.USER_DEFINED] * len(TAGS) + [gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(list(_MERGES))
    writer.add_eos_token_id(tokens.index(END))
    writer.add_add_bos_token(False)


def write_encoder(
    path: Path, seed: int = 0, embedding_dim: int = EMBEDDING_DIM, labels: Sequence[str] = LABELS
) -> Path:
    """Waveform -> frames of 0.1 s -> matrix -> embeddings; their mean -> logits."""
    random = np.random.default_rng(seed)
    weights = {
        "filters": random.normal(0, 0.1, (embedding_dim, 1, SAMPLES_PER_TOKEN)),
        "head": random.normal(0, 1, (embedding_dim, len(labels))),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["waveform", "axis"], ["channels"]),
            helper.make_node("Conv", ["channels", "filters"], ["frames"], strides=[SAMPLES_PER_TOKEN]),
            helper.make_node("Tanh", ["frames"], ["squashed"]),
            helper.make_node("Transpose", ["squashed"], ["embeddings"], perm=[0, 2, 1]),
            helper.make_node("ReduceMean", ["embeddings", "axis"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "head"], ["emotion_logits"]),
        ],
        "tiny_encoder",
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, [1, "samples"])],
        [
            helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, [1, "tokens", embedding_dim]),
            helper.make_tensor_value_info("emotion_logits", TensorProto.FLOAT, [1, len(labels)]),
        ],
        [
            *(onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()),
            onnx.numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"sample_rate": "16000", "labels": json.dumps(list(labels))})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_bundle(
    folder: Path, context_tokens: int = 512, max_window_s: float = 20.0, llms: Sequence[str] = ("Q8_0",)
) -> Path:
    """A complete bundle with two encoder variants and language models of equal weights (`Q8_0`: GGUF, `int8`: ONNX)."""
    folder.mkdir()
    write_encoder(folder / "encoder.int8.onnx")
    shutil.copy(folder / "encoder.int8.onnx", folder / "encoder.fp32.onnx")
    files = {"Q8_0": "llm.Q8_0.gguf", "int8": "llm.int8.onnx"}
    writers = {"Q8_0": write_language_model, "int8": write_onnx_language_model}
    for name in llms:
        writers[name](folder / files[name])
    calibration = Calibration(temperature=2.0, ece=0.05, abstain_below=0.3)
    manifest = Manifest(
        name="tiny",
        version="0.0.1",
        licence="CC0-1.0",
        languages=("none",),
        labels=LABELS,
        files={},
        encoder=EncoderSpec(
            variants=(
                EncoderVariant("encoder.fp32.onnx", "fp32", 18),
                EncoderVariant("encoder.int8.onnx", "int8", 18),
            ),
            sample_rate_hz=16000,
            embedding_dim=EMBEDDING_DIM,
            tokens_per_second=16000 / SAMPLES_PER_TOKEN,
            summary_tokens=0,
            min_window_s=0.5,
            max_window_s=max_window_s,
        ),
        llm=LlmSpec(tuple(LlmVariant(files[name], name) for name in llms), "qwen2", context_tokens),
        prompt=Prompt(max_think_tokens=24),
        thresholds=Thresholds({cue.name: tuple(_cuts(cue.levels)) for cue in CUES}, "invented for tests"),
        calibration={"llm": calibration, "head": calibration},
        provenance={},
        receipts={},
    )
    write_manifest(folder, manifest)
    return folder


def _cuts(levels: Sequence[str]) -> list[float]:
    return [float(100 + 50 * index) for index in range(len(levels) - 1)]


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """Facts of the tiny models, and their writers."""
    return SimpleNamespace(
        embedding_dim=EMBEDDING_DIM,
        labels=LABELS,
        tags=TAGS,
        samples_per_token=SAMPLES_PER_TOKEN,
        vocabulary=vocabulary(),
        token_embeddings=token_embeddings(),
        write_language_model=write_language_model,
        write_onnx_language_model=write_onnx_language_model,
        tokenizer_json=tokenizer_json,
        write_encoder=write_encoder,
        write_bundle=write_bundle,
    )


@pytest.fixture(scope="session")
def gguf_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def onnx_llm_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx_language_model(tmp_path_factory.mktemp("onnx_llm") / "tiny.onnx")


@pytest.fixture(scope="session")
def onnx_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("onnx") / "tiny.onnx")


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def both_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for both language-model runtimes."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "both", llms=("int8", "Q8_0"))


@pytest.fixture(scope="session")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


def _llama_cpp(request: pytest.FixtureRequest, **options: Any) -> Any:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    from edge_emotion_runtimes.llama_cpp_model import LlamaCppModel

    path = request.getfixturevalue("gguf_path")
    return LlamaCppModel(path, threads=1, kv_type="f32", flash_attention=False, **options)


def _onnx_llm(request: pytest.FixtureRequest, **options: Any) -> Any:
    from edge_emotion_runtimes.onnx_language_model import OnnxLanguageModel

    return OnnxLanguageModel(request.getfixturevalue("onnx_llm_path"), threads=1, **options)


def _onnx(request: pytest.FixtureRequest, path: Path) -> Any:
    from edge_emotion_runtimes.onnx_encoder import OnnxEncoder

    return OnnxEncoder(path, threads=1)


def _tensorrt(request: pytest.FixtureRequest, path: Path) -> Any:
    from edge_emotion_runtimes.engine_cache import EngineCache
    from edge_emotion_runtimes.tensorrt_encoder import TensorrtEncoder

    request.getfixturevalue("gpu")
    return TensorrtEncoder(path, min_samples=1600, cache=EngineCache(request.getfixturevalue("tmp_path") / "engines"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A GPU that exists only in memory, with TensorRT and CUDA for it."""
    from edge_emotion_runtimes import cuda_api, tensorrt_api

    from .fake_gpu import Gpu, install

    made = Gpu()
    install(monkeypatch, made)
    yield made
    monkeypatch.undo()
    cuda_api.library.cache_clear()
    tensorrt_api.library.cache_clear()


@pytest.fixture(params=[pytest.param(_llama_cpp, id="llama.cpp"), pytest.param(_onnx_llm, id="onnxruntime")])
def make_language_model(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Factory of every language-model runtime, over the same weights; closes what it made."""
    made = []

    def make(**options: Any) -> Any:
        made.append(request.param(request, **options))
        return made[-1]

    yield make
    for model in made:
        model.close()


@pytest.fixture
def language_model(make_language_model: Callable[..., Any]) -> Any:
    return make_language_model()


@pytest.fixture(params=[pytest.param(_onnx, id="onnxruntime"), pytest.param(_tensorrt, id="tensorrt")])
def encoder(request: pytest.FixtureRequest, onnx_path: Path) -> Iterator[Any]:
    """Every audio-encoder runtime, over the same weights."""
    made = request.param(request, onnx_path)
    yield made
    made.close()
