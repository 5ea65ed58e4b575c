"""What a step of GRPO costs: python benchmarks/grpo_cost.py

Three questions, each answered by runs of nano's sizes with random weights and replies of a fixed length, so that every
run does the same work; no data is needed.

- Of what does a step consist: generation, scoring (rewards and the reference's pass), update.
- What do audio and PTR add to trl's trainer: the same text-only task by stock `GRPOTrainer` and by ours, in turn.
- What does the cache of the frozen encoder save: the same steps with features from the cache, and with the encoder run
  once per step and recording.

Times are processor seconds of this process (one thread), which other processes disturb little; the first step of each
run is left out. Ratios are medians of the rounds, each of which runs both sides, the order changing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import check_output, commit, cpu_model, deliver, run, table_of, usable_cpus
from datasets import Dataset
from tokenizers import Tokenizer
from transformers import TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from edge_emotion.cues import CUE_BY_NAME, Thresholds
from edge_emotion.prompt import Prompt
from edge_emotion_train.checkpoint import TowerSizes, build_tower
from edge_emotion_train.features import FeatureRow, FeatureSet, encode_window
from edge_emotion_train.model import build_language_model
from edge_emotion_train.reasoning import CueEmotionTable
from edge_emotion_train.reinforcement.config import GrpoConfig
from edge_emotion_train.reinforcement.policy import policy_of, policy_tokenizer, register_policy
from edge_emotion_train.reinforcement.prompts import cached_prompts
from edge_emotion_train.reinforcement.ptr import ProgressiveSchedule, TrustRule
from edge_emotion_train.reinforcement.rewards import Heard
from edge_emotion_train.reinforcement.run import trainer_of
from edge_emotion_train.reinforcement.trainer import PtrGrpoTrainer
from edge_emotion_train.sft import SpeechLanguageModel
from edge_emotion_train.tokenizer import train_tokenizer

LABELS = ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness")
CUES = ("pitch", "pitch_variation", "pitch_slope", "rate", "tone", "clarity", "dynamics")
SENTENCES = (
    "I hear a high pitch and fast speech. A sharp tone stands out as well. This points to anger or fear.",
    "I hear a low pitch, slow speech and a soft tone. All of this fits a neutral mood or boredom.",
)
CLIPS, CLIP_S = 16, 2.8
SIZES = TowerSizes()


class Clock(TrainerCallback):
    """Processor seconds of each step but the first."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ends.append(time.process_time())

    def per_step_s(self) -> float:
        """Mean over the steps."""
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="steps of each run (default: 4)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each comparison (default: 5)")
    parser.add_argument("--prompts", type=int, default=4, help="recordings per step (default: 4)")
    parser.add_argument("--group", type=int, default=8, help="replies per recording (default: 8)")
    parser.add_argument("--tokens", type=int, default=48, help="tokens of a reply (default: 48)")
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON document here, with its details")
    parser.add_argument("--force", action="store_true", help="replace the output file")
    parser.add_argument("--json", action="store_true", help="print the JSON document only, without the table")
    given = parser.parse_args()
    check_output(given.output, given.force)
    torch.set_num_threads(1)
    register_policy()
    with tempfile.TemporaryDirectory(prefix="grpo_cost.") as name:
        folder = Path(name)
        tokenizer = train_tokenizer([*SENTENCES, *LABELS] * 16, 400)
        split = step_split(tokenizer, given, folder)
        text = compare({"trl": lambda place: text_run(GRPOTrainer, tokenizer, given, place),
                        "ours": lambda place: text_run(PtrGrpoTrainer, tokenizer, given, place)},
                       given.rounds, folder / "text")  # fmt: skip
        audio = compare({"encoder every step": lambda place: audio_run(tokenizer, given, place, cached=False)[0],
                         "cached features": lambda place: audio_run(tokenizer, given, place, cached=True)[0]},
                        given.rounds, folder / "audio")  # fmt: skip
    generated = given.prompts * given.group * given.tokens
    document = {
        "benchmark": "grpo_cost",
        "commit": commit(),
        "machine": {"cpu": cpu_model(), "cores": usable_cpus()},
        "settings": {name: getattr(given, name) for name in ("steps", "rounds", "prompts", "group", "tokens")},
        "step_shares": split,
        "text_only": {f"{name}_tokens_per_cpu_s": round(generated / float(np.median(times)), 1)
                      for name, times in text.items()}
        | {"ours_to_trl": ratio(text["trl"], text["ours"])},
        "frozen_encoder": {f"{name.replace(' ', '_')}_cpu_s": round(float(np.median(times)), 3)
                           for name, times in audio.items()}
        | {"saving": ratio(audio["encoder every step"], audio["cached features"])},
    }  # fmt: skip
    deliver(document, {"rounds": {"text_only": text, "frozen_encoder": audio}}, table(document), given.output,
            given.json)  # fmt: skip
    return 0


def compare(sides: dict[str, Callable[[Path], float]], rounds: int, folder: Path) -> dict[str, list[float]]:
    """Seconds per step of two sides in every round, in turn."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            times[name].append(round(sides[name](folder / f"{number}-{name.replace(' ', '_')}"), 4))
            sys.stderr.write(f"round {number + 1} of {rounds}, {name}: {times[name][-1]:.3f} s a step\n")
    return times


def ratio(slower: Sequence[float], faster: Sequence[float]) -> dict[str, Any]:
    """Median, least and greatest of the rounds' ratios."""
    found = sorted(one / other for one, other in zip(slower, faster, strict=True))
    return {"median": round(float(np.median(found)), 3), "range": [round(found[0], 3), round(found[-1], 3)]}


def text_run(kind: Any, tokenizer: Tokenizer, given: argparse.Namespace, folder: Path) -> float:
    """Seconds per step of a text-only run by trl's trainer or ours; weights, prompts and rewards are the same."""
    torch.manual_seed(0)
    model = build_language_model(tokenizer.get_vocab_size(), 128, 4, 2)
    model.config._name_or_path = str(folder / "reference")
    model.save_pretrained(folder / "reference")
    wrapped = policy_tokenizer(tokenizer)
    prompts = [f"{SENTENCES[i % 2]} {LABELS[i % 7]}" for i in range(given.prompts * given.steps)]
    own: dict[str, Any] = {}
    if kind is PtrGrpoTrainer:
        own = {
            "read_prompts": lambda texts: ([wrapped(text)["input_ids"] for text in texts], {}),
            "trust_rule": TrustRule(),
            "schedule": ProgressiveSchedule("always"),
        }
    clock = Clock()
    trainer = kind(
        model=model,
        args=arguments(given, folder),
        processing_class=wrapped,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        reward_funcs=[form, outcome, reasoning],
        callbacks=[clock],
        **own,
    )
    with redirect_stdout(sys.stderr):
        trainer.train()
    return clock.per_step_s()


def form(completions: Sequence[str], **_: Any) -> list[float]:
    """A reward that costs nothing."""
    return [float(len(text) % 2) for text in completions]


def outcome(completions: Sequence[str], **_: Any) -> list[float]:
    """Another one."""
    return [float(len(text) % 3 == 0) for text in completions]


def reasoning(completions: Sequence[str], **_: Any) -> list[float]:
    """A third."""
    return [0.2 + len(text) % 5 / 5 for text in completions]


form.__name__ = "format"


def arguments(given: argparse.Namespace, folder: Path) -> GRPOConfig:
    """Those of `reinforcement.run`, with replies of a fixed length."""
    return GRPOConfig(
        output_dir=str(folder), max_steps=given.steps, per_device_train_batch_size=given.prompts * given.group,
        num_generations=given.group, max_completion_length=given.tokens,
        generation_kwargs={"min_new_tokens": given.tokens}, learning_rate=1e-5, beta=0.04, loss_type="grpo",
        shuffle_dataset=False, logging_steps=1, save_strategy="no", report_to="none", seed=0, bf16=False, use_cpu=True,
        gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip


def audio_run(
    tokenizer: Tokenizer, given: argparse.Namespace, folder: Path, cached: bool
) -> tuple[float, list[dict[str, Any]]]:
    """Seconds per step of nano's sizes, and what was logged of each step."""
    torch.manual_seed(0)
    tower = build_tower(SIZES).eval()
    speech = SpeechLanguageModel(
        tower.evidence, tower.audio, build_language_model(tokenizer.get_vocab_size(), SIZES.embedding_dim, 4, 2)
    ).eval()
    rng = np.random.default_rng(0)
    windows = [(0.1 * rng.normal(size=round(CLIP_S * 16000))).astype(np.float32) for _ in range(CLIPS)]
    features = features_of(tower.encoder, windows)
    evidence = (rng.normal(size=(CLIPS, len(CUES))).astype(np.float32),
                rng.normal(size=(CLIPS, len(LABELS))).astype(np.float32))  # fmt: skip
    keys = {row.clip: i for i, row in enumerate(features.rows)}
    prompt = Prompt()
    read = cached_prompts(features, *evidence, keys, tokenizer, prompt, SIZES.evidence_tokens)

    def encode_and_read(prompts: Sequence[str]) -> Any:
        for key in dict.fromkeys(prompts):  # each recording once, however many replies it has
            encode_window(tower.encoder, windows[keys[key]])
        return read(prompts)

    cuts = {name: tuple(float(i + 1) for i in range(len(CUE_BY_NAME[name].levels) - 1)) for name in CUES}
    thresholds = Thresholds(cuts, "none")
    trainer = trainer_of(
        policy_of(speech, tokenizer, prompt),
        policy_tokenizer(tokenizer),
        read if cached else encode_and_read,
        [{"prompt": row.clip, "id": row.clip, "emotion": str(row.emotion)} for row in features.rows],
        {row.clip: Heard(row.positions, thresholds) for row in features.rows},
        CueEmotionTable().fit([{"pitch": "high"}] * len(LABELS), list(LABELS)),
        LABELS,
        settings(given, folder),
        folder,
        opening="<think>",
        max_completion_tokens=given.tokens,
        generation={"min_new_tokens": given.tokens},
    )
    clock = Clock()
    trainer.add_callback(clock)
    trainer.args.disable_tqdm = True
    with redirect_stdout(sys.stderr):
        trainer.train()
    return clock.per_step_s(), [entry for entry in trainer.state.log_history if "step_time" in entry]


def features_of(encoder: Any, windows: Sequence[np.ndarray]) -> FeatureSet:
    """Cached features of the recordings, as `features.extract_features` makes them."""
    pairs = [encode_window(encoder, window) for window in windows]
    rows = [FeatureRow(f"clip{i}", "none", f"speaker{i % 4}", LABELS[i % len(LABELS)], None, 0, CLIP_S, {"pitch": 1.0})
            for i in range(len(windows))]  # fmt: skip
    offsets = np.concatenate([[0], np.cumsum([len(frames) for frames, _ in pairs])])
    return FeatureSet(rows, np.stack([s for _, s in pairs]), np.concatenate([f for f, _ in pairs]), offsets)


def settings(given: argparse.Namespace, folder: Path) -> GrpoConfig:
    """The configuration of a run; its paths are not read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "none.yaml").touch()
    return GrpoConfig(
        data=folder, encoder_weights=folder, checkpoint=folder, sft=folder / "none.yaml", steps=given.steps,
        prompts_per_step=given.prompts, group=given.group, batch_size=given.prompts * given.group,
        save_every=given.steps, warmup_steps=0, schedule="always",
    )  # fmt: skip


def step_split(tokenizer: Tokenizer, given: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Shares of generation, scoring and update in the wall time of a step, medians of the steps but the first."""
    entries = audio_run(tokenizer, given, folder / "split", cached=True)[1][1:]
    shares = {
        "generation": [entry["time/generation"] / entry["step_time"] for entry in entries],
        "scoring": [entry["time/scoring"] / entry["step_time"] for entry in entries],
    }
    found = {name: round(float(np.median(values)), 3) for name, values in shares.items()}
    return found | {"update": round(1.0 - sum(found.values()), 3)}


def table(document: dict[str, Any]) -> str:
    """The document for people."""
    text, audio = document["text_only"], document["frozen_encoder"]

    def told(found: dict[str, Any]) -> str:
        low, high = found["range"]
        return f"{found['median']:.2f} ({low:.2f} to {high:.2f})"

    rows = [
        *([f"share of a step: {name}", f"{value:.0%}", ""] for name, value in document["step_shares"].items()),
        ["tokens per processor second, text only, trl", f"{text['trl_tokens_per_cpu_s']:.0f}", ""],
        ["the same by ours", f"{text['ours_tokens_per_cpu_s']:.0f}", ""],
        ["ours / trl", told(text["ours_to_trl"]), ">= 0.95"],
        ["processor seconds a step, encoder every step", f"{audio['encoder_every_step_cpu_s']:.2f}", ""],
        ["the same from the cache", f"{audio['cached_features_cpu_s']:.2f}", ""],
        ["saving: a step without the cache / with it", told(audio["saving"]), "> 1"],
    ]
    return table_of(rows, ("what", "figure", "goal"))


if __name__ == "__main__":
    run(main)
