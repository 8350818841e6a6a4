"""The data sets of a run, for what is stored beside them before it trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from xtuner.dataset.concat_dataset import ConcatDataset

if TYPE_CHECKING:
    from xtuner.engine.run import Run


def data_sets(run: Run) -> Iterator[tuple[str, Any]]:
    """The data sets of training and validation, each part of a concatenation, with the name of its loader."""
    if run.train_dataloader is not None:
        yield from _parts("train_dataloader", run.train_dataloader.dataset)
    if run.val_loop is not None:
        yield from _parts("val_dataloader", run.val_loop.dataloader.dataset)


def _parts(name: str, dataset: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from _parts(name, part)
    else:
        yield name, dataset
