"""The settings of a run that decide its memory and time, and the tensors that it trains.

Training(tokens=2048, rank=16)          A [16, 4096] and B [4096, 16] of each matrix
Training(tokens=2048, adapter=(...))    those of another adapter (adapters.py)
Training(tokens=2048)                   all weights
Training(tokens=2048, part=Part(2, 2))  those of two layers
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xtuner.devices import NVIDIA
from xtuner.estimate.kv_cache import Sampled
from xtuner.estimate.optimizers import ADAMW, States, state_bytes
from xtuner.estimate.shape import Linear, Shape, Tensors


@dataclass(frozen=True)
class Part:
    """What is trained of a model whose weights do not all train."""

    layers: int  # that train at a time
    passed: int  # that gradients pass: from the first of these to the last of the model
    ends: bool = False  # the last norm, and the head if it has weights of its own
    embedding: bool = False


@dataclass(frozen=True)
class Training:
    """The settings of a run that decide its memory and its time."""

    tokens: int  # in a batch
    batch: int = 1  # sequences in it
    weight_bytes: int = 2  # of a weight that is not quantised
    compute_bytes: int = 2  # of a number in a matrix product
    bits: int = 16  # 4 or 8: the layers' matrices are quantised
    double_quant: bool = True
    rank: int = 0  # of LoRA; 0: full fine-tuning, or an adapter of another type
    # Of another type; (): nothing of the language model is trained.
    adapter: tuple[Tensors, ...] | None = None
    part: Part | None = None  # without an adapter: what is trained, if it is not all
    targets: tuple[str, ...] | None = None  # last words of their names; None: all matrices of the layers
    whole_rank: bool = False  # each expert has the rank, not all together that a token passes
    dropout: bool = True
    states: States = ADAMW  # of the optimiser
    recompute: str = "full"  # of RECOMPUTE
    accumulate: int = 1  # batches in an update
    fused_step: bool = False  # the optimiser's step has no temporary buffers
    trained_share: float = 1.0  # the fraction of supervised tokens
    compiled: bool = False  # torch compiles layers that are not recomputed
    device: str = NVIDIA
    copies: int = 0  # frozen, of all weights: the reference of a method on preferences
    reference_bytes: int = 0  # of another model that is the reference
    image_trained: int = 0  # weights of encoder and projector that are trained
    sampled: Sampled | None = None  # answers, of a run that learns from rewards
    by_trainer: bool = False  # by the Trainer of transformers, whose models give logits of all tokens at once

    @property
    def is_full(self) -> bool:
        """Whether weights of the language model itself are trained."""
        return self.rank == 0 and self.adapter is None

    @property
    def trained_bytes(self) -> int:
        """Bytes of a trained weight, or of its gradient."""
        return self.weight_bytes if self.is_full else 4


def trained_weights(shape: Shape, run: Training) -> int:
    """The number of weights of the language model, or of its adapter, that are trained at a time."""
    return sum(x.weights for x in trained_tensors(shape, run))


def adapter_weights(shape: Shape, run: Training) -> int:
    """The number of weights of the adapter: of LoRA rank x (inputs + outputs) for each matrix."""
    return 0 if run.is_full else trained_weights(shape, run)


def optimizer_bytes(shape: Shape, run: Training, number: int | None = None) -> int:
    """Bytes of the optimiser's states; `number` is that of a trained weight, if it is another there."""
    return state_bytes(run.states, trained_tensors(shape, run), number or run.trained_bytes)


def part_of(shape: Shape, run: Training) -> Part:
    """What is trained of the model itself."""
    if not run.is_full:
        return Part(0, shape.layers)
    return run.part or Part(shape.layers, shape.layers, ends=True, embedding=True)


def trains_head(shape: Shape, run: Training) -> bool:
    """Whether the weights of the head are trained, which may be those of the embedding."""
    part = part_of(shape, run)
    return part.ends if shape.head else part.embedding


def trained_tensors(shape: Shape, run: Training) -> Iterator[Tensors]:
    """The tensors that are trained at a time; norms and biases are joined to some as wide as the model."""
    if run.adapter is not None:
        yield from run.adapter
    elif run.rank:
        for x in targets(shape, run):
            rank = rank_of(x, run) * max(1, x.experts)
            yield Tensors((rank, x.inputs), x.tensors)
            yield Tensors((x.outputs, rank), x.tensors)
    else:
        yield from _own_tensors(shape, part_of(shape, run))


def _own_tensors(shape: Shape, part: Part) -> Iterator[Tensors]:
    for x in shape.linears:
        size = (x.experts, x.outputs, x.inputs) if x.experts else (x.outputs, x.inputs)
        yield Tensors(size, x.tensors * part.layers // shape.layers)
    wide, rest = divmod((shape.rest - shape.hidden) * part.layers // shape.layers, shape.hidden)
    yield Tensors((shape.hidden,), wide + part.ends)
    yield Tensors((rest,))
    if part.ends and shape.head:
        yield Tensors((shape.vocab, shape.hidden), outside=True)
    if part.embedding:
        yield Tensors((shape.vocab, shape.hidden), outside=True)


def rank_of(linear: Linear, run: Training) -> int:
    """The rank of each copy's adapter; 0 of another type than LoRA."""
    if not run.rank:
        return 0
    return run.rank if run.whole_rank else linear.rank(run.rank)


# Names in configs of the matrices of packed experts.
_OWN_NAMES = {"gate_up_proj": {"gate_proj", "up_proj", "w1", "w3"}, "down_proj": {"w2"}}


def targets(shape: Shape, run: Training) -> list[Linear]:
    """The matrices that have an adapter."""
    if run.is_full:
        return []
    named = None if run.targets is None else set(run.targets)
    return [
        x
        for x in shape.linears
        if named is None or x.name in named or (x.experts and named & _OWN_NAMES[x.name])
    ]
