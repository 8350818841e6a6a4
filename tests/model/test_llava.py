"""Image features for an LLM: both layouts on disk against transformers' LLaVA."""

import json
import shutil

import pytest
import torch

from tests.llava import LENGTH, SIZE, picture_file
from xtuner.dataset.images.shape import expand_to_square
from xtuner.generation.generate import complete
from xtuner.generation.pictures import Pictures
from xtuner.generation.vision import LlavaVision
from xtuner.model.loading import load_for_chat
from xtuner.model.vision.image_encoder import find_llava_parts, load_image_encoder

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def load(llava, layout):
    """Model, tokenizer and pictures of one of the layouts."""
    if layout == "whole":
        path, parts, adapter = llava.whole, None, None
    else:
        path, parts = llava.llm, find_llava_parts(llava.llm, llava.parts, llava.clip)
        adapter = parts.llm_adapter
    model, tokenizer = load_for_chat(path, adapter=adapter, dtype="fp32")
    return model, tokenizer, Pictures(LlavaVision(load_image_encoder(model, tokenizer, path, parts)))


@pytest.fixture(scope="module")
def reference(llava):
    """transformers' model and processor."""
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    model = LlavaForConditionalGeneration.from_pretrained(llava.whole).eval()
    return model, LlavaProcessor.from_pretrained(llava.whole, backend="pil")


@pytest.mark.parametrize("layout", ["whole", "parts"])
def test_the_answers_of_transformers(llava, reference, picture, layout):
    """Logits and greedy answers about an image equal those of transformers."""
    from PIL import Image

    theirs, processor = reference
    inputs = processor(images=Image.open(picture), text="<s>USER: <image>\nhello BOT:", return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**inputs).logits[0, -1]
        answer = theirs.generate(**inputs, max_new_tokens=12, do_sample=False)[0]
    answer = answer[inputs["input_ids"].shape[1] :].tolist()
    model, tokenizer, pictures = load(llava, layout)
    shown = pictures.read(picture)
    ids = pictures.encode(tokenizer, f"<s>USER: {shown.mark}\nhello BOT:")
    assert sum(i < 0 for i in ids) == shown.length == LENGTH
    words = inputs["input_ids"][inputs["input_ids"] != theirs.config.image_token_id].tolist()
    assert [i for i in ids if i >= 0] == words
    with torch.no_grad():
        logits = model(**pictures.inputs(model, ids, 0, torch.device("cpu")).forward).logits[0, -1]
    torch.testing.assert_close(logits, expected[: len(logits)], atol=1e-5, rtol=1e-5)
    told = complete(model, tokenizer, ids, max_new_tokens=12, temperature=0, pictures=pictures)
    assert told.ids == answer


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised(llava, bits):
    """The language model is quantised, its vision part is not."""
    model, tokenizer = load_for_chat(llava.whole, dtype="fp32", bits=bits)
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    small = {name for name, kind in kinds.items() if kind in ("Linear4bit", "Linear8bitLt")}
    assert len(small) == 2 * 7
    assert all(name.startswith("model.language_model.layers.") for name in small)
    assert load_image_encoder(model, tokenizer, llava.whole).length == LENGTH


def test_another_picture_gives_other_logits(llava, picture, tmp_path):
    """The same image has the same ids under any file name; another image has other ids."""
    model, _, pictures = load(llava, "parts")
    other = picture_file(tmp_path / "dog.png", (0, 250, 0))
    same = tmp_path / "same.png"
    same.write_bytes(picture.read_bytes())
    shown = [pictures.read(path) for path in (picture, same, other)]
    assert shown[0].ids == shown[1].ids
    assert not set(shown[0].ids) & set(shown[2].ids)
    assert min(shown[0].ids) >= -(2**63)
    rows = [[1, *one.ids, 2] for one in shown]
    logits = [model(**pictures.inputs(model, row, 0, torch.device("cpu")).forward).logits for row in rows]
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0][:, -1], logits[2][:, -1], atol=0.1)


@pytest.mark.parametrize("size", [(80, 48), (48, 80), (50, 50)])
def test_the_square(size):
    """The image is in the middle of a square of its longer side, on the colour."""
    from PIL import Image

    image = Image.new("RGB", size, (1, 2, 3))
    square = expand_to_square(image, (9, 9, 9))
    side = max(size)
    assert square.size == (side, side)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    assert square.crop((left, top, left + size[0], top + size[1])).tobytes() == image.tobytes()
    counts = {colour: count for count, colour in square.getcolors()}
    assert counts.get((9, 9, 9), 0) == side**2 - size[0] * size[1]


def test_files_of_older_formats(llava, picture, tmp_path, capfd):
    """A CLIP with its text half, an older processor config, a projector of torch.save: the same features."""
    from safetensors.torch import load_file
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionModel

    vision = CLIPVisionModel.from_pretrained(llava.clip)
    text = CLIPTextConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    both = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.config.to_dict()))
    both.vision_model.load_state_dict(vision.state_dict())
    both.save_pretrained(tmp_path / "clip")
    new = json.loads((llava.clip / "preprocessor_config.json").read_text())
    old = {
        name: new[name] for name in ("do_center_crop", "do_normalize", "do_resize", "image_mean", "image_std")
    }
    old |= {"crop_size": SIZE, "size": SIZE, "resample": 3, "feature_extractor_type": "CLIPFeatureExtractor"}
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(old))
    parts = shutil.copytree(llava.parts, tmp_path / "parts")
    weights = parts / "projector" / "model.safetensors"
    torch.save(load_file(weights), parts / "projector" / "pytorch_model.bin")
    weights.unlink()
    model, tokenizer, pictures = load(llava, "parts")
    found = find_llava_parts(llava.llm, parts, tmp_path / "clip", -2)
    capfd.readouterr()
    encoder = load_image_encoder(model, tokenizer, llava.llm, found)
    assert "LOAD REPORT" not in capfd.readouterr().err
    expected = pictures.vision.encode(pictures.read(picture).read).rows
    older = LlavaVision(encoder)
    assert torch.equal(older.encode(Pictures(older).read(picture).read).rows, expected)


def test_each_layer_can_be_selected(llava, picture):
    """--visual-select-layer counts from the end, as hidden states do."""
    model, tokenizer, _ = load(llava, "parts")
    rows = []
    for layer in (-1, -2, 2):
        parts = find_llava_parts(llava.llm, llava.parts, llava.clip, layer)
        seen = LlavaVision(load_image_encoder(model, tokenizer, llava.llm, parts))
        rows.append(seen.encode(Pictures(seen).read(picture).read).rows)
    assert torch.equal(rows[1], rows[2])
    assert not torch.equal(rows[0], rows[1])
