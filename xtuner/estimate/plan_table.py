"""The plan of a run with many processes: a row for each way to divide the model.

plan     64 processes, 8 on a machine, each with 141 GB (H200, ...); an update takes 524288 tokens
         backend          memory   reading      host      sent    scaling
         fsdp            47.9 GB         -         -   53.1 GB   87-100 %
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from xtuner.devices import NVIDIA
from xtuner.estimate.configured import read_training
from xtuner.estimate.forecast import Forecast
from xtuner.estimate.machine import Machine
from xtuner.estimate.memory import size_text
from xtuner.estimate.processes import (
    BACKENDS,
    Cluster,
    Division,
    ProcessMemory,
    Scaling,
    process_memory,
    scaling,
    traffic,
)
from xtuner.estimate.shape import Shape
from xtuner.estimate.speed import card_rate
from xtuner.estimate.training import Training
from xtuner.language import padded, translate


@dataclass(frozen=True)
class Row:
    """One way to divide the model: memory, bytes sent per update and process, and scaling."""

    division: Division
    memory: ProcessMemory
    sent: int
    scaling: Scaling

    def fits(self, cluster: Cluster) -> bool:
        return self.memory.needs <= cluster.memory


def plan_row(shape: Shape, run: Training, division: Division, cluster: Cluster) -> Row:
    """The row of `division`."""
    sent = sum(x.size for x in traffic(shape, run, division) if x.over != "host")
    memory = process_memory(shape, run, division)
    return Row(division, memory, sent, scaling(shape, run, division, cluster))


def plan_lines(config: Mapping[str, Any], found: Forecast) -> list[str]:
    """The table for the processes of `found`, for GPUs as here, or as in Cluster if there is none."""
    cluster = cluster_of(found.machine)
    machine = Machine(NVIDIA, cluster.name, cluster.memory, cluster.memory)

    def run_by(division: Division) -> Training:
        return read_training(config, found.shape, machine, division, found.training.reference_bytes)

    return _lines(found.shape, run_by, found.division, cluster)


def _heading() -> str:
    others = (("memory", 9), ("reading", 10), ("host", 10), ("sent", 10), ("scaling", 11))
    return padded(translate("backend"), 14) + "".join(
        padded(translate(name), -width) for name, width in others
    )


def cluster_of(machine: Machine) -> Cluster:
    """Machines like this one, with the connections of Cluster."""
    usual = Cluster()
    if machine.device != NVIDIA:
        return usual
    rate = card_rate(machine.name) or usual.operations
    return replace(usual, card=machine.name, operations=rate, memory=machine.total_bytes)


def _lines(
    shape: Shape, run_by: Callable[[Division], Training], division: Division, cluster: Cluster
) -> list[str]:
    runs = {name: run_by(replace(division, backend=name)) for name in BACKENDS}
    run = next(iter(runs.values()))
    tokens = run.tokens * run.accumulate * (division.processes // division.sequence)
    shared = translate(", rows shared by {count}", count=division.sequence) if division.sequence > 1 else ""
    lines = [
        translate(
            "plan     {processes} processes, {here} on a machine{shared}, each with {memory} "
            "({name}); an update takes {tokens} tokens",
            processes=division.processes,
            here=min(division.per_node, division.processes),
            shared=shared,
            memory=size_text(cluster.memory),
            name=cluster.name,
            tokens=tokens,
        ),
        f"         {_heading()}",
    ]
    for name, run in runs.items():
        row = plan_row(shape, run, replace(division, backend=name), cluster)
        sizes = (row.memory.device.total, row.memory.loading, row.memory.host, row.sent)
        memory, *others = (size_text(size) if size else "-" for size in sizes)
        cells = f"{memory:>9}" + "".join(f"{text:>10}" for text in others)
        more = "" if row.fits(cluster) else translate("   does not fit")
        lines.append(f"         {name:<14}{cells}{row.scaling.text:>11}{more}")
    return lines
