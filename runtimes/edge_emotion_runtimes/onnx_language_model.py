"""Language model on ONNX Runtime: the decoder, its KV cache and its tokenizer from one file; nothing is compiled.

The cache is memory of this module that the graph reads and extends in place (see `edge_emotion_export.onnx_decoder`),
bound to the session once: a step hands over one number and copies nothing. Going back to a prefix is setting a number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_emotion.errors import BundleError, LanguageModelError, RuntimeUnavailableError
from edge_emotion_runtimes.bpe import BytePairTokenizer
from edge_emotion_runtimes.decoding import (
    check_budget,
    check_labels,
    check_segments,
    check_tokens,
    generate_greedily,
    groups,
    log_sum_exp,
)
from edge_emotion_runtimes.interfaces import Segment, Token
from edge_emotion_runtimes.onnx_session import library, open_session
from edge_emotion_runtimes.processors import suitable_threads

MODEL_TYPE = "edge-emotion-language-model"

_MAX_BATCH_ROWS = 512
_MAX_SEQUENCES = 16
_GIVEN_ROW = -1  # token id of a row that is an embedding
_INPUTS = ("token_ids", "embeddings", "last_index", "total")


class OnnxLanguageModel:
    """An ONNX decoder with one running sequence.

    Not thread-safe: one call at a time. Every refused input leaves the state as it was.

    Args:
        path: The ONNX file.
        context_tokens: Tokens and embedding rows the sequence may hold in all.
        threads: Threads within an operator; None takes one for a small model, else the usable physical cores.

    Raises:
        BundleError: The file is missing, damaged, or not a language model that can be used here.
        LanguageModelError: An option is impossible.
        RuntimeUnavailableError: onnxruntime is missing, or there is no memory for the context.
    """

    def __init__(self, path: str | Path, context_tokens: int = 512, threads: int | None = None) -> None:
        if context_tokens < 1 or (threads is not None and threads < 1):
            raise LanguageModelError(f"context_tokens {context_tokens} and threads {threads} must be at least 1")
        self.path = Path(path)
        self.context_tokens = context_tokens
        self._version: str = library().__version__
        self._size = self.path.stat().st_size if self.path.is_file() else 0
        self.threads = threads or suitable_threads(self._size)
        session = open_session(self.path, self.threads, what="language model")
        self.providers = tuple(session.get_providers())
        self.embedding_dim, self.vocabulary_size, self._cache_shapes = _read_shapes(session, self.path)
        self._facts = _read_facts(session, self.path)
        self._tokenizer, self._end = _read_tokenizer(self._facts, self.vocabulary_size, self.path)
        if context_tokens > int(self._facts["context_tokens"]):
            raise LanguageModelError(
                f"context_tokens {context_tokens}; {self.path.name} has positions for {self._facts['context_tokens']}"
            )
        try:
            self._caches = _make_caches(self._cache_shapes, 1, context_tokens)
        except MemoryError as error:
            raise RuntimeUnavailableError(
                f"{self.path}: no memory for a context of {context_tokens} tokens; give a smaller context_tokens"
            ) from error
        self._session: Any = session
        self._step: Any = _Call(session, self._caches, 1, 1, self.embedding_dim, self.vocabulary_size)
        self._position = 0
        self._logits: np.ndarray | None = None
        self._prefix: tuple[int, np.ndarray | None] | None = None

    def __enter__(self) -> OnnxLanguageModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; a second call does nothing."""
        self._session, self._step, self._caches = None, None, {}

    @property
    def position(self) -> int:
        """Tokens and embedding rows held now."""
        return self._position

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text, without a start token; `special` reads tags such as `<think>` as single tokens."""
        self._check_open()
        try:
            return self._tokenizer.encode(text, special)
        except (UnicodeEncodeError, AttributeError) as error:
            raise LanguageModelError(f"text that is not Unicode cannot be tokenized: {text!r}") from error

    def detokenize(self, token_ids: Sequence[int], special: bool = False) -> str:
        """Text of token ids; `special` also writes control tokens such as tags."""
        self._check_open()
        ids = check_tokens(token_ids, self.vocabulary_size) if len(token_ids) else ()
        return b"".join(self._tokenizer.piece(int(token), special) for token in ids).decode("utf-8", "replace")

    def prefill(self, segments: Sequence[Segment]) -> None:
        """Append token ids and embedding rows to the sequence.

        Args:
            segments: Each is a sequence of token ids, or float32 embeddings `(rows, embedding_dim)`.

        Raises:
            LanguageModelError: A segment is empty, out of range, of the wrong width or type, not finite, or does not
                fit into the context. Nothing is appended then.
        """
        self._check_open()
        checked = check_segments(
            segments, self.embedding_dim, self.vocabulary_size, self._position, self.context_tokens
        )
        if len(checked) == 1 and checked[0].shape == (1,):
            self._append(int(checked[0][0]))
            return
        token_ids, embeddings = _join(checked, self.embedding_dim)
        position, logits = self._position, self._logits
        for start in range(0, len(token_ids), _MAX_BATCH_ROWS):
            chunk = slice(start, start + _MAX_BATCH_ROWS)
            rows = len(token_ids[chunk])
            call = _Call(self._session, self._caches, 1, rows, self.embedding_dim, self.vocabulary_size)
            call.token_ids[0], call.embeddings[0] = token_ids[chunk], embeddings[chunk]
            logits = self._run(call, position)[0]
            position += rows
        self._position, self._logits = position, logits

    def _append(self, token: int) -> None:
        """One checked token: the step that is repeated for every word."""
        self._check_open()
        self._step.token_ids[0, 0] = token
        self._logits = self._run(self._step, self._position)[0]
        self._position += 1

    def stream(self, max_tokens: int, stop_token_ids: Collection[int] = ()) -> Iterator[Token]:
        """Generate greedily from here.

        Every token that was yielded is part of the sequence; the stop token is neither yielded nor part of it.

        Args:
            max_tokens: Budget; it must fit into the context.
            stop_token_ids: Tokens that end the text, besides the model's own end token.

        Raises:
            LanguageModelError: Nothing was prefilled, or the budget does not fit.
        """
        self._current_logits()
        check_budget(max_tokens, self._position, self.context_tokens)
        ends = {*stop_token_ids, self._end}
        return generate_greedily(
            max_tokens, self._current_logits, self._append, ends.__contains__, self._tokenizer.piece
        )

    def logits(self) -> np.ndarray:
        """Logits of the next token, float32 `(vocabulary,)`."""
        return self._current_logits().copy()

    def score_labels(self, labels: Sequence[str], closing: str = "") -> np.ndarray:
        """How likely each label is as the next text; the sequence stays as it is.

        Args:
            labels: Texts to choose from.
            closing: Text after each label, for example `</answer>`, so that no label is the beginning of another.

        Returns:
            Sum of the log-probabilities of each label's tokens and the closing's, float64 `(labels,)`.

        Raises:
            LanguageModelError: Nothing was prefilled, a label has no tokens, or it does not fit into the context.
        """
        first = self._current_logits()
        token_ids = [self.tokenize(label + closing) for label in labels]
        check_labels(labels, token_ids, self.context_tokens - self._position)
        normalizer = log_sum_exp(first)
        scores = np.array([float(first[ids[0]]) - normalizer for ids in token_ids])
        lengths = [len(ids) - 1 for ids in token_ids]
        for group in groups(lengths, sum(lengths), _MAX_SEQUENCES):
            scores[group] += self._score_group([token_ids[index] for index in group])
        return scores

    def _score_group(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Log-probability of each text's tokens after its first: all texts at once, a token at a time."""
        longest = max(map(len, token_ids)) - 1
        caches = _make_caches(self._cache_shapes, len(token_ids), self._position + longest)
        for name, cache in caches.items():
            cache[:, :, : self._position] = self._caches[name][:, :, : self._position]
        call = _Call(self._session, caches, len(token_ids), 1, self.embedding_dim, self.vocabulary_size)
        scores = np.zeros(len(token_ids))
        for step in range(longest):
            # A text that has ended says its last token again; nobody looks at what follows it.
            call.token_ids[:, 0] = [ids[min(step, len(ids) - 1)] for ids in token_ids]
            logits = self._run(call, self._position + step)
            for row, ids in enumerate(token_ids):
                if step + 1 < len(ids):
                    scores[row] += float(logits[row, ids[step + 1]]) - log_sum_exp(logits[row])
        return scores

    def save_prefix(self) -> None:
        """Remember the sequence as it is now; it stays in the KV cache."""
        self._check_open()
        self._prefix = (self._position, self._logits)

    def load_prefix(self) -> None:
        """Return to the saved prefix: everything after it is forgotten, it itself is not computed again."""
        self._check_open()
        if self._prefix is None:
            raise LanguageModelError("no prefix was saved; prefill it and call save_prefix first")
        self._position, self._logits = self._prefix

    def reset(self) -> None:
        """Forget everything, the saved prefix too."""
        self._check_open()
        self._position, self._logits, self._prefix = 0, None, None

    def describe(self) -> dict[str, Any]:
        """What runs here, read from the session and the file."""
        self._check_open()
        return {
            "runtime": "onnxruntime",
            "version": self._version,
            "providers": list(self.providers),
            "device": "cpu",
            "file": self.path.name,
            "architecture": self._facts["architecture"],
            "parameters": int(self._facts["parameters"]),
            "size_bytes": self._size,
            "vocabulary": self.vocabulary_size,
            "embedding_dim": self.embedding_dim,
            "context_tokens": self.context_tokens,
            "threads": self.threads,
            "kv_type": "f32",
        }

    def _check_open(self) -> None:
        if self._session is None:
            raise LanguageModelError(f"the language model {self.path.name} is closed; load it again")

    def _current_logits(self) -> np.ndarray:
        self._check_open()
        if self._logits is None:
            raise LanguageModelError("nothing was prefilled: there is no next token to speak of")
        return self._logits

    def _run(self, call: _Call, position: int) -> np.ndarray:
        """Logits `(batch, vocabulary)` after the rows of a call that continues the sequence at `position`."""
        try:
            logits = call.run(self._session, position)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise LanguageModelError(f"{self.path.name} failed at token {position}: {error}") from error
        if not np.isfinite(logits).all():
            raise LanguageModelError(f"{self.path.name} computed NaN or infinity; run `edge-emotion verify`")
        return logits


class _Call:
    """Memory for calls of one shape, bound to the session once; fill `token_ids` and `embeddings`, then run."""

    def __init__(
        self, session: Any, caches: Mapping[str, np.ndarray], batch: int, rows: int, dim: int, vocabulary: int
    ) -> None:
        self.token_ids = np.zeros((batch, rows), np.int64)
        self.embeddings = np.zeros((batch, rows, dim), np.float32)
        self._last_index = np.zeros(batch, np.int32)
        self._total = np.zeros((), np.int32)
        self._logits = np.zeros((batch, 1, vocabulary), np.float32)
        self._caches = caches  # kept alive: the binding holds addresses only
        self._binding = session.io_binding()
        inputs = (self.token_ids, self.embeddings, self._last_index, self._total)
        for name, array in [*zip(_INPUTS, inputs, strict=True), *caches.items()]:
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in [("logits", self._logits), *((f"present_{name}", cache) for name, cache in caches.items())]:
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def run(self, session: Any, position: int) -> np.ndarray:
        """Logits `(batch, vocabulary)` after the last row, of rows that follow `position` earlier ones."""
        total = position + self.token_ids.shape[1]
        self._last_index[:] = total - 1
        self._total[()] = total
        session.run_with_iobinding(self._binding)
        return self._logits[:, 0].copy()


def _join(segments: Sequence[np.ndarray], dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids `(rows,)` and embeddings `(rows, dim)` of all segments in one row; each row is one or the other."""
    total = sum(map(len, segments))
    token_ids, embeddings = np.full(total, _GIVEN_ROW, np.int64), np.zeros((total, dim), np.float32)
    start = 0
    for rows in segments:
        part = slice(start, start + len(rows))
        if rows.ndim == 1:
            token_ids[part] = rows
        else:
            embeddings[part] = rows
        start = part.stop
    return token_ids, embeddings


def _make_caches(shapes: Mapping[str, tuple[int, int]], batch: int, capacity: int) -> dict[str, np.ndarray]:
    return {
        name: np.zeros((batch, heads, capacity, head_dim), np.float32) for name, (heads, head_dim) in shapes.items()
    }


def _read_shapes(session: Any, path: Path) -> tuple[int, int, dict[str, tuple[int, int]]]:
    """Width of the embeddings, size of the vocabulary, heads and width of each cache; checks the contract."""
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    caches = [name for name in inputs if name not in _INPUTS]
    wanted = {"logits", *(f"present_{name}" for name in caches)}
    if not {*_INPUTS} <= set(inputs) or set(outputs) != wanted or not caches:
        raise BundleError(f"{path}: inputs {sorted(inputs)[:8]}; this is no language model of ours. Export it again")
    try:
        shapes = {name: (int(inputs[name].shape[1]), int(inputs[name].shape[3])) for name in caches}
        return int(inputs["embeddings"].shape[2]), int(outputs["logits"].shape[2]), shapes
    except (TypeError, ValueError, IndexError) as error:
        raise BundleError(f"{path}: its shapes are not those of a language model ({error}); export it again") from error


def _read_facts(session: Any, path: Path) -> Mapping[str, str]:
    facts: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    missing = [
        key for key in ("tokenizer", "end_token", "architecture", "parameters", "context_tokens") if key not in facts
    ]
    if facts.get("model_type") != MODEL_TYPE or missing:
        raise BundleError(f"{path}: its metadata lacks {', '.join(missing) or MODEL_TYPE}; export it again")
    if wrong := [key for key in ("end_token", "parameters", "context_tokens") if not facts[key].isdecimal()]:
        raise BundleError(f"{path}: its metadata {', '.join(wrong)} must be whole numbers; export it again")
    return facts


def _read_tokenizer(facts: Mapping[str, str], vocabulary_size: int, path: Path) -> tuple[BytePairTokenizer, int]:
    """The tokenizer and its end token, which is never text."""
    end = int(facts["end_token"])
    try:
        tokenizer = BytePairTokenizer(facts["tokenizer"], control=(end,))
    except ValueError as error:
        raise BundleError(f"{path}: the tokenizer in it has {error}; export it again") from error
    if max(tokenizer.size - 1, end) >= vocabulary_size:
        raise BundleError(
            f"{path}: its tokenizer has more tokens than the {vocabulary_size} of the model; export it again"
        )
    return tokenizer, end
