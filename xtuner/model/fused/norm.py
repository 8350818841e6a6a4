"""Root mean square norm: y = w * x / rms(x), in fp32 within, keeping x and one number a row."""

from __future__ import annotations

import torch
from torch import Tensor

from xtuner.model.fused.linear import compute_dtype


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        scale = scale.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        # Rounded before the weight as in the Llama family's own code.
        y = (wide * scale).to(x.dtype) * weight
        return y.to(compute_dtype(x))

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
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


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x` normed over its last dimension, in the dtype that the linear layers after it compute in."""
    return _RmsNorm.apply(x, weight, eps)
