"""Writing checkpoints while training goes on.

    state        weights, optimiser state           tensors that the next update changes
    snapshot     copies of them in main memory      in a thread; the next update waits for them; on a
                                                    device that takes one thread, at once
    write        file, sync, rename                 in the same; a second one waits for the first

The forward and backward passes of the next update run beside the copying. A write that fails is reported in
the loop, at its next iteration or at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from xtuner import devices
from xtuner.language import translate
from xtuner.log import logger
from xtuner.parallel.tensors import DTensor, with_local


class Snapshots:
    """Copies of a nested state whose memory is used again by the next copy."""

    def __init__(self) -> None:
        self._buffers: dict[tuple, torch.Tensor] = {}
        self.mesh: Any = None  # of the processes' main memory, for tensors in parts

    def take(self, state: Any) -> Any:
        """A copy of `state` in main memory; the one before it is overwritten."""
        seen: dict[tuple, torch.Tensor] = {}
        copied = self._copy(state, (), seen)
        for device in _accelerators(state):
            devices.synchronize(device)
        return copied

    def _copy(self, value: Any, path: tuple, seen: dict[tuple, torch.Tensor]) -> Any:
        if isinstance(value, DTensor):
            return with_local(value, self._copy(value.to_local(), path, seen), self.mesh)
        if isinstance(value, torch.Tensor) and value.is_meta:
            return value
        if isinstance(value, torch.Tensor):
            # Weights that are tied stay one piece of memory, and so one in the file.
            place = (value.data_ptr(), value.shape, value.stride(), value.dtype)
            if value.numel() == 0 or place not in seen:
                behind = devices.kind_of(value.device).copies_behind
                seen[place] = self._buffer(path, value).copy_(value.detach(), non_blocking=behind)
            return seen[place]
        if isinstance(value, dict):
            return type(value)((key, self._copy(item, (*path, key), seen)) for key, item in value.items())
        if isinstance(value, (list, tuple)):
            copies = [self._copy(item, (*path, i), seen) for i, item in enumerate(value)]
            return type(value)(*copies) if hasattr(value, "_fields") else type(value)(copies)
        return value

    def _buffer(self, path: tuple, like: torch.Tensor) -> torch.Tensor:
        found = self._buffers.get(path)
        if found is None or (found.shape, found.dtype) != (like.shape, like.dtype):
            # Page-locked memory takes copies of an accelerator in the background.
            found = torch.empty(like.shape, dtype=like.dtype, pin_memory=devices.pins_memory(like.device))
            self._buffers[path] = found
        return found


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value.to_local() if isinstance(value, DTensor) else value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in inner for tensor in _tensors(item)]


def _accelerators(state: Any) -> set[torch.device]:
    return {tensor.device for tensor in _tensors(state) if devices.is_accelerator(tensor.device)}


class BackgroundWriter:
    """Runs one write at a time in a thread of its own."""

    def __init__(self) -> None:
        self.snapshots = Snapshots()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._copied = threading.Event()
        self._copied.set()

    def write(self, state: Any, write: Callable[[Any], None]) -> None:
        """Call `write` with a copy of `state`, in the background; waits for the write before it.

        The tensors of `state` may change after `wait_for_copy`.
        """
        if self._thread is not None and self._thread.is_alive():
            logger.info(translate("The checkpoint before is still being written: waiting for it"))
        self.wait()
        self._copied.clear()
        in_thread = all(devices.kind_of(device).takes_threads for device in _accelerators(state))
        if not in_thread:
            state = self.snapshots.take(state)
        # Not a daemon: whatever ends the program, a write that has begun is finished.
        self._thread = threading.Thread(target=self._run, args=(write, state, in_thread), name="checkpoint")
        self._thread.start()

    def wait_for_copy(self) -> None:
        """Return when the state that was last given has been copied."""
        self._copied.wait()

    def wait(self) -> None:
        """Return when nothing is being written; raises what the last write raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.raise_error()

    def raise_error(self) -> None:
        """Raise what a write has raised, if one has."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, write: Callable[[Any], None], state: Any, copy: bool) -> None:
        try:
            try:
                state = self.snapshots.take(state) if copy else state
            finally:
                self._copied.set()
            write(state)
        except BaseException as error:
            # The loop raises it; a program that ends without coming there has said so at least.
            logger.error("%s", error)
            self._error = error
