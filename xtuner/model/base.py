"""The base of a model with or without an adapter, and the device of its inputs."""

from __future__ import annotations

from typing import Any

import torch


def base_model(model: Any) -> Any:
    """The model below a peft adapter; `model` itself if it has none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def device_of(model: Any) -> torch.device:
    """The device for inputs."""
    # Offloaded weights are on "meta" until their layer runs.
    return next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))
