"""Log-probabilities of general samples by the model of a run.

batches      planned once for all processes, so any number of them runs the same ones
process 0    batch 0, 2         process 1    batch 1, and 0 again, which is not counted
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from xtuner.engine.backend import to_device
from xtuner.engine.validation import resting
from xtuner.evaluation.forgetting.items import Items, batch_of
from xtuner.evaluation.text.scored import Scored, batches


@torch.no_grad()
def measure_items(run: Any, items: Items, batch_tokens: int) -> dict[str, list[float]] | None:
    """The values of the items of each metric, equal in all processes; None if a signal came in between."""
    samples, world = items.samples, run.world
    starts = np.cumsum([0, *(len(sample.targets) for sample in samples)])
    logprobs = torch.zeros(int(starts[-1]), dtype=torch.float64)
    plan = list(batches([len(sample.ids) for sample in samples], batch_tokens))
    own = plan[world.data_rank :: world.data_size]
    num_uncounted = -(-len(plan) // world.data_size) - len(own)
    run.optim_wrapper.show_average()
    with resting(run.model):
        for number, batch in enumerate(own + plan[:1] * num_uncounted):
            if run.train_loop is not None and run.train_loop.stop_asked():
                return None
            found = _score(run, [samples[n] for n in batch])
            if number < len(own):
                index = np.concatenate([np.arange(starts[n], starts[n + 1]) for n in batch])
                logprobs[torch.from_numpy(index)] = found
    # Each is of one process: the others, and sequence-parallel ranks with other tokens, have zeros.
    values = world.sum(logprobs).tolist()
    parts = [
        _parts(sample, values[start:end])
        for sample, start, end in zip(samples, starts, starts[1:], strict=False)
    ]
    return {metric.name: metric.values(parts) for metric in items.metrics}


def _score(run: Any, samples: Sequence[Scored]) -> torch.Tensor:
    """The log-probability of each target of `samples`; zero for those of another process."""
    batch = batch_of(samples)
    every = batch["data"]["loss_positions"]
    found = run.backend.measure(run.optim_wrapper, to_device(batch, run.device), mode="logprobs")
    result = torch.zeros(len(every), dtype=torch.float64)
    if len(found.positions):
        # Samples that ran apart come in another order.
        order = np.argsort(found.positions, kind="stable")
        start = int(np.searchsorted(every, found.positions[order[0]]))
        own = found.logprobs.double().cpu()[torch.from_numpy(order)]
        result[start : start + len(order)] = own
    return result


def _parts(sample: Scored, values: Sequence[float]) -> list[float]:
    """The sum of each text of a sample."""
    return [float(part.sum()) for part in np.split(np.asarray(values), list(sample.ends)[:-1])]
