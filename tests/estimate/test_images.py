"""What is outside of the language part of a vision-language model is in the estimate, to the last weight."""

import pytest
from transformers import AutoModelForImageTextToText

from tests import internvl, vision
from xtuner.estimate.configured import read_training
from xtuner.estimate.images import with_images
from xtuner.estimate.machine import Machine
from xtuner.estimate.memory import estimate
from xtuner.estimate.processes import Division, process_memory
from xtuner.estimate.shape import read_shape
from xtuner.model import VisionLanguageFinetune
from xtuner.model_folder import read_json

CARD = Machine("cuda", "GPU", 0, 0)


@pytest.fixture(scope="module", params=list(vision.KINDS))
def folder(request, tmp_path_factory, tokenizer):
    return vision.save(request.param, tmp_path_factory.mktemp(request.param), tokenizer)


def counted(folder):
    """The weights of encoder and projector of the model itself."""
    made = VisionLanguageFinetune(AutoModelForImageTextToText.from_pretrained(folder))
    counts = {"vision": 0, "projector": 0, "language model": 0}
    for name, parameter in made.llm.named_parameters():
        counts[made.part_of(name)] += parameter.numel()
    return counts["vision"], counts["projector"]


def test_weights_are_those_of_the_model(folder):
    """Of encoder and projector, from the headers of the files."""
    shape = with_images(read_shape(read_json(folder / "config.json")), str(folder))
    assert (shape.encoder, shape.projector) == counted(folder)


def test_internvl_s_own_folders_are_counted(tmp_path, tokenizer):
    """Their names are other ones."""
    folder = internvl.save(tmp_path / "model", "internlm2", tokenizer)
    shape = with_images(read_shape(read_json(folder / "config.json")), str(folder))
    assert (shape.encoder, shape.projector) == counted(folder)


@pytest.mark.parametrize(
    ("settings", "trains"),
    [
        ({}, ["projector"]),
        ({"freeze_vision": False}, ["encoder", "projector"]),
        ({"freeze_projector": True}, []),
        ({"lora": {"r": 4}}, []),
        ({"freeze_llm": True}, ["projector"]),
        ({"lora": {"r": 4}, "freeze_projector": False, "freeze_vision": False}, ["encoder", "projector"]),
        ({"lora": {"r": 4}, "vision_lora": {"r": 4}, "freeze_vision": False}, []),
    ],
)
def test_memory_is_that_of_what_is_trained(settings, trains, tmp_path, tokenizer):
    """All weights; and a gradient and two numbers of the optimiser for each that is trained."""
    folder = vision.save("qwen2_5_vl", tmp_path, tokenizer)
    shape = with_images(read_shape(read_json(folder / "config.json")), str(folder))
    model = {"type": "xtuner.model.VisionLanguageFinetune", "llm": {"torch_dtype": "float32"}, **settings}
    run = read_training({"model": model}, shape, CARD)
    trained = sum(getattr(shape, part) for part in trains)
    assert run.image_trained == trained
    wanted = 4 * (shape.encoder + shape.projector) + 12 * trained
    assert estimate(shape, run).kept["images"] == wanted
    assert process_memory(shape, run, Division("fsdp", 2, 2)).device.kept["images"] == wanted // 2
