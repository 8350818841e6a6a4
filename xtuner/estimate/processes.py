"""Memory, traffic and waiting time of each of many processes, by the way they divide a model.

    T trainable parameters, W all, n processes, a batches in an update; `t` bytes of a trainable parameter,
    `g` of a number that is sent

                held by a process                          sent by it in an update, x (n - 1) / n
    ddp         all; gradients too, from start to end      2 T t
    fsdp        1/n; whole: two layers, embedding, head    a (2 W g, embedding and head once; T x 4)
    zero1       1/n of the optimiser                       2 T t + T t
    zero2       and of gradients                           a 2 T t + T t
    zero3       and of weights; whole: 10^9 of them        a (2 W t + T t)
    offload     what is divided is in the host's memory    as above; a part of T and W to the host and back
    sequence parallelism of P: activations of 1/P of the tokens; queries, keys, values and results of each
    layer are sent, (P - 1) / P of them, forward, on recomputation, and backward

The memory follows ZeRO (Rajbhandari et al. 2019, arXiv 1910.02054), what sequence parallelism sends Ulysses
(Jacobs et al. 2023, arXiv 2309.14509), both as engine/backend.py, DeepSpeed 0.19 and
parallel/sequence do it: tests count the bytes of two processes. A sum of B bytes over n processes sends
2 (n - 1) / n B, a gather or a scattered sum half of it: what rings need, and nccl uses.

Assumed, not measured: the rates of `Cluster`, and that the time a message takes beyond its bytes and
processes that are slower than others cost nothing. Scaling lies between two ends: where nothing that is sent
overlaps with arithmetic, and where all does that can.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from xtuner.estimate.memory import (
    Memory,
    bytes_per_weight,
    estimate,
    host_bytes,
    matrix_bytes,
    quantised_weights,
    weight_bytes,
)
from xtuner.estimate.shape import Linear, Shape
from xtuner.estimate.speed import REACHED, flops_per_token, passes_of
from xtuner.estimate.training import (
    Training,
    optimizer_bytes,
    part_of,
    rank_of,
    targets,
    trained_weights,
    trains_head,
)
from xtuner.language import translate

BACKENDS = ("ddp", "fsdp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
# DeepSpeed's defaults: numbers in a bucket of gradients, and of weights that are whole at one time.
BUCKET = 500_000_000
LIVE_WEIGHTS = 1_000_000_000
# Bytes that AdamW on the host reads and writes for a weight: gradient, weight and two states in fp32, and the
# copy.
HOST_STEP_BYTES = 30


@dataclass(frozen=True)
class Division:
    """The number of processes, and how they divide the model."""

    backend: str = "ddp"
    processes: int = 1
    per_node: int = 8
    sequence: int = 1  # sequence_parallel_size

    @property
    def stage(self) -> int:
        """The stage of ZeRO, 0 without ZeRO."""
        return int(self.backend[4]) if self.backend.startswith("zero") else 0

    @property
    def offloads(self) -> bool:
        return self.backend.endswith("offload")

    @property
    def is_alone(self) -> bool:
        return self.processes == 1

    @property
    def text(self) -> str:
        """`fsdp`, or `fsdp with rows shared by 2`."""
        more = translate(" with rows shared by {count}", count=self.sequence)
        return self.backend + (more if self.sequence > 1 else "")


ALONE = Division()


@dataclass(frozen=True)
class Cluster:
    """The resources of a process: rates per second, in each direction."""

    card: str = "H200"
    links: str = "NVLink, 8 x 400 Gb/s between machines"
    operations: float = 989e12  # in 16 bits, by its maker
    reached: float = REACHED  # the fraction of them that is reached
    inside: float = 360e9  # bytes between GPUs of a machine: 80 % of NVLink's 450
    between: float = 320e9  # bytes between machines, for all of its GPUs: 80 % of 8 x 400 Gb/s
    host: float = 50e9  # bytes between a GPU and its host: 80 % of PCIe 5.0 x16
    host_memory: float = 300e9  # bytes of a machine's memory, shared by its processes
    memory: int = 141_000_000_000

    @property
    def name(self) -> str:
        return f"{self.card}, {self.links}"


@dataclass(frozen=True)
class ProcessMemory:
    """The memory of the process that needs most: on device, on host, and while the model is loaded."""

    device: Memory
    host: int
    loading: int

    @property
    def needs(self) -> int:
        """The memory that the device must have."""
        return max(self.device.total, self.loading)


@dataclass(frozen=True)
class Sent:
    """Bytes that a process sends in an update, and the work that they overlap with."""

    what: str
    size: int
    over: str  # all, sequence, host
    behind: str = ""  # backward (of the last batch), backwards, batches


@dataclass(frozen=True)
class Scaling:
    """Seconds of an update in which a process computes, waits at least, and waits at most."""

    computing: float
    waiting: float
    sending: float

    @property
    def best(self) -> float:
        """The fraction of time spent computing if all that can overlap does."""
        return self.computing / (self.computing + self.waiting)

    @property
    def worst(self) -> float:
        """The same if nothing overlaps."""
        return self.computing / (self.computing + self.sending)

    @property
    def text(self) -> str:
        """`77-100 %`."""
        worst, best = f"{100 * self.worst:.0f}", f"{100 * self.best:.0f}"
        return f"{best} %" if worst == best else f"{worst}-{best} %"


def process_memory(shape: Shape, run: Training, division: Division) -> ProcessMemory:
    """The memory of one process for `run`; it reads a batch alone, or with its sequence-parallel group."""
    # FSDP's read their own parts alone, unless weights are quantised, which is done to whole ones.
    reads_part = division.backend == "fsdp" and run.bits == 16
    loading = 0 if reads_part else weight_bytes(shape, run)
    if division.is_alone:
        return ProcessMemory(estimate(shape, run), host_bytes(shape, run), loading)
    run = replace(run, tokens=-(-run.tokens // division.sequence))
    host = host_bytes(shape, run)
    if division.stage:
        found, divided = _zero_memory(shape, run, division)
        host += divided
    elif division.backend == "fsdp":
        found = _fsdp_memory(shape, run, division.processes)
    else:
        found = _ddp_memory(shape, run)
    return ProcessMemory(found, host, loading)


def _ddp_memory(shape: Shape, run: Training) -> Memory:
    """With DDP the gradients are its buckets, which exist from the start."""
    found = estimate(shape, run)
    gradients = trained_weights(shape, run) * run.trained_bytes
    return _with(found, {}, {name: {"gradients": gradients} for name in found.moments if name != "loading"})


def _fsdp_memory(shape: Shape, run: Training, n: int) -> Memory:
    alone = estimate(shape, run)
    part = local_weights(shape, run, n)
    trained, all_trained = part["trained"], max(1, trained_weights(shape, run))
    gradient = trained * run.trained_bytes
    before = gradient if run.accumulate > 1 else 0
    # Parameters outside of layers, and their gradients, are whole until the end of the backward pass.
    outside = _outside_bytes(shape, run)
    layer = _travelling(shape, run) // shape.layers
    gathered = outside * (1 + run.copies) + 2 * layer
    head = shape.vocab * shape.hidden * run.weight_bytes if trains_head(shape, run) else 0
    whole = _trained_outside(shape, run) * run.weight_bytes
    trained_layer = _trained_in_layers(shape, run) // (part_of(shape, run).layers or shape.layers)
    # Of a layer: the gradient as it is made, and in fp32 as it is sent.
    summed = trained_layer * ((run.compute_bytes if run.is_full else 4) + 4)
    changes = {
        "loss": {"gradients": before, "gathered": gathered},
        "layer": {"gradients": before + head + summed, "gathered": gathered},
        "last layer": {"gradients": gradient + whole + max(summed, whole), "gathered": gathered},
        "embedding": {"gradients": gradient + 2 * whole, "gathered": gathered},
        "step": {
            "gradients": gradient,
            "step": alone.moments["step"].get("step", 0) * trained // all_trained,
        },
    }
    if run.sampled is not None:  # with the whole weights
        changes["sampling"] = {"gathered": outside + _travelling(shape, run)}
    for name, size in _copies(shape, run).items():
        moment, _, kind = name.rpartition("/")
        changes[moment][kind] = alone.moments[moment].get(kind, 0) - size
    weights = part["frozen bytes"] + (gradient if run.is_full else 0)
    kept = {name: -(-alone.kept[name] // n) for name in ("reference", "images")}
    kept |= {"weights": weights, "optimizer": optimizer_bytes(shape, run) * trained // all_trained}
    return _with(alone, kept if run.is_full else {**kept, "adapter": gradient}, changes)


def _copies(shape: Shape, run: Training) -> dict[str, int]:
    """Bytes that only a single process needs: 16-bit copies of weights; FSDP gathers layers instead."""
    if not run.is_full or run.compute_bytes >= run.weight_bytes:
        return {}
    passed = part_of(shape, run).passed
    layer = sum(x.weights for x in shape.linears) * run.compute_bytes // shape.layers
    copies = layer * passed
    if run.recompute == "none":
        return {f"{moment}/activations": copies for moment in ("loss", "layer")}
    kept = passed // 2 * layer if run.recompute == "selective" else 0
    found = {"loss/loss": copies - kept, "layer/layer": layer}
    return found | {f"{moment}/activations": kept for moment in ("loss", "layer") if kept}


def _zero_memory(shape: Shape, run: Training, division: Division) -> tuple[Memory, int]:
    """Memory on device and host; weights have the precision of the arithmetic, updated ones fp32."""
    n, stage = division.processes, division.stage
    # Stage 3 runs the original layers, not fused ones.
    seen = replace(shape, family="") if stage == 3 else shape
    run = replace(run, weight_bytes=min(run.weight_bytes, run.compute_bytes))
    alone = estimate(seen, run)
    trained, wide = trained_weights(shape, run), _zero_bytes(run)
    part = -(-trained // n)
    # The states are of weights in fp32.
    states = optimizer_bytes(shape, run, 4) * part // max(1, trained)
    bucket = min(trained, BUCKET) * wide * (1 if stage == 3 else 2)
    gradient = trained * wide if stage == 1 else part * wide
    on_host = division.offloads
    kept = {
        "weights": alone.kept["weights"],
        "adapter": 0 if run.is_full else trained * wide,
        "fp32 weights": 0 if on_host else part * 4,
        "optimizer": 0 if on_host else states,
    }
    host = part * (4 + 4) + states if on_host else 0
    gathered = 0
    if stage == 3:
        whole = kept["weights"] + kept["adapter"]
        gathered = min(whole, LIVE_WEIGHTS * wide)
        scales = _scales(shape, run)
        share = -(-(kept["weights"] - scales) // n)
        adapter = -(-kept["adapter"] // n)
        host += (share + adapter) * on_host
        kept |= {"weights": scales + share * (not on_host), "adapter": adapter * (not on_host)}
        for name in ("reference", "images"):
            own = -(-alone.kept[name] // n)
            host += own * on_host
            kept[name] = own * (not on_host)
    gradient = 0 if on_host else gradient
    before = gradient if run.accumulate > 1 else 0
    step = 0 if on_host else part * 4 * (1 if run.fused_step else 2)
    return _with(
        alone,
        kept,
        {
            "loss": {"gradients": before, "gathered": gathered},
            "layer": {"gradients": gradient, "buckets": bucket, "gathered": gathered},
            "last layer": {"gradients": gradient, "buckets": bucket, "gathered": gathered},
            "embedding": {"gradients": gradient, "buckets": bucket, "gathered": gathered},
            "step": {"gradients": gradient, "step": step},
        },
    ), host


def _with(found: Memory, kept: dict[str, int], changes: dict[str, dict[str, int]]) -> Memory:
    """`found` with other sizes; the unused memory of the allocator changes in proportion."""
    moments = {}
    for name, moment in found.moments.items():
        new = {**moment, **changes.get(name, {})}
        free = new.pop("allocator", 0)
        before = sum(moment.values()) - free
        moments[name] = {**new, "allocator": free * sum(new.values()) // before if before else free}
    return Memory({**found.kept, **kept}, moments)


def local_weights(shape: Shape, run: Training, n: int) -> dict[str, int]:
    """The part of the first process with FSDP: `trained` weights, `frozen bytes`.

    Tensors are cut along their rows; the first process has the rows that are left over, and all scales of
    quantised matrices.
    """
    tables = 2 if shape.head and not host_bytes(shape, run) else 1
    others = -(-shape.vocab // n) * shape.hidden * tables + -(-shape.rest // n)
    matrices = sum(_rows(x, n) for x in shape.linears if not x.experts)
    packed = sum(_rows(x, n) for x in shape.linears if x.experts)
    if run.is_full and run.part is None:
        return {"trained": matrices + packed + others, "frozen bytes": 0}
    if run.is_full:
        trained = trained_weights(shape, run)
        frozen = (shape.num_weights - trained) * run.weight_bytes
        return {"trained": -(-trained // n), "frozen bytes": -(-frozen // n)}
    codes = quantised_weights(shape) * run.bits // 8 if run.bits < 16 else 0
    frozen = _scales(shape, run) + -(-codes // n) if codes else matrices * run.weight_bytes
    trained = sum(_adapter_rows(x, rank_of(x, run), n) for x in targets(shape, run))
    if run.adapter is not None:
        trained = -(-trained_weights(shape, run) // n)
    return {"trained": trained, "frozen bytes": frozen + (packed + others) * run.weight_bytes}


def _rows(linear: Linear, n: int) -> int:
    """The weights of all copies of a matrix on the first of `n` processes: whole experts if packed."""
    if linear.experts:
        return -(-linear.experts // n) * linear.inputs * linear.outputs * linear.tensors
    return -(-linear.outputs // n) * linear.inputs * linear.copies


def _adapter_rows(linear: Linear, rank: int, n: int) -> int:
    """The same of its adapters: of experts A `[experts x rank, in]` and B `[out, experts x rank]`."""
    rank *= max(1, linear.experts)
    return (-(-rank // n) * linear.inputs + -(-linear.outputs // n) * rank) * linear.tensors


def traffic(shape: Shape, run: Training, division: Division) -> list[Sent]:
    """The bytes that a process sends in an update."""
    n, times = division.processes, run.accumulate
    ring = (n - 1) / n
    trained = trained_weights(shape, run)
    found: list[Sent] = []
    if division.backend == "ddp":
        size = 2 * ring * trained * run.trained_bytes
        found.append(Sent("sum of gradients", int(size), "all", "backward"))
    elif division.backend == "fsdp":
        weights = _outside_bytes(shape, run) + 2 * _travelling(shape, run)
        found.append(Sent("weights", int(times * ring * weights), "all", "batches"))
        found.append(Sent("sums of gradients", int(times * ring * trained * 4), "all", "batches"))
    else:
        found += _zero_traffic(shape, run, division)
    if division.sequence > 1:
        found.append(Sent("attention", times * _attention_bytes(shape, run, division.sequence), "sequence"))
    return found


def _zero_traffic(shape: Shape, run: Training, division: Division) -> list[Sent]:
    n, times, stage = division.processes, run.accumulate, division.stage
    ring = (n - 1) / n
    gradient = trained_weights(shape, run) * _zero_bytes(run)
    if stage == 3:
        narrow = replace(run, weight_bytes=min(run.weight_bytes, run.compute_bytes))
        frozen = weight_bytes(shape, narrow) - host_bytes(shape, narrow) - _scales(shape, narrow)
        weights = frozen + (0 if run.is_full else gradient)
        found = [
            Sent("weights", int(times * 2 * ring * weights), "all", "batches"),
            Sent("sums of gradients", int(times * ring * gradient), "all", "batches"),
        ]
        moved = 2 * times * weights // n
    else:
        sums = 1 if stage == 1 else times
        behind = "backward" if stage == 1 else "backwards"
        found = [
            Sent("sums of gradients", int(sums * 2 * ring * gradient), "all", behind),
            Sent("new weights", int(ring * gradient), "all"),
        ]
        moved = gradient // n
    if division.offloads:
        found.append(Sent("to the host and back", moved + times * gradient // n, "host"))
    return found


def _attention_bytes(shape: Shape, run: Training, size: int) -> int:
    """Bytes of queries, keys and values sent, and results sent back, for all layers of a batch."""
    width = shape.query // shape.heads
    heads = shape.key // width
    repeated = size // _gcd(size, heads)
    numbers = 2 * shape.query + 2 * shape.key * repeated
    again = {"none": 0.0, "selective": (shape.layers + 1) // 2 / shape.layers}.get(run.recompute, 1.0)
    tokens = -(-run.tokens // size)
    return int((2 + again) * shape.layers * tokens * numbers * run.compute_bytes * (size - 1) / size)


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


def scaling(shape: Shape, run: Training, division: Division, cluster: Cluster) -> Scaling:
    """The time of an update, and the part of it that a process waits for others."""
    length = min(run.tokens // run.batch, 2048)
    batch = run.tokens * flops_per_token(shape, run, length) / division.sequence
    batch /= cluster.operations * cluster.reached
    computing = batch * run.accumulate
    again = {"none": 0.0, "selective": 0.5}.get(run.recompute, 1.0)
    passes = passes_of(shape, run) + again
    backward = batch * (passes - 1) / passes
    hides = {
        "backward": backward,
        "backwards": backward * run.accumulate,
        "batches": computing,
        "": 0.0,
    }
    times = dict.fromkeys(hides, 0.0)
    for sent in traffic(shape, run, division):
        times[sent.behind] += sent.size / _rate(sent.over, division, cluster)
    if division.offloads:
        step = trained_weights(shape, run) / division.processes * HOST_STEP_BYTES
        times[""] += step * min(division.per_node, division.processes) / cluster.host_memory
    waiting = sum(max(0.0, time - hides[behind]) for behind, time in times.items())
    return Scaling(computing, waiting, sum(times.values()))


def _rate(over: str, division: Division, cluster: Cluster) -> float:
    if over == "host":
        return cluster.host
    if over == "sequence":
        inside = division.per_node % division.sequence == 0
        return cluster.inside if inside else cluster.between / division.per_node
    # Each ring passes a machine once, by a separate link and with a part of the bytes.
    return cluster.inside if division.processes <= division.per_node else min(cluster.inside, cluster.between)


def _zero_bytes(run: Training) -> int:
    """Bytes of a trainable parameter, or of its gradient, with DeepSpeed."""
    return min(run.weight_bytes, run.compute_bytes) if run.is_full else run.compute_bytes


def _outside(shape: Shape) -> int:
    """Weights outside of layers: embedding, head, the last norm."""
    return shape.embedding + shape.head + shape.hidden


def _outside_bytes(shape: Shape, run: Training) -> int:
    return _outside(shape) * run.weight_bytes - host_bytes(shape, run)


def _trained_outside(shape: Shape, run: Training) -> int:
    """Trained weights outside of layers, of the model itself."""
    part = part_of(shape, run)
    return part.embedding * shape.embedding + part.ends * (shape.head + shape.hidden)


def _trained_in_layers(shape: Shape, run: Training) -> int:
    return trained_weights(shape, run) - _trained_outside(shape, run)


def _travelling(shape: Shape, run: Training) -> int:
    """Bytes of all layers as FSDP gathers them."""
    if run.is_full:
        trained = _trained_in_layers(shape, run)
        frozen = shape.num_weights - _outside(shape) - trained
        return trained * min(run.weight_bytes, run.compute_bytes) + frozen * run.weight_bytes
    norms = (shape.rest - shape.hidden) * run.weight_bytes
    codes = matrix_bytes(shape, run) - _scales(shape, run)
    return codes + norms + trained_weights(shape, run) * 4


def _scales(shape: Shape, run: Training) -> int:
    """Bytes of the scales of quantised matrices, which every process has."""
    if run.bits == 16:
        return 0
    return int(quantised_weights(shape) * (bytes_per_weight(run) - run.bits / 8))
