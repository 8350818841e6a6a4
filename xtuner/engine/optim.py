"""One update of the weights: precision of the forward pass, scaling, clipping, the step itself.

    backward(loss)  x accumulative_counts  ->  update() -> Update(grad_norm, applied)

An update whose gradient is not finite is not applied.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from packaging.version import Version

from xtuner.devices import has_fp64
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.model.loading import compute_dtype
from xtuner.parallel.tensors import whole

# As in torch's clip_grads_with_norm_.
EPSILON = 1e-6


@dataclass(frozen=True)
class Update:
    """The gradient norm of an update before clipping, and whether the weights changed."""

    grad_norm: float
    applied: bool
    # A 16-bit loss scale was too high and has been lowered; the data is not the cause.
    rescaled: bool = False


class OptimWrapper:
    """An optimizer with gradient clipping and accumulation, in the precision of the model."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        clip_grad: dict[str, Any] | None = None,
        accumulative_counts: int = 1,
    ):
        if accumulative_counts < 1:
            raise ConfigError(
                translate(
                    "optim_wrapper.accumulative_counts is {accumulative_counts}; it must be at least 1",
                    accumulative_counts=accumulative_counts,
                )
            )
        self.optimizer = optimizer
        self.accumulative_counts = accumulative_counts
        self.max_norm, self.norm_type = _clipping(clip_grad)
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.scaler: torch.amp.GradScaler | None = None

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def get_lr(self) -> dict[str, list[float]]:
        """The current learning rates, for hooks of users."""
        return {"lr": [group["lr"] for group in self.param_groups]}

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context of a forward pass."""
        return contextlib.nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss`."""
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def update(self) -> Update:
        """Clip, step, clear. The norm is the only number that the host waits for in an update."""
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        total = torch.nn.utils.get_total_norm([p.grad for p in params], self.norm_type)
        norm = whole(total).item()
        finite = math.isfinite(norm)
        scale = self._clip(params, total, norm) if finite else None
        rescaled = False
        if self.scaler:
            before = self.scaler.get_scale()
            self.scaler.step(self.optimizer)  # steps only if all gradients are finite
            self.scaler.update()
            rescaled = not finite and before > 1.0
        elif finite:
            self._step(scale)
        self.optimizer.zero_grad(set_to_none=True)
        return Update(norm, applied=finite, rescaled=rescaled)

    def _clip(
        self, params: list[torch.nn.Parameter], total: torch.Tensor, norm: float
    ) -> torch.Tensor | None:
        """The divisor of gradients for the optimizer; None if they are already clipped or need not be."""
        if self.max_norm is None or norm <= self.max_norm:
            return None
        # torch's fused kernels accept a factor, meant for loss scalers; this saves a pass over all gradients.
        takes_factor = getattr(self.optimizer, "_step_supports_amp_scaling", False)
        if takes_factor and not self.scaler and type(total) is torch.Tensor:
            return (total.float() + EPSILON) / self.max_norm  # in fp32 for weights of any dtype
        torch.nn.utils.clip_grads_with_norm_(params, self.max_norm, total)
        return None

    def _step(self, scale: torch.Tensor | None) -> None:
        optimizer: Any = self.optimizer
        if scale is None:
            optimizer.step()
            return
        optimizer.grad_scale = scale
        optimizer.step()
        del optimizer.grad_scale

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimizer and of the loss scale."""
        state = {"optimizer": self.optimizer.state_dict()}
        if self.scaler:
            state["scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler and "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])


class AmpOptimWrapper(OptimWrapper):
    """An optimizer with forward passes in 16 bits if the device supports them."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        clip_grad: dict[str, Any] | None = None,
        accumulative_counts: int = 1,
        loss_scale: str | float | dict[str, Any] = "dynamic",
        dtype: str | torch.dtype | None = None,
        device: torch.device | None = None,
    ):
        super().__init__(optimizer, clip_grad, accumulative_counts)
        self.device = device or torch.device("cpu")
        self.dtype = compute_dtype(_dtype(dtype), self.device)
        scale = _scale(loss_scale)
        if self.dtype == torch.float16:
            check_loss_scale(self.device.type, torch.__version__, has_fp64(self.device))
            self.scaler = torch.amp.GradScaler(self.device.type, **scale)

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def check_loss_scale(kind: str, version: str, fp64: bool) -> None:
    """Raise ConfigError where torch of that version cannot scale the loss of fp16, as that takes fp64."""
    if not fp64 and (kind != "mps" or Version(version) < Version("2.8")):
        raise ConfigError(
            translate(
                "optim_wrapper.dtype is float16, whose loss scale torch {version} computes in fp64, which "
                "this {device} has not: use 'bfloat16'",
                version=version,
                device=kind,
            )
        )


def _dtype(name: str | torch.dtype | None) -> torch.dtype:
    found = name if isinstance(name, torch.dtype) else getattr(torch, name or "float16", None)
    if found not in (torch.float16, torch.bfloat16, torch.float32):
        raise ConfigError(
            translate("optim_wrapper.dtype is {name!r}; use 'float16', 'bfloat16' or 'float32'", name=name)
        )
    return found


def _scale(loss_scale: str | float | dict[str, Any]) -> dict[str, Any]:
    if loss_scale == "dynamic":
        return {}
    if isinstance(loss_scale, dict):
        return dict(loss_scale)
    if isinstance(loss_scale, (int, float)):
        return {"init_scale": float(loss_scale), "growth_interval": 2**31 - 1}
    raise ConfigError(
        translate(
            "optim_wrapper.loss_scale is {loss_scale!r}; use 'dynamic', a number or a dict",
            loss_scale=loss_scale,
        )
    )


def _clipping(clip_grad: dict[str, Any] | None) -> tuple[float | None, float]:
    if clip_grad is None:
        return None, 2.0
    known = {"max_norm", "norm_type", "error_if_nonfinite", "type"}
    if unknown := clip_grad.keys() - known:
        raise ConfigError(
            translate(
                "optim_wrapper.clip_grad has no key {key!r}; it takes max_norm and norm_type",
                key=sorted(unknown)[0],
            )
        )
    if clip_grad.get("type", "norm") != "norm":
        raise ConfigError(
            translate(
                "optim_wrapper.clip_grad.type is {kind!r}; only 'norm' is supported", kind=clip_grad["type"]
            )
        )
    max_norm, norm_type = clip_grad.get("max_norm"), clip_grad.get("norm_type", 2.0)
    for key, value in {"max_norm": max_norm, "norm_type": norm_type}.items():
        if value is not None and not (isinstance(value, (int, float)) and value > 0):
            raise ConfigError(
                translate(
                    "optim_wrapper.clip_grad.{key} is {value!r}; it must be a number above 0",
                    key=key,
                    value=value,
                )
            )
    return max_norm, float(norm_type)
