"""The policy says exactly what the speech model says, read as a Hugging Face model and read as training reads it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from edge_emotion.prompt import Prompt
from edge_emotion_train.generate import generate
from edge_emotion_train.reinforcement.policy import (
    AUDIO_FIELDS,
    SpeechForCausalLM,
    copy_back,
    policy_of,
    policy_tokenizer,
    prompt_ids,
    register_policy,
)
from edge_emotion_train.sft import AudioInputs, SpeechLanguageModel

Make = Callable[..., SpeechLanguageModel]
Hear = Callable[..., AudioInputs]


def left_padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def inputs_of(policy: SpeechForCausalLM, tokenizer: Tokenizer, prompt: Prompt, audio: AudioInputs) -> dict:
    texts = left_padded(prompt_ids(tokenizer, prompt, policy.config.vocab_size, audio))
    return texts | {name: getattr(audio, name) for name in AUDIO_FIELDS}


def test_prompts_hold_a_placeholder_per_audio_token(tokenizer: Tokenizer, prompt: Prompt, hear: Hear) -> None:
    audio = hear([0, 1, 2])
    vocabulary = tokenizer.get_vocab_size()
    rows = prompt_ids(tokenizer, prompt, vocabulary, audio)
    assert len({len(row) for row in rows}) > 1
    for row, mask in zip(rows, audio.token_mask, strict=True):
        assert row.count(vocabulary) == int(mask.sum())
        assert tokenizer.decode([row[0], *row[-2:]], skip_special_tokens=False) == "<|audio|><|/audio|><think>"


def test_next_token_logits_are_those_of_the_speech_model(
    make_speech: Make, tokenizer: Tokenizer, prompt: Prompt, hear: Hear
) -> None:
    speech, audio = make_speech(), hear(range(8))
    policy = policy_of(speech, tokenizer, prompt)
    expected = generate(speech, tokenizer, prompt, ("anger", "fear", "neutral"), audio).first_logits
    with torch.inference_mode():
        logits = policy(**inputs_of(policy, tokenizer, prompt, audio)).logits[:, -1]
    torch.testing.assert_close(logits, torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_generation_thinks_as_the_reference_decoding_does(
    make_speech: Make, tokenizer: Tokenizer, prompt: Prompt, hear: Hear
) -> None:
    speech, audio = make_speech(), hear(range(8))
    policy = policy_of(speech, tokenizer, prompt)
    thoughts = generate(speech, tokenizer, prompt, ("anger", "fear", "neutral"), audio).reasoning
    inputs = inputs_of(policy, tokenizer, prompt, audio)
    with torch.inference_mode():
        said = policy.generate(**inputs, max_new_tokens=prompt.max_think_tokens, do_sample=False, pad_token_id=0)
    replies = policy_tokenizer(tokenizer).batch_decode(said[:, inputs["input_ids"].shape[1] :])
    assert [re.split(r"</think>|<\|end\|>", reply)[0] for reply in replies] == thoughts
    assert len(set(thoughts)) > 4  # else an audio that is not heard would go unnoticed


def test_a_prompt_without_its_audio_is_refused(
    make_speech: Make, tokenizer: Tokenizer, prompt: Prompt, hear: Hear
) -> None:
    policy = policy_of(make_speech(), tokenizer, prompt)
    texts = left_padded(prompt_ids(tokenizer, prompt, policy.config.vocab_size, hear([0])))
    with pytest.raises(ValueError, match="hold audio placeholders, so cue_values"):
        policy(**texts)


def test_the_reference_is_loaded_with_the_same_weights(
    make_speech: Make, tokenizer: Tokenizer, prompt: Prompt, hear: Hear, tmp_path: Path
) -> None:
    register_policy()
    policy = policy_of(make_speech(), tokenizer, prompt)
    policy.model.evidence.cuts.uniform_()
    policy.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, SpeechForCausalLM)
    inputs = inputs_of(policy, tokenizer, prompt, hear([1, 2]))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(**inputs).logits, policy(**inputs).logits, atol=0, rtol=0)


def test_weights_travel_to_the_policy_and_back(make_speech: Make, tokenizer: Tokenizer, prompt: Prompt) -> None:
    speech, other = make_speech(0), make_speech(1)
    copy_back(policy_of(speech, tokenizer, prompt), other)
    for (name, left), (_, right) in zip(speech.state_dict().items(), other.state_dict().items(), strict=True):
        torch.testing.assert_close(left, right, atol=0, rtol=0, msg=name)


def test_decoding_keeps_the_tags_of_the_answer_and_drops_the_end_of_text(tokenizer: Tokenizer) -> None:
    text = "I hear fast speech.</think><answer>fear</answer>"
    ids = tokenizer.encode(text + "<|end|>").ids
    assert policy_tokenizer(tokenizer).batch_decode([ids], skip_special_tokens=True) == [text]
