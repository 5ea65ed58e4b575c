"""What a Qwen2.5-Omni reads around the audio and how it writes its answer: EmotionThinker's texts, or one's own.

A checkpoint that was trained otherwise says so in `edge_emotion.json` in its folder, with any of the keys `labels`,
`prompt`, `thresholds`, `calibration` as in a bundle's manifest, `languages` and `licence`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edge_emotion.bundle import Calibration, load_bundle
from edge_emotion.cues import Thresholds
from edge_emotion.errors import ConfigError
from edge_emotion.prompt import Prompt
from edge_emotion_train.thinker.dialogue import ANSWERS, known_or_same, prompt_of

SPEECH_FILE = "edge_emotion.json"


@dataclass(frozen=True)
class Speech:
    """How a checkpoint is spoken with; the attributes are those of a bundle's manifest."""

    labels: tuple[str, ...]
    prompt: Prompt
    thresholds: Thresholds
    calibration: Mapping[str, Calibration]
    languages: tuple[str, ...]
    licence: str

    @property
    def label_texts(self) -> tuple[str, ...]:
        """What the model writes for each label."""
        return self.prompt.texts_of(self.labels)


@dataclass(frozen=True)
class Speaker:
    """What the figures of a language model are measured with: as a `Checkpoint`, but labels are what is written."""

    prompt: Prompt
    tokenizer: Tokenizer
    labels: tuple[str, ...]


def emotionthinker_labels() -> tuple[str, ...]:
    """Its answers by our names; `confused` and `whisper` are none of our emotions and keep theirs."""
    return tuple(known_or_same(answer) for answer in ANSWERS)


def read_speech(folder: Path) -> Speech:
    """How the checkpoint in a folder is spoken with.

    Raises:
        ConfigError: `edge_emotion.json` is there but not valid.
    """
    own = _read_own(folder / SPEECH_FILE)
    try:
        prompt = Prompt.from_dict(own["prompt"]) if "prompt" in own else prompt_of("emotionthinker", ())
        labels = tuple(map(str, own["labels"])) if "labels" in own else emotionthinker_labels()
        prompt.texts_of(labels)
        thresholds = Thresholds.from_dict(own["thresholds"]) if "thresholds" in own else _population_thresholds()
        uncalibrated = {"llm": {"temperature": 1.0, "ece": None, "abstain_below": 0.0}}
        calibration = {name: Calibration(**values) for name, values in own.get("calibration", uncalibrated).items()}
        if set(calibration) != {"llm"}:
            raise ValueError("calibration must have exactly the key llm: this encoder has no emotion head")
        languages = tuple(map(str, own.get("languages", ("en",))))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{folder / SPEECH_FILE}: {error}; its parts are those of a bundle's manifest") from None
    return Speech(labels, prompt, thresholds, calibration, languages, str(own.get("licence") or _licence(folder)))


def _read_own(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    known = ("labels", "prompt", "thresholds", "calibration", "languages", "licence")
    try:
        own = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(own, dict) or set(own) - set(known):
        raise ConfigError(f"{path} must be an object with keys of {', '.join(known)}; given {str(own)[:80]}")
    return own


def _population_thresholds() -> Thresholds:
    """Where cues begin to be high or fast is a matter of voices, not of the model: nano's were measured on people."""
    return load_bundle("nano", verify=False).manifest.thresholds


def _licence(folder: Path) -> str:
    """What the model card says in its header."""
    try:
        header = (folder / "README.md").read_text(encoding="utf-8").split("---")[1].splitlines()
        entries = dict(line.split(":", 1) for line in header if ":" in line and not line.startswith((" ", "-")))
    except (OSError, ValueError, IndexError):
        entries = {}
    named = entries.get("license_name", "").strip() or entries.get("license", "").strip()
    return named or f"not stated by the checkpoint {folder.resolve().name}; ask its authors"
