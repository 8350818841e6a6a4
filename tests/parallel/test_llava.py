"""LLaVA by two processes has the losses and weights of one, also where only one of them has an image."""

import json

import pytest

from tests.llava import picture_file, save_llava
from tests.parallel.conftest import LORA, SAMPLING, SHARED, SHORT, SHORT_TWICE, WORDS

# peft asks for a property that transformers has renamed.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]

FROZEN = {"freeze_llm": True, "freeze_visual_encoder": True}
VISION_LORA = {"type": "peft.LoraConfig", "r": 4, "lora_alpha": 8}
ADAPTERS = {**FROZEN, "llm_lora": LORA, "visual_encoder_lora": VISION_LORA}
CASES = {
    "ddp_projector": (SHORT, FROZEN),
    "fsdp_projector": ({**SHORT, "fsdp": True}, FROZEN),
    "ddp_adapters": (SHORT, ADAPTERS),
    "fsdp_adapters": ({**SHORT, "fsdp": True}, ADAPTERS),
    "shared_adapters": ({**SHARED, **SHORT_TWICE}, ADAPTERS),
    "ddp_full": (SHORT, {}),
    "fsdp_full": ({**SHORT, "fsdp": True}, {}),
    "fsdp_sampled": ({**SHORT, "fsdp": True, "interval": 3}, FROZEN),
}


@pytest.fixture(scope="module")
def by_two(tmp_path_factory, llama_dir, tokenizer, in_two_processes):
    """The results of two processes for each case; every other row is text, and rows come in order."""
    folder = tmp_path_factory.mktemp("llava")
    dirs = save_llava(folder, llama_dir, tokenizer)
    rows = []
    for number, word in enumerate(WORDS):
        picture_file(folder / f"{number}.png", (25 * number, 200 - 20 * number, 60))
        talk = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": word}]
        rows.append({"image": f"{number}.png", "conversations": talk})
        rows.append({"conversations": [{"from": "human", "value": word}, {"from": "gpt", "value": "yes"}]})
    (folder / "rows.json").write_text(json.dumps(rows))
    loaded = "{}.from_pretrained"
    dataset = {
        "type": "xtuner.dataset.LLaVADataset",
        "data_path": str(folder / "rows.json"),
        "image_folder": str(folder),
        "image_processor": {
            "type": loaded.format("transformers.CLIPImageProcessor"),
            "pretrained_model_name_or_path": str(dirs.clip),
        },
        "tokenizer": {
            "type": loaded.format("transformers.AutoTokenizer"),
            "pretrained_model_name_or_path": str(llama_dir),
        },
        "dataset_map_fn": "xtuner.dataset.map_fns.llava_map_fn",
        "template_map_fn": {"type": "xtuner.dataset.map_fns.template_map_fn_factory", "template": "default"},
        "max_length": 64,
        "pad_image_to_square": True,
    }
    model = {
        "type": "xtuner.model.LLaVAModel",
        "llm": {
            "type": loaded.format("transformers.AutoModelForCausalLM"),
            "pretrained_model_name_or_path": str(llama_dir),
            "torch_dtype": "torch.float32",
        },
        "visual_encoder": {"pretrained_model_name_or_path": str(dirs.clip)},
    }
    data = {
        "folder": str(llama_dir),
        "train_dataloader.dataset": dataset,
        "train_dataloader.sampler.shuffle": False,
    }
    cases = {name: {**data, **case, "model": {**model, **parts}} for name, (case, parts) in CASES.items()}
    sampling = {**SAMPLING, "evaluation_images": str(folder / "0.png")}
    sampling["image_processor"] = dataset["image_processor"]
    cases["fsdp_sampled"]["custom_hooks"] = [sampling]
    return in_two_processes(cases, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("case", CASES)
def test_llava_by_two_processes_trains_as_by_one(case, one, by_two, assert_same):
    """A process without an image takes part in the gradients of encoder and projector all the same."""
    found = by_two[case]
    twice = {} if "shared" in case else {"train_dataloader.batch_size": 2}
    expected = one(**found["options"], **twice)
    assert "error" not in found, found["error"]
    assert expected["losses"][-1] != expected["losses"][0]
    assert any(name.startswith("projector.") for name in found["weights"])
    assert_same(found, expected)
    assert bool(found["samples"]) == ("sampled" in case)
    assert all("<image*16>" in text for text in found["samples"])
