"""Vision-language models in training: the numbers of transformers, whatever is packed or frozen."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForImageTextToText

from tests import seeing, vision
from xtuner.dataset import VisionLanguageDataset
from xtuner.dataset.collate_fns import flat_collate_fn
from xtuner.errors import ConfigError
from xtuner.image_processor import load_processor
from xtuner.model import VisionLanguageFinetune

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    # Of GLM-4V's processor, about its own arrays.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

IMAGE = {"type": "image"}


def part(words):
    return {"type": "text", "text": words}


# Conversations for the chat template, and their images.
TALKS = [
    ([("user", [IMAGE, part("What is it?")]), ("assistant", [part("a red block")])], ["a.png"]),
    ([("user", [part("Hello")]), ("assistant", [part("Hi! How can I help you?")])], []),
    (
        [
            ("user", [IMAGE, IMAGE, part("Are they alike?")]),
            ("assistant", [part("no")]),
            ("user", [part("And this one?"), IMAGE]),
            ("assistant", [part("a green one")]),
        ],
        ["b.jpg", "c.png", "a.png"],
    ),
]


def messages_of(number, with_images):
    """A conversation as OpenAI messages with the names of images, or as the chat template takes it."""
    talk, images = TALKS[number]
    names = iter(images)
    return [
        {
            "role": role,
            "content": [
                {"type": "image_url", "image_url": {"url": next(names)}} if p is IMAGE and with_images else p
                for p in content
            ],
        }
        for role, content in talk
    ]


@pytest.fixture(scope="module", params=list(vision.KINDS))
def folder(request, tmp_path_factory, tokenizer):
    return vision.save(request.param, tmp_path_factory.mktemp(request.param), tokenizer)


@pytest.fixture
def images(tmp_path):
    vision.picture_files(tmp_path)
    return tmp_path


def rows():
    return [{"messages": messages_of(number, with_images=True)} for number in range(len(TALKS))]


def dataset(folder, images, data=None, **changes):
    settings = {
        "processor": {"pretrained_model_name_or_path": str(folder)},
        "image_folder": str(images),
        "max_length": 2048,
        "pack_to_max_length": False,
    }
    return VisionLanguageDataset(rows() if data is None else data, **{**settings, **changes})


def reference_inputs(folder, images, number):
    """The tokens and tensors of a conversation, by the processor of the family."""
    processor = load_processor(folder)
    text = processor.tokenizer.apply_chat_template(messages_of(number, with_images=False), tokenize=False)
    shown = [Image.open(images / name).convert("RGB") for name in TALKS[number][1]]
    given = {"images": [shown]} if shown else {}
    return processor(text=[text], **given, add_special_tokens=False, return_tensors="pt")


def trained(folder):
    # Of the kinds of experts only this one computes in float64.
    return AutoModelForImageTextToText.from_pretrained(folder, experts_implementation="eager")


def load(folder):
    # Stock attention gives transformers' masks to all layers.
    return AutoModelForImageTextToText.from_pretrained(
        folder, attn_implementation="eager", experts_implementation="eager"
    ).double()


def test_items_are_those_of_the_processor(folder, images, tokenizer):
    """Ids and tensors are equal; answers and their ends are supervised, and no token of an image."""
    items = dataset(folder, images)
    processor = load_processor(folder)
    assert items._images.token_id == AutoConfig.from_pretrained(folder).image_token_id
    assert len(items) == len(TALKS)
    for number, item in enumerate(items):
        wanted = reference_inputs(folder, images, number)
        assert item["input_ids"].tolist() == wanted["input_ids"][0].tolist()
        answers = [p["text"] for role, content in TALKS[number][0] if role == "assistant" for p in content]
        supervised = item["labels"][item["labels"] >= 0]
        assert processor.tokenizer.decode(supervised) == "".join(f"{answer}<|im_end|>" for answer in answers)
        (inputs,) = item.get("image_inputs", [{}])
        assert inputs.keys() == wanted.keys() - {
            "input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids",
        }  # fmt: skip
        for name, value in inputs.items():
            assert torch.equal(value, wanted[name]), name


@pytest.mark.parametrize("start", ["", "{{ bos_token }}", "<s>"])
def test_a_start_token_that_the_tokenizer_adds(start, tmp_path, tokenizer, images):
    """It is there once, as the processor has it: of Llama's tokenizers with a template that writes none."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    folder = vision.save("llava", tmp_path / "model", tokenizer)
    processor = load_processor(folder)
    for owner in (processor, processor.tokenizer):
        owner.chat_template = start + processor.tokenizer.chat_template.removeprefix(start)
    item = VisionLanguageDataset(rows(), processor, image_folder=str(images), pack_to_max_length=False)[0]
    text = processor.tokenizer.apply_chat_template(messages_of(0, with_images=False), tokenize=False)
    shown = [Image.open(images / name).convert("RGB") for name in TALKS[0][1]]
    wanted = processor(text=[text], images=[shown], add_special_tokens=not start, return_tensors="pt")
    assert item["input_ids"].tolist() == wanted["input_ids"][0].tolist()
    assert item["input_ids"].tolist().count(tokenizer.bos_token_id) == 1


@pytest.fixture
def softmax_in_double(monkeypatch):
    """Softmax keeps 64 bits, of which transformers' eager attention would leave 32."""
    own = torch.nn.functional.softmax

    def softmax(x, *args, dtype=None, **more):
        return own(x, *args, dtype=x.dtype if x.dtype == torch.float64 else dtype, **more)

    monkeypatch.setattr(torch.nn.functional, "softmax", softmax)


def test_loss_and_gradients_are_those_of_transformers(folder, images, relative_error, softmax_in_double):
    """Of a batch of packed samples, against each sample alone, for all parts."""
    items = list(dataset(folder, images))
    made = VisionLanguageFinetune(
        trained(folder),
        freeze_vision=False,
        use_activation_checkpointing=False,
    )
    made = made.double().train()
    theirs = load(folder).train()
    loss = made(flat_collate_fn(items)["data"])["loss"]
    loss.backward()
    total, count = 0.0, 0
    for number, item in enumerate(items):
        wanted = {
            name: value.double() if value.dtype.is_floating_point else value
            for name, value in reference_inputs(folder, images, number).items()
        }
        labels = torch.tensor(item["labels"])
        logits = theirs(**wanted).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum")
        count += int((labels[1:] >= 0).sum())
    (total / count).backward()
    torch.testing.assert_close(loss, total / count, rtol=1e-6, atol=0)
    own = dict(made.llm.named_parameters())
    pairs = {n: (own[n].grad, p.grad) for n, p in theirs.named_parameters() if p.grad is not None}
    assert {n for n, p in own.items() if p.grad is not None} == pairs.keys()
    # A bias of keys has no gradient but that of rounding.
    kept = {n: p for n, p in pairs.items() if not n.endswith("k_proj.bias") and p[1].abs().max() > 1e-9}
    assert {made.part_of(name) for name in kept} == {"vision", "projector", "language model"}
    errors = {name: relative_error(*pair) for name, pair in kept.items()}
    assert max(errors.values()) < 1e-5, sorted(errors.items(), key=lambda pair: -pair[1])[:5]


def test_packs_have_the_loss_of_their_samples(folder, images):
    """A data set that packs gives the same loss as one that does not, and samples twice as once."""
    made = VisionLanguageFinetune(trained(folder)).double()
    losses = []
    for packs in (False, True):
        items = dataset(folder, images, pack_to_max_length=packs)
        assert len(items) == (1 if packs else 3)
        losses.append(made(flat_collate_fn(list(items))["data"])["loss"])
    losses.append(made(flat_collate_fn([*dataset(folder, images)] * 2)["data"])["loss"])
    torch.testing.assert_close(losses[1:], losses[:1] * 2, rtol=1e-12, atol=0)


def test_a_blank_image_reaches_all_trained_weights(folder, monkeypatch):
    """Among several processes a sample of text gives them the gradient zero, and its loss is that of one."""
    items = [{"input_ids": np.arange(5, 25), "labels": np.arange(5, 25), "cumulative_len": [0, 8, 20]}]
    made = VisionLanguageFinetune(trained(folder), freeze_vision=False).double()
    alone = made(flat_collate_fn(items)["data"])["loss"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = VisionLanguageFinetune(trained(folder), freeze_vision=False).double()
    loss = made(flat_collate_fn(items)["data"])["loss"]
    assert loss == alone
    loss.backward()
    grads = {n: p.grad for n, p in made.llm.named_parameters() if p.requires_grad}
    assert [name for name, grad in grads.items() if grad is None] == []
    seen = {made.part_of(name) for name, grad in grads.items() if grad.any()}
    assert seen == {"language model"}


@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl", "llava_onevision", "minicpmv4_7_in_4x"])
@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({}, {"language model"}),
        ({"freeze_projector": False}, {"language model", "projector"}),
        ({"freeze_projector": False, "freeze_vision": False}, {"language model", "projector", "vision"}),
        ({"vision_lora": LoraConfig(r=2)}, {"language model", "vision"}),
    ],
)
def test_what_is_trained_beside_an_adapter(settings, trained, family, tmp_path, tokenizer, images):
    """The language model has an adapter; other parts are frozen, trained as a whole, or have one too."""
    folder = vision.save(family, tmp_path / "model", tokenizer)
    model = VisionLanguageFinetune(
        AutoModelForImageTextToText.from_pretrained(folder),
        lora=LoraConfig(r=2, task_type="CAUSAL_LM"),
        **settings,
    )
    model(flat_collate_fn(list(dataset(folder, images)))["data"])["loss"].backward()
    weights = {n.removeprefix("base_model.model."): p for n, p in model.llm.named_parameters()}
    learning = {name for name, weight in weights.items() if weight.requires_grad}
    assert learning == {name for name, weight in weights.items() if weight.grad is not None}
    assert {model.part_of(name) for name in learning} == trained
    whole = {model.part_of(name) for name in learning if ".lora_" not in name}
    assert whole == (trained - {"language model"} if "vision_lora" not in settings else set())


def test_an_adapter_of_the_encoder_alone(tmp_path, tokenizer):
    """Not beside a language model that is trained as a whole."""
    folder = vision.save("qwen2_5_vl", tmp_path / "model", tokenizer)
    llm = AutoModelForImageTextToText.from_pretrained(folder)
    with pytest.raises(ConfigError, match="give the language model an adapter too"):
        VisionLanguageFinetune(llm, vision_lora=LoraConfig(r=2))
    model = VisionLanguageFinetune(llm, vision_lora=LoraConfig(r=2), freeze_llm=True)
    assert {model.part_of(n.removeprefix("base_model.model.")) for n, p in model.llm.named_parameters()
            if p.requires_grad} == {"vision"}  # fmt: skip


def test_an_unknown_family_is_an_error():
    """PaliGemma's processor writes the prompt itself, so that no conversation can be tokenised."""
    with pytest.raises(ConfigError, match="does not know how models of the family 'paligemma' take images"):
        VisionLanguageFinetune(seeing.make("paligemma"))
