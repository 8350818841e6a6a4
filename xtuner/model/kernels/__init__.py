"""Elementwise work of a training step as Triton kernels, each input read once and each output written once.

    module      op                           reads             writes              replaces (plain torch)
    norm        RMS norm, its gradient       x | dy, x         y | dx              4 | 9 passes over x
    rotary      rotary positions             q, k              q, k                several strided passes
    gated       silu(gate) * up, gradient    gate, up | +dh    h | h, d_gate, d_up 5 | 14 passes
    dropout     dropout from a seed          x                 y                   bits, mask, product
    loss        softmax, loss, gradient      logits (twice)    logits              18 bytes a logit, here 6

The functions of `xtuner.model.fused` call these if `available`, and plain torch otherwise. Every kernel is an
operator of torch with a shape function, so that it also runs on `meta` tensors.
"""

from __future__ import annotations

import functools
import importlib.util

from torch import Tensor


def available(x: Tensor) -> bool:
    """Whether `x` is on a GPU that Triton compiles for, in a precision of the kernels."""
    return x.is_cuda and x.element_size() <= 4 and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
