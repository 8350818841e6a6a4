"""Write the proposed config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from xtuner.recipes.catalogue import Recipe
from xtuner.recipes.datasets import Dataset, own_data, own_images, own_pairs, own_prompts
from xtuner.recipes.methods import METHODS
from xtuner.recipes.models import Model
from xtuner.recipes.page import Code
from xtuner.recipes.render import render

if TYPE_CHECKING:
    from xtuner.proposal.choices import Proposal
    from xtuner.proposal.data import DataFacts
    from xtuner.proposal.model import ModelFacts

# Enough to judge the answers during training.
SAMPLE_TOKENS = 100
# Choices that are not variables of part 1 of the config.
_OF_MODEL = ("use_activation_checkpointing", "stored_reference")
_ELSEWHERE = ("method", "dataset_map_fn", "image_folder", "prompt_template", *_OF_MODEL)
# Answers to the training prompts are in the log of a run that samples them anyway.
_WITHOUT_SAMPLES = {"evaluation_freq": None, "SYSTEM": None, "chat": None}


def write_config(
    name: str,
    model: ModelFacts,
    data: DataFacts,
    proposal: Proposal,
    lang: str = "en",
    forgetting: bool = False,
) -> str:
    """The text of the proposed config, in five parts as in built-in configs."""
    chosen = {choice.name: choice.value for choice in proposal.choices}
    recipe = recipe_of(name, model, data, {**chosen, "forgetting": forgetting})
    return render(recipe, lang, pretrained_model_name_or_path=model.path, data_path=data.path)


def recipe_of(name: str, model: ModelFacts, data: DataFacts, chosen: Mapping[str, Any]) -> Recipe:
    """The recipe with the settings chosen so far, at least `method`; the others have defaults."""
    row = model.row or Model(name, model.path, model.family, model.context)
    row = dataclasses.replace(row, template=model.template, sequence_parallel=False, by_method={})
    changes: dict[str, Any] = {key: value for key, value in chosen.items() if key not in _ELSEWHERE}
    if data.is_pairs:
        changes["use_varlen_attn"] = True
    elif not data.is_prompts:
        changes["pack_to_max_length"] = True
    if data.chat_template is not None:
        changes["tokenizer"] = {"chat_template": data.chat_template}
    changes["hooks"] = ["ThroughputHook"]
    if "save_steps" in changes:
        changes["evaluation_freq"] = changes["save_steps"]
        if changes["save_steps"] < 50:
            changes["log_every"] = 1
    changes["evaluation_inputs"] = data.questions or None
    changes["chat"] = {"max_new_tokens": SAMPLE_TOKENS}
    if data.shown:
        changes["evaluation_images"] = list(data.shown)
        changes["SYSTEM"] = None
        changes["chat"]["evaluation_images"] = Code("evaluation_images")
        if not data.takes_template:
            changes["chat"]["prompt_template"] = Code("PROMPT_TEMPLATE.auto")
    if not data.questions:
        changes |= _WITHOUT_SAMPLES
    if chosen.get("held_out"):
        changes["loop"] = {"max_epochs": Code("max_epochs"), "val_interval": Code("save_steps")}
        changes["checkpoint"] = {"save_best": "reward"}
    # Without this setting training chooses the recomputation by memory.
    recomputes = chosen.get("use_activation_checkpointing", True)
    changes["model"] = {
        **({"type": Code("VisionLanguageFinetune")} if data.has_images else {}),
        **({} if recomputes else {"use_activation_checkpointing": False}),
        **({"stored_reference": True} if chosen.get("stored_reference") else {}),
    }
    return Recipe(name, row, METHODS[chosen["method"]], _rows(data), changes)


def _rows(data: DataFacts) -> Dataset:
    if data.is_pairs:
        return own_pairs(data.map_fn)
    if data.is_prompts:
        return own_prompts(data.map_fn)
    if data.has_images:
        return own_images(data.image_folder, takes_template=data.takes_template)
    return own_data(data.map_fn, is_text=data.is_text)
