"""Activation checkpointing: layers forget their activations in forward and recompute them in backward."""

from __future__ import annotations

from typing import Any

import torch

from xtuner.log import logger

# Tokens of the batch that the decision reckons with, and how often what it needs must fit.
TOKENS = 8192
MARGIN = 2


def enable_recompute(llm: Any) -> None:
    """Turn recomputation on in every layer of `llm` (not re-entrant, so frozen inputs are fine)."""
    base = llm.get_base_model() if hasattr(llm, "get_base_model") else llm
    enable = getattr(base, "activation_checkpointing_enable", None)
    if enable is not None:
        enable({"use_reentrant": False})
    else:  # transformers before 5.22
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def memory_is_short(llm: Any) -> bool:
    """Whether activations of a usual batch might not fit beside what is already in memory."""
    config = llm.config.get_text_config()
    bytes_per_value = 4 if llm.dtype == torch.float32 else 2
    # 17 values per hidden unit, layer and token: what a Llama layer keeps for backward.
    needed = TOKENS * config.num_hidden_layers * config.hidden_size * 17 * bytes_per_value
    free = free_memory(llm.device)
    short = free < MARGIN * needed
    logger.info(
        f"Activations of {TOKENS} tokens take about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: "
        f"{'they are recomputed in backward' if short else 'nothing is recomputed'}"
    )
    return short


def free_memory(device: torch.device) -> int:
    """Bytes that are free on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return 8 * 2**30
