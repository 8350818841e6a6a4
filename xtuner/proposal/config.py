"""The text of the config that was chosen."""

from __future__ import annotations

import dataclasses
from typing import Any

from xtuner.proposal.choices import Plan
from xtuner.proposal.data import DataFacts
from xtuner.proposal.model import ModelFacts
from xtuner.recipes.catalogue import Recipe
from xtuner.recipes.datasets import own_data
from xtuner.recipes.methods import METHODS
from xtuner.recipes.models import Model
from xtuner.recipes.render import render

# A look at the model, not a conversation with it.
SAMPLE_TOKENS = 100
# What a setting of the plan is called where it is no variable of part 1.
_ELSEWHERE = ("method", "dataset_map_fn", "prompt_template", "use_activation_checkpointing")


def write_config(name: str, model: ModelFacts, data: DataFacts, plan: Plan, lang: str = "en") -> str:
    """The config of the plan, in five parts as every built-in one."""
    row = model.row or Model(name, model.path, model.family, model.context)
    row = dataclasses.replace(row, template=model.template, sequence_parallel=False, by_method={})
    changes: dict[str, Any] = {
        choice.name: choice.value for choice in plan.choices if choice.name not in _ELSEWHERE
    }
    changes["pack_to_max_length"] = True
    changes["hooks"] = ["ThroughputHook"]
    changes["evaluation_freq"] = changes["save_steps"]
    changes["evaluation_inputs"] = data.questions or None
    changes["chat"] = {"max_new_tokens": SAMPLE_TOKENS}
    if not data.questions:
        changes |= {"evaluation_freq": None, "SYSTEM": None, "chat": None}
    if changes["save_steps"] < 50:
        changes["log_every"] = 1
    if not plan.value("use_activation_checkpointing"):
        changes["model"] = {"use_activation_checkpointing": False}
    rows = own_data(plan.value("dataset_map_fn"), is_text=data.is_text)
    recipe = Recipe(name, row, METHODS[plan.value("method")], rows, changes)
    return render(recipe, lang, pretrained_model_name_or_path=model.path, data_path=data.path)
