"""Byte-level BPE as a `tokenizer.json` describes it: text to token ids and back, by the standard library alone.

The Hugging Face tokenizers library would be the largest part of a device's installation for a few dozen lines of work.
What is read here is the part of its format that GPT-2, Qwen2, SmolLM and our own tokenizers use; the rest is refused.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import Any

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class BytePairTokenizer:
    """Reads and writes text as a `tokenizer.json` says.

    Args:
        text: Content of a `tokenizer.json` with a byte-level BPE.
        control: Ids of tokens that are never text, besides those the file calls special.

    Raises:
        ValueError: The content is no such tokenizer; says what is not supported.
    """

    def __init__(self, text: str, control: Collection[int] = ()) -> None:
        content = _parse(text)
        model, added = content["model"], content.get("added_tokens") or []
        self._ids: dict[str, int] = {str(token): int(identity) for token, identity in model["vocab"].items()}
        pairs = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
        self._ranks: dict[tuple[str, ...], int] = {pair: rank for rank, pair in enumerate(pairs)}
        self._splits = [re.compile(pattern, re.ASCII) for pattern in _split_patterns(content.get("pre_tokenizer"))]
        self._added: dict[str, int] = {entry["content"]: int(entry["id"]) for entry in added}
        self._control = {*control, *(int(entry["id"]) for entry in added if entry.get("special"))}
        missing = [character for character in _BYTE_CHARACTERS if character not in self._ids]
        if missing:
            raise ValueError(f"the vocabulary lacks {len(missing)} of the 256 byte tokens")
        self._pieces = {identity: _bytes_of(token) for token, identity in self._ids.items()}
        self._pieces |= {identity: token.encode() for token, identity in self._added.items()}
        plain = {token: identity for token, identity in self._added.items() if identity not in self._control}
        self._finders = {special: _finder(tokens) for special, tokens in ((True, self._added), (False, plain))}
        self.size = 1 + max(self._pieces)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text; `special` reads control tokens too where they stand in the text.

        Raises:
            UnicodeEncodeError: The text holds half a character (a lone surrogate).
        """
        text.encode()
        ids: list[int] = []
        finder = self._finders[special]
        for index, part in enumerate(finder.split(text) if finder else [text]):
            if index % 2:
                ids.append(self._added[part])
            else:
                for word in self._words(part):
                    ids += self._merge([_BYTE_CHARACTERS[byte] for byte in word.encode()])
        return ids

    def piece(self, token: int, special: bool = False) -> bytes:
        """UTF-8 of a token, perhaps a part of a character; control tokens are empty unless `special`."""
        return self._pieces.get(token, b"") if special or token not in self._control else b""

    def _words(self, text: str) -> list[str]:
        """The stretches of a text that merges never cross."""
        words = [text] if text else []
        for split in self._splits:
            words = [part for word in words for part in _isolate(split, word)]
        return words

    def _merge(self, symbols: list[str]) -> Iterator[int]:
        never = len(self._ranks)
        while len(symbols) > 1:
            ranks = [self._ranks.get(pair, never) for pair in pairwise(symbols)]
            best = min(ranks)
            if best == never:
                break
            at = ranks.index(best)
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        return (self._ids[symbol] for symbol in symbols)


def _parse(text: str) -> Mapping[str, Any]:
    content = json.loads(text)
    try:
        model = content["model"]
        kind, options = model["type"], {key: model.get(key) for key in _UNSUPPORTED}
        stripped = [entry["content"] for entry in content.get("added_tokens") or () if _is_greedy(entry)]
        if not isinstance(model["vocab"], dict) or not isinstance(model["merges"], list):
            raise TypeError("vocab must be an object and merges a list")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a tokenizer.json ({error!r})") from error
    if kind != "BPE":
        raise ValueError(f"a {kind} model; only byte-level BPE is supported")
    if content.get("normalizer") is not None:
        raise ValueError("a normalizer, which is not supported")
    if wrong := [key for key, value in options.items() if value]:
        raise ValueError(f"the BPE options {', '.join(wrong)}, which are not supported")
    if stripped:
        raise ValueError(f"added tokens that take spaces or whole words ({', '.join(stripped)}), not supported")
    return content


_UNSUPPORTED = ("byte_fallback", "dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")


def _is_greedy(entry: Mapping[str, Any]) -> bool:
    return any(entry.get(key) for key in ("lstrip", "rstrip", "single_word"))


def _split_patterns(pre_tokenizer: Mapping[str, Any] | None) -> list[str]:
    """Regular expressions whose matches, and what lies between them, are words; applied one after the other."""
    if pre_tokenizer is None:
        raise ValueError("no pre_tokenizer; a byte-level one is needed")
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    patterns = []
    for step in steps:
        kind = step["type"]
        if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"] and "Regex" in step["pattern"]:
            patterns.append(step["pattern"]["Regex"])
        elif kind == "Digits":
            patterns.append(r"\p{N}" if step["individual_digits"] else r"\p{N}+")
        elif kind == "ByteLevel" and not step["add_prefix_space"]:
            patterns += [GPT2_PATTERN] if step.get("use_regex", True) else []
        else:
            raise ValueError(f"the pre-tokenizer {json.dumps(step)[:120]}, which is not supported")
    if not steps or steps[-1]["type"] != "ByteLevel":
        raise ValueError("a pre_tokenizer that does not end at bytes")
    return [_in_ascii(pattern) for pattern in patterns]


# `re` knows no \p{L}: patterns run over a copy of the text in which each character is one of ASCII of the same class.
_CLASSES = {"L": "A-Za-z", "N": "0-9"}


def _in_ascii(pattern: str) -> str:
    inside = False
    parts = []
    for part in re.findall(r"\\p\{\w+\}|\\.|.", pattern, re.DOTALL):
        inside = (inside or part == "[") and part != "]"
        if part.startswith(r"\p"):
            if part[3:-1] not in _CLASSES:
                raise ValueError(f"{part} in a pattern of the pre-tokenizer, which is not supported")
            part = _CLASSES[part[3:-1]] if inside else f"[{_CLASSES[part[3:-1]]}]"
        parts.append(part)
    return "".join(parts)


class _Stand(dict[int, str]):
    """What stands for a character in the copy: itself in ASCII, else a letter, a digit, a tab or a sign."""

    def __missing__(self, code: int) -> str:
        category = unicodedata.category(chr(code))
        if code < 128:
            stand = chr(code)
        elif category[0] in "LN":
            stand = "x" if category[0] == "L" else "0"
        else:
            stand = "\t" if category[0] == "Z" or code == 0x85 else "#"
        self[code] = stand
        return stand


_STAND = _Stand()


def _isolate(split: re.Pattern[str], text: str) -> Iterator[str]:
    end = 0
    for match in split.finditer(text.translate(_STAND)):
        if match.start() > end:
            yield text[end : match.start()]
        if match.group():
            yield text[match.start() : match.end()]
        end = match.end()
    if end < len(text):
        yield text[end:]


def _finder(tokens: Mapping[str, int]) -> re.Pattern[str] | None:
    """Finds the leftmost, then longest token; as one group, so that `split` returns the tokens too."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if tokens else None


def _byte_characters() -> list[str]:
    """The character that stands for each byte in a vocabulary (GPT-2's table): printable ones stand for themselves."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


_BYTE_CHARACTERS = _byte_characters()
_BYTE_OF = {character: byte for byte, character in enumerate(_BYTE_CHARACTERS)}


def _bytes_of(token: str) -> bytes:
    """Bytes of a vocabulary entry; one that is not written in byte characters is taken as it is."""
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        return token.encode()
