"""Folders of the package `llava`: read, computed and written as their own definition says, without it."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import AutoModelForImageTextToText

from tests import official_llava, vision
from xtuner.dataset import VisionLanguageDataset
from xtuner.dataset.collate_fns import flat_collate_fn
from xtuner.errors import ModelError
from xtuner.image_processor import load_processor
from xtuner.model.loading import load_config, load_for_chat
from xtuner.model.vision_language import VisionLanguageFinetune

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
    "v1.6": official_llava.TILES,
    "v1.6, its own encoder": {**official_llava.TILES, "family": "mistral", "inside": True},
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


ASK = {"from": "human", "value": "<image>\nWhat is it?"}
ROWS = [
    {"image": "a.png", "conversations": [ASK, {"from": "gpt", "value": "a red block"}]},
    {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]},
    {"image": ["b.jpg", "c.png"], "conversations": [
        {"from": "human", "value": "<image><image>\nAlike?"}, {"from": "gpt", "value": "no"}]},
]  # fmt: skip


def items_of(folder, data, **settings):
    processor = {"pretrained_model_name_or_path": str(folder), **settings}
    more = {"template": "vicuna", "image_folder": str(data), "pack_to_max_length": False, "max_length": 512}
    return list(VisionLanguageDataset([dict(row) for row in ROWS], processor, **more))


def pieces_of(ids, token):
    """The words between the images."""
    runs = [(is_image, list(run)) for is_image, run in itertools.groupby(map(int, ids), token.__eq__)]
    return [run for is_image, run in runs if not is_image]


def finetune(folder, **settings):
    llm = {
        "type": "transformers.AutoModelForCausalLM.from_pretrained",
        "pretrained_model_name_or_path": str(folder),
        "torch_dtype": torch.float32,
    }
    return VisionLanguageFinetune({**llm, **settings}, use_activation_checkpointing=False)


def test_prompts_are_those_of_the_package(encoder, data, tmp_path, tokenizer):
    """An image stands before a line break, by a prompt template and by a chat template of texts alone."""
    folder = official_llava.save(tmp_path / "model", encoder, tokenizer)
    processor, item = load_processor(folder), items_of(folder, data)[2]
    image = processor.image_token * official_llava.LENGTH
    wanted = f"<s>USER: {image}\n{image}\nAlike? ASSISTANT:no</s>"
    assert processor.tokenizer.decode(item["input_ids"]).rstrip("\n").startswith(wanted)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    written = load_processor(folder).tokenizer.apply_chat_template(talk, tokenize=False)
    assert written == "[system] Be brief.[user] <image>\nWhat?"


@pytest.mark.parametrize("legacy", [True, False])
def test_a_tokenizer_as_on_the_hub(legacy, encoder, data, tmp_path, tokenizer, train_sentencepiece):
    """A text behind an image has the tokens that SentencePiece gives it alone, as in the package."""
    import sentencepiece

    folder = official_llava.save(tmp_path / "model", encoder, tokenizer)
    for file in [*folder.glob("tokenizer*"), *folder.glob("special_tokens*")]:
        file.unlink()
    train_sentencepiece(folder / "tokenizer.model", vocab_size=len(tokenizer), add_dummy_prefix=True)
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": legacy}
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **names}))
    pieces = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    token = load_config(folder).image_token_id
    assert token == len(tokenizer)
    one, _, two = items_of(folder, data)
    first, question = pieces.encode("USER: "), pieces.encode("\nWhat is it? ASSISTANT:")
    found = pieces_of(one["input_ids"], token)
    assert found[0] == [1, *first]
    assert found[1][: len(question)] == question
    assert pieces_of(two["input_ids"], token)[1] == pieces.encode("\n")


@pytest.mark.parametrize("fields", [{}, official_llava.TILES])
def test_a_pack_has_the_loss_of_its_samples_by_that_definition(fields, encoder, data, tmp_path, tokenizer):
    """Samples with one image, none and two."""
    folder = official_llava.save(tmp_path / "model", encoder, tokenizer, **fields)
    items, token = items_of(folder, data), load_config(folder).image_token_id
    reference, total, count = official_llava.Reference(folder), 0.0, 0
    for item, row in zip(items, ROWS, strict=True):
        named = [row["image"]] if isinstance(row.get("image"), str) else row.get("image", [])
        images = [Image.open(data / name).convert("RGB") for name in named]
        logits = reference.logits(pieces_of(item["input_ids"], token), images)
        labels = torch.tensor(item["labels"])
        total += functional.cross_entropy(logits[:-1], labels[1:], reduction="sum")
        count += int((labels[1:] >= 0).sum())
    model = finetune(folder).double()
    loss = model(flat_collate_fn(items)["data"])["loss"]
    torch.testing.assert_close(loss, total / count, rtol=1e-6, atol=0)
    loss.backward()
    trained = {
        model.part_of(n.removeprefix("llm.")) for n, p in model.named_parameters() if p.grad is not None
    }
    assert trained == {"projector", "language model"}


def test_an_encoder_elsewhere(encoder, data, tmp_path, tokenizer):
    """It is named in the config of a run, or its folder is beside the weights; else the error says how."""
    folder = official_llava.save(tmp_path / "model", "openai/clip-nowhere", tokenizer)
    with pytest.raises(ModelError, match=r"mm_vision_tower = 'openai/clip-nowhere'.* or by --visual-encoder"):
        load_config(folder)
    items = items_of(folder, data, mm_vision_tower=str(encoder))
    named = finetune(folder, mm_vision_tower=str(encoder))
    assert named(flat_collate_fn(items)["data"])["loss"].isfinite()
    config = json.loads((folder / "config.json").read_text()) | {"mm_vision_tower": "clip"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "clip").symlink_to(encoder)
    beside = load(folder).state_dict()
    assert all(torch.equal(beside[name], weight) for name, weight in named.llm.state_dict().items())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image_aspect_ratio": "anyres_max_9"}, "image_aspect_ratio = anyres_max_9"),
        ({**official_llava.TILES, "mm_patch_merge_type": "flat"}, "mm_patch_merge_type = flat"),
        (
            {**official_llava.TILES, "mm_vision_select_feature": "cls_patch"},
            "mm_vision_select_feature = cls_patch",
        ),
        ({"architectures": ["LlavaMptForCausalLM"], "model_type": "llava_mpt"}, "LlavaMptForCausalLM"),
        ({"architectures": ["LlavaQwenForCausalLM"], "model_type": "llava"}, "LlavaQwenForCausalLM"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end = True"),
        ({"mm_projector_type": "ldpnet"}, "mm_projector_type = ldpnet"),
    ],
)
def test_what_is_not_computed_is_refused(fields, said, encoder, tmp_path, tokenizer):
    folder = official_llava.save(tmp_path / "model", encoder, tokenizer)
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))
    for load_it in (load_config, load_processor, load_for_chat):
        with pytest.raises(ModelError, match=f"{said}.* is not supported"):
            load_it(folder)
