"""The analyzer over the tiny bundle: real clips, nothing to analyse, long recordings, doubts, timing, threads."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

from edge_emotion.audio import from_samples, load_audio
from edge_emotion.errors import AudioError, BundleError, RuntimeUnavailableError
from edge_emotion.result import EmotionResult
from edge_emotion_runtimes.analyzer import Analyzer
from edge_emotion_runtimes.llama_cpp_model import LlamaCppModel
from edge_emotion_runtimes.onnx_encoder import OnnxEncoder

CLIP = Path(__file__).parent.parent / "data" / "emodb_14a04Aa.flac"
RATE_HZ = 16000


@pytest.fixture(scope="module")
def analyzer(bundle):
    encoder = OnnxEncoder(bundle.encoder_path("fp32"), threads=1)
    llm = LlamaCppModel(bundle.llm_path(), bundle.manifest.llm.context_tokens, threads=1)
    with Analyzer(bundle, encoder, llm) as made:
        yield made


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return load_audio(CLIP).samples


def timeless(result: EmotionResult) -> dict:
    return {**result.to_dict(), "timing_s": None, "source": None}


def tone(seconds: float, frequency_hz: float = 200.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency_hz * np.arange(int(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def noise(seconds: float, level: float = 0.1) -> np.ndarray:
    return np.random.default_rng(0).normal(0, level, int(seconds * RATE_HZ)).astype(np.float32)


def test_a_clip_gets_a_complete_answer(analyzer, bundle):
    result = analyzer.analyze(CLIP)
    assert result.label in bundle.manifest.labels
    assert list(result.distribution) == list(bundle.manifest.labels)
    assert sum(result.distribution.values()) == pytest.approx(1.0)
    assert result.confidence == max(result.distribution.values()) == result.distribution[result.label]
    assert result.agreement == (max(result.head_distribution, key=result.head_distribution.get) == result.label)
    assert len(result.windows) == 1
    assert result.reasoning == result.windows[0].reasoning
    assert {measure.name for measure in result.evidence} >= {"f0_median_hz", "spectral_tilt_db"}
    assert result.bundle["name"] == "tiny"
    assert EmotionResult.from_dict(json.loads(json.dumps(result.to_dict()))).label == result.label


def test_every_kind_of_source_gives_the_same_answer(analyzer):
    content = CLIP.read_bytes()
    with CLIP.open("rb") as file:
        answers = [analyzer.analyze(source) for source in (str(CLIP), CLIP, content, file, load_audio(CLIP))]
    assert all(timeless(answer) == timeless(answers[0]) for answer in answers)


def test_the_label_is_scored_after_the_reasoning(analyzer, bundle):
    """The distribution is what the same calls give by hand."""
    result = analyzer.analyze(CLIP)
    window, prompt = result.windows[0], bundle.manifest.prompt
    samples = load_audio(CLIP).samples[round(window.start_s * RATE_HZ) : round(window.end_s * RATE_HZ)]
    with (
        OnnxEncoder(bundle.encoder_path("fp32"), threads=1) as encoder,
        LlamaCppModel(bundle.llm_path(), threads=1) as llm,
    ):
        rows = encoder.encode(samples).embeddings
        llm.prefill([llm.tokenize(prompt.before_audio), rows, llm.tokenize(prompt.after_audio)])
        stop = set(llm.tokenize(prompt.stop[0]))
        text = "".join(token.text for token in llm.stream(prompt.max_think_tokens, stop))
        llm.prefill([llm.tokenize(prompt.answer_open)])
        scores = llm.score_labels(bundle.manifest.labels, prompt.answer_close)
    shares = np.exp(scores / 2.0) / np.exp(scores / 2.0).sum()
    np.testing.assert_allclose(list(result.distribution.values()), shares, atol=1e-6)
    assert result.reasoning == text.strip()


def test_words_come_as_they_are_written(analyzer):
    pieces: list[str] = []
    result = analyzer.analyze(CLIP, on_text=pieces.append)
    assert len(pieces) > 3
    assert "".join(pieces).strip() == result.reasoning


def test_a_callback_that_fails_leaves_the_analyzer_usable(analyzer):
    expected = analyzer.analyze(CLIP)

    def fail(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyzer.analyze(CLIP, on_text=fail)
    assert timeless(analyzer.analyze(CLIP)) == timeless(expected)


def test_fast_answers_by_the_head_alone(analyzer):
    result = analyzer.analyze(CLIP, explain=False)
    assert result.distribution == result.head_distribution == analyzer.analyze(CLIP).head_distribution
    assert (result.reasoning, result.claims, result.faithfulness, result.agreement) == ("", (), None, None)
    assert "think" not in result.timing_s
    assert result.evidence


def test_without_a_language_model_the_head_answers_and_says_so(bundle):
    with Analyzer(bundle, OnnxEncoder(bundle.encoder_path("int8"), threads=1)) as analyzer:
        result = analyzer.analyze(CLIP)
    assert result.label
    assert "no language model is loaded: no explanation" in result.warnings
    assert result.runtime["llm"] is None


def test_timing_tells_each_stage(analyzer):
    timing = analyzer.analyze(CLIP).timing_s
    stages = ("decode", "speech_activity", "encoder", "prefill", "think", "score", "prosody", "claims")
    assert set(timing) == {*stages, "time_to_label_head", "time_to_first_word", "total"}
    assert timing["encoder"] <= timing["time_to_label_head"] <= timing["time_to_first_word"] <= timing["total"]
    assert sum(timing[stage] for stage in stages) <= timing["total"] * 1.05


def test_runtime_tells_what_ran(analyzer):
    runtime = analyzer.analyze(CLIP).runtime
    assert runtime["encoder"]["providers"] == ["CPUExecutionProvider"]
    assert runtime["llm"]["runtime"] == "llama.cpp"
    assert runtime["llm"]["threads"] == 1
    assert runtime["fallbacks"] == []


@pytest.mark.parametrize("samples", [np.zeros(48000, np.float32), np.zeros(160, np.float32)])
def test_silence_is_a_valid_answer_without_a_label(analyzer, samples):
    result = analyzer.analyze(from_samples(samples, RATE_HZ))
    assert (result.label, result.confidence, result.windows, result.agreement) == (None, 0.0, (), None)
    assert result.distribution == {}
    assert result.uncertain
    assert "nothing was analysed" in result.uncertain_reasons[0]
    assert [(skip.start_s, skip.end_s) for skip in result.coverage.skipped] == [(0.0, result.duration_s)]
    json.dumps(result.to_dict())


@pytest.mark.parametrize(
    ("samples", "doubt"),
    [
        (tone(3.0), "a tone or a machine"),
        (np.sign(tone(3.0, 120.0)), "a tone or a machine"),
        (noise(3.0), "noise or whispering"),
        (np.cumsum(noise(3.0, 0.01)), "noise or whispering"),
        (np.full(16000, 0.2), "noise or whispering"),
    ],
    ids=["tone", "buzz", "white noise", "rumble", "constant"],
)
def test_what_is_not_speech_is_never_sure(analyzer, samples, doubt):
    result = analyzer.analyze(from_samples(samples, RATE_HZ))
    assert result.uncertain
    assert result.label is None or doubt in " ".join(result.uncertain_reasons)


def test_clear_speech_is_not_called_noise(analyzer):
    reasons = " ".join(analyzer.analyze(CLIP).uncertain_reasons)
    assert not any(word in reasons for word in ("voiced", "machine", "syllables", "noisy", "only"))


def test_noisy_speech_is_said_to_be_noisy(analyzer, speech):
    loud = float(np.sqrt(np.mean(speech**2)))
    padded = np.pad(speech, RATE_HZ)
    result = analyzer.analyze(from_samples(padded + noise(len(padded) / RATE_HZ, 0.6 * loud)[: len(padded)], RATE_HZ))
    assert any("noisy" in reason for reason in result.uncertain_reasons)


@pytest.mark.parametrize("seconds", [0.01, 0.1, 0.3])
def test_a_snippet_never_fails(analyzer, speech, seconds):
    middle = len(speech) // 2
    snippet = speech[middle : middle + int(seconds * RATE_HZ)]
    result = analyzer.analyze(from_samples(snippet, RATE_HZ))
    assert result.uncertain
    reasons = " ".join(result.uncertain_reasons)
    assert result.label is None or "s of speech" in reasons


@pytest.mark.parametrize("spoil", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_survived_and_told(analyzer, speech, spoil):
    broken = speech.copy()
    broken[5000:5010] = spoil
    result = analyzer.analyze(from_samples(broken, RATE_HZ))
    assert result.label
    assert result.warnings


def test_silence_around_a_clip_changes_nothing_but_times(analyzer, speech):
    plain = analyzer.analyze(from_samples(speech, RATE_HZ))
    padded = analyzer.analyze(from_samples(np.pad(speech, 3200), RATE_HZ))
    assert padded.distribution == plain.distribution
    assert padded.reasoning == plain.reasoning
    values = [[measure.value for measure in result.evidence] for result in (plain, padded)]
    assert values[0] == values[1]
    shift = padded.windows[0].start_s - plain.windows[0].start_s
    starts = [next(m.start_s for m in result.evidence if m.name == "f0_median_hz") for result in (plain, padded)]
    assert starts[1] - starts[0] == pytest.approx(shift)
    assert shift == pytest.approx(0.2)


def test_a_long_recording_is_cut_and_nothing_is_lost(analyzer, speech):
    pause = np.zeros(int(0.6 * RATE_HZ), np.float32)
    long = np.concatenate([np.concatenate([speech, pause]) for _ in range(30)])
    pieces: list[str] = []
    result = analyzer.analyze(from_samples(long, RATE_HZ), on_text=pieces.append)
    assert len(result.windows) >= 3
    assert all(window.end_s - window.start_s <= 20.0 + 1e-6 for window in result.windows)
    weights = np.array([window.end_s - window.start_s for window in result.windows])
    shares = np.array([list(window.distribution.values()) for window in result.windows])
    np.testing.assert_allclose(list(result.distribution.values()), weights @ shares / weights.sum(), atol=1e-9)
    strongest = max(result.windows, key=lambda window: window.distribution[result.label])
    assert (result.reasoning, result.claims) == (strongest.reasoning, strongest.claims)
    assert all(strongest.start_s - 1e-6 <= measure.start_s for measure in result.evidence)
    assert "".join(pieces).count("\n") >= len(result.windows) - 1
    assert EmotionResult.from_dict(result.to_dict()).coverage.analysed


def test_windows_shrink_to_what_the_context_holds(tiny, tmp_path, speech):
    """20 s windows are 200 rows; with 120 tokens of context the analyzer cuts shorter ones."""
    from edge_emotion.bundle import load_bundle

    bundle = load_bundle(tiny.write_bundle(tmp_path / "narrow", context_tokens=120))
    llm = LlamaCppModel(bundle.llm_path(), bundle.manifest.llm.context_tokens, threads=1)
    with Analyzer(bundle, OnnxEncoder(bundle.encoder_path(), threads=1), llm) as analyzer:
        result = analyzer.analyze(from_samples(np.tile(speech, 10), RATE_HZ))
        assert result.runtime["max_window_s"] < 10.0
        assert max(window.end_s - window.start_s for window in result.windows) <= result.runtime["max_window_s"] + 1e-6
        assert len(result.windows) >= 2


def test_a_context_without_room_for_audio_is_refused(bundle):
    with (
        LlamaCppModel(bundle.llm_path(), 40, threads=1) as llm,
        OnnxEncoder(bundle.encoder_path(), threads=1) as encoder,
        pytest.raises(BundleError, match="no room for audio"),
    ):
        Analyzer(bundle, encoder, llm)


def test_threads_get_the_answers_of_one_thread(analyzer, speech):
    clips = [from_samples(speech[: len(speech) - 1600 * index], RATE_HZ) for index in range(6)]
    alone = [timeless(analyzer.analyze(clip)) for clip in clips]
    with ThreadPoolExecutor(3) as pool:
        together = [timeless(result) for result in pool.map(analyzer.analyze, clips)]
    assert together == alone


def test_unreadable_input_is_an_audio_error_and_the_next_is_answered(analyzer, tmp_path):
    text = tmp_path / "text.wav"
    text.write_text("not audio")
    for source in (text, tmp_path, tmp_path / "absent.wav", b"", io.BytesIO(b"RIFF")):
        with pytest.raises(AudioError):
            analyzer.analyze(source)
    assert analyzer.analyze(CLIP).label


@pytest.mark.parametrize(
    ("rate_hz", "channels", "subtype"), [(8000, 1, "PCM_U8"), (96000, 2, "PCM_24"), (44100, 6, "FLOAT")]
)
def test_other_formats(analyzer, speech, tmp_path, rate_hz, channels, subtype):
    path = tmp_path / "clip.wav"
    samples = np.repeat(speech[:, None], channels, axis=1)[:: max(1, RATE_HZ // rate_hz)]
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    assert analyzer.analyze(path).duration_s == pytest.approx(len(samples) / rate_hz, abs=0.01)


def test_many_recordings_do_not_grow_the_memory(analyzer, speech):
    random = np.random.default_rng(0)

    def use(count: int) -> None:
        for _ in range(count):
            analyzer.analyze(from_samples(speech[: int(random.integers(8000, len(speech)))], RATE_HZ))

    use(15)
    before = resident_bytes()
    use(45)
    assert resident_bytes() - before < 4 * 2**20


def test_close_twice(bundle, speech):
    analyzer = Analyzer(
        bundle, OnnxEncoder(bundle.encoder_path(), threads=1), LlamaCppModel(bundle.llm_path(), threads=1)
    )
    analyzer.close()
    analyzer.close()
    with pytest.raises(RuntimeUnavailableError, match="closed"):
        analyzer.analyze(from_samples(speech, RATE_HZ))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
