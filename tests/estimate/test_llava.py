"""Encoder, projector and images of a LLaVA are in the estimate."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM, SiglipVisionConfig, SiglipVisionModel

from tests.llava import LENGTH
from xtuner.estimate.configured import read_training
from xtuner.estimate.forecast import forecast, memory_lines
from xtuner.estimate.llava import with_llava
from xtuner.estimate.machine import Machine
from xtuner.estimate.memory import estimate
from xtuner.estimate.shape import read_shape
from xtuner.model import LLaVAModel
from xtuner.model_folder import read_json

CARD = Machine("cuda", "GPU", 0, 0)


def named(path):
    return {"pretrained_model_name_or_path": str(path)}


def model_of(llava, encoder=None, **settings):
    return {
        "type": "xtuner.model.LLaVAModel",
        "llm": {**named(llava.llm), "torch_dtype": "float32"},
        "visual_encoder": named(encoder or llava.clip),
        **settings,
    }


def shape_of(llava, model):
    return with_llava(read_shape(read_json(llava.llm / "config.json")), model)


@pytest.fixture
def siglip(tmp_path):
    """A folder with a small SigLIP."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=56, patch_size=14)).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_weights_are_those_of_the_model(kind, depth, llava, siglip):
    """To the last one."""
    folder = siglip if kind == "siglip" else llava.clip
    llm = AutoModelForCausalLM.from_pretrained(llava.llm)
    made = LLaVAModel(llm, named(folder), projector_depth=depth, use_activation_checkpointing=False)
    shape = shape_of(llava, model_of(llava, folder, projector_depth=depth))
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in made.parts().items()}
    assert (shape.encoder, shape.projector) == (counts["visual_encoder"], counts["projector"])


@pytest.mark.parametrize(
    ("settings", "trains"),
    [
        ({"freeze_llm": True, "freeze_visual_encoder": True}, ["projector"]),
        ({"freeze_visual_encoder": True}, ["projector"]),
        ({"freeze_llm": True, "llm_lora": {"r": 4}, "visual_encoder_lora": {"r": 4}}, ["projector"]),
        ({}, ["projector", "encoder"]),
    ],
)
def test_memory_is_that_of_what_is_trained(settings, trains, llava):
    """All weights; and a gradient and two numbers of the optimiser for each that is trained."""
    model = model_of(llava, **settings)
    shape = shape_of(llava, model)
    run = read_training({"model": model}, shape, CARD)
    assert run.image_trained == sum(getattr(shape, part) for part in trains)
    assert (
        estimate(shape, run).kept["images"] == 4 * (shape.encoder + shape.projector) + 12 * run.image_trained
    )


def test_a_batch_has_the_tokens_of_images(llava):
    """One in each sample; packs have their limit. The lines of `check` say what is counted."""
    data = {"type": "xtuner.dataset.LLaVADataset", "max_length": 100, "image_processor": named(llava.clip)}
    loader = {"batch_size": 2, "dataset": data}
    config = {"model": model_of(llava, freeze_llm=True), "train_dataloader": loader}
    found = forecast(config)
    assert found.training.tokens == 2 * (100 + LENGTH - 1)
    assert any("of the parts that see or hear" in line for line in memory_lines(found))
    data["max_packed_length"] = 300
    assert forecast(config).training.tokens == 600
    data |= {"max_packed_length": None, "rows_per_image": 7}
    assert forecast(config).training.tokens == 2 * 106


def test_an_encoder_that_is_not_here_is_not_counted(llava):
    """The lines of `check` say so."""
    found = forecast({"model": model_of(llava, "openai/clip-vit-large-patch14-336", freeze_llm=True)})
    assert (found.shape.encoder, found.shape.projector) == (0, 0)
    assert any("without the parts that see or hear" in line for line in memory_lines(found))
