"""What one operator moves and launches, by the rules of benchmarks/on_paper."""

import pytest
import torch
from on_paper.counter import Counter
from on_paper.parts import part_of
from on_paper.rules import Work
from torch import nn

N = 1000


@torch.library.custom_op("tests::halves", mutates_args=("changed",))
def halves(x: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError


@halves.register_fake
def _(x: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    return x.new_empty(len(x) // 2)


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    ("call", "launches", "size"),
    [
        (lambda x: x + 1, 1, 8 * N),
        (lambda x: x.add_(1), 1, 8 * N),
        (lambda x: x.zero_(), 1, 4 * N),
        (lambda x: x.copy_(meta(N)), 1, 8 * N),
        (lambda x: torch.add(x, meta(1).expand(N), out=meta(N)), 1, 8 * N + 4),
        (lambda x: x.view(10, -1).t()[2:].expand(3, -1, -1), 0, 0),
        (torch.empty_like, 0, 0),
        (lambda x: x[meta(10, dtype=torch.int64)], 1, 10 * (4 + 4 + 8)),
        (lambda x: torch.empty(N).to("meta"), 1, 4 * N),
        (lambda x: halves(x, meta(N)), 1, 4 * N + 8 * N + 2 * N),
        (lambda x: torch._foreach_mul_([meta(N) for _ in range(220)], 2.0), 2, 220 * 8 * N),
    ],
)  # fmt: skip
def test_inputs_are_read_once_and_outputs_written_once(call, launches, size):
    """In place is both; views are nothing; operators that nobody here knows count as any other."""
    x, counter = meta(N), Counter()
    with counter.phase("forward"):
        call(x)
    total = Work()
    for work in counter.work.values():
        total.add(work)
    assert (total.launches, total.bytes) == (launches, size)


def test_products_are_counted_apart():
    counter = Counter()
    with counter.phase("forward"):
        torch.addmm(meta(7), meta(5, 3), meta(3, 7))
    (work,) = counter.work.values()
    assert work == Work(1, 0, 4 * (7 + 15 + 21 + 35), 2 * 5 * 3 * 7)


def test_the_peak_is_the_most_that_lives_at_one_time():
    counter = Counter()
    x = meta(N)
    counter.hold([x])
    with counter.phase("forward"):
        y = x * 2
        del y
        y = x * 3
        y.view(2, -1)
    assert counter.peaks["forward", ""] == 8 * N
    assert counter.live == 8 * N
    del x, y
    assert counter.live == 0


def test_backward_belongs_to_the_part_that_went_forward():
    """The gradient of torch's own operators, too, of which no code is on the stack."""
    counter = Counter()
    x = meta(N).requires_grad_()
    with counter.phase("forward"):
        y = nn.Dropout(0.5)(x)
    with counter.phase("backward"):
        y.sum().backward()
    parts = {part for part, name in counter.work if name == "mul"}
    assert parts == {"dropout"}
    assert part_of("mul") is None


def test_waits_of_the_host_are_counted():
    counter = Counter()
    with counter.phase("forward"):
        torch.bincount(meta(N, dtype=torch.int64), minlength=4)
        torch.zeros(3).to("meta")
        torch.zeros(3).to("meta", non_blocking=True)
    assert sum(work.waits for work in counter.work.values()) == 3
