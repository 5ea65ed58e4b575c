"""A tiny random Qwen2.5-Omni in the published layout, and views of the data engine made of four committed clips."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edge_emotion_train.labelling.built_in_writer import record_rng, write
from edge_emotion_train.labelling.findings import findings_of
from edge_emotion_train.labelling.records import IntonationShape, Reasoning, Record, Word
from edge_emotion_train.labelling.views import write_view
from tests.labelling.listener import BACKGROUND, GROUPS, make_record, make_table
from tests.thinker.tiny_omni import build_thinker, save_published, train_tokenizer

TESTS = Path(__file__).parents[1]
CLIPS = {
    "anger": TESTS.parent / "examples" / "emodb_15_anger.wav",
    "happiness": TESTS.parent / "examples" / "emodb_16_happiness.wav",
    "neutral": TESTS / "data" / "emodb_03a02Nc.flac",
    "sadness": TESTS / "data" / "emodb_14a04Aa.flac",
}
LEVELS = {"pitch": "very high", "rate": "fast", "tone": "sharp", "clarity": "rough", "dynamics": "strong"}
OTHER_LEVELS = {"pitch": "low", "rate": "slow", "tone": "soft", "clarity": "clear"}
WORDS = (Word("Das", 0.0, 0.2, 0.1), Word("will", 0.2, 0.4, 0.1), Word("sie", 0.4, 0.6, 0.95))


@dataclass(frozen=True)
class Data:
    """View files; the clip of sadness is the only one in those of `test`."""

    folder: Path

    def __call__(self, view: str, split: str = "train") -> Path:
        return self.folder / view / f"{split}.jsonl"


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full model's folder: shards, `thinker.` before the names, a talker beside it."""
    tokenizer = train_tokenizer()
    thinker = build_thinker(tokenizer, hidden=64)
    return save_published(tmp_path_factory.mktemp("published") / "tiny-omni", thinker, tokenizer)


def records() -> list[Record]:
    """One clip of each of four speakers; the levels are made up, the sound is not."""
    made = []
    for number, (emotion, path) in enumerate(CLIPS.items()):
        record = make_record(
            LEVELS if number % 2 == 0 else OTHER_LEVELS, id=f"corpus/{number}", audio=str(path), emotion=emotion,
            speaker=f"corpus_s{number}", text=f"Das will sie {number}", words=WORDS,
            intonation=IntonationShape("falling", 0.8),
        )  # fmt: skip
        text = write(findings_of(record, BACKGROUND), emotion, make_table(), "full", record_rng(0, record.id))
        made.append(replace(record, reasoning=Reasoning(text, "built-in", "full")))
    return made


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("views")
    shares = {"train": 1.0, "validation": 0.0, "test": 0.0}
    for view in ("prosody", "ordering", "reasoning", "grpo"):
        write_view(view, records(), GROUPS, folder / view, test_speakers=["corpus_s3"], shares=shares)
    return Data(folder)
