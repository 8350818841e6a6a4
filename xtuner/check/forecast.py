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
from xtuner.estimate.fixes import fixes
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
                f"{found.machine.name}: {'; '.join(cures(found))}",
            )
        )
    length, context = max_length(config, found.shape), found.shape.context
    model = config.get("model")
    extended = isinstance(model, Mapping) and model.get("max_position_embeddings")
    if context and length > context and not extended:
        message = f"max_length is {length}, and the model has {context} positions: set max_length = {context}"
        warnings.append(Fault("max_length", message))
    return warnings


def cures(found: Forecast) -> list[str]:
    """The cheapest changes of the config that save memory, each with what it saves."""
    return [f"{fix.text} saves {size_text(fix.saves)}" for fix in fixes(found.shape, found.training)]


_RECOMPUTED = {
    "none": "",
    "selective": ", every second layer is recomputed",
    "full": ", layers are recomputed",
    "offload": ", layers are recomputed from inputs on the host",
}


def memory_lines(found: Forecast) -> list[str]:
    """The estimate as a block: the whole, then each part."""
    about = "" if found.shape.is_exact else ", reckoned as if it were a Llama"
    free = f"{size_text(found.machine.free_bytes)} free on {found.machine.name}"
    return [
        f"memory   about {size_text(found.memory.total)} ({free}); a batch has up to {found.training.tokens} "
        f"tokens{_RECOMPUTED[found.training.recompute]}, the model "
        f"{weights_text(found.shape.num_weights)} weights{about}",
        *(f"         {name:<12} {size_text(size):>8}" for name, size in found.memory.parts().items()),
    ]


def weights_text(number: int) -> str:
    """`8.03 billion` or `56.12 million`."""
    return f"{number / 1e9:.2f} billion" if number >= 1e9 else f"{number / 1e6:.2f} million"


def _num_tokens(config: Mapping[str, Any], training: Training) -> float | None:
    """Tokens of the whole run, by its iterations or by the size of the data files."""
    loop = config.get("train_cfg")
    loop = loop if isinstance(loop, Mapping) else {}
    iters, epochs = loop.get("max_iters"), loop.get("max_epochs")
    if isinstance(iters, int):
        return iters * training.tokens
    size = data_bytes(config)
    return epochs * size / BYTES_PER_TOKEN if size and isinstance(epochs, (int, float)) else None
