"""`edge-emotion label write`: reasoning for calibrated clips, over `edge_emotion_train.labelling.writing`."""

from __future__ import annotations

import json as json_text
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from edge_emotion.cli.extras import import_from_extra
from edge_emotion.cli.processors import process_count
from edge_emotion.cli.terminal import results_console, talk
from edge_emotion.errors import EdgeEmotionError

Flag = Parameter(negative="", show_default=False)


def write(
    folder: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    writer: Literal["built-in", "llm"] = "built-in",
    size: Literal["full", "nano"] = "full",
    seed: int = 0,
    held_out: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    background: Path | None = None,
    processes: Annotated[int, Parameter(name=["--processes", "-p"])] = 1,
    ray: Annotated[bool, Flag] = False,
    endpoint: str | None = None,
    model: str | None = None,
    api_key_variable: str | None = None,
    temperature: float = 0.8,
    max_tokens: int = 600,
    timeout_s: float = 120.0,
    retries: int = 5,
    corrections: int = 1,
    threads: int = 8,
    max_requests: int | None = None,
    max_total_tokens: int | None = None,
    max_cost: float | None = None,
    prompt_price: float = 0.0,
    answer_price: float = 0.0,
    retry_failed: Annotated[bool, Flag] = False,
    force: Annotated[bool, Flag] = False,
    json: Annotated[bool, Flag] = False,
) -> int:
    """Write why each clip sounds as it does, from what was measured, and check every statement of it.

    A text that the measures do not bear out is mended or refused; its clip is kept without one. Interrupted, or out of
    its allowance, the command goes on where it was when it is given again; no clip that has a text is asked for twice.

    Parameters
    ----------
    folder
        What `label calibrate` wrote: levelled.jsonl and thresholds.json.
    output
        Folder for labelled.jsonl and background.json; FOLDER itself by default.
    writer
        built-in needs nothing; llm asks a chat model behind an OpenAI-compatible endpoint, local or hosted.
    size
        full has 50 to 200 words, nano 15 to 45.
    seed
        Another seed gives other texts.
    held_out
        Test speakers: which cue suggests what is not learnt from them.
    background
        Use this background.json rather than learn it from these clips: for a few new clips, or a single one.
    processes
        Processes of this machine, for the built-in writer; 0 for as many as it has processors.
    ray
        Run the built-in writer on a Ray cluster (RAY_ADDRESS), or on this machine through Ray (needs the extra "ray").
    endpoint
        For llm: its URL, such as http://127.0.0.1:8080/v1 for llama.cpp's server.
    model
        For llm: the model's name at the endpoint.
    api_key_variable
        For llm: the environment variable that holds the key, where one is needed. A key is never an argument.
    temperature
        For llm: of sampling.
    max_tokens
        For llm: longest answer; models that think before they answer need more.
    timeout_s
        For llm: longest wait for an answer.
    retries
        For llm: further attempts after a failed one, after waits that grow.
    corrections
        For llm: how often a model whose text was refused is told why and may write another.
    threads
        For llm: requests at a time.
    max_requests
        For llm: most requests of this run, repeated ones included.
    max_total_tokens
        For llm: most tokens of this run, of prompts and answers.
    max_cost
        For llm: highest cost of this run; needs the prices.
    prompt_price
        For llm: of a million tokens of prompts.
    answer_price
        For llm: of a million tokens of answers.
    retry_failed
        Try clips again that failed in an earlier run.
    force
        Throw away what this folder holds of earlier texts.
    json
        Print what became of the texts as one JSON document.
    """

    writing = import_from_extra("edge_emotion_train.labelling.writing", extra="train")
    options: dict[str, Any] = {"processes": process_count(processes), "ray": ray}
    asked = None
    if writer == "llm":
        author, chat = (
            import_from_extra(f"edge_emotion_train.labelling.{name}", extra="train")
            for name in ("llm_author", "chat_endpoint")
        )
        if not endpoint or not model:
            raise EdgeEmotionError(
                "--writer llm needs --endpoint and --model, such as --endpoint http://127.0.0.1:8080/v1 --model local"
            )
        if options["processes"] > 1 or ray:
            raise EdgeEmotionError("a chat model is asked from threads: give --threads, not --processes or --ray")
        allowance = chat.Allowance(max_requests, max_total_tokens, max_cost, prompt_price, answer_price)
        asked = chat.ChatEndpoint(
            endpoint, model, _api_key(api_key_variable), timeout_s=timeout_s, retries=retries, temperature=temperature,
            max_tokens=max_tokens, allowance=allowance,
        )  # fmt: skip
        details = {"prompt": author.PROMPT_VERSION, "temperature": temperature, "max_tokens": max_tokens}
        options |= {"author": author.ChatAuthor(asked), "writer": model, "corrections": corrections,
                    "threads": threads, "details": details}  # fmt: skip
    try:
        counts, report = writing.write(
            folder, output, size=size, seed=seed, held_out=held_out or (), background=background,
            retry_failed=retry_failed, force=force, **options,
        )  # fmt: skip
    finally:
        if asked is not None:
            spent = asked.allowance.spent
            talk(
                f"{spent.requests:,} requests, {spent.prompt_tokens:,} tokens of prompts, "
                f"{spent.completion_tokens:,} of answers" + (f", cost {spent.cost:.4f}" if spent.cost else "")
            )
    _show(counts, report, folder if output is None else output, json)
    return int(counts.failed > 0)


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise EdgeEmotionError(f"the environment variable {variable} is not set; set it to the key of the endpoint")
    return key


def _show(counts: Any, report: dict[str, Any], folder: Path, json: bool) -> None:
    if json:
        print(json_text.dumps({"folder": str(folder), "clips": counts.to_dict(), "texts": report}))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column()
    claims = report["claims"]
    rows: list[tuple[str, str]] = [
        (f"{counts.total:,}", "clips"),
        (f"{report['written']:,}", f"with a text, in {folder / counts.output}"),
        (f"{report['repaired']:,}", f"of them mended, by taking out {report['sentences_removed']:,} sentences"),
        (f"{report['refused']:,}", "texts refused, because the measures do not bear them out"),
        (f"{report['not_written']:,}", "clips without a text for other reasons"),
        (f"{claims['supported']:,}", f"claims, {claims['contradicted']} of them contradicted"),
        (f"{counts.skipped:,}", "taken over from an earlier run"),
    ]
    for count, what in rows:
        table.add_row(count, Text(what))
    results_console().print(table)
    if counts.fields_lost or counts.failed:
        found, more = import_from_extra("edge_emotion_train.labelling.steps", extra="train").causes(folder, ("write",))
        talk(f"why, in full in {folder / 'errors.jsonl'}:")
        for _, example, count in found:
            talk(f"  {count:,} x for example {example[:300]}")
        if more:
            talk(f"  and {more} other causes")
