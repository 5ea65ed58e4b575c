"""Both language-model runtimes over random models of two sizes: python benchmarks/llm_runtimes.py

`edge_emotion.load` chooses between onnxruntime and llama.cpp by the size of the model; this is where that comes from.
The weights are random, since speed does not depend on them: nano's sizes, and those of SmolLM2-135M. Each model reads a
prompt of embeddings, writes, and scores seven labels; the models take turns. Needs the extra "export".
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import check_output, commit, cpu_model, deliver, run, table_of, usable_cpus, with_progress
from transformers import LlamaConfig, LlamaForCausalLM

from edge_emotion.errors import EdgeEmotionError
from edge_emotion.labels import EMOTIONS
from edge_emotion_export.gguf_llm import export_gguf
from edge_emotion_export.onnx_llm import export_onnx_llm
from edge_emotion_runtimes.interfaces import LanguageModel
from edge_emotion_runtimes.language_models import open_language_model
from edge_emotion_train.tokenizer import TAGS, train_tokenizer

CONTEXT_TOKENS = 512
SIZES: dict[str, dict[str, Any]] = {
    "nano": {"vocab_size": 596, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4,
             "num_attention_heads": 2, "num_key_value_heads": 2},
    "small": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
              "num_attention_heads": 9, "num_key_value_heads": 3},
}  # fmt: skip


def write_models(size: str, folder: Path) -> list[Path]:
    """One random model as ONNX int8 and as GGUF Q8_0."""
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES[size], max_position_embeddings=CONTEXT_TOKENS, tie_word_embeddings=True)
    model, tokenizer = LlamaForCausalLM(config).eval(), train_tokenizer([" ".join(EMOTIONS)] * 4, vocabulary=300)
    paths = [folder / f"{size}.int8.onnx", folder / f"{size}.Q8_0.gguf"]
    export_onnx_llm(model, tokenizer, paths[0], "int8", {}, TAGS[-1])
    export_gguf(model, tokenizer, paths[1], "Q8_0", {}, TAGS[-1])
    return paths


def time_once(model: LanguageModel, rows: np.ndarray, tokens: int) -> dict[str, float]:
    """Speeds of one prompt, one text and one scoring."""
    model.reset()
    start = time.perf_counter()
    model.prefill([rows])
    read = time.perf_counter()
    count = sum(1 for _ in model.stream(tokens))
    written = time.perf_counter()
    if count < tokens / 2:
        raise EdgeEmotionError(f"the random model wrote {count} of {tokens} tokens; change the seed")
    model.score_labels(EMOTIONS[:7], "</answer>")
    scored = time.perf_counter()
    return {
        "prompt_tokens_per_s": len(rows) / (read - start),
        "tokens_per_s": count / (written - read),
        "score_ms": 1000 * (scored - written),
    }


def measure(paths: Sequence[Path], given: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians of each model, and how long it took to open."""
    models, found = [], []
    for path in paths:
        start = time.perf_counter()
        models.append(open_language_model(path, CONTEXT_TOKENS, given.threads))
        described = models[-1].describe()
        found.append(
            {key: described[key] for key in ("runtime", "version", "file", "threads", "embedding_dim")}
            | {"megabytes": round(path.stat().st_size / 1e6, 1), "load_ms": 1000 * (time.perf_counter() - start)}
        )
    rows = np.random.default_rng(0).normal(0, 0.02, (given.rows, found[0]["embedding_dim"])).astype(np.float32)
    runs: list[list[dict[str, float]]] = [[] for _ in models]
    for index in with_progress(range(1 + given.runs), paths[0].name.partition(".")[0]):
        for model, timed in zip(models, runs, strict=True):
            timed += [time_once(model, rows, given.tokens)] * (index > 0)
    for model in models:
        model.close()
    for one, timed in zip(found, runs, strict=True):
        one |= {key: float(np.median([run[key] for run in timed])) for key in timed[0]}
    return found


def describe(results: Sequence[dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    columns = ("load_ms", "prompt_tokens_per_s", "tokens_per_s", "score_ms")
    rows = [
        (
            one["file"],
            f"{one['runtime']} {one['version']}",
            str(one["threads"]),
            *(f"{one[key]:.1f}" for key in columns),
        )
        for one in results
    ]
    return table_of(rows, ("model", "runtime", "threads", *columns))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES), help="which random models")
    parser.add_argument("--runs", type=int, default=5, help="runs that are timed")
    parser.add_argument("--rows", type=int, default=40, help="embeddings of the prompt")
    parser.add_argument("--tokens", type=int, default=60, help="tokens of the text")
    parser.add_argument("--threads", type=int, help="processor threads (default: as each runtime chooses)")
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON document here")
    parser.add_argument("--force", action="store_true", help="replace the output file")
    parser.add_argument("--json", action="store_true", help="print the JSON document only, without the table")
    given = parser.parse_args(arguments)
    check_output(given.output, given.force)
    if min(given.runs, given.rows, given.tokens) < 1 or given.rows + given.tokens + 20 > CONTEXT_TOKENS:
        raise EdgeEmotionError(f"--runs, --rows and --tokens: at least 1, and room for them in {CONTEXT_TOKENS} tokens")
    results = []
    busy = os.getloadavg()[0]
    for size in given.sizes:
        with tempfile.TemporaryDirectory() as folder:
            paths = write_models(size, Path(folder))
            gc.collect()
            results += measure(paths, given)
    document = {
        "benchmark": "llm_runtimes",
        "commit": commit(),
        "machine": {"cpu": cpu_model(), "cores": usable_cpus()},
        "runs": given.runs,
        "rows": given.rows,
        "tokens": given.tokens,
        "models": [{key: round(v, 2) if isinstance(v, float) else v for key, v in one.items()} for one in results],
        "load_average_before": round(busy, 2),
    }
    deliver(document, {}, describe(results), given.output, given.json)
    return 0


if __name__ == "__main__":
    run(main)
