"""The table of figures in README.md, written from the committed results: python benchmarks/figures.py [--check]

What has no result file yet has no row. Results of another bundle than the one in the repository are refused.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import REPOSITORY, run, table_of

from edge_emotion.bundle import MANIFEST_NAME, load_bundle
from edge_emotion.errors import EdgeEmotionError

RESULTS = REPOSITORY / "benchmarks" / "results"
BUNDLE = REPOSITORY / "edge_emotion" / "bundles" / "nano"
README = REPOSITORY / "README.md"
LATENCY = "nano_latency.json"
BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"
Row = tuple[str, str, str]


def rows_of_folds(folds: Mapping[str, Any]) -> list[Row]:
    """From `edge-emotion train eval`: speakers that neither head nor language model heard in training."""
    head, answer = folds["head_leave_one_speaker_out"], folds["language_model"]["answer"]
    speakers, count = len(head["uar_per_speaker"]), len(folds["folds"])
    return [
        (f"UAR of the head, EmoDB, leave one of {speakers} speakers out", _of_folds(head), ">= 88 %"),
        (f"UAR of the explained answer, EmoDB, {count} folds of speakers", _of_folds(answer), ">= 82 %"),
    ]


def rows_of_speakers(result: Mapping[str, Any]) -> list[Row]:
    """From `held_out_speakers.py`."""
    answers, claims, controls = result["answers"], result["claims"], result["controls"]
    moves, kept = result["counterfactual"], result["null_edits"]
    names = " and ".join(speaker.rpartition("_")[2] for speaker in result["corpus"]["speakers"])
    here = f"speakers {names}, {'+'.join(result['variants'].values())}"
    other = controls["explanation_of_another_clip"]
    exchanged, removed = controls["embeddings_of_another_clip"], controls["embeddings_removed"]
    return [
        (f"UAR of the head, {here}", _value(answers["head"]["uar"]), ""),
        (f"UAR of the explained answer, {here}", _value(answers["language_model"]["uar"]), ""),
        ("Answers that call themselves uncertain", _share(result["doubts"]["uncertain"]), ""),
        ("Right when certain", _share(result["doubts"]["right_when_certain"]), ""),
        ("Checkable claims that the measurement supports", _share(claims["supported"]), ">= 90 %"),
        ("Checkable claims per explanation", f"{claims['checkable_per_explanation']:.1f}", ">= 3"),
        ("Control: explanation of another clip", _share(other["supported"]), "< 60 %"),
        ("Control: audio of another clip, claims", _share(exchanged["supported"]), "as the control"),
        ("Control: audio of another clip, UAR", _value(exchanged["answer_uar"]), "chance"),
        ("Control: audio removed, claims", _share(removed["supported"]), "as the control"),
        ("Control: audio removed, UAR", _value(removed["answer_uar"]), "chance"),
        ("Pitch by 4 st, rate by 25 %: the claim follows", _share(moves["all_edits"]["right"]), ">= 80 %"),
        ("Gain, silence, sample rate: label and claims stay", _share(kept["all_edits"]["label_and_claims"]), ">= 97 %"),
    ]


def rows_of_other_runtime(result: Mapping[str, Any]) -> list[Row]:
    """From `held_out_speakers.py --llm int8`: the language model as the default installation runs it."""
    variants = "+".join(result["variants"].values())
    return [
        (f"The same answer, {variants} on ONNX Runtime", _value(result["answers"]["language_model"]["uar"]), ""),
        (f"The same claims, {variants} on ONNX Runtime", _share(result["claims"]["supported"]), ">= 90 %"),
    ]


def rows_of_praat(result: Mapping[str, Any]) -> list[Row]:
    """From `prosody_vs_praat.py`."""
    clips = result["clips"]
    return [
        (
            f"Median F0 within 2 % of Praat's, {clips} clips",
            _percent(result["f0_median_within_2_percent_share"]),
            ">= 98 %",
        ),
        ("Gross pitch errors against Praat", f"{100 * result['gross_pitch_error_share']:.2f} %", "<= 2 %"),
        ("Voicing as Praat", _percent(result["voicing_agreement"]), ">= 93 %"),
        ("Intensity, difference from Praat", f"{result['intensity_difference_db']:.2f} dB", "<= 0.5 dB"),
        ("Time for the same measures, Praat = 1", f"{result['time_ratio']:.2f}", "<= 1"),
    ]


def rows_of_parity(receipts: Mapping[str, Any]) -> list[Row]:
    """From the bundle's receipts, written by `edge-emotion export`."""
    parity = receipts.get("parity", {})
    wanted: Sequence[tuple[str, str, str, Callable[[float], str], str]] = (
        ("torch to ONNX fp32, embeddings: largest difference", "fp32", "embeddings_relative_max", _tiny, "<= 1e-4"),
        ("torch to ONNX int8, embeddings: lowest cosine", "int8", "embeddings_cosine_min", _plain, ">= 0.99"),
        ("torch to ONNX int8: same label", "int8", "label_agreement", _percent, ">= 98 %"),
        ("torch to GGUF F32, logits: largest difference", "F32", "logits_max", _tiny, "<= 1e-4"),
        ("torch to GGUF F32: same greedy text", "F32", "text_equal", _percent, "100 %"),
        ("Token ids as Hugging Face's", "tokenizer", "texts_equal", _percent, "100 %"),
    )
    return [
        (what, shown(parity[artefact][figure]), asked)
        for what, artefact, figure, shown, asked in wanted
        if figure in parity.get(artefact, {})
    ]


def rows_of_latency(result: Mapping[str, Any]) -> list[Row]:
    """From `latency.py`."""
    warm, size = result["warm_ms"], result["size"]
    clip = f"{result['clip']['duration_s']:g} s clip"
    rows = [
        (f"Label by the head, {clip}, median (p95)", _milliseconds(warm["time_to_label_head"]), ""),
        ("First word", _milliseconds(warm["time_to_first_word"]), ""),
        ("Whole explanation and checks", _milliseconds(warm["total"]), ""),
        (
            "`edge-emotion analyze`, start to exit",
            f"{result['cold_start']['median_s']:.2f} s ({result['cold_start']['max_s']:.2f})",
            "< 1 s",
        ),
        ("Peak memory", f"{result['peak_rss_mb']:.0f} MB", ""),
        ("Bundle", f"{size['bundle_mb']:.1f} MB", "<= 40 MB"),
        ("`import edge_emotion`", f"{result['import']['import_ms']:.0f} ms", "< 150 ms"),
    ]
    if rate := result["tokens_per_s"]:
        rows.insert(3, ("Tokens per second", f"{rate['median']:.0f}", ""))
    return rows


def rows_of_data_engine(result: Mapping[str, Any]) -> list[Row]:
    """From `data_engine.py`."""
    speed, engine = result["speed"], result["engine"]
    same = all(engine["same_bytes"].values())
    return [
        (
            "Data engine: clips in, out and lost",
            f"{engine['in']:,}, {engine['out']:,}, {engine['failed']}",
            "in = out + lost",
        ),
        ("Killed and resumed, 4 processes, Ray: the same bytes", "yes" if same else "no", "yes"),
        ("Measures, times real time per core", f"{speed['ours_times_real_time']:.0f}", ">= 100"),
        ("The same by librosa's pYIN and Praat", f"{speed['pyin_and_praat_times_real_time']:.0f}", ""),
    ]


def rows_of_reasoning(result: Mapping[str, Any]) -> list[Row]:
    """From `reasoning_texts.py`."""
    full = result["sizes"]["full"]
    guessing = full["corpora"]["emodb"]["guessing"]
    return [
        (f"Contradicted claims in {full['written']:,} written texts", str(full["claims"]["contradicted"]), "0"),
        ("Claims per full text", f"{full['claims_per_text']:.1f}", ">= 4"),
        ("UAR of guessing the emotion from a text, cues masked", _guess(guessing["cues_masked"]), "chance, 14 %"),
        ("Control: cues readable", _guess(guessing["control_cues_readable"]), "above chance"),
    ]


def rows_of_stress(result: Mapping[str, Any]) -> list[Row]:
    """From `word_stress.py`."""
    found = {
        name: _mean(result["test_speakers"][name]["most_prominent_word_found"])
        for name in ("acoustics, shipped weights", "sentence prior: highest mean score")
    }
    heard, prior = found.values()
    return [
        ("Most prominent word found, speakers 15 and 16", heard, "above the prior"),
        ("Prior: the word that others stress in the sentence", prior, ""),
    ]


def rows_of_levels(result: Mapping[str, Any]) -> list[Row]:
    """From `prosody_levels.py`."""
    edited = result["levels"]["EmoDB, edited by Praat"]
    return [
        (f"Levels follow an audible step of {name}", _share(edited[key]["step"]), ">= 95 %")
        for name, key in (("pitch", "pitch"), ("energy", "energy"), ("rate, text known", "rate, by text"),
                          ("rate, text unknown", "rate, heard"))
    ]  # fmt: skip


def rows_of_encoders(result: Mapping[str, Any]) -> list[Row]:
    """From `encoder_variants.py`: speech only, and the precisions made for TensorRT."""
    speech = {row["precision"]: row for row in result["variants"] if row["set"].startswith("EmoDB")}
    return [
        (
            f"Encoder for TensorRT, {name}, against fp32: same label",
            _percent(speech[name]["label_agreement"]),
            ">= 98 %",
        )
        for name in ("fp16", "int8-qdq")
    ]


def rows_of_compiling(result: Mapping[str, Any]) -> list[Row]:
    """From `tensorrt_compile.py`."""
    graphs = result["graphs"]
    refused = sum(graph["unsupported"] for graph in graphs)
    models = len({graph["model"] for graph in graphs})
    return [(f"Nodes that TensorRT refuses, encoders of {models} sizes in fp16 and int8", str(refused), "0")]


def rows_of_memory_plan(result: Mapping[str, Any]) -> list[Row]:
    """From `memory_plan.py`."""
    return [(f"Memory by `plan` against measured, worst of {result['rows']}", _percent(abs(result["error_max"])), "")]


SOURCES: Mapping[str, Callable[[Mapping[str, Any]], list[Row]]] = {
    "nano_folds.json": rows_of_folds,
    "nano_speakers.json": rows_of_speakers,
    "nano_speakers_int8.json": rows_of_other_runtime,
    LATENCY: rows_of_latency,
    "prosody_vs_praat.json": rows_of_praat,
    "prosody_levels.json": rows_of_levels,
    "word_stress.json": rows_of_stress,
    "data_engine.json": rows_of_data_engine,
    "reasoning_texts.json": rows_of_reasoning,
    "encoder_variants.json": rows_of_encoders,
    "tensorrt_compile.json": rows_of_compiling,
    "memory_plan.json": rows_of_memory_plan,
}


def figures_block(results: Path = RESULTS, bundle: Path = BUNDLE) -> str:
    """The lines between the two marks, "" where nothing was measured yet.

    Raises:
        EdgeEmotionError: A result file is damaged, of another bundle, or lacks a figure.
    """
    shipped = load_bundle(bundle, verify=False) if (bundle / MANIFEST_NAME).is_file() else None
    rows: list[Row] = []
    machine = ""
    for name, rows_of in SOURCES.items():
        if not (results / name).is_file():
            continue
        result = _read(results / name)
        if shipped and result.get("bundle", {}).get("sha256", shipped.manifest_sha256) != shipped.manifest_sha256:
            raise EdgeEmotionError(f"{name} is of another bundle than {bundle.name}; run its benchmark again")
        try:
            rows += rows_of(result)
        except (KeyError, TypeError, ValueError) as error:
            raise EdgeEmotionError(f"{name} lacks a figure or has an unknown form ({error!r}); run it again") from error
        if name == LATENCY:
            machine = f"{result['machine']['cpu']}, {result['machine']['cores']} cores"
    if shipped:
        rows += rows_of_parity(shipped.manifest.receipts)
    if not rows:
        return ""
    table = table_of(rows, ("what", "figure", "goal"))
    notes = [
        "In brackets: 95 % bootstrap interval (over speakers in the rows of folds, else over clips), or the slow end."
    ]
    notes += [f"Times on {machine}."] if machine else []
    notes += ["How each was measured, and the results in full: `benchmarks/`."]
    return f"{table}\n\n{chr(10).join(notes)}\n"


def with_block(text: str, block: str) -> str:
    """The text with what stands between the marks replaced.

    Raises:
        EdgeEmotionError: The marks are missing, doubled or in the wrong order.
    """
    before, begin, rest = text.partition(BEGIN + "\n")
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise EdgeEmotionError(f"the README needs one line {BEGIN} and after it one line {END}")
    return before + begin + block + end + after


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EdgeEmotionError(f"{path.name} is not JSON ({error}); run its benchmark again") from error
    if not isinstance(result, dict):
        raise EdgeEmotionError(f"{path.name} must hold one JSON object; run its benchmark again")
    return result


def _of_folds(figure: Mapping[str, Any]) -> str:
    return _with_bounds(figure["uar"], figure["uar_95"])


def _value(figure: Mapping[str, Any]) -> str:
    return _with_bounds(figure["value"], figure["interval_95"])


def _share(figure: Mapping[str, Any]) -> str:
    return "nothing to count" if figure["share"] is None else _with_bounds(figure["share"], figure["interval_95"])


def _with_bounds(value: float, bounds: Sequence[float]) -> str:
    return f"{100 * value:.1f} % ({100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})"


def _mean(figure: Mapping[str, Any]) -> str:
    return _with_bounds(figure["mean"], figure["interval_95"])


def _guess(figure: Mapping[str, Any]) -> str:
    return _with_bounds(figure["uar"], figure["interval_95"])


def _milliseconds(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:.0f} ms ({spread['p95']:.0f})"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _tiny(value: float) -> str:
    return f"{value:.1e}"


def _plain(value: float) -> str:
    return f"{value:.4f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 where `--check` finds the table out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the table is out of date")
    given = parser.parse_args(arguments)
    old = README.read_text(encoding="utf-8")
    new = with_block(old, figures_block())
    if given.check:
        if new != old:
            print("the figures in README.md are out of date; run python benchmarks/figures.py", file=sys.stderr)
        return int(new != old)
    if new != old:
        partial = README.with_name(README.name + ".partial")
        partial.write_text(new, encoding="utf-8")
        partial.replace(README)
    print("README.md " + ("rewritten" if new != old else "is up to date"))
    return 0


if __name__ == "__main__":
    run(main)
