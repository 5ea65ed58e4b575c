"""What the model reads, and what its scores are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edge_emotion.claims import parse_claims
from edge_emotion_train.reward_model.model import UNCLAIMED, UNREAD, RewardModel, expected_scores, ordinal_loss
from edge_emotion_train.reward_model.readers import CachedAudio, CachedReader, Item
from edge_emotion_train.reward_model.training import claim_targets, predict, text_targets
from tests.reinforcement.miniature import EVIDENCE_TOKENS, SENTENCES

Hear = Callable[[int], CachedAudio]
MakeModel = Callable[..., RewardModel]


def test_the_loss_is_that_of_more_than_k() -> None:
    logits = torch.tensor([[[2.0, 0.0, -1.0, -3.0]] * 4])
    scores = torch.tensor([[1.0, 3.0, 5.0, 2.0]])
    wanted = []
    for score in (1, 3, 5, 2):
        for k, logit in zip((1, 2, 3, 4), (2.0, 0.0, -1.0, -3.0), strict=True):
            probability = 1 / (1 + np.exp(-logit))
            wanted.append(-np.log(probability if score > k else 1 - probability))
    assert ordinal_loss(logits, scores).item() == pytest.approx(np.mean(wanted), rel=1e-6)


@given(st.lists(st.floats(-30, 30), min_size=4, max_size=4), st.integers(0, 3), st.floats(0.1, 5))
def test_scores_lie_within_1_and_5_and_rise_with_every_logit(logits: list[float], place: int, more: float) -> None:
    before = expected_scores(torch.tensor(logits, dtype=torch.float64))
    logits[place] += more
    after = expected_scores(torch.tensor(logits, dtype=torch.float64))
    assert 1.0 <= before <= after <= 5.0


def test_one_text_scores_as_it_does_among_many(make_model: MakeModel, reader: CachedReader, hear: Hear) -> None:
    model = make_model()
    items: list[Item] = [(hear(i), " ".join([SENTENCES[i % 2]] * (1 + i % 3))) for i in range(8)]
    items[3] = (None, items[3][1])
    items[4] = (replace(hear(4), frames=None), items[4][1])
    together = predict(model, reader, items)
    alone = np.concatenate([predict(model, reader, [item]) for item in items])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.ptp(together, axis=0).min() > 1e-3, "the comparison has no power where all scores are alike"
    np.testing.assert_array_equal(together, predict(model, reader, items))


def test_what_is_heard_changes_the_score_and_what_is_withheld_does_not(
    make_model: MakeModel, reader: CachedReader, hear: Hear
) -> None:
    model, text = make_model(), SENTENCES[0]

    def score(audio: CachedAudio | None) -> np.ndarray:
        return predict(model, reader, [(audio, text)])[0]

    own = hear(1)
    other_frames = replace(own, frames=np.roll(np.asarray(own.frames), 1, axis=0))
    other_evidence = replace(own, heard=own.heard + 3.0)
    assert np.abs(score(other_frames) - score(own)).max() > 1e-4
    assert np.abs(score(other_evidence) - score(own)).max() > 1e-4
    assert np.abs(score(None) - score(own)).max() > 1e-4
    np.testing.assert_allclose(score(replace(own, frames=None)), score(replace(other_frames, frames=None)), atol=1e-6)


def test_the_reader_gives_a_placeholder_per_embedding(reader: CachedReader, hear: Hear, tokenizer: Tokenizer) -> None:
    batch = reader([(hear(0), "Fast."), (None, "Fast."), (replace(hear(2), frames=None), "Fast.")])
    ids, mask = batch.inputs["input_ids"], batch.inputs["token_mask"]
    placeholders = (ids == tokenizer.get_vocab_size()).sum(dim=1)
    assert placeholders.tolist() == mask.sum(dim=1).tolist()
    assert placeholders[1] == 0
    assert placeholders[2] == EVIDENCE_TOKENS < placeholders[0]


def test_a_reader_of_evidence_alone_is_deaf_to_frames(make_model: MakeModel, reader: CachedReader, hear: Hear) -> None:
    alone = replace(reader, frames=False)
    item = (hear(1), SENTENCES[0])
    withheld = (replace(hear(1), frames=None), SENTENCES[0])
    model = make_model()
    np.testing.assert_allclose(predict(model, alone, [item]), predict(model, reader, [withheld]), atol=1e-6)
    assert np.abs(predict(model, alone, [item]) - predict(model, reader, [item])).max() > 1e-4


def test_a_long_text_is_cut_and_still_ends(reader: CachedReader, hear: Hear, tokenizer: Tokenizer) -> None:
    short = replace(reader, most_tokens=6)
    batch = short([(hear(0), SENTENCES[0] * 9)])
    assert tokenizer.decode(batch.inputs["input_ids"][0, -2:].tolist(), skip_special_tokens=False) == "</think><|end|>"
    assert len(batch.offsets[0]) == 8


def test_a_claim_is_told_at_the_token_that_ends_it(reader: CachedReader, hear: Hear, tokenizer: Tokenizer) -> None:
    texts = [SENTENCES[0], "Fast speech."]
    claims = [[(claim.end, i % 2 == 0) for i, claim in enumerate(parse_claims(text))] for text in texts]
    batch = reader([(hear(i), text) for i, text in enumerate(texts)])
    targets = claim_targets(batch, claims)
    for row, text in enumerate(texts):
        places = (targets[row] != UNCLAIMED).nonzero().flatten().tolist()
        assert [bool(targets[row, place]) for place in places] == [held for _, held in claims[row]]
        begin = batch.inputs["input_ids"][row].tolist().index(tokenizer.token_to_id("<think>")) + 1
        for place, (end, _) in zip(places, claims[row], strict=True):
            said = tokenizer.decode(batch.inputs["input_ids"][row, begin : place + 1].tolist())
            assert text[:end] in said
            assert text[: end - 3] != said


def test_words_are_learned_from_unbroken_true_text_alone(
    reader: CachedReader, hear: Hear, tokenizer: Tokenizer
) -> None:
    text = SENTENCES[0]
    first, second = parse_claims(text)
    batch = reader([(hear(0), text)] * 3)
    said = [(5, [(first.end, True), (second.end, True)]), (5, [(first.end, True), (second.end, False)]), (4, [])]
    targets = text_targets(batch, said)
    learned = [tokenizer.decode([int(i) for i in row if i != UNREAD]) for row in targets]
    assert learned[0] == text
    assert learned[1] == text[: first.end] + text[second.end :]
    assert learned[2] == ""


def test_a_batch_without_claims_or_words_has_a_finite_loss(
    make_model: MakeModel, reader: CachedReader, hear: Hear
) -> None:
    batch = reader([(hear(0), "Well.")])
    shape = batch.inputs["input_ids"].shape
    nothing = {"claims": torch.full(shape, UNCLAIMED), "texts": torch.full(shape, UNREAD)}
    model = make_model(claim_weight=1.0, text_weight=1.0)
    scores = torch.tensor([[5.0, 4.0, 3.0, 1.0]])
    alone = model(**batch.inputs, scores=scores)["loss"]
    assert torch.isfinite(alone)
    assert model(**batch.inputs, scores=scores, **nothing)["loss"].item() == pytest.approx(alone.item())
