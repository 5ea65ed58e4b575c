"""The table of figures in README.md: made from the committed results, and up to date."""

from __future__ import annotations

import json

import figures
import pytest
from figures import BEGIN, END, figures_block, with_block

from edge_emotion.errors import EdgeEmotionError

README = f"before\n{BEGIN}\nold\n{END}\nafter\n"
LATENCY = {
    "clip": {"duration_s": 3.0},
    "warm_ms": {name: {"median": 20.4, "p95": 31.0} for name in ("time_to_label_head", "time_to_first_word", "total")},
    "cold_start": {"median_s": 0.8, "max_s": 0.9},
    "tokens_per_s": {"median": 300.0, "p5": 250.0},
    "peak_rss_mb": 150.0,
    "size": {"bundle_mb": 30.0},
    "import": {"import_ms": 20.0},
    "machine": {"cpu": "a processor", "cores": 2},
}


def write(folder, name: str, document: object) -> None:
    (folder / name).write_text(json.dumps(document), encoding="utf-8")


def test_the_readme_is_current():
    text = figures.README.read_text(encoding="utf-8")
    assert with_block(text, figures_block()) == text, "run python benchmarks/figures.py"


def test_rows_come_from_the_results_there_are(tmp_path):
    assert figures_block(tmp_path, tmp_path) == ""
    write(tmp_path, "nano_latency.json", LATENCY)
    block = figures_block(tmp_path, tmp_path)
    assert "| Label by the head, 3 s clip, median (p95) | 20 ms (31)" in block
    assert "a processor, 2 cores" in block
    assert "UAR" not in block


def test_folds_are_counted(tmp_path):
    figure = {"uar": 0.9, "uar_95": [0.85, 0.94]}
    head = figure | {"uar_per_speaker": {"a": 0.9, "b": 0.9}}
    folds = {"head_leave_one_speaker_out": head, "language_model": {"answer": figure}, "folds": [{}, {}]}
    write(tmp_path, "nano_folds.json", folds)
    block = " ".join(figures_block(tmp_path, tmp_path).split())
    assert "EmoDB, leave one of 2 speakers out | 90.0 % (85.0 to 94.0) | >= 88 %" in block
    assert "EmoDB, 2 folds of speakers | 90.0 % (85.0 to 94.0) | >= 82 %" in block


def test_a_damaged_result_is_refused_by_name(tmp_path):
    write(tmp_path, "nano_latency.json", {key: value for key, value in LATENCY.items() if key != "size"})
    with pytest.raises(EdgeEmotionError, match=r"nano_latency\.json.*size"):
        figures_block(tmp_path, tmp_path)
    (tmp_path / "nano_latency.json").write_text("{")
    with pytest.raises(EdgeEmotionError, match=r"nano_latency\.json is not JSON"):
        figures_block(tmp_path, tmp_path)


def test_figures_of_another_bundle_are_refused(tmp_path, tiny_bundle):
    write(tmp_path, "nano_latency.json", LATENCY | {"bundle": {"sha256": "0" * 64}})
    with pytest.raises(EdgeEmotionError, match="another bundle"):
        figures_block(tmp_path, tiny_bundle)


def test_only_the_block_is_replaced():
    text = with_block(README, "new\n")
    assert text == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert with_block(text, "new\n") == text


@pytest.mark.parametrize("text", ["no marks", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", README + README])
def test_marks_must_stand_once_and_in_order(text):
    with pytest.raises(EdgeEmotionError, match="README needs"):
        with_block(text, "new\n")
