"""What a run will need: memory by parts, and a rough time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtuner.check.files import data_bytes
from xtuner.config.schema import Fault
from xtuner.errors import ModelError
from xtuner.estimate.configured import max_length, named_llm, read_training
from xtuner.estimate.machine import Machine, find_machine
from xtuner.estimate.memory import Memory, Training, estimate, size_text
from xtuner.estimate.shape import Shape, read_shape
from xtuner.estimate.speed import seconds
from xtuner.model_folder import read_json

# UTF-8 bytes of a JSON file to a token; Chinese and English are near one another in this.
BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class Forecast:
    """The needs of a run on a machine; `seconds` is None where the data or the card is not known."""

    shape: Shape
    training: Training
    machine: Machine
    memory: Memory
    num_tokens: float | None
    seconds: float | None


def forecast(
    config: Mapping[str, Any], known_sizes: Callable[[str], Mapping[str, Any] | None] | None = None
) -> Forecast | None:
    """The needs of the run; None where nothing is known of the model.

    `known_sizes` gives the config.json of a model by its name on the hub.
    """
    sizes = model_config(config, known_sizes)
    shape = read_shape(sizes) if sizes else None
    if shape is None:
        return None
    machine = find_machine()
    training = read_training(config, shape, machine)
    num_tokens = _num_tokens(config, training)
    time = seconds(shape, training, num_tokens, machine) if num_tokens else None
    return Forecast(shape, training, machine, estimate(shape, training), num_tokens, time)


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
    """Warnings where the run does not fit."""
    warnings = []
    need, free = found.memory.total, found.machine.free_bytes
    if need > free:
        warnings.append(
            Fault(
                "memory",
                f"memory: about {size_text(need)} are needed and {size_text(free)} are free on "
                f"{found.machine.name}: {'; '.join(_cures(found))}",
            )
        )
    length, context = max_length(config, found.shape), found.shape.context
    model = config.get("model")
    extended = isinstance(model, Mapping) and model.get("max_position_embeddings")
    if context and length > context and not extended:
        message = f"max_length is {length}, and the model has {context} positions: set max_length = {context}"
        warnings.append(Fault("max_length", message))
    return warnings


def _cures(found: Forecast) -> list[str]:
    run = found.training
    cures = []
    if run.is_full:
        cures.append("train an adapter instead (lora=dict(type=LoraConfig, r=64))")
    elif run.bits == 16:
        cures.append("load the model in 4 bits (quantization_config)")
    if not run.recompute:
        cures.append("set use_activation_checkpointing=True")
    cures.append("lower batch_size or max_length")
    return cures


def _num_tokens(config: Mapping[str, Any], training: Training) -> float | None:
    """Tokens of the whole run, by its iterations or by the size of the data files."""
    loop = config.get("train_cfg")
    loop = loop if isinstance(loop, Mapping) else {}
    iters, epochs = loop.get("max_iters"), loop.get("max_epochs")
    if isinstance(iters, int):
        return iters * training.tokens
    size = data_bytes(config)
    return epochs * size / BYTES_PER_TOKEN if size and isinstance(epochs, (int, float)) else None
