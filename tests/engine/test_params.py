import pytest
import torch
from torch import nn

from xtuner.engine.params import parameter_groups, with_fastest_kernel
from xtuner.errors import ConfigError


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.lora_A = nn.Linear(2, 2, bias=False)
        self.lora_B = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_without_settings_all_trained_parameters_are_one_list():
    layer = Layer()
    assert [id(p) for p in parameter_groups(layer, None, 1e-3, 0.1)] == [
        id(p) for p in layer.parameters() if p.requires_grad
    ]


def test_the_longest_key_in_a_name_gives_rate_and_decay_norms_and_biases_their_own():
    """LoRA+: a higher rate for B; no decay for norms; each trained parameter in exactly one group."""
    layer = Layer()
    cfg = {
        "custom_keys": {"lora_": {"decay_mult": 0.5}, "lora_B": {"lr_mult": 16}},
        "norm_decay_mult": 0,
    }
    groups = parameter_groups(layer, cfg, lr=1e-3, decay=0.1)
    found = [(g["lr"], g["weight_decay"], [tuple(p.shape) for p in g["params"]]) for g in groups]
    assert found == [
        (1e-3, 0.05, [(2, 2)]),
        (16e-3, 0.1, [(2, 2), (2,)]),
        (1e-3, 0.0, [(2,), (2,)]),
    ]


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"custom_key": {}}, "has no key 'custom_key'. Did you mean 'custom_keys'?"),
        ({"custom_keys": {"lora_C": {"lr_mult": 2}}}, "no trainable parameter has 'lora_C' in its name"),
        ({"custom_keys": {"lora_B": {"lr_mul": 2}}}, "has no key 'lr_mul'. Did you mean 'lr_mult'?"),
    ],
)
def test_a_setting_without_effect_is_an_error(cfg, message):
    with pytest.raises(ConfigError) as error:
        parameter_groups(Layer(), cfg, 1e-3, 0.1)
    assert message in str(error.value)


def test_torchs_optimizers_use_the_fused_kernel_by_default():
    params = [torch.zeros(1)]
    assert with_fastest_kernel({"lr": 1}, torch.optim.AdamW, params) == {"lr": 1, "fused": True}
    assert with_fastest_kernel({"foreach": True}, torch.optim.AdamW, params) == {"foreach": True}
    assert with_fastest_kernel({}, torch.optim.RMSprop, params) == {}
    assert with_fastest_kernel({}, torch.optim.AdamW, [torch.zeros(1, device="meta")]) == {}
