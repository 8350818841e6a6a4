"""InternLM2 without remote code: Llama with q, k and v in one matrix and the hub's names.

    wqkv.weight   [KV groups][q_1 .. q_G, k, v][head_dim] x hidden
    InternLM2     tok_embeddings  attention.wo  feed_forward.w1  w3  w2    attention_norm  ffn_norm  output
    Llama         embed_tokens    o_proj        mlp.gate_proj    up  down  input_layernorm ...       lm_head

The forward passes of the model and of its head are Llama's own: they find the modules under Llama's
names through properties, while weights, adapters and saved files carry the hub's names.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    eager_attention_forward,
)

from xtuner.model.fused.linear import linear_onto
from xtuner.model.fused.rotary import rotate


class HubRopeConfig(LlamaConfig):
    """A Llama config with the fields of InternLM's hub folders: `bias`, `rope_theta`, `rope_scaling`."""

    base_model_tp_plan = {}  # noqa: RUF012 - as in transformers

    def to_dict(self) -> dict[str, Any]:
        """The config's fields; rope as `rope_theta` and `rope_scaling`, which other programs read."""
        fields = super().to_dict()
        rope = dict(fields.pop("rope_parameters", None) or {})
        fields["rope_theta"] = rope.pop("rope_theta", None)
        kind = rope.pop("rope_type", "default")
        rope.pop("type", None)
        fields["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
        return fields


class InternLM2Config(HubRopeConfig):
    """Fields of a hub `config.json`; `bias` is that of wqkv and wo."""

    model_type = "internlm2"
    # AutoTokenizer reads it if a folder has no tokenizer_config.json.
    tokenizer_class = "InternLM2Tokenizer"
    vocab_size: int = 103168
    bias: bool = True


class InternLM2Attention(nn.Module):
    adds_residual = True

    def __init__(self, config: InternLM2Config, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim: int = config.head_dim  # type: ignore[assignment]
        self.num_key_value_heads: int = config.num_key_value_heads  # type: ignore[assignment]
        self.num_key_value_groups = config.num_attention_heads // self.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        rows = (config.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
        self.wqkv = nn.Linear(config.hidden_size, rows, bias=config.bias)
        self.wo = nn.Linear(config.num_attention_heads * self.head_dim, config.hidden_size, bias=config.bias)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        residual: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        shape = hidden_states.shape[:-1]
        grouped = self.wqkv(hidden_states).view(
            *shape, self.num_key_value_heads, self.num_key_value_groups + 2, self.head_dim
        )
        query, key = rotate(grouped[..., :-2, :].flatten(-3, -2), grouped[..., -2, :], *position_embeddings)
        # A copy: for a view backward would keep the whole of `grouped`.
        value = grouped[..., -1, :].contiguous()
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        # `past_key_values` up to transformers 5.23.
        cache = past_key_values if cache is None else cache
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        output = output.reshape(*shape, -1)
        return self.wo(output) if residual is None else linear_onto(residual, output, self.wo), weights


class InternLM2MLP(nn.Module):
    def __init__(self, config: InternLM2Config):
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.act_fn(self.w1(x)) * self.w3(x))


class InternLM2DecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: InternLM2Config, layer_idx: int):
        super().__init__()
        self.attention = InternLM2Attention(config, layer_idx)
        self.feed_forward = InternLM2MLP(config)
        self.attention_norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.ffn_norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        hidden_states = hidden_states + self.attention(self.attention_norm(hidden_states), **kwargs)[0]
        return hidden_states + self.feed_forward(self.ffn_norm(hidden_states))


class InternLM2PreTrainedModel(PreTrainedModel):
    config_class = InternLM2Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["InternLM2DecoderLayer"]  # noqa: RUF012
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": InternLM2DecoderLayer,
        "attentions": InternLM2Attention,
    }
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]  # noqa: RUF012


class InternLM2Model(InternLM2PreTrainedModel, LlamaModel):
    """Llama's model over InternLM2's layers."""

    def __init__(self, config: InternLM2Config):
        PreTrainedModel.__init__(self, config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(InternLM2DecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()

    @property
    def embed_tokens(self) -> nn.Module:  # type: ignore[override]
        return self.tok_embeddings

    def get_input_embeddings(self) -> nn.Module:
        return self.tok_embeddings

    def set_input_embeddings(self, value: Any) -> None:
        self.tok_embeddings = value


class HubForSequenceClassification(LlamaForSequenceClassification):
    """Llama's model for sequence classification over `decoder_class`, which AutoModel does not know."""

    decoder_class: type[nn.Module] = LlamaModel

    def __init__(self, config: HubRopeConfig):
        PreTrainedModel.__init__(self, config)
        labels: int = config.num_labels  # type: ignore[assignment]
        self.num_labels, self.model = labels, self.decoder_class(config)
        self.score = nn.Linear(config.hidden_size, labels, bias=False)
        self.post_init()


class HubForTokenClassification(LlamaForTokenClassification):
    """Llama's model for token classification over `decoder_class`, which AutoModel does not know."""

    decoder_class: type[nn.Module] = LlamaModel

    def __init__(self, config: HubRopeConfig):
        PreTrainedModel.__init__(self, config)
        labels: int = config.num_labels  # type: ignore[assignment]
        self.num_labels, self.model = labels, self.decoder_class(config)
        self.dropout = nn.Dropout(getattr(config, "classifier_dropout", None) or 0.0)
        self.score = nn.Linear(config.hidden_size, labels)
        self.post_init()


class InternLM2ForTokenClassification(InternLM2PreTrainedModel, HubForTokenClassification):
    """With InternLM2's decoder."""

    decoder_class = InternLM2Model

    def get_input_embeddings(self) -> nn.Module:
        return self.model.tok_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.tok_embeddings = value


class InternLM2ForSequenceClassification(InternLM2PreTrainedModel, HubForSequenceClassification):
    """With InternLM2's decoder."""

    decoder_class = InternLM2Model

    def get_input_embeddings(self) -> nn.Module:
        return self.model.tok_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.tok_embeddings = value


class InternLM2ForCausalLM(InternLM2PreTrainedModel, LlamaForCausalLM):
    """Llama's causal language model over InternLM2's, with the head named `output`."""

    _tied_weights_keys = {"output.weight": "model.tok_embeddings.weight"}  # noqa: RUF012
    _tp_plan = {}  # noqa: RUF012
    _pp_plan = {}  # noqa: RUF012

    def __init__(self, config: InternLM2Config):
        PreTrainedModel.__init__(self, config)
        self.model = InternLM2Model(config)
        self.vocab_size = config.vocab_size
        self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @property
    def lm_head(self) -> nn.Module:
        return self.output

    def get_input_embeddings(self) -> nn.Module:
        return self.model.tok_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.tok_embeddings = value

    def get_output_embeddings(self) -> nn.Module:
        return self.output

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        self.output = new_embeddings
