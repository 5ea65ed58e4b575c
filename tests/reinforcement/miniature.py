"""A small random speech model with eight clips to hear, and a run of it as a process of its own.

python -m tests.reinforcement.miniature FOLDER [--resume] [--kill-after STEP] [--told] [--batch-size N]
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, TrainerCallback

from edge_emotion.cues import Thresholds
from edge_emotion.prompt import Prompt
from edge_emotion_train.features import FeatureRow, FeatureSet
from edge_emotion_train.model import AudioProjector, EvidenceProjector, build_language_model
from edge_emotion_train.reasoning import CueEmotionTable
from edge_emotion_train.reinforcement.config import GrpoConfig
from edge_emotion_train.reinforcement.policy import SpeechForCausalLM, policy_of, policy_tokenizer, register_policy
from edge_emotion_train.reinforcement.prompts import audio_of, cached_prompts
from edge_emotion_train.reinforcement.rewards import Heard
from edge_emotion_train.reinforcement.run import prepare_folder, train, trainer_of
from edge_emotion_train.reinforcement.trainer import AudioMixin, PromptReader, PtrGrpoTrainer
from edge_emotion_train.sft import AudioInputs, SpeechLanguageModel
from edge_emotion_train.tokenizer import train_tokenizer

LABELS = ("anger", "fear", "neutral")
CUES = ("pitch", "rate")
SENTENCES = (
    "I hear a high pitch and fast speech. This points to anger or fear.",
    "I hear a low pitch and slow speech. All of this fits a neutral mood.",
)
EVIDENCE_TOKENS = 3
PROMPT = Prompt(max_think_tokens=10)
THRESHOLDS = Thresholds({"pitch": (110.0, 140.0, 180.0, 220.0), "rate": (4.0, 5.5)}, "a test")


def make_tokenizer() -> Tokenizer:
    return train_tokenizer([*SENTENCES, *LABELS] * 8, 330)


def make_speech(tokenizer: Tokenizer, seed: int = 0, spread: float = 0.25) -> SpeechLanguageModel:
    """A random model of two cues, three labels and encoder states 2 layers x 16."""
    torch.manual_seed(seed)
    model = SpeechLanguageModel(
        EvidenceProjector(len(CUES), len(LABELS), EVIDENCE_TOKENS, 64, hidden=32),
        AudioProjector(2, 16, 64, hidden=24),
        build_language_model(tokenizer.get_vocab_size(), dim=64, layers=2, heads=1, context_tokens=128),
    ).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=spread)
    # Where `recipe.set_levels` would put them; fresh ones are out of reach, and cue values would change nothing.
    model.evidence.cuts[:] = torch.tensor([-1.0, -0.3, 0.3, 1.0])
    return model


def make_features() -> FeatureSet:
    """Eight clips of 0.3 to 1 s by four speakers."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(7, 25, size=8)
    rows = [
        FeatureRow(
            f"emodb/clip{i}", "emodb", f"emodb_{i % 4}", LABELS[i % 3], "a01", 0, length / 25,
            {"pitch": float(2 * i), "rate": 4.0} if i % 3 else {"rate": 5.0},
        )
        for i, length in enumerate(lengths)
    ]  # fmt: skip
    return FeatureSet(
        rows,
        rng.normal(size=(8, 2 * 4 * 16)).astype(np.float32),
        rng.normal(size=(int(lengths.sum()), 2, 16)).astype(np.float16),
        np.concatenate([[0], np.cumsum(lengths)]),
    )


def make_evidence() -> tuple[np.ndarray, np.ndarray]:
    """Cue values and emotion logits of the eight clips."""
    rng = np.random.default_rng(7)
    return rng.normal(size=(8, 2)).astype(np.float32), 3 * rng.normal(size=(8, 3)).astype(np.float32)


def hear(indices: Sequence[int]) -> AudioInputs:
    """The audio of some clips as one batch."""
    return audio_of(make_features(), *make_evidence(), indices, EVIDENCE_TOKENS)


@dataclass(frozen=True)
class Parts:
    """What a run of the small model is made of."""

    speech: SpeechLanguageModel
    policy: SpeechForCausalLM
    tokenizer: PreTrainedTokenizerBase
    read_prompts: PromptReader
    rows: list[dict[str, str]]
    heard: dict[str, Heard]
    table: CueEmotionTable

    def trainer(self, config: GrpoConfig, folder: Path, peft_config: Any = None) -> PtrGrpoTrainer:
        return trainer_of(
            self.policy,
            self.tokenizer,
            self.read_prompts,
            self.rows,
            self.heard,
            self.table,
            LABELS,
            config,
            folder,
            opening="<think>",
            max_completion_tokens=8,
            peft_config=peft_config,
        )


def make_parts() -> Parts:
    """Fresh parts, each time with the same weights."""
    register_policy()
    tokenizer, features = make_tokenizer(), make_features()
    speech = make_speech(tokenizer, spread=0.15)
    keys = {row.clip: i for i, row in enumerate(features.rows)}
    return Parts(
        speech,
        policy_of(speech, tokenizer, PROMPT),
        policy_tokenizer(tokenizer),
        cached_prompts(features, *make_evidence(), keys, tokenizer, PROMPT, EVIDENCE_TOKENS),
        [{"prompt": row.clip, "id": row.clip, "emotion": str(row.emotion)} for row in features.rows],
        {row.clip: Heard(row.positions, THRESHOLDS) for row in features.rows},
        CueEmotionTable().fit([{"pitch": "high"}, {"pitch": "medium"}, {"pitch": "low"}], list(LABELS)),
    )


def make_config(folder: Path, **changes: Any) -> GrpoConfig:
    """The configuration of a short run: 2 clips x 4 completions a step, in two forward passes."""
    numbers = {"steps": 2, "prompts_per_step": 2, "group": 4, "batch_size": 4, "save_every": 2, "warmup_steps": 0}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sft.yaml").touch()
    paths = {"data": folder, "encoder_weights": folder, "checkpoint": folder, "sft": folder / "sft.yaml"}
    return GrpoConfig(**(numbers | {"learning_rate": 1e-3, "schedule": "always"} | paths | changes))


class KillAfter(TrainerCallback):
    """Ends the process as a power cut would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def say_what_is_told(trainer: Any, prompt_ids: Any, images: Any, audio: dict[str, torch.Tensor], group: int) -> Any:
    """Completions that depend on clip and place in the group alone, not on the process or a random number."""
    replies = [
        f"{sentence}</think><answer>{label}</answer>" for sentence in (*SENTENCES, "Fast speech.") for label in LABELS
    ]
    chosen = [
        replies[(int(1000 * abs(float(values.sum()))) + 5 * (i % group) ** 2) % len(replies)]
        for i, values in enumerate(audio["cue_values"])
    ]
    return [trainer.processing_class(text)["input_ids"] for text in chosen], None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill-after", type=int)
    parser.add_argument("--told", action="store_true")
    parser.add_argument("--steps", type=int, default=6)
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = given.folder / "run"
    config = make_config(given.folder, steps=given.steps, save_every=2, schedule="ramp", schedule_threshold=0.0,
                         schedule_window=2, schedule_ramp=4, resume=given.resume)  # fmt: skip
    if given.told:
        AudioMixin._generate_single_turn = say_what_is_told  # type: ignore[method-assign]
    resume_from = prepare_folder(folder, config, "miniature")
    trainer = make_parts().trainer(config, folder)
    if given.kill_after:
        trainer.add_callback(KillAfter(given.kill_after))
    train(trainer, resume_from, folder)
    if trainer.is_world_process_zero():
        torch.save(trainer.accelerator.unwrap_model(trainer.model).state_dict(), given.folder / "weights.pt")


if __name__ == "__main__":
    main()
