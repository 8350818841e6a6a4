"""Folders of the package `llava`: read, computed and written as their own definition says, without it."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from tests import official_llava, vision
from xtuner.image_processor import load_processor
from xtuner.model.loading import load_config

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    vision.picture_files(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return official_llava.save_encoder(tmp_path_factory.mktemp("encoder") / "clip")


def load(folder, **settings):
    config = load_config(folder, **settings)
    model, report = AutoModelForImageTextToText.from_pretrained(
        folder, config=config, output_loading_info=True
    )
    assert not any(report.values()), report
    return model.eval()


def logits_of(folder, model, names, data):
    """Of the model by its processor, and of the reference, about images before a question."""
    processor = load_processor(folder)
    images = [Image.open(data / name).convert("RGB") for name in names]
    text = "<s>USER: " + "<image>" * len(names) + "\nWhat is it? ASSISTANT:"
    inputs = processor(text=[text], images=[images], return_tensors="pt", add_special_tokens=False)
    pieces = [processor.tokenizer.encode(piece, add_special_tokens=False) for piece in text.split("<image>")]
    with torch.no_grad():
        found = model.double()(**inputs.to(torch.float64)).logits[0]
    return found, official_llava.Reference(folder).logits(pieces, images)


KINDS = {
    "v1.5": {},
    "its own encoder, in shards": {"inside": True, "shards": 3},
    "older names, shards of pickles": {"model_type": "llava", "safe": False, "shards": 2},
    "mistral": {"family": "mistral", "mm_patch_merge_type": "spatial_unpad"},
    "linear": {"projector": "linear", "mm_vision_select_layer": -1, "image_aspect_ratio": "square"},
    "three layers and the class": {"projector": "mlp3x_gelu", "mm_vision_select_feature": "cls_patch"},
    "identity": {"projector": "identity", "hidden_size": official_llava.WIDTH},
}


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_its_own_definition(kind, encoder, data, tmp_path, tokenizer):
    """With one image and with two; what is saved has the same names and bits, and the encoder."""
    folder = official_llava.save(tmp_path / "model", encoder, tokenizer, **KINDS[kind])
    model = load(folder)
    model.save_pretrained(tmp_path / "saved")
    first, saved = (official_llava.weights_of(path) for path in (folder, tmp_path / "saved"))
    prefix = "model.vision_tower.vision_tower.vision_model."
    if not KINDS[kind].get("inside"):
        named = torch.load(encoder / "pytorch_model.bin")
        named.pop("vision_model.embeddings.position_ids")
        first |= {f"model.vision_tower.vision_tower.{name}": tensor for name, tensor in named.items()}
    assert any(name.startswith(prefix) for name in first)
    assert saved.keys() == first.keys()
    assert all(torch.equal(saved[name], first[name]) for name in first)
    before, again = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "saved"))
    del before["torch_dtype"], before["transformers_version"]
    assert before.items() <= again.items()
    for names in (["a.png"], ["b.jpg", "c.png"]):
        found, wanted = logits_of(folder, model, names, data)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
