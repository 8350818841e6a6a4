"""LLaVA by its two stages and its recipes' own commands, to every layout and to chat."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor, CLIPVisionModel, LlavaForConditionalGeneration

from tests.llava import picture_file, save_llava
from xtuner import cli
from xtuner.chat.terminal import PROMPT
from xtuner.config import Builder, load_config
from xtuner.dataset.collate_fns import flat_collate_fn
from xtuner.engine.checkpoints.files import load_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

ALIGN = "llava_vicuna_7b_v15_clip_vit_large_p14_336_e1_gpu8_pretrain"
TUNE = "llava_vicuna_7b_v15_qlora_clip_vit_large_p14_336_lora_e1_gpu8_finetune"
FULL = "llava_v15_7b_finetune"
SHORT = ("--max-new-tokens", 8, "--torch-dtype", "fp32", "--temperature", 0, "--prompt-template", "vicuna")


@pytest.fixture
def here(tmp_path, llama_dir, tokenizer, monkeypatch):
    """`llm`, `clip`, images of two colours, and conversations about them."""
    dirs = save_llava(tmp_path, llama_dir, tokenizer)
    rows = []
    for number in range(8):
        colour = ("red", (200, 30, 30)) if number % 2 else ("blue", (20, 60, 200))
        picture_file(tmp_path / f"{number}.png", colour[1])
        talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": colour[0]}]
        rows.append({"image": f"{number}.png", "conversations": talk})
    (tmp_path / "d.json").write_text(json.dumps(rows))
    monkeypatch.chdir(tmp_path)
    return dirs


def options(dirs, **more):
    given = {
        "llm_name_or_path": dirs.llm,
        "visual_encoder_name_or_path": dirs.clip,
        "data_path": "d.json",
        "image_folder": ".",
        "evaluation_images": "1.png",
        "max_length": 128,
        "batch_size": 2,
        "accumulative_counts": 1,
        "dataloader_num_workers": 0,
        **more,
    }
    return [f"{name}={value}" for name, value in given.items()]


def train(run, dirs, name, work_dir, **more):
    words = ("train", name, "--work-dir", work_dir, "--seed", 1, "--cfg-options", *options(dirs, **more))
    return run(*words, with_log=True)


def convert(run, name, work_dir, *layouts):
    for layout in layouts:
        checkpoint = f"{work_dir}/iter_4.pth"
        words = ("convert", "pth_to_hf", f"{work_dir}/{name}.py", checkpoint, f"{work_dir}/{layout}")
        run(*words, "--fp32", "--save-format", layout)


def answers(run, *words):
    return run("chat", *words, "--image", "1.png", *SHORT, script="What is it?").split(PROMPT)[1:]


def load_plain(folder):
    model, report = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


def test_two_stages_to_every_layout(here, run):
    """The second starts from the first; all layouts have the same weights and answer alike."""
    log = train(run, here, ALIGN, "align")
    assert "LLaVA trains projector (6,272)" in log
    log = train(run, here, TUNE, "tune", pretrained_pth="align/iter_4.pth", lr=1e-2)
    assert "Load pretrained weight from align/iter_4.pth" in log
    assert "<image*16>" in log
    assert "--llava tune/hf --visual-encoder" in log
    convert(run, TUNE, "tune", "xtuner", "huggingface", "official")
    parts = answers(run, here.llm, "--llava", "tune/xtuner", "--visual-encoder", here.clip)
    assert answers(run, "tune/huggingface") == answers(run, "tune/official") == parts
    load_plain("tune/huggingface")
    whole, official = (load_file(f"tune/{name}/model.safetensors") for name in ("huggingface", "official"))
    renamed = {
        "multi_modal_projector.linear_1.weight": "model.mm_projector.0.weight",
        "multi_modal_projector.linear_2.bias": "model.mm_projector.2.bias",
        "language_model.model.layers.1.mlp.up_proj.weight": "model.layers.1.mlp.up_proj.weight",
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight": (
            "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"
        ),
    }
    for ours, theirs in renamed.items():
        assert torch.equal(whole[ours], official[theirs]), ours
    assert len(whole) == len(official)
    config = json.loads(Path("tune/official/config.json").read_text())
    assert config["mm_vision_tower"] == str(here.clip)
    assert (config["model_type"], config["mm_projector_type"]) == ("llava", "mlp2x_gelu")


def test_a_language_model_that_the_package_llava_has_not(here, run, capsys):
    """Its own form is refused; a Mistral is named as it is there."""
    train(run, here, ALIGN, "align")
    for family in ("mistral", "qwen2"):
        llm = shutil.copytree(here.llm, Path(family))
        config = json.loads((llm / "config.json").read_text()) | {"model_type": family}
        (llm / "config.json").write_text(json.dumps(config))
        words = ["convert", "pth_to_hf", f"align/{ALIGN}.py", "align/iter_4.pth", f"as_{family}"]
        more = ["--save-format", "official", "--cfg-options", f"llm_name_or_path={llm}"]
        assert cli.main([*words, *more]) == (family == "qwen2")
    assert "has no language model of the family 'qwen2'" in capsys.readouterr().err
    config = json.loads(Path("as_mistral/config.json").read_text())
    assert config["architectures"] == ["LlavaMistralForCausalLM"]
    assert (config["model_type"], config["image_aspect_ratio"]) == ("llava_mistral", "square")


def test_all_weights(here, run):
    """Transformers computes the logits of training from the folder of a run without adapters."""
    train(run, here, ALIGN, "align")
    train(run, here, FULL, "full", pretrained_pth="align/iter_4.pth", lr=1e-3)
    convert(run, FULL, "full", "xtuner", "huggingface")
    parts = answers(run, "full/xtuner", "--llava", "full/xtuner", "--visual-encoder", here.clip)
    assert answers(run, "full/huggingface") == parts
    cfg = load_config(Path(f"full/{FULL}.py"))
    builder = Builder()
    item = builder.build(cfg.train_dataloader["dataset"], "dataset")[0]
    model = builder.build(cfg.model, "model").eval()
    model.load_state_dict(load_checkpoint("full/iter_4.pth")["state_dict"])
    with torch.no_grad():
        (ours,) = model(flat_collate_fn([item])["data"], mode="predict")
        plain = load_plain("full/huggingface")
        processor = AutoProcessor.from_pretrained("full/huggingface", backend="pil")
        text = processor.tokenizer.decode([i for i in item["input_ids"] if i >= 0])
        text = text.replace("USER: ", "USER: <image>")
        inputs = processor(images=Image.open("0.png"), text=text, return_tensors="pt")
        theirs = plain(**inputs).logits[0]
    width = ours["logits"].shape[-1]
    torch.testing.assert_close(ours["logits"], theirs[:, :width], rtol=1e-4, atol=1e-5)


def test_an_encoder_trained_without_an_adapter(here, run):
    """All layouts have its weights and answer alike; transformers loads the folder of the encoder."""
    more = {"model.freeze_visual_encoder": False, "model.visual_encoder_lora": None, "lr": 1e-2}
    train(run, here, ALIGN, "align")
    train(run, here, TUNE, "tune", pretrained_pth="align/iter_4.pth", **more)
    convert(run, TUNE, "tune", "xtuner", "huggingface", "official")
    parts = answers(run, here.llm, "--llava", "tune/xtuner")
    assert answers(run, "tune/huggingface") == answers(run, "tune/official") == parts
    load_plain("tune/huggingface")
    encoder, report = CLIPVisionModel.from_pretrained("tune/xtuner/visual_encoder", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    trained = load_checkpoint("tune/iter_4.pth")["state_dict"]
    for name, weight in encoder.state_dict().items():
        assert torch.equal(weight, trained[f"visual_encoder.{name}"]), name
    whole, official = (load_file(f"tune/{name}/model.safetensors") for name in ("huggingface", "official"))
    weight = encoder.state_dict()["encoder.layers.0.mlp.fc1.weight"]
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    assert torch.equal(whole[f"vision_tower.{name}"], weight)
    assert torch.equal(official[f"model.vision_tower.vision_tower.{name}"], weight)


def test_a_stopped_stage_goes_on_to_the_same_bits(here, run):
    """Resumed from its second checkpoint, a run ends with the weights of one that was not stopped."""
    more = {"save_steps": 2, "save_total_limit": -1}
    train(run, here, ALIGN, "whole", **more)
    words = ("train", ALIGN, "--work-dir", "again", "--resume", "whole/iter_2.pth", "--seed", 1)
    run(*words, "--cfg-options", *options(here, **more))
    ends = [load_checkpoint(f"{name}/iter_4.pth")["state_dict"] for name in ("whole", "again")]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
