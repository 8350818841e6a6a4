"""What holds for any model, with an adapter or without: its base, and the device of its inputs."""

from __future__ import annotations

from typing import Any

import torch


def base_model(model: Any) -> Any:
    """The model below an adapter of peft's; `model` itself where there is none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def device_of(model: Any) -> torch.device:
    """The device that inputs go to."""
    # Offloaded weights are on "meta" until their layer runs.
    return next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))
