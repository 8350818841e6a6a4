"""How many bytes a run needs at its peak, part by part.

With W weights in the layers' matrices, E in embedding and head, T trained weights, N tokens in a batch, M of
them trained on, and for one layer: h its width, q and k those of queries and keys, f that of the MLP (of all
experts that a token passes). `s` is the bytes of a weight that is not quantised (and of the stream between
layers), `c` those of a number in a matrix product.

    weights      4 bits: W x 0.516, see `bytes_per_weight`; else W s; and E s for the rest
    gradients    T x 4 (T s where all is trained)
    optimizer    T x 8 for AdamW in fp32, 2 for its 8-bit form
    activations  N x layers x (what a layer keeps, see `layer_bytes`), or N x layers x h s with recomputation
    and the largest of what passes:
      loss       logits, M x vocabulary x c, twice (their gradient), and 2 x 512 rows in fp32;
                 the 16-bit copies that mixed precision makes of fp32 weights, W c
      layer      gradients of one layer, with recomputation its activations; a matrix out of 4 bits; copies
      step       what the optimiser's step computes beside its state: T s on a GPU

The kept numbers are what autograd saves in the forward of transformers' Llama; a test counts them.
"""

from __future__ import annotations

from dataclasses import dataclass

from xtuner.estimate.shape import Linear, Shape

GB = 1e9
# Rows of logits that the loss has in fp32 at one time.
LOSS_ROWS = 512
# A process that has imported all it needs; on a GPU its context and libraries.
BASE_BYTES = {"cuda": 600_000_000, "cpu": 700_000_000}


@dataclass(frozen=True)
class Training:
    """What of a run decides its memory and its time."""

    tokens: int  # in a batch
    weight_bytes: int = 2  # of a weight that is not quantised
    compute_bytes: int = 2  # of a number in a matrix product
    bits: int = 16  # 4 or 8: the layers' matrices are quantised
    double_quant: bool = True
    rank: int = 0  # of LoRA; 0: all weights are trained
    targets: tuple[str, ...] | None = None  # last words of their names; None: all matrices of the layers
    dropout: bool = True
    state_bytes: int = 8  # of the optimiser, for a trained weight
    recompute: bool = True
    trained_share: float = 1.0  # of the tokens
    device: str = "cuda"

    @property
    def is_full(self) -> bool:
        return self.rank == 0


@dataclass(frozen=True)
class Memory:
    """Bytes of each part; `passing` are never there at the same time."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    passing: dict[str, int]
    base: int

    @property
    def total(self) -> int:
        kept = self.weights + self.adapter + self.gradients + self.optimizer + self.activations
        return kept + max(self.passing.values()) + self.base

    def parts(self) -> dict[str, int]:
        """What the total is the sum of."""
        largest = max(self.passing, key=lambda name: self.passing[name])
        kept = ("weights", "adapter", "gradients", "optimizer", "activations")
        found = {name: getattr(self, name) for name in kept}
        return {**{k: v for k, v in found.items() if v}, largest: self.passing[largest], "process": self.base}


def size_text(size: int) -> str:
    """`9.1 GB`, or `12 MB` where it is less than a tenth of that."""
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / 1e6:.1f} MB"


def estimate(shape: Shape, run: Training) -> Memory:
    """The memory that `run` needs with a model of that shape."""
    trained = adapter_weights(shape, run) or shape.num_weights
    trained_bytes = 4 if not run.is_full else run.weight_bytes
    one_layer = run.tokens * layer_bytes(shape, run)
    stream = run.tokens * shape.hidden * run.weight_bytes
    copies = _copied_bytes(shape, run)
    return Memory(
        weights=weight_bytes(shape, run),
        adapter=0 if run.is_full else trained * 4,
        gradients=trained * trained_bytes,
        optimizer=trained * run.state_bytes,
        activations=shape.layers * (stream if run.recompute else one_layer),
        passing={
            "loss": logits_bytes(shape, run) + copies,
            "layer": (one_layer + copies // shape.layers if run.recompute else copies)
            + _backward_bytes(shape, run),
            "step": trained * trained_bytes if run.device == "cuda" else 0,
        },
        base=BASE_BYTES[run.device],
    )


def bytes_per_weight(run: Training) -> float:
    """Of a weight in the layers' matrices.

    Four bits come with a scale for 64 weights: 32 bits, or with double quantisation 8 bits and a scale of 32
    bits for 256 of those.
    """
    if run.bits == 4:
        return 0.5 + (1 / 64 + 4 / (64 * 256) if run.double_quant else 4 / 64)
    return 1.0 if run.bits == 8 else run.weight_bytes


def weight_bytes(shape: Shape, run: Training) -> int:
    """Of the model as it is loaded."""
    matrices = sum(linear.weights for linear in shape.linears)
    others = shape.embedding + shape.head + shape.rest
    return int(matrices * bytes_per_weight(run) + others * run.weight_bytes)


def _copied_bytes(shape: Shape, run: Training) -> int:
    """Of the copies that mixed precision makes of trained weights, to multiply with."""
    if not run.is_full or run.compute_bytes >= run.weight_bytes:
        return 0
    matrices = sum(linear.weights for linear in shape.linears)
    return (matrices + (shape.head or shape.embedding)) * run.compute_bytes


def adapter_weights(shape: Shape, run: Training) -> int:
    """The weights that LoRA adds: rank x (inputs + outputs) for each matrix."""
    return sum(run.rank * (x.inputs + x.outputs) * x.copies for x in _targets(shape, run))


def _targets(shape: Shape, run: Training) -> list[Linear]:
    if run.is_full:
        return []
    return [linear for linear in shape.linears if run.targets is None or linear.name in run.targets]


def layer_bytes(shape: Shape, run: Training) -> int:
    """What a layer keeps of one token until backward.

    norms       two, each in fp32; where their weights are trained, the normalised values too
    attention   queries and result, keys and values, one number of fp32 for each head
    MLP         gate, its activation, up
    matrices    the inputs of those that are trained; each adapter has its own copy, and a dropout mask
    """
    c = run.compute_bytes
    active = [(x, x.active / shape.layers) for x in shape.linears]
    norms = 2 * shape.hidden * (4 + (run.weight_bytes if run.is_full else 0)) + 2 * 4
    attention = 2 * c * (shape.query + shape.key) + 4 * shape.heads
    mlp_width = sum(x.inputs * share for x, share in active if x.name in ("down_proj", "w2"))
    return int(norms + attention + 3 * c * mlp_width + _inputs_bytes(shape, run))


def _inputs_bytes(shape: Shape, run: Training) -> float:
    """Of the inputs of trained matrices."""
    c, casts = run.compute_bytes, run.compute_bytes < 4
    targets = list(shape.linears) if run.is_full else _targets(shape, run)
    if run.is_full:
        casts = run.compute_bytes < run.weight_bytes
    mask = (1 if run.device == "cuda" else 4) if run.dropout and not run.is_full else 0
    seen: set[str] = set()
    total = 0.0
    for x in targets:
        share = x.active / shape.layers
        source = _SOURCE.get(x.name, x.name)
        if casts or mask or source not in seen:
            total += share * x.inputs * (c + mask)
        seen.add(source)
        total += share * run.rank * c
    return total


# Matrices that read the same numbers.
_SOURCE = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "attention"),
    **dict.fromkeys(("gate_proj", "up_proj", "w1", "w3"), "mlp"),
}


def logits_bytes(shape: Shape, run: Training) -> int:
    """Of the logits at the trained positions, their gradient, and the rows that the loss has in fp32."""
    rows = int(run.tokens * run.trained_share)
    return shape.vocab * (2 * rows * run.compute_bytes + 2 * min(rows, LOSS_ROWS) * 4)


def _backward_bytes(shape: Shape, run: Training) -> int:
    """Of the gradients inside one layer, and of a matrix out of its 4 or 8 bits."""
    widest = max(x.outputs * max(1, x.active // shape.layers) for x in shape.linears)
    gradients = run.tokens * run.compute_bytes * (2 * widest + 2 * shape.hidden)
    matrix = max(x.inputs * x.outputs for x in shape.linears) * run.compute_bytes if run.bits < 16 else 0
    return gradients + matrix
