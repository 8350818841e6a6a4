"""Packed causal attention on a CPU against torch's, sample by sample."""

import itertools

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from xtuner.model.fused.segments import packed_causal


def reference(query, key, value, boundaries, scale):
    parts = [
        scaled_dot_product_attention(
            query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], is_causal=True, scale=scale, enable_gqa=True
        )
        for a, b in itertools.pairwise(boundaries)
        if b > a
    ]
    return torch.cat(parts, dim=2).transpose(1, 2)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_output_and_gradients_equal_torchs(dtype, tolerance, heads):
    """Samples of 1, 2, 128, 129 and 300 tokens and an empty one; grouped heads; values of another width."""
    torch.manual_seed(0)
    boundaries = [0, 1, 3, 3, 131, 260, 560]
    shapes = [(1, 560, heads[0], 8), (1, 560, heads[1], 8), (1, 560, heads[1], 6)]
    inputs = [torch.randn(s, dtype=dtype).transpose(1, 2).requires_grad_() for s in shapes]
    weights = torch.randn(1, 560, heads[0], 6, dtype=dtype)
    ours, theirs = packed_causal(*inputs, boundaries, 0.4), reference(*inputs, boundaries, 0.4)
    found = [ours, *torch.autograd.grad((ours * weights).sum(), inputs)]
    wanted = [theirs, *torch.autograd.grad((theirs * weights).sum(), inputs)]
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() < tolerance * b.norm()
