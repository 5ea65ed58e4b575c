"""Recording in, `EmotionResult` out: encoder, language model, measured prosody and checked claims, window by window."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np

from edge_emotion.audio import SAMPLE_RATE_HZ, Audio, load_audio
from edge_emotion.bundle import Bundle
from edge_emotion.claims import CheckedClaim, check_claims, faithfulness, parse_claims
from edge_emotion.errors import BundleError
from edge_emotion.metrics import softmax
from edge_emotion.prosody import Measure, Prosody, measure_prosody
from edge_emotion.result import Coverage, EmotionResult, WindowResult
from edge_emotion.speech import find_speech
from edge_emotion.windows import Plan, Window, cut_windows, window_samples
from edge_emotion_runtimes.doubts import find_doubts
from edge_emotion_runtimes.interfaces import AudioEncoder, LanguageModel
from edge_emotion_runtimes.thinking import Thinking, answer_without_thinking

Source = str | os.PathLike[str] | bytes | IO[bytes] | Audio


class Analyzer:
    """Answers recordings, one at a time; calls from several threads wait for each other.

    Args:
        bundle: The bundle that encoder and language model were loaded from.
        encoder: Its audio encoder.
        llm: Its language model; None answers by the encoder's head alone, where it has one.
        selection: What was chosen to run and why, for the results' `runtime`; plain types, may hold `fallbacks`.

    Raises:
        BundleError: The bundle's prompt cannot be used with this language model, or it has neither head nor model.
    """

    def __init__(
        self,
        bundle: Bundle,
        encoder: AudioEncoder,
        llm: LanguageModel | None = None,
        selection: Mapping[str, Any] | None = None,
    ) -> None:
        self.bundle = bundle
        self._encoder, self._llm = encoder, llm
        self._labels = bundle.manifest.labels
        self._has_head = "head" in bundle.manifest.calibration
        if not self._has_head and llm is None:
            raise BundleError(
                f"bundle {bundle.manifest.name!r}: its encoder has no emotion head, so only a language model can "
                "answer; load it with one"
            )
        self._lock = threading.Lock()
        self._explainer = _Explainer(bundle, llm) if llm else None
        self._max_window_s = bundle.manifest.encoder.max_window_s
        if self._explainer:
            self._max_window_s = min(self._max_window_s, self._explainer.longest_audio_s())
        self._runtime = _describe_runtime(encoder, llm, selection or {}, self._max_window_s)
        self._identity = {
            "name": bundle.manifest.name,
            "version": bundle.manifest.version,
            "sha256": bundle.manifest_sha256,
        }

    def __enter__(self) -> Analyzer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free encoder and language model; a second call does nothing."""
        with self._lock:
            self._encoder.close()
            if self._llm:
                self._llm.close()

    def analyze(
        self, source: Source, explain: bool = True, on_text: Callable[[str], None] | None = None
    ) -> EmotionResult:
        """Tell which emotion a recording carries, how sure, why, and whether the why is true.

        Args:
            source: A path, the bytes of a file, a file object, or an `Audio`.
            explain: False answers without reasoning, faster: by the encoder's head, or where it has none by the
                language model's score of each label.
            on_text: Called with each piece of the reasoning as it is written.

        Returns:
            Always a valid result for audio that can be read: where there is nothing to analyse, `label` is None and
            `uncertain_reasons` says why. `timing_s` holds seconds per stage, summed over windows, and the moments
            `time_to_label_head` and `time_to_first_word` of the first window, from the call on.

        Raises:
            AudioError: The recording cannot be read.
        """
        with self._lock:
            watch = _Stopwatch()
            with watch.stage("decode"):
                audio = source if isinstance(source, Audio) else load_audio(source)
            with watch.stage("speech_activity"):
                activity = find_speech(audio.samples)
                plan = cut_windows(activity, audio.duration_s, self._max_window_s)
            explainer = self._explainer if explain or not self._has_head else None
            heard = [
                self._listen(audio, window, explainer, explain, watch, _separated(on_text, index))
                for index, window in enumerate(plan.windows)
            ]
            return self._combine(audio, plan, heard, explainer is not None, self._warnings(explain), watch)

    def _warnings(self, explain: bool) -> tuple[str, ...]:
        warnings = []
        if explain and not self._explainer:
            warnings.append("no language model is loaded: no explanation")
        if not self._has_head:
            warnings.append("this bundle's encoder has no emotion head: the language model alone chose the label")
        if self.bundle.manifest.calibration["llm"].ece is None and (explain or not self._has_head):
            warnings.append("this bundle was never calibrated: its shares tell preferences, not how often it is right")
        return tuple(warnings)

    def _listen(
        self,
        audio: Audio,
        window: Window,
        explainer: _Explainer | None,
        explain: bool,
        watch: _Stopwatch,
        on_text: Callable[[str], None],
    ) -> _Heard:
        manifest = self.bundle.manifest
        samples = window_samples(audio.samples, window)
        with watch.stage("encoder"):
            output = self._encoder.encode(_at_least(samples, manifest.encoder.min_window_s))
        head: dict[str, float] = {}
        if output.emotion_logits is not None:
            head = self._distribution("head", output.emotion_logits)
            watch.mark("time_to_label_head")
        distribution, reasoning = head, ""
        if explainer:
            reasoning, scores = explainer.explain(output.embeddings, explain, watch, on_text)
            distribution = self._distribution("llm", scores)
        with watch.stage("prosody"):
            prosody = measure_prosody(samples)
        with watch.stage("claims"):
            claims = check_claims(parse_claims(reasoning), prosody, manifest.thresholds)
        label = max(distribution, key=distribution.__getitem__)
        result = WindowResult(
            start_s=window.start_s,
            end_s=window.end_s,
            label=label,
            distribution=distribution,
            head_distribution=head,
            reasoning=reasoning,
            claims=tuple(claims),
        )
        return _Heard(result, prosody)

    def _distribution(self, scorer: str, scores: np.ndarray) -> dict[str, float]:
        if len(scores) != len(self._labels):
            raise BundleError(
                f"bundle {self.bundle.manifest.name!r}: the {scorer} gives {len(scores)} scores for the manifest's "
                f"{len(self._labels)} labels; export the bundle again"
            )
        shares = softmax(scores, self.bundle.manifest.calibration[scorer].temperature)
        return dict(zip(self._labels, map(float, shares), strict=True))

    def _combine(
        self,
        audio: Audio,
        plan: Plan,
        heard: Sequence[_Heard],
        explained: bool,
        warnings: tuple[str, ...],
        watch: _Stopwatch,
    ) -> EmotionResult:
        windows = tuple(item.window for item in heard)
        distribution = _mean_distribution(windows, "distribution")
        head = _mean_distribution(windows, "head_distribution")
        label = max(distribution, key=distribution.__getitem__) if distribution else None
        head_label = max(head, key=head.__getitem__) if head else None
        # The window that speaks strongest for the answer explains it; the others keep their own explanations.
        speaker = max(heard, key=lambda item: item.window.distribution[label]) if label else None
        claims: tuple[CheckedClaim, ...] = speaker.window.claims if speaker else ()
        doubts = find_doubts(
            [item.prosody for item in heard],
            label=label,
            confidence=distribution[label] if label else 0.0,
            abstain_below=self.bundle.manifest.calibration["llm" if explained else "head"].abstain_below,
            head_label=head_label,
            min_speech_s=self.bundle.manifest.encoder.min_window_s,
            skipped=[skip.reason for skip in plan.skipped],
        )
        watch.mark("total")
        return EmotionResult(
            source=audio.source,
            duration_s=audio.duration_s,
            label=label,
            distribution=distribution,
            confidence=distribution[label] if label else 0.0,
            uncertain=bool(doubts),
            uncertain_reasons=doubts,
            head_distribution=head,
            agreement=label == head_label if explained and label and head_label else None,
            reasoning=speaker.window.reasoning if speaker else "",
            claims=claims,
            faithfulness=faithfulness(claims),
            evidence=_evidence(speaker) if speaker else (),
            windows=windows,
            coverage=Coverage(tuple((window.start_s, window.end_s) for window in plan.windows), plan.skipped),
            timing_s=watch.seconds,
            runtime=self._runtime,
            bundle=self._identity,
            warnings=(*audio.warnings, *warnings),
        )


@dataclass(frozen=True)
class _Heard:
    window: WindowResult
    prosody: Prosody


class _Explainer:
    """The language model with the bundle's prompt: reasoning and label scores for one window's embeddings."""

    def __init__(self, bundle: Bundle, llm: LanguageModel) -> None:
        self._bundle, self._llm, self._prompt = bundle, llm, bundle.manifest.prompt
        self._after_audio = llm.tokenize(self._prompt.after_audio)
        answer_open = llm.tokenize(self._prompt.answer_open)
        if not self._after_audio or not answer_open:
            raise BundleError(f"bundle {bundle.manifest.name!r}: prompt.after_audio and answer_open must not be empty")
        try:
            self._label_texts = self._prompt.texts_of(bundle.manifest.labels)
        except ValueError as error:
            raise BundleError(f"bundle {bundle.manifest.name!r}: {error}; export it again") from None
        self._thinking = Thinking(llm, self._prompt)
        self._direct_answer = answer_without_thinking(self._prompt)
        if before := llm.tokenize(self._prompt.before_audio):
            llm.prefill([before])
        llm.save_prefix()
        self._fixed_tokens = llm.position + len(self._after_audio) + len(answer_open)
        self._label_tokens = max(len(llm.tokenize(text + self._prompt.answer_close)) for text in self._label_texts)

    def longest_audio_s(self) -> float:
        """The longest window whose embeddings, reasoning and answer fit into the context."""
        encoder = self._bundle.manifest.encoder
        taken = self._fixed_tokens + self._prompt.max_think_tokens + self._label_tokens + encoder.summary_tokens
        longest_s = math.floor((self._llm.context_tokens - taken - 1) / encoder.tokens_per_second * 10.0) / 10.0
        if longest_s < max(1.0, encoder.min_window_s):
            raise BundleError(
                f"a context of {self._llm.context_tokens} tokens has no room for audio: {taken} are taken by prompt, "
                "reasoning and answer; give a larger context_tokens"
            )
        return longest_s

    def explain(
        self, embeddings: np.ndarray, think: bool, watch: _Stopwatch, on_text: Callable[[str], None]
    ) -> tuple[str, np.ndarray]:
        """Reasoning, empty unless asked to `think`, and the log-probability of each label `(labels,)`."""
        with watch.stage("prefill"):
            self._llm.load_prefix()
            self._llm.prefill([embeddings, self._after_audio])

        def tell(piece: str) -> None:
            if piece.strip():
                watch.mark("time_to_first_word")
            on_text(piece)

        reasoning, opening = "", self._direct_answer
        if think:
            with watch.stage("think"):
                reasoning, opening = self._thinking.run(tell)
        with watch.stage("score"):
            if opening:
                self._llm.prefill([self._llm.tokenize(opening)])
            scores = self._llm.score_labels(self._label_texts, self._prompt.answer_close)
        return reasoning.strip(), scores


class _Stopwatch:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to the stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def mark(self, name: str) -> None:
        """Note the time since the start, the first time this is reached."""
        self.seconds.setdefault(name, time.perf_counter() - self._start)


def _separated(on_text: Callable[[str], None] | None, index: int) -> Callable[[str], None]:
    """A callback that starts the text of every window but the first on a new line."""
    if on_text is None:
        return lambda _: None
    fresh = index > 0

    def write(piece: str) -> None:
        nonlocal fresh
        if piece:
            on_text("\n" + piece if fresh else piece)
            fresh = False

    return write


def _at_least(samples: np.ndarray, duration_s: float) -> np.ndarray:
    """Samples, with zeros after them if they are shorter than the encoder can hear."""
    missing = math.ceil(duration_s * SAMPLE_RATE_HZ) - len(samples)
    return np.pad(samples, (0, missing)) if missing > 0 else samples


def _mean_distribution(windows: Sequence[WindowResult], name: str) -> dict[str, float]:
    """Mean over windows, weighted by their length."""
    total_s = sum(window.end_s - window.start_s for window in windows)
    mean: dict[str, float] = {}
    for window in windows:
        weight = (window.end_s - window.start_s) / total_s  # exactly 1 for a single window, which then is the mean
        for label, share in getattr(window, name).items():
            mean[label] = mean.get(label, 0.0) + weight * share
    return {label: min(1.0, share) for label, share in mean.items()}


def _evidence(heard: _Heard) -> tuple[Measure, ...]:
    """The window's measures, on the recording's clock."""
    start_s = heard.window.start_s
    return tuple(
        replace(measure, start_s=measure.start_s + start_s, end_s=measure.end_s + start_s)
        for measure in heard.prosody.measures.values()
    )


def _describe_runtime(
    encoder: AudioEncoder, llm: LanguageModel | None, selection: Mapping[str, Any], max_window_s: float
) -> dict[str, Any]:
    described = encoder.describe()
    return {
        **selection,
        "encoder": described,
        "llm": llm.describe() if llm else None,
        "max_window_s": max_window_s,
        "fallbacks": [*selection.get("fallbacks", ()), *described.get("fallbacks", ())],
    }
