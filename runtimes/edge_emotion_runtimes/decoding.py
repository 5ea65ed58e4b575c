"""What every language-model runtime does alike: checking what is appended, greedy generation, grouping of labels."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from edge_emotion.errors import LanguageModelError
from edge_emotion_runtimes.interfaces import Segment, Token


def check_segments(
    segments: Sequence[Segment], embedding_dim: int, vocabulary_size: int, position: int, context_tokens: int
) -> list[np.ndarray]:
    """Segments as int32 `(n,)` token ids and float32 `(n, embedding_dim)` rows, C-contiguous.

    Raises:
        LanguageModelError: There are none, one is empty, out of range, of the wrong width or type or not finite, or all
            together do not fit after `position` into the context.
    """
    checked = [_check_segment(segment, embedding_dim, vocabulary_size) for segment in segments]
    total = sum(len(rows) for rows in checked)
    if not total:
        raise LanguageModelError("nothing to prefill: at least one segment is needed")
    if position + total > context_tokens:
        raise LanguageModelError(
            f"{total} more tokens do not fit: {position} of {context_tokens} are taken; "
            "shorten the input, reset, or load with a larger context_tokens"
        )
    return checked


def _check_segment(segment: Segment, embedding_dim: int, vocabulary_size: int) -> np.ndarray:
    if isinstance(segment, np.ndarray) and (segment.ndim != 1 or segment.dtype.kind == "f"):
        return _check_embeddings(segment, embedding_dim)
    return check_tokens(segment, vocabulary_size)


def _check_embeddings(rows: np.ndarray, embedding_dim: int) -> np.ndarray:
    if rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[1] != embedding_dim or not len(rows):
        raise LanguageModelError(
            f"embeddings are {rows.dtype} {rows.shape}; float32 (rows, {embedding_dim}) with at least one row is needed"
        )
    if not np.isfinite(rows).all():
        raise LanguageModelError("embeddings hold NaN or infinity; the encoder computed nonsense")
    return np.ascontiguousarray(rows)


def check_tokens(segment: Sequence[int] | np.ndarray, vocabulary_size: int) -> np.ndarray:
    """Token ids as int32 `(n,)`.

    Raises:
        LanguageModelError: They are no integers of the vocabulary, or none.
    """
    try:
        ids = np.asarray(segment)
    except (ValueError, TypeError) as error:
        raise LanguageModelError(f"a segment must be token ids or embeddings, given {type(segment)}") from error
    if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu":
        raise LanguageModelError(f"token ids must be a non-empty row of integers, given {ids.dtype} {ids.shape}")
    if ids.min() < 0 or ids.max() >= vocabulary_size:
        raise LanguageModelError(
            f"token ids lie in {ids.min()}..{ids.max()}; this model knows 0..{vocabulary_size - 1}"
        )
    return np.ascontiguousarray(ids, dtype=np.int32)


def check_budget(max_tokens: int, position: int, context_tokens: int) -> None:
    """Refuses a number of tokens to generate that does not fit.

    Raises:
        LanguageModelError: It is negative or does not fit after `position` into the context.
    """
    if max_tokens < 0 or position + max_tokens > context_tokens:
        raise LanguageModelError(
            f"max_tokens {max_tokens} does not fit: {position} of {context_tokens} tokens are taken"
        )


def check_labels(labels: Sequence[str], token_ids: Sequence[Sequence[int]], room: int) -> None:
    """Refuses labels that cannot be scored; the first token of each needs no room.

    Raises:
        LanguageModelError: A label has no tokens, or more than fit.
    """
    for label, ids in zip(labels, token_ids, strict=True):
        if not ids or len(ids) - 1 > room:
            raise LanguageModelError(f"label {label!r} has {len(ids)} tokens; 1 to {room + 1} can be scored here")


def generate_greedily(
    max_tokens: int,
    logits: Callable[[], np.ndarray],
    append: Callable[[int], object],
    is_end: Callable[[int], bool],
    piece: Callable[[int], bytes],
) -> Iterator[Token]:
    """The likeliest token again and again, each appended before it is yielded; an end token is neither."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for _ in range(max_tokens):
        scores = logits()
        token = int(scores.argmax())
        if is_end(token):
            return
        text = decoder.decode(piece(token))
        logprob = float(scores[token]) - log_sum_exp(scores)
        append(token)
        yield Token(token, text, logprob)


def log_sum_exp(logits: np.ndarray) -> float:
    """Logarithm of the sum of the exponentials of `(n,)` logits."""
    peak = float(logits.max())
    return peak + float(np.log(np.exp(logits - peak, dtype=np.float64).sum()))


def groups(rows: Sequence[int], max_rows: int, max_members: int) -> Iterator[list[int]]:
    """Indices of the non-zero entries, packed in order into groups of at most `max_rows` rows and `max_members`."""
    group: list[int] = []
    for index, count in enumerate(rows):
        if group and (len(group) == max_members or sum(rows[i] for i in group) + count > max_rows):
            yield group
            group = []
        if count:
            group.append(index)
    if group:
        yield group
