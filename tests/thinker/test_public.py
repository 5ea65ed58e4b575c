"""The released EmotionThinker's path, by the shipped configurations, on a tiny model in its published layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_emotion_export.omni_prompt import read_speech
from edge_emotion_train.labelling.view_reasoning import QUESTIONS
from edge_emotion_train.reasoning import CueEmotionTable
from edge_emotion_train.reinforcement.judges import interpretation
from edge_emotion_train.reinforcement.log import read_log
from edge_emotion_train.reinforcement.trainer import AudioMixin
from edge_emotion_train.stages import run
from edge_emotion_train.thinker.dialogue import ANSWERS, QUESTION, SYSTEM, prompt_of
from edge_emotion_train.thinker.processor import load_processor, read_conversations
from edge_emotion_train.thinker.rows import read_rows, speak
from tests.thinker.conftest import Data

CONFIGS = Path(__file__).parents[2] / "train" / "configs"
REPLIES = (
    "<think>I hear a very high pitch and fast speech.</think><answer>angry</answer>",
    "<think>I hear a low pitch.</think><answer>happy</answer>",
    "<think>Nothing stands out.</think><answer>neutral</answer>",
    "<think>It is hushed.</think><answer>whisper</answer>",
)


def test_it_is_asked_in_the_words_it_was_trained_with(published: Path, data: Data) -> None:
    """Token for token what the export says a device must write around the audio."""
    processor = load_processor(published)
    rows, _ = speak(read_rows([data("grpo")]), "emotionthinker")
    ids, _ = read_conversations(processor, [rows[0]["messages"]])
    text = processor.tokenizer.decode(ids[0])
    prompt = prompt_of("emotionthinker", ())
    before, _, rest = text.partition("<|AUDIO|>")
    assert before == prompt.before_audio == f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n<|audio_bos|>"
    assert rest.replace("<|AUDIO|>", "") == prompt.after_audio
    assert QUESTION.startswith("<audio>What is the emotion")
    assert QUESTION.endswith("neutral, happy, sad, angry, contempt or disgust, confused, whisper, surprise, fear.")


def test_the_plain_dialogue_is_what_the_export_tells_a_device(published: Path, data: Data) -> None:
    processor, rows = load_processor(published), read_rows([data("grpo")])
    prompt, labels = prompt_of("plain", rows[0]["labels"]), ", ".join(rows[0]["labels"])
    for row, ids in zip(rows, read_conversations(processor, [row["messages"] for row in rows])[0], strict=True):
        before, _, rest = processor.tokenizer.decode(ids).partition("<|AUDIO|>")
        asked = row["messages"][0]["content"][-1]["text"]
        assert before == prompt.before_audio
        assert rest.replace("<|AUDIO|>", "").replace(asked, QUESTIONS[0].format(labels=labels)) == prompt.after_audio


def test_it_is_evaluated(published: Path, data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"model": published, "rows": data("grpo"), "max-new-tokens": 8}
    run("eval", CONFIGS / "omni_7b_public_eval.yaml", _options(options))
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["dialogue"] == "emotionthinker"
    assert figures["emotion"]["clips"] == 3


def test_it_is_trained_on(published: Path, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def say(trainer: Any, prompt_ids: Any, *_: Any, **__: Any) -> Any:
        texts = [REPLIES[i % len(REPLIES)] for i in range(len(prompt_ids))]
        return [trainer.processing_class(text)["input_ids"] for text in texts], None

    monkeypatch.setattr(AudioMixin, "_generate_single_turn", say)
    numbers = {"steps": 1, "prompts-per-step": 3, "group": 4, "batch-size": 12, "save-every": 1, "lora-rank": 2}
    options = {"model": published, "rows": data("grpo"), "output": tmp_path / "out", **numbers}
    run("grpo", CONFIGS / "omni_7b_public_grpo.yaml", _options(options))
    log = read_log(tmp_path / "out" / "metrics.jsonl")
    # All keep to the form; of each clip's four, one names its emotion: anger, happiness, neutral.
    assert (log[0]["format"], log[0]["outcome"]) == (1.0, 0.25)
    speech = read_speech(tmp_path / "out")
    assert speech.labels[:5] == ("neutral", "happiness", "sadness", "anger", "disgust")
    assert speech.prompt.label_texts == tuple(f">{answer}" for answer in ANSWERS)


def test_the_judge_takes_its_words_for_our_emotions() -> None:
    table = CueEmotionTable().fit([{"pitch": "very high"}, {"pitch": "low"}], ["anger", "sadness"])
    said = "I hear a very high pitch."
    assert interpretation(said, "angry", table) == interpretation(said, "anger", table) > 0
    assert interpretation(said, "whisper", table) == interpretation(said, None, table) == 0


def _options(named: dict[str, Any]) -> list[str]:
    return [part for name, value in named.items() for part in (f"--{name}", str(value))]
