"""The stored reference: what a method compares with, computed once for all samples, before the first update.

    store      samples 0 1 2 3 4 5         of the training data, and of the validation data
    missing          2   4 5               the others were computed by an earlier run, or before it was killed
    packs      (2 3) (4 5)                 process 0: (2 3)           process 1: (4 5)
    column     a number for each sample    beside the token store; nan: not computed yet

The name of the column is a hash of the reference's weights and configuration and of the precision; the store
itself is named by data, template and tokenizer. So another model, template or data set has another column.
Rank 0 reads and writes it, and hands it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xtuner.dataset.collate_fns.flat import flat_collate_fn
from xtuner.dataset.encoding.fingerprint import fingerprint_value
from xtuner.dataset.encoding.progress import show_rates
from xtuner.dataset.items.packed_dataset import PackedDataset
from xtuner.dataset.items.packing import plan_chosen, plan_units
from xtuner.dataset.preference_dataset import ComparedDataset
from xtuner.engine.backend import Backend, make_backend, to_device
from xtuner.engine.batches.data_sets import data_sets
from xtuner.errors import ConfigError, TrainingError
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.train_module import TrainModule
from xtuner.parallel.world import World

if TYPE_CHECKING:
    from xtuner.engine.run import Run

VERSION = 1
"""Increased when the same reference would give other numbers."""

SAVES = 20
PACKS_PER_SAVE = 100
"""The column is saved so often, but not before so many packs of each process."""


@dataclass
class Reference:
    """The key of its weights, and the model if that is not the trained one."""

    key: str
    model: TrainModule | None


def take_reference(model: Any, world: World) -> Reference | None:
    """The reference of `model`, which no longer holds it; None if it is not to be stored.

    To be called while the weights of `model` are whole and as they were loaded.
    """
    if not model.stores_reference:
        return None
    key = world.broadcast(model.reference_key() if world.is_first else "")
    given, model.reference = model.reference, None
    return Reference(key, given)


def store_reference(run: Run) -> None:
    """Give the data of `run` the log-probabilities of its reference; the missing ones are computed."""
    if run.reference is None:
        return
    backend = run.backend
    if run.reference.model is not None:
        # Frozen weights need no DDP, and DeepSpeed takes one model.
        is_divided = backend.name == "fsdp"
        dtype = getattr(run.optim_wrapper, "dtype", None)
        backend = make_backend(run.world, True, dtype) if is_divided else Backend(run.world)
        backend.wrap(run.reference.model, run.device)
    precision = str(getattr(run.optim_wrapper, "dtype", None))
    name = "reference-" + fingerprint_value([VERSION, run.reference.key, precision])
    model = run.reference.model or run.model
    training = model.training
    # As in training; dropout is switched off by the reference itself.
    model.train()
    for path, data in data_sets(run):
        if not isinstance(data, ComparedDataset):
            what = (
                "model.stored_reference needs data that is stored: {path}.dataset must be one of "
                "build_preference_dataset or build_unpaired_dataset, and is a {kind}"
            )
            raise ConfigError(translate(what, path=path, kind=type(data).__name__))
        data.reference = _filled(run, backend, data, name)
    model.train(training)
    run.reference = None


def _filled(run: Run, backend: Backend, data: ComparedDataset, name: str) -> np.ndarray:
    """The column `name` of the store of `data`, with a number for each sample that an item has."""
    values = run.world.broadcast(_read(data, name) if run.world.is_first else np.zeros(0))
    used = np.unique(data.plan.order)
    num_missing = int(np.isnan(values[used]).sum())
    if not num_missing:
        logger.info(translate("The log-probabilities of the reference are stored: %d samples"), len(used))
        return values
    logger.info(
        translate("The reference computes the log-probabilities of %d samples, once; %d are stored"),
        num_missing,
        len(used) - num_missing,
    )
    # The packs are those of training: other ones round otherwise, which would look like a preference.
    is_missing = np.concatenate([[0], np.cumsum(np.isnan(values[data.plan.order]))])
    items = np.flatnonzero(np.diff(is_missing[data.plan.boundaries]))
    plan = plan_units(data.plan, plan_chosen(items))
    for found in _computed(run, backend, PackedDataset(data.store, plan, {})):
        number, value = _joined(run.world, found, len(values))
        values[number] = value
        if len(odd := number[~np.isfinite(value)]):
            rows = data.store.column("answer_rows")[data.store.rows[odd]]
            what = "the reference gives {place} a log-probability of {value}: check its weights and precision"
            raise TrainingError(translate(what, place=data.place(int(rows[0])), value=values[odd[0]]))
        if run.world.is_first:
            data.store.save_later(name, values)
    return values


def _read(data: ComparedDataset, name: str) -> np.ndarray:
    saved = data.store.later(name)
    return np.full(len(data.store), np.nan) if saved is None else np.array(saved)


def _computed(run: Run, backend: Backend, packs: PackedDataset) -> Iterator[list[tuple[np.ndarray, Any]]]:
    """Samples and their log-probabilities, those of this process, from time to time; on all alike."""
    world, plan = run.world, packs.plan
    rounds = -(-len(packs) // world.data_size)
    every = max(PACKS_PER_SAVE, -(-rounds // SAVES))
    found: list[tuple[np.ndarray, Any]] = []
    tokens = 0
    with show_rates(translate("reference"), len(plan.order), of_samples=True) as advance:
        for number in range(rounds):
            pack = number * world.data_size + world.data_rank
            # All processes call the model equally often: the last ones may compute a pack again.
            batch = to_device(flat_collate_fn([packs[pack % len(packs)]]), run.device)
            with torch.no_grad():
                logprobs = backend.measure(run.optim_wrapper, batch, mode="reference")
            if pack < len(packs) and world.rank % world.sequence_size == 0:
                found.append((plan[pack], logprobs))
            done = min((number + 1) * world.data_size, len(packs))
            tokens += int(packs.length[number * world.data_size : done].sum())
            advance(int(plan.boundaries[done]), tokens)
            if (number + 1) % every == 0 or number + 1 == rounds:
                yield found
                found = []


def _joined(
    world: World, found: list[tuple[np.ndarray, torch.Tensor]], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The samples and values that all processes have found."""
    values, is_here = torch.zeros(2, count, dtype=torch.float64)
    for samples, logprobs in found:
        values[samples], is_here[samples] = logprobs.double().cpu(), 1.0
    both = world.sum(torch.stack([values, is_here])).numpy()
    number = np.flatnonzero(both[1])
    return number, both[0][number]
