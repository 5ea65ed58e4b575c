"""A published-looking Qwen2.5-Omni through the whole pipeline, compared with transformers' own model and generation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

import edge_emotion
from edge_emotion.audio import load_audio
from edge_emotion.bundle import Bundle, load_bundle
from edge_emotion.errors import BundleError, ExportError
from edge_emotion.prompt import Prompt
from edge_emotion_export import omni_export, omni_gguf, omni_graph, omni_variants
from edge_emotion_export.export import main
from edge_emotion_export.omni_checkpoint import open_omni
from edge_emotion_export.omni_export import export_omni
from edge_emotion_export.omni_reference import AudioReference, run_reference
from edge_emotion_runtimes.llama_cpp_model import LlamaCppModel
from edge_emotion_runtimes.onnx_encoder import OnnxEncoder
from edge_emotion_runtimes.verify import verify_bundle
from tests.thinker.tiny_omni import build_thinker, save_published, train_tokenizer

DATA = Path(__file__).parents[1] / "data"
# The last three have an odd number of frames, or end within one: only then does the padding reach the last position.
SECONDS = (0.5, 2.0, 3.1, 10.0, 29.9, 30.0, 0.51, 3.27, 2.0037)
NEW_TOKENS = 16
PROMPT = {
    "before_audio": "<|im_start|>user\n<|audio_bos|>",
    "after_audio": "<|audio_eos|>What is the emotion?<|im_end|>\n<|im_start|>assistant\n",
    "answer_open": "</think><answer",
    "answer_close": "</answer>",
    "stop": ["</think>"],
    "max_think_tokens": NEW_TOKENS,
    "label_texts": [">neutral", ">angry"],
}


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """30.2 s of two people, again and again."""
    clips = [load_audio(path).samples for path in sorted(DATA.glob("*.flac"))]
    return np.tile(np.concatenate(clips), 16)[: round(30.2 * 16000)].astype(np.float32)


@pytest.fixture(scope="module")
def omni(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The folder, and transformers' model of the same weights."""
    tokenizer = train_tokenizer()
    thinker = build_thinker(tokenizer)
    folder = save_published(tmp_path_factory.mktemp("omni") / "tiny-omni", thinker, tokenizer)
    own = {"prompt": PROMPT, "labels": ["neutral", "anger"], "licence": "CC0-1.0"}
    (folder / "edge_emotion.json").write_text(json.dumps(own))
    return SimpleNamespace(folder=folder, thinker=thinker, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def bundle(omni: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    target = tmp_path_factory.mktemp("bundles") / "tiny-omni"
    assert (
        main("all", checkpoint=omni.folder, output=target, clips=[DATA], keep_failing=True, llms=["F16", "Q4_K_M"]) == 0
    )
    return load_bundle(target)


@pytest.fixture(scope="module")
def inputs(omni: SimpleNamespace) -> Callable[[np.ndarray], dict[str, Any]]:
    """What transformers' own processor gives the thinker."""
    extract = WhisperFeatureExtractor(feature_size=128, chunk_length=300)
    identity = omni.tokenizer.token_to_id

    def prepare(waveform: np.ndarray) -> dict[str, Any]:
        heard = extract(
            waveform, sampling_rate=16000, padding="max_length", return_attention_mask=True, return_tensors="pt"
        )
        frames = int(heard["attention_mask"].sum())
        places = [identity("<|AUDIO|>")] * (((frames - 1) // 2 + 1) // 2)
        before, after = (omni.tokenizer.encode(PROMPT[name]).ids for name in ("before_audio", "after_audio"))
        return {
            "input_ids": torch.tensor([[*before, *places, *after]]),
            "input_features": heard["input_features"],
            "feature_attention_mask": heard["attention_mask"],
        }

    return prepare


@pytest.fixture(scope="module")
def exact_model(omni: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppModel]:
    path = tmp_path_factory.mktemp("exact") / "llm.F32.gguf"
    omni_gguf.write_gguf(open_omni(omni.folder), path, "F32", {})
    with LlamaCppModel(path, 1024, threads=1, kv_type="f32", flash_attention=False) as model:
        yield model


def hear(model: LlamaCppModel, embeddings: np.ndarray) -> None:
    model.reset()
    model.prefill([model.tokenize(PROMPT["before_audio"]), embeddings, model.tokenize(PROMPT["after_audio"])])


@pytest.mark.parametrize("seconds", SECONDS)
def test_exported_model_says_what_transformers_generates(
    seconds: float,
    omni: SimpleNamespace,
    bundle: Bundle,
    speech: np.ndarray,
    inputs: Callable[[np.ndarray], dict[str, Any]],
    exact_model: LlamaCppModel,
) -> None:
    waveform = speech[: round(seconds * 16000)]
    prepared = inputs(waveform)
    frames = int(prepared["feature_attention_mask"].sum())
    heard = omni.thinker.model.audio_tower(
        prepared["input_features"][0][:, :frames], feature_lens=torch.tensor([frames])
    ).last_hidden_state.numpy()
    with OnnxEncoder(bundle.encoder_path("fp32"), threads=1) as encoder:
        embeddings = encoder.encode(waveform).embeddings
    assert embeddings.shape == heard.shape
    assert np.abs(embeddings - heard).max() <= 1e-5 * np.abs(heard).max()

    hear(exact_model, embeddings)
    logits = exact_model.logits()
    tokens = [token.id for token in exact_model.stream(NEW_TOKENS)]
    generated = omni.thinker.generate(
        **prepared,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=omni.tokenizer.token_to_id("<|im_end|>"),
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    assert np.abs(generated.logits[0][0].numpy() - logits).max() <= 1e-4
    written = generated.sequences[0, prepared["input_ids"].shape[1] :].tolist()
    assert written[: len(tokens)] == tokens
    # transformers was told to end at one token only; the device ends at <|endoftext|> too, and nowhere else.
    ends = {omni.tokenizer.token_to_id(name) for name in ("<|im_end|>", "<|endoftext|>")}
    assert not ends & set(tokens)
    assert len(tokens) == NEW_TOKENS or written[len(tokens)] in ends


@pytest.mark.parametrize("quality", ["nothing", "nonsense"])
def test_reference_is_the_checkpoints_own_text_however_bad_the_draft(
    quality: str, omni: SimpleNamespace, speech: np.ndarray, inputs: Callable[[np.ndarray], dict[str, Any]]
) -> None:
    checkpoint, waveform = open_omni(omni.folder), speech[: 2 * 16000]
    embeddings = AudioReference(checkpoint).embed(waveform)
    random = np.random.default_rng(0)

    def draft(_: np.ndarray, known: Sequence[int]) -> list[int]:
        return [] if quality == "nothing" else random.integers(0, 300, 8 - len(known)).tolist()

    prompt = Prompt.from_dict(PROMPT | {"max_think_tokens": 8, "stop": []})
    (clip,) = run_reference(checkpoint, prompt, PROMPT["label_texts"], [(waveform, embeddings)], draft)
    ends = [omni.tokenizer.token_to_id(name) for name in ("<|im_end|>", "<|endoftext|>")]
    prepared = inputs(waveform)
    generated = omni.thinker.generate(
        **prepared, max_new_tokens=8, do_sample=False, eos_token_id=ends, pad_token_id=0
    )[0, prepared["input_ids"].shape[1] :].tolist()  # fmt: skip
    assert list(clip.thought) == [token for token in generated if token not in ends]
    assert len(clip.thought) >= 3

    opening = omni.tokenizer.encode(PROMPT["answer_open"]).ids
    for text, score in zip(PROMPT["label_texts"], clip.label_scores, strict=True):
        label = omni.tokenizer.encode(text + PROMPT["answer_close"]).ids
        ids = torch.cat([prepared["input_ids"], torch.tensor([[*clip.thought, *opening, *label]])], dim=1)
        logits = omni.thinker(**(prepared | {"input_ids": ids})).logits[0].double().log_softmax(-1)
        places = range(ids.shape[1] - len(label) - 1, ids.shape[1] - 1)
        assert score == pytest.approx(float(logits[places, label].sum()), abs=1e-3)


def test_bundle_is_whole_and_every_verdict_is_told(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert set(manifest.files) == {
        "encoder.fp32.onnx", "encoder.fp16.onnx", "encoder.int8.onnx", "llm.F16.gguf", "llm.Q4_K_M.gguf",
        "golden.npz", "README.md", "LICENSES",
    }  # fmt: skip
    assert manifest.labels == ("neutral", "anger")
    assert (manifest.licence, manifest.name, manifest.llm.architecture) == ("CC0-1.0", "tiny-omni", "qwen2")
    assert set(manifest.calibration) == {"llm"}
    assert manifest.calibration["llm"].ece is None
    parity, verdicts = manifest.receipts["parity"], manifest.receipts["variants"]
    assert parity["omni.fp32"]["embeddings_relative_max"] <= 1e-5
    assert parity["omni.fp32"]["clips"] == manifest.receipts["clips"]["count"] + 2
    assert parity["omni.fp16"]["embeddings_cosine_min"] > parity["omni.int8"]["embeddings_cosine_min"] > 0.99
    assert parity["omni.F32"]["text_equal"] == parity["omni.F32"]["label_agreement"] == 1.0
    assert verdicts["llm.exact"]["tokenizer"]["texts_equal"] == 1.0
    assert verdicts["llm.exact"]["layers"] == "all"
    assert verdicts["llm.Q4_K_M"]["types"]["Q4_K"] > 8
    assert verdicts["llm.Q4_K_M"]["importance"] == "audio prompts"
    assert parity["Q4_K_M"]["logits_kl_mean"] > parity["F16"]["logits_kl_mean"]
    assert verdicts["llm.F16"]["passed"]
    assert manifest.provenance["ends_of_text"] == {"device": ["<|endoftext|>", "<|im_end|>"], "checkpoint": None}


def test_bundle_replays_its_golden_clips(bundle: Bundle) -> None:
    report = verify_bundle(bundle, "fp16", "F16")
    assert report.passed
    assert {tap.name for tap in report.taps} == {"embeddings", "first_logits", "text"}


def test_files_name_no_folder_of_this_machine(bundle: Bundle) -> None:
    for name in bundle.manifest.files:
        assert str(Path(omni_export.__file__).parents[2]).encode() not in (bundle.path / name).read_bytes()
        assert b"stack_trace" not in (bundle.path / name).read_bytes()


def test_results_say_that_the_language_model_alone_chose(bundle: Bundle) -> None:
    with edge_emotion.load(bundle.path, encoder="fp32", llm="F16") as analyzer:
        pieces: list[str] = []
        thought = analyzer.analyze(DATA / "emodb_03a02Nc.flac", on_text=pieces.append)
        fast = analyzer.analyze(DATA / "emodb_03a02Nc.flac", explain=False)
    for result in (thought, fast):
        assert result.label in ("neutral", "anger")
        assert sum(result.distribution.values()) == pytest.approx(1.0)
        assert result.head_distribution == {}
        assert result.agreement is None
        assert any("no emotion head" in warning for warning in result.warnings)
        assert any("never calibrated" in warning for warning in result.warnings)
    assert "".join(pieces).strip() == thought.reasoning != ""
    assert fast.reasoning == ""
    assert "think" not in fast.timing_s
    with pytest.raises(BundleError, match="no emotion head"):
        edge_emotion.load(bundle.path, llm="none")


def test_existing_target_and_unknown_variants_are_refused(
    omni: SimpleNamespace, bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="--force"):
        export_omni("all", omni.folder, bundle.path, [DATA])
    with pytest.raises(ExportError, match=r"unknown quantisation 'Q9'.*F16, Q8_0"):
        export_omni("all", omni.folder, tmp_path / "out", [DATA], llms=["Q9"])
    with pytest.raises(ExportError, match="unknown precision"):
        export_omni("all", omni.folder, tmp_path / "out", [DATA], encoders=["fp8"])  # type: ignore[list-item]
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="not an earlier export"):
        export_omni("all", omni.folder, tmp_path, [DATA], force=True)
    assert (tmp_path / "thesis.txt").is_file()


def test_options_of_full_size_are_refused_for_a_trained_nano(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"--keep-failing: only for a Qwen2\.5-Omni"):
        main("all", checkpoint=tmp_path, output=tmp_path / "out", clips=[DATA], keep_failing=True)


def test_broken_export_goes_on_where_it_broke(
    omni: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(omni_variants.omni_gguf, "write_gguf", fail)
    with pytest.raises(OSError, match="no space"):
        export_omni("all", omni.folder, target, [DATA], encoders=["fp32"], llms=["Q8_0"], keep_failing=True)
    assert not target.exists()
    monkeypatch.undo()
    monkeypatch.setattr(omni_variants.omni_graph, "write_encoder", fail)
    monkeypatch.setattr(omni_export, "AudioReference", fail)
    manifest = export_omni("all", omni.folder, target, [DATA], encoders=["fp32"], llms=["Q8_0"], keep_failing=True)
    assert manifest is not None
    assert set(manifest.files) == {"encoder.fp32.onnx", "llm.Q8_0.gguf", "golden.npz", "README.md", "LICENSES"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_variant_below_its_gate_is_left_out_and_told(omni: SimpleNamespace, tmp_path: Path) -> None:
    target = tmp_path / "out"
    export_omni("llm", omni.folder, target, [DATA], llms=["F16", "IQ4_NL"], importance=False)
    receipts = json.loads((target / "parity.json").read_text())
    assert sorted(path.name for path in target.iterdir()) == ["llm.F16.gguf", "parity.json"]
    verdict = receipts["variants"]["llm.IQ4_NL"]
    assert (verdict["passed"], verdict["written"], verdict["importance"]) == (False, False, "none")
    assert "logits_kl_mean" in verdict["why"]


def test_wrong_conversion_stops_the_export(
    omni: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(omni_gguf, "rope_theta", lambda config: 1e4)
    with pytest.raises(ExportError, match=r"omni\.F32 is not like its parent"):
        export_omni("llm", omni.folder, tmp_path / "out", [DATA], llms=["F16"])
    assert not (tmp_path / "out").exists()


def test_large_weights_lie_beside_the_graph_and_are_verified(
    omni: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Bundle
) -> None:
    monkeypatch.setattr(omni_graph, "MAX_INLINE_BYTES", 1000)
    path = tmp_path / "encoder.fp32.onnx"
    omni_graph.write_encoder(open_omni(omni.folder), path, "fp32", {"sample_rate": "16000"})
    assert omni_graph.data_file(path).stat().st_size > 10 * path.stat().st_size
    noise = np.random.default_rng(0).normal(0, 0.1, 20000).astype(np.float32)
    with OnnxEncoder(path, threads=1) as apart, OnnxEncoder(bundle.encoder_path("fp32"), threads=1) as inside:
        np.testing.assert_array_equal(apart.encode(noise).embeddings, inside.encode(noise).embeddings)

    copy = tmp_path / "bundle"
    shutil.copytree(bundle.path, copy)
    (copy / "manifest.json").unlink()
    for file in (path, omni_graph.data_file(path)):
        shutil.copy(file, copy / file.name)
    edge_emotion.bundle.write_manifest(copy, bundle.manifest)
    weights = bytearray((copy / "encoder.fp32.onnx.data").read_bytes())
    weights[len(weights) // 2] ^= 1
    (copy / "encoder.fp32.onnx.data").write_bytes(weights)
    with pytest.raises(BundleError, match=r"encoder\.fp32\.onnx\.data was changed"):
        edge_emotion.load(copy, encoder="fp32", llm="F16")
