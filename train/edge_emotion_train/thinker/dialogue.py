"""What the thinker is asked and how it answers: the words of the training views, or those of EmotionThinker.

The released checkpoint was trained with one system prompt, one question and nine answers, which are kept to the letter
(github.com/dingdongwang/EmotionThinker, scripts/emotionthinker_infer.py; the prompt is that of R1-V and R1-Omni). Which
of our emotions an answer means is said by `edge_emotion.labels` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from edge_emotion.labels import normalise_label
from edge_emotion.prompt import Prompt
from edge_emotion_train.labelling.rows import assistant_message, text_part
from edge_emotion_train.labelling.view_reasoning import QUESTIONS, full_answer

Dialogue = Literal["plain", "emotionthinker"]
Conversation = list[dict[str, Any]]

SYSTEM = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> "
    "reasoning process here </think><answer> answer here </answer>."
)
ANSWERS = ("neutral", "happy", "sad", "angry", "contempt or disgust", "confused", "whisper", "surprise", "fear")
# `<audio>` is plain text to this model, but it was there in training.
QUESTION = (
    "<audio>What is the emotion expressed in this audio clip? Please choose one from the following options: "
    f"{', '.join(ANSWERS)}."
)
MAX_THINK_TOKENS = 512


class NoAnswerError(ValueError):
    """A row whose emotion the dialogue has no answer for."""


def known_or_same(answer: str) -> str:
    """An answer by our name of the emotion; one that is none of our emotions (`confused`, `whisper`) keeps its own."""
    try:
        return normalise_label(answer)
    except ValueError:
        return answer


def answer_for(emotion: str) -> str:
    """How EmotionThinker writes an emotion.

    Raises:
        NoAnswerError: It has no answer for it, as for boredom.
    """
    for answer in ANSWERS:
        if known_or_same(answer) == known_or_same(emotion):
            return answer
    raise NoAnswerError(f"EmotionThinker has no answer for {emotion!r}")


def answers_of(dialogue: Dialogue, row: Mapping[str, Any]) -> tuple[str, ...]:
    """What may be answered to a row's question about the emotion."""
    return ANSWERS if dialogue == "emotionthinker" else tuple(row["labels"])


def spoken(dialogue: Dialogue, row: Mapping[str, Any]) -> Conversation:
    """A row's conversation as the dialogue has it; only questions about the emotion are worded differently.

    Raises:
        NoAnswerError: See `answer_for`.
    """
    if dialogue == "plain" or not row.get("emotion"):
        return list(row["messages"])
    answer = answer_for(row["emotion"])
    messages = []
    for message in row["messages"]:
        if message["role"] == "user":
            heard = [part for part in message["content"] if part["type"] == "audio"]
            messages.append({"role": "user", "content": [*heard, text_part(QUESTION)]})
        elif message["role"] == "assistant":
            messages.append(assistant_message(full_answer(row["reasoning"], answer)))
    return [{"role": "system", "content": [text_part(SYSTEM)]}, *messages]


def prompt_of(dialogue: Dialogue, labels: Sequence[str]) -> Prompt:
    """What a device reads around the audio, by Qwen's chat template.

    Qwen2's splitting reads `>angry` as one word, so the `>` of `<answer>` is scored with the label: it is how the model
    itself would write it.

    Args:
        dialogue: Whose words.
        labels: What may be answered, where the dialogue is plain.
    """
    answers = ANSWERS if dialogue == "emotionthinker" else tuple(labels)
    question = QUESTION if dialogue == "emotionthinker" else QUESTIONS[0].format(labels=", ".join(labels))
    system = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n" if dialogue == "emotionthinker" else ""
    return Prompt(
        before_audio=f"{system}<|im_start|>user\n<|audio_bos|>",
        after_audio=f"<|audio_eos|>{question}<|im_end|>\n<|im_start|>assistant\n",
        answer_open="</think><answer",
        answer_close="</answer>",
        stop=("</think>",),
        max_think_tokens=MAX_THINK_TOKENS,
        label_texts=tuple(f">{answer}" for answer in answers),
    )
