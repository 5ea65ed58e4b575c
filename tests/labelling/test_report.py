"""`edge-emotion label report`: every number on the page is counted anew here, and nothing a data set says breaks it."""

from __future__ import annotations

import base64
import io
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion.audio import load_audio
from edge_emotion.claims import parse_claims
from edge_emotion.cli.app import run
from edge_emotion.cues import CUES, Thresholds, level_of
from edge_emotion.errors import LabellingError
from edge_emotion.prosody import Measure
from edge_emotion_train.labelling.calibrate import ThresholdGroups
from edge_emotion_train.labelling.records import IntonationShape, Level, Reasoning, Record, Word
from edge_emotion_train.labelling.report import write_report
from edge_emotion_train.labelling.report_clips import choose_clips
from edge_emotion_train.labelling.report_data import DataSet
from edge_emotion_train.labelling.report_plots import Row, Scale, groups_svg, histogram_svg, shortened
from edge_emotion_train.labelling.report_sections import failures_of

from .page import Element, read_page

CLIPS = Path(__file__).resolve().parents[1] / "data"
CUTS = {"pitch": (120.0, 160.0, 200.0, 260.0), "rate": (4.0, 5.5), "tone": (-12.0, -4.0)}
HOSTILE = "<script>alert(1)</script> \"'><img src=x onerror=alert(2)> & $x^2$ {{ 7*7 }} \u202eabc\x00\x1b[31m"


def measure(name: str, unit: str, value: float | None, reliability: float = 1.0, reason: str | None = None) -> Measure:
    return Measure(name, value, unit, 0.0, 2.0, reliability, reason)


def record(number: int, emotion: str | None = "anger", **changes: Any) -> Record:
    """A clip whose values follow from its number, with levels, text and words."""
    rng = np.random.default_rng(number)
    f0 = float(rng.uniform(210, 300) if emotion == "anger" else rng.uniform(110, 190))
    rate = None if number % 10 == 7 else float(rng.uniform(3, 7))
    measures = {
        "f0_median_hz": measure("f0_median_hz", "Hz", f0, 0.3 if number % 8 == 5 else 0.9),
        "syllable_rate_per_s": measure(
            "syllable_rate_per_s", "1/s", rate, 0.9 if rate else 0.0, None if rate else "no syllable nucleus found"
        ),
        "spectral_tilt_db": measure("spectral_tilt_db", "dB", float(rng.normal(0 if emotion == "anger" else -15))),
        "duration_s": measure("duration_s", "s", 2.0 + number % 3),
    }
    thresholds = Thresholds(CUTS, "test")
    levels = {}
    for cue in CUES:
        found = measures.get(cue.measure)
        if cue.name not in CUTS or found is None or found.value is None or found.reliability < 0.5:
            levels[cue.name] = Level(None, 0.0, None, "was not measured")
        else:
            levels[cue.name] = Level(level_of(cue, found.value, thresholds), found.reliability, "population")
    said = [f"a {levels['pitch'].level} pitch"] if levels["pitch"].level else []
    said += [f"a {levels['rate'].level} pace"] if levels["rate"].level else []
    text = f"I hear {' and '.join(said)}. That may be {emotion}."
    claims = tuple(
        {"cue": c.cue, "level": c.level, "text": c.text, "start": c.start, "end": c.end, "verdict": "supported"}
        for c in parse_claims(text)
    )
    fields: dict[str, Any] = {
        "id": f"calls/{number:03d}",
        "audio": f"/nowhere/{number}.wav",
        "corpus": "calls" if number % 3 else "radio",
        "speaker": f"speaker {number % 4}",
        "emotion": emotion,
        "language": "de",
        "text": "Das will sie am Mittwoch abgeben.",
        "audio_sha256": f"{number:064d}",
        "measures": measures,
        "levels": levels,
        "intonation": IntonationShape("falling", 0.8) if number % 5 else IntonationShape(None, 0.2, "uncertain"),
        "words": (Word("Das", 0.1, 0.4, 0.2), Word("Mittwoch", 0.5, 0.9, 0.9)),
        "reasoning": Reasoning(text, "built-in", "nano", claims, int(number % 6 == 0)) if said else None,
    }
    return Record(**{**fields, **changes})


def write_folder(folder: Path, records: Iterable[Record], failures: Iterable[dict[str, Any]] = ()) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    listed, failed = list(records), list(failures)
    (folder / "labelled.jsonl").write_text("".join(item.to_json() + "\n" for item in listed), encoding="utf-8")
    (folder / "errors.jsonl").write_text("".join(json.dumps(item) + "\n" for item in failed), encoding="utf-8")
    groups = {"population": Thresholds(CUTS, "test")}
    (folder / "thresholds.json").write_text(ThresholdGroups(groups).to_json(), encoding="utf-8")
    lost = sum(item["lost"] is None for item in failed)
    step = {"in": len(listed) + lost, "out": len(listed), "failed": lost, "fields_lost": len(failed) - lost}
    steps = {"measure": {**step, "output": "labelled.jsonl", "settings": {"align": True}}}
    (folder / "run.json").write_text(json.dumps({"schema_version": 1, "steps": steps}), encoding="utf-8")
    return folder


def report_of(folder: Path, **options: Any) -> tuple[Element, str]:
    output = folder / "report.html"
    write_report(folder, output, force=True, progress=False, **options)
    text = output.read_text(encoding="utf-8")
    return read_page(text), text


FAILURES = [
    {"id": "calls/900", "step": "measure", "cause": "/data/900.wav: no samples, 0 of 12", "lost": None},
    {"id": "calls/901", "step": "measure", "cause": "/data/901.wav: no samples, 3 of 44", "lost": None},
    {"id": "calls/007", "step": "write", "cause": "the text was refused: too short", "lost": "reasoning"},
]


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [record(number, ("anger", "sadness", None)[number % 7 % 3]) for number in range(60)]


@pytest.fixture(scope="module")
def page(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Element:
    return report_of(write_folder(tmp_path_factory.mktemp("report"), records, FAILURES), examples=1)[0]


def emotions_of(records: Iterable[Record]) -> dict[str, list[Record]]:
    listed = list(records)
    return {
        name: [item for item in listed if (item.emotion or "no emotion") == name]
        for name in ("anger", "sadness", "no emotion")
    }


def reliable(records: Iterable[Record], name: str) -> list[float]:
    measures = [(item.measures or {})[name] for item in records if name in (item.measures or {})]
    return [found.value for found in measures if found.value is not None and found.reliability >= 0.5]


def number(text: str) -> int:
    return int(text.replace("\u202f", ""))


# --- the page as a page ----------------------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_loads_nothing(page: Element) -> None:
    ids = [element.attributes["id"] for element in page if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    targets = [str(link.attributes["href"]) for link in page.all("a")]
    assert targets
    assert all(target.startswith("#") and target[1:] in ids for target in targets)
    marks = [str(use.attributes["xlink:href"]) for use in page.all("use")]
    assert all(mark[1:] in ids for mark in marks)
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("img")
    loaded = [value for element in page for name, value in element.attributes.items() if name in ("src", "srcset")]
    assert not loaded
    assert not re.search(r"url\(|@import", page.all("style")[0].text)
    assert "default-src 'none'" in str(page.all("meta", http_equiv="Content-Security-Policy")[0].attributes["content"])


def test_what_can_be_scrolled_can_be_reached_by_keyboard_and_pictures_have_names(page: Element) -> None:
    regions = page.all("div", class_="scroll")
    assert regions
    assert all(region.attributes.get("tabindex") == "0" and region.attributes.get("aria-label") for region in regions)
    assert page.all("svg")
    assert all(svg.attributes.get("aria-label") for svg in page.all("svg"))
    assert page.all("html")[0].attributes["lang"] == "en"


def test_colours_come_from_the_style_sheet_so_that_dark_mode_works(page: Element) -> None:
    defined = set(re.findall(r"(--[\w-]+):", page.all("style")[0].text))
    used = {
        name for element in page for name in re.findall(r"var\((--[\w-]+)\)", element.attributes.get("style") or "")
    }
    assert used
    assert used <= defined
    drawn = "".join(str(element.attributes.get("style")) for svg in page.all("svg") for element in svg)
    assert not re.search(r"#[0-9a-f]{6}", drawn)


def test_the_same_folder_gives_the_same_bytes(records: list[Record], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", records[:20])
    assert report_of(folder)[1] == report_of(folder)[1]


# --- its numbers -----------------------------------------------------------------------------------------------------


def test_the_tiles_and_the_table_of_clips_count_what_is_there(page: Element, records: list[Record]) -> None:
    tiles = {tile.all("dt")[0].words: tile.all("dd") for tile in page.all("dl", class_="tiles")[0].all("div")}
    assert {name: values[0].words for name, values in tiles.items()} == {
        "clips": "60",
        "hours": f"{sum(reliable(records, 'duration_s')) / 3600:.2f}",
        "speakers": "4",
        "corpora": "2",
        "emotions": "2",
        "languages": "1",
        "transcripts": "60",
        "reasoning texts": str(sum(item.reasoning is not None for item in records)),
    }
    assert tiles["clips"][1].words == "and 2 lost"
    expected = []
    for name, found in [*emotions_of(records).items(), ("all", records)]:
        corpora = Counter(item.corpus for item in found)
        minutes = f"{sum(reliable(found, 'duration_s')) / 60:.1f}"
        speakers = str(len({item.speaker for item in found}))
        expected.append([name, str(corpora["calls"]), str(corpora["radio"]), str(len(found)), minutes, speakers, ""])
    assert page.table("Clips by emotion") == expected


def test_steps_and_failures_add_up(page: Element) -> None:
    assert page.table("Steps") == [["measure", "62", "60", "2", "1", "✓ yes"]]
    assert page.table("Failures") == [
        ["measure", "the clip", "2", "calls/900: /data/900.wav: no samples, 0 of 12"],
        ["write", "reasoning", "1", "calls/007: the text was refused: too short"],
    ]


def test_steps_that_do_not_add_up_are_called_wrong(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", [record(1)])
    steps = {"measure": {"in": 3, "out": 1, "failed": 1, "fields_lost": 0, "output": "labelled.jsonl"}}
    (folder / "run.json").write_text(json.dumps({"steps": steps}))
    page = report_of(folder, examples=0)[0]
    assert page.table("Steps")[0][-1] == "✗ no"
    assert any("Counts do not add up: measure." in item.words for item in page.all("li"))


@pytest.mark.parametrize(("cue", "name", "digits"), [("pitch", "f0_median_hz", 0), ("rate", "syllable_rate_per_s", 1)])
def test_the_numbers_of_a_card(page: Element, records: list[Record], cue: str, name: str, digits: int) -> None:
    levels = next(item.levels for item in CUES if item.name == cue)
    expected = []
    for emotion, found in emotions_of(records).items():
        values = reliable(found, name)
        quartiles = [f"{np.percentile(values, share):.{digits}f}" for share in (25, 50, 75)]
        counts = Counter((item.levels or {})[cue].level for item in found)
        shares = [str(counts[level]) for level in (*levels, None)]
        label = "emotion unknown" if emotion == "no emotion" else emotion
        expected.append([label, str(len(found)), str(len(values)), *quartiles, *shares])
    assert page.table(f"Numbers of {cue} by emotion") == expected


def test_every_clip_counts_once_by_speaker_and_by_corpus(page: Element, records: list[Record]) -> None:
    for key in ("speaker", "corpus"):
        rows = page.table(f"Numbers of pitch by {key}")
        assert [row[0] for row in rows] == sorted({str(getattr(item, key)) for item in records})
        assert sum(number(row[1]) for row in rows) == len(records)
        assert sum(number(row[2]) for row in rows) == len(reliable(records, "f0_median_hz"))


def test_reliability_and_its_reasons(page: Element, records: list[Record]) -> None:
    rows = {row[0]: row[2:] for row in page.table("Reliability of measures")}
    rates = [(item.measures or {})["syllable_rate_per_s"] for item in records]
    without = sum(rate.value is None for rate in rates)
    assert rows["syllable rate"] == [str(60 - without), "0", str(without), f"no syllable nucleus found ({without})"]
    uncertain = sum((item.measures or {})["f0_median_hz"].reliability < 0.5 for item in records)
    assert rows["pitch, median"] == [str(60 - uncertain), str(uncertain), "0", ""]


def test_shapes_of_the_melody(page: Element, records: list[Record]) -> None:
    expected = []
    for name, found in [*emotions_of(records).items(), ("all", records)]:
        shapes = Counter(item.intonation.shape if item.intonation else None for item in found)
        expected.append([name, "", str(shapes["falling"]), str(shapes[None])])
    assert page.table("Shapes of the melody by emotion") == expected


def test_prominent_words(page: Element) -> None:
    assert page.table("Words that stand out") == [["mittwoch", "60", "100 %"], ["das", "60", "0 %"]]


def test_claims_are_counted_and_checked_anew(page: Element, records: list[Record]) -> None:
    claims = Counter(c.cue for item in records if item.reasoning for c in parse_claims(item.reasoning.text))
    rows = [[cue, "", str(claims[cue]), "0", "0"] for cue in ("pitch", "rate")]
    assert page.table("Verdicts by cue") == [*rows, ["all", "", str(claims.total()), "0", "0"]]
    section = next(item for item in page.all("section") if item.attributes.get("id") == "reasoning")
    repaired = sum(item.reasoning.repairs > 0 for item in records if item.reasoning)
    assert f"Repaired: {repaired} " in section.words
    assert "Clips without one: 1 because it was refused, 0 because none was written." in section.words


def test_a_false_claim_is_found_whatever_is_stored_with_the_text(tmp_path: Path) -> None:
    good = [record(number) for number in (1, 2, 3)]
    text = "I hear a very low pitch. That may be anger."
    claims = (
        {
            "cue": "pitch",
            "level": "very low",
            "start": 7,
            "end": 23,
            "text": "a very low pitch",
            "verdict": "supported",
        },
    )
    bad = replace(good[1], reasoning=Reasoning(text, "built-in", "nano", claims))
    page = report_of(write_folder(tmp_path / "a", [good[0], bad, good[2]]), examples=1)[0]
    found = [item.words for item in page.all("li")]
    assert "✗ wrong1 claim against the measurement, in 1 text, for example calls/002." in found
    assert "✗ wrong1 text with other claims or verdicts than those stored with them." in found
    assert ["pitch", "", "2", "1", "0"] in page.table("Verdicts by cue")


def test_groups_of_thresholds_are_named_with_their_cuts(page: Element, records: list[Record]) -> None:
    rows = page.table("Cuts between levels")
    given = {cue: sum((item.levels or {})[cue].level is not None for item in records) for cue in CUTS}
    assert [row[:3] for row in rows] == [[cue, "population", str(given[cue])] for cue in CUTS]
    assert rows[0][3] == "very low | 120 | low | 160 | medium | 200 | high | 260 | very high Hz"
    assert rows[1][3] == "slow | 4.0 | moderate | 5.5 | fast per s"


def test_a_speakers_own_cuts_are_drawn_and_named(tmp_path: Path) -> None:
    own = {"pitch": (100.0, 150.0, 190.0, 240.0)}
    clips = [record(number, speaker=f"speaker {number % 2}") for number in range(1, 21, 4)]
    clips += [record(number, speaker="speaker 1") for number in range(3, 23, 4)]
    keyed = [
        replace(
            item,
            levels={
                **(item.levels or {}),
                "pitch": replace((item.levels or {})["pitch"], thresholds="speaker:speaker 1"),
            },
        )
        if item.speaker == "speaker 1"
        else item
        for item in clips
    ]
    folder = write_folder(tmp_path / "a", [*keyed, record(30, speaker="speaker 2")])
    groups = {"population": Thresholds(CUTS, "test"), "speaker:speaker 1": Thresholds(own, "test")}
    (folder / "thresholds.json").write_text(ThresholdGroups(groups).to_json())
    page = report_of(folder, examples=0)[0]
    cards = [card for card in page.all("section", class_="card") if card.all("h4")[0].words == "pitch"]
    assert ["Dashes in a row: that speaker's own." in card.words for card in cards] == [False, True, False]
    assert "Bands: median of the cuts of 1 speaker (10 clips) and population (1 clip)." in cards[0].words
    assert ["pitch", "1 speaker, each their own", "10"] in [row[:3] for row in page.table("Cuts between levels")]


def test_without_thresholds_the_stored_verdicts_are_shown_and_said_to_be_stored(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", [record(1), record(2)])
    elsewhere = folder / "thresholds.json"
    elsewhere = elsewhere.rename(tmp_path / "thresholds.json")
    page = report_of(folder, examples=0)[0]
    assert any("(as stored with them)" in item.words for item in page.all("li"))
    page = report_of(folder, examples=0, thresholds=elsewhere)[0]
    assert any("(checked anew for this page)" in item.words for item in page.all("li"))


def test_the_same_recording_twice_is_found(tmp_path: Path) -> None:
    twice = [record(1), replace(record(2), audio_sha256=record(1).audio_sha256), record(3)]
    page = report_of(write_folder(tmp_path / "a", twice), examples=0)[0]
    assert any("1 clip with byte for byte the recording of another clip." in item.words for item in page.all("li"))


def test_a_clip_unlike_its_label_is_listed(tmp_path: Path) -> None:
    clips = [record(number, ("anger", "sadness")[number % 2], speaker="anna", corpus="calls") for number in range(60)]
    odd = replace(record(100, "sadness", speaker="anna", corpus="calls"), emotion="anger", id="calls/odd")
    page = report_of(write_folder(tmp_path / "a", [*clips, odd]), examples=2)[0]
    assert page.table("Unusual clips")[0][:2] == ["calls/odd", "anger"]
    drawn = [item.words for item in page.all("article") if "least typical" in item.words]
    assert drawn[0].startswith("calls/odd")


# --- input that is hostile, incomplete or broken ----------------------------------------------------------------------


def test_hostile_text_is_only_text(tmp_path: Path) -> None:
    hostile = record(
        1, id=HOSTILE, speaker=HOSTILE, corpus=HOSTILE, language="<b>", text=HOSTILE + "</p>",
        words=(Word(HOSTILE, 0.0, 0.5, 0.5),), warnings=(HOSTILE,),
        reasoning=Reasoning(f"I hear a low pitch </mark>{HOSTILE}", HOSTILE, "nano"),
    )  # fmt: skip
    failures = [{"id": HOSTILE, "step": HOSTILE, "cause": HOSTILE, "lost": None}]
    page, text = report_of(write_folder(tmp_path / "a", [hostile, record(2)], failures))
    assert not page.all("script")
    assert not page.all("img")
    assert not page.all("b", class_="")
    assert not re.search("[\x00\x1b\u202e]", text)
    shown = HOSTILE.replace("\u202e", "\ufffd").replace("\x00", "\ufffd").replace("\x1b", "\ufffd")
    article = next(item for item in page.all("article") if "alert(1)" in item.words)
    assert article.all("h4")[0].text == shown
    assert "{{ 7*7 }}" in page.text


@settings(max_examples=8, deadline=None)
@given(st.text(st.characters(codec="utf-16"), max_size=30), st.text(st.characters(codec="utf-16"), max_size=30))
def test_any_unicode_makes_a_well_formed_page(name: str, text: str) -> None:
    strange = Record(
        f"a/{name}", "/nowhere.wav", "a", name, text=text, words=(Word(name),), reasoning=Reasoning(text, name, "nano")
    )
    with tempfile.TemporaryDirectory() as folder:
        page = report_of(write_folder(Path(folder), [strange]), examples=1)[0]
    assert len(page.all("article")) == 1


def test_a_lone_surrogate_does_not_stop_it(tmp_path: Path) -> None:
    page = report_of(write_folder(tmp_path / "a", [record(1, id="a/\udcff")]), examples=1)[0]
    assert page.all("article")[0].all("h4")[0].text == "a/?"


def test_clips_of_which_nothing_is_known(tmp_path: Path) -> None:
    bare = [Record(id=f"a/{number}", audio="/nowhere.wav", corpus="a") for number in range(3)]
    page = report_of(write_folder(tmp_path / "a", bare))[0]
    assert page.table("Clips by emotion")[0] == ["no emotion", "3", "0.0", "0", ""]
    assert not page.all("section", id="reasoning")
    assert len(page.all("article")) == 3


def test_some_clips_measured_and_some_not(tmp_path: Path) -> None:
    mixed = [record(1), Record(id="a/x", audio="/x.wav", corpus="calls", emotion="anger"), record(2)]
    page = report_of(write_folder(tmp_path / "a", mixed), examples=3)[0]
    rows = {row[0]: row[2:] for row in page.table("Reliability of measures")}
    assert rows["duration"] == ["2", "0", "1", "not measured at all (1)"]


def test_no_clips_at_all(tmp_path: Path) -> None:
    page = report_of(write_folder(tmp_path / "a", [], FAILURES[:2]))[0]
    assert "The data set holds no clips: all of them were lost, for the causes below." in page.all("main")[0].words
    assert not page.all("svg")


def test_speakers_beyond_number_stay_readable_and_small() -> None:
    rng = np.random.default_rng(0)
    rows = [Row(f"speaker {place}", rng.normal(place, 20, 90), (), (0.2, 0.3, 0.4, 0.1)) for place in range(400)]
    svg = groups_svg(rows, Scale("tone (dB)"), (100.0, 300.0), "tone", "speakers")
    assert "400 speakers" in svg
    assert len(svg) < 60_000
    named = groups_svg(rows[:24], Scale("tone (dB)"), (), "tone", "speakers")
    assert named.count("speaker ") == 24


@pytest.mark.parametrize(("values", "tallest"), [([3.0], 1), ([0.0, 0.0], 2), ([-1.0, 5.0], 1), (list(range(100)), 5)])
def test_a_histogram_of_anything(values: list[float], tallest: int) -> None:
    for whole in (True, False):
        svg = histogram_svg(np.array(values), "words", "words", whole=whole)
        read_page(svg)
        bars = re.findall(r'd="M \S+ (\S+) L \S+ \S+ L \S+ (\S+)[^"]*" style="fill: var\(--accent', svg)
        heights = [float(foot) - float(top) for foot, top in bars]
        drawn = sum(heights) / max(heights) * tallest
        assert drawn == pytest.approx(len(values), abs=0.1), "each value lies in one bar"


@settings(max_examples=50)
@given(st.text(max_size=60), st.integers(2, 20))
def test_a_shortened_name_keeps_its_ends(name: str, most: int) -> None:
    short = shortened(name, most)
    assert len(short) <= most
    assert short == name or (short.split("…")[0] == name[: short.index("…")] and "…" in short)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["no file", "too short"]), st.booleans()), max_size=30))
def test_all_failures_are_counted_under_some_cause(items: list[tuple[int, str, bool]]) -> None:
    lines = [
        {"id": f"c/{n}", "step": "measure", "cause": f"c/{n}: {why} after {n} s", "lost": None if lost else "words"}
        for n, why, lost in items
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "errors.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        found = failures_of(path)
    assert sum(kind["count"] for kind in found["kinds"]) == len(lines)
    assert len(found["kinds"]) == len({(why, lost) for _, why, lost in items})
    assert found["fields"] == sum(not lost for _, _, lost in items)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.sampled_from(["anger", "sadness", None]), max_size=40), st.integers(0, 5))
def test_examples_are_different_clips_of_their_emotion(emotions: list[str | None], count: int) -> None:
    data = DataSet.of([record(place, emotion) for place, emotion in enumerate(emotions)], {})
    chosen = choose_clips(data, data.label_fit(), count)
    for name, choices in chosen.items():
        rows = [choice.row for choice in choices]
        of_emotion = [place for place, emotion in enumerate(emotions) if (emotion or "no emotion") == name]
        assert len(set(rows)) == len(rows) == min(count, len(of_emotion))
        assert set(rows) <= set(of_emotion)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("labelled.jsonl", "{}\n", "is no record"),
        ("thresholds.json", "[]", "holds no thresholds"),
        ("errors.jsonl", "{\n", "cannot be read"),
        ("run.json", "{", "cannot be read"),
        ("errors.jsonl", '{"id": 1, "step": "measure", "cause": 2, "lost": null}\n', "cannot be read"),
        ("run.json", "[1]", "cannot be read"),
        ("run.json", '{"steps": [1]}', "does not list"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str, says: str) -> None:
    folder = write_folder(tmp_path / "a", [record(1)])
    (folder / name).write_text(content)
    with pytest.raises(LabellingError, match=says) as error:
        report_of(folder)
    assert name in str(error.value)
    assert not (folder / "report.html").exists()


def test_folders_that_cannot_be_and_pages_that_exist(tmp_path: Path) -> None:
    with pytest.raises(LabellingError, match="is no folder"):
        write_report(tmp_path / "nowhere", tmp_path / "x.html")
    with pytest.raises(LabellingError, match="label measure"):
        write_report(tmp_path, tmp_path / "x.html")
    (tmp_path / "x.html").write_text("mine")
    with pytest.raises(LabellingError, match="--force"):
        write_report(write_folder(tmp_path / "a", []), tmp_path / "x.html")
    assert (tmp_path / "x.html").read_text() == "mine"


# --- examples --------------------------------------------------------------------------------------------------------


@pytest.fixture
def real_clips(tmp_path: Path) -> Path:
    clips = [
        record(1, audio=str(CLIPS / "emodb_03a02Nc.flac")),
        record(2, audio=str(CLIPS / "emodb_14a04Aa.flac"), start_s=0.5, end_s=1.5),
    ]
    return write_folder(tmp_path / "a", clips)


def test_a_clip_is_drawn_with_its_claims_and_can_be_heard(real_clips: Path) -> None:
    page = report_of(real_clips, audio=True)[0]
    articles = {item.all("h4")[0].words: item for item in page.all("article")}
    for name, path, span in (
        ("calls/001", "emodb_03a02Nc.flac", slice(None)),
        ("calls/002", "emodb_14a04Aa.flac", slice(8000, 24000)),
    ):
        article = articles[name]
        source = str(article.all("audio")[0].attributes["src"])
        heard, rate = soundfile.read(io.BytesIO(base64.b64decode(source.split(",")[1])), dtype="float32")
        assert rate == 16000
        np.testing.assert_allclose(heard, load_audio(CLIPS / path).samples[span], atol=2**-14)
        drawn = article.all("svg")[0].text
        assert all(word in drawn for word in ("pitch (Hz)", "time (s)", "0 dB"))
        text = article.all("p", class_="text")[0]
        kept = record(int(name[-3:])).reasoning
        assert kept is not None
        claims = parse_claims(kept.text)
        marks = [mark.children[0] for mark in text.all("mark")]
        assert marks == [claim.text for claim in claims]
        numbers = {mark.all("sup")[0].words for mark in text.all("mark")}
        assert numbers == {f"{place}✓" for place in range(1, len(claims) + 1)}
        assert "1" in drawn


def test_the_level_that_is_claimed_stands_out(real_clips: Path) -> None:
    page = report_of(real_clips)[0]
    article = page.all("article")[0]
    levels = record(int(article.all("h4")[0].words[-3:])).levels or {}
    outlined = [segment.attributes["title"] for segment in article.all("span", class_="claimed")]
    assert outlined == [levels[cue].level for cue in ("pitch", "rate") if levels[cue].level]


def test_missing_audio_costs_the_picture_only(
    real_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (real_clips / "labelled.jsonl").read_text().replace("emodb_03a02Nc.flac", "gone.flac")
    (real_clips / "labelled.jsonl").write_text(lines)
    assert run(["label", "report", str(real_clips), "-o", str(tmp_path / "new" / "report.html"), "--json"]) == 1
    shown = capsys.readouterr()
    written = json.loads(shown.out)
    assert (written["clips"], written["examples"]) == (2, 1)
    assert written["bytes"] == (tmp_path / "new" / "report.html").stat().st_size
    assert "calls/001" in shown.err
    page = read_page((tmp_path / "new" / "report.html").read_text())
    assert len(page.all("article")) == 2


def test_the_command_for_people(real_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["label", "report", str(real_clips), "-o", str(tmp_path / "report.html")]) == 0
    assert "2 clips, 2 drawn" in capsys.readouterr().out
    assert run(["label", "report", str(real_clips), "-o", str(tmp_path / "report.html")]) == 1
    assert "--force" in capsys.readouterr().err
