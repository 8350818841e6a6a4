"""Starts the processes of this machine and returns their exit code.

    NPROC_PER_NODE=2 xtuner train CFG
    ├── RANK=0 LOCAL_RANK=0 xtuner train CFG
    └── RANK=1 LOCAL_RANK=1 xtuner train CFG

A signal to the parent is forwarded to all children; a second one stops them, in case they hang in a
collective. If a child fails, the others are stopped and a line on stderr names it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xtuner import dist
from xtuner.dist import DEFAULT_PORT
from xtuner.errors import ConfigError
from xtuner.language import translate

# Seconds to exit after a failure or a second signal; a process in a collective may never exit.
GRACE = 15.0
# A launcher and a terminal may both forward the same key press.
ONE_PRESS_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Processes:
    """The processes to start on this machine, the number of machines, and the address of rank 0."""

    here: int
    nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int = DEFAULT_PORT

    @property
    def first_rank(self) -> int:
        return self.node * self.here

    @property
    def world_size(self) -> int:
        return self.nodes * self.here


def configured_processes() -> Processes | None:
    """The processes set by NPROC_PER_NODE, NNODES, NODE_RANK, ADDR and PORT; None for a single process.

    The training operator of Kubernetes has other names for all but the first.
    """
    pods, pod = _pods()
    here, nodes = _number("NPROC_PER_NODE", 1), _number("NNODES", pods)
    node = _number("NODE_RANK", pod, least=0)
    if here * nodes == 1:
        return None
    if node >= nodes:
        raise ConfigError(
            translate(
                "NODE_RANK is {node}, but NNODES is {nodes}: it counts from 0 to {last}",
                node=node,
                nodes=nodes,
                last=nodes - 1,
            )
        )
    address = os.environ.get("ADDR") or os.environ.get("MASTER_ADDR")
    if nodes > 1 and not address:
        raise ConfigError(
            translate(
                "NNODES is {nodes}, but ADDR is not set: give the address of the machine with NODE_RANK=0",
                nodes=nodes,
            )
        )
    default = _number("MASTER_PORT", DEFAULT_PORT) if nodes > 1 else _free_port()
    port = _number("PORT", default)
    return Processes(here, nodes, node, address or "127.0.0.1", port)


def join_launched(launcher: str, config: Mapping[str, Any] | None = None) -> Processes | None:
    """Set the rank of this process from the launcher; returns the processes to start here, or None."""
    processes = None if dist.is_launched() else configured_processes()
    if processes is None:
        configured = "none" if config is None else config.get("launcher", "none")
        dist.init_from_launcher(configured if launcher == "none" else launcher)
    return processes


def _pods() -> tuple[int, int]:
    """The number of pods of the Kubernetes operator, and that of this pod; 1 and 0 without the operator.

    There RANK is of a pod. WORLD_SIZE counts pods, or processes if the job sets the number per pod.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ or dist.is_launched():
        return 1, 0
    counted = "PET_NNODES" if os.environ.get("PET_NNODES", "").isdecimal() else "WORLD_SIZE"
    return _number(counted, 1), _number("RANK", 0, least=0)


def num_processes() -> tuple[int, int]:
    """The numbers of processes of this run and on this machine, from the environment."""
    if dist.is_launched():
        return dist.world_size(), dist.local_world_size() or dist.world_size()
    processes = configured_processes()
    return (processes.world_size, processes.here) if processes else (1, 1)


def _number(name: str, default: int, least: int = 1) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(
            translate(
                "{name} is {text!r}; it must be a whole number of at least {least}",
                name=name,
                text=text,
                least=least,
            )
        )
    return int(text)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(command: Sequence[str], processes: Processes, results: Collection[int] = ()) -> int:
    """Run `command` in each process of this machine; returns the exit code of the run.

    `results`: exit codes that are no failure but what the command found out; all processes have the same.
    """
    children: list[subprocess.Popen] = []
    signals: list[int] = []
    last_signal_at = 0.0

    def forward(number: int, _frame: object) -> None:
        nonlocal last_signal_at
        if not signals or time.monotonic() - last_signal_at > ONE_PRESS_SECONDS:
            signals.append(number)
            last_signal_at = time.monotonic()
        _send(children, number)

    is_main = threading.current_thread() is threading.main_thread()  # which alone gets signals
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1) if is_main else ()
    before = {n: signal.signal(n, forward) for n in numbers}
    try:
        for local in range(processes.here):
            env = {**os.environ, **_environment(processes, local)}
            # In a separate session, so that Ctrl-C arrives once, through this process.
            options = {"start_new_session": True, "preexec_fn": _stop_with_parent()}
            children.append(subprocess.Popen(command, env=env, **options))  # type: ignore[call-overload]
        return _wait(children, processes.first_rank, signals, results)
    finally:
        _send(children, signal.SIGKILL)
        for number, handler in before.items():
            signal.signal(number, handler)


def _environment(processes: Processes, local: int) -> dict[str, str]:
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // processes.here))
    return {
        "RANK": str(processes.first_rank + local),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(processes.world_size),
        "LOCAL_WORLD_SIZE": str(processes.here),
        "MASTER_ADDR": processes.address,
        "MASTER_PORT": str(processes.port),
        "OMP_NUM_THREADS": threads,
        # C++ stacks about a lost connection add nothing to our own line.
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
    }


def _stop_with_parent() -> Callable[[], object] | None:
    """A function for a child before exec: it gets SIGTERM when this process dies."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _send(children: list[subprocess.Popen], number: int) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def _wait(
    children: list[subprocess.Popen], first_rank: int, signals: list[int], results: Collection[int] = ()
) -> int:
    while any(child.poll() is None for child in children):
        failed = _first_failure(children, signals, results)
        if failed is not None:
            _end(children)
            return _report(failed, children[failed], first_rank)
        if len(signals) > 1:
            _end(children)
            return 128 + signals[0]
        time.sleep(0.05)
    failed = _first_failure(children, signals, results)
    if failed is not None:
        return _report(failed, children[failed], first_rank)
    if found := {child.returncode for child in children} & set(results):
        return max(found)
    return 128 + signals[0] if signals and any(child.returncode for child in children) else 0


def _first_failure(
    children: list[subprocess.Popen], signals: list[int], results: Collection[int]
) -> int | None:
    """The index of a child that failed; of several a killed one, since the others failed because of it."""
    fine = {0, None, *results, *(128 + n for n in signals), *(-n for n in signals)}
    failed = [(child.returncode > 0, n) for n, child in enumerate(children) if child.poll() not in fine]
    return min(failed)[1] if failed else None


def _end(children: list[subprocess.Popen]) -> None:
    _send(children, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    _send(children, signal.SIGKILL)
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may block it
            child.wait(5)


def _report(number: int, child: subprocess.Popen, first_rank: int) -> int:
    code = child.returncode
    rank = translate("rank {rank} (process {process})", rank=first_rank + number, process=child.pid)
    if code < 0:
        name = signal.Signals(-code).name
        cause = translate(", as the system does when memory runs out") if name == "SIGKILL" else ""
        what = translate("{rank} was killed by {name}{cause}", rank=rank, name=name, cause=cause)
    else:
        what = translate("{rank} failed with exit code {code}", rank=rank, code=code)
    sys.stderr.write(f"xtuner: error: {what}{translate('; the other processes were stopped')}\n")
    return code if code > 0 else 128 - code
