"""What each pass computes: the supervised loss by hand, and GRPO's log-probabilities against samples alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_emotion_train.reinforcement import run
from edge_emotion_train.reinforcement.trainer import PtrGrpoTrainer, TrainingError
from edge_emotion_train.thinker.collator import ConversationCollator
from edge_emotion_train.thinker.configs import ReinforcedConfig, SupervisedConfig
from edge_emotion_train.thinker.model import load_thinker
from edge_emotion_train.thinker.processor import audio_token_ids, load_processor, read_conversations
from edge_emotion_train.thinker.reinforced import trainer_for
from edge_emotion_train.thinker.rows import read_rows
from edge_emotion_train.thinker.supervised import Lesson, train, trainer_of
from tests.thinker.conftest import Data


@pytest.fixture(scope="module")
def processor(published: Path) -> Any:
    return load_processor(published, longest_s=10.0)


def test_supervised_loss_is_that_of_the_answer_alone(
    published: Path, processor: Any, data: Data, tmp_path: Path
) -> None:
    rows = read_rows([data("reasoning")])
    items = [{"row": index} for index in range(3)]
    batch = ConversationCollator(processor, rows)(items)
    learned = processor.tokenizer.decode(batch["labels"][0][batch["labels"][0] >= 0])
    assert learned == f"<think>{rows[0]['reasoning']}</think><answer>anger</answer><|im_end|>"
    model = load_thinker(published)
    before = copy.deepcopy(model)
    config = SupervisedConfig(model=published, rows=(data("reasoning"),), output=tmp_path / "out", batch_size=3,
                              learning_rate=3e-3, epochs=4, warmup_share=0.0)  # fmt: skip
    lesson = Lesson(rows, [0, 1, 2] * 4, [])
    (tmp_path / "run").mkdir()
    losses = [entry["loss"] for entry in train(trainer_of(model, processor, lesson, config, tmp_path / "run"),
                                               tmp_path / "run")]  # fmt: skip
    log_probabilities = []
    for i in range(3):  # one sample at a time, no padding
        length = int(batch["attention_mask"][i].sum())
        audio = {name: batch[name][i : i + 1] for name in ("input_features", "feature_attention_mask")}
        with torch.no_grad():
            logits = before(input_ids=batch["input_ids"][i : i + 1, :length],
                            attention_mask=torch.ones(1, length, dtype=torch.long), **audio).logits[0]  # fmt: skip
        labels = batch["labels"][i, :length]
        learnt = (labels >= 0).nonzero()[:, 0]
        log_probabilities.append(logits.log_softmax(-1)[learnt - 1, labels[learnt]])
    assert losses[0] == pytest.approx(-float(torch.cat(log_probabilities).mean()), abs=1e-4)
    assert losses[-1] < losses[0] - 0.3


def test_a_batch_may_hold_conversations_without_sound(processor: Any, data: Data) -> None:
    """Text-only rows are mixed in; each recording must still reach its own row."""
    rows = read_rows([data("reasoning")])
    said = [("user", "Why?"), ("assistant", "fear")]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]
    silent = {"id": "text", "messages": messages}
    mixed = ConversationCollator(processor, [silent, *rows])([{"row": 1}, {"row": 0}, {"row": 2}])
    assert len(mixed["input_ids"]) == 3
    assert len(mixed["input_features"]) == 2
    places = (mixed["input_ids"] == audio_token_ids(processor)[0]).sum(dim=1)
    assert places[1] == 0
    assert places.sum() == sum(((int(n) - 1) // 2 + 1) // 2 for n in mixed["feature_attention_mask"].sum(dim=1))
    assert "input_features" not in ConversationCollator(processor, [silent])([{"row": 0}])


@pytest.mark.parametrize("rank", [0, 4], ids=["all weights", "LoRA"])
def test_grpo_scores_what_the_thinker_heard(
    published: Path, data: Data, tmp_path: Path, monkeypatch: Any, rank: int
) -> None:
    """Two steps of the trainer that trains nano; log-probabilities against samples alone, and with another's audio."""
    seen: list[dict[str, Any]] = []
    score = PtrGrpoTrainer._compute_loss

    def keep(trainer: Any, model: Any, inputs: Any) -> Any:
        kept = {name: value.clone() for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        if not seen:
            seen.append(kept)
            ids = torch.cat([kept["prompt_ids"], kept["completion_ids"]], dim=1)
            mask = torch.cat([kept["prompt_mask"], kept["completion_mask"]], dim=1)
            trainer._audio = {name: kept[name] for name in trainer._audio}
            with torch.no_grad():
                found = trainer._get_per_token_logps_and_entropies(model, ids, mask, kept["completion_ids"].shape[1])
            kept["log_probs"] = found[0]
        return score(trainer, model, inputs)

    monkeypatch.setattr(PtrGrpoTrainer, "_compute_loss", keep)
    config = ReinforcedConfig(model=published, rows=(data("grpo"),), output=tmp_path / "out", lora_rank=rank, steps=2,
                              prompts_per_step=2, group=4, batch_size=4, max_new_tokens=6)  # fmt: skip
    trainer, tokenizer = trainer_for(read_rows([data("grpo")]), config, tmp_path / "run")
    entries = run.train(trainer, None, tmp_path / "run")
    assert [entry["step"] for entry in entries] == [1, 2]
    assert all(np.isfinite(entry["loss"]) and entry["kl"] is not None for entry in entries)
    forbidden = set(tokenizer.convert_tokens_to_ids(["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]))
    before, batch = load_thinker(published), seen[0]
    worst, least_change = 0.0, np.inf
    for i in range(len(batch["prompt_ids"])):
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()]
        completion = batch["completion_ids"][i][batch["completion_mask"][i].bool()]
        assert not set(completion.tolist()) & forbidden

        def alone(features: torch.Tensor, i: int = i, prompt: Any = prompt, completion: Any = completion) -> Any:
            ids = torch.cat([prompt, completion])[None]
            with torch.no_grad():
                logits = before(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    input_features=features[None],
                    feature_attention_mask=batch["feature_attention_mask"][i : i + 1],
                ).logits[0]
            steps = logits[-len(completion) - 1 : -1].double().log_softmax(-1)
            return steps.gather(1, completion[:, None])[:, 0]

        expected = alone(batch["input_features"][i])
        worst = max(worst, float((batch["log_probs"][i][: len(completion)] - expected).abs().max()))
        shifted = alone(batch["input_features"][i].roll(17, dims=-2))
        least_change = min(least_change, float((shifted - expected).abs().max()))
    assert worst < 1e-5
    assert least_change > 1e-4


def test_a_recording_that_breaks_while_training_is_named(processor: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF....WAVEnothing")
    messages = [{"role": "user", "content": [{"type": "audio", "path": str(broken)}, {"type": "text", "text": "?"}]}]
    with pytest.raises(TrainingError, match=r"a recording cannot be read any more: .*broken\.wav"):
        read_conversations(processor, [messages])


def test_a_recording_sounds_the_same_beside_a_longer_one(processor: Any, data: Data) -> None:
    """Features are cut to the longest of the batch; what is kept must not depend on it."""
    rows = read_rows([data("grpo")])
    _, together = read_conversations(processor, [row["messages"] for row in rows])
    for i, row in enumerate(rows):
        _, alone = read_conversations(processor, [row["messages"]])
        frames = int(alone["feature_attention_mask"].sum())
        assert int(together["feature_attention_mask"][i].sum()) == frames
        assert torch.equal(together["input_features"][i, :, :frames], alone["input_features"][0, :, :frames])
