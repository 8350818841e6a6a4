"""Full fine-tuning of every family in bf16: loss and gradients of one step against stock code in fp32.

The same in fp32, to rounding: tests/model/test_passes.py.
"""

import itertools

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import CONFIG_MAPPING

from tests.families.configs import OWN, in_slice, make_model
from tests.families.known import why_known
from xtuner.model import SupervisedFinetune

BOUNDARIES = [0, 9, 14, 16]
# Relative errors of the loss and of all gradients together that rounding explains; a token that 16 bits
# send to another expert weighs more.
BOUNDS = (0.03, 0.5)


def samples():
    ids = torch.randint(3, 64, (BOUNDARIES[-1],), generator=torch.Generator().manual_seed(2))
    return [ids[a:b] for a, b in itertools.pairwise(BOUNDARIES)]


def stock_step(model):
    """The mean loss over all tokens but the first of each sample, and its gradients."""
    total = sum(
        cross_entropy(model(input_ids=ids[None], use_cache=False).logits[0, :-1], ids[1:], reduction="sum")
        for ids in samples()
    )
    return step(model, total / (BOUNDARIES[-1] - len(samples())))


def our_step(model):
    """The same through XTuner."""
    sft = SupervisedFinetune(model, use_activation_checkpointing=False).train()
    count = BOUNDARIES[-1] - len(samples())
    with torch.autocast("cpu", torch.bfloat16):
        loss = sft(batch(samples()), num_items=count)["loss"]
    return step(model, loss)


def batch(rows):
    ids = torch.cat(rows)[None]
    boundaries = torch.tensor([0, *(len(r) for r in rows)], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    mask = torch.ones_like(ids, dtype=torch.bool)
    return {"input_ids": ids, "labels": ids, "attention_mask": mask, "cumulative_len": [boundaries]}


def step(model, loss):
    model.zero_grad()
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", [name for name in in_slice() if name in OWN])
@pytest.mark.filterwarnings("ignore")
def test_a_packed_step_is_that_of_stock_code(family, request):
    """Three samples in one row; every weight that stock code trains has its gradient."""
    known = [why_known(family, "full", "bf16", step) for step in ("train", "loss", "gradients")]
    if any(known):
        request.applymarker(pytest.mark.xfail(reason=next(filter(None, known)), strict=True))
    if family not in CONFIG_MAPPING:
        pytest.skip("not in this transformers")
    model = make_model(family, vocab_size=64)
    model.set_attn_implementation("eager")
    loss, grads = stock_step(model)
    ours, found = our_step(model)
    assert found.keys() == grads.keys()
    size = sum(g.double().square().sum() for g in grads.values())
    error = (sum((found[n] - g).double().square().sum() for n, g in grads.items()) / size).sqrt()
    assert abs(ours - loss) < BOUNDS[0] * loss
    assert error < BOUNDS[1]
