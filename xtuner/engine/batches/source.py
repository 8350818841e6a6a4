"""The interface between the training loop and the source of its batches.

start_at(iteration)      endless pairs of the indices of a batch (for messages) and the batch
position()               the position after the batches yielded so far; saved in a checkpoint
go_on_from(position)     let `start_at` begin there
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

Batch = dict[str, Any]


class BatchSource(Protocol):
    """Batches of one process; the loop fetches those of an update together, after the previous update."""

    @property
    def dataset(self) -> Any:
        """The data of the batches; its `source_places(index)` names rows in messages."""

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        ...

    def start_at(self, iteration: int) -> Iterator[tuple[list[Any], Batch]]: ...

    def position(self) -> Any:
        """Plain numbers, or None if the iteration is the position."""

    def go_on_from(self, position: Any) -> None: ...
