"""What one export of a Qwen2.5-Omni checkpoint works on, passed between its parts."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edge_emotion.errors import ExportError
from edge_emotion_runtimes.interfaces import LanguageModel
from edge_emotion_runtimes.language_models import open_language_model
from edge_emotion_train.frontend import SAMPLE_RATE_HZ

from .omni_checkpoint import OmniCheckpoint
from .omni_encoder import TOKENS_PER_S
from .omni_prompt import Speaker, Speech
from .omni_workspace import Workspace
from .onnx_encoder import MAX_SAMPLES


@dataclass(frozen=True)
class Job:
    """What one export works on; `speaker` is the checkpoint as parity speaks with it: a short thinking."""

    checkpoint: OmniCheckpoint
    speech: Speech
    speaker: Speaker
    work: Workspace
    name: str
    version: str
    keep_failing: bool

    @property
    def folder(self) -> Path:
        """Where files are written."""
        return self.work.folder

    def context_tokens(self) -> int:
        """Room for the longest clip, the whole thinking and the answer, and no more: the cache is as large as it says.

        Raises:
            ExportError: The language model has no such room.
        """
        prompt, most = self.speech.prompt, self.checkpoint.text.max_position_embeddings
        texts = (prompt.before_audio, prompt.after_audio, prompt.answer_open, prompt.answer_close)
        longest = max(self.speech.label_texts, key=len)
        fixed = sum(len(self.checkpoint.tokenizer.encode(text).ids) for text in (*texts, longest))
        needed = fixed + math.ceil(MAX_SAMPLES / SAMPLE_RATE_HZ * TOKENS_PER_S) + prompt.max_think_tokens + 16
        if needed > most:
            raise ExportError(f"30 s of audio and the prompt need {needed} tokens of context, the model has {most}")
        return min(math.ceil(needed / 256) * 256, most)

    def open(self, path: Path) -> closing[LanguageModel]:
        """A language model as the device runs it by default."""
        return closing(open_language_model(path, self.context_tokens()))
