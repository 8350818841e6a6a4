"""Optimizers by name: they train, and a resumed run ends in the same bits."""

from pathlib import Path

import pytest
import torch
from torch import nn

from xtuner.config.optimizer_names import OPTIMIZERS, REFUSED
from xtuner.engine.build import build_run
from xtuner.engine.muon import Muon, by_matrix
from xtuner.engine.run import RunOptions
from xtuner.errors import ConfigError

PAGED = [name for name in OPTIMIZERS if name.startswith("Paged")]
FREE = [name for name in OPTIMIZERS if name.endswith("ScheduleFree")]


def need(name):
    if name in FREE:
        pytest.importorskip("schedulefree")
    if OPTIMIZERS[name].startswith("bitsandbytes"):
        pytest.importorskip("bitsandbytes")


def train(config, work_dir, name, **options):
    config["optim_wrapper"]["optimizer"] = {"type": name, "lr": 1e-3}
    run = build_run(config, RunOptions(work_dir=str(work_dir), **options))
    run.train()
    return run


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU:UserWarning")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_ends_in_the_same_bits(toy_config, tmp_path, name):
    """Also with weights large enough for states in 8 bits."""
    need(name)
    settings = {"param_scheduler": [], "dropout": 0.2, "keep": -1, "hidden": 1024}
    whole = train(toy_config(**settings), tmp_path / "a", name)
    resumed = train(toy_config(**settings), tmp_path / "b", name, resume=str(tmp_path / "a/iter_9.pth"))
    assert torch.equal(weights(whole), weights(resumed))
    start = build_run(toy_config(**settings), RunOptions(work_dir=str(tmp_path / "c")))
    assert not torch.equal(weights(whole), weights(start))
    assert len(whole.optim_wrapper.optimizer.state) > 0 or name == "SGD"


@pytest.mark.parametrize("name", FREE)
def test_checkpoints_and_validation_have_the_average_and_training_does_not(toy_config, tmp_path, name):
    """The weights of a checkpoint are those of the optimizer's eval mode; training goes on elsewhere."""
    need(name)
    run = train(toy_config(param_scheduler=[], keep=-1), tmp_path, name)
    optimizer = run.optim_wrapper.optimizer
    saved = torch.load(tmp_path / "iter_20.pth", weights_only=True)["state_dict"]
    optimizer.eval()
    average = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    assert saved.keys() == average.keys()
    for key, value in average.items():
        assert torch.equal(saved[key], value)
    run.optim_wrapper.go_on()
    assert not torch.equal(run.model.net[0].weight, average["net.0.weight"])


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed_tokens = nn.Embedding(5, 4)
        self.layer = nn.Linear(4, 3)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.lm_head = nn.Linear(3, 5, bias=False)

    def loss(self, ids):
        return self.lm_head(self.layer(self.embed_tokens(ids))).square().sum()


def test_muon_updates_the_matrices_of_layers_and_adamw_the_rest():
    """Three updates equal those of torch's two optimizers side by side."""
    ours, theirs = Model(), Model()
    trained = [p for p in ours.parameters() if p.requires_grad]
    groups = by_matrix(ours, trained)
    assert [(g["is_matrix"], len(g["params"])) for g in groups] == [(True, 1), (False, 3)]
    optimizer = Muon(groups, lr=0.01, weight_decay=0.1)
    others = [theirs.embed_tokens.weight, theirs.layer.bias, theirs.lm_head.weight]
    both = [
        torch.optim.Muon([theirs.layer.weight], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1),
    ]
    ids = torch.arange(5)
    for _ in range(3):
        ours.loss(ids).backward()
        theirs.loss(ids).backward()
        for one in (optimizer, *both):
            one.step()
            one.zero_grad()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_muon_keeps_groups_of_other_rates():
    model = Model()
    groups = [
        {"params": [model.layer.weight, model.layer.bias], "lr": 0.5},
        {"params": [model.lm_head.weight], "lr": 0.1},
    ]
    found = [(g["is_matrix"], g["lr"], len(g["params"])) for g in Muon(by_matrix(model, groups)).param_groups]
    assert found == [(True, 0.5, 1), (False, 0.5, 1), (False, 0.1, 1)]


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_maintained_package_is_refused_with_a_cure(toy_config, tmp_path, name):
    with pytest.raises(ConfigError) as error:
        train(toy_config(), tmp_path, name)
    assert REFUSED[name] in str(error.value)
    assert "\n" not in str(error.value)


NOTES = {
    "Muon": "2-D weights of layers by torch's Muon, all else by AdamW; one rate for both; torch 2.9",
    "Adafactor": "a state of rows and columns only",
}


def table():
    """The rows of docs/optimizers.md."""
    lines = []
    for name, path in OPTIMIZERS.items():
        device = "GPU; on the CPU without pages" if name in PAGED else "GPU, CPU"
        tried = path.startswith(("torch.", "schedulefree."))
        divided = "no" if name == "Muon" else "yes" if tried else "not tried"
        lines.append(f"| `{name}` | `{path}` | {device} | {divided} | {NOTES.get(name, '')} |")
    lines += [f"| `{name}` | **no** | | | {why} |" for name, why in REFUSED.items()]
    return "\n".join(lines)


def test_the_page_is_printed_from_the_table():
    page = (Path(__file__).parents[2] / "docs/optimizers.md").read_text("utf-8")
    assert table() in page, f"the rows of docs/optimizers.md should be:\n{table()}"
