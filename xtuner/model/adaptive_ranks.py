"""AdaLoRA: its penalty in the loss, its choice of ranks after each update, and the state of that.

    loss        + orth_reg_weight * mean of |A A^T - I| and |B^T B - I| over the layers
    update      optimizer.step(), then peft's allocator looks at weights and gradients and masks ranks
    checkpoint  importance of each weight, the ranks that are kept, the number of updates

Zhang et al. 2023, arXiv 2303.10512; the numbers are peft's.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.log import say_once

TYPE = "ADALORA"
_NAME = "default"
_PARTS = ("ipt", "exp_avg_ipt", "exp_avg_unc")
_STATE = "ranks."


def has_ranks(llm: Any) -> bool:
    """Whether `llm` has a trained adapter whose ranks are chosen in training."""
    return hasattr(getattr(llm, "base_model", None), "rankallocator") and hasattr(
        llm.base_model, "num_updates"
    )


def begin(llm: Any) -> None:
    """Start to count the updates of `llm`."""
    llm.base_model.num_updates = 0


def start(llm: Any, optimizer: torch.optim.Optimizer, num_updates: int) -> None:
    """Choose ranks after each step of `optimizer`, by a schedule as long as the run."""
    cfg = llm.peft_config[_NAME]
    if cfg.tinit + cfg.tfinal >= num_updates:
        what = (
            "model.lora: AdaLoRA chooses ranks after tinit = {tinit} updates and before the last tfinal = "
            "{tfinal}, and this run has {count}: lower them"
        )
        raise ConfigError(translate(what, tinit=cfg.tinit, tfinal=cfg.tfinal, count=num_updates))
    if cfg.total_step != num_updates:
        what = "model.lora.total_step = {given} is not used: the run has {count} updates"
        say_once(what, logging.INFO, given=cfg.total_step, count=num_updates)
    llm.base_model.rankallocator.set_total_step(num_updates)
    cfg.total_step = num_updates
    # Importance is of clipped gradients: the optimizer's kernel is not to divide them.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]

    def after_step(*_: Any) -> None:
        llm.base_model.update_and_allocate(llm.base_model.num_updates)
        llm.base_model.num_updates += 1

    optimizer.register_step_post_hook(after_step)


def penalty(llm: Any) -> Tensor:
    """What the loss of an update has besides that of its data."""
    norms = []
    for name, p in llm.base_model.model.named_parameters():
        if _NAME in name and ("lora_A" in name or "lora_B" in name):
            product = p @ p.T if "lora_A" in name else p.T @ p
            norms.append((product - torch.eye(len(product), dtype=p.dtype, device=p.device)).norm())
    return llm.peft_config[_NAME].orth_reg_weight * torch.stack(norms).mean()


def _weights(llm: Any) -> dict[str, Tensor]:
    """The weights whose importance is measured, by peft's names."""
    found = llm.base_model.model.named_parameters()
    return {n: p for n, p in found if "lora_" in n and _NAME in n}


def state_of(llm: Any) -> dict[str, Tensor]:
    """What a checkpoint holds besides the adapter; nothing for other adapters."""
    if not has_ranks(llm):
        return {}
    allocator, pattern = llm.base_model.rankallocator, llm.peft_config[_NAME].rank_pattern or {}
    state = {f"{_STATE}num_updates": torch.tensor(llm.base_model.num_updates)}
    for name, weight in _weights(llm).items():
        for part in _PARTS:
            state[f"{_STATE}{part}.{name}"] = getattr(allocator, part).get(
                name, torch.zeros_like(weight.detach())
            )
        if "lora_E" in name:
            kept = pattern.get(name, [True] * len(weight))
            state[f"{_STATE}kept.{name}"] = torch.as_tensor(kept).view(-1).to(torch.uint8).cpu()
    return state


def load(llm: Any, state: Mapping[str, Tensor]) -> None:
    """Put back what `state_of` returned."""
    if not has_ranks(llm) or f"{_STATE}num_updates" not in state:
        return
    llm.base_model.num_updates = int(state[f"{_STATE}num_updates"])
    pattern = {}
    for name, weight in _weights(llm).items():
        for part in _PARTS:
            own = getattr(llm.base_model.rankallocator, part)
            own[name] = state[f"{_STATE}{part}.{name}"].to(weight.device, copy=True)
        if "lora_E" in name:
            pattern[name] = state[f"{_STATE}kept.{name}"].bool().tolist()
    llm.peft_config[_NAME].rank_pattern = pattern


@contextlib.contextmanager
def whole(llm: Any) -> Iterator[None]:
    """A context in which peft does not cut ranks that are masked: masked ones are zero."""
    cfg = llm.peft_config[_NAME]
    before = getattr(cfg, "rank_pattern", None)
    if has_ranks(llm):
        cfg.rank_pattern = None
    try:
        yield
    finally:
        if has_ranks(llm):
            cfg.rank_pattern = before
