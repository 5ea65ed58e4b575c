"""Qwen2.5-Omni's thinker and models of its class: supervised training on conversations with audio, and what GRPO needs.

The processor is transformers' `Qwen2AudioProcessor`, which makes the thinker's inputs without needing torchvision. Rows
are those of the training views: `messages` with audio and text parts, the last one the assistant's in supervised
training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, Qwen2AudioProcessor, WhisperFeatureExtractor
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

# Bare names would hit the audio tower as well.
LORA_TARGETS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def omni_processor(tokenizer: Any, longest_s: int = 10, mel_bands: int = 128) -> Qwen2AudioProcessor:
    """A processor for the thinker.

    Args:
        tokenizer: Tokenizer with the audio tokens `<|AUDIO|>`, `<|audio_bos|>`, `<|audio_eos|>`.
        longest_s: Longest recording; every recording is padded to it, so the stock 300 s would cost 100 times more.
        mel_bands: Mel bands of the audio tower.
    """
    extractor = WhisperFeatureExtractor(feature_size=mel_bands, chunk_length=longest_s, padding_value=0.0)
    return Qwen2AudioProcessor(extractor, tokenizer, chat_template=CHAT_TEMPLATE)


def load_processor(folder: Path, longest_s: int = 10) -> Qwen2AudioProcessor:
    """The processor of a downloaded Qwen2.5-Omni, or of a model derived from it."""
    return omni_processor(AutoTokenizer.from_pretrained(folder), longest_s)


def audio_token_ids(processor: Any) -> list[int]:
    """Ids that must never be sampled: a placeholder in a completion would have no audio to stand for."""
    names = (processor.audio_token, processor.audio_bos_token, processor.audio_eos_token)
    return [int(processor.tokenizer.convert_tokens_to_ids(name)) for name in names]


def lora(rank: int) -> LoraConfig:
    """LoRA on the language model's linear layers, the audio parts frozen."""
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_TARGETS)


class ConversationCollator:
    """Conversations to a padded batch; only the assistant's last message, with its end, is learned."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.pad_id = int(processor.tokenizer.pad_token_id)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        prompts = [without_nulls(row["messages"][:-1]) for row in rows]
        read = self.processor.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)
        ids, labels = [], []
        for row, prompt_ids in zip(rows, read["input_ids"], strict=True):
            answer = self.processor.tokenizer(reply_of(row) + "<|im_end|>")["input_ids"]
            ids.append(torch.tensor([*prompt_ids, *answer]))
            labels.append(torch.tensor([-100] * len(prompt_ids) + answer))
        pad = torch.nn.utils.rnn.pad_sequence
        input_ids = pad(ids, batch_first=True, padding_value=self.pad_id)
        lengths = torch.tensor([len(row) for row in ids])
        audio = {name: torch.as_tensor(values) for name, values in _audio_fields(read).items()}
        return {
            "input_ids": input_ids,
            "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
            "labels": pad(labels, batch_first=True, padding_value=-100),
            **audio,
        }


def reply_of(row: Mapping[str, Any]) -> str:
    """The text of a row's last message."""
    content = row["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content if part.get("text"))


def without_nulls(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as written, without the empty keys that Arrow gives every part."""
    return [
        dict(message)
        | (
            {"content": [{k: v for k, v in part.items() if v is not None} for part in message["content"]]}
            if not isinstance(message["content"], str)
            else {}
        )
        for message in messages
    ]


def sft_trainer(
    model: PreTrainedModel,
    processor: Any,
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    accumulation: int = 1,
    lora_rank: int = 0,
    seed: int = 0,
) -> SFTTrainer:
    """A trainer of stage I (`lora_rank` 0: encoder, projector and language model) or stage II (LoRA, audio frozen)."""
    on_gpu = torch.cuda.is_available()
    arguments = SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=learning_rate,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        seed=seed,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        gradient_checkpointing=on_gpu,
        remove_unused_columns=False,
        max_length=None,  # cutting a prompt would cut audio placeholders
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    return SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list([{"messages": list(row["messages"])} for row in rows]),
        processing_class=processor,
        data_collator=ConversationCollator(processor),  # pyright: ignore[reportArgumentType]
        peft_config=lora(lora_rank) if lora_rank else None,
    )


def grpo_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the GRPO view as `run.trainer_of` takes them."""
    return [{"prompt": list(row["messages"]), "id": row["id"], "emotion": row["emotion"]} for row in rows]


def _audio_fields(read: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.array(values) for name, values in read.items() if name not in ("input_ids", "attention_mask")}
