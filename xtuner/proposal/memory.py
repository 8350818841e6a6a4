"""The estimated memory of a built-in or proposed config, from the tables; no config is rendered.

Recipe  ->  the settings of its config that decide memory  ->  Training  ->  bytes
"""

from __future__ import annotations

from typing import Any

from xtuner.devices import NVIDIA
from xtuner.estimate.configured import read_training
from xtuner.estimate.machine import Machine
from xtuner.estimate.memory import estimate
from xtuner.estimate.shape import read_shape
from xtuner.recipes.catalogue import Recipe
from xtuner.recipes.methods import PREFERENCE, REWARDED, TEXT
from xtuner.recipes.page import Code
from xtuner.recipes.parts import adapter_config, llm_config
from xtuner.recipes.plan import Plan
from xtuner.recipes.sizes import SIZES, known_sizes

# Any card that computes in bf16.
_CARD = Machine(NVIDIA, "GPU", 0, 0)


def expected_memory(recipe: Recipe) -> int | None:
    """Peak memory on one GPU in bytes; None for models of unknown size or methods with several models."""
    plan, sizes = Plan(recipe), SIZES.get(recipe.model.name)
    if sizes is None or recipe.method not in [*TEXT, *PREFERENCE, *REWARDED] or plan.options["training_args"]:
        return None
    # Some recipes name another model than that of their row.
    named = known_sizes(plan.settings["model"][recipe.method.path_setting])
    shape = read_shape(named or {**sizes, "max_position_embeddings": recipe.model.context})
    assert shape is not None, recipe.model.name
    return estimate(shape, read_training(memory_config(recipe), shape, _CARD)).total


def memory_config(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe's config that `read_training` needs."""
    plan = Plan(recipe)
    schedule, data = plan.settings["schedule"], plan.settings["data"]
    sampled = {name: plan.settings["rollouts"][name] for name in ("count", "max_new_tokens")}
    return {
        **({"rollouts": sampled} if plan.has("rewards") else {}),
        "model": {
            "type": recipe.method.model["type"],
            "llm": llm_config(plan),
            "lora": adapter_config(plan),
            **plan.options["model"],
        },
        "optim_wrapper": {
            "type": "AmpOptimWrapper",
            "optimizer": {"type": schedule["optim_type"]},
            "dtype": plan.options["amp_dtype"],
            "accumulative_counts": schedule["accumulative_counts"],
        },
        "train_dataloader": {
            "batch_size": schedule["batch_size"],
            "dataset": {
                "type": plan.recipe.dataset.sources[0].config.get("type"),
                "max_length": data["max_length"],
                "max_packed_length": _number(data["max_packed_length"], data),
            },
        },
    }


def _number(value: Any, settings: dict[str, Any]) -> Any:
    """The value of a setting that may be written as a multiple of another: `max_length * 2`."""
    if not isinstance(value, Code):
        return value
    name, _, times = value.partition(" * ")
    return settings[name] * int(times)
