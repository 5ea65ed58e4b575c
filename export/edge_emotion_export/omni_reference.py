"""What a Qwen2.5-Omni checkpoint itself says, computed by transformers' own layers in float32, one layer in memory.

A text cannot be generated so, token by token; but it can be checked: an exported model drafts the text, the reference
reads it in one pass and takes every token it would have chosen itself. Where they differ the reference's token stands
and the draft goes on from there, so that the result is the reference's own greedy text.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache, WhisperFeatureExtractor
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm, Qwen2RotaryEmbedding
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder

from edge_emotion.prompt import Prompt
from edge_emotion_train.frontend import SAMPLE_RATE_HZ

from .golden import ReferenceClip
from .omni_checkpoint import AUDIO_PREFIX, EMBEDDING_NAME, HEAD_NAME, OmniCheckpoint
from .omni_gguf import gguf_name

HEAD_ROWS = 2**14
DEVICE_ENDS = ("<|im_end|>", "<|endoftext|>")
Draft = Callable[[np.ndarray, Sequence[int]], list[int]]
"""Token ids that a model writes after the prompt around these embeddings and after these tokens."""


class AudioReference:
    """The checkpoint's audio side, by transformers' feature extractor and encoder, in float32."""

    def __init__(self, checkpoint: OmniCheckpoint) -> None:
        # Longer than any clip: published checkpoints pad to 300 s before they measure, and so never mirror the end.
        self._extract = WhisperFeatureExtractor(feature_size=checkpoint.audio.num_mel_bins, chunk_length=60)
        # Building a model writes into its configuration, which is the checkpoint's.
        config = copy.deepcopy(checkpoint.audio)
        self._encoder = Qwen2_5OmniAudioEncoder._from_config(config, dtype=torch.float32).eval()
        parameters = dict(self._encoder.named_parameters())
        for name, values in checkpoint.state(AUDIO_PREFIX):
            if name in parameters:
                parameters[name].data = values

    @torch.inference_mode()
    def embed(self, waveform: np.ndarray) -> np.ndarray:
        """Embeddings `(tokens, dim)` of float32 `(samples,)` at 16 kHz."""
        inputs = self._extract(
            waveform,
            sampling_rate=SAMPLE_RATE_HZ,
            padding="max_length",
            return_attention_mask=True,
            return_tensors="pt",
        )
        frames = int(inputs["attention_mask"].sum())
        features = inputs["input_features"][0][:, :frames]
        return self._encoder(features, feature_lens=torch.tensor([frames])).last_hidden_state.numpy()


@dataclass
class Importance:
    """Mean square of what each matrix is multiplied with, by llama.cpp's names: what a quantiser should keep."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, rows: Tensor) -> None:
        """Counts rows `(..., width)` that the matrix of this name was multiplied with."""
        rows = rows.reshape(-1, rows.shape[-1]).double()
        self.sums[name] = self.sums.get(name, torch.zeros(rows.shape[-1], dtype=torch.float64)) + rows.square().sum(0)
        self.counts[name] = self.counts.get(name, 0) + len(rows)

    def means(self) -> dict[str, np.ndarray]:
        """float32 `(width,)` of each matrix."""
        return {name: (values / self.counts[name]).float().numpy() for name, values in self.sums.items()}


class TextReference:
    """The checkpoint's language model, streamed layer by layer.

    Args:
        checkpoint: Where the weights come from.
        layers: Only the first layers, as a GGUF file cut in the same way.
    """

    def __init__(self, checkpoint: OmniCheckpoint, layers: int | None = None) -> None:
        self.checkpoint = checkpoint
        self.layers = checkpoint.text.num_hidden_layers if layers is None else layers
        self._config = copy.deepcopy(checkpoint.text)
        self._config._attn_implementation = "sdpa"
        self._rotary = Qwen2RotaryEmbedding(self._config)

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        """Rows of the embedding matrix, `(tokens, dim)`."""
        rows = {identity: self.checkpoint.rows(EMBEDDING_NAME, identity, identity + 1) for identity in set(token_ids)}
        return torch.cat([torch.empty(0, self._config.hidden_size), *(rows[identity] for identity in token_ids)])

    @torch.inference_mode()
    def states(
        self,
        sequences: Sequence[Tensor],
        endings: Sequence[Sequence[Tensor]] | None = None,
        importance: Importance | None = None,
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Normalised last states of sequences `(rows, dim)`, and of endings that each go on from their sequence."""
        longest = max(len(sequence) for sequence in sequences)
        longest += max((len(end) for ends in endings or [] for end in ends), default=0)
        cosine, sine = self._rotary(sequences[0][None], torch.arange(longest)[None])
        states = [sequence[None] for sequence in sequences]
        tails = [[end[None] for end in ends] for ends in endings or [[]] * len(states)]
        layer = Qwen2DecoderLayer(self._config, layer_idx=0).eval()
        for index in range(self.layers):
            self._fill(layer, f"model.layers.{index}.")
            hooks = _watch(layer, f"model.layers.{index}.", self.layers, importance) if importance else []
            for place, rows in enumerate(states):
                cache, known = DynamicCache(), rows.shape[1]
                turns = cosine[:, :known], sine[:, :known]
                states[place] = layer(rows, position_embeddings=turns, past_key_values=cache)
                for which, tail in enumerate(tails[place]):
                    span = slice(known, known + tail.shape[1])
                    mask = torch.ones(tail.shape[1], span.stop, dtype=torch.bool).tril(known)[None, None]
                    turns = cosine[:, span], sine[:, span]
                    tails[place][which] = layer(tail, mask, position_embeddings=turns, past_key_values=cache)
                    cache.crop(-tail.shape[1])
            for hook in hooks:
                hook.remove()
        norm = Qwen2RMSNorm(self._config.hidden_size, self._config.rms_norm_eps)
        norm.weight.data = self.checkpoint.rows("model.norm.weight")
        normed = [norm(rows)[0] for rows in states]
        if importance:
            head = EMBEDDING_NAME if self.checkpoint.tied else HEAD_NAME
            for rows in normed:
                importance.add(gguf_name(head, self.layers), rows)
        return normed, [[norm(tail)[0] for tail in ends] for ends in tails]

    @torch.inference_mode()
    def logits(self, states: Tensor) -> Tensor:
        """Logits `(rows, vocabulary)`; the output matrix is read in parts."""
        name = EMBEDDING_NAME if self.checkpoint.tied else HEAD_NAME
        starts = range(0, self._config.vocab_size, HEAD_ROWS)
        return torch.cat([states @ self.checkpoint.rows(name, start, start + HEAD_ROWS).T for start in starts], dim=1)

    def _fill(self, layer: nn.Module, prefix: str) -> None:
        for name, parameter in layer.named_parameters():
            parameter.data = self.checkpoint.rows(prefix + name)


def run_reference(
    checkpoint: OmniCheckpoint,
    prompt: Prompt,
    label_texts: Sequence[str],
    sounds: Sequence[tuple[np.ndarray, np.ndarray]],
    draft: Draft,
    layers: int | None = None,
    importance: Importance | None = None,
) -> list[ReferenceClip]:
    """What the checkpoint says of clips.

    Args:
        checkpoint: The checkpoint.
        prompt: Texts around the audio; the thinking is `max_think_tokens` long unless the model ends it.
        label_texts: What is scored after the forced answer.
        sounds: Waveform and embeddings of each clip.
        draft: Writes drafts of the thinking; only the number of passes depends on how good they are.
        layers: Only the first layers of the language model.
        importance: Collects what a quantiser wants to know.
    """
    reference = TextReference(checkpoint, layers)

    def ids(text: str) -> list[int]:
        return checkpoint.tokenizer.encode(text, add_special_tokens=False).ids

    before, after = reference.embed(ids(prompt.before_audio)), reference.embed(ids(prompt.after_audio))
    starts = [torch.cat([before, torch.from_numpy(embeddings), after]) for _, embeddings in sounds]
    embeddings = [rows for _, rows in sounds]
    thoughts = _greedy(reference, starts, embeddings, draft, prompt.max_think_tokens, ends_of_text(checkpoint))
    opening = ids(prompt.answer_open)
    texts = [ids(text + prompt.answer_close) for text in label_texts]
    pairs = zip(starts, thoughts, strict=True)
    sequences = [torch.cat([start, reference.embed([*thought, *opening])]) for start, thought in pairs]
    endings = [reference.embed(text[:-1]) for text in texts if len(text) > 1]
    states, tails = reference.states(sequences, [endings] * len(sequences), importance)
    clips = []
    for place, (waveform, rows) in enumerate(sounds):
        first, count = len(starts[place]) - 1, len(thoughts[place])
        logits = reference.logits(states[place][first : first + count + 1])
        ahead = reference.logits(states[place][-1:])
        following = iter(tails[place])
        scores = [_score(reference, ahead, next(following) if len(text) > 1 else None, text) for text in texts]
        clips.append(
            ReferenceClip(
                waveform=waveform,
                embeddings=rows,
                emotion_logits=np.empty(0, np.float32),
                thought=tuple(thoughts[place]),
                logits=logits.numpy(),
                text=checkpoint.tokenizer.decode(thoughts[place], skip_special_tokens=True),
                label_scores=np.array(scores),
            )
        )
    return clips


def ends_of_text(checkpoint: OmniCheckpoint) -> frozenset[int]:
    """Tokens that end a text on the device: llama.cpp ends at both, whatever the checkpoint's own generation does."""
    return frozenset(i for name in DEVICE_ENDS if (i := checkpoint.tokenizer.token_to_id(name)) is not None)


def _greedy(
    reference: TextReference,
    starts: Sequence[Tensor],
    embeddings: Sequence[np.ndarray],
    draft: Draft,
    most: int,
    stops: frozenset[int],
) -> list[list[int]]:
    """The reference's greedy tokens after each start: drafted, read, mended, until nothing is left to mend."""
    known: list[list[int]] = [[] for _ in starts]
    open_clips = list(range(len(starts))) if most else []
    while open_clips:  # every pass settles at least one token of each
        drafts = {clip: [*known[clip], *draft(embeddings[clip], known[clip])][:most] for clip in open_clips}
        sequences = [torch.cat([starts[clip], reference.embed(drafts[clip])]) for clip in open_clips]
        states, _ = reference.states(sequences)
        still_open = []
        for clip, rows in zip(open_clips, states, strict=True):
            own = reference.logits(rows[len(starts[clip]) - 1 :]).argmax(dim=1).tolist()
            agreed = next((i for i, token in enumerate(drafts[clip]) if token != own[i]), len(drafts[clip]))
            known[clip] = drafts[clip][:agreed]
            if agreed < most and own[agreed] not in stops:
                known[clip].append(own[agreed])
                if len(known[clip]) < most:
                    still_open.append(clip)
        open_clips = still_open
    return known


def _score(reference: TextReference, ahead: Tensor, tail: Tensor | None, text: Sequence[int]) -> float:
    """Log-probability of a text's tokens, given the logits of its first and the states of the others."""
    logits = ahead if tail is None else torch.cat([ahead, reference.logits(tail)])
    return float(logits.double().log_softmax(dim=-1)[range(len(text)), list(text)].sum())


def _watch(layer: nn.Module, prefix: str, layers: int, importance: Importance) -> list[RemovableHandle]:
    def watcher(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: importance.add(name, inputs[0])

    return [
        module.register_forward_pre_hook(watcher(gguf_name(f"{prefix}{name}.weight", layers)))
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    ]
