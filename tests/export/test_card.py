"""The model card: figures by hand, what it must tell, and that writing it anew leaves the bundle what it was."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_emotion.bundle import BUNDLES_FOLDER, load_bundle
from edge_emotion.cli.app import run
from edge_emotion.errors import EdgeEmotionError
from edge_emotion_export.card import write_card, write_readme
from edge_emotion_export.card_figures import class_figures, weakest

CONFUSION = {
    "anger": {"anger": 6, "fear": 2, "neutral": 0},
    "fear": {"anger": 3, "fear": 1, "neutral": 0},
    "neutral": {"anger": 0, "fear": 0, "neutral": 0},
}
SHARE = {"share": 0.5, "interval_95": [0.4, 0.6], "hits": 5, "of": 10}
FIGURE = {"value": 0.5, "interval_95": [0.4, 0.6]}


def make_result(sha: str) -> dict[str, Any]:
    answer = {"uar": FIGURE, "accuracy": FIGURE, "ece": 0.1, "recall": {"anger": 0.75, "fear": 0.25},
              "confusion": CONFUSION}  # fmt: skip
    control = {"supported": SHARE}
    return {
        "benchmark": "held_out_speakers", "bundle": {"sha256": sha}, "date": "2026-11-25", "intervals": "over clips",
        "variants": {"encoder": "int8", "llm": "int8"}, "corpus": {"clips": 12, "speakers": ["emodb_15"]},
        "answers": {"head": answer, "language_model": answer},
        "doubts": dict.fromkeys(("uncertain", "right_when_certain", "right_when_uncertain"), SHARE),
        "claims": {"checkable_per_explanation": 4.2, "supported": SHARE, "exact_level": SHARE,
                   "by_cue": {"pitch_slope": SHARE}},
        "controls": dict.fromkeys(
            ("explanation_of_another_clip", "embeddings_of_another_clip", "embeddings_removed"), control
        ),
    }  # fmt: skip


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the shipped bundle."""
    return Path(shutil.copytree(BUNDLES_FOLDER / "nano", tmp_path / "copy"))


@pytest.fixture
def result(bundle: Path, tmp_path: Path) -> Path:
    path = tmp_path / "speakers.json"
    path.write_text(json.dumps(make_result(load_bundle(bundle, verify=False).manifest_sha256)))
    return path


def test_each_emotion_by_hand() -> None:
    figures = class_figures(CONFUSION)
    anger, fear = figures["anger"], figures["fear"]
    assert (anger["clips"], fear["clips"], figures["neutral"]["clips"]) == (8, 4, 0)
    assert anger["precision"][0] == pytest.approx(6 / 9)
    assert anger["recall"][0] == pytest.approx(6 / 8)
    assert anger["f1"][0] == pytest.approx(2 * 6 / (2 * 6 + 3 + 2))
    assert fear["precision"][0] == pytest.approx(1 / 3)
    for value, low, high in (anger["precision"], anger["recall"], fear["f1"]):
        assert 0 <= low < value < high <= 1
    assert figures["neutral"]["recall"] is None  # nothing to find, and never said
    assert figures["neutral"]["precision"] is None


def test_the_weakest_are_named_with_what_they_are_taken_for() -> None:
    said = weakest([make_result("x")])
    assert said is not None
    assert said.startswith("It finds these least often: fear (25%, mostly taken for anger) and anger (75%")
    assert weakest([]) is None


def test_a_card_without_figures_says_so_and_tells_the_rest() -> None:
    manifest = load_bundle("nano", verify=False).manifest
    card = write_readme(manifest, {"llm.gguf": 2_000_000})
    assert "Not measured yet" in card
    for said in (
        "article 5(1)(f)",
        "work and in education",
        "| EmoGator vocal bursts | Apache-2.0 |",
        "emodb_15",
        "It was not reinforced.",
        "## Calibration",
        "## Parity with the trained model",
        "| llm.gguf | 2.0 |",
    ):
        assert said in " ".join(card.split("\n")), said  # fmt: skip
    reinforced = {**manifest.provenance, "grpo": {"steps": 200}}
    card = write_readme(replace(manifest, provenance=reinforced), {})
    assert "2. GRPO-PTR, reinforcement by rewards for form, answer and reasoning, 200 steps" in card
    assert "It was not reinforced." not in card


def test_writing_the_card_anew_leaves_a_whole_bundle_that_its_figures_belong_to(bundle: Path, result: Path) -> None:
    before = load_bundle(bundle)
    write_card(str(bundle), [result], None)
    after = load_bundle(bundle)  # every hash is right
    changed = {name for name, entry in after.manifest.files.items() if entry != before.manifest.files[name]}
    assert changed == {"README.md"}
    assert after.manifest.provenance["card"] == {"figures_of": before.manifest_sha256}
    card = (bundle / "README.md").read_text()
    assert "| anger | 8 | 67% (" in card
    assert "| pitch slope | 10 | 50.0% (40.0% to 60.0%) |" in card
    write_card(str(bundle), [result], None)  # and once more, by the hash that the card remembers
    again = load_bundle(bundle)
    assert again.manifest == after.manifest
    assert (bundle / "README.md").read_text() == card


def test_figures_of_another_bundle_are_refused(bundle: Path, tmp_path: Path) -> None:
    strange = tmp_path / "strange.json"
    strange.write_text(json.dumps(make_result("0" * 64)))
    before = (bundle / "README.md").read_text()
    with pytest.raises(EdgeEmotionError, match=r"strange.json was measured on another bundle \(000000000000"):
        write_card(str(bundle), [strange], None)
    assert (bundle / "README.md").read_text() == before
    other = tmp_path / "other.json"
    other.write_text('{"benchmark": "latency"}')
    with pytest.raises(EdgeEmotionError, match="not of 'latency'"):
        write_card(str(bundle), [other], None)
    other.write_text("{")
    with pytest.raises(EdgeEmotionError, match="cannot be read as a result"):
        write_card(str(bundle), [other], None)


def test_a_result_that_lacks_a_figure_is_named(bundle: Path, result: Path) -> None:
    content = json.loads(result.read_text())
    del content["claims"]
    result.write_text(json.dumps(content))
    with pytest.raises(EdgeEmotionError, match="lacks a figure"):
        write_card(str(bundle), [result], None)


def test_the_command_writes_a_file_of_its_own(bundle: Path, result: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    command = ["bundle", "card", str(bundle), "--results", str(result), "-o", str(card)]
    assert run(command) == 0
    assert card.read_text().startswith("# nano ")
    assert run(command) == 1  # it exists
    assert run([*command, "--force"]) == 0
    load_bundle(bundle)  # untouched
