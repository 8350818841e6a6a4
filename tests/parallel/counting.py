"""Measures an update of a process: bytes of tensors, connections, collectives."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections import Counter
from typing import Any

import torch
import torch.distributed as torch_dist

# Where the kernel's tcp_info has the bytes that a connection has sent.
_BYTES_SENT = 200
# Newer torch calls the first of each pair by the second name; the argument that holds the whole.
_WHOLE = {
    "all_gather_into_tensor": 0,
    "all_gather_single": 0,
    "reduce_scatter_tensor": 1,
    "reduce_scatter_single": 1,
    "all_to_all_single": 0,
}


def bytes_sent() -> int:
    """The bytes sent over the open TCP connections of this process; 0 if the system does not report them."""
    total = 0
    if sys.platform != "linux":
        return total
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as connection:
                if connection.type == socket.SOCK_STREAM and connection.family != socket.AF_UNIX:
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512)
                    total += struct.unpack_from("Q", info, _BYTES_SENT)[0]
        except OSError:  # closed by now
            continue
    return total


class Counting:
    """Counts the last update of a run; `found` is that of this process."""

    def __init__(self, run: Any) -> None:
        self._run, self._calls, self._start = run, Counter(), None
        self.found: dict[str, Any] = {}
        backend = run.backend
        self._forward_backward, self._update = backend.forward_backward, backend.update
        backend.forward_backward, backend.update = self.forward_backward, self.update
        self._real = {name: getattr(torch_dist, name) for name in _WHOLE if hasattr(torch_dist, name)}
        for name in self._real:
            setattr(torch_dist, name, self._noting(name))

    def stop(self) -> None:
        """Restore torch."""
        for name, real in self._real.items():
            setattr(torch_dist, name, real)

    def _noting(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            place = _WHOLE[name]
            whole = args[place] if len(args) > place else list(kwargs.values())[place - len(args)]
            kind = name.removesuffix("_single").removesuffix("_into_tensor").removesuffix("_tensor")
            self._calls[f"{kind} {str(whole.dtype).removeprefix('torch.')}"] += whole.nbytes
            return self._real[name](*args, **kwargs)

        return call

    def forward_backward(self, *args: Any, **kwargs: Any) -> Any:
        if self._start is None:
            if self._run.world.size > 1:
                torch_dist.barrier()
            self._calls.clear()
            self._start = bytes_sent()
        return self._forward_backward(*args, **kwargs)

    def update(self, optim_wrapper: Any) -> Any:
        params = list(self._run.model.parameters())
        gradients = sum(_part(p.grad).nbytes for p in params if p.grad is not None)
        made = self._update(optim_wrapper)
        slots = [v for state in optim_wrapper.optimizer.state.values() for v in state.values()]
        self.found = {
            "sent": bytes_sent() - (self._start or 0),
            "collectives": dict(self._calls),
            "gradients": gradients,
            "frozen": sum(_part(p).nbytes for p in params if not p.requires_grad),
            "trained": sum(_part(p).nbytes for p in params if p.requires_grad),
            "optimizer": sum(_part(v).nbytes for v in slots if torch.is_tensor(v) and v.dim()),
        }
        self._start = None
        return made


def _part(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
