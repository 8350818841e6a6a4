"""Names: all of the original's, every combination of the tables, and help with the wrong ones."""

import dataclasses
import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from xtuner.errors import NotFoundError
from xtuner.recipes import catalogue
from xtuner.recipes.deepspeed_files import deepspeed_file, deepspeed_names
from xtuner.recipes.models import MODELS
from xtuner.recipes.render import render
from xtuner.recipes.special import SCRIPTS

DATA = Path(__file__).parents[1] / "data"


def test_all_names_of_the_original_are_listed():
    """585 names: 576 recipes, five DeepSpeed files, four scripts."""
    with gzip.open(DATA / "config_matrix.json.gz", "rt", encoding="utf-8") as file:
        recipes = set(json.load(file)["configs"])
    names = {*recipes, *deepspeed_names(), *SCRIPTS}
    assert len(names) == 585
    assert names <= set(catalogue.names())
    assert catalogue.names() == sorted(catalogue.names())


CURRENT = """
    qwen2_5_7b_instruct qwen3_30b_a3b llama3_1_8b llama3_2_1b llama3_3_70b_instruct gemma2_9b_it gemma3_4b
    internlm2_5_20b internlm3_8b_instruct glm4_9b_chat deepseek_r1_distill_llama_8b phi4 minicpm4_8b
    mistral_nemo_instruct smollm2_135m smollm3_3b
"""


@pytest.mark.parametrize("model", CURRENT.split())
def test_current_families_have_the_usual_nine(model):
    """Full, LoRA and QLoRA; on alpaca, on the user's conversations, on the user's text."""
    for method in ("full", "lora", "qlora"):
        for data in ("alpaca_e3", "custom_sft_e1", "custom_pretrain_e1"):
            assert f"{model}_{method}_{data}" in catalogue.names()


def test_a_model_needs_one_row_and_nothing_else(monkeypatch):
    """Its recipes resolve as soon as the row is there."""
    row = dataclasses.replace(MODELS["qwen3_8b"], name="mine_1b", path="me/mine-1b")
    monkeypatch.setitem(MODELS, "mine_1b", row)
    recipe = catalogue.find("mine_1b_qlora_code_alpaca_e2")
    assert (recipe.method.name, recipe.dataset.name) == ("qlora", "code_alpaca")
    text = render(recipe)
    assert "pretrained_model_name_or_path = 'me/mine-1b'" in text
    assert "max_epochs = 2" in text


def test_rows_combine_though_nobody_listed_them():
    """Any model, method, data and number of epochs."""
    name = "gemma2_9b_it_lora_colorist_e7"
    assert name not in catalogue.names()
    assert "max_epochs = 7" in render(name)


def test_patterns_narrow_the_list():
    """A part of the name or a glob, in any case; several must all match."""
    assert catalogue.match(["LLAMA3_8B", "dpo"]) == ["llama3_8b_instruct_dpo_qlora_varlenattn"]
    assert catalogue.match(["deepspeed_zero?"]) == ["deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3"]
    assert catalogue.match(["no such thing"]) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("internlm2_chat_1_8b_qlora_alpca_e3", "Did you mean 'internlm2_chat_1_8b_qlora_alpaca_e3'"),
        ("deepspeed_zero2", "pass it to --deepspeed"),
        ("convert_to_official", "xtuner convert pth_to_hf CONFIG PTH OUT --save-format official"),
    ],
)
def test_a_name_that_is_no_recipe_is_answered(name, message):
    """With the nearest names, or with what to do instead."""
    with pytest.raises(NotFoundError, match=message):
        catalogue.find(name)


def test_deepspeed_files():
    """Five settings; another name is answered with all of them."""
    stages = {n: json.loads(deepspeed_file(n).read_text()) for n in deepspeed_names()}
    assert {n: s["zero_optimization"]["stage"] for n, s in stages.items()} == {
        "deepspeed_zero1": 1,
        "deepspeed_zero2": 2,
        "deepspeed_zero2_offload": 2,
        "deepspeed_zero3": 3,
        "deepspeed_zero3_offload": 3,
    }
    with pytest.raises(NotFoundError, match="Did you mean 'deepspeed_zero3'"):
        deepspeed_file("deepspeed_zero4")


def test_the_catalogue_is_light():
    """Neither torch nor anything else that is slow to import."""
    code = (
        "import sys; from xtuner.recipes import catalogue, render; catalogue.names(); "
        "print(sorted({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
