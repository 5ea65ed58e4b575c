"""Audio encoder on ONNX Runtime: waveform to embeddings for the language model and, where it has a head, to logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_emotion.errors import BundleError, RuntimeUnavailableError
from edge_emotion_runtimes.encoder_checks import check_finite, check_samples
from edge_emotion_runtimes.interfaces import EncoderOutput
from edge_emotion_runtimes.onnx_metadata import rate_and_labels
from edge_emotion_runtimes.onnx_session import (
    CPU_PROVIDER,
    GPU_PROVIDERS,
    library,
    nodes_by_provider,
    open_session,
    run_on_device,
    why_not,
)
from edge_emotion_runtimes.processors import usable_cores

_OUTPUTS = ("embeddings", "emotion_logits")


class OnnxEncoder:
    """One graph from `waveform` `(1, samples)` at 16 kHz to `embeddings` and, if its metadata names labels, to
    `emotion_logits`.

    Thread-safe.

    Args:
        path: The ONNX file.
        threads: Threads within an operator; None takes the usable physical cores.
        providers: Execution providers, best first. The processor is always added as the last.
        strict: An asked-for provider that does not run is an error instead of a recorded fallback.
        provider_options: Options of each provider, as onnxruntime documents them.
        device: Number of the GPU.

    Raises:
        BundleError: The file is missing, damaged, or has other inputs and outputs than the contract.
        RuntimeUnavailableError: onnxruntime is missing, or under `strict` a provider does not run here.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        providers: Sequence[str] = (CPU_PROVIDER,),
        strict: bool = False,
        provider_options: Mapping[str, Mapping[str, str]] | None = None,
        device: int = 0,
    ) -> None:
        if threads is not None and threads < 1:
            raise RuntimeUnavailableError(f"threads must be at least 1, given {threads}")
        self.path = Path(path)
        self.threads = threads or usable_cores()
        self.device = device
        self._version: str = library().__version__
        options = {name: {"device_id": str(device), **(provider_options or {}).get(name, {})} for name in GPU_PROVIDERS}
        self._session: Any = open_session(self.path, self.threads, providers, provider_options=options)
        outputs = _check_signature(self._session, self.path)
        # Only the session knows: the package lists providers that this machine cannot run.
        self.providers = tuple(self._session.get_providers())
        self.nodes = nodes_by_provider(self._session)
        self.fallbacks = tuple(
            f"encoder: {provider} was asked for and does not run here ({reason}); {self.providers[0]} does"
            for provider in providers
            if (reason := self._absence(provider))
        )
        if strict and self.fallbacks:
            raise RuntimeUnavailableError("; ".join(self.fallbacks) + ". Install its driver, or load without strict")
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.sample_rate_hz, self.labels = rate_and_labels(metadata, self.path)
        self.embedding_dim = _fixed(outputs["embeddings"].shape[-1])
        self._outputs = [name for name in _OUTPUTS if name in outputs]
        logits = outputs.get("emotion_logits")
        if self.labels and logits is None:
            raise BundleError(f"{path}: its metadata names labels, but it has no emotion_logits; export it again")
        if self.labels and logits is not None and _fixed(logits.shape[-1]) not in (None, len(self.labels)):
            raise BundleError(
                f"{path}: {logits.shape[-1]} emotion logits for {len(self.labels)} labels; export it again"
            )

    def _absence(self, provider: str) -> str:
        """Why a provider computes nothing here; empty if it does."""
        if provider not in self.providers:
            return why_not(provider)
        idle = provider != CPU_PROVIDER and self.nodes and not self.nodes.get(provider)
        return f"it takes none of the {sum(self.nodes.values())} nodes" if idle else ""

    def __enter__(self) -> OnnxEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the session; a second call does nothing."""
        self._session = None

    def encode(self, samples: np.ndarray) -> EncoderOutput:
        """Run the graph once.

        Args:
            samples: float32 `(n,)` at 16 kHz, finite, at least 400 of them.

        Raises:
            AudioError: The samples are not of that kind.
            RuntimeUnavailableError: The encoder is closed, failed, or computed NaN or infinity.
        """
        session = self._session
        if session is None:
            raise RuntimeUnavailableError(f"the encoder {self.path.name} is closed; load it again")
        check_samples(samples)
        try:
            inputs = {"waveform": samples[None]}
            if self.providers[0] in GPU_PROVIDERS:
                embeddings, *logits = run_on_device(session, self._outputs, inputs, "cuda", self.device)
            else:
                embeddings, *logits = session.run(self._outputs, inputs)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise RuntimeUnavailableError(f"{self.path.name} failed on {len(samples)} samples: {error}") from error
        check_finite(self.path.name, self.providers[0], embeddings, *logits)
        return EncoderOutput(embeddings[0], logits[0][0] if logits else None)

    def describe(self) -> dict[str, Any]:
        """What runs here, read from the session."""
        return {
            "runtime": "onnxruntime",
            "version": self._version,
            "providers": list(self.providers),
            "nodes": dict(self.nodes) or None,
            "fallbacks": list(self.fallbacks),
            "file": self.path.name,
            "threads": self.threads,
            "sample_rate_hz": self.sample_rate_hz,
            "embedding_dim": self.embedding_dim,
            "labels": list(self.labels) or None,
        }


def _check_signature(session: Any, path: Path) -> dict[str, Any]:
    """The outputs by name, if inputs and outputs are those of the contract."""
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    wave = inputs.get("waveform")
    if set(inputs) != {"waveform"} or wave is None or wave.type != "tensor(float)" or len(wave.shape) != 2:
        raise BundleError(f"{path}: inputs {sorted(inputs)}; exactly `waveform` float32 (1, samples) is needed")
    wrong = [name for name in _OUTPUTS if name in outputs and outputs[name].type != "tensor(float)"]
    if wrong or "embeddings" not in outputs:
        raise BundleError(f"{path}: outputs {sorted(outputs)}; {', '.join(wrong) or 'embeddings'} must be float32")
    return outputs


def _fixed(dimension: int | str | None) -> int | None:
    return dimension if isinstance(dimension, int) else None
