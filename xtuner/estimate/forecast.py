"""The needs of a run: memory by parts, and a rough time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xtuner.config.schema import Fault
from xtuner.devices import NVIDIA
from xtuner.errors import ModelError
from xtuner.estimate.configured import named_llm, named_reference, read_training, sample_length
from xtuner.estimate.fixes import fixes
from xtuner.estimate.images import with_images
from xtuner.estimate.llava import with_llava
from xtuner.estimate.machine import Machine, find_machine
from xtuner.estimate.memory import Memory, sampling_bytes, size_text, weight_bytes
from xtuner.estimate.processes import ALONE, Division, process_memory
from xtuner.estimate.shape import Shape, read_shape
from xtuner.estimate.speed import seconds
from xtuner.estimate.training import Training
from xtuner.families import FAMILIES, UNKNOWN
from xtuner.language import padded, translate
from xtuner.model_folder import read_json

# UTF-8 bytes of a JSON file per token; similar in Chinese and English.
BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class Forecast:
    """The needs of a run on a machine; `seconds` is None if the data or the card is not known.

    With several processes, `machine` is the part of one, and `memory` that of the process that needs most;
    `host` is its memory on the host, `loading` its memory while the model is loaded.
    """

    shape: Shape
    training: Training
    machine: Machine
    memory: Memory
    num_tokens: float | None
    seconds: float | None
    division: Division = ALONE
    host: int = 0
    loading: int = 0


def forecast(
    config: Mapping[str, Any],
    known_sizes: Callable[[str], Mapping[str, Any] | None] | None = None,
    division: Division = ALONE,
    num_bytes: int | None = None,
) -> Forecast | None:
    """The needs of the run by the processes of `division`; None for unknown models.

    `known_sizes` gives the config.json of a model by its name on the hub; `num_bytes` is the size of all data
    files, None where it is not known.
    """
    sizes = model_config(config, known_sizes)
    shape = with_images(read_shape(sizes) if sizes else None, named_llm(config))
    shape = with_llava(shape, config.get("model"))
    if shape is None:
        return None
    machine = _process_machine(find_machine(), division)
    training = read_training(config, shape, machine, division, _reference_bytes(config, known_sizes, machine))
    num_tokens = _num_tokens(config, training, division, num_bytes)
    own = num_tokens / division.processes if num_tokens else None
    # How long sampled answers will be is not known.
    time = seconds(shape, training, own, machine) if own and not config.get("rollouts") else None
    needs = process_memory(shape, training, division)
    return Forecast(
        shape, training, machine, needs.device, num_tokens, time, division, needs.host, needs.loading
    )


def _reference_bytes(
    config: Mapping[str, Any],
    known_sizes: Callable[[str], Mapping[str, Any] | None] | None,
    machine: Machine,
) -> int:
    """Bytes of the model that is the reference; 0 without one, or of an unknown size."""
    reference = named_reference(config)
    sizes = model_config(reference, known_sizes)
    shape = read_shape(sizes) if sizes else None
    return 0 if shape is None else weight_bytes(shape, read_training(reference, shape, machine))


def _process_machine(machine: Machine, division: Division) -> Machine:
    """The part of `machine` for one process: a GPU, or a part of the CPU."""
    here = min(division.per_node, division.processes)
    if machine.device != "cpu" or here == 1:
        return machine
    return replace(
        machine,
        total_bytes=machine.total_bytes // here,
        free_bytes=machine.free_bytes // here,
        num_cores=max(1, machine.num_cores // here),
    )


def model_config(
    config: Mapping[str, Any], known_sizes: Callable[[str], Mapping[str, Any] | None] | None = None
) -> Mapping[str, Any] | None:
    """The config.json of the language model, from its folder or by its name on the hub."""
    name = named_llm(config)
    if name is None:
        return None
    file = Path(name) / "config.json"
    if file.is_file():
        try:
            return read_json(file)
        except ModelError:
            return None
    return known_sizes(name) if known_sizes else None


def shortages(config: Mapping[str, Any], found: Forecast) -> list[Fault]:
    """Warnings if the run does not fit."""
    warnings = []
    need, free = size_text(found.memory.total), size_text(found.machine.free_bytes)
    if found.memory.total > found.machine.free_bytes:
        message = translate(
            "memory: about {need} are needed{each} and {free} are free on {name}: {cures}",
            need=need,
            each="" if found.division.is_alone else translate(" for each process"),
            free=free,
            name=found.machine.name,
            cures=translate("; ").join(cures(found)),
        )
        warnings.append(Fault("memory", message))
    elif found.loading > found.machine.free_bytes and not found.division.is_alone:
        message = translate(
            "memory: each process holds all weights while they are read, {loading}, and {free} are free on "
            "{name}: train with --fsdp, which reads parts",
            loading=size_text(found.loading),
            free=free,
            name=found.machine.name,
        )
        warnings.append(Fault("memory", message))
    length, context = sample_length(config, found.shape), found.shape.context
    model = config.get("model")
    extended = isinstance(model, Mapping) and model.get("max_position_embeddings")
    if context and length > context and not extended:
        what = "max_length is {length}, and the model has {context} positions: set max_length = {context}"
        if config.get("rollouts"):
            what = (
                "max_length and rollouts.max_new_tokens are {length} together, and the model has {context} "
                "positions: answers to long prompts are cut"
            )
        message = translate(what, length=length, context=context)
        warnings.append(Fault("max_length", message))
    return warnings


def cures(found: Forecast) -> list[str]:
    """The cheapest changes of the config that save memory, each with the amount."""
    return [
        translate("{text} saves {saves}", text=fix.text, saves=size_text(fix.saves))
        for fix in fixes(found.shape, found.training, found.division)
    ]


_RECOMPUTED = {
    "none": "",
    "selective": ", every second layer is recomputed",
    "full": ", layers are recomputed",
    "offload": ", layers are recomputed from inputs on the host",
}


def memory_lines(found: Forecast) -> list[str]:
    """The estimate as lines: the total, then each part."""
    known = FAMILIES.get(found.shape.family, UNKNOWN).sizes is not None
    about = "" if known else translate(", estimated as a Llama")
    images = found.shape.encoder + found.shape.projector
    if images:
        about += translate(", and {weights} of the parts that see or hear", weights=weights_text(images))
    elif found.shape.sees:
        about += translate(", without the parts that see or hear")
    free = translate(
        "{free} free on {name}", free=size_text(found.machine.free_bytes), name=found.machine.name
    )
    shared = found.division
    each = (
        ""
        if shared.is_alone
        else translate(" for each of {count} processes, {how},", count=shared.processes, how=shared.text)
    )
    total = size_text(found.memory.total)
    tokens, weights = found.training.tokens, weights_text(found.shape.num_weights)
    again = translate(_RECOMPUTED[found.training.recompute])
    parts = {**found.memory.parts(), **({"on the host": found.host} if found.host else {})}
    device = found.machine.device
    assumed = translate("         as on an NVIDIA GPU: on {device} it was never measured", device=device)
    return [
        translate("memory   about {total}{each} ({free})", total=total, each=each, free=free),
        *([] if device in ("cpu", NVIDIA) else [assumed]),
        translate("         a batch has up to {tokens} tokens{again}", tokens=tokens, again=again),
        translate("         the model has {weights} weights{about}", weights=weights, about=about),
        *(f"         {padded(translate(name), 12)} {size_text(size):>8}" for name, size in parts.items()),
        *_sampling_lines(found),
    ]


def _sampling_lines(found: Forecast) -> list[str]:
    """What answers need while they are sampled, which may be less than training needs."""
    sampled = found.training.sampled
    if sampled is None:
        return []
    what = "         sampling holds up to {rows} answers of {prompt} + {answer} tokens: a KV cache of {size}"
    size = size_text(sampling_bytes(found.shape, found.training))
    return [translate(what, rows=sampled.rows, prompt=sampled.prompt, answer=sampled.answer, size=size)]


def weights_text(number: int) -> str:
    """`8.03 billion` or `56.12 million`."""
    if number >= 1e9:
        return translate("{billions:.2f} billion", billions=number / 1e9)
    return translate("{millions:.2f} million", millions=number / 1e6)


def _num_tokens(
    config: Mapping[str, Any], training: Training, division: Division, num_bytes: int | None
) -> float | None:
    """Tokens of the whole run, by its iterations or by the size of the data files."""
    loop = config.get("train_cfg")
    loop = loop if isinstance(loop, Mapping) else {}
    iters, epochs = loop.get("max_iters"), loop.get("max_epochs")
    if isinstance(iters, int):
        return iters * training.tokens * (division.processes // division.sequence)
    if not num_bytes or not isinstance(epochs, (int, float)):
        return None
    return epochs * num_bytes / BYTES_PER_TOKEN
