"""InternLM (the first one) without remote code: Llama whose attention has biases, under the hub's names."""

from __future__ import annotations

from typing import Any

from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaModel

from xtuner.model.internlm2 import HubForSequenceClassification, HubForTokenClassification, HubRopeConfig


class InternLMConfig(HubRopeConfig):
    """Fields of a hub `config.json`; `bias` is that of q, k, v and o, `rotary` is the scaling of rope."""

    model_type = "internlm"
    tokenizer_class = "InternLMTokenizer"
    vocab_size: int = 103168
    bias: bool = True
    rotary: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.attention_bias = self.bias
        if self.rotary and not kwargs.get("rope_scaling"):
            kwargs["rope_theta"] = self.rotary.get("base", 10000)
            if self.rotary.get("type") == "dynamic":
                factor = float(self.rotary.get("scaling_factor", 1.0))
                kwargs["rope_scaling"] = {"rope_type": "dynamic", "factor": factor}
        super().__post_init__(**kwargs)


class InternLMModel(LlamaModel):
    """Llama's model without a head."""

    config_class = InternLMConfig
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]  # noqa: RUF012


class InternLMForTokenClassification(HubForTokenClassification):
    """Llama's model for token classification."""

    config_class = InternLMConfig
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]  # noqa: RUF012


class InternLMForSequenceClassification(HubForSequenceClassification):
    """Llama's model for sequence classification."""

    config_class = InternLMConfig
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]  # noqa: RUF012


class InternLMForCausalLM(LlamaForCausalLM):
    """Llama's causal language model; the rope frequencies in hub checkpoints are ignored, being computed."""

    config_class = InternLMConfig
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]  # noqa: RUF012
