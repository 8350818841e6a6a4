"""A tiny LLaVA in both layouts, with the same weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import NamedTuple

import torch

SIZE, PATCH = 56, 14
LENGTH = (SIZE // PATCH) ** 2


class LlavaDirs(NamedTuple):
    """Folders: an LLM, a CLIP and the parts of --llava; the same as one whole model."""

    llm: Path
    clip: Path
    parts: Path
    whole: Path


def save_llava(folder: Path, llama_dir: Path, tokenizer) -> LlavaDirs:
    """Write a random LLaVA below `folder`: its LLM has an adapter in the parts, merged in the whole."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    dirs = LlavaDirs(llama_dir, folder / "clip", folder / "parts", folder / "whole")
    clip = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=SIZE,
            patch_size=PATCH,
        )
    )
    for parameter in clip.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    clip.save_pretrained(dirs.clip)
    crop = {"height": SIZE, "width": SIZE}
    CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=crop).save_pretrained(dirs.clip)
    projector = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 64))
    for layer in (projector[0], projector[2]):
        torch.nn.init.normal_(layer.weight, std=0.1)
    save_projector(dirs.parts / "projector", projector)
    llm = AutoModelForCausalLM.from_pretrained(llama_dir)
    lora = LoraConfig(r=4, lora_alpha=32, init_lora_weights=False, task_type="CAUSAL_LM")
    llm = get_peft_model(llm, lora)
    llm.save_pretrained(str(dirs.parts / "llm_adapter"))
    save_whole(dirs, llm.merge_and_unload(), clip, projector, tokenizer)
    return dirs


def save_projector(folder: Path, projector) -> None:
    """Write `projector` as XTuner 0.1.x does."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    first, last = projector[0], projector[-1]
    config = {"model_type": "projector", "depth": 2, "hidden_act": "gelu", "bias": True}
    config |= {"visual_hidden_size": first.in_features, "llm_hidden_size": last.out_features}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({f"model.{k}": v for k, v in projector.state_dict().items()}, folder / "model.safetensors")


def save_whole(dirs: LlavaDirs, llm, clip, projector, tokenizer) -> None:
    """Write the parts as one LlavaForConditionalGeneration with its processor, which makes images square."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    token = tokenizer.convert_tokens_to_ids("<image>")
    llm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    llm.lm_head.weight.data[-1] = 0  # never said
    config = LlavaConfig(
        vision_config=clip.config.to_dict(),
        text_config=llm.config.to_dict(),
        image_token_id=token,
        vision_feature_layer=-2,
        image_seq_length=LENGTH,
    )
    config.eos_token_id = tokenizer.eos_token_id
    whole = LlavaForConditionalGeneration(config)
    whole.model.vision_tower.load_state_dict(clip.state_dict())
    whole.model.language_model.load_state_dict(llm.model.state_dict())
    whole.lm_head.load_state_dict(llm.lm_head.state_dict())
    renamed = {"0": "linear_1", "2": "linear_2"}
    whole.model.multi_modal_projector.load_state_dict(
        {f"{renamed[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in projector.state_dict().items()}
    )
    whole.generation_config.eos_token_id = tokenizer.eos_token_id
    whole.save_pretrained(dirs.whole)
    crop = {"height": SIZE, "width": SIZE}
    processor = LlavaProcessor(
        LlavaImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=crop, do_pad=True),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    processor.save_pretrained(dirs.whole)


def picture_file(path: Path, colour=(200, 30, 30), size=(80, 48)) -> Path:
    """A file with an image that is no square: a gradient, and a block of `colour`."""
    from PIL import Image

    image = Image.linear_gradient("L").resize(size).convert("RGB")
    image.paste(colour, (8, 8, 40, 40))
    image.save(path)
    return path


def config_of(text: str, clip: Path, data: str) -> str:
    """The config of a language model, followed by lines that train a projector to it on images."""
    encoder = {"pretrained_model_name_or_path": str(clip)}
    return f"""{text}
from xtuner.dataset import LLaVADataset
from xtuner.dataset.map_fns import llava_map_fn
from xtuner.model import LLaVAModel
model = dict(type=LLaVAModel, llm=model['llm'], visual_encoder={encoder}, freeze_llm=True)
train_dataloader['dataset'] = dict(
    type=LLaVADataset, data_path={data!r}, image_folder='.', image_processor={encoder}, tokenizer=tokenizer,
    dataset_map_fn=llava_map_fn, template_map_fn=dict(type=template_map_fn_factory, template='default'),
    max_length=64)
"""
