"""The GPU memory that a built-in config is expected to need, from the tables alone; no config is rendered."""

from __future__ import annotations

from xtuner.estimate.configured import read_training
from xtuner.estimate.machine import Machine
from xtuner.estimate.memory import estimate
from xtuner.estimate.shape import read_shape
from xtuner.recipes.catalogue import Recipe
from xtuner.recipes.methods import TEXT
from xtuner.recipes.parts import adapter_config, llm_config
from xtuner.recipes.plan import Plan
from xtuner.recipes.sizes import SIZES

# Any card that computes in bf16.
_CARD = Machine("cuda", "GPU", 0, 0)


def expected_memory(recipe: Recipe) -> int | None:
    """Bytes on one GPU at the peak, None for models of unknown size and methods with more than one model."""
    sizes = SIZES.get(recipe.model.name)
    plan = Plan(recipe)
    if sizes is None or recipe.method not in TEXT or plan.options["training_args"]:
        return None
    shape = read_shape({**sizes, "max_position_embeddings": recipe.model.context})
    assert shape is not None, recipe.model.name
    config = {
        "model": {"llm": llm_config(plan), "lora": adapter_config(plan)},
        "optim_wrapper": {
            "type": "AmpOptimWrapper",
            "optimizer": {"type": plan.settings["schedule"]["optim_type"]},
            "dtype": plan.options["amp_dtype"],
            "accumulative_counts": plan.settings["schedule"]["accumulative_counts"],
        },
        "train_dataloader": {
            "batch_size": plan.settings["schedule"]["batch_size"],
            "dataset": {
                "max_length": plan.settings["data"]["max_length"],
                "max_packed_length": plan.settings["data"]["max_packed_length"],
            },
        },
    }
    return estimate(shape, read_training(config, shape, _CARD)).total
