"""Elementwise work of a training step as Triton kernels, each input read once and each output written once.

    module      op                           reads                  writes             replaces (plain torch)
    norm        RMS norm, its gradient       x | dy, x, residual    y | dx             4 | 12 passes over x
    rotary      rotary positions             q, k                   q, k               several strided passes
    gated       silu(gate) * up, gradient    gate, up | +dh         h | d_gate, d_up   5 | 14 passes
                  with dropout of LoRA       gate, up | +dh, low    h, dropped | +h    9 | 20 passes
    dropout     dropout from a seed          x                      y                  bits, mask, product
    loss        softmax, loss, gradient      logits (twice)         logits             18 bytes, here 6
    four_bits   weights with nested scales   codes, scales          weights            scales apart: 3 kernels

The functions of `xtuner.model.fused` and `xtuner.model.loss` call these if `available`, and plain torch
otherwise. Every kernel is an operator of torch with a shape function, so that it also runs on `meta` tensors.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Iterator

import torch
from torch import Tensor

from xtuner.log import say_once

# Not a context variable: the backward pass of a GPU runs in threads of its own.
_assumed = False


def available(x: Tensor) -> bool:
    """Whether `x` is on a GPU that Triton compiles for, in a precision of the kernels."""
    if not (_assumed or x.is_cuda) or x.element_size() > 4 or not _has_triton():
        return False
    return _assumed or _runs(x.device, x.dtype if x.is_floating_point() else torch.float32)


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


@functools.cache
def _runs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a kernel compiles and runs there: Triton needs a C compiler and a GPU that it still knows."""
    from xtuner.model.kernels.dropout import masked

    try:
        masked(torch.ones(8, device=device, dtype=dtype), 0.5, 0)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever is missing
        say_once(
            "Triton's kernels do not run on {device} in {dtype}, so training there is slower and takes more "
            "memory: {kind}: {error}",
            device=str(device),
            dtype=str(dtype).removeprefix("torch."),
            kind=type(error).__name__,
            error=str(error).strip().split("\n")[0],
        )
        return False
    return True
