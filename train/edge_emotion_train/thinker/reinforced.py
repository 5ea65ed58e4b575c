"""Stage `grpo`: a thinker reinforced by the trainer, the rewards and the judges that reinforce nano."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel

from edge_emotion.claims import MIN_RELIABILITY
from edge_emotion.cues import CUES
from edge_emotion.errors import ConfigError
from edge_emotion_train.labelling.rows import Row, checker_inputs
from edge_emotion_train.processes import is_main
from edge_emotion_train.reasoning import CueEmotionTable
from edge_emotion_train.reinforcement import run
from edge_emotion_train.reinforcement.log import draw_curves
from edge_emotion_train.reinforcement.rewards import Heard
from edge_emotion_train.reinforcement.trainer import PtrGrpoTrainer, last_checkpoint
from edge_emotion_train.thinker.configs import ReinforcedConfig
from edge_emotion_train.thinker.dialogue import answers_of
from edge_emotion_train.thinker.model import (
    fingerprint,
    freeze_unheard,
    is_adapter,
    load_thinker,
    lora,
    mel_bands,
    restore,
    thinker_of,
)
from edge_emotion_train.thinker.processor import audio_token_ids, load_processor, prompt_reader
from edge_emotion_train.thinker.rows import LeftOut, paths_of, read_rows, report_left_out, rows_hash, speak
from edge_emotion_train.thinker.run_folder import SPEECH, open_run, publish, remember, speech_of, write_json
from edge_emotion_train.thinker.supervised import heard_rows

REINFORCED = ("emotion", "labels", "levels", "measures", "thresholds")


def reinforced_stage(config: ReinforcedConfig) -> None:
    """Reinforces, and writes weights or adapter, log and curves to `output`; prints what came of it as JSON."""
    folder = config.output / "training"
    goes_on = open_run(config, fingerprint(config.model, config.base))
    rows = prepare(config, folder, goes_on)
    trainer, tokenizer = trainer_for(rows, config, folder)
    entries = run.train(trainer, last_checkpoint(folder), folder)
    about = {
        "stage": "grpo",
        "rows": len(rows),
        "steps": trainer.state.global_step,
        "config": {name: value for name, value in asdict(config.run()).items() if not isinstance(value, Path)},
        "last": entries[-1] if entries else None,
    }
    publish(config.output, lambda part: save(trainer, part), tokenizer, about)
    if is_main():
        partial = config.output / "metrics.partial"
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        partial.replace(config.output / "metrics.jsonl")
        if entries:
            draw_curves(entries, config.output / "curves.png")
        write_json(config.output / SPEECH, speech_of(config.dialogue, rows))
        sys.stdout.write(json.dumps(about) + "\n")


def prepare(config: ReinforcedConfig, folder: Path, goes_on: bool) -> list[Row]:
    """Rows that give prompts: one recording each, with all that a reward needs.

    Raises:
        ConfigError: None is left, they differ in what may be answered, or they are not those that the run began with.
    """
    rows, left_out = speak(read_rows(config.rows), config.dialogue)
    poor = [LeftOut(row["id"], problem) for row in rows if (problem := _lacking(row))]
    left_out += poor
    names = {item.id for item in poor}
    rows, unheard = heard_rows([row for row in rows if row["id"] not in names], config, folder, goes_on, "rows")
    if is_main():
        report_left_out([*left_out, *unheard], folder / "left_out.jsonl")
    if not rows:
        raise ConfigError("rows: none is left to train on; see left_out.jsonl. `grpo` takes the view of that name")
    asked = {answers_of(config.dialogue, row) for row in rows}
    if len(asked) > 1:
        raise ConfigError(f"rows: they differ in what may be answered: {sorted(map(list, asked))[:3]}; make one view")
    remember(folder, "rows", rows_hash(rows))
    return rows


def trainer_for(rows: Sequence[Row], config: ReinforcedConfig, folder: Path) -> tuple[PtrGrpoTrainer, Any]:
    """The trainer of `reinforcement.run`, with a thinker as its policy; and its tokenizer."""
    processor = load_processor(config.model, config.max_duration_s, mel_bands(config.model, config.base))
    adapter = is_adapter(config.model)
    model = load_thinker(config.model, config.base, exact=not config.lora_rank, trainable=True)
    freeze_unheard(model)
    thinker_of(model).generation_config.eos_token_id = processor.tokenizer.eos_token_id
    prompts = {row["id"]: [m for m in row["messages"] if m["role"] != "assistant"] for row in rows}
    trainer = run.trainer_of(
        model,
        processor.tokenizer,
        prompt_reader(processor, prompts),
        [{"prompt": row["id"], "id": row["id"], "emotion": row["emotion"]} for row in rows],
        {row["id"]: heard_in(row) for row in rows},
        cue_table(rows),
        answers_of(config.dialogue, rows[0]),
        config.run(),
        folder,
        opening="",
        max_completion_tokens=config.max_new_tokens,
        generation={"suppress_tokens": audio_token_ids(processor)},
        peft_config=lora(config.lora_rank) if config.lora_rank and not adapter else None,
    )
    if not config.lora_rank:
        trainer._load_from_checkpoint = partial(restore, trainer.model)  # pyright: ignore[reportAttributeAccessIssue]
    return trainer, processor.tokenizer


def save(trainer: PtrGrpoTrainer, part: Path) -> None:
    """The result; of an adapter only the trained one, not the copy that was its reference."""
    policy = trainer.accelerator.unwrap_model(trainer.model)  # pyright: ignore[reportArgumentType]
    if isinstance(policy, PeftModel) and "ref" in policy.peft_config:
        policy.delete_adapter("ref")
    trainer.save_model(str(part))


def heard_in(row: Row) -> Heard:
    """What was measured in a row's recording, on the scales of the cues; what is not reliable is absent."""
    prosody, thresholds = checker_inputs(row)
    positions = {}
    for cue in CUES:
        measure = prosody.measures.get(cue.measure)
        if measure is None or measure.value is None or measure.reliability < MIN_RELIABILITY:
            continue
        if np.isfinite(measure.value) and (cue.scale != "semitones" or measure.value > 0):
            positions[cue.name] = cue.position(measure.value)
    return Heard(positions, thresholds, row.get("text") or "", paths_of(row)[0])


def cue_table(rows: Sequence[Row]) -> CueEmotionTable:
    """Which emotions the levels of the training rows suggest."""
    levels = [{cue: level for cue, level in row["levels"].items() if level} for row in rows]
    return CueEmotionTable().fit(levels, [row["emotion"] for row in rows])


def _lacking(row: Row) -> str | None:
    missing = [name for name in REINFORCED if not row.get(name)]
    if missing:
        return f"has no {', '.join(missing)}"
    recordings = len(paths_of(row))
    return None if recordings == 1 else f"hears {recordings} recordings; a prompt of `grpo` hears one"
