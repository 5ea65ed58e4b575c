"""The prosody tasks for small models: what is asked of cached audio, what the answer is, how often it is given.

Questions, levels and orders are those of the data engine's views (`labelling/view_prosody.py`,
`labelling/ordering.py`). A question stands after the audio, where reasoning has its `<think>`, and the answer is one of
a few. Which words are stressed is not asked: EmoDB has ten sentences, and a model of 768 tokens would learn the usual
stress of each by heart.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from edge_emotion.cues import CUE_BY_NAME, Thresholds, level_of
from edge_emotion.metrics import bootstrap_interval
from edge_emotion.prompt import Prompt

from .explanations import Explanation, value_at
from .features import FeatureSet
from .generate import generate
from .labelling.ordering import PLACES, order_answer, order_question
from .labelling.view_prosody import (
    INTONATIONS,
    LEVEL_TASKS,
    MIN_CONFIDENCE,
    QUESTIONS,
    accepted_levels,
    question,
    three_way,
)
from .prosody_features import ProsodyFeatures
from .sft import AudioInputs, Example, SpeechLanguageModel, Text, frames_of, pad_frames, tokenise
from .tokenizer import TAGS

ORDER_TASKS: Mapping[str, str] = {f"order_{attribute}": attribute for attribute in PLACES}
TASKS: tuple[str, ...] = (*LEVEL_TASKS, "intonation", *ORDER_TASKS)
TRANSCRIPT_QUESTION = "What does the speaker say?"
AUDIO_END, ANSWER_OPEN = TAGS[1], TAGS[4]
BATCH = 64


@dataclass(frozen=True)
class Item:
    """One question about one recording.

    Attributes:
        task: One of `TASKS`.
        row: Row of the clips' features, of the triples' for an order.
        options: What may be answered.
        answer: What was measured.
        accepted: Answers that a measurement no surer than this allows, `answer` among them.
        cuts: Where the second and the third of a triple begin; empty for the other tasks.
    """

    task: str
    row: int
    options: tuple[str, ...]
    answer: str
    accepted: tuple[str, ...]
    cuts: tuple[int, ...] = ()


def prosody_items(features: FeatureSet, prosody: ProsodyFeatures, thresholds: Thresholds) -> dict[str, list[Item]]:
    """Every question that can be asked about these rows, by task; triples count where their clip is among the rows."""
    items: dict[str, list[Item]] = {task: [] for task in TASKS}
    shapes = {(shape.clip, shape.variant): shape for shape in prosody.shapes}
    for index, row in enumerate(features.rows):
        for task, (cues, names) in LEVEL_TASKS.items():
            name = next((cue for cue in cues if cue in row.positions and cue in thresholds.cuts), None)
            if name is None:
                continue
            cue, value = CUE_BY_NAME[name], value_at(name, row.positions[name])
            answer = three_way(cue.levels, level_of(cue, value, thresholds), names)
            near = accepted_levels(cue, value, thresholds, names)
            items[task].append(Item(task, index, names, answer, near))
        shape = shapes.get((row.clip, row.variant))
        if shape and shape.shape in INTONATIONS and shape.confidence >= MIN_CONFIDENCE:
            items["intonation"].append(Item("intonation", index, INTONATIONS, shape.shape, (shape.shape,)))
    clips = {row.clip for row in features.rows}
    for index, (row, order) in enumerate(zip(prosody.triples.rows, prosody.orders, strict=True)):
        if row.clip in clips:
            task, answer = f"order_{order.attribute}", order_answer(order.places)
            orders = tuple(order_answer(places) for places in itertools.permutations(PLACES[order.attribute]))
            items[task].append(Item(task, index, orders, answer, (answer,), order.cuts))
    return items


def wordings(task: str) -> tuple[str, ...]:
    """Every wording of a task's question."""
    if task in ORDER_TASKS:
        return (order_question(ORDER_TASKS[task]),)
    options = INTONATIONS if task == "intonation" else LEVEL_TASKS[task][1]
    return tuple(
        asked
        for seed in range(8 * len(QUESTIONS[task]))
        for asked in [question(task, "", seed, options, None)]
        if asked not in [question(task, "", earlier, options, None) for earlier in range(seed)]
    )


def asking(prompt: Prompt, asked: str) -> Prompt:
    """The prompt with a question in place of the thinking."""
    return replace(prompt, after_audio=AUDIO_END + asked, answer_open=ANSWER_OPEN, max_think_tokens=0)


def prosody_texts() -> list[str]:
    """All that can be asked and answered, for the tokenizer."""
    answers = [name for _, names in LEVEL_TASKS.values() for name in names] + list(INTONATIONS)
    return [asked for task in TASKS for asked in wordings(task)] + answers + [order_answer(p) for p in PLACES.values()]


def prosody_examples(
    items: Mapping[str, Sequence[Item]],
    features: FeatureSet,
    prosody: ProsodyFeatures,
    cue_values: np.ndarray,
    emotion_logits: np.ndarray,
    tokenizer: Tokenizer,
    prompt: Prompt,
    max_duration_s: float,
) -> dict[str, list[Example]]:
    """Training examples by task.

    Evidence tokens say what a recording is like as a whole, which tells nothing about the order in a triple: there only
    audio tokens are heard. The three of a triple are also put in every other order, in their cached frames: six times
    as many examples for nothing, in which only the encoder's view across the silences is not what it would be.

    Args:
        items: From `prosody_items` of the same features.
        features: `n` rows.
        prosody: Their triples.
        cue_values: Out-of-fold evidence, `(n, cues)`.
        emotion_logits: `(n, labels)`.
        tokenizer: The model's.
        prompt: The model's.
        max_duration_s: Longer clips are left out; triples last about three times as long and are not.
    """

    @cache
    def said(asked: str, answer: str) -> Text:
        return tokenise(Explanation("", answer, ()), tokenizer, asking(prompt, asked))

    values, logits = torch.from_numpy(cue_values).float(), torch.from_numpy(emotion_logits).float()
    examples: dict[str, list[Example]] = {}
    for task, of_task in items.items():
        asked = wordings(task)
        if task in ORDER_TASKS:
            silent = torch.zeros(values.shape[1]), torch.zeros(logits.shape[1])
            examples[task] = [
                Example(
                    prosody.triples,
                    item.row,
                    *silent,
                    [
                        replace(said(asked[0], answer), pieces=pieces)
                        for answer, pieces in arrangements(item, prosody.triples)
                    ],
                    evidence=False,
                )
                for item in of_task
            ]
        else:
            examples[task] = [
                Example(features, item.row, values[item.row], logits[item.row], [said(a, item.answer) for a in asked])
                for item in of_task
                if features.rows[item.row].duration_s <= max_duration_s
            ]
    return examples


def arrangements(item: Item, triples: FeatureSet) -> list[tuple[str, tuple[tuple[int, int], ...]]]:
    """The six orders in which the three of a triple can be heard: the answer, and the stretches of frames."""
    start, end = triples.offsets[item.row : item.row + 2]
    spans = list(itertools.pairwise((0, *item.cuts, int(end - start))))
    three = list(zip(item.answer.split(", "), spans, strict=True))
    return [
        (order_answer([place for place, _ in order]), tuple(span for _, span in order))
        for order in itertools.permutations(three)
    ]


def transcript_examples(
    features: FeatureSet,
    texts: Mapping[str, str],
    cue_values: np.ndarray,
    emotion_logits: np.ndarray,
    tokenizer: Tokenizer,
    prompt: Prompt,
    max_duration_s: float,
) -> list[Example]:
    """Clips with what is said in them. Of a corpus of ten sentences this teaches which of ten, not to recognise speech.

    Args:
        features: `n` rows.
        texts: What is said, by clip.
        cue_values: Out-of-fold evidence, `(n, cues)`.
        emotion_logits: `(n, labels)`.
        tokenizer: The model's.
        prompt: The model's.
        max_duration_s: Longer clips are left out.
    """
    values, logits = torch.from_numpy(cue_values).float(), torch.from_numpy(emotion_logits).float()
    asked = asking(prompt, TRANSCRIPT_QUESTION)
    return [
        Example(features, i, values[i], logits[i], [tokenise(Explanation("", texts[row.clip], ()), tokenizer, asked)])
        for i, row in enumerate(features.rows)
        if row.clip in texts and row.duration_s <= max_duration_s
    ]


# --- figures ---------------------------------------------------------------------------------------------------------


def answer_items(
    model: SpeechLanguageModel,
    tokenizer: Tokenizer,
    prompt: Prompt,
    items: Sequence[Item],
    features: FeatureSet,
    prosody: ProsodyFeatures,
    cue_values: np.ndarray,
    emotion_logits: np.ndarray,
    *,
    audio_of: Sequence[int] | None = None,
    evidence: bool = True,
    frames: bool = True,
) -> list[str]:
    """The likeliest option of each question, all of one task.

    Args:
        items: Of one task.
        features: `n` rows.
        prosody: Their triples.
        cue_values: What the heads say of the rows, `(n, cues)`; not heard in triples.
        emotion_logits: `(n, labels)`.
        audio_of: Rows whose audio is heard instead: the control that must destroy the answer.
        evidence: Whether evidence tokens are heard.
        frames: Whether audio tokens are heard.
    """
    if not items:
        return []
    rows = [item.row for item in items] if audio_of is None else list(audio_of)
    task, options = items[0].task, items[0].options
    heard = prosody.triples if task in ORDER_TASKS else features
    asked, evidence = asking(prompt, wordings(task)[0]), evidence and task not in ORDER_TASKS
    said: list[str] = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        padded, mask = pad_frames([frames_of(heard, row) for row in batch], model.evidence.tokens)
        mask[:, : model.evidence.tokens] &= evidence
        mask[:, model.evidence.tokens :] &= frames
        values, logits = (
            torch.from_numpy(part[batch] if evidence else np.zeros((len(batch), part.shape[1]))).float()
            for part in (cue_values, emotion_logits)
        )
        inputs = AudioInputs(values, logits, padded, mask)
        scores = generate(model, tokenizer, asked, options, inputs).label_scores
        said += [options[best] for best in scores.argmax(axis=1)]
    return said


def accuracy_with_interval(items: Sequence[Item], said: Sequence[str], speakers: Sequence[str]) -> dict[str, Any]:
    """Accuracy with its 95 % bootstrap interval over speakers, chance, and the share of the commonest answer."""
    right = np.array([answer == item.answer for item, answer in zip(items, said, strict=True)])
    allowed = np.array([answer in item.accepted for item, answer in zip(items, said, strict=True)])
    if not len(right):
        return {"accuracy": None, "questions": 0}
    interval = bootstrap_interval(lambda r: float(np.mean(r)), right, groups=np.array(speakers))
    return {
        "accuracy": round(float(right.mean()), 4),
        "accuracy_95": [round(bound, 4) for bound in interval],
        "within_uncertainty": round(float(allowed.mean()), 4),
        "chance": round(1.0 / len(items[0].options), 4),
        "majority": round(Counter(item.answer for item in items).most_common(1)[0][1] / len(items), 4),
        "questions": len(items),
    }


def accuracies(
    model: SpeechLanguageModel,
    tokenizer: Tokenizer,
    prompt: Prompt,
    items: Mapping[str, Sequence[Item]],
    features: FeatureSet,
    prosody: ProsodyFeatures,
    cue_values: np.ndarray,
    emotion_logits: np.ndarray,
) -> dict[str, float]:
    """Accuracy of each task, as `accuracy/TASK`; for curves, so of at most a batch of questions each.

    Args:
        items: From `prosody_items` of the same features.
        features: `n` rows of speakers that are not trained on.
        prosody: Their triples.
        cue_values: What the heads say of them, `(n, cues)`.
        emotion_logits: `(n, labels)`.
    """
    found = {}
    training = model.training
    model.eval()
    for task, of_task in items.items():
        some = of_task[:: -(-len(of_task) // BATCH) or 1]
        said = answer_items(model, tokenizer, prompt, some, features, prosody, cue_values, emotion_logits)
        if said:
            found[f"accuracy/{task}"] = float(np.mean([a == i.answer for a, i in zip(said, some, strict=True)]))
    model.train(training)
    return found
