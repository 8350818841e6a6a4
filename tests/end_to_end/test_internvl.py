"""InternVL by its recipes' own commands, from InternVL's own folder to one of either form."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from tests import internvl, vision
from tests.llava import picture_file
from xtuner.config import Builder, load_config
from xtuner.dataset.collate_fns import flat_collate_fn
from xtuner.engine.checkpoints.files import load_checkpoint
from xtuner.image_processor import load_processor

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

LORA = "internvl_v2_internlm2_2b_lora_finetune"
QLORA = "internvl_v2_internlm2_2b_qlora_finetune"
FULL = "internvl_v2_phi3_4b_finetune"
FULL_INTERNLM2 = "internvl_v2_internlm2_2b_finetune"


@pytest.fixture
def here(tmp_path, tokenizer, monkeypatch):
    """A folder with images, conversations about them, and models."""
    rows = []
    for number in range(6):
        colour = ("red", (200, 30, 30)) if number % 2 else ("blue", (20, 60, 200))
        picture_file(tmp_path / f"{number}.png", colour[1])
        talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": colour[0]}]
        rows.append({"image": f"{number}.png", "conversations": talk})
    rows.append({"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]})
    (tmp_path / "d.json").write_text(json.dumps(rows))
    for family in ("internlm2", "phi3"):
        internvl.save(tmp_path / family, family, tokenizer)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(run, name, work_dir, *words, **more):
    given = {
        "path": "phi3" if "phi3" in name else "internlm2",
        "data_path": "d.json",
        "image_folder": ".",
        "max_length": 512,
        "batch_size": 2,
        "accumulative_counts": 1,
        "dataloader_num_workers": 0,
        "lr": 1e-2,
        **more,
    }
    options = [f"{key}={value}" for key, value in given.items()]
    return run(
        "train", name, "--work-dir", work_dir, "--seed", 1, *words, "--cfg-options", *options, with_log=True
    )


def convert(run, name, work_dir, layout):
    out = f"{work_dir}/{layout}"
    words = ("convert", "pth_to_hf", f"{work_dir}/{name}.py", f"{work_dir}/iter_4.pth", out)
    run(*words, "--fp32", "--save-format", layout)
    return Path(out)


def samples_of(name, work_dir):
    """The data, and the trained model's logits for each sample of a batch."""
    cfg, builder = load_config(Path(f"{work_dir}/{name}.py")), Builder()
    items = builder.build(cfg.train_dataloader["dataset"], "dataset")
    model = builder.build(cfg.model, "model")
    model.load_state_dict(load_checkpoint(f"{work_dir}/iter_4.pth")["state_dict"])
    model = model.float().eval()
    with torch.no_grad():
        logits = [model(flat_collate_fn([items[n]])["data"], mode="predict")[0]["logits"] for n in (0, 6)]
    return [items[0], items[6]], logits


def inputs_of(item):
    found = {"input_ids": torch.tensor(item["input_ids"]).long()[None]}
    images = item.get("image_inputs")
    return {**found, "pixel_values": images[0]["pixel_values"]} if images else found


def plain_logits(folder, items):
    """The logits of transformers' own classes, and the name of the language model's."""
    model, report = AutoModelForImageTextToText.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
    )
    assert not any(report.values())
    kinds = {type(module) for module in model.modules()}
    assert {kind.__module__.split(".")[0] for kind in kinds} == {"torch", "transformers"}
    with torch.no_grad():
        logits = [model.eval()(**inputs_of(item)).logits[0] for item in items]
    return type(model.model.language_model).__name__, logits


@pytest.mark.parametrize(
    ("name", "decoder"), [(LORA, "LlamaModel"), (FULL_INTERNLM2, "LlamaModel"), (FULL, "Phi3Model")]
)
def test_a_trained_model_in_both_forms(name, decoder, here, run):
    """Transformers' own classes and InternVL's own definition compute the logits of training."""
    log = train(run, name, "w")
    assert "Parts that are trained: projector (3,264), language model" in log
    items, ours = samples_of(name, "w")
    kind, theirs = plain_logits(convert(run, name, "w", "huggingface"), items)
    assert kind == decoder
    official = convert(run, name, "w", "official")
    reference, token = internvl.Reference(official), load_processor(official).image_token_id
    for item, own, plain in zip(items, ours, theirs, strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-4)
        sample = inputs_of(item)
        with torch.no_grad():
            wanted = reference.logits(sample["input_ids"][0], sample.get("pixel_values"), token)
        torch.testing.assert_close(own.double(), wanted, rtol=1e-4, atol=1e-4)
    base = Path("phi3" if "phi3" in name else "internlm2")
    assert load_file(official / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
    config, before = (json.loads((folder / "config.json").read_text()) for folder in (official, base))
    dtypes = ("dtype", "torch_dtype")  # the newer and the older name
    assert [config.pop(key) for key in dtypes if key in config] == ["float32"]
    assert config == {key: value for key, value in before.items() if key not in dtypes}
    assert (official / "modeling_internvl_chat.py").is_file()


def test_the_chat_template_of_transformers_gives_the_ids_of_training(here, run):
    """With an image, after the system text of training."""
    train(run, LORA, "w")
    folder = convert(run, LORA, "w", "huggingface")
    cfg = load_config(Path(f"w/{LORA}.py"))
    item = Builder().build(cfg.train_dataloader["dataset"], "dataset")[0]
    processor = load_processor(folder)
    system = "You are an AI assistant whose name is InternLM (书生·浦语)."
    question = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": question},
        {"role": "assistant", "content": "blue"},
    ]
    text = processor.tokenizer.apply_chat_template(messages, tokenize=False)
    found = processor(
        images=[Image.open("0.png")], text=[text], add_special_tokens=False, return_tensors="pt"
    )
    assert found["input_ids"][0].tolist() == item["input_ids"].tolist()
    assert torch.equal(found["pixel_values"], item["image_inputs"][0]["pixel_values"])


def test_a_stopped_run_goes_on_to_the_same_bits(here, run):
    """Resumed from its second checkpoint, an adapter in 4 bits ends as one that was not stopped."""
    more = {"save_steps": 2, "save_total_limit": -1, "default_hooks.checkpoint.save_optimizer": True}
    train(run, QLORA, "whole", **more)
    train(run, QLORA, "again", "--resume", "whole/iter_2.pth", **more)
    ends = [load_checkpoint(f"{name}/iter_4.pth")["state_dict"] for name in ("whole", "again")]
    start = load_checkpoint("whole/iter_2.pth")["state_dict"]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not any(torch.equal(start[name], ends[0][name]) for name in start)


def test_an_adapter_of_the_encoder_is_merged_too(here, run):
    """Both adapters are one folder; the merged model is that of training."""
    encoder = "{'type': 'peft.LoraConfig', 'r': 2, 'lora_alpha': 4}"
    train(run, LORA, "w", **{"model.visual_encoder_lora": encoder})
    items, ours = samples_of(LORA, "w")
    official = convert(run, LORA, "w", "official")
    reference, token = internvl.Reference(official), load_processor(official).image_token_id
    for item, own in zip(items, ours, strict=True):
        sample = inputs_of(item)
        with torch.no_grad():
            wanted = reference.logits(sample["input_ids"][0], sample.get("pixel_values"), token)
        torch.testing.assert_close(own.double(), wanted, rtol=1e-4, atol=1e-4)
    name = "vision_model.encoder.layers.0.attn.qkv.weight"
    before, after = (load_file(f"{folder}/model.safetensors")[name] for folder in ("internlm2", official))
    assert not torch.equal(before, after)


def test_a_base_of_transformers(here, run, tokenizer):
    """It has one form; the other is refused."""
    vision.save("internvl", here / "native", tokenizer)
    train(run, LORA, "w", path="native")
    items, ours = samples_of(LORA, "w")
    _, theirs = plain_logits(convert(run, LORA, "w", "huggingface"), items)
    for own, plain in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-4)
    with pytest.raises(
        AssertionError, match="native is in the form of transformers: write --save-format hugg"
    ):
        convert(run, LORA, "w", "official")


def test_rows_held_out_for_validation(here, run):
    """A part of the rows, which training leaves out."""
    log = train(run, LORA, "w", **{"val_dataloader.held_out": 0.3})
    counts = [int(line.split("data: ")[1].split()[0]) for line in log.splitlines() if " rows; " in line]
    assert sorted(counts) == [2, 5]
    assert "Iter(val) [" in log
