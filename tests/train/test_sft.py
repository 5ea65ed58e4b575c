"""Supervised training: the loss, what is withheld, and that it learns and repeats itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from tokenizers import Tokenizer
from transformers import TrainerCallback

from edge_emotion.prompt import Prompt
from edge_emotion_train.explanations import Explanation
from edge_emotion_train.features import FeatureSet
from edge_emotion_train.sft import (
    FRAME_WORD_WEIGHT,
    AudioInputs,
    Collator,
    DrawnExamples,
    Example,
    SpeechLanguageModel,
    explanation_examples,
    frames_of,
    last_checkpoint,
    pad_frames,
    position_ids,
    text_examples,
    tokenise,
    train_language_model,
)

EVIDENCE_TOKENS = 3
Make = Callable[..., SpeechLanguageModel]


@pytest.fixture
def examples(
    tiny_features: FeatureSet, explanations: list[list[Explanation]], tokenizer: Tokenizer, prompt: Prompt
) -> list[Example]:
    rng = np.random.default_rng(2)
    return explanation_examples(
        tiny_features, rng.normal(size=(8, 2)), rng.normal(size=(8, 3)), explanations, tokenizer, prompt, 8.0
    )


def draw(examples: list[Example], samples: int, seed: int = 3, **dropped: Any) -> DrawnExamples:
    return DrawnExamples({"reasoning": examples}, {"reasoning": 1.0}, samples, seed, **dropped)


def batch_of(examples: list[Example], tokenizer: Tokenizer, prompt: Prompt, samples: int = 5, **dropped: Any) -> dict:
    dataset = draw(examples, samples, **dropped)
    return make_collator(tokenizer, prompt)([dataset[i] for i in range(samples)])


def make_collator(tokenizer: Tokenizer, prompt: Prompt) -> Collator:
    return Collator(tokenizer.encode(prompt.before_audio).ids, EVIDENCE_TOKENS)


def test_tokens_that_state_a_cue_or_answer_weigh_most(tokenizer: Tokenizer, prompt: Prompt) -> None:
    text = "I hear a high pitch and a fast rate."
    begin = text.index("a high")
    explanation = Explanation(text, "fear", ((begin, begin + len("a high pitch")),))
    text_ids = tokenise(explanation, tokenizer, prompt)
    ids, weights = text_ids.ids, text_ids.weights
    assert tokenizer.decode(ids, skip_special_tokens=False) == prompt.after_audio + prompt.completion(text, "fear")
    assert len(ids) == len(weights)
    pieces: dict[float, str] = {}
    for token, weight in zip(ids, weights, strict=True):
        pieces[weight] = pieces.get(weight, "") + tokenizer.decode([token], skip_special_tokens=False)
    assert pieces[0.0] == prompt.after_audio
    assert pieces[1.0] == " a high pitch" + prompt.answer_open
    assert pieces[2.0] == "fear" + prompt.answer_close
    assert pieces[FRAME_WORD_WEIGHT] == "I hear and a fast rate."


def test_a_text_without_answer_teaches_to_stop_and_nothing_after(tokenizer: Tokenizer, prompt: Prompt) -> None:
    text = tokenise(Explanation("I hear a high pitch.", None, ()), tokenizer, prompt)
    ids, weights = text.ids, text.weights
    end = tokenizer.encode(prompt.answer_open).ids
    assert ids[-len(end) :] == end
    assert weights[-len(end) :] == [1.0, 0.0]


def test_examples_leave_out_rows_without_texts_and_long_ones(
    tiny_features: FeatureSet, explanations: list[list[Explanation]], tokenizer: Tokenizer, prompt: Prompt
) -> None:
    limit = sorted(row.duration_s for row in tiny_features.rows)[5]
    zeros = np.zeros((8, 2)), np.zeros((8, 3))
    kept = explanation_examples(tiny_features, *zeros, explanations, tokenizer, prompt, limit)
    expected = [i for i, row in enumerate(tiny_features.rows) if row.duration_s <= limit and explanations[i]]
    assert [example.row for example in kept] == expected
    start, end = tiny_features.offsets[expected[0] : expected[0] + 2]
    heard = frames_of(tiny_features, expected[0])
    np.testing.assert_array_equal(heard.numpy(), tiny_features.frames[start:end].transpose(1, 0, 2))


def test_frames_can_be_heard_in_another_order(tiny_features: FeatureSet) -> None:
    whole = frames_of(tiny_features, 3)
    last = whole.shape[1]
    turned = frames_of(tiny_features, 3, ((4, last), (0, 4)))
    torch.testing.assert_close(turned, torch.cat([whole[:, 4:], whole[:, :4]], dim=1), rtol=0, atol=0)


def test_groups_are_drawn_by_their_shares_and_each_example_as_often_as_any_other(examples: list[Example]) -> None:
    groups = {"first": examples[:4], "second": examples[4:], "unused": examples, "empty": []}
    shares = {"first": 3.0, "second": 1.0, "unused": 0.0, "empty": 9.0}
    drawn = DrawnExamples(groups, shares, 2000, seed=1)
    names = [name for name, _ in drawn.order]
    assert names.count("first") / 2000 == pytest.approx(0.75, abs=0.03)
    assert set(names) == {"first", "second"}
    counts = [drawn.order.count(("first", i)) for i in range(4)]
    assert max(counts) - min(counts) <= 1
    assert drawn.order == DrawnExamples(groups, shares, 2000, seed=1).order
    with pytest.raises(ValueError, match="no examples in groups"):
        DrawnExamples(groups, {"empty": 1.0}, 5, seed=1)


def test_samples_of_one_length_come_together(examples: list[Example]) -> None:
    alike, mixed = draw(examples, 512, batch_size=8), draw(examples, 512)
    assert sorted(alike.order) == sorted(mixed.order)

    def padded(dataset: DrawnExamples) -> int:
        lengths = [dataset[i]["frames"].shape[1] for i in range(512)]
        return sum(8 * max(lengths[first : first + 8]) for first in range(0, 512, 8))

    assert padded(alike) < 0.85 * padded(mixed)


def test_a_sample_does_not_depend_on_those_before_it(examples: list[Example]) -> None:
    """So that a run which resumes hears the same as one that was never cut off."""
    forward, backward = draw(examples, 30, frames_dropped=0.5), draw(examples, 30, frames_dropped=0.5)
    seen = {i: (forward[i]["ids"], forward[i]["hears_frames"]) for i in range(30)}
    assert {i: (backward[i]["ids"], backward[i]["hears_frames"]) for i in reversed(range(30))} == seen
    assert len({str(ids) for ids, _ in seen.values()}) > 6


def test_without_audio_the_answer_counts_and_no_cue_more_than_another_word(
    examples: list[Example], tokenizer: Tokenizer, prompt: Prompt
) -> None:
    texts = text_examples(examples)
    assert len(texts) == len(examples) - 1  # the one without an answer is left out
    batch = batch_of(texts, tokenizer, prompt)
    assert not batch["inputs"].token_mask.any()
    weights = {weight for example in texts for text in example.texts for weight in text.weights}
    assert weights == {0.0, FRAME_WORD_WEIGHT, 2.0}


def logits_of_one(model: SpeechLanguageModel, batch: dict, i: int, ids: list[int]) -> np.ndarray:
    """Logits after each text token of row `i`, in a sequence that holds only what is there."""
    before, inputs = batch["before_ids"], batch["inputs"]
    row = AudioInputs(*(part[i : i + 1] for part in vars(inputs).values()))
    text = torch.ones(1, len(ids), dtype=torch.bool)
    there = torch.cat([torch.ones_like(before, dtype=torch.bool), row.token_mask, text], dim=1)[0]
    logits = model.language_model(inputs_embeds=model.embed(before, row, torch.tensor([ids]))[:, there]).logits[0]
    return logits[-len(ids) :].double().numpy()


@pytest.mark.parametrize(("frames_dropped", "evidence_dropped"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.4)])
def test_loss_is_the_weighted_cross_entropy_of_each_clip_by_itself(
    examples: list[Example],
    speech_model: Make,
    tokenizer: Tokenizer,
    prompt: Prompt,
    frames_dropped: float,
    evidence_dropped: float,
) -> None:
    """Padding and withheld tokens change nothing: the same as sequences in which they do not exist."""
    model = speech_model()
    dataset = draw(examples, 5, frames_dropped=frames_dropped, evidence_dropped=evidence_dropped)
    samples = [dataset[i] for i in range(5)]
    batch = make_collator(tokenizer, prompt)(samples)
    mask = batch["inputs"].token_mask
    assert mask[:, :EVIDENCE_TOKENS].any() == (evidence_dropped < 1)
    assert mask[:, EVIDENCE_TOKENS:].any() == (frames_dropped < 1)
    total = weight_sum = 0.0
    with torch.inference_mode():
        loss = float(model(**batch)["loss"])
        for i, sample in enumerate(samples):
            ids, weights = sample["ids"], sample["weights"]
            logits = logits_of_one(model, batch, i, ids)
            log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            for place in range(len(ids) - 1):
                total -= weights[place + 1] * log_probabilities[place, ids[place + 1]]
                weight_sum += weights[place + 1]
    assert loss == pytest.approx(total / weight_sum, rel=1e-5)


def test_what_stands_under_the_mask_does_not_matter(
    examples: list[Example], speech_model: Make, tokenizer: Tokenizer, prompt: Prompt
) -> None:
    model = speech_model()
    batch = batch_of(examples, tokenizer, prompt, frames_dropped=1.0)
    inputs = batch["inputs"]
    noise = AudioInputs(inputs.cue_values, inputs.emotion_logits, inputs.frames + 5.0, inputs.token_mask)
    with torch.inference_mode():
        before, after = model(**batch)["loss"], model(**batch | {"inputs": noise})["loss"]
    torch.testing.assert_close(before, after)


def test_positions_count_only_what_is_there() -> None:
    mask = torch.tensor([[1, 0, 0, 1, 1], [1, 1, 1, 1, 0]], dtype=torch.bool)
    assert position_ids(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 3]]


def test_padding_gives_whole_tokens() -> None:
    frames, mask = pad_frames([torch.ones(2, 5, 16), torch.ones(2, 8, 16), torch.ones(2, 1, 16)], EVIDENCE_TOKENS)
    assert frames.shape == (3, 2, 8, 16)
    assert mask.sum(dim=1).tolist() == [EVIDENCE_TOKENS + tokens for tokens in (2, 2, 1)]
    assert frames[0, :, 5:].abs().max() == 0.0


def test_audio_and_evidence_are_never_withheld_together(
    examples: list[Example], tokenizer: Tokenizer, prompt: Prompt
) -> None:
    batch = batch_of(examples, tokenizer, prompt, 200, frames_dropped=0.5, evidence_dropped=0.5)
    assert batch["inputs"].token_mask.any(dim=1).all()


def test_share_of_withheld_samples_is_as_asked_for(
    examples: list[Example], tokenizer: Tokenizer, prompt: Prompt
) -> None:
    mask = batch_of(examples, tokenizer, prompt, 2000, frames_dropped=0.5, evidence_dropped=0.2)["inputs"].token_mask
    assert (~mask[:, EVIDENCE_TOKENS]).float().mean() == pytest.approx(0.5, abs=0.05)
    assert (~mask[:, 0]).float().mean() == pytest.approx(0.2, abs=0.04)


def test_a_batch_moves_to_another_device(examples: list[Example], tokenizer: Tokenizer, prompt: Prompt) -> None:
    """Trainer moves batches through accelerate, which would leave an object it does not know where it is."""
    batch = send_to_device(batch_of(examples, tokenizer, prompt, 1), "meta")
    assert batch["inputs"].frames.device.type == batch["inputs"].token_mask.device.type == "meta"
    assert batch["text_ids"].device.type == "meta"


def train(
    examples: list[Example],
    model: SpeechLanguageModel,
    collator: Collator,
    folder: Path,
    steps: int,
    seed: int = 5,
    **options: Any,
) -> list[dict[str, float]]:
    dataset = draw(examples, 4 * steps, seed, frames_dropped=0.5, evidence_dropped=0.2)
    return train_language_model(
        model, dataset, collator, folder, steps=steps, batch_size=4, learning_rate=3e-3, seed=seed, **options
    )


def loss_of(model: SpeechLanguageModel, examples: list[Example], collator: Collator) -> float:
    dataset = draw(examples, 2 * len(examples))
    with torch.inference_mode():
        return float(model.eval()(**collator([dataset[i] for i in range(len(dataset))]))["loss"])


def weights_of(model: SpeechLanguageModel) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_thirty_steps_lower_the_loss(
    examples: list[Example],
    speech_model: Make,
    tokenizer: Tokenizer,
    prompt: Prompt,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, collator = speech_model(spread=0.05), make_collator(tokenizer, prompt)
    before = loss_of(model, examples, collator)
    history = train(examples, model, collator, tmp_path, 30)
    assert loss_of(model, examples, collator) < 0.5 * before
    assert [entry["step"] for entry in history if "loss" in entry] == [25]
    assert capsys.readouterr().out == ""


def test_a_seed_gives_the_same_model_again(
    examples: list[Example], speech_model: Make, tokenizer: Tokenizer, prompt: Prompt, tmp_path: Path
) -> None:
    collator = make_collator(tokenizer, prompt)
    weights = []
    for seed in (5, 5, 6):
        model = speech_model()
        train(examples, model, collator, tmp_path, 4, seed)
        weights.append(weights_of(model))
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    assert not torch.equal(weights[0], weights[2])


class PullThePlugError(Exception):
    """The machine goes down."""


class PullThePlug(TrainerCallback):
    """Stops a run as nothing else can be sure to: in the middle of a step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 5:
            raise PullThePlugError


def test_a_run_that_is_cut_off_and_resumed_ends_at_the_same_weights(
    examples: list[Example], speech_model: Make, tokenizer: Tokenizer, prompt: Prompt, tmp_path: Path
) -> None:
    collator, whole, cut = make_collator(tokenizer, prompt), speech_model(), speech_model()
    train(examples, whole, collator, tmp_path / "whole", 8, save_every=2)
    with pytest.raises(PullThePlugError):
        train(examples, cut, collator, tmp_path / "cut", 8, save_every=2, callbacks=[PullThePlug()])
    newest = last_checkpoint(tmp_path / "cut")
    assert newest is not None
    assert newest.name == "checkpoint-4"
    half = tmp_path / "cut" / "checkpoint-6"  # what a kill leaves while a checkpoint is written
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    resumed = speech_model(seed=9)
    train(examples, resumed, collator, tmp_path / "cut", 8, save_every=2)
    torch.testing.assert_close(weights_of(resumed), weights_of(whole), rtol=0, atol=0)
    finished = speech_model(seed=9)
    train(examples, finished, collator, tmp_path / "cut", 8, save_every=2)
    torch.testing.assert_close(weights_of(finished), weights_of(whole), rtol=0, atol=0)
