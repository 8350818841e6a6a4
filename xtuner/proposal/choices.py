"""Choose the settings of a run by facts of model, data and machine, each with its reason; without I/O.

max_length   the shortest power of two that nearly all rows fit into, longer where many short ones can share
method       LoRA where the model fits in 16 bits, else QLoRA
stored_reference   for DPO of all weights where a frozen copy of them does not fit
batch_size   as many rows as memory and 4096 tokens allow
accumulative_counts   at most 32768 tokens an update, and not fewer than some 100 updates in all
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from xtuner.devices import kind_of
from xtuner.errors import DataError
from xtuner.estimate.configured import read_training
from xtuner.estimate.machine import Machine
from xtuner.estimate.memory import estimate, size_text
from xtuner.language import translate
from xtuner.proposal.config import recipe_of
from xtuner.proposal.data import DataFacts
from xtuner.proposal.memory import memory_config
from xtuner.proposal.methods import trains_all
from xtuner.proposal.model import ModelFacts

COVERED = 0.99  # fraction of the rows that are not cut
SHORTEST, PACKED = 256, 2048
MAX_TOKENS_IN_BATCH = 4096
MAX_TOKENS_IN_UPDATE = 32768
WANTED_UPDATES = 100
# The fraction of the free memory that a run may use by the estimate.
USABLE = 0.8
_LR_PAIRS = 5e-6


@dataclass(frozen=True)
class Choice:
    """A setting, its value and the reason."""

    name: str
    value: Any
    why: str


@dataclass(frozen=True)
class Proposal:
    """All choices, and the estimated memory."""

    choices: list[Choice]
    memory_bytes: int | None

    def value(self, name: str) -> Any:
        """The value chosen for `name`."""
        return next(choice.value for choice in self.choices if choice.name == name)


def choose(model: ModelFacts, data: DataFacts, machine: Machine, method: str | None = None) -> Proposal:
    """The settings for that model, data and machine."""
    draft = Draft(model, data, machine)
    length = draft.take(_choose_length(model, data))
    pack = [draft.take(_choose_pack(data, length.value))] if data.is_pairs else []
    how = draft.take(_choose_method(draft, method))
    more = [draft.take(choice) for choice in _choose_preference(draft)]
    recompute = draft.take(choose_recompute(draft))
    batch = draft.take(_choose_batch(draft))
    tokens = (pack or [length])[0].value * batch.value
    epochs, why_epochs = _choose_epochs(data, tokens)
    updates = draft.take(_choose_accumulation(data, tokens, epochs))
    num_iters = max(1, math.ceil(data.num_tokens * epochs / tokens))
    every = max(1, min(500, num_iters // 3))
    template = (
        []
        if data.is_text or not data.takes_template
        else [Choice("prompt_template", model.template, _joined(model.why_template, data.note_template))]
    )
    rows = translate("rows are {format}: {why}", format=data.format_name, why=data.why_format)
    often = translate("three times in the {count} iterations, at most every 500", count=num_iters)
    return Proposal(
        [
            *template,
            *_choose_images(data),
            Choice("dataset_map_fn", data.map_fn, rows),
            length,
            *pack,
            how,
            *more,
            recompute,
            batch,
            updates,
            Choice("max_epochs", epochs, why_epochs),
            Choice("save_steps", every, often),
        ],
        draft.memory(),
    )


class Draft:
    """The choices so far; their memory is estimated as by `xtuner check`."""

    def __init__(self, model: ModelFacts, data: DataFacts, machine: Machine) -> None:
        self.model, self.data, self.machine = model, data, machine
        self._chosen: dict[str, Any] = {}

    def take(self, choice: Choice) -> Choice:
        """Add a choice to the config."""
        self._chosen[choice.name] = choice.value
        return choice

    def value(self, name: str) -> Any:
        """The value chosen for `name`."""
        return self._chosen[name]

    def choose_method(self, asked: str | None) -> Choice:
        """The method: the one that is asked for, or an adapter that fits."""
        return _choose_method(self, asked)

    @property
    def recompute(self) -> str:
        """The chosen recomputation, for comparisons; "full" if memory is to decide it."""
        return "full" if self._chosen.get("use_activation_checkpointing", True) else "none"

    def memory(self, recompute: str | None = None, **more: Any) -> int | None:
        """Peak memory in bytes with `more` settings; `recompute` replaces that of the config."""
        shape = self.model.shape
        if shape is None:
            return None
        recipe = recipe_of("draft", self.model, self.data, {**self._chosen, **more})
        run = read_training(memory_config(recipe), shape, self.machine)
        return estimate(shape, run if recompute is None else replace(run, recompute=recompute)).total


def _joined(*reasons: str) -> str:
    return translate("; ").join(filter(None, reasons))


def _choose_images(data: DataFacts) -> list[Choice]:
    if not data.has_images:
        return []
    why = "an image of the rows is there" if data.image_folder else "the names of images need no folder"
    return [Choice("image_folder", data.image_folder, translate(why))]


def _choose_length(model: ModelFacts, data: DataFacts) -> Choice:
    covered = data.length_of(COVERED)
    length = max(SHORTEST, 2 ** math.ceil(math.log2(max(1, covered))))
    what = "{share:.0%} of the rows have at most {covered} tokens, the longest {longest}"
    why = [translate(what, share=COVERED, covered=covered, longest=data.lengths[-1])]
    if not data.is_pairs and length < PACKED and data.num_tokens > WANTED_UPDATES * PACKED:
        length = PACKED
        why.append(translate("short rows share one"))
    if length > model.context:
        length = model.context
        why.append(translate("the model has no more positions"))
    cut = sum(n > length for n in data.lengths)
    untrained = sum(n >= length for n in data.prompts)
    if untrained and untrained == len(data.prompts):
        what = (
            "{path}: no row has room for an answer in the {length} positions of the model, as the shortest "
            "prompt has {tokens} tokens: shorten tools and texts, or take another model"
        )
        raise DataError(translate(what, path=data.path, length=length, tokens=data.prompts[0]))
    if cut:
        what = "{cut} of {count} measured are cut"
        if untrained:
            what = "{cut} of {count} measured are cut, {untrained} of them before their first answer"
        why.append(translate(what, cut=cut, count=len(data.lengths), untrained=untrained))
    return Choice("max_length", length, _joined(*why))


def _choose_pack(data: DataFacts, max_length: int) -> Choice:
    length, wanted = 2 * max_length, data.num_tokens / WANTED_UPDATES
    while 2 * length <= min(MAX_TOKENS_IN_BATCH, wanted):
        length *= 2
    why = translate("the longest pair fits, and short ones share an item")
    return Choice("max_packed_length", length, why)


def _choose_epochs(data: DataFacts, tokens: int) -> tuple[int, str]:
    if data.is_pairs and data.num_tokens > WANTED_UPDATES * tokens:
        return 1, translate("once over pairs, which are soon learnt by heart")
    if data.is_pairs:
        return 3, translate("three times over few pairs")
    if data.is_text:
        return 1, translate("once over texts")
    return 3, translate("three times over conversations")


def _choose_method(draft: Draft, asked: str | None) -> Choice:
    quantised = draft.model.quantised
    begin = "grpo_" if draft.data.is_prompts else "dpo_" if draft.data.is_pairs else ""
    lora, qlora = f"{begin}lora", f"{begin}qlora"
    if asked not in (None, "dpo", "grpo"):
        return Choice("method", asked, translate("as --method says"))
    if quantised:
        what = "its weights are quantised already, with {method}"
        return Choice("method", lora, translate(what, method=quantised))
    kind = draft.machine.device
    if kind_of(kind).for_bits is None:
        what = "bitsandbytes has no layers in 4 bits on {device}"
        return Choice("method", lora, translate(what, device=kind))
    need = draft.memory("full", method=lora)
    if need is None:
        what = "the model's size is not known, and this needs the least memory"
        return Choice("method", qlora, translate(what))
    free = draft.machine.free_bytes
    fits = need < USABLE * free
    what = "it does not fit in 16 bits: about {need}, {free} are free on {machine}"
    if fits:
        what = "it fits in 16 bits: about {need}, {free} are free on {machine}"
    why = translate(what, need=size_text(need), free=size_text(free), machine=draft.machine.name)
    return Choice("method", lora if fits else qlora, why)


def _choose_preference(draft: Draft) -> list[Choice]:
    """The learning rate of an adapter, or the reference of all weights; nothing without pairs."""
    if not draft.data.is_pairs:
        return []
    if not trains_all(draft.value("method")):
        return [Choice("lr", _LR_PAIRS, translate("ten times that of DPO on all weights"))]
    name = "stored_reference"
    need = draft.memory("full")
    if need is None:
        what = "the model's size is not known, and this needs no frozen copy of it"
        return [Choice(name, True, translate(what))]
    fits = need < USABLE * draft.machine.free_bytes
    what = "with a frozen copy of the model about {need} are needed"
    if fits:
        what = "with a frozen copy of the model about {need} are needed, which fits, and the log has kl"
    return [Choice(name, not fits, translate(what, need=size_text(need)))]


def choose_recompute(draft: Draft) -> Choice:
    """Whether activations are computed again in the backward pass."""
    name = "use_activation_checkpointing"
    need = draft.memory("none")
    if need is None:
        return Choice(name, True, translate("the model's size is not known, and this needs less memory"))
    fits = need < USABLE * draft.machine.free_bytes
    what = "without it about {need} are needed"
    if fits:
        what = "without it about {need} are needed, which fits, and it is faster"
    return Choice(name, not fits, translate(what, need=size_text(need)))


def _choose_batch(draft: Draft) -> Choice:
    if draft.data.is_pairs or draft.model.shape is None or draft.machine.device == "cpu":
        return Choice("batch_size", 1, translate("rows are packed, and more at once gain nothing here"))
    size, length = 1, draft.value("max_length")
    while 2 * size * length <= MAX_TOKENS_IN_BATCH:
        need = draft.memory(draft.recompute, batch_size=2 * size)
        if need is None or need > USABLE * draft.machine.free_bytes:
            break
        size *= 2
    what = "{tokens} tokens at once, {enough} are enough"
    why = translate(what, tokens=size * length, enough=MAX_TOKENS_IN_BATCH)
    return Choice("batch_size", size, why)


def _choose_accumulation(data: DataFacts, tokens: int, epochs: int) -> Choice:
    total = data.num_tokens * epochs
    wanted = min(MAX_TOKENS_IN_UPDATE, total / WANTED_UPDATES)
    count = max(1, round(wanted / tokens))
    updates = max(1, math.ceil(total / (tokens * count)))
    what = (
        "about {updates} updates of {tokens} tokens" if updates > 1 else "about 1 update of {tokens} tokens"
    )
    return Choice("accumulative_counts", count, translate(what, updates=updates, tokens=tokens * count))
