"""LLaVA in training: the same numbers as transformers, whatever is frozen, packed or divided."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from tests.llava import LENGTH, picture_file, save_llava
from xtuner.dataset import LLaVADataset
from xtuner.dataset.collate_fns import flat_collate_fn
from xtuner.dataset.map_fns import llava_map_fn, template_map_fn_factory
from xtuner.engine.checkpoints.files import load_checkpoint
from xtuner.errors import CheckpointError, ConfigError, DataError
from xtuner.image_processor import load_image_processor
from xtuner.model import LLaVAModel
from xtuner.model.vision.projector import Projector, load_projector

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

TALK = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a red block"}]
WORDS = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi! How can I help you?"}]


@pytest.fixture(scope="module")
def dirs(tmp_path_factory, llama_dir, tokenizer):
    return save_llava(tmp_path_factory.mktemp("llava"), llama_dir, tokenizer)


@pytest.fixture
def data(tmp_path):
    """A file of two rows with images and one without, and the folder of the images."""
    picture_file(tmp_path / "a.png")
    picture_file(tmp_path / "b.jpg", (20, 60, 200), (48, 100))
    rows = [
        {"image": "a.png", "conversations": TALK},
        {"conversations": WORDS},
        {"image": "b.jpg", "conversations": TALK + TALK[1:]},
    ]
    return write(tmp_path, rows)


def write(folder, rows):
    file = folder / "data.json"
    file.write_text(json.dumps(rows))
    return file


def dataset(file, clip, tokenizer, **changes):
    settings = {
        "image_folder": str(file.parent),
        "image_processor": {"pretrained_model_name_or_path": str(clip)},
        "data_path": str(file),
        "tokenizer": tokenizer,
        "dataset_map_fn": llava_map_fn,
        "template_map_fn": template_map_fn_factory("vicuna"),
        "max_length": 64,
        "pad_image_to_square": True,
    }
    return LLaVADataset(**{**settings, **changes})


def model(dirs, **changes):
    """The model of stage 2, with the adapter's weights in the language model, in float64."""
    llm = LlavaForConditionalGeneration.from_pretrained(dirs.whole)
    plain = llm.model.language_model
    whole = AutoModelForCausalLM.from_config(plain.config)
    whole.model.load_state_dict(plain.state_dict())
    whole.lm_head.load_state_dict(llm.lm_head.state_dict())
    encoder = {"pretrained_model_name_or_path": str(dirs.clip)}
    made = LLaVAModel(whole, encoder, use_activation_checkpointing=False, **changes)
    made.projector.load_state_dict(load_projector(dirs.parts / "projector").state_dict())
    return made.double().train()


def reference(dirs):
    return LlavaForConditionalGeneration.from_pretrained(dirs.whole).double()


def reference_loss(whole, items):
    """The mean loss of the supervised tokens of all items, each alone."""
    total, count = 0, 0
    for item in items:
        ids = torch.tensor(item["input_ids"])[None]
        labels = torch.tensor(item["labels"], dtype=torch.long)[None]
        pixels = item.get("pixel_values")
        shown = {} if pixels is None else {"pixel_values": pixels.double()}
        ids = torch.where(ids < 0, whole.config.image_token_id, ids)
        logits = whole(input_ids=ids, **shown).logits
        total = total + torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum")
        count += int((labels[0, 1:] != -100).sum())
    return total / count


def test_items_have_a_token_for_each_row_of_an_image(data, dirs, tokenizer):
    """Images are not supervised; the length of a text item is negative for the sampler."""
    rows = dataset(data, dirs.clip, tokenizer)
    first, second, third = (rows[i] for i in range(3))
    assert [int((item["input_ids"] == -200).sum()) for item in (first, second, third)] == [LENGTH, 0, LENGTH]
    assert (first["labels"][first["input_ids"] == -200] == -100).all()
    assert tokenizer.decode(first["labels"][first["labels"] >= 0]) == "a red block</s>"
    assert first["pixel_values"].shape == (1, 3, 56, 56)
    assert "pixel_values" not in second
    lengths = [len(item["input_ids"]) for item in (first, second, third)]
    assert rows.length.tolist() == lengths
    assert rows.modality_length.tolist() == [lengths[0], -lengths[1], lengths[2]]


def test_loss_and_gradients_equal_those_of_transformers(data, dirs, tokenizer, relative_error):
    """Of a packed batch with two images and a text, for the language model, the encoder and the projector."""
    rows = dataset(data, dirs.clip, tokenizer)
    items = [rows[i] for i in range(3)]
    ours, theirs = model(dirs), reference(dirs)
    loss = ours(flat_collate_fn(items)["data"])["loss"]
    wanted = reference_loss(theirs, items)
    loss.backward()
    wanted.backward()
    # Sines of one angle differ in the last bit of fp32 by the length of a sequence.
    torch.testing.assert_close(loss, wanted, rtol=1e-8, atol=0)
    language, vision = theirs.model.language_model, theirs.model.vision_tower
    pairs = {
        "projector.model.0.weight": theirs.model.multi_modal_projector.linear_1.weight,
        "projector.model.2.bias": theirs.model.multi_modal_projector.linear_2.bias,
        "llm.model.layers.0.self_attn.q_proj.weight": language.layers[0].self_attn.q_proj.weight,
        "llm.model.embed_tokens.weight": language.embed_tokens.weight,
        "visual_encoder.encoder.layers.0.mlp.fc1.weight": vision.encoder.layers[0].mlp.fc1.weight,
    }
    own = dict(ours.named_parameters())
    errors = {name: relative_error(own[name].grad, p.grad) for name, p in pairs.items()}
    assert max(errors.values()) < 1e-6, errors


def test_packs_have_the_loss_of_their_samples(data, dirs, tokenizer):
    """A data set that packs gives the same loss as one that does not."""
    alone = dataset(data, dirs.clip, tokenizer)
    packed = dataset(data, dirs.clip, tokenizer, max_packed_length=200)
    assert (len(alone), len(packed)) == (3, 1)
    assert packed.length.tolist() == [alone.length.sum()] == packed.modality_length.tolist()
    made = model(dirs)
    losses = [
        made(flat_collate_fn([rows[i] for i in range(len(rows))])["data"])["loss"] for rows in (alone, packed)
    ]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)


LORA = {"r": 2, "lora_alpha": 4}


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({"freeze_llm": True, "freeze_visual_encoder": True}, {"projector"}),
        ({"freeze_visual_encoder": True}, {"llm", "projector"}),
        ({}, {"llm", "visual_encoder", "projector"}),
        (
            {"freeze_llm": True, "freeze_visual_encoder": True, "llm_lora": LoraConfig(**LORA)},
            {"llm lora", "projector"},
        ),
        (
            {
                "freeze_llm": True,
                "freeze_visual_encoder": True,
                "llm_lora": LoraConfig(**LORA),
                "visual_encoder_lora": LoraConfig(**LORA),
            },
            {"llm lora", "visual_encoder lora", "projector"},
        ),
        (
            {"freeze_visual_encoder": True, "visual_encoder_lora": LoraConfig(**LORA)},
            {"llm", "visual_encoder lora", "projector"},
        ),
    ],
)
def test_what_is_trained_has_gradients_and_is_saved(settings, trained, data, dirs, tokenizer):
    """By the settings of all recipes: each trained weight has a gradient; all that is trained is saved."""
    rows = dataset(data, dirs.clip, tokenizer)
    made = model(dirs, **settings)
    made(flat_collate_fn([rows[i] for i in range(3)])["data"])["loss"].backward()
    with_gradient = {n for n, p in made.named_parameters() if p.grad is not None}
    assert with_gradient == {n for n, p in made.named_parameters() if p.requires_grad}
    kinds = {f"{name.split('.')[0]}{' lora' if 'lora_' in name else ''}" for name in with_gradient}
    assert kinds == trained
    saved = made.state_dict()
    assert with_gradient <= saved.keys()
    assert {f"{name.split('.')[0]}{' lora' if 'lora_' in name else ''}" for name in saved} == trained
    again = model(dirs, **settings)
    again.load_state_dict(saved)
    if "visual_encoder" in trained:
        assert {n for n in saved if n.startswith("visual_encoder.")} == {
            f"visual_encoder.{n}" for n in made.visual_encoder.state_dict()
        }


def test_a_second_stage_starts_from_the_first(data, dirs, tokenizer):
    """The projector of the first stage; a checkpoint without one is an error."""
    first = model(dirs, freeze_llm=True, freeze_visual_encoder=True)
    second = model(dirs, freeze_visual_encoder=True)
    state = {name: value + 1 for name, value in first.state_dict().items()}
    second.start_from(state, "stage1.pth")
    for name, value in state.items():
        assert torch.equal(second.state_dict()[name], value)
    with pytest.raises(CheckpointError, match=r"'other.pth' has no projector: it is not the checkpoint"):
        second.start_from({"llm.x": torch.zeros(1)}, "other.pth")
    with pytest.raises(CheckpointError, match="1 of 1 weight has other shapes"):
        second.start_from({"projector.model.0.weight": torch.zeros(1)}, "other.pth")


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("prefix", ["model.", "base_model.model.model.", ""])
def test_a_projector_of_the_package_llava(depth, prefix, dirs, tmp_path):
    """Its `mm_projector.bin` is the first stage, by each of the names that its versions write."""
    made = model(dirs, freeze_visual_encoder=True)
    made.projector = Projector(32, 64, depth)
    single = {"weight": "0.weight", "bias": "0.bias"}
    names = single if depth == 1 else {name: name for name in ("0.weight", "0.bias", "2.weight", "2.bias")}
    own = {
        theirs: torch.randn_like(made.projector.model.state_dict()[ours]) for theirs, ours in names.items()
    }
    torch.save({f"{prefix}mm_projector.{name}": value for name, value in own.items()}, tmp_path / "m.bin")
    made.start_from(load_checkpoint(tmp_path / "m.bin", with_optimizer=False)["state_dict"], "m.bin")
    for theirs, ours in names.items():
        assert torch.equal(made.projector.model.state_dict()[ours], own[theirs])


def test_missing_images_are_left_out_and_named(data, dirs, tokenizer, caplog):
    """A few are counted; many are an error; a broken one has no loss."""
    rows = json.loads(data.read_text())
    write(data.parent, [*rows * 10, {"image": "c.png", "conversations": TALK}])
    found = dataset(data, dirs.clip, tokenizer)
    assert len(found) == 30
    assert "1 row is left out because of images: " in caplog.text
    assert "data.json line 1, row 31: There is no image /" in caplog.text
    with pytest.raises(
        DataError, match=r"There is no image .*c\.png: the row names c\.png, and image_folder is"
    ):
        dataset(data, dirs.clip, tokenizer, strict=True)
    (data.parent / "a.png").write_bytes(b"\x89PNG\r\n")
    item = found[0]
    assert (item["labels"] == -100).all()
    assert np.count_nonzero(item["pixel_values"]) == 0
    assert "its conversation is not trained" in caplog.text


def test_texts_with_more_placeholders_than_images_are_faults(data, dirs, tokenizer):
    """The row says so itself."""
    write(data.parent, [{"conversations": TALK}])
    with pytest.raises(DataError, match="the text has 1 <image>, and the row 0 images"):
        dataset(data, dirs.clip, tokenizer)


def test_an_encoder_that_does_not_belong_to_the_data_is_an_error(data, dirs, tokenizer):
    """The number of rows differs."""
    rows = dataset(data, dirs.clip, tokenizer, rows_per_image=4)
    with pytest.raises(ConfigError, match="8 tokens for images, and its images have 32 rows"):
        model(dirs)(flat_collate_fn([rows[0], rows[2]])["data"])


def test_a_row_may_have_several_images_in_an_archive(data, dirs, tokenizer, caplog):
    """As many as its text has placeholders; others are counted, none is lost in silence."""
    with zipfile.ZipFile(data.parent / "images.zip", "w") as archive:
        for name in ("a.png", "b.jpg"):
            archive.write(data.parent / name, name)
    two = [{"from": "human", "value": "<image><image>\nWhich is red?"}, TALK[1]]
    both = ["a.png", "b.jpg"]
    write(data.parent, [{"image": both, "conversations": two}, {"image": both, "conversations": TALK}])
    folder = str(data.parent / "images.zip")
    rows = dataset(data, dirs.clip, tokenizer, image_folder=folder)
    plain = dataset(data, dirs.clip, tokenizer)
    assert [int((rows[i]["input_ids"] == -200).sum()) for i in (0, 1)] == [2 * LENGTH, LENGTH]
    assert rows[0]["pixel_values"].shape == (2, 3, 56, 56)
    assert torch.equal(rows[0]["pixel_values"], plain[0]["pixel_values"])
    assert torch.equal(rows[1]["pixel_values"], plain[0]["pixel_values"][:1])
    assert "1 row has more images than <image> in the text" in caplog.text
    items = [rows[0]]
    loss = model(dirs)(flat_collate_fn(items)["data"])["loss"]
    torch.testing.assert_close(loss, reference_loss(reference(dirs), items), rtol=1e-8, atol=0)


def test_kept_pixels_are_those_of_the_image(data, dirs, tokenizer, tmp_path):
    """Also after the first reading; another image of that name is read again."""
    plain = dataset(data, dirs.clip, tokenizer)[0]["pixel_values"]
    kept = dataset(data, dirs.clip, tokenizer, pixel_cache=str(tmp_path / "pixels"))
    assert torch.equal(kept[0]["pixel_values"], plain)
    assert torch.equal(kept[0]["pixel_values"], plain)
    picture_file(data.parent / "a.png", (0, 0, 0), (90, 40))
    assert not torch.equal(kept[0]["pixel_values"], plain)


def test_text_that_is_tokenised_already(data, dirs, tokenizer, tmp_path):
    """A folder of `datasets`, whose ids have -200 for an image."""
    rows = dataset(data, dirs.clip, tokenizer)
    whole = [rows.store.sample(i) for i in range(3)]
    Dataset.from_dict(
        {
            "input_ids": [ids.tolist() for ids, _ in whole],
            "labels": [np.where(mask, ids, -100).tolist() for ids, mask in whole],
            "image": ["a.png", None, "b.jpg"],
        }
    ).save_to_disk(tmp_path / "offline")
    ready = dataset(data, dirs.clip, None, offline_processed_text_folder=str(tmp_path / "offline"))
    assert len(ready) == 3
    for i in range(3):
        assert ready[i]["input_ids"].tolist() == rows[i]["input_ids"].tolist()
        assert ready[i]["labels"].tolist() == rows[i]["labels"].tolist()
        assert ("pixel_values" in ready[i]) == ("pixel_values" in rows[i])


def test_samples_are_generated_without_dropout(data, dirs, tokenizer):
    """An adapter on the encoder drops nothing while it encodes for generation, and does in training."""
    lora = LoraConfig(**LORA, lora_dropout=0.5, init_lora_weights=False)
    made = model(dirs, freeze_llm=True, freeze_visual_encoder=True, visual_encoder_lora=lora)
    pixels = dataset(data, dirs.clip, tokenizer)[0]["pixel_values"].double()
    encoder = made.image_encoder(load_image_processor(dirs.clip))
    assert torch.equal(encoder.encode(pixels[0]), encoder.encode(pixels[0]))
    assert made.visual_encoder.training
    assert not torch.equal(made._encode([pixels]), made._encode([pixels]))
