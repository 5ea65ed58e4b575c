"""The reward model: a speech language model's body and one ordinal head on the last token.

EmotionThinker's reward model (arXiv 2601.15668) writes its four scores as JSON. A head reads them from the hidden
state after the last token instead: one forward pass in place of some forty, never an answer that cannot be parsed, the
same value each time, and scores between the whole numbers, which a policy can climb. Per dimension there are four
logits, "more than 1" to "more than 4"; the score is 1 plus the sum of their probabilities (Frank & Hall, 2001), so that
to mistake 5 for 1 costs more than to mistake it for 4.

Four scores are little to learn from for a model that begins with nothing. Two losses of training alone make its signal
denser: a head tells of each acoustic claim, at its last token, whether it is true; and where a text is unbroken and
true, the next word is predicted from what is heard, as in supervised training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edge_emotion_train.reinforcement.rewards import DIMENSIONS

STEPS = 4  # between the scores 1..5
UNCLAIMED = -1.0
UNREAD = -100


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
        self.score_head = nn.Linear(hidden_size, len(DIMENSIONS) * STEPS)
        self.claim_head = nn.Linear(hidden_size, 1)
        self.claim_weight = claim_weight
        self.text_weight = text_weight

    def forward(
        self,
        attention_mask: Tensor,
        scores: Tensor | None = None,
        claims: Tensor | None = None,
        texts: Tensor | None = None,
        **inputs: Any,
    ) -> dict[str, Tensor]:
        """Logits `(batch, 4 dimensions, 4 steps)` and, where scores are given, the loss.

        Args:
            attention_mask: `(batch, tokens)`, padded on the right.
            scores: `(batch, 4)`, 1..5.
            claims: `(batch, tokens)`: 1 at the last token of a true claim, 0 of a false one, `UNCLAIMED` elsewhere.
            texts: `(batch, tokens)`: the token that follows where it is to be predicted, `UNREAD` elsewhere.
            inputs: What else the body reads.
        """
        hidden = self.body(attention_mask=attention_mask, use_cache=False, **inputs).last_hidden_state
        last = hidden[torch.arange(len(hidden), device=hidden.device), attention_mask.sum(dim=1) - 1]
        logits = self.score_head(last.to(self.score_head.weight.dtype)).float().unflatten(-1, (-1, STEPS))
        if scores is None:
            return {"logits": logits}
        loss = ordinal_loss(logits, scores)
        if claims is not None and self.claim_weight:
            stated = claims != UNCLAIMED
            found = self.claim_head(hidden[stated].to(self.claim_head.weight.dtype)).float().squeeze(-1)
            # A sum over nothing, not a mean: a batch without claims must not give NaN.
            per_claim = nn.functional.binary_cross_entropy_with_logits(found, claims[stated], reduction="sum")
            loss = loss + self.claim_weight * per_claim / max(1, len(found))
        if texts is not None and self.text_weight:
            read = texts != UNREAD
            words: Any = self.body.get_input_embeddings()  # pyright: ignore[reportCallIssue]
            guesses = (hidden[read] @ words.weight.T).float()
            per_word = nn.functional.cross_entropy(guesses, texts[read], reduction="sum")
            loss = loss + self.text_weight * per_word / max(1, len(guesses))
        return {"loss": loss, "logits": logits}


def ordinal_loss(logits: Tensor, scores: Tensor) -> Tensor:
    """Mean binary cross-entropy of "more than k", k = 1..4; `logits` `(batch, 4, 4)`, `scores` `(batch, 4)`."""
    steps = torch.arange(1, STEPS + 1, device=scores.device)
    return nn.functional.binary_cross_entropy_with_logits(logits, (scores[..., None] > steps).float())


def expected_scores(logits: Tensor) -> Tensor:
    """Scores 1..5 of logits: `(..., 4)` to `(...)`."""
    return 1.0 + logits.sigmoid().sum(dim=-1)
