"""Language model on llama.cpp: audio embeddings between text tokens, greedy streaming, label scoring, a kept prefix.

Uses the low-level API of llama-cpp-python only. Whatever a C assertion would end the process for is refused here first.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import weakref
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge_emotion.errors import LanguageModelError, RuntimeUnavailableError
from edge_emotion_runtimes import llama_cpp_bindings as bindings
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
from edge_emotion_runtimes.llama_cpp_adapter import check_adapter, put_on
from edge_emotion_runtimes.processors import suitable_threads

_KV_TYPES = {"f32": 0, "f16": 1}
_MAX_BATCH_ROWS = 512
_MAX_SEQUENCES = 16  # sequence 0 holds the prompt, the others a label each while labels are scored
_MAX_OUTPUT_ROWS = 64


class LlamaCppModel:
    """A GGUF model with one running sequence.

    Not thread-safe: one call at a time. Every refused input leaves the state as it was.

    Args:
        path: The GGUF file.
        context_tokens: Tokens and embedding rows the sequence may hold in all.
        threads: Processor threads; None takes one for a small model, else the usable physical cores.
        kv_type: Number format of the KV cache; "f32" for parity checks.
        flash_attention: None lets llama.cpp decide; False for parity checks.
        adapter: A LoRA adapter in GGUF that changes the model; None runs the model as it is.

    Raises:
        BundleError: A file is missing, damaged, not a model that can be used here, or no adapter of that model.
        RuntimeUnavailableError: llama.cpp is not installed, or has no memory for the context.
    """

    def __init__(
        self,
        path: str | Path,
        context_tokens: int = 512,
        threads: int | None = None,
        kv_type: Literal["f16", "f32"] = "f16",
        flash_attention: bool | None = None,
        adapter: str | Path | None = None,
    ) -> None:
        if kv_type not in _KV_TYPES:
            raise LanguageModelError(f"kv_type {kv_type!r}; allowed: {', '.join(_KV_TYPES)}")
        if context_tokens < 1 or (threads is not None and threads < 1):
            raise LanguageModelError(f"context_tokens {context_tokens} and threads {threads} must be at least 1")
        self.path = Path(path)
        self.context_tokens = context_tokens
        self._kv_type = kv_type
        self._flash_attention = flash_attention
        self.adapter = None if adapter is None else Path(adapter)
        bindings.check_gguf(self.path)
        if self.adapter:
            check_adapter(self.adapter, self.path)
        self._lib = bindings.library()
        model = bindings.load_model(self._lib, self.path)
        try:
            bindings.check_model(self._lib, model, self.path)
            self.threads = threads or suitable_threads(int(self._lib.llama_model_size(model)))
            context = self._create_context(model)
        except Exception:
            self._lib.llama_model_free(model)
            raise
        try:
            if self.adapter:
                put_on(self._lib, model, context, self.adapter)
        except Exception:
            bindings.free(self._lib, context, model)
            raise
        self._model, self._context = model, context
        self._free = weakref.finalize(self, bindings.free, self._lib, context, model)
        self._memory = self._lib.llama_get_memory(context)
        self._vocabulary = self._lib.llama_model_get_vocab(model)
        self.vocabulary_size = int(self._lib.llama_vocab_n_tokens(self._vocabulary))
        self.embedding_dim = int(self._lib.llama_model_n_embd_inp(model))
        self._position = 0
        self._logits: np.ndarray | None = None
        self._prefix: tuple[int, np.ndarray | None] | None = None

    def _create_context(self, model: Any) -> Any:
        rows = min(self.context_tokens, _MAX_BATCH_ROWS)
        params = self._lib.llama_context_default_params()
        params.n_ctx = self.context_tokens
        params.n_batch = params.n_ubatch = rows
        params.n_seq_max = _MAX_SEQUENCES
        params.n_outputs_max = min(rows, _MAX_OUTPUT_ROWS)
        params.kv_unified = True  # sequences share cells: copying a prompt for each label costs no memory
        params.n_threads = params.n_threads_batch = self.threads
        params.type_k = params.type_v = _KV_TYPES[self._kv_type]
        params.flash_attn_type = -1 if self._flash_attention is None else int(self._flash_attention)
        params.offload_kqv = params.op_offload = False
        params.no_perf = True
        context = self._lib.llama_init_from_model(model, params)
        if not context:
            raise RuntimeUnavailableError(
                f"{self.path}: no context of {self.context_tokens} tokens could be made ({bindings.recent_errors()}); "
                "give a smaller context_tokens"
            )
        return context

    def __enter__(self) -> LlamaCppModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; a second call does nothing."""
        self._free()

    @property
    def position(self) -> int:
        """Tokens and embedding rows held now."""
        return self._position

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text, without a start token; `special` reads tags such as `<think>` as single tokens."""
        self._check_open()
        try:
            data = text.encode("utf-8")
        except (UnicodeEncodeError, AttributeError) as error:
            raise LanguageModelError(f"text that is not Unicode cannot be tokenized: {text!r}") from error
        buffer = (ctypes.c_int32 * (len(data) + 1))()
        count = self._lib.llama_tokenize(self._vocabulary, data, len(data), buffer, len(buffer), False, special)
        if count < 0:
            raise LanguageModelError(f"the tokenizer of {self.path.name} failed on {text[:80]!r}")
        return list(buffer[:count])

    def detokenize(self, token_ids: Sequence[int], special: bool = False) -> str:
        """Text of token ids; `special` also writes control tokens such as tags."""
        self._check_open()
        ids = check_tokens(token_ids, self.vocabulary_size) if len(token_ids) else ()
        return b"".join(self._piece(int(token), special) for token in ids).decode("utf-8", "replace")

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
        start, limit = self._position, min(self.context_tokens, _MAX_BATCH_ROWS)
        chunks = [rows[at : at + limit] for rows in checked for at in range(0, len(rows), limit)]
        for index, chunk in enumerate(chunks):
            outputs = np.zeros(len(chunk), np.int8)
            outputs[-1] = index == len(chunks) - 1
            positions = np.arange(self._position, self._position + len(chunk), dtype=np.int32)
            self._decode(chunk, positions, outputs, restore_to=start)
            self._position += len(chunk)
        self._logits = self._read_logits(-1)

    def stream(self, max_tokens: int, stop_token_ids: Collection[int] = ()) -> Iterator[Token]:
        """Generate greedily from here.

        Every token that was yielded is part of the sequence; the stop token is neither yielded nor part of it.

        Args:
            max_tokens: Budget; it must fit into the context.
            stop_token_ids: Tokens that end the text, besides the model's own end-of-generation tokens.

        Raises:
            LanguageModelError: Nothing was prefilled, or the budget does not fit.
        """
        self._current_logits()
        check_budget(max_tokens, self._position, self.context_tokens)
        stop = frozenset(stop_token_ids)

        def is_end(token: int) -> bool:
            return token in stop or bool(self._lib.llama_vocab_is_eog(self._vocabulary, token))

        return generate_greedily(
            max_tokens,
            self._current_logits,
            lambda token: self.prefill([[token]]),
            is_end,
            lambda token: self._piece(token, special=False),
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
        room = min(self.context_tokens - self._position, _MAX_OUTPUT_ROWS, _MAX_BATCH_ROWS)
        check_labels(labels, token_ids, room)
        normalizer = log_sum_exp(first)
        scores = np.array([float(first[ids[0]]) - normalizer for ids in token_ids])
        for group in groups([len(ids) - 1 for ids in token_ids], room, _MAX_SEQUENCES - 1):
            scores[group] += self._score_group([token_ids[index] for index in group])
        return scores

    def _score_group(self, token_ids: list[list[int]]) -> np.ndarray:
        """Log-probability of each text's tokens after its first, all in one batch of one sequence per text."""
        lengths = [len(ids) - 1 for ids in token_ids]
        rows = np.concatenate([np.asarray(ids[:-1], np.int32) for ids in token_ids])
        targets = np.concatenate([np.asarray(ids[1:], np.int64) for ids in token_ids])
        positions = np.concatenate([self._position + np.arange(n, dtype=np.int32) for n in lengths])
        sequences = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.int32), lengths)
        for sequence in range(1, len(lengths) + 1):
            self._lib.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
        try:
            self._decode(rows, positions.astype(np.int32), np.ones(len(rows), np.int8), self._position, sequences)
            logits = np.stack([self._read_logits(row) for row in range(len(rows))]).astype(np.float64)
        finally:
            for sequence in range(1, len(lengths) + 1):
                self._lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        peak = logits.max(axis=1, keepdims=True)
        normalizers = peak[:, 0] + np.log(np.exp(logits - peak).sum(axis=1))
        return np.bincount(sequences - 1, weights=logits[np.arange(len(rows)), targets] - normalizers)

    def save_prefix(self) -> None:
        """Remember the sequence as it is now; it stays in the KV cache."""
        self._check_open()
        self._prefix = (self._position, self._logits)

    def load_prefix(self) -> None:
        """Return to the saved prefix: everything after it is forgotten, it itself is not computed again."""
        self._check_open()
        if self._prefix is None:
            raise LanguageModelError("no prefix was saved; prefill it and call save_prefix first")
        self._truncate(self._prefix[0])
        self._logits = self._prefix[1]

    def reset(self) -> None:
        """Forget everything, the saved prefix too."""
        self._check_open()
        self._lib.llama_memory_clear(self._memory, True)
        self._position, self._logits, self._prefix = 0, None, None

    def describe(self) -> dict[str, Any]:
        """What runs here, read from the library and the model."""
        self._check_open()
        lib = self._lib
        return {
            "runtime": "llama.cpp",
            "version": lib.llama_version().decode(),
            "bindings": importlib.metadata.version("llama-cpp-python"),
            "system": " ".join(lib.llama_print_system_info().decode().split()),
            "device": "cpu",
            "file": self.path.name,
            "adapter": self.adapter.name if self.adapter else None,
            "architecture": bindings.metadata(lib, self._model, b"general.architecture"),
            "parameters": int(lib.llama_model_n_params(self._model)),
            "size_bytes": int(lib.llama_model_size(self._model)),
            "vocabulary": self.vocabulary_size,
            "embedding_dim": self.embedding_dim,
            "context_tokens": self.context_tokens,
            "threads": self.threads,
            "kv_type": self._kv_type,
            "flash_attention": "auto" if self._flash_attention is None else self._flash_attention,
        }

    def _check_open(self) -> None:
        if not self._free.alive:
            raise LanguageModelError(f"the language model {self.path.name} is closed; load it again")

    def _current_logits(self) -> np.ndarray:
        self._check_open()
        if self._logits is None:
            raise LanguageModelError("nothing was prefilled: there is no next token to speak of")
        return self._logits

    def _decode(
        self,
        rows: np.ndarray,
        positions: np.ndarray,
        outputs: np.ndarray,
        restore_to: int,
        sequences: np.ndarray | None = None,
    ) -> None:
        code = bindings.decode(self._lib, self._context, rows, positions, outputs, sequences)
        if code != 0:
            self._truncate(restore_to)
            reason = bindings.recent_errors() or {1: "no room in the KV cache", 2: "aborted"}.get(code, "refused")
            raise LanguageModelError(f"llama.cpp returned {code} on {len(rows)} rows: {reason}")

    def _truncate(self, position: int) -> None:
        self._lib.llama_memory_seq_rm(self._memory, 0, position, -1)
        self._position = position

    def _read_logits(self, row: int) -> np.ndarray:
        pointer = self._lib.llama_get_logits_ith(self._context, row)
        if not pointer:
            raise LanguageModelError(f"llama.cpp has no logits for row {row}")
        return np.ctypeslib.as_array(pointer, shape=(self.vocabulary_size,)).copy()

    def _piece(self, token: int, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        size = self._lib.llama_token_to_piece(self._vocabulary, token, buffer, len(buffer), 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = self._lib.llama_token_to_piece(self._vocabulary, token, buffer, len(buffer), 0, special)
        return buffer.raw[:size]
