"""How varied written texts are: distinct n-grams, repeated sentences, and self-BLEU (Zhu et al. 2018, Texygen)."""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

SELF_BLEU_TEXTS = 500
SELF_BLEU_ORDER = 4
# Chen and Cherry (2014), method 1: an order without any match counts as this many.
NO_MATCH = 0.1

_QUOTES = {"\u201c": 1, "\u201d": -1}
_CLOSING = r"[\"'\u201d\u2019)\]]*"
_SENTENCE_END = re.compile(rf"[.!?\u2026]+{_CLOSING}(?:\s+|$)|[\u3002\uff01\uff1f]+{_CLOSING}\s*|\n+")


def variety_report(texts: Sequence[str]) -> dict[str, Any]:
    """How varied texts are.

    Returns:
        `distinct_1` and `distinct_2` (different words and word pairs per word and pair written), `self_bleu` (see
        there; None for fewer than two texts), `identical_share` (share of sentences that occur more than once),
        `mean_words`, `vocabulary` (different words) and `texts`.
    """
    words = [_words(text) for text in texts]
    singles = [word for listed in words for word in listed]
    pairs = [pair for listed in words for pair in itertools.pairwise(listed)]
    counts = Counter(sentence for text in texts for sentence in split_sentences(text))
    repeated = sum(count for count in counts.values() if count > 1)
    return {
        "texts": len(texts),
        "distinct_1": len(set(singles)) / max(1, len(singles)),
        "distinct_2": len(set(pairs)) / max(1, len(pairs)),
        "self_bleu": self_bleu(texts),
        "identical_share": repeated / max(1, sum(counts.values())),
        "mean_words": len(singles) / max(1, len(texts)),
        "vocabulary": len(set(singles)),
    }


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order, without the space between them; a quotation is never split."""
    sentences, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        before = text[start : match.end()]
        open_quotes = sum(_QUOTES.get(character, 0) for character in before)
        if "\n" not in match.group() and (open_quotes > 0 or before.count('"') % 2):
            continue
        sentences.append(before.strip())
        start = match.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def self_bleu(texts: Sequence[str], most: int = SELF_BLEU_TEXTS) -> float | None:
    """Mean BLEU-4 of each text against all the others, 0 (nothing in common) to 1 (all alike).

    It grows with the number of texts, so only figures of the same number compare.

    Args:
        texts: Any number.
        most: Where there are more, as many are taken at equal distances.
    """
    if len(texts) < 2:
        return None
    step = max(1.0, len(texts) / most)
    chosen = [_words(texts[int(index * step)]) for index in range(min(len(texts), most))]
    log_precisions = [0.0] * len(chosen)
    for order in range(1, SELF_BLEU_ORDER + 1):
        for index, precision in enumerate(_precisions(chosen, order)):
            log_precisions[index] += math.log(precision) / SELF_BLEU_ORDER
    lengths = sorted(len(words) for words in chosen)
    scores = [
        math.exp(log_precision + min(0.0, 1.0 - _nearest_other(lengths, len(words)) / max(1, len(words))))
        for log_precision, words in zip(log_precisions, chosen, strict=True)
    ]
    return sum(scores) / len(scores)


def _precisions(texts: Sequence[Sequence[str]], order: int) -> list[float]:
    """Of each text, the share of its n-grams that some other text has as often."""
    counts = [Counter(zip(*(words[place:] for place in range(order)), strict=False)) for words in texts]
    # The two highest counts of each n-gram, so that the highest of all the others is known without comparing pairs.
    highest: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for index, counted in enumerate(counts):
        for gram, count in counted.items():
            most, owner, second = highest.get(gram, (0, -1, 0))
            highest[gram] = (count, index, most) if count > most else (most, owner, max(second, count))
    precisions = []
    for index, counted in enumerate(counts):
        matched = sum(
            min(count, highest[gram][2] if highest[gram][1] == index else highest[gram][0])
            for gram, count in counted.items()
        )
        precisions.append((matched or NO_MATCH) / max(1, counted.total()))
    return [min(1.0, precision) for precision in precisions]


def _nearest_other(lengths: Sequence[int], length: int) -> int:
    place = bisect.bisect_left(lengths, length)
    # One entry of this length is the text itself.
    others = [*lengths[max(0, place - 1) : place], *lengths[place + 1 : place + 2]]
    return min(others, key=lambda other: (abs(other - length), other))


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())
