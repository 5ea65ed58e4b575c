"""The tokenizer of the device against the library it stands for, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion_runtimes.bpe import BytePairTokenizer

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")

# Where the patterns' classes begin and end: marks, digits that are letters, odd spaces, letters that fold to ASCII.
TRICKY = "'sStTrReEvVmMlLdD \n\r\t\v\f12aſK½Ⅷ²_.\x1c\x85\u00a0\u2028\u3000\u200bé\u0301一٣🙂"  # noqa: RUF001
TEXTS = st.text(max_size=40) | st.text(alphabet=TRICKY, max_size=40)


def edited(text: str, **changes: Any) -> str:
    return json.dumps(json.loads(text) | changes)


def pre_tokenizer(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


DIGITS = {"type": "Digits", "individual_digits": True}
GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@pytest.fixture(scope="module")
def pairs(tiny) -> list[tuple[Any, BytePairTokenizer]]:
    """Qwen2's splitting, GPT-2's, and SmolLM's, each as the library reads it and as we do."""
    qwen2 = json.loads(tiny.tokenizer_json())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    qwen2["added_tokens"] = [entry | flags for entry in qwen2["added_tokens"]]
    qwen2 |= {"version": "1.0", "truncation": None, "padding": None, "post_processor": None, "decoder": None}
    others = [qwen2 | {"pre_tokenizer": pre_tokenizer(*steps)} for steps in ((GPT2,), (DIGITS, GPT2))]
    texts = [json.dumps(content) for content in (qwen2, *others)]
    return [(tokenizers.Tokenizer.from_str(text), BytePairTokenizer(text)) for text in texts]


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_every_text_gets_the_ids_of_the_library_and_comes_back(pairs, text):
    for theirs, ours in pairs:
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert b"".join(map(ours.piece, ids)) == text.encode()


def test_tags_are_found_leftmost_and_longest(pairs):
    for theirs, ours in pairs:
        for text in ("a<think>b</think>", "<<think>>", "<think", "<think><|audio|>the anger"):
            assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids


def test_control_tokens_are_text_only_where_asked(tiny):
    end = tiny.vocabulary.index("<|end|>")
    tokenizer = BytePairTokenizer(tiny.tokenizer_json(), control=(end,))
    assert tokenizer.encode("<|end|>") == [end]
    assert end not in tokenizer.encode("<|end|>", special=False)
    assert (tokenizer.piece(end), tokenizer.piece(end, special=True)) == (b"", b"<|end|>")
    assert tokenizer.encode("<think>", special=False) == tokenizer.encode("<think>")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"type": "WordPiece", "vocab": {}, "merges": []}}, "a WordPiece model"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}, "lacks 255 of the 256 byte tokens"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": [], "byte_fallback": True}}, "byte_fallback"),
        ({"model": {"type": "BPE", "vocab": [], "merges": []}}, "not a tokenizer.json"),
        ({"model": None}, "not a tokenizer.json"),
        ({"normalizer": {"type": "NFC"}}, "a normalizer"),
        ({"pre_tokenizer": None}, "no pre_tokenizer"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
        ({"pre_tokenizer": pre_tokenizer(DIGITS)}, "does not end at bytes"),
        ({"pre_tokenizer": pre_tokenizer(GPT2 | {"add_prefix_space": True})}, "add_prefix_space"),
        (
            {
                "pre_tokenizer": pre_tokenizer(
                    {"type": "Split", "pattern": {"Regex": r"\p{Lu}+"}, "behavior": "Isolated", "invert": False}, GPT2
                )
            },
            r"\\p\{Lu\} in a pattern",
        ),
        ({"added_tokens": [{"id": 0, "content": "x", "lstrip": True}]}, "take spaces or whole words"),
    ],
)
def test_what_would_be_read_otherwise_is_refused(tiny, changes, message):
    with pytest.raises(ValueError, match=message):
        BytePairTokenizer(edited(tiny.tokenizer_json(), **changes))
