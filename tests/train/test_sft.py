"""Supervised training: the loss, what is withheld, and that it learns and repeats itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from tokenizers import Tokenizer

from edge_emotion.prompt import Prompt
from edge_emotion_train.explanations import Explanation
from edge_emotion_train.features import FeatureSet
from edge_emotion_train.sft import (
    FRAME_WORD_WEIGHT,
    AudioInputs,
    Collator,
    ExplanationDataset,
    SpeechLanguageModel,
    pad_frames,
    position_ids,
    tokenise,
    train_language_model,
)

EVIDENCE_TOKENS = 3
Make = Callable[..., SpeechLanguageModel]


@pytest.fixture
def dataset(
    tiny_features: FeatureSet, explanations: list[list[Explanation]], tokenizer: Tokenizer, prompt: Prompt
) -> ExplanationDataset:
    rng = np.random.default_rng(2)
    return ExplanationDataset(
        tiny_features, rng.normal(size=(8, 2)), rng.normal(size=(8, 3)), explanations, tokenizer, prompt, 8.0
    )


def make_collator(
    tokenizer: Tokenizer, prompt: Prompt, frames_dropped: float = 0.0, evidence_dropped: float = 0.0
) -> Collator:
    before_ids = tokenizer.encode(prompt.before_audio).ids
    return Collator(before_ids, EVIDENCE_TOKENS, frames_dropped, evidence_dropped)


def test_tokens_that_state_a_cue_or_answer_weigh_most(tokenizer: Tokenizer, prompt: Prompt) -> None:
    text = "I hear a high pitch and a fast rate."
    begin = text.index("a high")
    explanation = Explanation(text, "fear", ((begin, begin + len("a high pitch")),))
    ids, weights = tokenise(explanation, tokenizer, prompt)
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
    ids, weights = tokenise(Explanation("I hear a high pitch.", None, ()), tokenizer, prompt)
    end = tokenizer.encode(prompt.answer_open).ids
    assert ids[-len(end) :] == end
    assert weights[-len(end) :] == [1.0, 0.0]


def test_dataset_leaves_out_rows_without_texts_and_long_ones(
    tiny_features: FeatureSet, explanations: list[list[Explanation]], tokenizer: Tokenizer, prompt: Prompt
) -> None:
    limit = sorted(row.duration_s for row in tiny_features.rows)[5]
    zeros = np.zeros((8, 2)), np.zeros((8, 3))
    kept = ExplanationDataset(tiny_features, *zeros, explanations, tokenizer, prompt, limit)
    expected = [i for i, row in enumerate(tiny_features.rows) if row.duration_s <= limit and explanations[i]]
    assert kept.indices == expected
    sample = kept[0]
    start, end = tiny_features.offsets[expected[0] : expected[0] + 2]
    np.testing.assert_array_equal(sample["frames"].numpy(), tiny_features.frames[start:end].transpose(1, 0, 2))


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
    dataset: ExplanationDataset,
    speech_model: Make,
    tokenizer: Tokenizer,
    prompt: Prompt,
    frames_dropped: float,
    evidence_dropped: float,
) -> None:
    """Padding and withheld tokens change nothing: the same as sequences in which they do not exist."""
    model = speech_model()
    torch.manual_seed(3)
    samples = [dataset[i] for i in range(5)]
    batch = make_collator(tokenizer, prompt, frames_dropped, evidence_dropped)(samples)
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
    dataset: ExplanationDataset, speech_model: Make, tokenizer: Tokenizer, prompt: Prompt
) -> None:
    model = speech_model()
    torch.manual_seed(0)
    batch = make_collator(tokenizer, prompt, frames_dropped=1.0)([dataset[0], dataset[1]])
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
    dataset: ExplanationDataset, tokenizer: Tokenizer, prompt: Prompt
) -> None:
    torch.manual_seed(0)
    collator = make_collator(tokenizer, prompt, frames_dropped=0.5, evidence_dropped=0.5)
    for _ in range(40):
        assert collator([dataset[i] for i in range(5)])["inputs"].token_mask.any(dim=1).all()


def test_share_of_withheld_samples_is_as_asked_for(
    dataset: ExplanationDataset, tokenizer: Tokenizer, prompt: Prompt
) -> None:
    torch.manual_seed(0)
    collator = make_collator(tokenizer, prompt, frames_dropped=0.5, evidence_dropped=0.2)
    mask = torch.cat([collator([dataset[0]] * 100)["inputs"].token_mask for _ in range(20)])
    assert (~mask[:, EVIDENCE_TOKENS]).float().mean() == pytest.approx(0.5, abs=0.05)
    assert (~mask[:, 0]).float().mean() == pytest.approx(0.2, abs=0.04)


def test_a_batch_moves_to_another_device(dataset: ExplanationDataset, tokenizer: Tokenizer, prompt: Prompt) -> None:
    """Trainer moves batches through accelerate, which would leave an object it does not know where it is."""
    batch = send_to_device(make_collator(tokenizer, prompt)([dataset[0]]), "meta")
    assert batch["inputs"].frames.device.type == batch["inputs"].token_mask.device.type == "meta"
    assert batch["text_ids"].device.type == "meta"


def train(
    dataset: ExplanationDataset, model: SpeechLanguageModel, collator: Collator, folder: Path, steps: int, seed: int = 5
) -> list[dict[str, float]]:
    return train_language_model(
        model, dataset, collator, folder, steps=steps, batch_size=4, learning_rate=3e-3, seed=seed
    )


def loss_of(model: SpeechLanguageModel, dataset: ExplanationDataset, collator: Collator) -> float:
    torch.manual_seed(0)
    with torch.inference_mode():
        return float(model.eval()(**collator([dataset[i] for i in range(len(dataset))]))["loss"])


def test_thirty_steps_lower_the_loss(
    dataset: ExplanationDataset,
    speech_model: Make,
    tokenizer: Tokenizer,
    prompt: Prompt,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, collator = speech_model(spread=0.05), make_collator(tokenizer, prompt)
    before = loss_of(model, dataset, collator)
    history = train(dataset, model, collator, tmp_path, 30)
    assert loss_of(model, dataset, collator) < 0.5 * before
    assert [entry["step"] for entry in history if "loss" in entry] == [25]
    assert capsys.readouterr().out == ""


def test_a_seed_gives_the_same_model_again(
    dataset: ExplanationDataset, speech_model: Make, tokenizer: Tokenizer, prompt: Prompt, tmp_path: Path
) -> None:
    collator = make_collator(tokenizer, prompt, 0.5, 0.2)
    weights = []
    for seed in (5, 5, 6):
        model = speech_model()
        train(dataset, model, collator, tmp_path, 4, seed)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    assert not torch.equal(weights[0], weights[2])
