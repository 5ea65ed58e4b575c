"""The ablation's table compares the same clips, and says of the paper's claims only what the intervals bear out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from grpo_ptr_table import arrays_of, compare, draws, markdown, replication
from reasoning_matters import interpreted_as, stated_levels, with_cues_of

from edge_emotion.cues import CUE_BY_NAME
from edge_emotion.wording import PHRASES
from edge_emotion_train.reasoning import write_reasoning

EMOTIONS = ("anger", "fear", "neutral")


def fold(seed: int, supported: float, right: float, clips: int = 40) -> dict[str, Any]:
    """A result of two speakers in which every text makes five claims."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(clips):
        truth = EMOTIONS[i % 3]
        records.append(
            {
                "clip": f"{seed}-{i:03d}", "speaker": f"{seed}-{i % 2}", "truth": truth, "words": 20 + i % 3,
                "answer": truth if rng.random() < right else EMOTIONS[(i + 1) % 3],
                "supported": int(rng.binomial(5, supported)), "exact": 2, "checkable": 5, "claims": 5,
                "well_formed": True, "well_formed_sampled": bool(i % 2), "consistent": 1.0, "text": f"text {i % 10}",
            }
        )  # fmt: skip
    return {"seed": seed, "clips": records, "training_cpu_s": 1.0, "log": []}


def results(**supported: float) -> dict[str, list[dict[str, Any]]]:
    return {name: [fold(seed, value, 0.8) for seed in (1, 2, 3)] for name, value in supported.items()}


def test_a_large_difference_is_outside_its_interval_and_an_equal_model_is_not() -> None:
    table = compare(results(sft=0.6, v2=0.95, v5=0.6), samples=200)
    better, equal = table["v2"]["supported"], table["v5"]["supported"]
    assert better["difference"] > 0.25
    assert better["difference_95"][0] > 0
    # The same draws: nothing differs on any resample, though each figure alone varies.
    assert equal["difference_95"] == [0.0, 0.0]
    assert equal["interval_95"][0] < equal["value"] < equal["interval_95"][1]
    assert table["sft"]["well_formed_sampled"]["value"] == 0.5
    assert "difference" not in table["sft"]["uar"]


def test_only_the_folds_that_both_have_are_compared() -> None:
    some = results(sft=0.6, v2=0.95)
    some["v2"] = some["v2"][:1]
    table = compare(some, samples=200)
    assert (table["v2"]["folds"], table["v2"]["clips"], table["sft"]["clips"]) == (1, 40, 120)


def test_different_clips_are_refused() -> None:
    some = results(sft=0.6, v2=0.6)
    del some["v2"][0]["clips"][3]
    with pytest.raises(ValueError, match="same clips"):
        compare(some, samples=200)


def test_resamples_draw_whole_speakers() -> None:
    speakers = np.repeat(["a", "b", "c"], [5, 7, 9])
    sizes = {int(np.isin(rows, np.flatnonzero(speakers == "a")).sum()) for rows in draws(speakers, samples=200)}
    assert sizes == {0, 5, 10, 15}


def test_uar_weighs_emotions_equally() -> None:
    one = fold(1, 0.5, 1.0)
    for clip in one["clips"]:
        if clip["truth"] == "fear":
            clip["answer"] = "anger"
    assert arrays_of([one])["right"].mean() < 0.7
    assert compare({"sft": [one]}, samples=200)["sft"]["uar"]["value"] == pytest.approx(2 / 3, abs=1e-4)


def test_claims_of_the_paper_are_judged_by_the_interval() -> None:
    sentences = replication(results(sft=0.6, v2=0.95, v3=0.6, v6_trained=0.6), samples=200)
    of = {
        start: next(s for s in sentences if s.startswith(f"- *{start}"))
        for start in (
            "plain GRPO costs",
            "a trained reward model beats an untrained one in reasoning",
            "trust improves reasoning",
        )
    }
    assert "is contradicted" in of["plain GRPO costs"]
    assert "does not show" in of["a trained reward model beats an untrained one in reasoning"]
    assert "not measured" in of["trust improves reasoning"]


def test_bold_marks_what_excludes_zero() -> None:
    text = markdown(compare(results(sft=0.6, v2=0.95, v5=0.6), samples=200))
    differences = text.partition("Difference to SFT")[2]
    rows = {line.split("|")[1].strip(): line for line in differences.splitlines() if line.startswith("| V")}
    assert "**+3" in rows["V2 GRPO"]
    assert "**" not in rows["V5 no schedule"]


def test_replaced_cues_are_those_asked_for_and_nothing_else_changes() -> None:
    rng = np.random.default_rng(0)
    cues = ("pitch", "rate", "tone", "clarity")
    for _ in range(50):
        drawn = [{cue: str(rng.choice(list(PHRASES[cue]))) for cue in cues} for _ in range(2)]
        text = write_reasoning(drawn[0], ("fear", "anger"), "fear", rng)
        other = with_cues_of(text, drawn[1], rng)
        assert stated_levels(other) == drawn[1]
        assert "fear" in other
        assert "anger" in other
        for twice in (" a a ", " a voice a ", " a words ", " an a "):
            assert twice not in f" {other.lower()} "
        assert stated_levels(interpreted_as(other, ["neutral"])) == drawn[1]
        assert interpreted_as(other, ["neutral"]).endswith("Together these cues point to a neutral mood.")


def test_levels_that_are_not_replaced_stay() -> None:
    text = "I hear a high pitch and slow speech. This points to fear."
    assert with_cues_of(text, {"pitch": "low"}, np.random.default_rng(1)).endswith("slow speech. This points to fear.")
    assert set(CUE_BY_NAME) >= set(stated_levels(text))
