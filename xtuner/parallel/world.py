"""The processes of a run, and how they communicate.

    make_world()               each process knows the store of rank 0: small facts, no collective
      broadcast_via_store      seed, time stamp
      local_rank_0_first       data prepared by one process of a machine
    world.connect()            process groups: sum, all_gather, all_reduce_max, broadcast
      split(2)                 rank    0 1 | 2 3     two processes hold a part each of a sequence,
                               data    0 0 | 1 1     and count as one reader of data

A single process needs no communication.
"""

from __future__ import annotations

import datetime
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import torch
import torch.distributed as torch_dist

from xtuner import devices, dist
from xtuner.errors import ConfigError, TrainingError
from xtuner.language import translate
from xtuner.log import logger
from xtuner.parallel.watch import Watch

T = TypeVar("T")
# Backends that belong to one kind of device each.
_OWNED = {kind.collectives for kind in devices.KINDS.values()} - {"gloo", None}
POLL_SECONDS = 0.1
PROGRESS_SECONDS = 30.0
DEFAULT_TIMEOUT_SECONDS = 1800


class World:
    """This process and its communication with the others of a run."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, store: Any = None) -> None:
        assert store is not None or size == 1
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.sequence_size = 1
        self.sequence_group: Any = None
        self._store = store
        self._num_calls = 0
        self._watch = Watch(rank, size)

    @property
    def is_first(self) -> bool:
        """Whether this process logs and writes for all."""
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """The number of this process among the readers of data."""
        return self.rank // self.sequence_size

    @property
    def data_size(self) -> int:
        """The number of readers of data."""
        return self.size // self.sequence_size

    def broadcast_via_store(self, make: Callable[[], T]) -> T:
        """What `make` returns on rank 0 (plain JSON), on every process."""
        if self.size == 1:
            return make()
        key = self._key("broadcast")
        if self.is_first:
            made = make()
            self._store.set(key, json.dumps(made))
            return made
        self._wait(lambda: self._store.check([key]), "rank 0")
        return json.loads(self._ask(lambda: self._store.get(key)))

    def local_rank_0_first(self, make: Callable[[], T]) -> T:
        """The result of `make`, called by one process of each machine before the others; waits for all.

        The others find the files of the first on disk.
        """
        if self.size == 1:
            return make()
        done, ready = f"{self._key('first')}/{socket.gethostname()}", self._key("ready")
        if self.local_rank:
            self._wait(lambda: self._store.check([done]), translate("the process that prepares the data"))
        made = make()
        if not self.local_rank:
            self._store.set(done, "")
        self._ask(lambda: self._store.add(ready, 1))
        self._wait(
            lambda: self._store.add(ready, 0) == self.size, translate("the data of the other processes")
        )
        return made

    def watch(self) -> None:
        """Detect from now on when another process dies; on a single machine the launcher does this."""
        if self.size == dist.local_world_size():
            return
        port, secret = self.broadcast_via_store(lambda: self._watch.listen(dist.master_address()))
        if not self.is_first:
            self._watch.join(dist.master_address(), port, secret)

    def leave(self) -> None:
        """Announce that this process ends normally, so that the others do not report it as lost."""
        self._watch.leave()

    def _key(self, what: str) -> str:
        self._num_calls += 1
        return f"{what}/{self._num_calls}"

    def _wait(self, is_done: Callable[[], bool], what: str) -> None:
        start = logged_at = time.monotonic()
        while not self._ask(is_done):
            time.sleep(POLL_SECONDS)
            if time.monotonic() - logged_at > PROGRESS_SECONDS:
                logged_at = time.monotonic()
                logger.log(logging.INFO, translate("Waiting for %s, %d s so far"), what, logged_at - start)

    def _ask(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except RuntimeError as error:
            raise TrainingError(translate("rank 0 is lost: {error}", error=_first_line(error))) from error

    def connect(self, backend: str | None = None, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        """Create the process groups; a collective. `backend` is the configured one."""
        if self.size == 1 or torch_dist.is_initialized():
            return
        torch_dist.init_process_group(
            transport(dist.device().type, backend),
            store=torch_dist.PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=datetime.timedelta(seconds=timeout),
        )

    def split(self, sequence_size: int) -> None:
        """Let `sequence_size` neighbours hold a part each of every sequence."""
        if self.size % sequence_size:
            raise ConfigError(
                translate(
                    "sequence_parallel_size is {sequence_size}, which does not divide the number of "
                    "processes, {processes}: set NPROC_PER_NODE to a multiple of it",
                    sequence_size=sequence_size,
                    processes=self.size,
                )
            )
        self.sequence_size = sequence_size

    def connect_sequences(self) -> None:
        """Create the groups of sequence-parallel ranks; after `connect`, on every process."""
        self.sequence_group = None
        if self.sequence_size > 1:
            for start in range(0, self.size, self.sequence_size):
                group = torch_dist.new_group(list(range(start, start + self.sequence_size)))
                if start <= self.rank < start + self.sequence_size:
                    self.sequence_group = group

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor`, summed in place over all processes."""
        if self.size > 1:
            torch_dist.all_reduce(tensor)
        return tensor

    def all_reduce_max(self, number: int) -> int:
        """The largest `number` that any process has."""
        return all_reduce_max(number)

    def all_gather(self, value: T) -> list[T]:
        """The `value` of every process, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch_dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """The `value` of rank 0, on every process."""
        if self.size == 1:
            return value
        values = [value]
        torch_dist.broadcast_object_list(values, src=0)
        return values[0]

    def close(self) -> None:
        """Leave the groups; waits for the others, since rank 0 holds the store of all."""
        if torch_dist.is_initialized():
            torch_dist.barrier()
            torch_dist.destroy_process_group()
        self.leave()


def make_world() -> World:
    """The world of the environment variables of this process."""
    device = dist.device()
    if devices.is_accelerator(device):
        check_processes(device.type, dist.world_size())
        devices.use(device)
    if dist.world_size() == 1:
        return World()
    logger.info(translate("Waiting for %d processes"), dist.world_size())
    timeout = datetime.timedelta(seconds=DEFAULT_TIMEOUT_SECONDS)
    try:
        store, rank, size = _in_background(lambda: next(torch_dist.rendezvous("env://", timeout=timeout)))
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            translate(
                "the processes of this run cannot connect to each other: {error}", error=_first_line(error)
            )
        ) from error
    world = World(rank, size, dist.local_rank(), store)
    world.watch()
    return world


def _in_background(call: Callable[[], T]) -> T:
    """What `call` returns or raises; while it waits in C++, signals reach this thread."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    # The end of the process does not wait for a daemon.
    threading.Thread(target=run, daemon=True).start()
    return future.result()


def connect_alone() -> None:
    """Make a process group, which DeepSpeed needs, if this process trains alone."""
    dist.write_place()
    if not torch_dist.is_initialized():
        way = transport(dist.device().type)
        torch_dist.init_process_group(way, store=torch_dist.HashStore(), rank=0, world_size=1)


def check_processes(kind: str, world_size: int) -> None:
    """Raise ConfigError for several processes on a device that takes one."""
    if world_size > 1 and devices.kind_of(kind).collectives is None:
        raise ConfigError(
            translate(
                "{count} processes on {device}, which takes one: remove NPROC_PER_NODE and NNODES, or set "
                "XTUNER_DEVICE=cpu",
                count=world_size,
                device=kind,
            )
        )


def all_reduce_max(number: int) -> int:
    """The largest `number` that any process has; a collective."""
    if not torch_dist.is_initialized():
        return number
    largest = torch.tensor(int(number))
    torch_dist.all_reduce(largest, op=torch_dist.ReduceOp.MAX)
    return int(largest)


def transport(kind: str, backend: str | None = None) -> str:
    """The backend: gloo for tensors on the CPU, that of its `kind` for those on an accelerator.

    `backend` is the configured one; where the accelerator has another of its own, that is used.
    """
    own = devices.kind_of(kind).collectives
    if kind == "cpu":
        if backend not in (None, "gloo"):
            logger.info(translate("env_cfg.dist_cfg.backend=%r needs GPUs: gloo is used instead"), backend)
        return "gloo"
    if backend in _OWNED and backend != own:
        logger.info(translate("env_cfg.dist_cfg.backend=%r is not for %s: %s is used"), backend, kind, own)
        backend = own
    return f"cpu:gloo,{kind}:{backend or own}"


def lost_peer(error: BaseException) -> bool:
    """Whether `error` is that of a collective after another process has died."""
    if isinstance(error, torch_dist.DistError):
        return True
    patterns = (
        "Connection closed by peer",
        "Connection reset",
        "Broken pipe",
        "gloo/transport",
        "NCCL",
        "HCCL",
        "XCCL",
    )
    return isinstance(error, RuntimeError) and any(pattern in str(error) for pattern in patterns)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
