"""What is known of each model family beyond its config.json: one row a family, without torch.

    "qwen3": Family(packs=True, plain_head=True, fused=_like("Qwen3"), gguf="qwen3", sizes=Sizes(...))

A family is the `model_type` of the language part of a config. A family without a row trains too: what is not
known is tried (packing) or left as its own code has it. Every entry is proven by the test named beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_ATTENTION = {"q_proj", "k_proj", "v_proj"}
_GATE_UP = ("gate_proj", "up_proj")
_QKV = ("q_proj", "k_proj", "v_proj")
_GATED = ("gate_proj", "up_proj", "down_proj")
_LAYER_PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
_MAMBA = ("x_proj", "dt_proj", "out_proj")


@dataclass(frozen=True)
class Sizes:
    """How a family's matrices differ from Llama's (tests/estimate/test_shape.py)."""

    joined: tuple[tuple[str, ...], ...] = ()  # matrices that are one: ("q_proj", "k_proj", "v_proj")
    names: Mapping[str, str] | None = None  # other names of the matrices
    bias: Callable[[Mapping[str, Any]], set[str]] = lambda cfg: set()  # matrices with a bias
    norms: int = 2  # of a layer, as wide as the model
    head_norms: bool = False  # queries and keys have one each
    tied: bool = False  # unless the config says
    head_dim: int | None = None  # unless the config says
    window_pattern: int = 0  # one of so many layers has no window, unless the config says
    linear_attention: bool = False  # in most layers, as Qwen3-Next has it
    gated_queries: bool = False  # a gate as wide as the queries beside them
    shared_width: Callable[[Mapping[str, Any]], int] = lambda cfg: 0  # of the expert that all tokens pass
    shared_gate: bool = False  # which has a gate of its own
    sinks: bool = False  # a learned score for each head


@dataclass(frozen=True)
class Fused:
    """The classes, by module and name, whose forward passes xtuner/model/fused stands in for.

    Proven by tests/model/fused/test_layers.py for the versions that xtuner/model/proven.json names.
    """

    attention: str | None
    norm: str | None
    mlp: str | None
    gated: tuple[str, str, str] = _GATED  # names of the MLP's gate, up and down layers
    layer: str | None = None
    layer_parts: tuple[str, str, str, str] = (
        _LAYER_PARTS  # names of its norms, attention and MLP, as they run
    )


@dataclass(frozen=True)
class OwnAttention:
    """Classes of a family that computes attention without transformers' interface, by module and name.

    xtuner/model/own_attention.py replaces decoder and attention on packs; layers run as they are. Proven
    by tests/model/test_own_attention.py for the versions that xtuner/model/proven.json names.
    """

    decoder: str
    layer: str
    attention: str


@dataclass(frozen=True)
class Images:
    """How a family takes images: tests/model/test_vision_language.py."""

    # Whether samples with images may be packed. If not, as images attend both ways, each runs by itself.
    packs: bool = False
    # Positions of a sample depend on the sizes of its images.
    mrope: bool = False
    # The dimension of images in the tensors of a sample, where it is not the first.
    dims: Mapping[str, int] = field(default_factory=dict)
    # The module that makes embeddings of features, where `get_image_features` leaves that to the model.
    projector: str = ""


@dataclass(frozen=True)
class Family:
    """One family."""

    # Whether samples may be packed: tests/model/test_attention.py. False: a state is carried along the
    # sequence, so each sample is run by itself (tests/model/test_passes.py). None: the first batch tells.
    packs: bool | None = None
    own_attention: OwnAttention | None = None
    # Linear layers whose weight is handed to a kernel, so that an adapter on them is passed over:
    # tests/model/test_targets.py.
    weights_read: tuple[str, ...] = ()
    # Whether transformers reads several tokens after a state as it reads them with all before it:
    # tests/generation/test_states.py. If not, a prompt is read as a whole.
    continues: bool = True
    # The forward pass is the decoder and one linear layer: tests/model/test_sft.py.
    plain_head: bool = False
    fused: Fused | None = None
    # llama.cpp's architecture: tests/convert/gguf. In "llama" rotation pairs neighbours, else halves.
    gguf: str | None = None
    # Whether llama.cpp makes the weights of a token's experts sum to one: tests/convert/gguf.
    gguf_norms_experts: bool | None = None
    # Fields of the config that are set when the weights are quantised: tests/model/test_quantized.py.
    when_quantized: Mapping[str, Any] = field(default_factory=dict)
    # None: estimated as a Llama.
    sizes: Sizes | None = None
    # Whether llama.cpp's architecture has biases of attention: tests/convert/gguf.
    gguf_biases: bool = True
    # Parts of weights' names -> Llama's names of them, where they differ.
    llama_names: Mapping[str, str] = field(default_factory=dict)
    # Its code is in xtuner/model, for models of the hub that bring code along too.
    ours: bool = False
    # Why the family cannot be trained on text, with what to do: tests/check/test_folders.py.
    no_text: str = ""
    # By the whole model's name; None: not known to train with images.
    images: Images | None = None


def _llama_bias(cfg: Mapping[str, Any]) -> set[str]:
    found = _ATTENTION | {"o_proj"} if cfg.get("attention_bias") else set()
    return found | (set(_GATED) if cfg.get("mlp_bias") else set())


def _asked_bias(*, output: bool, usual: bool = False) -> Callable[[Mapping[str, Any]], set[str]]:
    def bias(cfg: Mapping[str, Any]) -> set[str]:
        has = cfg.get("attention_bias", cfg.get("bias", usual))
        return (_ATTENTION | ({"o_proj"} if output else set())) if has else set()

    return bias


def _shared_experts(cfg: Mapping[str, Any]) -> int:
    return (cfg.get("n_shared_experts") or 0) * cfg["moe_intermediate_size"]


def _one_shared(cfg: Mapping[str, Any]) -> int:
    return cfg.get("shared_expert_intermediate_size") or 0


def _latent_bias(cfg: Mapping[str, Any]) -> set[str]:
    return {"q_a_proj", "kv_a_proj_with_mqa", "o_proj"} if cfg.get("attention_bias") else set()


def _layer(family: str, name: str) -> str:
    return f"transformers.models.{family}.modeling_{family}.{name}"


def _like(name: str) -> Fused:
    kinds = ("Attention", "RMSNorm", "MLP", "DecoderLayer")
    attention, norm, mlp, layer = (_layer(name.lower(), name + kind) for kind in kinds)
    return Fused(attention, norm, mlp, layer=layer)


def _own(name: str, layer: str) -> OwnAttention:
    kinds = ("Model", layer, "Attention")
    return OwnAttention(*(_layer(name.lower(), name + kind) for kind in kinds))


_CURE = "name the folder of a language model"
_NEEDS_IMAGE = f"needs an image with every text; {_CURE}"
_NEEDS_SOUND = f"needs sound with every text; {_CURE}"
_SOUND = f"makes sound, not text; {_CURE}"
_TWO_PARTS = f"reads a whole image or text before it writes (encoder-decoder); {_CURE}"
_THINKER = (
    "is several models in one folder: save the one that writes text with {0}.from_pretrained(FOLDER)"
    ".save_pretrained(OUT), copy the tokenizer's files to OUT, and name OUT"
)
_SECOND = {"pixel_values": 1, "pixel_attention_mask": 1}
_DEEPSEEK = Sizes(shared_width=_shared_experts, bias=_latent_bias)
_INTERNLM2 = {"qkv_proj": "wqkv", "o_proj": "wo", "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
_INTERNLM2_AS_LLAMA = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "tok_embeddings": "embed_tokens",
    "output": "lm_head",
}

# fmt: off
FAMILIES: dict[str, Family] = {
    "aya_vision": Family(images=Images(packs=True)),
    "bailing_hybrid": Family(packs=False),
    "bamba": Family(packs=False, continues=False, weights_read=("out_proj",)),
    "blip": Family(no_text=_NEEDS_IMAGE),
    "blip-2": Family(no_text=_NEEDS_IMAGE),
    "bloom": Family(packs=True, own_attention=_own("Bloom", "Block")),
    "cohere": Family(packs=True),
    "cohere2": Family(packs=True),
    "deepseek_v2": Family(packs=True, plain_head=True, sizes=_DEEPSEEK),
    "deepseek_v3": Family(packs=True, plain_head=True, sizes=_DEEPSEEK),
    "deepseek_vl": Family(images=Images(packs=True)),
    "diffusion_gemma": Family(no_text=f"fills in blocks of text by diffusion; {_CURE}"),
    "ernie4_5": Family(packs=True),
    "evolla": Family(no_text=f"needs a protein with every text; {_CURE}"),
    "exaone4": Family(packs=True),
    "falcon": Family(packs=True, own_attention=_own("Falcon", "DecoderLayer")),
    "falcon_h1": Family(packs=False, weights_read=("out_proj",)),
    "falcon_mamba": Family(packs=False, continues=False, weights_read=_MAMBA),
    "flint": Family(packs=True),
    "florence2": Family(no_text=_TWO_PARTS),
    "gemma": Family(
        packs=True, sizes=Sizes(tied=True, head_dim=256, bias=_asked_bias(output=True)),
    ),
    "gemma2": Family(
        packs=True,
        sizes=Sizes(tied=True, head_dim=256, norms=4, bias=_asked_bias(output=True), window_pattern=2),
    ),
    "gemma3": Family(images=Images()),
    "gemma3_text": Family(
        packs=True, sizes=Sizes(tied=True, head_dim=256, norms=4, head_norms=True, window_pattern=6),
    ),
    # Their weights are clamped in place.
    "gemma3n_text": Family(weights_read=("correction_coefs", "prediction_coefs")),
    "gemma4": Family(images=Images()),
    "glm": Family(packs=True, sizes=Sizes(joined=(_GATE_UP,), bias=_asked_bias(output=False))),
    "glm4": Family(packs=True, sizes=Sizes(joined=(_GATE_UP,), norms=4, bias=_asked_bias(output=False))),
    "glm4_moe": Family(
        packs=True, plain_head=True,
        sizes=Sizes(shared_width=_shared_experts, bias=_asked_bias(output=False)),
    ),
    "glm46v": Family(images=Images(packs=True, mrope=True)),
    "glm4v": Family(images=Images(packs=True, mrope=True)),
    "glm4v_moe": Family(images=Images(packs=True, mrope=True)),
    "gpt2": Family(packs=True),
    "gpt_neox": Family(packs=True),
    "gpt_oss": Family(
        packs=True,
        sizes=Sizes(
            bias=lambda cfg: _ATTENTION | {"gate_up_proj", "down_proj", "router"}
            | ({"o_proj"} if cfg.get("attention_bias", True) else set()),
            sinks=True, window_pattern=2,
        ),
    ),
    "granite": Family(packs=True),
    "granite_swa": Family(packs=True),
    "granitemoe": Family(packs=True, sizes=Sizes(bias=_asked_bias(output=True))),
    "granitemoe_swa": Family(packs=True),
    "granitemoehybrid": Family(packs=False, weights_read=("out_proj",)),
    "idefics3": Family(images=Images(packs=True, dims=_SECOND)),
    "instructblip": Family(no_text=_NEEDS_IMAGE),
    "instructblipvideo": Family(no_text=_NEEDS_IMAGE),
    "internlm": Family(
        packs=True, plain_head=True, fused=_like("Llama"), gguf="llama", ours=True,
        sizes=Sizes(bias=_asked_bias(output=True, usual=True)),
    ),
    "internlm2": Family(
        packs=True, plain_head=True, ours=True, llama_names=_INTERNLM2_AS_LLAMA,
        fused=Fused(
            None, _layer("llama", "LlamaRMSNorm"), "xtuner.model.internlm2.InternLM2MLP", ("w1", "w3", "w2"),
            "xtuner.model.internlm2.InternLM2DecoderLayer",
            ("attention_norm", "attention", "ffn_norm", "feed_forward"),
        ),
        gguf="llama", sizes=Sizes(joined=(_QKV,), names=_INTERNLM2),
    ),
    "internlm3": Family(packs=True, gguf="llama"),
    "internvl": Family(images=Images(packs=True)),
    "internvl_chat": Family(images=Images(packs=True), ours=True),
    "jamba": Family(packs=False, continues=False, weights_read=("dt_proj",)),
    "kimi_k25": Family(images=Images(packs=True)),
    "kimi_linear": Family(packs=False),
    "kosmos-2": Family(no_text=_NEEDS_IMAGE),
    "kosmos-2.5": Family(no_text=_NEEDS_IMAGE),
    "kyutai_speech_to_text": Family(no_text=_NEEDS_SOUND),
    "lfm2": Family(packs=False),
    "lfm2_moe": Family(packs=False),
    "lfm3": Family(packs=False),
    "llama": Family(
        packs=True, plain_head=True, fused=_like("Llama"), gguf="llama", sizes=Sizes(bias=_llama_bias),
    ),
    "llama4": Family(images=Images(packs=True, projector="multi_modal_projector")),
    "llama4_text": Family(
        packs=True,
        sizes=Sizes(
            shared_width=lambda cfg: cfg["intermediate_size"], bias=_asked_bias(output=True),
            window_pattern=4,
        ),
    ),
    "llava": Family(images=Images(packs=True)),
    "llava_llama": Family(images=Images(packs=True), ours=True),
    "llava_mistral": Family(images=Images(packs=True), ours=True),
    "llava_next": Family(images=Images(packs=True)),
    "llava_onevision": Family(images=Images(packs=True)),
    "longcat_flash": Family(weights_read=("classifier",)),
    "mamba": Family(packs=False, continues=False, weights_read=_MAMBA),
    "mamba2": Family(packs=False, weights_read=("out_proj",)),
    "mimo_v2_flash": Family(packs=True),
    "minicpm_ocr": Family(packs=False, images=Images(dims={"pixel_values": 3})),
    "minicpmv4_6": Family(packs=False, images=Images(dims={"pixel_values": 3})),
    "minicpmv4_7": Family(packs=False, images=Images(mrope=True, dims={"pixel_values": 3})),
    "minimax": Family(packs=False, continues=False),
    "ministral": Family(packs=True),
    "mistral": Family(packs=True, plain_head=True, fused=_like("Mistral"), gguf="llama", sizes=Sizes()),
    "mistral3": Family(images=Images(packs=True)),
    "mixtral": Family(packs=True, plain_head=True, sizes=Sizes()),
    "moshi": Family(no_text=_SOUND),
    "mpt": Family(packs=True, own_attention=_own("Mpt", "Block")),
    "musicgen": Family(no_text=_SOUND),
    "musicgen_melody": Family(no_text=_SOUND),
    "nemotron_h": Family(packs=False, weights_read=("out_proj",)),
    "olmo2": Family(packs=True),
    "olmo3": Family(packs=True),
    "olmo_hybrid": Family(packs=False),
    "opt": Family(packs=True),
    "ovis2": Family(images=Images(packs=True)),
    "phi": Family(packs=True),
    "phi3": Family(packs=True, plain_head=True, sizes=Sizes(joined=(_QKV, _GATE_UP))),
    "phimoe": Family(packs=True),
    "pi0": Family(no_text=f"steers robots; {_CURE}"),
    "pix2struct": Family(no_text=_TWO_PARTS),
    "pp_formulanet": Family(no_text=_TWO_PARTS),
    "qwen2": Family(
        packs=True, plain_head=True, fused=_like("Qwen2"), gguf="qwen2",
        sizes=Sizes(bias=lambda cfg: _ATTENTION),
    ),
    "qwen2_5_omni": Family(no_text=_THINKER.format("Qwen2_5OmniThinkerForConditionalGeneration")),
    "qwen2_5_omni_text": Family(fused=Fused(None, None, _layer("qwen2_5_omni", "Qwen2MLP"))),
    "qwen2_5_vl": Family(images=Images(packs=True, mrope=True)),
    "qwen2_5_vl_text": Family(fused=Fused(None, None, _layer("qwen2_5_vl", "Qwen2MLP"))),
    "qwen2_moe": Family(
        packs=True, plain_head=True, gguf="qwen2moe", gguf_norms_experts=False,
        sizes=Sizes(
            bias=lambda cfg: _ATTENTION if cfg.get("qkv_bias", True) else set(),
            shared_width=_one_shared, shared_gate=True,
        ),
    ),
    "qwen2_vl": Family(images=Images(packs=True, mrope=True)),
    "qwen2_vl_text": Family(fused=Fused(None, None, _layer("qwen2_vl", "Qwen2MLP"))),
    "qwen3": Family(
        packs=True, plain_head=True, fused=_like("Qwen3"), gguf="qwen3", gguf_biases=False,
        sizes=Sizes(bias=_asked_bias(output=True), head_norms=True),
    ),
    "qwen3_5": Family(packs=False, images=Images(mrope=True)),
    "qwen3_5_moe": Family(packs=False, images=Images(mrope=True)),
    "qwen3_5_moe_text": Family(packs=False),
    "qwen3_5_text": Family(packs=False),
    "qwen3_moe": Family(
        packs=True, plain_head=True,
        fused=Fused(_layer("qwen3_moe", "Qwen3MoeAttention"), _layer("qwen3_moe", "Qwen3MoeRMSNorm"), None),
        gguf="qwen3moe", gguf_norms_experts=True,
        sizes=Sizes(bias=_asked_bias(output=True), head_norms=True),
    ),
    "qwen3_next": Family(
        packs=False,
        sizes=Sizes(
            bias=_asked_bias(output=True), head_norms=True, linear_attention=True, gated_queries=True,
            shared_width=_one_shared, shared_gate=True,
        ),
    ),
    "qwen3_omni_moe": Family(no_text=_THINKER.format("Qwen3OmniMoeThinkerForConditionalGeneration")),
    "qwen4_exp_text": Family(packs=False),
    "qwen3_vl": Family(images=Images(packs=True, mrope=True)),
    "qwen3_vl_moe": Family(images=Images(packs=True, mrope=True)),
    "recurrent_gemma": Family(packs=False),
    # Its code divides weights while it generates, which quantised weights do not survive.
    "rwkv": Family(packs=False, when_quantized={"rescale_every": 0}),
    "seed_oss": Family(packs=True),
    "smollm3": Family(packs=True, plain_head=True, sizes=Sizes(tied=True, bias=_llama_bias)),
    "smolvlm": Family(images=Images(packs=True, dims=_SECOND)),
    "starcoder2": Family(packs=True),
    "t5gemma2": Family(no_text=_TWO_PARTS),
    "udop": Family(no_text=_TWO_PARTS),
    "vision-encoder-decoder": Family(no_text=_TWO_PARTS),
    "voxtral_realtime": Family(no_text=_NEEDS_SOUND),
    "xlnet": Family(no_text=f"reads a text from both sides; {_CURE}"),
    "xlstm": Family(packs=False),
    "zamba": Family(packs=False),
    "zamba2": Family(packs=False, weights_read=("out_proj",)),
}
# fmt: on

UNKNOWN = Family()

# Words in the class names of tokenizers that open a conversation with nothing, whatever their bos token is.
OPEN_WITH_NOTHING = ("qwen",)
# What opens a conversation of GLM 4, in this order: tokens of its vocabulary, and none is its bos token.
GLM_MARKS = ("[gMASK]", "<sop>")


# Parts of the names of weights between an image encoder and the language part.
PROJECTORS = (
    "aligner",
    "embed_vision",
    "multi_modal_projector",
    "connector",
    "merger",
    "mm_projector",
    "deepstack_merger_list",
    "image_newline",
    "downsample",
    "visual_embeddings_table",
)


def images_of(config: Any) -> Images | None:
    """How the model of a config takes images, or None if it is not known to train with them."""
    return FAMILIES.get(str(config.model_type), UNKNOWN).images


def text_part(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields of the language part in a config.json; None if the model has no other part."""
    found = config.get("text_config", config.get("llm_config"))  # InternVL's own name
    return found if isinstance(found, dict) else None


def family_of(config: Any) -> Family:
    """The row of a model's config, a mapping or transformers' object; UNKNOWN for a family without one.

    Of a model that sees or hears it is the row of its language part.
    """
    if not isinstance(config, Mapping):
        return FAMILIES.get(config.get_text_config().model_type, UNKNOWN)
    part = text_part(config) or config
    return FAMILIES.get(str(part.get("model_type", "")), UNKNOWN)
