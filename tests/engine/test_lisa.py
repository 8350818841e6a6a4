"""LISAHook: some layers train at a time, the others have no gradient and no state."""

import sys
import types

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from xtuner.config import parse_config
from xtuner.engine.build import build_run
from xtuner.engine.run import RunOptions
from xtuner.errors import ConfigError
from xtuner.estimate.configured import read_training
from xtuner.estimate.machine import Machine
from xtuner.estimate.shape import read_shape
from xtuner.estimate.training import optimizer_bytes, trained_weights
from xtuner.model import SupervisedFinetune
from xtuner.model.trained_layers import trained_part

TEXT = """
from lisa_toys import Rows, collate, make
from torch.optim import AdamW
from xtuner.engine.hooks import CheckpointHook, LISAHook
from xtuner.engine.optim import OptimWrapper

model = dict(type=make)
train_dataloader = dict(batch_size=1, dataset=dict(type=Rows), collate_fn=dict(type=collate))
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-2), accumulative_counts=2)
train_cfg = dict(max_iters=16)
default_hooks = dict(checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=2, max_keep_ckpts=-1))
num_layers = 2
custom_hooks = [dict(type=LISAHook, num_layers=num_layers, interval=2)]
randomness = dict(seed=3)
"""


class Rows:
    key = "rows"

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return torch.arange(i, i + 12)


def collate(rows):
    ids = torch.stack(rows)
    boundaries = [torch.tensor([0, ids.shape[1]], dtype=torch.int32)]
    data = {"input_ids": ids, "labels": ids, "position_ids": torch.arange(12)[None]}
    return {"data": {**data, "cumulative_len": boundaries}, "data_samples": None}


def make():
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    return SupervisedFinetune(llm=LlamaForCausalLM(LlamaConfig(num_hidden_layers=5, **sizes)))


@pytest.fixture
def start(monkeypatch, tmp_path):
    module = types.ModuleType("lisa_toys")
    module.Rows, module.collate, module.make = Rows, collate, make
    monkeypatch.setitem(sys.modules, "lisa_toys", module)

    def run(name, resume=False, **options):
        config = parse_config(TEXT, "toy.py", options)
        made = build_run(config, RunOptions(work_dir=str(tmp_path / name), resume=resume))
        made.train()
        return made

    return run


def layers_of(names):
    return {int(name.split(".")[2]) for name in names if ".layers." in f".{name}"}


def test_layers_at_rest_have_no_gradient_and_no_state(start):
    """Of five layers two have a state at the end; the bytes are those of two layers, ends and norm."""
    run = start("a")
    hook = next(hook for hook in run.hooks if type(hook).__name__ == "LISAHook")
    drawn = [hook.draw(run.seed, period) for period in range(4)]
    assert len({tuple(one) for one in drawn}) > 1
    state = run.optim_wrapper.optimizer.state
    parameters = dict(run.model.llm.named_parameters())
    with_state = {name for name, p in parameters.items() if p in state}
    assert layers_of(with_state) == set(drawn[-1])
    assert {name for name in parameters if not layers_of([name])} <= with_state
    held = sum(v.numel() for p in state.values() for v in p.values() if v.dim())
    assert held == 2 * sum(parameters[name].numel() for name in with_state)
    assert {name for name, p in parameters.items() if p.requires_grad} == with_state


def test_the_estimate_counts_the_layers_that_train_at_a_time(start):
    """Their weights, and two numbers of AdamW for each."""
    run = start("a", num_layers=3)
    shape = read_shape({**run.model.llm.config.to_dict(), "model_type": "llama"})
    found = read_training(run.cfg, shape, Machine("cuda", "GPU", 0, 0))
    trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    assert trained_weights(shape, found) == trained
    assert optimizer_bytes(shape, found) == 2 * trained * found.weight_bytes
    assert found.part == trained_part(run.model.llm)


def test_layers_that_were_never_drawn_are_as_at_first(start):
    run = start("a", num_layers=1)
    hook = next(hook for hook in run.hooks if type(hook).__name__ == "LISAHook")
    drawn = {number for period in range(4) for number in hook.draw(run.seed, period)}
    first = dict(make().llm.named_parameters())
    changed = {n for n, p in run.model.llm.named_parameters() if not torch.equal(p, first[n])}
    assert layers_of(changed) == drawn


@pytest.mark.parametrize("stop", [2, 4, 6, 8])
def test_a_resumed_run_ends_in_the_same_bits(start, tmp_path, stop):
    """In the middle of a period, and at its end."""
    whole = start("a")
    resumed = start("b", resume=str(tmp_path / f"a/iter_{stop}.pth"))
    for mine, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_more_layers_than_there_are_is_an_error(start):
    with pytest.raises(ConfigError, match="num_layers is 9, and the model has 5"):
        start("a", num_layers=9)
