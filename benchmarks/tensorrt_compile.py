"""Does TensorRT take our encoders? Each is parsed and compiled without a GPU, by TensorRT-RTX, in fp16 and int8.

TensorRT-RTX shares TensorRT's ONNX parser and Python names and compiles ahead of time on any processor; it has no
kernels for Jetson, so this shows that the graphs are taken, not how fast they run. nano is the built-in bundle; small
and omni have random weights of the real sizes, which change neither the graph nor the work of compiling it. Every step
runs in a process of its own, whose peak memory the operating system tells.

    pip install tensorrt-rtx-cu13
    python benchmarks/tensorrt_compile.py --clips DIR -o benchmarks/results/tensorrt_compile.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import REPOSITORY, check_output, commit, cpu_model, deliver, run, table_of, usable_cpus

from edge_emotion.errors import BundleError, EdgeEmotionError

MODELS = ("nano", "small", "omni")
PRECISIONS = ("fp32", "fp16", "int8-qdq")
SAMPLE_RATE_HZ = 16_000
LONGEST_S = 30.0
COLUMNS = ("parameters_m", "onnx_mb", "nodes", "lint", "unsupported", "layers", "parse_s", "build_s", "engine_mb")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["fp16", "int8-qdq"])
    parser.add_argument("--layers", type=int, default=32, help="layers of omni's audio tower (default: 32, all)")
    parser.add_argument("--clips", type=Path, nargs="+", help="recordings for nano's int8 (default: the repository's)")
    parser.add_argument("--folder", type=Path, help="where the temporary files go (9 GB); the system's by default")
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON document here")
    parser.add_argument("--force", action="store_true", help="replace the output file")
    parser.add_argument("--json", action="store_true", help="print the JSON document only, without the table")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step, model, precision = options.step
        print(json.dumps(take_step(step, model, precision, options)))
        return 0
    check_output(options.output, options.force)
    release = compiler_release()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="tensorrt_compile.") as name:
        options.folder = Path(name)
        rows = [row for model in options.models for row in measure(model, options)]
    document = {
        "compiler": f"TensorRT-RTX {release}",
        "all_compiled": all(row["unsupported"] == 0 and row["engine_mb"] for row in rows),
        "graphs": rows,
        "refused": refused(options),
        "omni_layers": options.layers,
        "commit": commit(),
        "machine": {"cpu": cpu_model(), "cores": usable_cpus()},
    }
    deliver(document, {}, table(document), options.output, options.json)
    return 0 if document["all_compiled"] else 1


def compiler_release() -> str:
    """Version of the compiler.

    Raises:
        EdgeEmotionError: It is not installed.
    """
    try:
        import tensorrt_rtx  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise EdgeEmotionError(f"tensorrt_rtx cannot be imported ({error}): pip install tensorrt-rtx-cu13") from error
    return str(tensorrt_rtx.__version__)


def measure(model: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every precision of a model, made, linted and compiled."""
    made, _ = child("make", model, "fp32", options)
    rows = []
    for precision in options.precisions:
        converted, conversion_gb = child("convert", model, precision, options)
        compiled, compile_gb = child("compile", model, precision, options)
        rows.append(
            {"model": model, "precision": precision}
            | made
            | converted
            | compiled
            | {"convert_peak_gb": conversion_gb, "compile_peak_gb": compile_gb}
        )
    shutil.rmtree(options.folder / model)
    return rows


def child(step: str, model: str, precision: str, options: argparse.Namespace) -> tuple[dict[str, Any], float]:
    """What a step found, and the peak memory of its process in GB."""
    sys.stderr.write(f"{step} {model} {precision}\n")
    command = [sys.executable, __file__, "--folder", str(options.folder), "--layers", str(options.layers)]
    command += ["--clips", *map(str, options.clips)] if options.clips else []
    started = subprocess.Popen([*command, "--step", step, model, precision], stdout=subprocess.PIPE, text=True)
    printed = started.stdout.read() if started.stdout else ""
    _, status, usage = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode:
        raise EdgeEmotionError(f"the step {step!r} of {model} {precision} failed with exit code {started.returncode}")
    return json.loads(printed.splitlines()[-1]), round(usage.ru_maxrss * 1024 / 1e9, 2)


def take_step(step: str, model: str, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """One step, in this process."""
    folder = options.folder / model
    if step == "make":
        folder.mkdir()
        return make(model, folder, options.layers)
    path = folder / f"encoder.{precision}.onnx"
    if step == "convert":
        convert(model, folder, precision, clips(model, options.clips))
        return inspect(path)
    return compile_graph(path)


def make(model: str, folder: Path, layers: int) -> dict[str, Any]:
    """The fp32 encoder; for omni, the checkpoint that it is streamed from."""
    path = folder / "encoder.fp32.onnx"
    if model == "nano":
        shutil.copy(REPOSITORY / "edge_emotion" / "bundles" / "nano" / path.name, path)
    elif model == "small":
        make_small(path)
    else:
        make_omni(path, layers)
    return {"parameters_m": round(parameters_of(path) / 1e6, 1)}


def make_small(path: Path) -> None:
    """Whisper base's encoder, all six layers, with heads and projectors; random weights."""
    import torch

    from edge_emotion_export.onnx_encoder import export_onnx
    from edge_emotion_train.checkpoint import TowerSizes, build_tower

    torch.manual_seed(0)
    sizes = TowerSizes(
        encoder_dim=512, encoder_heads=8, encoder_layers=6, max_frames=1500, cues=7, labels=7, evidence_tokens=8,
        embedding_dim=576,
    )  # fmt: skip
    tower = build_tower(sizes).eval()
    torch.nn.init.normal_(tower.encoder.positions, std=0.1)
    export_onnx(tower, path, {"sample_rate": str(SAMPLE_RATE_HZ)})


def make_omni(path: Path, layers: int) -> None:
    """The audio tower of Qwen2.5-Omni-3B; random weights."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models
    from transformers import Qwen2Config
    from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniAudioEncoderConfig

    from edge_emotion_export.omni_checkpoint import audio_shapes, open_omni, text_shapes
    from edge_emotion_export.omni_graph import write_encoder

    text = {
        "vocab_size": 8, "hidden_size": 2048, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 16, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "max_position_embeddings": 4096,
    }  # fmt: skip
    audio = Qwen2_5OmniAudioEncoderConfig(output_dim=2048, encoder_layers=layers)
    folder = path.parent / "checkpoint"
    folder.mkdir()
    shapes = audio_shapes(audio) | text_shapes(Qwen2Config(**text), tied=False)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"thinker.{name}": torch.empty(shape).normal_(0.0, 0.02, generator=generator).to(torch.bfloat16)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors")
    config = {"model_type": "qwen2_5_omni", "thinker_config": {"audio_config": audio.to_dict(), "text_config": text}}
    (folder / "config.json").write_text(json.dumps(config))
    Tokenizer(models.BPE({letter: index for index, letter in enumerate("abcdefgh")}, [])).save(
        str(folder / "tokenizer.json")
    )
    del weights
    write_encoder(open_omni(folder), path, "fp32", {})


def parameters_of(path: Path) -> int:
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    return sum(int(np.prod(constant.dims)) for constant in graph.initializer)


def clips(model: str, given: list[Path] | None) -> list[np.ndarray]:
    """Recordings for the int8 ranges; noise where the weights are noise, too."""
    if model != "nano":
        random = np.random.default_rng(0)
        return [random.normal(0, 0.1, 2 * SAMPLE_RATE_HZ).astype(np.float32) for _ in range(2)]
    from edge_emotion_export.clips import load_clips

    return load_clips(given or [REPOSITORY / "tests" / "data"], round(LONGEST_S * SAMPLE_RATE_HZ))


def convert(model: str, folder: Path, precision: str, waveforms: list[np.ndarray]) -> None:
    from edge_emotion_export import tensorrt_graph
    from edge_emotion_export.tensorrt_calibration import largest_values

    source, path = folder / "encoder.fp32.onnx", folder / f"encoder.{precision}.onnx"
    if precision == "int8-qdq":
        tensorrt_graph.write_int8_qdq(source, path, largest_values(source, waveforms))
    elif precision == "fp16" and model == "omni":  # as its own exporter writes it
        from edge_emotion_export.omni_checkpoint import open_omni
        from edge_emotion_export.omni_graph import write_encoder

        write_encoder(open_omni(folder / "checkpoint"), path, "fp16", {})
    elif precision == "fp16":
        tensorrt_graph.write_fp16(source, path)


def inspect(path: Path) -> dict[str, Any]:
    """Size of a graph, and what the lint says of it."""
    import onnx

    from edge_emotion_export.omni_graph import data_file
    from edge_emotion_export.tensorrt_lint import lint

    size = sum(file.stat().st_size for file in (path, data_file(path)) if file.is_file())
    nodes = len(onnx.load(str(path), load_external_data=False).graph.node)
    return {"onnx_mb": round(size / 1e6, 1), "nodes": nodes, "lint": len(lint(path))}


def compile_graph(path: Path) -> dict[str, Any]:
    """Parse and compile by the code that builds engines on a device."""
    import tensorrt_rtx  # pyright: ignore[reportMissingImports]

    from edge_emotion_runtimes import tensorrt_api, tensorrt_builder

    logger = tensorrt_api.create_logger(tensorrt_rtx)
    ranges = tensorrt_builder.profiles(4800, round(LONGEST_S * SAMPLE_RATE_HZ))
    started = time.monotonic()
    try:
        built = tensorrt_builder.build_engine(tensorrt_rtx, logger, path, ranges)
    except BundleError as error:
        named = str(error).count("unsupported")
        return {"unsupported": named, "layers": 0, "parse_s": round(time.monotonic() - started, 2), "build_s": None,
                "engine_mb": None, "told": str(error)}  # fmt: skip
    return {
        "unsupported": 0,
        "layers": built.layers,
        "parse_s": round(built.parse_s, 2),
        "build_s": round(built.build_s, 1),
        "engine_mb": round(len(built.engine) / 1e6, 1),
    }


def refused(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Two graphs that TensorRT cannot take: what the lint and the compiler say of them."""
    import onnx

    from edge_emotion_export.tensorrt_lint import lint

    source = REPOSITORY / "edge_emotion" / "bundles" / "nano" / "encoder.fp32.onnx"
    with tempfile.TemporaryDirectory() as name:
        planted = Path(name) / "planted.onnx"
        model = onnx.load(source)
        model.graph.node.append(onnx.helper.make_node("Unique", ["emotion_logits"], ["unused"], "planted/Unique"))
        onnx.save(model, planted)
        default = Path(name) / "default.onnx"
        quantise_as_by_default(source, default, clips("nano", options.clips)[0])
        found = []
        for what, path in (("a planted node", planted), ("onnxruntime's default static quantisation", default)):
            problems = lint(path)
            told = compile_graph(path).get("told", "compiled")
            found.append(
                {"what": what, "lint": len(problems), "first": str(problems[0]) if problems else None, "told": told}
            )
        return found


def quantise_as_by_default(source: Path, target: Path, waveform: np.ndarray) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    from edge_emotion_export.onnx_encoder import quiet

    class One(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter([{"waveform": waveform[None]}])

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            return next(self.rows, None)

    with quiet():
        quantize_static(str(source), str(target), One())


def table(document: dict[str, Any]) -> str:
    """One line for each graph, then what was refused."""
    rows = [
        (row["model"], row["precision"], *(str(row[name]) for name in COLUMNS), f"{row['compile_peak_gb']:.2f}")
        for row in document["graphs"]
    ]
    heads = [name.replace("_mb", " MB").replace("_s", " s").replace("_m", " M") for name in COLUMNS]
    lines = [f"{document['compiler']}; nodes not supported: {sum(row['unsupported'] for row in document['graphs'])}"]
    lines += ["", table_of(rows, ("model", "precision", *heads, "peak RSS GB")), ""]
    for entry in document["refused"]:
        lines += [f"{entry['what']}: the lint names {entry['lint']}, first {entry['first']}", f"  {entry['told']}"]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
