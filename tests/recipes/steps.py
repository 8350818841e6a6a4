"""A step of training of a built-in config, on tiny parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xtuner.config import Builder, Config, parse_config
from xtuner.dataset.collate_fns import flat_collate_fn
from xtuner.recipes.render import render


def config_of(name: str, settings: Mapping[str, Any]) -> Config:
    """The config with those of the settings that it has."""
    text = render(name)
    known = {key: value for key, value in settings.items() if f"\n{key} = " in text}
    several = [key for key in parse_config(text, "c.py") if key.endswith(("_data_path", "_image_folder"))]
    known |= {key: settings["data_path" if key.endswith("data_path") else "image_folder"] for key in several}
    return parse_config(text, f"{name}.py", known)


def step(cfg: Config) -> set[str]:
    """The names of the weights that a step trains: all of them, and no others, have a gradient."""
    builder = Builder()
    rows = builder.build(cfg.train_dataloader["dataset"], "dataset")
    model = builder.build(cfg.model, "model").train()
    loss = model(flat_collate_fn([rows[0], rows[1]])["data"])["loss"]
    loss.backward()
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {name for name, weight in model.named_parameters() if weight.grad is not None}
    return trained
