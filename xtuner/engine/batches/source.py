"""The contract between the training loop and where its batches come from.

start_at(iteration)      pairs of what a batch is made of (for messages) and the batch, without end
position()               of the batches handed out so far; a checkpoint holds it
go_on_from(position)     `start_at` begins there
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

Batch = dict[str, Any]


class BatchSource(Protocol):
    """Batches of one process; the loop takes those of an update together, after the update before."""

    @property
    def dataset(self) -> Any:
        """What the batches are made of; `source_places(index)` of it names rows in messages."""

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        ...

    def start_at(self, iteration: int) -> Iterator[tuple[list[Any], Batch]]: ...

    def position(self) -> Any:
        """Plain numbers; None if the iteration alone tells the position."""

    def go_on_from(self, position: Any) -> None: ...
