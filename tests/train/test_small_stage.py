"""The preset `small` from recordings to a checkpoint of adapters, on a tiny base model; resumed where it was cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import soundfile
import torch

from edge_emotion.errors import ConfigError
from edge_emotion_export.gguf_llm import export_gguf
from edge_emotion_train import pretrained, stages
from edge_emotion_train.checkpoint import load_checkpoint
from edge_emotion_train.config import SftConfig
from edge_emotion_train.model import build_language_model
from edge_emotion_train.tokenizer import train_tokenizer

Voice = Callable[[int, float], np.ndarray]


@pytest.fixture(scope="module")
def config(
    tmp_path_factory: pytest.TempPathFactory, voice: Voice, transformers_encoder: Callable, write_weights: Callable
) -> SftConfig:
    """Eight short clips of four speakers in EmoDB's layout, a small encoder, and a tiny language model in GGUF."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "emodb" / "wav").mkdir(parents=True)
    names = ("03a01Wa", "03a01Nc", "08a02Wb", "08a02Na", "14a01Wa", "14a01Nb", "15a01Wa", "15a05Nb")
    for i, name in enumerate(names):
        padded = np.concatenate([np.zeros(4_000, np.float32), voice(i, 2.0)])
        soundfile.write(folder / "emodb" / "wav" / f"{name}.wav", padded, 16000)
    weights = write_weights(transformers_encoder(max_frames=150, dim=64), folder / "encoder.safetensors")
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["I hear a high pitch and a slow pace.\nEmotion: anger neutral"] * 20, 400)
    model = build_language_model(tokenizer.get_vocab_size(), dim=64, layers=1, heads=1, context_tokens=256).eval()
    export_gguf(model, tokenizer, folder / "tiny.gguf", "F16", {}, "<|end|>")
    return SftConfig(
        data=folder,
        encoder_weights=weights,
        cache=folder / "cache",
        output=folder / "model",
        preset="small",
        name="small",
        language_model=folder / "tiny.gguf",
        lora_rank=2,
        embedding_dim=64,
        cues=("pitch", "pitch_variation"),
        always_cues=("pitch",),
        confidence=0.0,
        fewest_cues=2,
        most_cues=2,
        labels=("anger", "neutral"),
        test_speakers=("emodb_15",),
        validation_speakers=("emodb_14",),
        text_corpora=("emodb",),
        emodb_variants=2,
        emogator_clips=0,
        synthetic_clips=0,
        steps=4,
        batch_size=2,
        save_every=2,
        processes=1,
    )


def test_training_writes_adapters_that_stand_on_the_base(config: SftConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(config.data / "home"))
    for name in ("start_evidence", "start_audio"):
        monkeypatch.setattr(pretrained, name, partial(getattr(pretrained, name), steps=10))
    stages.sft_stage(config)
    checkpoint = load_checkpoint(config.output, config.language_model)
    assert checkpoint.base_model is not None
    assert checkpoint.base_model.file == "tiny.gguf"
    assert checkpoint.calibration["llm"]["ece"] < 1.0, "the temperature was not set on the validation speaker"
    assert checkpoint.prompt.texts_of(checkpoint.labels) == (" anger", " neutral")
    changed = [p for name, p in checkpoint.language_model.named_parameters() if "lora_B" in name]
    assert any(parameter.abs().max() > 0 for parameter in changed), "the adapters did not train"
    states = sorted(config.output.rglob("checkpoint-*/model.safetensors"))
    assert states
    assert all(path.stat().st_size < 4_000_000 for path in states)
    again = dataclasses.replace(config, output=config.data / "again")
    first = load_checkpoint(config.output, config.language_model).language_model.state_dict()
    for stale in (config.output / "training").rglob("checkpoint-4"):
        stale.rename(stale.with_name("cut"))
    (config.output).rename(again.output)
    stages.sft_stage(dataclasses.replace(again, resume=True))
    resumed = load_checkpoint(again.output, config.language_model).language_model.state_dict()
    for name, value in first.items():
        torch.testing.assert_close(resumed[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_a_width_that_is_not_the_models_is_refused(config: SftConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(config.data / "home"))
    wrong = dataclasses.replace(config, embedding_dim=128, output=config.data / "wrong")
    with pytest.raises(ConfigError, match=r"embedding_dim: must be 64, the width of tiny\.gguf"):
        stages.sft_stage(wrong)
