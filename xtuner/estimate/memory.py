"""The peak memory of a run in bytes, part by part.

W weights in the layers' matrices, E in embedding and head, T trainable parameters. `s` is the bytes of a
weight that is not quantised (and of a number of the residual stream), `c` of a number in a matrix product.

    always       weights      4 bits: W x 0.516, see `bytes_per_weight`; else W s; and E s for the rest,
                              without the embedding if it is on the host
                 adapter      T x 4
                 optimizer    T x 8 for AdamW in fp32, 2 for its 8-bit form
                 process      the interpreter and its libraries, see BASE_BYTES
    and the phase of the run that needs most:
      loading    on a CPU, files whose weights are converted
      loss       activations, and the logits of a block of rows with their gradient
      layer      activations, and the buffers of a layer's backward pass: with recomputation that layer's
                 activations, gradients as wide as the MLP, a matrix out of 4 bits
      last layer gradients of all layers, and the same of a layer
      embedding  gradients of all, and that of its output
      step       gradients of all, and temporary buffers of the optimiser's step
      sampling   the KV cache of answers, where they are sampled for rewards

`layer_bytes` are the tensors that a layer saves for backward: by xtuner/model/fused for families with fused
layers, by autograd in transformers' layers for others. A test counts them.

tests/estimate/test_live.py counts the phases tensor by tensor. On a CPU the total is the resident set of the
process, checked against runs by benchmarks/memory.py. On a GPU it is the memory that PyTorch allocates and
its context: the same formulas, not measured there, and the allocator's part is assumed. Other accelerators
have the numbers of an NVIDIA GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from xtuner.blocks import RECOMPUTE, SOFTMAX_PART, TILE, cpu_or_gpu, loss_block
from xtuner.devices import NVIDIA, kind_of
from xtuner.estimate.kv_cache import cache_bytes
from xtuner.estimate.optimizers import bytes_of_large
from xtuner.estimate.shape import Linear, Shape
from xtuner.estimate.training import (
    Training,
    optimizer_bytes,
    part_of,
    rank_of,
    targets,
    trained_weights,
    trains_head,
)
from xtuner.families import Fused, family_of

GB = 1e9
# A process before its model, measured: interpreter and imports; on a GPU its context and libraries.
BASE_BYTES = {"gpu": 600_000_000, "cpu": 409_000_000}
# peft, and bitsandbytes that it imports.
ADAPTER_BASE_BYTES = {"gpu": 0, "cpu": 57_000_000}
# What training adds on a CPU: code that runs for the first time, kernels that oneDNN compiles for each shape,
# and what malloc has free. RESULTS.md's runs have 75 to 200 MB of it, whatever the size of their model; one
# that makes next to nothing has next to nothing of it.
RUN_BYTES = {"gpu": 0, "cpu": 140_000_000}
# Unused memory of the caching allocator, as a fraction of the memory of a phase. Assumed.
ALLOCATOR = {"gpu": 0.05, "cpu": 0.0}


@dataclass(frozen=True)
class Memory:
    """Bytes of each part: the permanent ones, and those of each phase of the run."""

    kept: dict[str, int]
    moments: dict[str, dict[str, int]]

    @property
    def total(self) -> int:
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """The parts of the total: those of the phase that needs most."""
        most = max(self.moments.values(), key=lambda parts: sum(parts.values()))
        return {name: size for name, size in {**self.kept, **most}.items() if size}


def ways_on(device: str) -> tuple[str, ...]:
    """The ways to recompute that save memory on a device of that kind."""
    return RECOMPUTE if kind_of(device).has_own_memory else RECOMPUTE[:-1]


def size_text(size: int) -> str:
    """`9.1 GB`, or `12 MB` if it is less than a tenth of a GB."""
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / 1e6:.1f} MB"


def estimate(shape: Shape, run: Training) -> Memory:
    """The memory that `run` needs with a model of that shape."""
    trained, part = trained_weights(shape, run), part_of(shape, run)
    gradients = trained * run.trained_bytes
    before = gradients if run.accumulate > 1 else 0
    one_layer = run.tokens * layer_bytes(shape, run) + _copied_bytes(shape, run)
    activations, again = _activation_bytes(shape, run, one_layer)
    making = again + _backward_bytes(shape, run)
    head = shape.vocab * shape.hidden * run.weight_bytes if trains_head(shape, run) else 0
    # A new gradient is complete before it is added to that of the batch before.
    added = head if before else 0
    # Within autocast the copies of all weights are kept until the forward pass is over; those of layers that
    # are not made again are among the activations.
    copies = _copied_bytes(shape, run) * _made_again(shape, run) if run.is_full else 0
    # The gradient of the embedding, if it is not the head's too, comes after those of all layers.
    embedding = shape.embedding * run.weight_bytes if part.embedding and shape.head and not before else 0
    stream = run.tokens * shape.hidden * run.weight_bytes
    moments = {
        "loss": {
            "gradients": before,
            "activations": activations,
            "loss": loss_bytes(shape, run) + copies,
        },
        "layer": {"gradients": max(before, head), "activations": activations, "layer": making},
        "last layer": {"gradients": gradients - embedding, "layer": max(making, added)},
        "embedding": {"gradients": gradients, "layer": 2 * stream if part.embedding else 0},
        "step": {"gradients": gradients, "step": _step_bytes(shape, run)},
    }
    kept = {
        "weights": weight_bytes(shape, run) - host_bytes(shape, run),
        "reference": run.copies * weight_bytes(shape, run) + run.reference_bytes,
        "adapter": 0 if run.is_full else trained * 4,
        "optimizer": optimizer_bytes(shape, run),
        # Of those that are trained also gradients and the optimiser's state.
        "images": (shape.encoder + shape.projector) * run.weight_bytes
        + int(run.image_trained * (run.weight_bytes + bytes_of_large(run.states, run.weight_bytes))),
    }
    # What lies in the host's memory counts where the device has no other.
    where = "gpu" if kind_of(run.device).has_own_memory else "cpu"
    base = BASE_BYTES[where] + (0 if run.is_full else ADAPTER_BASE_BYTES[where])
    place = cpu_or_gpu(run.device)
    run_bytes = min(RUN_BYTES[place], 2 * max(sum(moment.values()) for moment in moments.values()))
    kept["process"] = base + run_bytes
    # While the model is loaded there is no adapter yet, let alone its optimiser's state.
    later = kept["adapter"] + kept["optimizer"] + run_bytes
    if cache := sampling_bytes(shape, run):
        moments["sampling"] = {"KV cache": cache}
    if mapped := mapped_bytes(shape, run):
        moments["loading"] = {"mapped file": max(0, mapped - later)}
    for moment in moments.values():
        grows = ("activations", "layer", "KV cache")
        made = sum(moment.values()) if run.is_full else sum(moment.get(name, 0) for name in grows)
        moment["allocator"] = int(ALLOCATOR[place] * made)
    return Memory(kept, moments)


def sampling_bytes(shape: Shape, run: Training) -> int:
    """Bytes of the KV cache of the answers that are sampled at a time."""
    if run.sampled is None:
        return 0
    return cache_bytes(shape.cached, run.sampled, run.weight_bytes, run.compute_bytes)


def _activation_bytes(shape: Shape, run: Training, one_layer: int) -> tuple[int, int]:
    """Bytes that all layers save for backward, and that a layer recomputes there."""
    part = part_of(shape, run)
    stream = run.tokens * shape.hidden * run.weight_bytes
    # A frozen layer that gradients pass does not save the inputs of its matrices.
    frozen = int(run.tokens * _inputs_bytes(shape, run)) if run.is_full else 0
    saved = one_layer - frozen * (part.passed - part.layers) // max(1, part.passed) if frozen else one_layer
    if run.recompute == "none":
        return part.passed * saved, 0
    if run.recompute == "selective":
        made_again = _made_again(shape, run)
        # The last layer is recomputed beside all others; earlier ones replace a finished one.
        again = one_layer if part.passed % 2 else 0
        return made_again * stream + (part.passed - made_again) * saved, again
    kept = part.passed * stream
    # Of layer inputs on the host, only the one being loaded back needs memory of the device.
    return (stream if run.recompute == "offload" and kind_of(run.device).has_own_memory else kept), one_layer


def _made_again(shape: Shape, run: Training) -> int:
    """How many layers are made again in backward: of those that gradients pass."""
    passed = part_of(shape, run).passed
    return {"none": 0, "selective": (passed + 1) // 2}.get(run.recompute, passed)


def bytes_per_weight(run: Training) -> float:
    """Bytes of a weight in the layers' matrices.

    Four bits come with a scale for 64 weights: 32 bits, or with double quantisation 8 bits and a scale of 32
    bits for 256 of those.
    """
    if run.bits == 4:
        return 0.5 + (1 / 64 + 4 / (64 * 256) if run.double_quant else 4 / 64)
    return 1.0 if run.bits == 8 else run.weight_bytes


def weight_bytes(shape: Shape, run: Training) -> int:
    """Bytes of the loaded model."""
    others = shape.embedding + shape.head + shape.rest
    return matrix_bytes(shape, run) + others * run.weight_bytes


def matrix_bytes(shape: Shape, run: Training) -> int:
    """Bytes of the layers' matrices; packed experts are not quantised, as bitsandbytes replaces modules."""
    packed = sum(linear.weights for linear in shape.linears if linear.experts)
    return int(quantised_weights(shape) * bytes_per_weight(run)) + packed * run.weight_bytes


def quantised_weights(shape: Shape) -> int:
    """The number of weights in matrices that are separate modules."""
    return sum(linear.weights for linear in shape.linears if not linear.experts)


def host_bytes(shape: Shape, run: Training) -> int:
    """Bytes of weights offloaded to a GPU's host: a frozen embedding that is not tied to the head."""
    is_offloaded = run.recompute == "offload" and kind_of(run.device).has_own_memory
    if not is_offloaded or run.is_full or not shape.head:
        return 0
    return shape.embedding * run.weight_bytes


def mapped_bytes(shape: Shape, run: Training) -> int:
    """Bytes of files that are mapped while their weights are converted, on a CPU.

    Weights that are not converted need no further memory. The system may reclaim pages of files.
    """
    stored = 4 if shape.dtype.endswith("float32") else 2
    same = run.bits == 16 and stored == run.weight_bytes
    return 0 if same or run.device != "cpu" else stored * shape.num_weights


def _copied_bytes(shape: Shape, run: Training) -> int:
    """Bytes of the copies of trainable parameters that a layer makes for matrix products."""
    if run.is_full:
        casts = run.compute_bytes < run.weight_bytes
        matrices = sum(linear.weights for linear in shape.linears)
        return casts * matrices * run.compute_bytes // shape.layers
    return trained_weights(shape, run) * run.compute_bytes // shape.layers


def layer_bytes(shape: Shape, run: Training) -> int:
    """Bytes that a layer saves for backward, per token.

    norms       two, the stream before each and a number of fp32; of other families in fp32 and normalised too
    attention   queries, keys, values; on a GPU the result and one number of fp32 for each head, on mps also
                the scores; queries and keys before their norms, of other families in fp32
    MLP         gate, up; of other families the activation too; nothing where it runs by tiles
    experts     what comes out of each, before the router's weights
    matrices    the inputs of those that are trained, once for those that share them; rank numbers of each
                adapter; where torch compiles the layers each has its own copy, and a dropout mask
    """
    c, h = run.compute_bytes, shape.hidden
    fused = _fused(shape, run)
    norms = 2 * h * run.weight_bytes + 8
    if fused is None or fused.norm is None:
        norms = 2 * h * (4 + (run.weight_bytes if run.is_full else 0)) + 8
    attention = c * (shape.query + 2 * shape.key)
    if run.device != "cpu":
        attention += c * shape.query + 4 * shape.heads
    if kind_of(run.device).holds_scores:
        attention += c * shape.heads * (run.tokens // run.batch)
    if shape.head_norms:
        width = c if fused is not None and fused.norm is not None else 4 + (c if run.is_full else 0)
        attention += width * (shape.query + shape.key)
    mlp = 0 if _in_tiles(shape, run) else (3 if fused is None else 2) * c * _mlp_width(shape)
    mlp += sum(
        c * x.outputs * x.active / shape.layers for x in shape.linears if x.experts and x.role == _DOWN
    )
    return int(norms + attention + mlp + _inputs_bytes(shape, run))


def _fused(shape: Shape, run: Training) -> Fused | None:
    """The fused functions of layers that are not recomputed; None for compiled ones."""
    return None if _is_compiled(run) else family_of({"model_type": shape.family}).fused


def _has_kernels(shape: Shape, run: Training) -> bool:
    """Whether gate and up are multiplied, and their gradients made, by a kernel of XTuner's."""
    fused = _fused(shape, run)
    return run.device == NVIDIA and fused is not None and fused.mlp is not None


def _is_compiled(run: Training) -> bool:
    return run.compiled and run.recompute in ("none", "selective")


def _mlp_width(shape: Shape) -> float:
    return sum(x.inputs * x.active / shape.layers for x in shape.linears if x.role == _DOWN)


_DOWN = "down_proj"


def _inputs_bytes(shape: Shape, run: Training) -> float:
    """Bytes of the inputs of trained matrices; adapters are fused in every family, unless compiled."""
    c = run.compute_bytes
    trained = list(shape.linears) if run.is_full else targets(shape, run)
    mask = 1 if run.dropout and not run.is_full and _is_compiled(run) else 0
    seen: set[str] = set()
    total = 0.0
    for x in trained:
        share = x.active / shape.layers
        source = x.block + _SOURCE.get(x.role, x.role)
        known = source in seen or (source == "o_proj" and run.device != "cpu")
        known = known or (_is_one_mlp(shape, run) and x.role == _DOWN)  # recomputed in backward
        dropped = mask if not x.experts else 0
        if not known or dropped:
            total += share * x.inputs * (c + dropped)
        seen.add(source)
        total += share * rank_of(x, run) * c
    return total


# Matrices with the same input.
_SOURCE = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "attention"),
    **dict.fromkeys(("gate_proj", "up_proj", "gate_up_proj"), "mlp"),
}


def _is_one_mlp(shape: Shape, run: Training) -> bool:
    """Whether gate, up and down run as one function, with an adapter each."""
    fused, names = _fused(shape, run), {x.name for x in targets(shape, run)}
    return fused is not None and names.issuperset(fused.gated)


def _in_tiles(shape: Shape, run: Training) -> bool:
    return run.recompute == "offload" and run.tokens > TILE and _is_one_mlp(shape, run)


def loss_bytes(shape: Shape, run: Training) -> int:
    """Bytes of the last norm, the chosen rows and their gradient, and of a block of logits at its peak.

    softmax     a part of the block, in fp32 where logits are not, and its probabilities
    rows        the block's gradient as rows of the stream
    head        if it is trained: the block's gradient, once more in the head's precision
    """
    c, rows = run.compute_bytes, int(run.tokens * run.trained_share)
    block = rows if run.by_trainer else loss_block(rows, shape.vocab, run.device)
    part = min(block * shape.vocab * 4, SOFTMAX_PART[cpu_or_gpu(run.device)])
    casts = c < run.weight_bytes
    stream = run.tokens * shape.hidden * (run.weight_bytes + c) + 2 * rows * shape.hidden * c
    head = shape.vocab * shape.hidden
    largest = max((1 if c == 4 else 2) * part, block * shape.hidden * c)
    if trains_head(shape, run) and rows > block:  # the sum of the blocks before, and the next
        stream += head * run.weight_bytes
        largest = max(largest, head * c)
    elif trains_head(shape, run):
        largest = max(largest, head * (c + run.weight_bytes * casts))
    # Of a block the gradient replaces the logits; the model's own logits stay.
    logits = block * shape.vocab * c * (2 if run.by_trainer else 1)
    return int(stream + logits + block * shape.hidden * c + head * c * casts + largest)


def _backward_bytes(shape: Shape, run: Training) -> int:
    """Bytes of the gradients inside one layer, and of a matrix: dequantised, or its gradient.

    The peak is either in the MLP, four as wide as it is (three in XTuner's kernels; in tiles, with its gate
    and up), or in a norm, three of the stream in fp32.
    """
    c = run.compute_bytes
    widest = max(_width(x) * max(1, x.active // shape.layers) for x in shape.linears)
    mlp = run.tokens * c * (3 * widest if _has_kernels(shape, run) else shape.hidden + 4 * widest)
    if _in_tiles(shape, run):
        mlp = run.tokens * c * 2 * shape.hidden + TILE * c * 6 * widest
    gradients = max(mlp, run.tokens * shape.hidden * (c + 12))
    whole = [x.tensor_weights for x in shape.linears if run.is_full or (run.bits < 16 and not x.experts)]
    return gradients + max(whole, default=0) * c


def _width(linear: Linear) -> int:
    """The width of a matrix's output; gate and up of packed experts count separately."""
    return linear.outputs // 2 if linear.experts and linear.role != _DOWN else linear.outputs


def _step_bytes(shape: Shape, run: Training) -> int:
    if run.fused_step:
        return 0
    if run.device != "cpu":  # all weights at once
        return trained_weights(shape, run) * run.trained_bytes
    largest = max(x.tensor_weights for x in shape.linears)
    if run.is_full:
        return 2 * run.trained_bytes * max(largest, shape.embedding * part_of(shape, run).embedding)
    return 2 * run.trained_bytes * (largest // 8)
