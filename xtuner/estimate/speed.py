"""The arithmetic of a token, and the time of a run on hardware of a known rate.

    forward    2 x (weights a token passes) + attention to the tokens before it, 2 x layers x queries x length
    backward   as much again for the inputs, and as much again for the weights, where they are trained
    recompute  one more forward of the layers, or of every second one

A rough estimate: cards reach `REACHED` of their rate, a CPU core `CORE_FLOPS`.
"""

from __future__ import annotations

from xtuner.estimate.machine import Machine
from xtuner.estimate.shape import Shape
from xtuner.estimate.training import Training, part_of, trains_head

REACHED = 0.4
CORE_FLOPS = 2e10
# A name of the card that nvidia-smi shows -> 10^12 operations in 16 bits a second, dense, by its maker.
_RATES = {
    "B200": 2250,
    "H200": 989,
    "H100": 989,
    "H20": 148,
    "H800": 989,
    "A100": 312,
    "A800": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "A10G": 70,
    "A10": 125,
    "A6000": 155,
    "V100": 125,
    "T4": 65,
    "RTX 5090": 209,
    "RTX 4090": 165,
    "RTX 4080": 97,
    "RTX 3090": 71,
    "RTX 3080": 60,
}


def flops_per_token(shape: Shape, run: Training, length: int) -> float:
    """Operations of training per token in a sample of that length."""
    layers = sum(2 * x.inputs * x.outputs * x.active for x in shape.linears)
    layers += 2 * shape.layers * shape.query * length  # half of the square: causal
    head = 2 * shape.vocab * shape.hidden * run.trained_share
    again = {"none": 0.0, "selective": 0.5}.get(run.recompute, 1.0)
    again *= part_of(shape, run).passed / shape.layers
    return (passes_of(shape, run) + again) * layers + (2 + trains_head(shape, run)) * head


def passes_of(shape: Shape, run: Training) -> float:
    """How often a training goes through the layers: once forward, and back as far as something is trained."""
    part = part_of(shape, run)
    return 1 + (part.passed + part.layers) / shape.layers


def operations_per_second(machine: Machine) -> float | None:
    """The operations per second that the machine should reach; None for a card that is not in the table."""
    if machine.device == "cpu":
        return CORE_FLOPS * machine.num_cores
    rate = card_rate(machine.name)
    return rate * REACHED if rate else None


def card_rate(name: str) -> float | None:
    """Operations per second, by its maker, of the card with this name in nvidia-smi; None if unknown."""
    return next((r * 1e12 for card, r in _RATES.items() if card in name.replace("GeForce ", "")), None)


def seconds(shape: Shape, run: Training, num_tokens: float, machine: Machine) -> float | None:
    """Time to train on that many tokens."""
    rate = operations_per_second(machine)
    length = min(run.tokens, 2048)
    return num_tokens * flops_per_token(shape, run, length) / rate if rate else None
