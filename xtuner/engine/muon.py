"""Muon for the matrices inside a model, AdamW for all else, as one optimizer.

    optimizer = dict(type='Muon', lr=2e-4, weight_decay=0.1)

    2-D weights of layers, A and B of LoRA     torch.optim.Muon
    embeddings, head, norms, biases, experts   torch.optim.AdamW

Updates of a matrix have the size of AdamW's (`adjust_lr_fn='match_rms_adamw'`), so one learning
rate fits both. After Jordan et al. 2024 and Liu et al. 2025, arXiv 2502.16982; the numbers are torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from xtuner.errors import ConfigError
from xtuner.language import translate

_ENDS = ("embed", "lm_head", "wte", "wpe", "output_layer")


class Muon(torch.optim.Optimizer):
    """Groups with `is_matrix` are updated by torch's Muon, the others by its AdamW."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-4,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: str = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.95),
    ):
        if not hasattr(torch.optim, "Muon"):
            what = "optim_wrapper.optimizer is Muon, which torch has from 2.9 on; here is {version}"
            raise ConfigError(translate(what, version=torch.__version__))
        own = {"lr": lr, "weight_decay": weight_decay, "is_matrix": False}
        self._settings: dict[bool, dict[str, Any]] = {
            True: {
                "momentum": momentum,
                "nesterov": nesterov,
                "ns_steps": ns_steps,
                "adjust_lr_fn": adjust_lr_fn,
            },
            False: {"betas": betas},
        }
        super().__init__(params, own)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with the settings of the optimizer that updates it."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        kind = torch.optim.Muon if group["is_matrix"] else torch.optim.AdamW
        settings = self._settings[group["is_matrix"]]
        inner = kind(group["params"], lr=group["lr"], weight_decay=group["weight_decay"], **settings)
        for name, value in inner.param_groups[0].items():
            group.setdefault(name, value)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of all groups that have gradients; the loss of `closure`."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for is_matrix, kind in ((True, torch.optim.Muon), (False, torch.optim.AdamW)):
            groups = [group for group in self.param_groups if group["is_matrix"] is is_matrix]
            if groups:
                # torch's own step, on our groups and states: what it was made with does not matter.
                inner = kind(groups[0]["params"][:1], lr=0.0)
                inner.param_groups, inner.state = groups, self.state
                inner.step()
        return loss


def by_matrix(model: nn.Module, groups: Any) -> list[dict[str, Any]]:
    """The parameter `groups`, or one list of parameters, each as its matrices and the others."""
    inside = matrices(model)
    found = []
    for group in groups if groups and isinstance(groups[0], Mapping) else [{"params": groups}]:
        for is_matrix in (True, False):
            params = [p for p in group["params"] if (id(p) in inside) is is_matrix]
            if params:
                found.append({**group, "params": params, "is_matrix": is_matrix})
    return found


def matrices(model: nn.Module) -> set[int]:
    """The ids of the trained parameters that are matrices of layers, not of embeddings or the head."""
    return {
        id(p)
        for name, p in model.named_parameters()
        if p.requires_grad and p.dim() == 2 and not any(end in name for end in _ENDS)
    }
