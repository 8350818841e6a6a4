"""A model of a few numbers that trains through the real engine, and its config."""

from __future__ import annotations

import logging
import math
import sys
import textwrap
import types

import pytest
import torch

from xtuner.config import parse_config
from xtuner.engine import optim
from xtuner.model.train_module import TrainModule


class Rows:
    """Ten rows `[x, y]`; row i has i % 3 + 1 items with loss. Their lines are 100 and up."""

    key = "rows"

    def __init__(self, poison: tuple = ()):
        generator = torch.Generator().manual_seed(7)
        self.values = torch.randn(10, 4, generator=generator)
        for i in poison:
            self.values[i] = float("nan")

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return {"x": self.values[i], "count": i % 3 + 1}

    def source_places(self, i):
        return [f"toy.json line {100 + i}"]


def collate(rows):
    data = {"x": torch.stack([r["x"] for r in rows]), "count": torch.tensor([r["count"] for r in rows])}
    return {"data": data, "data_samples": None}


class Toy(TrainModule):
    """A linear model with dropout whose loss is a sum over `count` equal items a row."""

    uses_adapter = True

    def __init__(self, dropout=0.0, hidden=8):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, hidden), torch.nn.Dropout(dropout), torch.nn.Linear(hidden, 1)
        )

    def num_items(self, data):
        return int(data["count"].sum())

    def forward(self, data, data_samples=None, mode="loss", num_items=None):
        per_row = self.net(data["x"]).squeeze(-1) ** 2
        loss = (per_row * data["count"]).sum() / (num_items or data["count"].sum())
        return {"loss": loss, "sums": {}}

    def describe(self, means):
        return {**means, "perplexity": math.exp(means["loss"])}


TEXT = """
    from engine_toys import Rows, Toy, collate
    from mmengine.dataset import DefaultSampler
    from mmengine.hooks import CheckpointHook, LoggerHook
    from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
    from torch.optim import AdamW
    from xtuner.engine.runner import TrainLoop

    dropout = 0.0
    hidden = 8
    poison = ()
    batch_size = 1
    accumulative_counts = 1
    max_epochs = 2
    lr = 1e-2
    interval = 3
    keep = 2
    model = dict(type=Toy, dropout=dropout, hidden=hidden)
    train_dataloader = dict(
        batch_size=batch_size, dataset=dict(type=Rows, poison=poison),
        sampler=dict(type=DefaultSampler, shuffle=True), collate_fn=dict(type=collate))
    optim_wrapper = dict(
        type=OptimWrapper, optimizer=dict(type=AdamW, lr=lr), clip_grad=dict(max_norm=1),
        accumulative_counts=accumulative_counts)
    param_scheduler = [
        dict(type=LinearLR, start_factor=0.1, by_epoch=True, begin=0, end=0.5, convert_to_iter_based=True),
        dict(type=CosineAnnealingLR, eta_min=0.0, by_epoch=True, begin=0.5, end=max_epochs,
             convert_to_iter_based=True)]
    train_cfg = dict(type=TrainLoop, max_epochs=max_epochs)
    default_hooks = dict(
        checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=interval, max_keep_ckpts=keep),
        logger=dict(type=LoggerHook, interval=1))
    custom_hooks = []
    randomness = dict(seed=3)
"""


@pytest.fixture
def toy_config(monkeypatch):
    """A function that returns the toy config with options."""
    module = types.ModuleType("engine_toys")
    module.Rows, module.Toy, module.collate = Rows, Toy, collate
    monkeypatch.setitem(sys.modules, "engine_toys", module)
    return lambda **options: parse_config(textwrap.dedent(TEXT), "toy.py", options)


@pytest.fixture(autouse=True)
def _log_all(caplog):
    caplog.set_level(logging.INFO, "xtuner")


@pytest.fixture(params=["read before the step", "read later"])
def moment(request, monkeypatch):
    """When the host reads the norm of an update; later as on a GPU, with the same kernels of torch."""
    if request.param == "read later":
        monkeypatch.setattr(optim, "skips_on_device", lambda device: True)
