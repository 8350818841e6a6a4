"""From what is known of model, data and machine to the settings of a run, each with its reason; pure.

max_length   the shortest power of two that nearly all rows fit into, longer where many short ones can share
method       LoRA where the model fits in 16 bits, else QLoRA
batch_size   as many rows as memory and 4096 tokens allow
accumulative_counts   at most 32768 tokens an update, and not fewer than some 100 updates in all
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from xtuner.errors import DataError
from xtuner.estimate.machine import Machine
from xtuner.estimate.memory import Training, estimate, size_text
from xtuner.estimate.shape import Shape
from xtuner.proposal.data import DataFacts
from xtuner.proposal.model import ModelFacts

COVERED = 0.99  # of the rows are not cut
SHORTEST, PACKED = 256, 2048
MAX_TOKENS_IN_BATCH = 4096
MAX_TOKENS_IN_UPDATE = 32768
WANTED_UPDATES = 100
# Of the free memory: what a run may be expected to take.
USABLE = 0.8
_EPOCHS = {False: 3, True: 1}
_RANK = 64


@dataclass(frozen=True)
class Choice:
    """A setting, its value and the reason."""

    name: str
    value: Any
    why: str


@dataclass(frozen=True)
class Plan:
    """All choices, and the memory that they are expected to need."""

    choices: list[Choice]
    memory_bytes: int | None

    def value(self, name: str) -> Any:
        """What was chosen for `name`."""
        return next(choice.value for choice in self.choices if choice.name == name)


def choose(model: ModelFacts, data: DataFacts, machine: Machine, method: str | None = None) -> Plan:
    """The settings for that model, data and machine."""
    length = _choose_length(model, data)
    if method is None and model.quantised:
        how = Choice("method", "lora", f"its weights are quantised already, with {model.quantised}")
    else:
        how = _choose_method(model.shape, machine, length.value, method)
    run = _training(machine, length.value, how.value, model.shape)
    recompute = _choose_recompute(model.shape, machine, run)
    run = replace(run, recompute="full" if recompute.value else "none")
    batch = _choose_batch(model.shape, machine, run)
    run = replace(run, tokens=run.tokens * batch.value)
    epochs = _EPOCHS[data.is_text]
    updates = _choose_accumulation(data, run.tokens, epochs)
    num_iters = max(1, math.ceil(data.num_tokens * epochs / run.tokens))
    every = max(1, min(500, num_iters // 3))
    size = estimate(model.shape, run).total if model.shape else None
    # Texts are learnt as they stand.
    template = [] if data.is_text else [Choice("prompt_template", model.template, model.why_template)]
    return Plan(
        [
            *template,
            Choice("dataset_map_fn", data.map_fn, f"rows are {data.format_name}: {data.why_format}"),
            length,
            how,
            recompute,
            batch,
            updates,
            Choice(
                "max_epochs", epochs, "once over texts" if data.is_text else "three times over conversations"
            ),
            Choice("save_steps", every, f"three times in the {num_iters} iterations, at most every 500"),
        ],
        size,
    )


def _choose_length(model: ModelFacts, data: DataFacts) -> Choice:
    covered = data.length_of(COVERED)
    length = max(SHORTEST, 2 ** math.ceil(math.log2(max(1, covered))))
    why = f"{COVERED:.0%} of the rows have at most {covered} tokens, the longest {data.lengths[-1]}"
    if length < PACKED and data.num_tokens > WANTED_UPDATES * PACKED:
        length, why = PACKED, f"{why}; short rows share one"
    if length > model.context:
        length, why = model.context, f"{why}; the model has no more positions"
    cut = sum(n > length for n in data.lengths)
    if cut:
        why = f"{why}; {cut} of {len(data.lengths)} measured are cut"
    untrained = sum(n >= length for n in data.prompts)
    if untrained and untrained == len(data.prompts):
        raise DataError(
            f"{data.path}: no row has room for an answer in the {length} positions of the model, as the "
            f"shortest prompt has {data.prompts[0]} tokens: shorten tools and texts, or take another model"
        )
    if untrained:
        why = f"{why}, {untrained} of them before their first answer"
    return Choice("max_length", length, why)


def _training(machine: Machine, length: int, method: str, shape: Shape | None) -> Training:
    half = machine.device == "cuda" or machine.has_bf16
    full = method == "full"
    return Training(
        tokens=length,
        weight_bytes=4 if full or not half else 2,
        compute_bytes=2 if half else 4,
        bits=4 if method == "qlora" else 16,
        rank=0 if full else _RANK,
        device=machine.device,
    )


def _choose_method(shape: Shape | None, machine: Machine, length: int, asked: str | None) -> Choice:
    if asked is not None:
        return Choice("method", asked, "as --method says")
    if shape is None:
        return Choice("method", "qlora", "the model's size is not known, and this needs the least memory")
    need = estimate(shape, _training(machine, length, "lora", shape)).total
    free = machine.free_bytes
    numbers = f"in 16 bits: about {size_text(need)}, {size_text(free)} are free on {machine.name}"
    fits = need < USABLE * free
    return Choice(
        "method", "lora" if fits else "qlora", f"{'it fits' if fits else 'it does not fit'} {numbers}"
    )


def _choose_recompute(shape: Shape | None, machine: Machine, run: Training) -> Choice:
    name = "use_activation_checkpointing"
    if shape is None:
        return Choice(name, True, "the model's size is not known, and this needs less memory")
    need = estimate(shape, replace(run, recompute="none")).total
    fits = need < USABLE * machine.free_bytes
    why = f"without it about {size_text(need)} are needed"
    return Choice(name, not fits, f"{why}, which fits, and it is faster" if fits else why)


def _choose_batch(shape: Shape | None, machine: Machine, run: Training) -> Choice:
    if shape is None or machine.device == "cpu":
        return Choice("batch_size", 1, "rows are packed, and more at once gain nothing here")
    size = 1
    while 2 * size * run.tokens <= MAX_TOKENS_IN_BATCH:
        need = estimate(shape, replace(run, tokens=2 * size * run.tokens)).total
        if need > USABLE * machine.free_bytes:
            break
        size *= 2
    return Choice("batch_size", size, f"{size * run.tokens} tokens at once, {MAX_TOKENS_IN_BATCH} are enough")


def _choose_accumulation(data: DataFacts, tokens: int, epochs: int) -> Choice:
    total = data.num_tokens * epochs
    wanted = min(MAX_TOKENS_IN_UPDATE, total / WANTED_UPDATES)
    count = max(1, round(wanted / tokens))
    updates = max(1, math.ceil(total / (tokens * count)))
    return Choice(
        "accumulative_counts",
        count,
        f"about {updates} update{'s' if updates > 1 else ''} of {tokens * count} tokens",
    )
