"""Text data on models with images or audio: the language part is trained, packed samples are isolated."""

import copy
import itertools
import logging

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from tests import seeing
from xtuner.errors import ConfigError
from xtuner.model import SupervisedFinetune
from xtuner.model.attention import packed_batch
from xtuner.model.isolation import Isolation
from xtuner.model.language_part import freeze_the_rest, language_part
from xtuner.model.loading import load_llm
from xtuner.model.lora import apply_lora
from xtuner.model.packed import packed_inputs

BOUNDARIES = [0, 10, 17, 24]
FAMILIES = list(seeing.FAMILIES)
# Beginnings of the names of weights that text does not train; of all others it trains some.
SEES = {
    "llama4": ["vision_model.", "multi_modal_projector."],
    "mllama": ["model.vision_model.", "model.multi_modal_projector.", "model.language_model.layers.1."],
    "idefics3": ["model.vision_model.", "model.connector."],
    "smolvlm": ["model.vision_model.", "model.connector."],
    "kimi_k25": ["model.vision_tower.", "model.mm_projector."],
    "qwen2_5_omni_thinker": ["model.visual.", "model.audio_tower."],
    **dict.fromkeys(["glm4v", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"], ("model.visual.",)),
    **dict.fromkeys(
        ["audioflamingo3", "qwen2_audio", "voxtral"], ("model.audio_tower.", "model.multi_modal_projector.")
    ),
}
USUAL = ["model.vision_tower.", "model.multi_modal_projector.", "model.image_newline"]

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def ids(length=24):
    return torch.randint(5, 400, (1, length), generator=torch.Generator().manual_seed(2))


def sees(family, name):
    return name.startswith(tuple(SEES.get(family, USUAL)))


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_text_gives_the_logits_of_each_sample_alone(family, relative_error):
    """Ours on a pack, with restarting positions, equals stock attention sample by sample."""
    model, row = seeing.make(family), ids()
    model.set_attn_implementation("xtuner")
    assert Isolation().holds(model, 24)
    with torch.no_grad(), packed_batch(BOUNDARIES):
        packed = model(**packed_inputs(row, BOUNDARIES)).logits[0]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        alone = [
            model(input_ids=row[:, a:b], use_cache=False).logits[0] for a, b in itertools.pairwise(BOUNDARIES)
        ]
    assert relative_error(packed, torch.cat(alone)) < 3e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_text_gives_a_gradient_to_exactly_the_language_part(family):
    """Not to parts for images or audio, nor to layers that attend to images."""
    model = seeing.make(family).train()
    model(input_ids=ids(), use_cache=False).logits.square().sum().backward()
    belongs = language_part(model)
    assert {n for n, _ in model.named_parameters() if not belongs(n)} == {
        n for n, _ in model.named_parameters() if sees(family, n)
    }
    for name, weight in model.named_parameters():
        assert belongs(name) or weight.grad is None, name
    freeze_the_rest(model)
    assert [n for n, w in model.named_parameters() if not w.requires_grad] == [
        n for n, _ in model.named_parameters() if sees(family, n)
    ]


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("kimi_k25", "llama4", "qwen3_vl_moe")])
def test_an_adapter_is_put_on_the_language_part(family):
    """On every linear layer of it but the head."""
    model = apply_lora(seeing.make(family), LoraConfig(r=2)).train()
    model(input_ids=ids(), use_cache=False).logits.square().sum().backward()
    adapted = [n for n, w in model.named_parameters() if w.requires_grad]
    assert adapted
    assert not [n for n in adapted if sees(family, n.removeprefix("base_model.model."))]
    linear = [
        n
        for n, m in seeing.make(family).named_modules()
        if type(m) is torch.nn.Linear and not sees(family, n + ".") and not n.endswith("lm_head")
    ]
    assert len(adapted) == 2 * len(linear)


def test_a_text_model_is_its_own_language_part(llama):
    """Nothing is frozen or logged."""
    belongs = language_part(llama)
    assert all(belongs(name) for name, _ in llama.named_parameters())
    freeze_the_rest(llama)
    assert all(w.requires_grad for w in llama.parameters())


def test_targets_that_also_match_layers_for_images_mean_the_language_part(caplog):
    """It is logged; targets that match only layers for images are an error."""
    with caplog.at_level(logging.INFO):
        model = apply_lora(seeing.make("qwen2_5_vl"), LoraConfig(r=2, target_modules=["gate_proj", "q_proj"]))
    adapted = {n.partition(".lora_")[0] for n, w in model.named_parameters() if w.requires_grad}
    assert adapted == {
        f"base_model.model.model.language_model.layers.{i}.{n}"
        for i in range(2)
        for n in ("mlp.gate_proj", "self_attn.q_proj")
    }
    assert "LoRA leaves out the vision and audio parts: mlp.gate_proj (2)" in caplog.text
    with pytest.raises(
        ConfigError, match=r"names only layers of the vision and audio parts, .* down_proj, gate_proj"
    ):
        apply_lora(seeing.make("qwen2_5_vl"), LoraConfig(r=2, target_modules=["qkv"]))
    everywhere = apply_lora(seeing.make("qwen2_5_vl"), LoraConfig(r=2, target_modules="all-linear"))
    assert not [n for n, w in everywhere.named_parameters() if w.requires_grad and "visual" in n]


@pytest.mark.parametrize("family", ["gemma3", "qwen2_5_vl", "smolvlm"])
def test_the_loss_is_that_of_the_stock_model(family, tmp_path, tokenizer, batch, relative_error, caplog):
    """AutoModelForCausalLM means the class of the folder; full fine-tuning freezes the rest and logs it."""
    folder = seeing.save(family, tmp_path, tokenizer)
    with caplog.at_level(logging.INFO):
        model = SupervisedFinetune(
            {"type": AutoModelForCausalLM.from_pretrained, "pretrained_model_name_or_path": str(folder)}
        )
    stock = seeing.make(family)
    size = sum(w.numel() for n, w in stock.named_parameters() if sees(family, n))
    assert type(model.llm) is type(stock)
    assert f"'{family}' is a multimodal model" in caplog.text
    assert f"the {size:,} parameters of its vision and audio parts are frozen" in caplog.text
    loss = model(batch)["loss"]
    loss.backward()
    total, count = 0.0, 0
    for row, cut in enumerate(batch["cumulative_len"]):
        for a, b in itertools.pairwise(cut.tolist()):
            labels = batch["labels"][row : row + 1, a:b]
            logits = stock(input_ids=batch["input_ids"][row : row + 1, a:b], use_cache=False).logits
            losses = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum")
            total, count = total + losses, count + int((labels[0, 1:] != -100).sum())
    (total / count).backward()
    assert relative_error(loss, total / count) < 1e-6
    for (name, ours), theirs in zip(model.llm.named_parameters(), stock.parameters(), strict=True):
        if not sees(family, name):
            assert relative_error(ours.grad, theirs.grad) < 1e-4, name


def test_a_class_that_the_config_names_is_used(tmp_path, tokenizer):
    """With our attention function."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    folder = seeing.save("qwen2_5_vl", tmp_path, tokenizer)
    made = load_llm(
        {
            "type": Qwen2_5_VLForConditionalGeneration.from_pretrained,
            "pretrained_model_name_or_path": str(folder),
        }
    )
    assert type(made) is Qwen2_5_VLForConditionalGeneration
    assert made.config._attn_implementation == "xtuner"
    assert copy.copy(made.config).model_type == "qwen2_5_vl"
