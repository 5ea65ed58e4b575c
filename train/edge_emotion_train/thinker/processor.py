"""Conversations with audio to what the thinker reads.

The processor is transformers' `Qwen2AudioProcessor`: it makes the thinker's inputs, by the same formula for the number
of audio tokens, and needs no torchvision, as the Omni's own does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, Qwen2AudioProcessor, WhisperFeatureExtractor

from edge_emotion.audio import load_audio
from edge_emotion.errors import AudioError, ConfigError
from edge_emotion_train.frontend import SAMPLE_RATE_HZ
from edge_emotion_train.reinforcement.trainer import PromptReader, TrainingError

END = "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def omni_processor(tokenizer: Any, longest_s: float = 10.0, mel_bands: int = 128) -> Qwen2AudioProcessor:
    """A processor for the thinker.

    Args:
        tokenizer: Tokenizer with the audio tokens `<|AUDIO|>`, `<|audio_bos|>`, `<|audio_eos|>`.
        longest_s: Longest recording. Features are padded to it before they are cut to the longest of the batch, so the
            stock 300 s would cost 100 times more.
        mel_bands: Mel bands of the audio tower.
    """
    # A second of zeros at least follows each recording, so the last frames are as on a device, which pads too.
    seconds = math.floor(longest_s) + 2
    extractor = WhisperFeatureExtractor(feature_size=mel_bands, chunk_length=seconds, padding_value=0.0)
    return Qwen2AudioProcessor(extractor, tokenizer, chat_template=CHAT_TEMPLATE)


def load_processor(folder: Path, longest_s: float = 10.0, mel_bands: int = 128) -> Qwen2AudioProcessor:
    """The processor of a downloaded Qwen2.5-Omni, or of a model derived from it.

    Raises:
        ConfigError: The folder holds no tokenizer, or one without the tokens that a thinker needs.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder} holds no tokenizer that can be read ({error}); fetch it again") from error
    needed = ("<|im_start|>", END, "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    missing = [token for token in needed if token not in tokenizer.get_vocab()]
    if missing:
        raise ConfigError(f"the tokenizer in {folder} lacks {', '.join(missing)}: it is none of a Qwen2.5-Omni")
    tokenizer.eos_token = END  # a turn ends there; some published tokenizers name the end of a document
    if tokenizer.pad_token is None:
        tokenizer.pad_token = END
    return omni_processor(tokenizer, longest_s, mel_bands)


def audio_token_ids(processor: Any) -> list[int]:
    """Ids that must never be sampled: a placeholder in a completion would have no audio to stand for."""
    names = (processor.audio_token, processor.audio_bos_token, processor.audio_eos_token)
    return [int(processor.tokenizer.convert_tokens_to_ids(name)) for name in names]


def read_conversations(
    processor: Any, conversations: Sequence[Sequence[Mapping[str, Any]]]
) -> tuple[list[list[int]], dict[str, Tensor]]:
    """Token ids of each conversation up to the assistant's turn, and the audio of all of them.

    Args:
        processor: Of `omni_processor`.
        conversations: Messages whose content is a string or parts; audio parts have a `path`.

    Returns:
        The ids, and `input_features` (recordings, mel bands, frames) with `feature_attention_mask` (recordings,
        frames), cut to the longest recording; without them where nothing is heard.

    Raises:
        TrainingError: A recording cannot be read; it is named.
    """
    texts = processor.apply_chat_template([list(c) for c in conversations], add_generation_prompt=True, tokenize=False)
    paths = [str(part["path"]) for messages in conversations for part in audio_parts(messages)]
    if not paths:
        return processor.tokenizer(texts)["input_ids"], {}
    try:
        waveforms = [load_audio(path).samples for path in paths]
    except AudioError as error:
        raise TrainingError(f"a recording cannot be read any more: {error}") from error
    read = processor(text=texts, audio=waveforms, sampling_rate=SAMPLE_RATE_HZ, return_tensors=None)
    mask = torch.as_tensor(read["feature_attention_mask"])
    longest = int(mask.sum(dim=1).max())
    features = torch.stack([torch.as_tensor(one) for one in read["input_features"]])[..., :longest]
    return [list(ids) for ids in read["input_ids"]], {
        "input_features": features.contiguous(),
        "feature_attention_mask": mask[:, :longest].contiguous(),
    }


def prompt_reader(processor: Any, conversations: Mapping[str, Sequence[Mapping[str, Any]]]) -> PromptReader:
    """Reads prompts for GRPO; a prompt is a key of `conversations`, each of which hears one recording."""

    def read(prompts: Sequence[str]) -> tuple[list[list[int]], dict[str, Tensor]]:
        ids, audio = read_conversations(processor, [conversations[key] for key in prompts])
        broken = ~audio["input_features"].flatten(1).isfinite().all(dim=1)
        if broken.any():
            key = prompts[int(broken.nonzero()[0])]
            raise TrainingError(f"the features of {key} are not finite; mend or remove its recording")
        return ids, audio

    return read


def audio_parts(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The audio parts of a conversation, in order."""
    for message in messages:
        if not isinstance(message["content"], str):
            yield from (part for part in message["content"] if part["type"] == "audio")
