"""Changes of a config that save memory, cheapest first, each with the bytes that it saves.

fixes(shape, run)  ->  [Fix("model.use_activation_checkpointing = True", 1.9e9), ...]

First those that change neither result nor speed, then those that cost speed, then those that change the
result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from xtuner.blocks import RECOMPUTE
from xtuner.devices import kind_of
from xtuner.estimate.memory import ways_on
from xtuner.estimate.optimizers import ADAMW, ADAMW_8BIT, bytes_of_large
from xtuner.estimate.processes import ALONE, Division, process_memory
from xtuner.estimate.shape import Shape
from xtuner.estimate.training import Training
from xtuner.language import translate

# Fraction of the total; smaller savings are not shown.
LEAST = 0.02
# The names in a config of transformers' Trainer.
_OF_TRAINER = {
    "train_dataloader.batch_size": "training_args.per_device_train_batch_size",
    "optim_wrapper.accumulative_counts": "training_args.gradient_accumulation_steps",
    "optim_wrapper.optimizer.type = bitsandbytes.optim.AdamW8bit": "training_args.optim = 'adamw_8bit'",
    "model.use_activation_checkpointing": "training_args.gradient_checkpointing",
    "model.llm.quantization_config": "model.quantization_config",
    "model.lora": "lora",
    "--fsdp": "training_args.fsdp = 'full_shard'",
}
_AS_WRITTEN = {"selective": "'selective'", "full": "True", "offload": "'offload'"}


class Fix(NamedTuple):
    """A change of the config, and the bytes that it saves."""

    text: str
    saves: int


def fixes(shape: Shape, run: Training, division: Division = ALONE, count: int = 3) -> list[Fix]:
    """The `count` cheapest changes that save memory of a process."""

    def total(changed: Training, shared: Division = division) -> int:
        return process_memory(shape, changed, shared).device.total

    need = total(run)
    found = [Fix(text, need - total(changed)) for text, changed in _changes(run)]
    if division.backend == "ddp" and not division.is_alone:
        found.insert(0, Fix("--fsdp", need - total(run, replace(division, backend="fsdp"))))
    if run.by_trainer:
        found = [Fix(_of_trainer(fix.text), fix.saves) for fix in found]
    return [fix for fix in found if fix.saves > LEAST * need][:count]


def _of_trainer(text: str) -> str:
    for name, other in _OF_TRAINER.items():
        text = text.replace(name, other)
    return text


def _changes(run: Training) -> Iterator[tuple[str, Training]]:
    if run.sampled and run.sampled.rows > 1:
        rows = run.sampled.rows // 2
        yield f"rollouts.max_running = {rows}", replace(run, sampled=replace(run.sampled, rows=rows))
    if run.batch > 1:
        batch, more = run.batch // 2, run.accumulate * 2
        # The answers of an update are divided into batches; their number is that of its prompts.
        size = "" if run.sampled else f"train_dataloader.batch_size = {batch}{translate(' and ')}"
        yield (
            f"{size}optim_wrapper.accumulative_counts = {more}",
            replace(run, batch=batch, tokens=run.tokens * batch // run.batch, accumulate=more),
        )
    if run.copies or run.reference_bytes:
        yield "model.stored_reference = True", replace(run, copies=0, reference_bytes=0)
    later = RECOMPUTE[RECOMPUTE.index(run.recompute) + 1 :]
    # The Trainer has a switch, and no third way.
    known = ("full",) if run.by_trainer else ("full", "offload")
    way = next((way for way in known if way in later and way in ways_on(run.device)), None)
    if way is not None:
        yield (
            f"model.use_activation_checkpointing = {_AS_WRITTEN[way]}",
            replace(run, recompute=way),
        )
    if not run.is_full and run.bits == 16 and kind_of(run.device).for_bits is not None:
        text = translate("model.llm.quantization_config with load_in_4bit=True (QLoRA)")
        yield text, replace(run, bits=4)
    is_large = run.states.bits != 8 and bytes_of_large(run.states, run.trained_bytes) > 2
    if is_large and kind_of(run.device).has_8bit_optimizers:
        optimizer = "bitsandbytes.optim.AdamW8bit"
        yield f"optim_wrapper.optimizer.type = {optimizer}", replace(run, states=ADAMW_8BIT)
    length = run.tokens // run.batch
    if run.sampled:
        answer = max(1, run.sampled.answer // 2)
        fewer = run.batch * (run.sampled.answer - answer)
        shorter = replace(run, tokens=run.tokens - fewer, sampled=replace(run.sampled, answer=answer))
        yield f"rollouts.max_new_tokens = {answer}", shorter
    else:
        yield f"max_length = {length // 2}", replace(run, tokens=run.tokens // 2)
    if run.is_full:
        narrow = min(run.weight_bytes, run.compute_bytes)
        adapter = replace(run, rank=64, weight_bytes=narrow, states=ADAMW, part=None)
        yield translate("model.lora = dict(type=LoraConfig, r=64) instead of all weights"), adapter
