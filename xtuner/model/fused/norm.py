"""Root mean square norm: y = w * x / rms(x), in fp32 within, keeping x and one number a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xtuner.model import kernels
from xtuner.model.fused.linear import compute_dtype


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        scale = scale.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        # Rounded before the weight as in the Llama family's own code.
        y = (wide * scale).to(x.dtype) * weight
        return y.to(compute_dtype(x))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        normed = x * scale  # in fp32, as `scale` is
        dx = d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight = (dy * normed).flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            grad = dy.to(scale.dtype) * weight.to(scale.dtype)
            along = torch.linalg.vecdot(grad, normed).div_(x.shape[-1]).unsqueeze(-1)
            dx = grad.sub_(normed.mul_(along)).mul_(scale).to(x.dtype)
        return dx, d_weight, None


class _NormBeside(torch.autograd.Function):
    """As _RmsNorm by kernels, with `x` as a second output: gradients of both are added in the kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        from xtuner.model.kernels.norm import rms_norm as norm

        ctx.set_materialize_grads(False)
        y, scale = norm(x, weight, eps, compute_dtype(x))
        ctx.save_for_backward(x, weight, scale)
        return y, x

    @staticmethod
    def backward(
        ctx: Any, dy: Tensor | None, beside: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None]:
        from xtuner.model.kernels.norm import rms_norm_backward

        if dy is None:
            return beside, None, None
        x, weight, scale = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        dx, d_weight = rms_norm_backward(dy, x, weight, scale, beside, needs_x, needs_weight)
        return dx if needs_x else None, d_weight.to(weight.dtype) if needs_weight else None, None


def norm_beside(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`x` normed, and `x` as it goes on beside the norm; where kernels are available."""
    return _NormBeside.apply(x, weight, eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x` normed over its last dimension, in the dtype that the linear layers after it compute in."""
    return norm_beside(x, weight, eps)[0] if kernels.available(x) else _RmsNorm.apply(x, weight, eps)
