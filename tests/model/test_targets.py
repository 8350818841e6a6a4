"""The targets of an adapter, from the tree of modules."""

import re

import pytest
import torch
from peft import LoraConfig

from tests import moe
from xtuner import log
from xtuner.errors import ConfigError
from xtuner.model.lora import apply_lora
from xtuner.model.targets import (
    CHOOSES,
    MORE,
    READ,
    SENSES,
    default_targets,
    experts_per_token,
    packed_experts,
)

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
QKVO = "self_attn.k_proj self_attn.o_proj self_attn.q_proj self_attn.v_proj"
MLP = "mlp.down_proj mlp.gate_proj mlp.up_proj"
SHARED = "shared_experts.down_proj shared_experts.gate_proj shared_experts.up_proj"
LATENT = (
    "self_attn.kv_a_proj_with_mqa self_attn.kv_b_proj self_attn.o_proj self_attn.q_a_proj self_attn.q_b_proj"
)
DENSE = "feed_forward.down_proj feed_forward.gate_proj feed_forward.up_proj"
PACKED = "experts.down_proj experts.gate_up_proj"
# family -> layers, parameters of experts, and what is left out; last two words of their names
FOUND = {
    "deepseek_v2": (f"{LATENT} {MLP} {SHARED}", PACKED, {}),
    "deepseek_v3": (f"{LATENT} {MLP} {SHARED}", PACKED, {}),
    "ernie4_5_moe": (f"{QKVO} {MLP} {SHARED}", PACKED, {}),
    "glm4_moe": (f"{QKVO} {MLP} {SHARED}", PACKED, {}),
    "gpt_oss": (QKVO, PACKED, {}),
    "granitemoe": (QKVO, PACKED, {}),
    "granitemoehybrid": (
        f"{QKVO} mamba.in_proj shared_mlp.input_linear shared_mlp.output_linear",
        PACKED,
        {READ: "mamba.out_proj"},
    ),
    "hunyuan_v1_moe": (
        f"{QKVO} shared_mlp.down_proj shared_mlp.gate_proj shared_mlp.up_proj",
        PACKED,
        {CHOOSES: "gate.wg"},
    ),
    "jamba": (f"{QKVO} {DENSE} mamba.in_proj mamba.out_proj mamba.x_proj", PACKED, {READ: "mamba.dt_proj"}),
    "jetmoe": (
        "self_attention.kv_proj",
        "input_linear.weight output_linear.weight",
        {CHOOSES: "router.layer"},
    ),
    "lfm2_moe": (
        "conv.in_proj conv.out_proj feed_forward.w1 feed_forward.w2 feed_forward.w3 "
        "self_attn.k_proj self_attn.out_proj self_attn.q_proj self_attn.v_proj",
        PACKED,
        {},
    ),
    "llama4_text": (
        f"{QKVO} {DENSE} shared_expert.down_proj shared_expert.gate_proj shared_expert.up_proj",
        PACKED,
        {CHOOSES: "feed_forward.router"},
    ),
    "longcat_flash": (
        f"{LATENT} mlps.down_proj mlps.gate_proj mlps.up_proj",
        PACKED,
        {CHOOSES: "router.classifier"},
    ),
    "mixtral": (QKVO, PACKED, {}),
    "nemotron_h": (
        "mixer.down_proj mixer.in_proj mixer.k_proj mixer.o_proj mixer.q_proj mixer.up_proj mixer.v_proj "
        "shared_experts.down_proj shared_experts.up_proj",
        "experts.down_proj experts.up_proj",
        {READ: "mixer.out_proj"},
    ),
    "olmoe": (QKVO, PACKED, {}),
    "phimoe": (QKVO, PACKED, {CHOOSES: "mlp.router"}),
    "qwen2_moe": (
        f"{QKVO} shared_expert.down_proj shared_expert.gate_proj shared_expert.up_proj",
        PACKED,
        {CHOOSES: "mlp.shared_expert_gate"},
    ),
    "qwen3_moe": (QKVO, PACKED, {}),
    "qwen3_next": (
        f"{QKVO} linear_attn.in_proj_ba linear_attn.in_proj_qkvz linear_attn.out_proj "
        "shared_expert.down_proj shared_expert.gate_proj shared_expert.up_proj",
        PACKED,
        {CHOOSES: "mlp.shared_expert_gate"},
    ),
    "bamba": (f"{QKVO} {DENSE} mamba.in_proj", "", {READ: "mamba.out_proj"}),
    "falcon_h1": (f"{QKVO} {DENSE} mamba.in_proj", "", {READ: "mamba.out_proj"}),
    "falcon_mamba": ("mixer.in_proj", "", {READ: "mixer.dt_proj mixer.out_proj mixer.x_proj"}),
    "mamba": ("mixer.in_proj", "", {READ: "mixer.dt_proj mixer.out_proj mixer.x_proj"}),
    "mamba2": ("mixer.in_proj", "", {READ: "mixer.out_proj"}),
    "zamba2": (
        "feed_forward.down_proj feed_forward.gate_up_proj gate_up_proj_adapter_list layers.linear "
        f"mamba.in_proj {QKVO}",
        "",
        {READ: "mamba.out_proj"},
    ),
}


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch):
    monkeypatch.setattr(log, "_said", set())


def ends(names):
    """The last two words of names that are not numbers, each once."""
    words = (re.sub(r"\.\d+(?=\.|$)", "", name).split(".") for name in names)
    return {".".join(w[-1:] if w[-1].endswith("_list") else w[-2:]) for w in words}


@pytest.mark.parametrize("family", FOUND)
def test_the_layers_and_experts_of_a_family(family):
    """All linear layers and packed experts, but not routers and weights that kernels read."""
    layers, experts, left_out = FOUND[family]
    found = default_targets(moe.make(family))
    assert ends(found.layers) == set(layers.split())
    assert ends(found.parameters) == set(experts.split())
    assert {reason: ends(names) for reason, names in found.left_out.items()} == {
        reason: set(names.split()) for reason, names in left_out.items()
    }


@pytest.mark.parametrize("family", FOUND)
def test_every_weight_of_an_adapter_has_a_gradient(family):
    """Every adapted layer is called, and has an effect on the loss."""
    model = apply_lora(moe.make(family), LoraConfig(r=4, lora_dropout=0.1))
    moe.randomise(model, 0.1)
    model.train()(input_ids=moe.ids(), labels=moe.ids(), use_cache=False).loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []


def test_a_vision_language_model_is_adapted_in_its_language_part(caplog):
    """The vision tower is left out and named; names common to both are excluded there."""
    model = moe.make_gemma3()
    assert ends(default_targets(model).layers) == {*QKVO.split(), *MLP.split()}
    assert set(default_targets(model).left_out) == {SENSES}
    with caplog.at_level("INFO", logger="xtuner"):
        cfg = apply_lora(model, LoraConfig(r=2)).peft_config["default"]
    assert "LoRA leaves out the vision and audio parts: attention.out_proj (1), mlp.fc1 (2)" in caplog.text
    assert cfg.target_modules == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    tower = r"model\.vision_tower\.encoder\.layers\.\d+\.self_attn\."
    assert cfg.exclude_modules == "|".join(rf"{tower}{word}_proj" for word in "kqv")


def test_a_linear_layer_that_does_more_is_left_out():
    """DeepSeek-V4 multiplies groups with a subclass of the linear layer; token choosers have no gradient."""
    from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

    with torch.device("meta"):
        model = DeepseekV4ForCausalLM(DeepseekV4Config(**{**moe.TINY, **moe.LATENT}))
    left_out = default_targets(model).left_out
    assert ends(left_out[MORE]) == {"self_attn.o_a_proj"}
    assert all(".indexer." in name for name in left_out.get(CHOOSES, []))


def adapted(cfg, family="qwen3_moe", **changes):
    """The modules and parameters that an adapter was put on, layer numbers left out."""
    model = apply_lora(moe.make(family, **changes), cfg)
    names = [name for name, p in model.named_parameters() if p.requires_grad and "lora_A" in name]
    return sorted(
        {re.sub(r"\.\d+\.", ".", n).partition(".layers.")[2].partition(".lora_A")[0] for n in names}
    )


EXPERTS = ["mlp.experts", "mlp.experts.base_layer"]


@pytest.mark.parametrize(
    ("family", "targets", "wanted"),
    [
        ("qwen3_moe", ["q_proj", "gate_proj", "up_proj", "down_proj"], [*EXPERTS, "self_attn.q_proj"]),
        ("qwen3_moe", ["down_proj"], ["mlp.experts"]),
        ("qwen3_moe", r".*\.mlp\.experts\.\d+\.(gate|up)_proj", ["mlp.experts"]),
        ("mixtral", ["w1", "w2", "w3"], EXPERTS),
        ("qwen3_moe", ["q_proj"], ["self_attn.q_proj"]),
        (
            "deepseek_v3",
            ["up_proj", "kv_b_proj"],
            ["mlp.experts", "mlp.shared_experts.up_proj", "mlp.up_proj", "self_attn.kv_b_proj"],
        ),
        ("deepseek_v3", r".*\.layers\.1\..*shared_experts\.up_proj", ["mlp.shared_experts.up_proj"]),
        (
            "llama4_text",
            ["gate_proj"],
            ["feed_forward.experts", "feed_forward.gate_proj", "feed_forward.shared_expert.gate_proj"],
        ),
        ("mixtral", ["gate"], ["mlp.gate"]),
    ],
)
def test_names_of_separate_expert_layers_mean_the_packed_ones(family, targets, wanted):
    """As in configs from before experts were packed; other layers of that name are adapted too."""
    assert adapted(LoraConfig(r=4, target_modules=targets), family) == wanted


def test_the_meaning_of_names_is_logged(caplog):
    """Once, with the ranks and the dropout."""
    cfg = LoraConfig(r=4, lora_dropout=0.2, target_modules=["gate_proj", "up_proj", "down_proj"])
    with caplog.at_level("INFO", logger="xtuner"):
        apply_lora(moe.make("olmoe"), cfg)
    said = (
        "LoRA on the experts of each layer: experts.down_proj (2), experts.gate_up_proj (2); rank 2 for each "
    )
    assert f"{said}expert, as a token passes 2" in caplog.text
    assert "lora_dropout=0.2 is that of linear layers: peft has none for packed experts" in caplog.text
    assert "this family packs experts, so down_proj, gate_up_proj are adapted for them" in caplog.text


def test_all_linear_means_the_default():
    """In peft it omits packed experts and would adapt routers."""
    assert adapted(LoraConfig(r=4, target_modules="all-linear"), "llama4_text") == adapted(
        LoraConfig(r=4), "llama4_text"
    )


def test_limits_of_the_config_apply_to_experts_too():
    """`layers_to_transform` and `exclude_modules`, with targets found and named."""
    model = apply_lora(
        moe.make("qwen3_moe"), LoraConfig(r=4, layers_to_transform=[1], exclude_modules=["q_proj"])
    )
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(".layers.1." in name and ".q_proj." not in name for name in names)
    assert len(names) == 2 * (3 + 2)
    cfg = model.peft_config["default"]
    assert cfg.target_parameters == ["1.mlp.experts.down_proj", "1.mlp.experts.gate_up_proj"]


def test_named_parameters_are_respected():
    """No layer is added, and each expert has the whole rank."""
    cfg = LoraConfig(r=4, target_parameters=["experts.down_proj"])
    assert adapted(cfg) == ["mlp.experts"]
    model = apply_lora(moe.make("qwen3_moe"), cfg)
    assert {p.shape for n, p in model.named_parameters() if "lora_A" in n} == {(4 * 4, 16)}


def test_wrong_names_are_errors_that_list_valid_ones():
    """Of a layer, a block, a parameter, a layer that is not called, a router that is more than a matrix."""
    model = moe.make("qwen3_moe")
    there = (
        r"'gate_pro', which this model does not have; its linear layers are down_proj, gate_up_proj, k_proj"
    )
    with pytest.raises(ConfigError, match=there):
        apply_lora(model, LoraConfig(target_modules=["gate_pro"]))
    with pytest.raises(ConfigError, match=r"'self_attn', which is not a layer but holds some; the linear"):
        apply_lora(model, LoraConfig(target_modules=["q_proj", "self_attn"]))
    with pytest.raises(
        ConfigError, match=r"'experts.down_pro', which this model .* Did you mean 'down_proj'"
    ):
        apply_lora(model, LoraConfig(target_parameters=["experts.down_pro"]))
    with pytest.raises(ConfigError, match=r"names .*mixer.out_proj, one of the layers whose weight a kernel"):
        apply_lora(moe.make("mamba2"), LoraConfig(target_modules=["in_proj", "out_proj"]))
    with pytest.raises(
        ConfigError, match=r"feed_forward.router, one of the layers that do more than a matrix"
    ):
        apply_lora(moe.make("llama4_text"), LoraConfig(target_modules=["router"]))


def test_the_rank_is_divided_among_the_experts_of_a_token():
    """r / experts per token each, at least one; alpha keeps the scale; patterns of the config win."""
    many = {"num_experts": 16, "num_local_experts": 16, "num_experts_per_tok": 8}

    def patterns(**lora):
        cfg = apply_lora(moe.make("qwen3_moe", **many), LoraConfig(**lora)).peft_config["default"]
        return cfg.rank_pattern, cfg.alpha_pattern

    both = ("experts.down_proj", "experts.gate_up_proj")
    assert patterns(r=64, lora_alpha=16) == (dict.fromkeys(both, 8), dict.fromkeys(both, 2))
    assert patterns(r=4, lora_alpha=16) == (dict.fromkeys(both, 1), dict.fromkeys(both, 4))
    assert patterns(r=32, lora_alpha=16, use_rslora=True)[1] == pytest.approx(
        dict.fromkeys(both, 16 / 8**0.5)
    )
    own = {"experts.down_proj": 5}
    assert patterns(r=64, lora_alpha=16, rank_pattern=own) == (
        {**own, "experts.gate_up_proj": 8},
        {"experts.gate_up_proj": 2},
    )


def test_the_number_of_experts_per_token():
    """Families have several names for it; without one the number is 1."""
    wanted = {"qwen3_moe": 2, "ernie4_5_moe": 2, "longcat_flash": 2, "llama4_text": 1, "mamba2": None}
    assert {family: experts_per_token(moe.make(family).config) for family in wanted} == wanted


@pytest.mark.parametrize(
    "lora", [{"use_dora": True}, {"lora_bias": True}, {"init_lora_weights": "olora"}], ids=str
)
@pytest.mark.filterwarnings("ignore:.*lora_bias:UserWarning")
def test_features_that_peft_lacks_for_experts_leave_them_out(lora, caplog):
    """Linear layers support them; experts configured by name are an error."""
    with caplog.at_level("INFO", logger="xtuner"):
        assert adapted(LoraConfig(r=4, **lora), "granitemoe") == [f"self_attn.{x}_proj" for x in "koqv"]
    assert "LoRA leaves out packed experts, for which peft has no " in caplog.text
    with pytest.raises(ConfigError, match=r"peft has no such adapter for .*experts\.down_proj"):
        apply_lora(moe.make("mixtral"), LoraConfig(r=4, target_parameters=["experts.down_proj"], **lora))


def test_a_bias_that_a_merged_model_cannot_hold_is_logged(caplog):
    """Before training, with the layers that have none."""
    with caplog.at_level("INFO", logger="xtuner"):
        apply_lora(moe.make("falcon_h1"), LoraConfig(r=4, target_modules=["q_proj"], lora_bias=True))
    assert "lora_bias: self_attn.q_proj (2) have no bias, so no merged model can hold" in caplog.text


def test_dropout_is_on_layers_and_not_in_the_file():
    """peft refuses an adapter of parameters with dropout."""
    model = apply_lora(moe.make("deepseek_v3"), LoraConfig(r=4, lora_dropout=0.3))
    assert model.peft_config["default"].lora_dropout == 0
    rates = {
        name.rpartition(".lora_dropout")[0].rpartition(".")[2]: module.p
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Dropout) and ".lora_dropout." in name
    }
    assert set(rates) == {
        *(
            "q_a_proj",
            "q_b_proj",
            "kv_a_proj_with_mqa",
            "kv_b_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        )
    }
    assert set(rates.values()) == {0.3}


def test_biases_of_adapted_layers_are_trained_if_configured():
    """`bias="lora_only"` in a family with packed experts, whose adapter has two parts."""
    model = apply_lora(moe.make("qwen2_moe"), LoraConfig(r=4, bias="lora_only"))
    trained = {
        n.partition(".self_attn.")[2]
        for n, p in model.named_parameters()
        if p.requires_grad and n.endswith("bias")
    }
    assert trained == {f"{x}_proj.base_layer.bias" for x in "qkv"}


def test_packed_experts_are_found_in_a_model_with_an_adapter():
    """With the names that they have without it."""
    model = moe.make("qwen3_moe")
    before = {name: tuple(p.shape) for name, p in packed_experts(model).items()}
    assert before["model.layers.1.mlp.experts.gate_up_proj"] == (4, 32, 32)
    assert {
        n: tuple(p.shape)
        for n, p in packed_experts(apply_lora(model, LoraConfig(r=2)).get_base_model()).items()
    } == before
