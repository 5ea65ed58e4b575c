"""The reward model: a speech language model's body with a head over its statements and ordinal scores.

EmotionThinker's reward model (arXiv 2601.15668) writes its four scores as JSON. A head reads them from the hidden
state after the last token instead: one forward pass in place of some forty, never an answer that cannot be parsed, the
same value each time, and scores between the whole numbers, which a policy can climb. Per dimension there are four
logits, "more than 1" to "more than 4"; the score is 1 plus the sum of their probabilities (Frank & Hall, 2001), so that
to mistake 5 for 1 costs more than to mistake it for 4.

Four scores are little to learn from, and whether a text is good is a question to each of its statements. So a second
head tells of each statement how likely it is to hold, from what is stated (a cue and its level, as the claim parser
reads them, or an emotion) and the mean state over the recording. Alignment and interpretation are read from what that
head says and from nothing else: with the last token's state, which knows that a text is broken or praises itself,
nano's judge paid for both, since in training such texts are as true as what they were made of. Completeness and fluency
are read from that state too. Whether statements hold is told in training alone. (The state where a claim ends, in place
of its cue and level, was tried on nano: after 150 steps it told true from false little better than chance, since that
state is about what comes next.) In training, too, the next word is predicted where a text is unbroken and true.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edge_emotion.cues import CUES
from edge_emotion.labels import EMOTIONS
from edge_emotion_train.reinforcement.rewards import DIMENSIONS

STEPS = 4  # between the scores 1..5
UNCLAIMED = -1.0
UNREAD = -100
WIDTH = 128  # of what a statement and a recording are compared in
# What can be stated: levels of cues first, then emotions.
LEVELS = tuple((cue.name, level) for cue in CUES for level in cue.levels)
STATEMENTS = {stated: index for index, stated in enumerate((*LEVELS, *EMOTIONS))}
UNSTATED = -1
SUMMARY = 6  # numbers about the statements of a text, see `summary`


class RewardModel(nn.Module):
    """A body with the two heads.

    Args:
        body: A decoder of transformers that gives `last_hidden_state`: nano's `SpeechModel`, or the model inside
            Qwen2.5-Omni's thinker.
        hidden_size: Width of its hidden states.
        claim_weight: Weight of the claims' loss beside the scores'.
        text_weight: Weight of the next word's loss; the body's embeddings are its output layer.
    """

    def __init__(self, body: nn.Module, hidden_size: int, claim_weight: float = 1.0, text_weight: float = 0.0) -> None:
        super().__init__()
        self.body = body
        self.truth_head = nn.Sequential(nn.Linear(SUMMARY, 32), nn.GELU(), nn.Linear(32, 2 * STEPS))
        self.text_head = nn.Linear(hidden_size + SUMMARY, (len(DIMENSIONS) - 2) * STEPS)
        self.statement_words = nn.Embedding(len(STATEMENTS), WIDTH)
        self.statement_sound = nn.Linear(hidden_size, WIDTH)
        self.statement_head = nn.Sequential(nn.GELU(), nn.Linear(WIDTH, 1))
        self.claim_weight = claim_weight
        self.text_weight = text_weight

    def forward(
        self,
        attention_mask: Tensor,
        heard: Tensor,
        stated: Tensor,
        scores: Tensor | None = None,
        claims: Tensor | None = None,
        texts: Tensor | None = None,
        **inputs: Any,
    ) -> dict[str, Tensor]:
        """Logits `(batch, 4 dimensions, 4 steps)` and, where scores are given, the loss.

        Args:
            attention_mask: `(batch, tokens)`, padded on the right.
            heard: bool `(batch, tokens)`, the places of the recording; none where the text is read alone.
            stated: `(batch, tokens)`: index in `STATEMENTS` at the last token of a statement, `UNSTATED` elsewhere.
            scores: `(batch, 4)`, 1..5.
            claims: `(batch, tokens)`: 1 at the last token of a true claim, 0 of a false one, `UNCLAIMED` elsewhere.
            texts: `(batch, tokens)`: the token that follows where it is to be predicted, `UNREAD` elsewhere.
            inputs: What else the body reads.
        """
        hidden = self.body(attention_mask=attention_mask, use_cache=False, **inputs).last_hidden_state
        last = hidden[torch.arange(len(hidden), device=hidden.device), attention_mask.sum(dim=1) - 1]
        dtype = self.text_head.weight.dtype
        sound = (hidden * heard[..., None]).sum(dim=1) / heard.sum(dim=1, keepdim=True).clamp(min=1)
        ends = stated != UNSTATED
        compared = self.statement_words(stated[ends]) + self.statement_sound(sound.to(dtype))[ends.nonzero()[:, 0]]
        found = self.statement_head(compared).float().squeeze(-1)
        told = summary(found, stated).to(dtype)
        scored = [self.truth_head(told), self.text_head(torch.cat([last.to(dtype), told], dim=-1))]
        logits = torch.cat(scored, dim=-1).float().unflatten(-1, (-1, STEPS))
        if scores is None:
            return {"logits": logits, "claim_logits": found}
        loss = ordinal_loss(logits, scores)
        if claims is not None and self.claim_weight:
            truth = claims[ends]
            known = truth != UNCLAIMED
            # A sum over nothing, not a mean: a batch without claims must not give NaN.
            per_claim = nn.functional.binary_cross_entropy_with_logits(found[known], truth[known], reduction="sum")
            loss = loss + self.claim_weight * per_claim / max(1, int(known.sum()))
        if texts is not None and self.text_weight:
            read = texts != UNREAD
            words: Any = self.body.get_input_embeddings()  # pyright: ignore[reportCallIssue]
            guesses = (hidden[read] @ words.weight.T).float()
            per_word = nn.functional.cross_entropy(guesses, texts[read], reduction="sum")
            loss = loss + self.text_weight * per_word / max(1, len(guesses))
        return {"loss": loss, "logits": logits}


def summary(logits: Tensor, stated: Tensor) -> Tensor:
    """Of the claims of a row, then of its emotions: mean and lowest probability, and their number over 8, `(batch, 6)`.

    Args:
        logits: `(statements,)` of all rows, in their order.
        stated: `(batch, tokens)`; see `RewardModel.forward`.
    """
    probabilities = torch.ones(stated.shape, dtype=logits.dtype, device=stated.device)
    probabilities = probabilities.masked_scatter(stated != UNSTATED, logits.sigmoid())
    columns = []
    for kind in ((stated >= 0) & (stated < len(LEVELS)), stated >= len(LEVELS)):
        count = kind.sum(dim=1)
        mean = (probabilities * kind).sum(dim=1) / count.clamp(min=1)
        lowest = probabilities.masked_fill(~kind, 1.0).amin(dim=1) * (count > 0)
        columns += [mean, lowest, count / 8.0]
    return torch.stack(columns, dim=-1)


def ordinal_loss(logits: Tensor, scores: Tensor) -> Tensor:
    """Mean binary cross-entropy of "more than k", k = 1..4; `logits` `(batch, 4, 4)`, `scores` `(batch, 4)`."""
    steps = torch.arange(1, STEPS + 1, device=scores.device)
    return nn.functional.binary_cross_entropy_with_logits(logits, (scores[..., None] > steps).float())


def expected_scores(logits: Tensor) -> Tensor:
    """Scores 1..5 of logits: `(..., 4)` to `(...)`."""
    return 1.0 + logits.sigmoid().sum(dim=-1)
