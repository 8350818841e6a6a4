"""Every InternVL recipe trains, on a tiny model in InternVL's own form."""

import json

import pytest

from tests import internvl
from tests.llava import picture_file
from tests.recipes.steps import config_of, step
from xtuner.check.checks import check_config
from xtuner.recipes.catalogue import names

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

NAMES = [name for name in names() if name.startswith("internvl_")]
TALK = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a red block"}]

TEXT = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]


@pytest.fixture(scope="module")
def settings(tmp_path_factory, tokenizer):
    """The settings that a user changes, by the language model in a recipe's name."""
    folder = tmp_path_factory.mktemp("recipes")
    picture_file(folder / "a.png")
    rows = [{"image": "a.png", "conversations": TALK}, {"conversations": TEXT}]
    (folder / "d.json").write_text(json.dumps(rows))
    models = {
        (family, big): internvl.save(folder / f"{family}{big}", family, tokenizer, big=big)
        for family, big in (("internlm2", False), ("internlm2", True), ("phi3", False))
    }

    def of(name):
        path = models["phi3" if "phi3" in name else "internlm2", "26b" in name]
        return {
            "path": str(path),
            "data_path": str(folder / "d.json"),
            "image_folder": str(folder),
            "max_length": 512,
        }

    return of


def test_all_names_are_there():
    assert len(NAMES) == 21


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_a_step(name, settings):
    """The projector, and the language model or its adapter; the encoder is frozen."""
    trained = step(config_of(name, settings(name)))
    projector = {n for n in trained if ".multi_modal_projector." in n}
    assert projector
    with_adapter = "lora_finetune" in name
    assert all(".lora_" in n for n in trained - projector) == with_adapter
    assert not any(".vision_tower." in n for n in trained)


def test_check_names_what_is_missing(settings):
    """The model (once, though tokenizer, model and data name it), the file and the folder of images."""
    name = "internvl_v2_internlm2_2b_qlora_finetune"
    missing = {"path": "./nowhere", "data_path": "no.json", "image_folder": "none"}
    faults = check_config(config_of(name, {**settings(name), **missing})).errors
    assert [fault.path for fault in faults] == [
        "tokenizer.pretrained_model_name_or_path",
        "train_dataloader.dataset",
        "train_dataloader.dataset.image_folders",
    ]
    found = check_config(config_of(name, settings(name)))
    assert not found.errors
    assert found.forecast is not None
