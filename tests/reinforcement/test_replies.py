"""Free replies and scores after a given reasoning agree with what the device's decoding says."""

from __future__ import annotations

import numpy as np
import torch

from edge_emotion.prompt import Prompt
from edge_emotion_train.generate import generate
from edge_emotion_train.reinforcement.prompts import WITHOUT_FRAMES, audio_of, cached_prompts
from edge_emotion_train.reinforcement.replies import free_replies, label_scores_after
from tests.reinforcement import miniature
from tests.reinforcement.miniature import EVIDENCE_TOKENS, LABELS, PROMPT, hear, make_speech, make_tokenizer


def test_scores_after_no_reasoning_are_those_of_an_answer_without_thinking() -> None:
    tokenizer = make_tokenizer()
    speech, audio = make_speech(tokenizer), hear(range(6))
    at_once = generate(speech, tokenizer, Prompt(max_think_tokens=0), LABELS, audio)
    assert set(at_once.reasoning) == {""}
    found = label_scores_after(speech, tokenizer, PROMPT, LABELS, audio, [""] * 6)
    np.testing.assert_allclose(found, at_once.label_scores, atol=1e-4)


def test_scores_do_not_depend_on_the_batch() -> None:
    tokenizer = make_tokenizer()
    speech = make_speech(tokenizer)
    texts = [miniature.SENTENCES[i % 2][: 7 * i] for i in range(6)]
    together = label_scores_after(speech, tokenizer, PROMPT, LABELS, hear(range(6)), texts)
    alone = [
        label_scores_after(speech, tokenizer, PROMPT, LABELS, hear([i]), [text])[0] for i, text in enumerate(texts)
    ]
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_scores_depend_on_the_reasoning() -> None:
    tokenizer = make_tokenizer()
    speech, audio = make_speech(tokenizer), hear(range(2))
    high, low = (label_scores_after(speech, tokenizer, PROMPT, LABELS, audio, [text] * 2)
                 for text in miniature.SENTENCES)  # fmt: skip
    assert np.abs(high - low).max() > 0.01


def test_greedy_free_replies_begin_as_the_device_would_and_do_not_depend_on_the_batch() -> None:
    tokenizer = make_tokenizer()
    speech = make_speech(tokenizer)
    together = free_replies(speech, tokenizer, PROMPT, hear(range(6)), 10)
    alone = [free_replies(speech, tokenizer, PROMPT, hear([i]), 10)[0] for i in range(6)]
    assert together == alone
    said = generate(speech, tokenizer, PROMPT, LABELS, hear(range(6))).reasoning
    assert all(reply.removeprefix("<think>").startswith(text) for reply, text in zip(together, said, strict=True))


def test_sampling_follows_its_seed() -> None:
    tokenizer = make_tokenizer()
    speech, audio = make_speech(tokenizer), hear(range(6))
    first, same, other = (free_replies(speech, tokenizer, PROMPT, audio, 10, 1.0, seed) for seed in (1, 1, 2))
    assert first == same != other


def test_a_prompt_without_frames_holds_the_evidence_alone() -> None:
    tokenizer, features = make_tokenizer(), miniature.make_features()
    keys = {row.clip: i for i, row in enumerate(features.rows)}
    read = cached_prompts(features, *miniature.make_evidence(), keys, tokenizer, PROMPT, EVIDENCE_TOKENS)
    clip = features.rows[0].clip
    ids, fields = read([clip, clip + WITHOUT_FRAMES])
    placeholder = tokenizer.get_vocab_size()
    assert ids[1].count(placeholder) == EVIDENCE_TOKENS < ids[0].count(placeholder)
    assert torch.equal(fields["token_mask"].sum(dim=1), torch.tensor([row.count(placeholder) for row in ids]))
    heard = audio_of(features, *miniature.make_evidence(), [0], EVIDENCE_TOKENS)
    assert torch.equal(fields["cue_values"][0], heard.cue_values[0])
    assert torch.equal(fields["cue_values"][1], heard.cue_values[0])
