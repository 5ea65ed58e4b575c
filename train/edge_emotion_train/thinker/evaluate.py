"""Stage `eval`: what a thinker answers and how true its explanations are.

The reply is generated greedily, as the authors' script does. An acoustic claim is checked as on a device: the recording
is measured by `edge_emotion.prosody` and the claim by `edge_emotion.claims`; a label that was once written into the
row is not asked.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from edge_emotion.answer import parse_response
from edge_emotion.audio import load_audio
from edge_emotion.claims import check_claims, parse_claims
from edge_emotion.errors import ConfigError
from edge_emotion.metrics import accuracy, bootstrap_interval, macro_f1, unweighted_average_recall
from edge_emotion.prosody import Prosody, measure_prosody
from edge_emotion_train.labelling.rows import Row, checker_inputs
from edge_emotion_train.processes import is_main, processes
from edge_emotion_train.reinforcement.rewards import consistency
from edge_emotion_train.thinker.configs import EvaluationConfig
from edge_emotion_train.thinker.dialogue import answers_of, known_or_same
from edge_emotion_train.thinker.model import fingerprint, load_thinker, mel_bands, thinker_of
from edge_emotion_train.thinker.processor import audio_token_ids, load_processor, read_conversations
from edge_emotion_train.thinker.rows import check_recordings, paths_of, read_rows, rows_hash, speak
from edge_emotion_train.thinker.run_folder import write_json


@dataclass(frozen=True)
class Said:
    """A reply to a row, with what was found out about it.

    Attributes:
        id: Of the row.
        text: The whole reply.
        answer: The answer, by our name of the emotion where it is one; None where there is none.
        well_formed: Thinking, answer and nothing else.
        claims: Claims made.
        own: Claims that its recording bears out, and claims that can be checked on it.
        other: The same for another recording, the control.
    """

    id: str
    text: str
    answer: str | None
    well_formed: bool
    claims: int = 0
    own: tuple[int, int] = (0, 0)
    other: tuple[int, int] = (0, 0)


def evaluation_stage(config: EvaluationConfig) -> None:
    """Prints the figures as one JSON line, and writes them to `output`."""
    rows, left_out = speak(read_rows(config.rows), config.dialogue)
    rows, unheard = check_recordings(rows, config.max_duration_s, config.threads, progress=is_main())
    left_out += unheard
    if not rows:
        raise ConfigError("rows: none is left to evaluate: " + "; ".join(f"{i.id}: {i.reason}" for i in left_out[:5]))
    processor = load_processor(config.model, config.max_duration_s, mel_bands(config.model, config.base))
    model = load_thinker(config.model, config.base).eval().to(processes().device)
    here, all_of_them = processes().process_index, processes().num_processes
    mine = replies(model, processor, rows[here::all_of_them], config.batch_size, config.max_new_tokens)
    found = gather_object(list(zip(range(here, len(rows), all_of_them), mine, strict=True)))
    texts = [text for _, text in sorted(found)]
    if not is_main():
        return
    said = judge(rows, texts, config)
    result = figures(rows, said, config) | {
        "left_out": len(left_out),
        "left_out_examples": [asdict(item) for item in left_out[:10]],
        "dialogue": config.dialogue,
        "max_new_tokens": config.max_new_tokens,
        "model_sha256": fingerprint(config.model, config.base),
        "rows_sha256": rows_hash(rows),
    }
    if config.replies:
        partial = config.replies.with_name(config.replies.name + ".partial")
        partial.write_text("".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in said))
        partial.replace(config.replies)
    if config.output:
        config.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(config.output, result)
    sys.stdout.write(json.dumps(result) + "\n")


@torch.no_grad()
def replies(
    model: Any, processor: Any, rows: Sequence[Row], batch_size: int, max_new_tokens: int, progress: bool = True
) -> list[str]:
    """What a model says, greedily, to the questions of rows."""
    tokenizer, device = processor.tokenizer, next(model.parameters()).device
    said: list[str] = []
    starts = range(0, len(rows), batch_size)
    for start in tqdm(starts, "replies", disable=not (progress and is_main())):
        batch = rows[start : start + batch_size]
        questions = [[m for m in row["messages"] if m["role"] != "assistant"] for row in batch]
        ids, audio = read_conversations(processor, questions)
        input_ids, mask = left_padded(ids, int(tokenizer.pad_token_id))
        heard = {name: tensor.to(device) for name, tensor in audio.items()}
        if "input_features" in heard:
            heard["input_features"] = heard["input_features"].to(thinker_of(model).dtype)
        found = model.generate(
            input_ids=input_ids.to(device),
            attention_mask=mask.to(device),
            **heard,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            suppress_tokens=audio_token_ids(processor),
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        said += tokenizer.batch_decode(found[:, input_ids.shape[1] :], skip_special_tokens=True)
    return said


def left_padded(ids: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask (rows, longest); a decoder goes on from the right end."""
    longest = max(map(len, ids))
    padded = torch.tensor([[pad_id] * (longest - len(row)) + list(row) for row in ids])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
    return padded, mask


def judge(rows: Sequence[Row], texts: Sequence[str], config: EvaluationConfig) -> list[Said]:
    """Reads replies and checks their claims against their own recording and, as a control, the next row's."""
    explained = [i for i, row in enumerate(rows) if row.get("emotion")]
    measured = {i: measure_prosody(load_audio(paths_of(rows[i])[0]).samples) for i in explained if _cuts(rows[i])}
    known = sorted(measured)
    after = dict(zip(known, known[1:] + known[:1], strict=True))
    said = []
    for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
        if i not in explained:
            said.append(_answered(row, text))
            continue
        response = parse_response(text, answers_of(config.dialogue, row))
        answer = None if response.label is None else known_or_same(response.label)
        found = Said(row["id"], text, answer, response.well_formed, len(parse_claims(response.reasoning)))
        if i in measured:
            found = replace(found, own=_checked(response.reasoning, measured[i], row))
        if i in measured and len(known) > 1:
            other = after[i]
            found = replace(found, other=_checked(response.reasoning, measured[other], rows[other]))
        said.append(found)
    return said


def figures(rows: Sequence[Row], said: Sequence[Said], config: EvaluationConfig) -> dict[str, Any]:
    """Figures of the emotions, of their explanations, and of each other task."""
    pairs = list(zip(rows, said, strict=True))
    emotions = [(row, found) for row, found in pairs if row.get("emotion")]
    tasks: dict[str, list[tuple[Row, Said]]] = {}
    for row, found in pairs:
        if not row.get("emotion") and row.get("answer"):
            tasks.setdefault(str(row["task"]), []).append((row, found))
    return {
        "emotion": _emotion_figures(emotions) if emotions else None,
        "tasks": {task: _task_figures(found) for task, found in sorted(tasks.items())},
    }


def _emotion_figures(pairs: Sequence[tuple[Row, Said]]) -> dict[str, Any]:
    truth = np.array([known_or_same(row["emotion"]) for row, _ in pairs], dtype=object)
    answers = np.array([found.answer for _, found in pairs], dtype=object)
    speakers = [str(row.get("speaker") or row["id"]) for row, _ in pairs]
    said = [found for _, found in pairs]
    low, high = bootstrap_interval(unweighted_average_recall, truth, answers, groups=speakers)
    own, other = (np.sum([getattr(s, name) for s in said], axis=0).tolist() for name in ("own", "other"))
    return {
        "clips": len(said),
        "uar": _round(unweighted_average_recall(truth, answers)),
        "uar_95": [_round(low), _round(high)],
        "wa": _round(accuracy(truth, answers)),
        "macro_f1": _round(macro_f1(truth, answers, list(dict.fromkeys(truth.tolist())))),
        "recall": {str(e): _round(float(np.mean(answers[truth == e] == e))) for e in dict.fromkeys(truth.tolist())},
        "no_answer": _share([s.answer is None for s in said]),
        "format": _share([s.well_formed for s in said]),
        "claims_per_text": _round(sum(s.claims for s in said) / len(said)),
        "checkable_claims_per_text": _round(own[1] / len(said)),
        "faithfulness": _round(own[0] / own[1]) if own[1] else None,
        "faithfulness_of_another_clip": _round(other[0] / other[1]) if other[1] else None,
        "answer_follows_from_reasoning": _round(
            float(np.mean([consistency(parse_response(s.text, ()).reasoning, s.answer) for s in said]))
        ),
        "words_per_text": _round(float(np.mean([len(s.text.split()) for s in said]))),
    }


def _task_figures(pairs: Sequence[tuple[Row, Said]]) -> dict[str, Any]:
    exact = [found.answer == _plain(row["answer"]) for row, found in pairs]
    allowed = [
        right or found.answer in [_plain(one) for one in row.get("accepted") or ()]
        for right, (row, found) in zip(exact, pairs, strict=True)
    ]
    options = [len(row["options"]) for row, _ in pairs if row.get("options")]
    chance = None if not options or pairs[0][0]["task"] == "stress" else _round(float(np.mean(1.0 / np.array(options))))
    if str(pairs[0][0]["task"]).startswith("order_"):
        chance = _round(1.0 / 6.0)  # orders of three
    figures = {"rows": len(pairs), "accuracy": _share(exact), "chance": chance}
    return figures if pairs[0][0]["task"] == "stress" else figures | {"accuracy_within_uncertainty": _share(allowed)}


def _answered(row: Row, text: str) -> Said:
    """A reply to a question about the voice: what stands in `<answer>`, else all of it."""
    inside = text.partition("<answer>")[2].partition("</answer>")[0] if "<answer>" in text else text
    return Said(row["id"], text, _plain(inside), text.strip() == f"<answer>{inside}</answer>")


def _checked(reasoning: str, prosody: Prosody, row: Row) -> tuple[int, int]:
    """Claims supported and claims checkable, on a recording's measures with its row's thresholds."""
    verdicts = [item.verdict for item in check_claims(parse_claims(reasoning), prosody, checker_inputs(row)[1])]
    return verdicts.count("supported"), len(verdicts) - verdicts.count("not measurable")


def _cuts(row: Mapping[str, Any]) -> bool:
    return bool(row.get("thresholds")) and bool(row.get("measures")) and len(paths_of(dict(row))) == 1


def _plain(answer: str) -> str:
    return " ".join(answer.casefold().replace(",", " , ").split()).strip(" .")


def _share(values: Sequence[bool]) -> float:
    return _round(float(np.mean(values)))


def _round(value: float) -> float:
    return round(float(value), 4)
