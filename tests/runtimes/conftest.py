"""Random models of a few kilobytes, seeded, and a bundle of them: every runtime can be tested without a trained model.

A Qwen2-type GGUF with a byte-level vocabulary, an ONNX encoder, a manifest. `language_model` and `encoder` are
parametrised by runtime: a later one adds its factory there and passes the same conformance tests.
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

EMBEDDING_DIM = 32
LABELS = ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness")
TAGS = ("<|audio|>", "<|/audio|>", "<think>", "</think>", "<answer>", "</answer>")
END = "<|end|>"
SAMPLES_PER_TOKEN = 1600

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


def write_language_model(path: Path, seed: int = 0, context_tokens: int = 512) -> Path:
    """A two-layer Qwen2 in F32 with random weights."""
    dim, hidden, heads, kv_heads, layers = EMBEDDING_DIM, 64, 4, 2, 2
    random = np.random.default_rng(seed + 1)
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_context_length(context_tokens)
    writer.add_embedding_length(dim)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    _add_tokenizer(writer)
    writer.add_tensor("token_embd.weight", token_embeddings(seed))
    writer.add_tensor("output_norm.weight", np.ones(dim, np.float32))
    writer.add_tensor("output.weight", random.normal(0, 1, (len(vocabulary()), dim)).astype(np.float32))
    kv_dim = dim // heads * kv_heads
    shapes = {
        "attn_norm.weight": (dim,), "ffn_norm.weight": (dim,),
        "attn_q.weight": (dim, dim), "attn_k.weight": (kv_dim, dim), "attn_v.weight": (kv_dim, dim),
        "attn_q.bias": (dim,), "attn_k.bias": (kv_dim,), "attn_v.bias": (kv_dim,),
        "attn_output.weight": (dim, dim),
        "ffn_gate.weight": (hidden, dim), "ffn_up.weight": (hidden, dim), "ffn_down.weight": (dim, hidden),
    }  # fmt: skip
    for layer in range(layers):
        for name, shape in shapes.items():
            value = np.ones(shape) if "norm" in name else random.normal(0, dim**-0.5, shape)
            writer.add_tensor(f"blk.{layer}.{name}", value.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


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


def write_bundle(folder: Path, context_tokens: int = 512, max_window_s: float = 20.0) -> Path:
    """A complete bundle with two encoder variants (of the same weights) and one language model."""
    folder.mkdir()
    write_encoder(folder / "encoder.int8.onnx")
    shutil.copy(folder / "encoder.int8.onnx", folder / "encoder.fp32.onnx")
    write_language_model(folder / "llm.Q8_0.gguf")
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
        llm=LlmSpec((LlmVariant("llm.Q8_0.gguf", "Q8_0"),), "qwen2", context_tokens),
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
        write_encoder=write_encoder,
        write_bundle=write_bundle,
    )


@pytest.fixture(scope="session")
def gguf_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def onnx_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("onnx") / "tiny.onnx")


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


def _llama_cpp(path: Path, **options: Any) -> Any:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    from edge_emotion_runtimes.llama_cpp_model import LlamaCppModel

    return LlamaCppModel(path, threads=1, kv_type="f32", flash_attention=False, **options)


def _onnx(path: Path) -> Any:
    from edge_emotion_runtimes.onnx_encoder import OnnxEncoder

    return OnnxEncoder(path, threads=1)


@pytest.fixture(params=[pytest.param(_llama_cpp, id="llama.cpp")])
def make_language_model(request: pytest.FixtureRequest, gguf_path: Path) -> Iterator[Callable[..., Any]]:
    """Factory of every language-model runtime, over the same weights; closes what it made."""
    made = []

    def make(**options: Any) -> Any:
        made.append(request.param(gguf_path, **options))
        return made[-1]

    yield make
    for model in made:
        model.close()


@pytest.fixture
def language_model(make_language_model: Callable[..., Any]) -> Any:
    return make_language_model()


@pytest.fixture(params=[pytest.param(_onnx, id="onnxruntime")])
def encoder(request: pytest.FixtureRequest, onnx_path: Path) -> Iterator[Any]:
    """Every audio-encoder runtime, over the same weights."""
    made = request.param(onnx_path)
    yield made
    made.close()
