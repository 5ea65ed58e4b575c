# ruff: noqa: RUF001 - look-alike characters are the point
"""Texts on which two tokenizers are compared: many scripts, odd spaces, numbers, marks, and the model's own tags."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FRAGMENTS = (
    "The voice is high and fast, with a wide pitch range.", " pitch rises", "It's slow; they've paused",
    "don't WON'T I'll",
    "Überraschung, Ärger und Größe", "naïve café", "e\u0301 decomposed", "Привет, мир", "γειά σου Κόσμε", "你好，世界",
    "こんにちは世界", "안녕하세요", "مرحبا بالعالم", "שלום", "नमस्ते दुनिया", "สวัสดี", "Tiếng Việt", "😀",
    "\U0001f469\u200d\U0001f467", "🇩🇪", "½ ² ①", "3.14159", "1,234,567", "2026-01-02", "a1b2", "x" * 40,
    "  two  spaces  ", "\ttab\t", "line\nbreak\n\n", "\r\nwindows", "\u00a0no-break\u00a0", "\u200bzero\u200b",
    "…—–„“”‚‘’", "!?!?...", "C++ && C#", "#@_$%", "https://example.org/?q=1&r=2", "e-mail@example.org",
    '{"json": [1, null]}', "<b>html</b>", "<think", "answer>", "|>",
)  # fmt: skip


def sample_texts(tags: Sequence[str], vocabulary: Sequence[str], count: int = 200) -> list[str]:
    """Fragments and tags, mixtures of them, and mixtures of the vocabulary's own pieces; always the same.

    Only the last try every merge of a tokenizer in places where it was not learned.
    """
    generator = np.random.default_rng(0)
    texts = [*FRAGMENTS, *tags]
    sources = (texts.copy(), [piece for piece in vocabulary if "\ufffd" not in piece])
    while len(texts) < count:
        pieces = sources[len(texts) % 2]
        chosen = generator.choice(len(pieces), size=int(generator.integers(2, 8)))
        texts.append("".join(pieces[index] for index in chosen))
    return texts[:count]
