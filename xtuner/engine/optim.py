"""One update of the weights: precision of the forward pass, scaling, clipping, the step itself.

    backward(loss)  x accumulative_counts  ->  update() -> Update(grad_norm, applied)

An update whose gradient is not finite is not applied. On a GPU the kernel of a fused optimizer decides that,
so that the host need not wait for the norm.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from packaging.version import Version

from xtuner.devices import has_fp64, pins_memory
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


class PendingUpdate:
    """An update that a device still computes: its gradient norm there, and a way to wait for it."""

    def __init__(self, grad_norm: torch.Tensor) -> None:
        self.grad_norm = grad_norm
        self._read = copied_to_host(grad_norm)

    def wait(self) -> Update:
        """The update, once the device has its norm; later kernels are not waited for."""
        norm = self._read()
        return Update(norm, applied=math.isfinite(norm))


def copied_to_host(value: torch.Tensor) -> Callable[[], float]:
    """Start to copy a number to the host; the returned function waits for the copy and returns the number."""
    behind = pins_memory(value.device)
    copy = value.detach().to("cpu", non_blocking=behind)
    done = torch.Event(value.device) if behind else None
    if done is not None:
        done.record()

    def read() -> float:
        if done is not None:
            done.synchronize()
        return float(copy)

    return read


def skips_on_device(device: torch.device) -> bool:
    """Whether the optimizer's kernels decide if an update is skipped; on a CPU the host reads the norm."""
    return device.type != "cpu"


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
        self.scaled(loss).backward()

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """`loss`, times the loss scale where there is one."""
        return self.scaler.scale(loss) if self.scaler else loss

    def update(self) -> Update | PendingUpdate:
        """Clip, step, clear."""
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        total = torch.nn.utils.get_total_norm([p.grad for p in params], self.norm_type)
        update: Update | PendingUpdate
        if self._takes_scale(total) and skips_on_device(total.device):
            update = self._step_on_device(total)
        else:
            update = self._step(params, total)
        self.optimizer.zero_grad(set_to_none=True)
        return update

    def _takes_scale(self, total: torch.Tensor) -> bool:
        """Whether the optimizer's kernel divides gradients, as torch's fused ones do for loss scalers.

        This saves a pass over all gradients.
        """
        takes = getattr(self.optimizer, "_step_supports_amp_scaling", False)
        return takes and not self.scaler and type(total) is torch.Tensor

    def _step_on_device(self, total: torch.Tensor) -> PendingUpdate:
        """A step whose kernels clip the gradients, or skip the update, without the host."""
        is_bad = torch.isfinite(total).logical_not().float()
        scale = None
        if self.max_norm is not None:
            scale = torch.where(total > self.max_norm, _divisor(total, self.max_norm), 1.0)
        self._step_with(grad_scale=scale, found_inf=is_bad)
        return PendingUpdate(total)

    def _step(self, params: list[torch.nn.Parameter], total: torch.Tensor) -> Update:
        """A step after the host has read the norm."""
        norm = whole(total).item()
        finite = math.isfinite(norm)
        scale = None
        if finite and self.max_norm is not None and norm > self.max_norm:
            if self._takes_scale(total):
                scale = _divisor(total, self.max_norm)
            else:
                torch.nn.utils.clip_grads_with_norm_(params, self.max_norm, total)
        rescaled = False
        if self.scaler:
            before = self.scaler.get_scale()
            self.scaler.step(self.optimizer)  # steps only if all gradients are finite
            self.scaler.update()
            rescaled = not finite and before > 1.0
        elif finite:
            self._step_with(grad_scale=scale)
        return Update(norm, applied=finite, rescaled=rescaled)

    def _step_with(self, **scalars: torch.Tensor | None) -> None:
        """A step of the optimizer, which reads these numbers from its attributes."""
        given = {name: value for name, value in scalars.items() if value is not None}
        for name, value in given.items():
            setattr(self.optimizer, name, value)
        self.optimizer.step()
        for name in given:
            delattr(self.optimizer, name)

    def show_average(self) -> None:
        """Give the model the weights to save and to answer with, where the optimizer trains with others."""
        if hasattr(self.optimizer, "eval"):
            self.optimizer.eval()

    def go_on(self) -> None:
        """Give the model the weights to train with."""
        if hasattr(self.optimizer, "train"):
            self.optimizer.train()

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


def _divisor(total: torch.Tensor, max_norm: float) -> torch.Tensor:
    """The number by which gradients above `max_norm` are divided, in fp32 for weights of any dtype."""
    return (total.float() + EPSILON) / max_norm


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
