"""The emotions and every name that corpora, models and people give them.

Words mean the same everywhere; codes (EmoDB's letters, RAVDESS's numbers, three-letter codes) collide between corpora
and hold only for the corpus that uses them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

EMOTIONS: tuple[str, ...] = ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")

# English, German, and the words of emotion2vec, FunASR and SenseVoice (which prefix theirs in Chinese).
_WORDS: Mapping[str, str] = {
    "anger": "anger angry angriness rage raging fury furious irritated irritation annoyed annoyance mad "
    "wut wütend wuetend ärger aerger ärgerlich aergerlich zorn zornig verärgert 生气 愤怒",
    "boredom": "boredom bored boring langeweile gelangweilt 无聊",
    "disgust": "disgust disgusted disgusting revulsion contempt_or_disgust ekel angeekelt 厌恶",
    "fear": "fear fearful afraid scared anxiety anxious frightened terrified terror angst ängstlich aengstlich furcht "
    "furchtsam 恐惧 害怕",
    "happiness": "happiness happy joy joyful elation elated joyous cheerful freude freudig fröhlich froehlich glück "
    "glücklich gluecklich 开心 高兴",
    "neutral": "neutral neutrality calm calmness neutrally neutralität neutralitaet ruhig 中立 中性",
    "sadness": "sadness sad sorrow sorrowful unhappy trauer traurig traurigkeit 难过 悲伤",
    "surprise": "surprise surprised pleasant_surprise pleasantly_surprised astonishment astonished amazed "
    "überraschung ueberraschung überrascht ueberrascht 吃惊 惊讶",
}
_CODES: Mapping[str, Mapping[str, str]] = {
    # http://emodb.bilderbar.info: Wut, Langeweile, Ekel, Angst, Freude, Trauer, Neutral
    "emodb": {
        "w": "anger", "l": "boredom", "e": "disgust", "a": "fear", "f": "happiness", "t": "sadness", "n": "neutral",
    },
    # Third field of a RAVDESS file name; calm (02) is spoken without emotion and counts as neutral.
    "ravdess": {
        "01": "neutral", "02": "neutral", "03": "happiness", "04": "sadness",
        "05": "anger", "06": "fear", "07": "disgust", "08": "surprise",
    },
    "crema-d": {
        "ang": "anger", "dis": "disgust", "fea": "fear", "hap": "happiness", "neu": "neutral", "sad": "sadness",
    },
    "tess": {"ps": "surprise", "pleasant_surprised": "surprise"},
    # Excited counts as happiness, as in nearly every paper on IEMOCAP; frustration (fru) has no counterpart here.
    "iemocap": {
        "ang": "anger", "hap": "happiness", "exc": "happiness", "excited": "happiness", "excitement": "happiness",
        "sad": "sadness", "neu": "neutral", "fea": "fear", "sur": "surprise", "dis": "disgust", "bor": "boredom",
    },
    "meld": {},
    "emotion2vec": {},
    "emogator": {},
}  # fmt: skip
CORPORA: tuple[str, ...] = tuple(_CODES)
_EMOTION_OF: Mapping[str, str] = {word: emotion for emotion, words in _WORDS.items() for word in words.split()}


def normalise_label(text: str, corpus: str | None = None) -> str:
    """The emotion of `EMOTIONS` that a label of a corpus, a model or a person means.

    Args:
        text: A label such as "anger", "Angry", "Wut", "<|HAPPY|>" or "生气/angry"; with `corpus` also its codes, "W".
        corpus: One of `CORPORA`, whose codes are then understood; None for words only.

    Raises:
        ValueError: The text is no known emotion, or the corpus is unknown; the message suggests what was meant.
    """
    codes: Mapping[str, str] = {}
    if corpus is not None:
        key = _corpus_key(corpus)
        if key not in _CODES:
            raise ValueError(f"unknown corpus {corpus!r}; known corpora: {', '.join(CORPORA)}")
        codes = _CODES[key]
    for candidate in _candidates(text):
        emotion = codes.get(candidate) or _EMOTION_OF.get(candidate)
        if emotion is not None:
            return emotion
    raise ValueError(_unknown(text, corpus))


def names_of(emotion: str) -> tuple[str, ...]:
    """Every word that means an emotion of `EMOTIONS`, in lower case; codes of corpora are not among them."""
    return tuple(_WORDS[emotion].split())


def _corpus_key(corpus: str) -> str:
    key = re.sub(r"[\s_]+", "-", corpus.strip().casefold())
    return {"cremad": "crema-d", "emo-db": "emodb"}.get(key, key)


def _candidates(text: str) -> list[str]:
    """The whole label first, then its parts, because FunASR writes 生气/angry and TESS writes OAF_Fear."""
    bare = re.sub(r"^<\|(.*)\|>$", r"\1", str(text).strip()).casefold().strip(" \t\n.,:;!?\"'`*_()[]")
    underscored = re.sub(r"[\s\-]+", "_", bare)
    parts = [part for part in bare.split("/") if part] if "/" in bare else []
    if underscored.startswith(("oaf_", "yaf_")):
        parts.append(underscored[4:])
    return [bare, underscored, *(part.strip() for part in parts)]


def _unknown(text: str, corpus: str | None) -> str:
    words = list(_EMOTION_OF)
    near = difflib.get_close_matches(str(text).strip().casefold()[:64], words, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(dict.fromkeys(_EMOTION_OF[word] for word in near))}?" if near else ""
    owners = [name for name, codes in _CODES.items() if str(text).strip().casefold() in codes and name != corpus]
    if owners:
        hint += f"; it is a code of {', '.join(owners)}: name the corpus"
    return f"unknown emotion {str(text)[:64]!r}; known emotions: {', '.join(EMOTIONS)}{hint}"
