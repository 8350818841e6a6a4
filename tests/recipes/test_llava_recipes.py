"""Every LLaVA recipe trains, on tiny parts."""

import json

import pytest

from tests.llava import picture_file, save_llava
from tests.recipes.steps import config_of, step
from xtuner.check.checks import check_config
from xtuner.config import parse_config
from xtuner.recipes.catalogue import names
from xtuner.recipes.render import render

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

NAMES = [name for name in names() if "llava" in name and "convert" not in name]
TALK = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a red block"}]


@pytest.fixture(scope="module")
def settings(tmp_path_factory, llama_dir, tokenizer):
    """The settings that a user changes: folders, files, and lengths for the tiny model."""
    folder = tmp_path_factory.mktemp("recipes")
    dirs = save_llava(folder, llama_dir, tokenizer)
    picture_file(folder / "a.png")
    rows = [{"image": "a.png", "conversations": TALK}] * 2
    (folder / "d.json").write_text(json.dumps(rows))
    box = {"image": "a.png", "sents": ["the block"], "bbox": [8, 8, 32, 32], "height": 48, "width": 80}
    (folder / "refcoco.json").write_text(json.dumps([box]))
    return {
        "llm_name_or_path": str(llama_dir),
        "visual_encoder_name_or_path": str(dirs.clip),
        "image_folder": str(folder),
        "data_path": str(folder / "d.json"),
        "refcoco_path": str(folder / "refcoco.json"),
        "max_length": 128,
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_a_step(name, settings):
    """What it trains has a gradient."""
    cfg = config_of(name, settings)
    assert str(cfg.model["type"]) == "xtuner.model.LLaVAModel"
    if "pretrained_pth" in cfg:
        assert cfg.model["pretrained_pth"] == cfg["pretrained_pth"]
    trained = step(cfg)
    assert any(n.startswith("projector.") for n in trained)
    assert any(n.startswith("llm.") for n in trained) != ("pretrain" in name)


def test_check_names_what_is_missing(settings):
    """The file, the folder of images and the checkpoint of the stage before, one line each."""
    name = "llava_vicuna_7b_v15_qlora_clip_vit_large_p14_336_lora_e1_gpu8_finetune"
    missing = {"data_path": "no.json", "image_folder": "nowhere", "pretrained_pth": "no.pth"}
    given = {key: value for key, value in settings.items() if key != "refcoco_path"}
    errors = check_config(parse_config(render(name), f"{name}.py", {**given, **missing})).errors
    assert [error.path for error in errors] == [
        "train_dataloader.dataset",
        "train_dataloader.dataset.image_folder",
        "model.pretrained_pth",
    ]
    assert "there is no folder or archive of images nowhere" in errors[1].message
    there = {"pretrained_pth": None}
    assert not check_config(parse_config(render(name), f"{name}.py", {**given, **there})).errors
