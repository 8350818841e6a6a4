"""InternVL's own folders: read, trained and written as their own definition says, without their code."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModelForImageTextToText

from tests import internvl, vision
from xtuner.dataset import InternVL_V1_5_Dataset
from xtuner.dataset.collate_fns import flat_collate_fn
from xtuner.errors import ConfigError, ModelError
from xtuner.image_processor import load_processor
from xtuner.model import InternVL_V1_5
from xtuner.model.fused.linear import is_lora
from xtuner.model.loading import load_config
from xtuner.model.vision_language import VisionLanguageFinetune
from xtuner.utils import PROMPT_TEMPLATE

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

ASK = {"from": "human", "value": "<image>\nWhat is it?"}
ROWS = [
    {"image": "a.png", "conversations": [ASK, {"from": "gpt", "value": "a red block"}]},
    {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]},
    {"image": ["b.jpg", "c.png"], "conversations": [
        {"from": "human", "value": "<image><image>\nAlike?"}, {"from": "gpt", "value": "no"},
        {"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "yes"}]},
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    vision.picture_files(folder)
    (folder / "d.json").write_text(json.dumps(ROWS))
    return folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, tokenizer):
    return internvl.save(tmp_path_factory.mktemp("internvl"), "internlm2", tokenizer)


def _fields(file):
    """The fields of a config.json and of its parts, without those that transformers writes in other words."""
    config = json.loads(file.read_text())
    vision, text = config.pop("vision_config"), config.pop("llm_config")
    found = {f"vision.{name}": value for name, value in vision.items()}
    found |= {f"text.{name}": value for name, value in text.items() if not isinstance(value, (dict, list))}
    found |= {name: value for name, value in config.items() if not isinstance(value, (dict, list))}
    other = (
        "text.dtype", "text.transformers_version", "torch_dtype", "vision.architectures",
        "vision.drop_path_rate", "vision.initializer_factor",
    )  # fmt: skip
    return {name: value for name, value in found.items() if name not in other}


def items_of(folder, data):
    return list(InternVL_V1_5_Dataset(
        str(folder), PROMPT_TEMPLATE.internlm2_chat, str(data / "d.json"), str(data), max_length=512
    ))  # fmt: skip


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("family", internvl.CLASSES)
def test_logits_are_those_of_its_own_definition(family, big, tmp_path, tokenizer):
    """Of both kinds of encoder, with every language model; what is saved has the same names and bits."""
    folder = internvl.save(tmp_path / "model", family, tokenizer, big=big)
    config = load_config(folder)
    model, report = AutoModelForImageTextToText.from_pretrained(
        folder, config=config, output_loading_info=True
    )
    assert not any(report.values())
    model.save_pretrained(tmp_path / "saved")
    saved, first = (load_file(path / "model.safetensors") for path in (tmp_path / "saved", folder))
    assert saved.keys() == first.keys()
    assert all(torch.equal(saved[name], first[name]) for name in first)
    again, before = (_fields(path / "config.json") for path in (tmp_path / "saved", folder))
    assert before.items() <= again.items()
    ids = torch.tensor([1, 5, 6, *[config.image_token_id] * 8, 9, 10])
    pixels = torch.randn(2, 3, internvl.SIZE, internvl.SIZE, dtype=torch.float64)
    with torch.no_grad():
        logits = model.double().eval()(input_ids=ids[None], pixel_values=pixels).logits[0]
        wanted = internvl.Reference(folder).logits(ids, pixels, config.image_token_id)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5)


def test_a_pack_has_the_loss_of_its_samples_by_that_definition(model_dir, data):
    """Samples with two images, one, and none."""
    items = items_of(model_dir, data)
    model = InternVL_V1_5(str(model_dir), use_activation_checkpointing=False).double()
    reference, token = internvl.Reference(model_dir), load_config(model_dir).image_token_id
    total, count = 0.0, 0
    for item in items:
        (inputs,) = item.get("image_inputs", [{}])
        ids, labels = torch.tensor(item["input_ids"]).long(), torch.tensor(item["labels"])
        logits = reference.logits(ids, inputs.get("pixel_values"), token)
        total += functional.cross_entropy(logits[:-1], labels[1:], reduction="sum")
        count += int((labels[1:] >= 0).sum())
    loss = model(flat_collate_fn(items)["data"])["loss"]
    torch.testing.assert_close(loss, total / count, rtol=1e-6, atol=0)


def test_gradients_are_those_of_transformers(model_dir, data, relative_error, stock_code):
    """Of a sample with tiles, for all parts, in float64."""
    item = items_of(model_dir, data)[0]
    model = InternVL_V1_5(str(model_dir), use_activation_checkpointing=False).double().train()
    model(flat_collate_fn([item])["data"])["loss"].backward()
    theirs = AutoModelForImageTextToText.from_pretrained(
        model_dir, config=load_config(model_dir), attn_implementation="eager"
    ).double()  # fmt: skip
    ids, labels = torch.tensor(item["input_ids"]).long()[None], torch.tensor(item["labels"])
    pixels = item["image_inputs"][0]["pixel_values"].double()
    with stock_code(theirs):
        functional.cross_entropy(
            theirs(input_ids=ids, pixel_values=pixels).logits[0, :-1], labels[1:]
        ).backward()
    own = {name: weight.grad for name, weight in model.llm.named_parameters()}
    # A bias of keys has no gradient but that of rounding.
    kept = {name: p for name, p in theirs.named_parameters() if not name.endswith("k_proj.bias")}
    errors = {name: relative_error(own[name], p.grad) for name, p in kept.items()}
    assert {model.part_of(name) for name in errors} == {"vision", "projector", "language model"}
    assert max(errors.values()) < 1e-6, sorted(errors.items(), key=lambda pair: -pair[1])[:5]


def lora(**changes):
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "task_type": "CAUSAL_LM", **changes})


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({"llm_lora": lora()}, {"vision", "projector", "language model"}),
        ({"llm_lora": lora(), "freeze_visual_encoder": True}, {"projector", "language model"}),
        (
            {"llm_lora": lora(), "freeze_visual_encoder": True, "quantization_llm": True},
            {"projector", "language model"},
        ),
        (
            {"llm_lora": lora(), "visual_encoder_lora": lora(r=2, lora_alpha=6, lora_dropout=0.5)},
            {"vision", "projector", "language model"},
        ),
        ({"freeze_llm": True, "visual_encoder_lora": lora()}, {"vision", "projector"}),
        ({"freeze_llm": True, "freeze_visual_encoder": True}, {"projector"}),
    ],
)
def test_what_is_trained(settings, trained, model_dir, data):
    """Adapters have their own rank and dropout; the parts beside them are trained as a whole or frozen."""
    model = InternVL_V1_5(str(model_dir), **settings).train()
    model(flat_collate_fn(items_of(model_dir, data))["data"])["loss"].backward()
    weights = {
        n.removeprefix("llm.").removeprefix("base_model.model."): p for n, p in model.named_parameters()
    }
    assert {model.part_of(name) for name, p in weights.items() if p.requires_grad} == trained
    assert {n for n, p in weights.items() if p.requires_grad} == {
        n for n, p in weights.items() if p.grad is not None
    }
    adapted = {name: m for name, m in model.llm.named_modules() if is_lora(m)}
    for name, layer in adapted.items():
        key = "visual_encoder_lora" if "vision_tower" in name else "llm_lora"
        asked = settings[key]
        assert layer.r["default"] == asked.r
        assert layer.scaling["default"] == asked.lora_alpha / asked.r
        assert getattr(layer.lora_dropout["default"], "p", 0.0) == asked.lora_dropout
    quantised = {n for n, m in model.llm.named_modules() if type(m).__name__ == "Linear4bit"}
    assert all(".language_model." in name for name in quantised)
    assert bool(quantised) == ("quantization_llm" in settings)


def test_one_adapter_cannot_have_two_biases(model_dir):
    with pytest.raises(ConfigError, match=r"visual_encoder_lora.bias is 'all' and llm_lora.bias 'none'"):
        InternVL_V1_5(str(model_dir), llm_lora=lora(), visual_encoder_lora=lora(bias="all"))


def test_an_adapter_of_the_encoder_beside_a_trained_language_model_is_refused(model_dir):
    with pytest.raises(ConfigError, match="give the language model an adapter too"):
        InternVL_V1_5(str(model_dir), visual_encoder_lora=lora())


def test_layers_of_the_encoder_by_name(model_dir):
    settings = {"freeze_llm": True, "freeze_visual_encoder": True}
    model = InternVL_V1_5(str(model_dir), **settings, visual_encoder_lora=lora(target_modules=["fc1"]))
    found = {name.rpartition(".")[2] for name, module in model.llm.named_modules() if is_lora(module)}
    assert found == {"fc1"}
    with pytest.raises(ConfigError, match="names no linear layer of the encoder; they are fc1, fc2, k_proj"):
        InternVL_V1_5(str(model_dir), **settings, visual_encoder_lora=lora(target_modules=["wqkv"]))


def test_a_folder_of_transformers_is_taken_too(tmp_path, tokenizer, data):
    """The same class and data set."""
    folder = vision.save("internvl", tmp_path / "model", tokenizer)
    model = InternVL_V1_5(str(folder))
    assert isinstance(model, VisionLanguageFinetune)
    items = items_of(folder, data)
    assert torch.isfinite(model(flat_collate_fn(items)["data"])["loss"])


def test_older_models_are_refused(tmp_path, tokenizer):
    """They order the parts of an image in another way."""
    folder = internvl.save(tmp_path, "llama", tokenizer, ps_version="v1")
    with pytest.raises(ModelError, match="ps_version v1"):
        InternVL_V1_5(str(folder))


def test_a_run_begins_with_the_weights_of_another(model_dir, tmp_path):
    first = InternVL_V1_5(str(model_dir), llm_lora=lora())
    state = {name: torch.full_like(tensor, 0.5) for name, tensor in first.state_dict().items()}
    second = InternVL_V1_5(
        str(model_dir), freeze_visual_encoder=True, llm_lora=lora(), pretrained_pth="p.pth"
    )
    assert second.starts_from == "p.pth"
    second.start_from(state, "p.pth")
    assert all((tensor == 0.5).all() for tensor in second.state_dict().values())


def test_a_tokenizer_as_on_the_hub(tmp_path, tokenizer, train_sentencepiece):
    """InternLM2's file with tokens behind its pieces: their ids, and no code of the folder."""
    folder = internvl.save(tmp_path, "internlm2", tokenizer)
    for file in [*folder.glob("tokenizer*"), *folder.glob("special_tokens*")]:
        file.unlink()
    reserved = [f"[UNUSED_TOKEN_{number}]" for number in range(4)]
    train_sentencepiece(
        folder / "tokenizer.model", vocab_size=398, add_dummy_prefix=False, user_defined_symbols=reserved
    )
    behind = {token: 398 + number for number, token in enumerate(internvl.TOKENS)}
    names = {"<unk>": 0, "<s>": 1, "</s>": 2, "<|im_end|>": 3, "<|im_start|>": 4, **behind}
    fields = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "added_tokens_decoder": {
            str(number): {"content": token, **fields} for token, number in names.items()
        },
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "tokenizer_class": "InternLM2Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    processor = load_processor(folder)
    assert load_config(folder).image_token_id == processor.image_token_id == behind["<IMG_CONTEXT>"]
    ids = processor.tokenizer.encode("<|im_start|><img><IMG_CONTEXT></img>", add_special_tokens=False)
    assert ids == [4, 398, 400, 399]
    (folder / "added_tokens.json").write_text(json.dumps(behind))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "InternLM2Tokenizer"}))
    assert load_config(folder).image_token_id == behind["<IMG_CONTEXT>"]


def test_tied_embeddings(tmp_path, tokenizer):
    """A head that is the embedding has no tensor in the files."""
    folder = internvl.save(tmp_path, "qwen2", tokenizer)
    weights = load_file(folder / "model.safetensors")
    del weights["language_model.lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["llm_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    model, report = AutoModelForImageTextToText.from_pretrained(
        folder, config=load_config(folder), output_loading_info=True
    )
    assert not any(report.values())
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_the_long_context_of_phi3_by_its_older_name(tmp_path, tokenizer):
    """As in the folders of 4B, with factors of rope for short and for long sequences."""
    folder = internvl.save(tmp_path, "phi3", tokenizer)
    config = json.loads((folder / "config.json").read_text())
    text = config["llm_config"]
    del text["rope_parameters"]
    text |= {"rope_theta": 10000.0, "original_max_position_embeddings": 1024}
    factors = {"short_factor": [1.0, 1.2, 1.4, 1.6], "long_factor": [2.0, 3.0, 4.0, 5.0]}
    text["rope_scaling"] = {"type": "su", **factors}
    (folder / "config.json").write_text(json.dumps(config))
    model = AutoModelForImageTextToText.from_pretrained(folder, config=load_config(folder)).double()
    ids = torch.arange(5, 45)
    with torch.no_grad():
        logits = model.eval()(input_ids=ids[None]).logits[0]
        wanted = internvl.Reference(folder).logits(ids, None, model.config.image_token_id)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5)
    rope = model.config.text_config.rope_parameters
    assert (rope["rope_type"], rope["short_factor"]) == ("longrope", factors["short_factor"])
