"""The small speech language model as a Hugging Face causal language model, so that trl trains it like any other.

As in Qwen2.5-Omni and its relatives, the prompt holds one placeholder per audio embedding. The placeholder's id lies
just outside the vocabulary: it can be read but never be sampled. The weights are those of `SpeechLanguageModel`.
"""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from tokenizers import AddedToken, Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaModel

from edge_emotion.prompt import Prompt
from edge_emotion_train.model import AudioProjector, EvidenceProjector
from edge_emotion_train.sft import AudioInputs, SpeechLanguageModel
from edge_emotion_train.sft import position_ids as positions_of
from edge_emotion_train.tokenizer import TAGS

AUDIO_FIELDS = ("cue_values", "emotion_logits", "frames", "token_mask")


@strict
class SpeechConfig(LlamaConfig):
    """A Llama configuration with the sizes of the two projectors."""

    model_type = "edge_emotion_speech"
    auto_map = ()  # holds no remote code; trl and transformers ask for it when they load the reference

    cues: int = 7
    labels: int = 7
    evidence_tokens: int = 8
    evidence_hidden: int = 256
    encoder_layers: int = 2
    encoder_dim: int = 384
    audio_hidden: int = 384


class SpeechModel(LlamaModel):
    """A Llama body whose placeholders become evidence and audio embeddings.

    Args (beyond Llama's):
        cue_values, emotion_logits, frames, token_mask: The fields of `AudioInputs`. A row of `input_ids` holds as many
            placeholders as its row of `token_mask` holds tokens; without placeholders (a later decoding step) the
            audio is not looked at.
    """

    config_class = SpeechConfig

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__(config)
        self.evidence = EvidenceProjector(
            config.cues, config.labels, config.evidence_tokens, config.hidden_size, config.evidence_hidden
        )
        self.audio = AudioProjector(config.encoder_layers, config.encoder_dim, config.hidden_size, config.audio_hidden)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        cue_values: Tensor | None = None,
        emotion_logits: Tensor | None = None,
        frames: Tensor | None = None,
        token_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if inputs_embeds is None and input_ids is not None:
            placeholder = input_ids == self.config.vocab_size
            inputs_embeds = self.embed_tokens(input_ids.masked_fill(placeholder, 0))
            if placeholder.any():
                if cue_values is None or emotion_logits is None or frames is None or token_mask is None:
                    raise ValueError(f"input_ids hold audio placeholders, so {', '.join(AUDIO_FIELDS)} are needed")
                heard = torch.cat([self.evidence(cue_values, emotion_logits), self.audio(frames)], dim=1)
                inputs_embeds = inputs_embeds.masked_scatter(placeholder[..., None], heard[token_mask.bool()])
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            position_ids = _positions(attention_mask, inputs_embeds)
        return super().forward(
            attention_mask=attention_mask, position_ids=position_ids, inputs_embeds=inputs_embeds, **kwargs
        )


class SpeechForCausalLM(LlamaForCausalLM):
    """`SpeechModel` with the tied language-model head."""

    config_class = SpeechConfig

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__(config)
        self.model = SpeechModel(config)
        self.post_init()

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Tensor | None = None,
        cue_values: Tensor | None = None,
        emotion_logits: Tensor | None = None,
        frames: Tensor | None = None,
        token_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        # Named only because `generate` accepts nothing that the signature does not name.
        audio: dict[str, Any] = dict(zip(AUDIO_FIELDS, (cue_values, emotion_logits, frames, token_mask), strict=True))
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **audio, **kwargs)


def register_policy() -> None:
    """Makes the class known to transformers' Auto classes, by which trl loads the frozen reference."""
    AutoConfig.register(SpeechConfig.model_type, SpeechConfig, exist_ok=True)
    AutoModelForCausalLM.register(SpeechConfig, SpeechForCausalLM, exist_ok=True)


def policy_of(speech: SpeechLanguageModel, tokenizer: Tokenizer, prompt: Prompt) -> SpeechForCausalLM:
    """A policy with a copy of the weights of `speech`; it ends its completions after `prompt.answer_close`."""
    first, last = speech.evidence.layers[0], speech.audio.layers[0]
    config = SpeechConfig(
        **{key: value for key, value in speech.language_model.config.to_dict().items() if key not in _OWN_KEYS},
        cues=speech.evidence.cuts.shape[0],
        labels=first.in_features - speech.evidence.cuts.shape[0] * (speech.evidence.cuts.shape[1] + 1),  # type: ignore[operator]
        evidence_tokens=speech.evidence.tokens,
        evidence_hidden=first.out_features,  # type: ignore[arg-type]
        encoder_layers=len(speech.audio.mix),
        encoder_dim=speech.audio.norm.normalized_shape[0],
        audio_hidden=last.out_features,  # type: ignore[arg-type]
    )
    policy = SpeechForCausalLM(config)
    policy.model.load_state_dict(
        speech.language_model.model.state_dict()
        | {f"evidence.{name}": value for name, value in speech.evidence.state_dict().items()}
        | {f"audio.{name}": value for name, value in speech.audio.state_dict().items()}
    )
    policy.tie_weights()
    policy.generation_config.eos_token_id = tokenizer.encode(prompt.answer_close).ids
    return policy.eval()


def copy_back(policy: SpeechForCausalLM, speech: SpeechLanguageModel) -> None:
    """Writes the policy's weights into `speech`."""
    state = policy.model.state_dict()
    for prefix, part in (("evidence.", speech.evidence), ("audio.", speech.audio)):
        part.load_state_dict(
            {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(prefix)}
        )
    speech.language_model.model.load_state_dict(state)


def policy_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers knows it. Only the end of text is special: the answer's tags must be decoded."""
    own = Tokenizer.from_str(tokenizer.to_str())
    own.add_special_tokens([AddedToken(TAGS[-1], special=True, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=own,
        eos_token=TAGS[-1],
        pad_token=TAGS[-1],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt, vocabulary: int, audio: AudioInputs) -> list[list[int]]:
    """Token ids of each row's prompt, placeholders included."""
    before, after = (tokenizer.encode(text).ids for text in (prompt.before_audio, prompt.after_audio))
    return [[*before, *[vocabulary] * int(count), *after] for count in audio.token_mask.sum(dim=1)]


_OWN_KEYS = ("model_type", "architectures", "transformers_version", "_name_or_path")


def _positions(attention_mask: Tensor, inputs_embeds: Tensor | None) -> Tensor:
    """Positions of the tokens at hand, the last ones of the mask where earlier ones are cached."""
    positions = positions_of(attention_mask.bool())
    return positions if inputs_embeds is None else positions[:, -inputs_embeds.shape[1] :]
