"""The big model's path: a tiny random Qwen2.5-Omni thinker is trained by supervision, then by the same GRPO trainer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast, Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from edge_emotion_train.omni import ConversationCollator, audio_token_ids, grpo_rows, lora, omni_processor, sft_trainer
from edge_emotion_train.reasoning import CueEmotionTable
from edge_emotion_train.reinforcement.prompts import processor_prompts
from edge_emotion_train.reinforcement.rewards import Heard
from edge_emotion_train.reinforcement.run import train, trainer_of
from edge_emotion_train.reinforcement.trainer import PtrGrpoTrainer, TrainingError
from edge_emotion_train.tokenizer import train_tokenizer
from tests.reinforcement.miniature import LABELS, SENTENCES, THRESHOLDS, make_config

TOKENS = ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|im_start|>", "<|im_end|>", "<|image|>", "<|vision_start|>")
QUESTION = "Which emotion does this voice carry, and why?"


@pytest.fixture(scope="module")
def processor() -> Any:
    own = train_tokenizer([*SENTENCES, *LABELS, QUESTION, "user assistant"] * 8, 400)
    own.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in TOKENS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own, eos_token="<|im_end|>", pad_token="<|end|>", clean_up_tokenization_spaces=False
    )
    return omni_processor(tokenizer, longest_s=2)


@pytest.fixture
def thinker(processor: Any) -> Any:
    torch.manual_seed(0)
    ids = dict(zip(TOKENS, processor.tokenizer.convert_tokens_to_ids(list(TOKENS)), strict=True))
    config = Qwen2_5OmniThinkerConfig(
        audio_config={"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64,
                      "num_mel_bins": 128, "output_dim": 48, "n_window": 100},
        vision_config={"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 48,
                       "fullatt_block_indexes": [0]},
        text_config={"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
                     "num_key_value_heads": 1, "vocab_size": len(processor.tokenizer),
                     "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 4, 4]}},
        audio_token_id=ids["<|AUDIO|>"],
        audio_start_token_id=ids["<|audio_bos|>"],
        audio_end_token_id=ids["<|audio_eos|>"],
        image_token_id=ids["<|image|>"],
        video_token_id=ids["<|vision_start|>"],
        vision_start_token_id=ids["<|vision_start|>"],
    )  # fmt: skip
    model = Qwen2_5OmniThinkerForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.12)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    return model


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Six recordings of 0.5 to 1.4 s with question and answer."""
    folder = tmp_path_factory.mktemp("omni")
    rng = np.random.default_rng(0)
    written = []
    for i in range(6):
        time = np.arange(round(16000 * (0.5 + 0.18 * i))) / 16000
        sound = 0.2 * np.sin(2 * np.pi * (120 + 60 * i) * time) + 0.01 * rng.normal(size=len(time))
        path = folder / f"{i}.wav"
        soundfile.write(path, sound, 16000)
        label = LABELS[i % 3]
        audio = {"type": "audio", "path": str(path)}
        answer = f"<think>{SENTENCES[i % 2]}</think><answer>{label}</answer>"
        written.append({
            "id": f"clip{i}", "emotion": label,
            "messages": [{"role": "user", "content": [audio, {"type": "text", "text": QUESTION}]},
                         {"role": "assistant", "content": [{"type": "text", "text": answer}]}],
        })  # fmt: skip
    return written


def test_supervised_loss_is_that_of_the_answer_alone(
    thinker: Any, processor: Any, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    batch = ConversationCollator(processor)(rows[:3])
    learned = processor.tokenizer.decode(batch["labels"][0][batch["labels"][0] >= 0])
    assert learned == f"<think>{SENTENCES[0]}</think><answer>anger</answer><|im_end|>"
    before = copy.deepcopy(thinker)
    trainer = sft_trainer(thinker, processor, rows[:3], tmp_path, steps=6, batch_size=3, learning_rate=3e-3)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
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


@pytest.mark.parametrize("rank", [0, 4], ids=["all weights", "LoRA"])
def test_grpo_scores_what_the_thinker_heard(
    thinker: Any, processor: Any, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: Any, rank: int
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
    prompts = grpo_rows([row | {"messages": row["messages"][:1]} for row in rows])
    before = copy.deepcopy(thinker)
    trainer = trainer_of(
        thinker,
        processor.tokenizer,
        processor_prompts(processor),
        prompts,
        {row["id"]: Heard({"pitch": 3.0 * i}, THRESHOLDS) for i, row in enumerate(rows)},
        CueEmotionTable().fit([{"pitch": "high"}, {"pitch": "medium"}, {"pitch": "low"}], list(LABELS)),
        LABELS,
        make_config(tmp_path / "paths"),
        tmp_path / "run",
        opening="",
        max_completion_tokens=6,
        generation={"suppress_tokens": audio_token_ids(processor)},
        peft_config=lora(rank) if rank else None,
    )
    entries = train(trainer, None, tmp_path / "run")
    assert [entry["step"] for entry in entries] == [1, 2]
    assert all(np.isfinite(entry["loss"]) and entry["kl"] is not None for entry in entries)
    batch = seen[0]
    worst, least_change = 0.0, np.inf
    for i in range(len(batch["prompt_ids"])):
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()]
        completion = batch["completion_ids"][i][batch["completion_mask"][i].bool()]
        assert not set(completion.tolist()) & set(audio_token_ids(processor))

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


def test_a_corrupt_recording_is_named(processor: Any, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF....WAVEnothing")
    messages = [{"role": "user", "content": [{"type": "audio", "path": str(broken)}, {"type": "text", "text": "?"}]}]
    with pytest.raises(TrainingError, match=r"a recording of this batch cannot be read .*broken\.wav"):
        processor_prompts(processor)([messages, rows[0]["messages"][:1]])
