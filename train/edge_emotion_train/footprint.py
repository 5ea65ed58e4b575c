"""How much memory and time a training stage takes on each GPU: formulas, and nothing else.

Bytes. `w` is the width of an activation: 2 bytes under bf16, 4 in fp32. N is the number of GPUs.

*Model states* (Rajbhandari et al. 2020, "ZeRO", section 3.1, but for gradients, which are as wide as the weights here):

- trained weights 4 (fp32, which transformers trains under autocast), and on a GPU a copy of 2 in bf16; frozen ones `w`
- gradients 4, Adam's two moments 8
- DDP keeps all of it on each GPU, and buckets for exchange as large as the gradients (`DistributedDataParallel` without
  `gradient_as_bucket_view`); ZeRO-2 divides gradients, moments and fp32 weights by N and exchanges in two buckets of
  5e8; ZeRO-3 and FSDP divide everything, and gather in `w` what is at work: the embeddings or the head, and two layers
- a reference that is another model: its weights in `w`, divided where ZeRO-3 or FSDP divides the policy

*Activations* kept for the backward pass, in values a token and layer (Korthikanti et al. 2022, "Reducing Activation
Recomputation", section 4, done again for these layers: RMSNorm, SwiGLU, fused attention, no dropout, no bias after
attention). d model width, q query width, f feed-forward width, h heads, S tokens of the sequence:

- a decoder layer 6 d + 4 q + 4 f + S + h + 2: two norms keep input, normalised and scaled values; fused attention keeps
  queries, repeated keys and values, output and its log-sum, and the mask; SwiGLU keeps its four products. Under
  autocast two of the three values of a norm are fp32
- a layer of the audio tower 9 d + 2 f + h + 4 a position, of which there are 50 per second; its front end 2 m + 6 d
  for m mel bands
- with gradient checkpointing d a token and layer (the input), and one layer whole, which is computed again
- logits: trl's fused head holds tiles of 4,096 tokens x 32,768 words; a loss over plain logits keeps three copies in
  fp32

*Rollouts*: keys and values 2 x layers x key-value width x `w` a token of each sequence that is generated at once;
logits of one step, three copies in fp32. ZeRO-3 (`ds3_gather_for_generation`) and FSDP (`summon_full_params`) hold all
weights while they generate.

*Scoring* (rewards' and reference's passes) keeps nothing but one layer's values at a time, and the head's tile.

*Work* (Chowdhery et al. 2022, "PaLM", appendix B): 2 operations a parameter and token forward and 4 backward, or 2
where weights are frozen below an adapter; 2 more where the forward pass is done again; attention adds 4 S q a token and
layer forward. The audio tower's share is counted per position.

What no formula knows: fragmentation and the CUDA context, for which `ALLOWANCE` is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

GIB = 2**30
POSITIONS_PER_S = 50  # of the audio tower, after its second convolution
FUSED_TILE = 4096 * 32768
ZERO_BUCKET = 5e8  # parameters of a bucket, of which two are under way
CUDA_CONTEXT = 1.0 * GIB
FRAGMENTATION = 0.05
ALLOWANCE = "1 GiB for the CUDA context and 5 % for fragmentation"

Strategy = Literal["single", "ddp", "fsdp", "zero2", "zero3"]
SHARDED: tuple[Strategy, ...] = ("fsdp", "zero3")


@dataclass(frozen=True)
class Decoder:
    """Sizes of a causal language model."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    parameters: int
    head_parameters: int

    @property
    def query_dim(self) -> int:
        """Width of all queries."""
        return self.heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of all keys."""
        return self.kv_heads * self.head_dim

    def adapter_parameters(self, rank: int) -> int:
        """LoRA of this rank on the seven linear layers of each layer."""
        d, q, k, f = self.dim, self.query_dim, self.kv_dim, self.inner
        return self.layers * rank * ((d + q) + 2 * (d + k) + (q + d) + 3 * (d + f))


@dataclass(frozen=True)
class Tower:
    """Sizes of a Whisper-type audio encoder."""

    dim: int
    layers: int
    heads: int
    inner: int
    mel_bands: int
    parameters: int


@dataclass(frozen=True)
class Model:
    """A model that hears; `tower` is None where training reads cached embeddings.

    Attributes:
        name: How people call it.
        decoder: Its language model.
        tower: Its audio encoder.
        projector: Parameters between the two, which train with the decoder.
        unused: Parameters that are loaded and never trained, such as those of a vision tower.
        tokens_per_s: Tokens a second that the decoder hears.
    """

    name: str
    decoder: Decoder
    tower: Tower | None = None
    projector: int = 0
    unused: int = 0
    tokens_per_s: float = 25.0

    @property
    def parameters(self) -> int:
        """All that is loaded."""
        return self.decoder.parameters + (self.tower.parameters if self.tower else 0) + self.projector + self.unused


@dataclass(frozen=True)
class Job:
    """What one stage does.

    Attributes:
        stage: Its name.
        model: What is trained.
        sequences: Sequences of one forward pass on one GPU.
        sequences_per_step: Sequences of an optimiser step over all GPUs.
        steps: Optimiser steps.
        audio_s: Seconds of each recording.
        prompt_tokens: Text of a prompt.
        reply_tokens: Text that is learned or generated.
        lora_rank: 0 trains all weights of the decoder and the projector.
        tower_trains: Whether the audio encoder trains too.
        rollouts: Whether replies are generated first (GRPO).
        reference: Whether a copy of the start is held against; LoRA needs none, since it can be switched off.
        iterations: Optimiser steps on the same replies.
        scorer: Model that gives rewards on the same GPU.
        checkpointing: Gradient checkpointing.
        fused_head: Whether trl's fused head computes log-probabilities.
        half: bf16 autocast; False is fp32.
    """

    stage: str
    model: Model
    sequences: int
    sequences_per_step: int
    steps: int
    audio_s: float
    prompt_tokens: int
    reply_tokens: int
    lora_rank: int = 0
    tower_trains: bool = False
    rollouts: bool = False
    reference: bool = False
    iterations: int = 1
    scorer: Model | None = None
    checkpointing: bool = True
    fused_head: bool = True
    half: bool = True

    @property
    def tokens(self) -> int:
        """Tokens of one sequence: prompt, audio, reply."""
        return self.prompt_tokens + round(self.audio_s * self.model.tokens_per_s) + self.reply_tokens

    @property
    def trained(self) -> int:
        """Trained parameters."""
        tower = self.model.tower.parameters if self.model.tower and self.tower_trains else 0
        if self.lora_rank:
            return tower + self.model.decoder.adapter_parameters(self.lora_rank)
        return tower + self.model.decoder.parameters + self.model.projector

    @property
    def frozen(self) -> int:
        """Parameters that are held and not trained."""
        adapter = self.model.decoder.adapter_parameters(self.lora_rank) if self.lora_rank else 0
        return self.model.parameters + adapter - self.trained

    @property
    def width(self) -> int:
        """Bytes of an activation."""
        return 2 if self.half else 4


def states(job: Job, strategy: Strategy, gpus: int) -> dict[str, float]:
    """Bytes of weights, gradients, moments and what exchanging them takes, per GPU."""
    n = 1 if strategy in ("single", "ddp") else gpus
    sharded = n if strategy in SHARDED else 1
    half_copy = 2 * job.trained if job.half else 0
    gathered = 0.0
    if strategy in SHARDED:
        decoder = job.model.decoder
        layer = (decoder.parameters - _head_and_embedding(decoder)) / decoder.layers
        gathered = job.width * (max(decoder.head_parameters, decoder.dim * decoder.vocabulary) + 2 * layer)
        half_copy = 0
    masters = 4 * job.trained / n
    exchange = {"ddp": 4 * job.trained, "zero2": 2 * job.width * min(ZERO_BUCKET, job.trained)}.get(strategy, gathered)
    return {
        "weights": masters + half_copy + job.width * job.frozen / sharded,
        "gradients": 4 * job.trained / n,
        "optimiser states": 8 * job.trained / n,
        "exchange between GPUs": exchange if gpus > 1 else 0.0,
        "reference": job.width * job.model.parameters / sharded if job.reference and not job.lora_rank else 0.0,
        "reward model": job.width * job.scorer.parameters / sharded if job.scorer else 0.0,
    }


def decoder_activations(decoder: Decoder, sequences: int, tokens: int, half: bool, checkpointing: bool) -> float:
    """Bytes that the decoder's layers keep for the backward pass."""
    norms = (4 + 4 + 2) / 3 if half else 4
    width = 2 if half else 4
    fixed = width * (4 * decoder.query_dim + 4 * decoder.inner + tokens + decoder.heads) + 4 * 2
    layer = sequences * tokens * (norms * 6 * decoder.dim + fixed)
    final_norm = sequences * tokens * norms * 3 * decoder.dim
    if checkpointing:
        return decoder.layers * sequences * tokens * 4 * decoder.dim + layer + final_norm
    return decoder.layers * layer + final_norm


def tower_activations(tower: Tower, sequences: int, audio_s: float, half: bool, checkpointing: bool) -> float:
    """Bytes that the audio tower keeps for the backward pass."""
    width = 2 if half else 4
    positions = sequences * audio_s * POSITIONS_PER_S
    layer = positions * width * (9 * tower.dim + 2 * tower.inner + tower.heads + 4)
    front = positions * width * (2 * tower.mel_bands + 6 * tower.dim)
    if checkpointing:
        return tower.layers * positions * 4 * tower.dim + layer + front
    return tower.layers * layer + front


def head_bytes(job: Job) -> float:
    """Bytes of the head's logits in training: trl's tiles, or logits with their softmax and its gradient."""
    learned = job.sequences * job.reply_tokens
    if job.fused_head:
        tile = min(FUSED_TILE, learned * job.model.decoder.vocabulary)
        return tile * (4 + job.width)
    return 3.0 * 4 * learned * job.model.decoder.vocabulary


def key_value_cache(decoder: Decoder, sequences: int, tokens: int, width: int) -> float:
    """Bytes of the keys and values of sequences that are generated at once."""
    return 2.0 * decoder.layers * decoder.kv_dim * width * sequences * tokens


def phases(job: Job, strategy: Strategy, gpus: int) -> dict[str, dict[str, float]]:
    """What lies in memory in each phase of a step: name of the phase -> name of the part -> bytes."""
    held = states(job, strategy, gpus)
    decoder, tower = job.model.decoder, job.model.tower
    update = held | {
        "activations, decoder": decoder_activations(decoder, job.sequences, job.tokens, job.half, job.checkpointing),
        "logits": head_bytes(job),
    }
    if tower and job.tower_trains:
        update["activations, audio"] = tower_activations(tower, job.sequences, job.audio_s, job.half, job.checkpointing)
    found = {"update": update}
    if not job.rollouts:
        return found
    quiet = {name: size for name, size in held.items() if name != "gradients"}
    one_pass = job.sequences * job.tokens * job.width * (4 * decoder.dim + 2 * decoder.query_dim + 3 * decoder.inner)
    at_once = rollouts_at_once(job, gpus)
    whole = job.width * job.model.parameters if strategy in SHARDED and gpus > 1 else 0.0
    found["generation"] = quiet | {
        "all weights, gathered": whole,
        "keys and values": key_value_cache(decoder, at_once, job.tokens, job.width),
        "logits": 3.0 * 4 * at_once * decoder.vocabulary,
    }
    found["scoring"] = quiet | {"one layer's values": float(one_pass), "logits": head_bytes(job)}
    return found


def rollouts_at_once(job: Job, gpus: int) -> int:
    """Replies that one GPU generates together: trl generates those of a whole step at once."""
    return max(1, -(-job.sequences_per_step // gpus))


def peak(job: Job, strategy: Strategy, gpus: int) -> tuple[str, dict[str, float]]:
    """The phase that needs most, and what lies in memory in it, `other` being the allowance; bytes per GPU."""
    name, parts = max(phases(job, strategy, gpus).items(), key=lambda item: sum(item[1].values()))
    return name, parts | {"other": (CUDA_CONTEXT + FRAGMENTATION * sum(parts.values())) if job.half else 0.0}


@dataclass(frozen=True)
class Speed:
    """What hours are computed from; assumptions, not measurements.

    Attributes:
        peak_tflops: Of one GPU, dense, bf16.
        utilisation: Share of it that training reaches (MFU), 0..1.
        decode_steps_per_s: Tokens per second of one sequence; all that are generated at once advance together.
    """

    peak_tflops: float = 989.0
    utilisation: float = 0.35
    decode_steps_per_s: float = 20.0


def operations(job: Job) -> Mapping[str, float]:
    """Floating-point operations of one optimiser step, all GPUs: `update`, and `scoring` where there are rollouts."""
    decoder, tower = job.model.decoder, job.model.tower
    attention = 4.0 * decoder.layers * decoder.query_dim * job.tokens
    text = 2.0 * (decoder.parameters - decoder.dim * decoder.vocabulary * (decoder.head_parameters > 0)) + attention
    backward = 1.0 if job.lora_rank else 2.0
    again = 1.0 if job.checkpointing else 0.0
    forward = job.sequences_per_step * job.tokens * text
    hearing = 0.0
    if tower:
        positions = job.sequences_per_step * job.audio_s * POSITIONS_PER_S
        hearing = 2.0 * tower.parameters * positions
    update = forward * (1.0 + backward + again) + hearing * (3.0 + again if job.tower_trains else 1.0)
    if not job.rollouts:
        return {"update": update}
    passes = 1.0 + float(job.iterations > 1 or job.sequences_per_step > job.sequences) + float(job.reference)
    scorer = 2.0 * job.scorer.parameters * job.sequences_per_step * job.tokens if job.scorer else 0.0
    # The prompt's pass of generation counts as one of these.
    return {"update": update, "scoring": ((forward + hearing) * passes + scorer) / job.iterations}


def hours(job: Job, gpus: int, speed: Speed) -> dict[str, float]:
    """Hours of the stage by phase."""
    rate = gpus * speed.peak_tflops * 1e12 * speed.utilisation
    found = {name: job.steps * work / rate / 3600 for name, work in operations(job).items()}
    if job.rollouts:
        found["generation"] = job.steps / job.iterations * job.reply_tokens / speed.decode_steps_per_s / 3600
    return found


def _head_and_embedding(decoder: Decoder) -> int:
    return decoder.dim * decoder.vocabulary + decoder.head_parameters
