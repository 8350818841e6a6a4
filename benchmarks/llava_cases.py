"""Trainings of a LLaVA for `train_speed.py`: the same parts, pictures and chats for XTuner and for Trainer.

<place>/llava/clip/         an image encoder of 9 million random weights, 256 rows an image of 224 x 224
<place>/llava/whole/        the encoder, a new projector and <place>/model as a LlavaForConditionalGeneration
<place>/llava/pictures/     JPEGs of 640 x 480
<place>/llava/chats.json    chats of messages.jsonl, three of four about a picture

The encoder is frozen, the projector is trained; of the language model an adapter or all weights are.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from run_config import run_text
from timeline import Timeline, trainer_callback

IMAGE, IMAGE_ID, ROWS_PER_IMAGE, PICTURES, CHATS = "<image>", 32_000, 256, 256, 1_024
TURN = "<|im_start|>{role}\n{text}<|im_end|>\n"

CONFIG = """\
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPImageProcessor, CLIPVisionModel

from xtuner.dataset import LLaVADataset
from xtuner.dataset.collate_fns import default_collate_fn
from xtuner.dataset.map_fns import llava_map_fn, template_map_fn_factory
from xtuner.model import LLaVAModel

tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path={model!r})
model = dict(
    type=LLaVAModel,
    freeze_visual_encoder=True,
    use_activation_checkpointing=False,
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path={model!r},
        torch_dtype=torch.{weights}),
    visual_encoder=dict(type=CLIPVisionModel.from_pretrained, pretrained_model_name_or_path={clip!r}),
    {llm_lora})
train_dataloader = dict(
    batch_size={batch},
    num_workers=0,
    dataset=dict(
        type=LLaVADataset,
        data_path={chats!r},
        image_folder={pictures!r},
        tokenizer=tokenizer,
        image_processor=dict(type=CLIPImageProcessor.from_pretrained, pretrained_model_name_or_path={clip!r}),
        dataset_map_fn=llava_map_fn,
        template_map_fn=dict(type=template_map_fn_factory, template='qwen_chat'),
        max_length=512,
        max_packed_length={length}),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type=default_collate_fn))
"""


def make_llava_assets(place: Path) -> None:
    """Write the folder `llava`, unless it exists already."""
    folder = place / "llava"
    if (folder / "chats.json").is_file():
        return
    pictures = _write_pictures(folder / "pictures")
    _write_models(place / "model", folder)
    chats = []
    for number, line in enumerate((place / "messages.jsonl").read_text("utf-8").splitlines()[:CHATS]):
        question, answer = (message["content"] for message in json.loads(line)["messages"])
        row: dict[str, Any] = {"image": pictures[number % len(pictures)]} if number % 4 else {}
        talk = [
            {"from": "human", "value": f"{IMAGE}\n{question}" if row else question},
            {"from": "gpt", "value": answer},
        ]
        chats.append(row | {"conversations": talk})
    (folder / "chats.json").write_text(json.dumps(chats), "utf-8")


def _write_pictures(folder: Path) -> list[str]:
    """The names of pictures with large shapes and fine noise, as photographs have them."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    names = []
    for number in range(PICTURES):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((640, 480))
        noise = rng.normal(0, 8, (480, 640, 3))
        pixels = np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)
        names.append(f"{number}.jpg")
    return names


def _write_models(llm: Path, folder: Path) -> None:
    """Write the encoder, and the whole model that transformers reads, with its processor."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        CLIPImageProcessor,
        CLIPVisionConfig,
        CLIPVisionModel,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(0)
    clip = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=320,
            intermediate_size=1280,
            num_hidden_layers=8,
            num_attention_heads=5,
            image_size=224,
            patch_size=14,
        )
    )
    images = CLIPImageProcessor(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})
    for part in (clip, images):
        part.save_pretrained(folder / "clip")
    tokenizer, model = AutoTokenizer.from_pretrained(llm), AutoModelForCausalLM.from_pretrained(llm)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    assert tokenizer.convert_tokens_to_ids(IMAGE) == IMAGE_ID
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    whole = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=clip.config.to_dict(),
            text_config=model.config.to_dict(),
            image_token_id=IMAGE_ID,
            vision_feature_layer=-2,
            image_seq_length=ROWS_PER_IMAGE,
        )
    )
    whole.model.vision_tower.load_state_dict(clip.state_dict())
    whole.model.language_model.load_state_dict(model.model.state_dict())
    whole.lm_head.load_state_dict(model.lm_head.state_dict())
    whole.save_pretrained(folder / "whole")
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder / "whole")


def xtuner_llava(job: SimpleNamespace) -> dict[str, Any]:
    """`xtuner train`: conversations packed into items of `length` tokens, `batch` of them an update."""
    from train_cases import train_with_xtuner

    mixed = job.dtype == "bf16"
    lora = f"llm_lora=dict(type=LoraConfig, r=64, lora_alpha=16, lora_dropout={job.dropout})"
    return train_with_xtuner(
        job,
        run_text(job)
        + CONFIG.format(
            **vars(job),
            model=f"{job.place}/model",
            clip=f"{job.place}/llava/clip",
            chats=f"{job.place}/llava/chats.json",
            pictures=f"{job.place}/llava/pictures",
            llm_lora=lora if job.method == "llava_lora" else "",
            weights="bfloat16" if mixed and job.method == "llava_lora" else "float32",
        ),
    )


def trainer_llava(job: SimpleNamespace) -> dict[str, Any]:
    """transformers' Trainer: as many conversations an update as XTuner's packs have, padded to the longest.

    `grouped`: conversations of nearly equal length together, as LLaVA's own trainer has them.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from train_cases import LINEAR, trainer_settings
    from transformers import AutoProcessor, LlavaForConditionalGeneration, Trainer, TrainingArguments

    mixed, lora = job.dtype == "bf16", job.method == "llava_lora"
    folder = f"{job.place}/llava"
    weights = torch.bfloat16 if mixed and lora else torch.float32
    model = LlavaForConditionalGeneration.from_pretrained(f"{folder}/whole", dtype=weights)
    model.model.vision_tower.requires_grad_(False)
    if lora:
        torch.manual_seed(0)
        names = rf".*language_model.*\.({'|'.join(LINEAR)})"
        model = get_peft_model(
            model, LoraConfig(r=64, lora_alpha=16, lora_dropout=job.dropout, target_modules=names)
        )
        for parameter in model.base_model.model.model.multi_modal_projector.parameters():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    processor = AutoProcessor.from_pretrained(f"{folder}/whole")
    timeline = Timeline(job.device, processor.tokenizer.pad_token_id)
    grouped = {"train_sampling_strategy": "group_by_length"} if job.grouped else {}
    run = Trainer(
        model=model,
        args=TrainingArguments(
            **trainer_settings(job),
            **grouped,
            per_device_train_batch_size=job.rows,
            bf16=mixed,
            remove_unused_columns=False,
        ),
        train_dataset=_chats(folder),
        data_collator=_Collator(processor, f"{folder}/pictures"),
        callbacks=[trainer_callback(timeline)],
    )
    run.train()
    return timeline.result()


def _chats(folder: str) -> Any:
    """The chats as texts, with their length in characters, an image being as long as its rows of words."""
    import datasets

    rows = []
    for chat in json.loads(Path(folder, "chats.json").read_text("utf-8")):
        question, answer = (turn["value"] for turn in chat["conversations"])
        question = TURN.format(role="user", text=question) + "<|im_start|>assistant\n"
        length = (len(question) + len(answer)) // 4 + (ROWS_PER_IMAGE if "image" in chat else 0)
        row = {"question": question, "answer": f"{answer}<|im_end|>\n", "length": length}
        rows.append({**row, "image": chat.get("image")})
    return datasets.Dataset.from_list(rows)


class _Collator:
    """Reads, tokenises and pads a batch by the processor; the questions have no labels."""

    def __init__(self, processor: Any, pictures: str) -> None:
        self.processor, self.pictures = processor, pictures
        self.start = processor.tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        from PIL import Image

        images = [Image.open(f"{self.pictures}/{row['image']}") for row in rows if row["image"]]
        texts = [row["question"] + row["answer"] for row in rows]
        batch = self.processor(images=images or None, text=texts, padding=True, return_tensors="pt")
        labels = batch["input_ids"].clone()
        labels[batch["attention_mask"] == 0] = -100
        width = len(self.start)
        for ids, own in zip(batch["input_ids"].tolist(), labels, strict=True):
            begins = (n for n in range(len(ids)) if ids[n : n + width] == self.start)
            own[: next(begins) + width] = -100
        return {**batch, "labels": labels}


CASES = [xtuner_llava, trainer_llava]
