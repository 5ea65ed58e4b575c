"""What it takes to export a Qwen2.5-Omni of published size: memory, time and disk, and from them figures for 3B and 7B.

Writes a random checkpoint with the language-model widths of the 3B model, fewer layers and the whole audio tower, shard
by shard into a temporary folder, exports each file in a process of its own, and takes that process's peak memory from
the operating system. Weights are random because their values change neither memory nor time.

    python benchmarks/export_scale.py -o benchmarks/results/export_scale.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import check_output, commit, cpu_model, deliver, run, table_of, usable_cpus

from edge_emotion.errors import EdgeEmotionError

# Widths of the published models: hidden, feed-forward, layers, heads, key-value heads, vocabulary.
PUBLISHED = {"3B": (2048, 11008, 36, 16, 2, 151936), "7B": (3584, 18944, 28, 28, 4, 152064)}
STEPS = (
    "open",
    "llm F16",
    "llm Q8_0",
    "reference",
    "encoder fp32",
    "encoder fp16",
    "encoder int8",
    "run fp32",
    "run int8",
)
AUDIO_SECONDS = 10.0
COLUMNS = {"peak_rss_gb": 2, "cpu_s": 0, "wall_s": 0, "written_gb": 2}
BOUND_SHARE, BOUND_GB = 0.4, 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="layers of the language model (default: 12, 1.6 B)")
    parser.add_argument("--folder", type=Path, help="where the temporary files go (20 GB); the system's by default")
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON document here")
    parser.add_argument("--force", action="store_true", help="replace the output file")
    parser.add_argument("--json", action="store_true", help="print the JSON document only, without the table")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        return take_step(options.step[0], Path(options.step[1]), options.layers)
    check_output(options.output, options.force)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="export_scale.") as name:
        steps = measure(Path(name), options.layers)
    document = summarise(steps, options.layers)
    deliver(document, {}, table(document), options.output, options.json)
    return 0 if document["within_bound"] else 1


def measure(folder: Path, layers: int) -> dict[str, dict[str, float]]:
    """Peak memory, time and bytes written of every step, each in a process of its own."""
    steps: dict[str, dict[str, float]] = {}
    for step in ("write", *STEPS):
        sys.stderr.write(f"{step}\n")
        before = {path for path in folder.rglob("*") if path.is_file()}
        command = [sys.executable, __file__, "--layers", str(layers), "--step", step, str(folder)]
        started = time.monotonic()
        # This process stays small: a child counts its parent's peak as its own until it has begun.
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise EdgeEmotionError(f"the step {step!r} failed with exit code {child.returncode}")
        written = sorted(path for path in folder.rglob("*") if path.is_file() and path not in before)
        steps[step] = {
            "peak_rss_gb": round(usage.ru_maxrss * 1024 / 1e9, 3),
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
            "wall_s": round(time.monotonic() - started, 1),
            "written_gb": round(sum(path.stat().st_size for path in written) / 1e9, 4),
        }
        if step == "llm Q8_0":
            (folder / "llm.Q8_0.gguf").unlink()
    return steps


def summarise(steps: dict[str, dict[str, float]], layers: int) -> dict[str, Any]:
    """The document: what was measured, per billion parameters, and what follows for the published sizes."""
    dim, hidden, _, heads, pairs, vocabulary = PUBLISHED["3B"]
    parameters = text_parameters((dim, hidden, layers, heads, pairs, vocabulary))
    bound_gb = BOUND_SHARE * 2 * parameters / 1e9 + BOUND_GB
    peak_gb = max(steps[step]["peak_rss_gb"] for step in ("llm F16", "llm Q8_0"))
    base = steps["open"]
    rates = {
        step: {
            "cpu_s": round((steps[step]["cpu_s"] - base["cpu_s"]) / parameters * 1e9, 1),
            "written_gb": round(steps[step]["written_gb"] / parameters * 1e9, 3),
        }
        for step in ("llm F16", "llm Q8_0")
    }
    return {
        "parameters": parameters,
        "bf16_gb": round(2 * parameters / 1e9, 3),
        "bound_gb": round(bound_gb, 3),
        "peak_rss_gb": peak_gb,
        "within_bound": peak_gb <= bound_gb,
        "steps": steps,
        "per_billion_parameters": rates,
        "published": {name: predict(sizes, rates, steps) for name, sizes in PUBLISHED.items()},
        "audio_tower_parameters": audio_parameters(dim),
        "commit": commit(),
        "machine": {"cpu": cpu_model(), "cores": usable_cpus()},
    }


def predict(sizes: tuple[int, ...], rates: dict[str, Any], steps: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What the rates say of a published size.

    Memory is taken as measured here, not multiplied: rows are read in blocks of one size, whatever the matrix or shard.
    """
    parameters = text_parameters(sizes)
    found: dict[str, Any] = {
        "parameters": parameters,
        "bf16_gb": round(2 * parameters / 1e9, 2),
        "bound_gb": round(BOUND_SHARE * 2 * parameters / 1e9 + BOUND_GB, 2),
    }
    for step, rate in rates.items():
        found[step] = {
            "peak_rss_gb": steps[step]["peak_rss_gb"],
            "cpu_s": round(rate["cpu_s"] * parameters / 1e9 + steps["open"]["cpu_s"]),
            "written_gb": round(rate["written_gb"] * parameters / 1e9, 2),
        }
    return found


def text_parameters(sizes: tuple[int, ...]) -> int:
    """Parameters of a language model with untied output."""
    dim, hidden, layers, heads, pairs, vocabulary = sizes
    keys = dim // heads * pairs
    of_layer = 2 * dim * dim + 2 * dim * keys + 3 * dim * hidden + dim + 2 * keys + 2 * dim
    return layers * of_layer + 2 * vocabulary * dim + dim


def audio_parameters(output: int) -> int:
    """Parameters of the published audio tower, which gives rows of width `output`."""
    bands, dim, hidden, layers = 128, 1280, 5120, 32
    of_layer = 4 * dim * dim + 3 * dim + 2 * dim * hidden + hidden + dim + 4 * dim
    return 3 * bands * dim + dim + 3 * dim * dim + dim + layers * of_layer + 2 * dim + dim * output + output


def table(document: dict[str, Any]) -> str:
    """The measured steps, and the published sizes."""
    rows = [
        (step, *(f"{found[name]:.{digits}f}" for name, digits in COLUMNS.items()))
        for step, found in document["steps"].items()
    ]
    measured = table_of(rows, ("step", "peak RSS GB", "CPU s", "wall s", "written GB"))
    rows = [
        (
            name,
            step,
            f"{found[step]['peak_rss_gb']:.2f}",
            f"{found['bound_gb']:.2f}",
            str(found[step]["cpu_s"]),
            str(found[step]["written_gb"]),
        )
        for name, found in document["published"].items()
        for step in ("llm F16", "llm Q8_0")
    ]
    reckoned = table_of(rows, ("model", "step", "peak RSS GB", "bound GB", "CPU s", "written GB"))
    head = (
        f"{document['parameters'] / 1e9:.2f} B parameters, {document['bf16_gb']:.2f} GB in bfloat16; peak of the "
        f"language model's export {document['peak_rss_gb']:.2f} GB, bound {document['bound_gb']:.2f} GB"
    )
    return f"{head}\n\n{measured}\n\nReckoned from these for the published sizes:\n\n{reckoned}"


def take_step(step: str, folder: Path, layers: int) -> int:
    """One step, in this process."""
    if step == "write":
        write_checkpoint(folder / "checkpoint", layers)
        return 0
    kind, _, variant = step.partition(" ")
    if kind == "run":
        return run_encoder(folder / f"encoder.{variant}.onnx")
    from edge_emotion_export import omni_gguf, omni_graph
    from edge_emotion_export.omni_checkpoint import open_omni

    checkpoint = open_omni(folder / "checkpoint")
    if kind == "llm":
        omni_gguf.write_gguf(checkpoint, folder / f"llm.{variant}.gguf", variant, {})  # type: ignore[arg-type]
    elif kind == "encoder":
        omni_graph.write_encoder(checkpoint, folder / f"encoder.{variant}.onnx", variant, {})  # type: ignore[arg-type]
    elif kind == "reference":
        import torch

        from edge_emotion_export.omni_reference import TextReference

        reference = TextReference(checkpoint)
        states, _ = reference.states([torch.randn(256, checkpoint.text.hidden_size)])
        reference.logits(states[0][-32:])
    return 0


def run_encoder(path: Path) -> int:
    """Memory and time of one pass on the device's runtime."""
    from edge_emotion_runtimes.onnx_encoder import OnnxEncoder

    noise = np.random.default_rng(0).normal(0, 0.1, round(AUDIO_SECONDS * 16000)).astype(np.float32)
    with OnnxEncoder(path, threads=1) as encoder:
        encoder.encode(noise)
    return 0


def write_checkpoint(folder: Path, layers: int) -> None:
    """A random checkpoint as published: bfloat16, `thinker.` before the names, one shard for each layer or part."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import Qwen2Config
    from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniAudioEncoderConfig

    from edge_emotion_export.omni_checkpoint import audio_shapes, text_shapes

    dim, hidden, _, heads, pairs, vocabulary = PUBLISHED["3B"]
    text = {
        "vocab_size": vocabulary, "hidden_size": dim, "intermediate_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": pairs, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "max_position_embeddings": 32768,
    }  # fmt: skip
    audio = Qwen2_5OmniAudioEncoderConfig(output_dim=dim)
    folder.mkdir()
    weight_map: dict[str, str] = {}
    shapes = audio_shapes(audio) | text_shapes(Qwen2Config(**text), tied=False)  # type: ignore[arg-type]
    parts: dict[str, list[str]] = {}
    for name in shapes:
        pieces = name.split(".")
        part = ".".join(pieces[: 3 if "layers" in pieces else 2])
        parts.setdefault(part, []).append(name)
    for index, names in enumerate(parts.values(), 1):
        file = f"model-{index:05d}-of-{len(parts):05d}.safetensors"
        drawn = {
            f"thinker.{name}": torch.empty(shapes[name], dtype=torch.bfloat16).normal_(0.0, 0.02) for name in names
        }
        save_file(drawn, folder / file)
        weight_map |= dict.fromkeys(drawn, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = {"model_type": "qwen2_5_omni", "thinker_config": {"audio_config": audio.to_dict(), "text_config": text}}
    (folder / "config.json").write_text(json.dumps(config))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>"), AddedToken("<|im_start|>"), AddedToken("<|im_end|>")])
    tokenizer.save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    run(main)
