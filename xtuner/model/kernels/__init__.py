"""Elementwise work of a training step as Triton kernels, each input read once and each output written once.

    module      op                           reads                  writes             replaces (plain torch)
    norm        RMS norm, its gradient       x | dy, x, residual    y | dx             4 | 12 passes over x
    rotary      rotary positions             q, k                   q, k               several strided passes
    gated       silu(gate) * up, gradient    gate, up | +dh         h | d_gate, d_up   5 | 14 passes
                  with dropout of LoRA       gate, up | +dh, low    h, dropped | +h    9 | 20 passes
    dropout     dropout from a seed          x                      y                  bits, mask, product
    loss        softmax, loss, gradient      logits (twice)         logits             18 bytes, here 6

The functions of `xtuner.model.fused` and `xtuner.model.loss` call these if `available`, and plain torch
otherwise. Every kernel is an operator of torch with a shape function, so that it also runs on `meta` tensors.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Iterator

from torch import Tensor

_assumed = False


def available(x: Tensor) -> bool:
    """Whether `x` is on a GPU that Triton compiles for, in a precision of the kernels."""
    return (x.is_cuda or _assumed) and x.element_size() <= 4 and _has_triton()


@contextlib.contextmanager
def assume_gpu() -> Iterator[None]:
    """Within it every device counts as a GPU: `meta`, where work is counted, and Triton's interpreter."""
    global _assumed
    before, _assumed = _assumed, True
    try:
        yield
    finally:
        _assumed = before


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
