"""The reference decoding: batches against single clips, and cached scores against plain forward passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from edge_emotion.prompt import Prompt
from edge_emotion_train.features import FeatureSet
from edge_emotion_train.generate import Generated, generate
from edge_emotion_train.sft import AudioInputs, SpeechLanguageModel, pad_frames
from edge_emotion_train.tokenizer import TAGS

LABELS = ("anger", "fear", "neutral")
Make = Callable[..., SpeechLanguageModel]


def inputs_of(features: FeatureSet, indices: Sequence[int]) -> AudioInputs:
    rng = np.random.default_rng(7)
    cue_values, emotion_logits = rng.normal(size=(8, 2)), 3 * rng.normal(size=(8, 3))
    pieces = [
        torch.from_numpy(np.array(features.frames[features.offsets[i] : features.offsets[i + 1]]))
        .float()
        .transpose(0, 1)
        for i in indices
    ]
    frames, mask = pad_frames(pieces, 3)
    return AudioInputs(
        torch.from_numpy(cue_values[list(indices)]).float(),
        torch.from_numpy(emotion_logits[list(indices)]).float(),
        frames,
        mask,
    )


@pytest.fixture
def model(speech_model: Make, tokenizer: Tokenizer) -> SpeechLanguageModel:
    """A random model that says `</think>` now and then, so that thoughts have different lengths."""
    model = speech_model()
    embeddings = model.language_model.get_input_embeddings().weight
    with torch.no_grad():
        embeddings[tokenizer.token_to_id("</think>")] *= 2.5
    return model


def say(model: SpeechLanguageModel, tokenizer: Tokenizer, prompt: Prompt, inputs: AudioInputs) -> Generated:
    return generate(model, tokenizer, prompt, LABELS, inputs)


def test_a_batch_says_what_each_clip_alone_says(
    model: SpeechLanguageModel, tokenizer: Tokenizer, prompt: Prompt, tiny_features: FeatureSet
) -> None:
    batch = say(model, tokenizer, prompt, inputs_of(tiny_features, range(8)))
    lengths = {len(tokenizer.encode(text).ids) for text in batch.reasoning}
    assert len(lengths) > 2  # else nothing here tests thoughts that end early
    for i in range(8):
        alone = say(model, tokenizer, prompt, inputs_of(tiny_features, [i]))
        assert alone.reasoning == [batch.reasoning[i]]
        np.testing.assert_allclose(alone.label_scores[0], batch.label_scores[i], atol=1e-4)
        np.testing.assert_allclose(alone.first_logits[0], batch.first_logits[i], atol=1e-4)


@torch.inference_mode()
def naive(
    model: SpeechLanguageModel, tokenizer: Tokenizer, prompt: Prompt, inputs: AudioInputs
) -> tuple[list[int], list[float], np.ndarray]:
    """Thought, label scores and first logits of one clip; every step a full forward pass without a cache."""

    def logits(text: Sequence[int]) -> torch.Tensor:
        before = torch.tensor([tokenizer.encode(prompt.before_audio).ids])
        after = torch.tensor([[*tokenizer.encode(prompt.after_audio).ids, *text]])
        return model.language_model(inputs_embeds=model.embed(before, inputs, after)).logits[0]

    thought: list[int] = []
    stops = {tokenizer.token_to_id(tag) for tag in ("</think>", TAGS[-1])}
    while len(thought) < prompt.max_think_tokens:
        token = int(logits(thought)[-1].argmax())
        if token in stops:
            break
        thought.append(token)
    opening = tokenizer.encode(prompt.answer_open).ids
    scores = []
    for label in LABELS:
        answer = tokenizer.encode(label + prompt.answer_close).ids
        steps = logits([*thought, *opening, *answer])[-len(answer) - 1 : -1].double().log_softmax(dim=-1)
        scores.append(float(steps[range(len(answer)), answer].sum()))
    return thought, scores, logits([])[-1].numpy()


def test_cached_decoding_equals_full_forward_passes(
    model: SpeechLanguageModel, tokenizer: Tokenizer, prompt: Prompt, tiny_features: FeatureSet
) -> None:
    for i in range(6):
        inputs = inputs_of(tiny_features, [i])
        thought, scores, first_logits = naive(model, tokenizer, prompt, inputs)
        said = say(model, tokenizer, prompt, inputs)
        assert said.reasoning == [tokenizer.decode(thought, skip_special_tokens=False)]
        np.testing.assert_allclose(said.label_scores[0], scores, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(said.first_logits[0], first_logits, rtol=1e-5, atol=1e-5)


def test_thinking_ends_at_the_budget(speech_model: Make, tokenizer: Tokenizer, tiny_features: FeatureSet) -> None:
    model = speech_model()
    long, short = (
        say(model, tokenizer, Prompt(max_think_tokens=most), inputs_of(tiny_features, [0])) for most in (9, 4)
    )
    assert long.reasoning[0].startswith(short.reasoning[0].rstrip("\ufffd"))
    assert len(short.reasoning[0]) < len(long.reasoning[0])


@pytest.mark.parametrize("tag", ["</think>", "<|end|>"])
def test_stop_tokens_end_the_thinking_at_once(
    speech_model: Make, tokenizer: Tokenizer, prompt: Prompt, tiny_features: FeatureSet, tag: str
) -> None:
    """As on the device: the end-of-text token ends a thought as well as `</think>` does."""
    model, inputs = speech_model(), inputs_of(tiny_features, [0])
    first = say(model, tokenizer, prompt, inputs).first_logits[0].argmax()
    embeddings = model.language_model.get_input_embeddings().weight
    with torch.no_grad():
        embeddings[tokenizer.token_to_id(tag)] = 1.5 * embeddings[int(first)]
    assert say(model, tokenizer, prompt, inputs).reasoning == [""]


def test_a_think_text_of_no_tokens_is_allowed(
    model: SpeechLanguageModel, tokenizer: Tokenizer, tiny_features: FeatureSet
) -> None:
    said = say(model, tokenizer, Prompt(max_think_tokens=0), inputs_of(tiny_features, [0, 1]))
    assert said.reasoning == ["", ""]
    assert said.label_scores.shape == (2, 3)
    assert (said.label_scores < 0).all()
