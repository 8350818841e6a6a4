"""One training of one program, as `train_speed.py` asks for it; the last line printed is its result in JSON.

    python train_cases.py '{"case": "xtuner", "method": "lora", "dtype": "bf16", "place": ..., ...}'

method    lora: r=64 on all linear layers, its weights fp32; qlora: the same, the model of 4 bits; full
          dpo: lora on pairs of answers, the model without its adapter being the reference
dtype     bf16: frozen weights in it, trained ones fp32 under autocast; fp32
same      model, rows, chat template, batch, length, AdamW, learning rate, clipping at 1
own       data path, packing, attention, loss, loop

It runs under the Python of the program that it measures, so nothing outside a function imports one.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import itertools

import llava_cases
from run_config import RATE, run_text
from timeline import Timeline, trainer_callback

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

CONFIG = """\
from datasets import load_dataset
from mmengine.dataset import DefaultSampler
from transformers import AutoModelForCausalLM, AutoTokenizer

from xtuner.dataset import process_hf_dataset
from xtuner.dataset.collate_fns import default_collate_fn
from xtuner.dataset.collate_fns.preference_collate_fn import preference_collate_fn
from xtuner.dataset.map_fns import template_map_fn_factory
from xtuner.dataset.preference_dataset import build_preference_dataset, pairs_map_fn
from xtuner.model import SupervisedFinetune
from xtuner.model.dpo import DPO

path = {model!r}
tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path=path)
model = dict(
    type={kind},
    use_activation_checkpointing=False,
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path=path,
        torch_dtype=torch.{weights}),
    {adapter})
train_dataloader = dict(
    batch_size={batch},
    num_workers=0,
    dataset=dict(
        dataset=dict(type=load_dataset, path='json', data_files={rows!r}),
        tokenizer=tokenizer,
        max_length={length},
        {data}),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type={collate}))
"""
SFT = {
    "kind": "SupervisedFinetune",
    "data": (
        "type=process_hf_dataset,\n        dataset_map_fn='openai',\n"
        "        template_map_fn=dict(type=template_map_fn_factory, template='auto'),\n"
        "        pack_to_max_length=True"
    ),
    "collate": "default_collate_fn",
}
PREFERENCES = {
    "kind": "DPO",
    "data": "type=build_preference_dataset,\n        dataset_map_fn=pairs_map_fn",
    "collate": "preference_collate_fn",
}


def config_text(job: SimpleNamespace) -> str:
    """XTuner's config for this training."""
    adapter = f"lora=dict(type=LoraConfig, r=64, lora_alpha=16, lora_dropout={job.dropout})"
    if job.adapter:
        adapter += f",\n    peft_model={job.adapter!r}"
    mixed = job.dtype == "bf16"
    return run_text(job) + CONFIG.format(
        **vars(job) | {"adapter": "" if job.method == "full" else adapter},
        model=f"{job.place}/model",
        rows=f"{job.place}/{'pairs' if job.method == 'dpo' else 'messages'}.jsonl",
        **PREFERENCES if job.method == "dpo" else SFT,
        weights="bfloat16" if mixed and job.method != "full" else "float32",
    )


def xtuner(job: SimpleNamespace) -> dict[str, Any]:
    """`xtuner train` on a config; `own_rate` is what its scalars say of the measured updates."""
    return train_with_xtuner(job, config_text(job))


def train_with_xtuner(job: SimpleNamespace, config: str) -> dict[str, Any]:
    """The result of `xtuner train` on a config whose TimelineHook writes `scratch/timeline.json`."""
    from xtuner.cli import main

    folder = Path(job.scratch)
    (folder / "config.py").write_text(config, "utf-8")
    # With --debug its errors are raised.
    main(["train", str(folder / "config.py"), "--work-dir", str(folder / "work"), "--debug"])
    (scalars,) = folder.glob("work/*/vis_data/scalars.json")
    lines = [json.loads(line) for line in scalars.read_text("utf-8").splitlines()]
    rates = [line["tokens_per_sec"] for line in lines if "tokens_per_sec" in line][job.warmup :]
    result = json.loads((folder / "timeline.json").read_text("utf-8"))
    return {**result, "own_rate": len(rates) / sum(1 / rate for rate in rates)}


def packs(job: SimpleNamespace) -> Any:
    """XTuner's packs of the rows: what programs without packing of their own are given."""
    from transformers import AutoTokenizer

    from xtuner.dataset import process_hf_dataset
    from xtuner.dataset.map_fns import template_map_fn_factory
    from xtuner.dataset.reading.load import load_dataset

    return process_hf_dataset(
        load_dataset(Path(job.place) / "messages.jsonl"),
        tokenizer=AutoTokenizer.from_pretrained(f"{job.place}/model"),
        max_length=job.length,
        dataset_map_fn="openai",
        template_map_fn=template_map_fn_factory("auto"),
    )


def padded(job: SimpleNamespace) -> list[dict[str, list[int]]]:
    """Packs of exactly the length, as many as the training reads."""
    dataset, pad = packs(job), pad_id(job)
    rows = []
    for number in range(job.updates * job.batch):
        item = dataset[number % len(dataset)]
        more = job.length - len(item["input_ids"])
        ids, labels = list(map(int, item["input_ids"])), list(map(int, item["labels"]))
        rows.append({"input_ids": ids + [pad] * more, "labels": labels + [-100] * more})
    return rows


def pad_id(job: SimpleNamespace) -> int:
    """The id of the padding token."""
    return json.loads((Path(job.place) / "model" / "config.json").read_text("utf-8"))["pad_token_id"]


def peft_model(job: SimpleNamespace) -> Any:
    """The model as transformers and peft make it."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM

    mixed = job.dtype == "bf16"
    kwargs: dict[str, Any] = {"device_map": {"": 0}} if job.device == "cuda" else {}
    weights = torch.bfloat16 if mixed and job.method != "full" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(f"{job.place}/model", dtype=weights, **kwargs)
    model.config.use_cache = False
    if job.method == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if job.method == "full":
        return model
    torch.manual_seed(0)
    lora = LoraConfig(r=64, lora_alpha=16, lora_dropout=job.dropout, target_modules=LINEAR)
    return get_peft_model(model, lora)


def bare(job: SimpleNamespace) -> dict[str, Any]:
    """A loop of a few lines; the head sees only trained positions, samples of a pack see each other."""
    import torch

    rows, model = padded(job), peft_model(job)
    timeline = Timeline(job.device, pad_id(job))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0, fused=True)
    llm = model if job.method == "full" else model.get_base_model()
    for start in range(0, len(rows), job.batch):
        batch = rows[start : start + job.batch]
        ids = torch.tensor([row["input_ids"] for row in batch], device=job.device)
        targets = torch.tensor([row["labels"] for row in batch], device=job.device).roll(-1, 1)
        targets[:, -1] = -100
        with torch.autocast(job.device, torch.bfloat16, enabled=job.dtype == "bf16"):
            hidden = llm.model(input_ids=ids, use_cache=False).last_hidden_state
            logits = llm.lm_head(hidden[targets != -100])
        loss = torch.nn.functional.cross_entropy(logits.float(), targets[targets != -100])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        timeline.see(ids, targets)
        timeline.end(loss.item())
    return timeline.result()


def reference(job: SimpleNamespace) -> dict[str, Any]:
    """Every sample of a pack in a forward of its own through plain transformers and peft, in fp32.

    The loss of an update is the mean over its trained tokens. The adapter of the start is left in
    `scratch/adapter`.
    """
    import torch

    dataset, model = packs(job), peft_model(job)
    model.save_pretrained(f"{job.scratch}/adapter")
    timeline = Timeline(job.device)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0)
    for update in range(job.updates):
        samples = []
        for number in range(update * job.batch, (update + 1) * job.batch):
            item = dataset[number % len(dataset)]
            boundaries = item["cumulative_len"]
            for a, b in itertools.pairwise(boundaries):
                ids, labels = (torch.as_tensor(item[name][a:b]).long() for name in ("input_ids", "labels"))
                samples.append((ids[None], labels))
        count = sum(int((labels[1:] != -100).sum()) for _, labels in samples)
        total = 0.0
        for ids, labels in samples:
            logits = model(input_ids=ids).logits[0, :-1].float()
            part = torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum") / count
            part.backward()
            total += part.item()
            timeline.see(ids, labels, torch.ones_like(ids))
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        timeline.end(total)
    return timeline.result()


def trainer_settings(job: SimpleNamespace) -> dict[str, Any]:
    """What Trainer and everything built on it is told in every case."""
    return {
        "output_dir": f"{job.scratch}/out",
        "max_steps": job.updates,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": 0,
        "disable_tqdm": True,
        "use_cpu": job.device == "cpu",
    }


def best_settings(job: SimpleNamespace) -> dict[str, Any]:
    """And what makes them quick."""
    return {"per_device_train_batch_size": job.batch, "bf16": job.dtype == "bf16"}


def trainer(job: SimpleNamespace) -> dict[str, Any]:
    """transformers' Trainer with peft, on packs; samples of a pack see each other."""
    from transformers import Trainer, TrainingArguments, default_data_collator

    timeline = Timeline(job.device, pad_id(job))
    run = Trainer(
        model=peft_model(job),
        args=TrainingArguments(**trainer_settings(job), **best_settings(job)),
        train_dataset=padded(job),
        data_collator=default_data_collator,
        callbacks=[trainer_callback(timeline)],
    )
    run.train()
    return timeline.result()


def trl(job: SimpleNamespace) -> dict[str, Any]:
    """TRL's SFTTrainer: packed into isolated samples, without recomputation; `defaults` leave that."""
    import datasets
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    settings = {**trainer_settings(job), "max_length": job.length, "completion_only_loss": True}
    if not job.defaults:
        weights = "bfloat16" if job.dtype == "bf16" and job.method != "full" else "float32"
        settings |= best_settings(job) | {
            "packing": True,
            "packing_strategy": job.packing or "bfd",
            "gradient_checkpointing": False,
            "dataset_num_proc": 2,
            "model_init_kwargs": {"dtype": weights},
        }
    lora = LoraConfig(r=64, lora_alpha=16, lora_dropout=job.dropout, target_modules=LINEAR)
    timeline = Timeline(job.device, pad_id(job))
    run = SFTTrainer(
        model=f"{job.place}/model",
        args=SFTConfig(**settings),
        train_dataset=datasets.load_dataset("json", data_files=f"{job.place}/prompts.jsonl", split="train"),
        peft_config=None if job.method == "full" else lora,
        callbacks=[trainer_callback(timeline)],
    )
    run.train()
    return timeline.result()


def llamafactory(job: SimpleNamespace) -> dict[str, Any]:
    """LLaMA-Factory: packed, without recomputation; `neat` isolates samples, `defaults` leave that."""
    from llamafactory.train.tuner import run_exp

    settings = trainer_settings(job) | {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": f"{job.place}/model",
        "dataset": "rows",
        "dataset_dir": job.place,
        "template": "chatml",
        "cutoff_len": job.length,
        "finetuning_type": "full" if job.method == "full" else "lora",
    }
    if job.method != "full":
        settings |= {"lora_rank": 64, "lora_alpha": 16, "lora_dropout": job.dropout, "lora_target": "all"}
    if not job.defaults:
        settings |= best_settings(job) | {
            "packing": True,
            "neat_packing": job.packing == "neat",
            "disable_gradient_checkpointing": True,
            "preprocessing_num_workers": 2,
        }
    timeline = Timeline(job.device, pad_id(job))
    run_exp(args=settings, callbacks=[trainer_callback(timeline)])
    return timeline.result()


def unsloth(job: SimpleNamespace) -> dict[str, Any]:
    """Unsloth's model in TRL's SFTTrainer, as its notebooks do it; needs a GPU."""
    from unsloth import FastLanguageModel  # isort: skip  it changes what is imported after it

    import datasets
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = FastLanguageModel.from_pretrained(
        f"{job.place}/model", max_seq_length=job.length, load_in_4bit=True
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=64,
        lora_alpha=16,
        lora_dropout=job.dropout,
        target_modules=LINEAR,
        use_gradient_checkpointing=False,
    )
    timeline = Timeline(job.device, pad_id(job))
    run = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        args=SFTConfig(
            **trainer_settings(job),
            **best_settings(job),
            max_length=job.length,
            packing=True,
            gradient_checkpointing=False,
            completion_only_loss=True,
        ),
        train_dataset=datasets.load_dataset("json", data_files=f"{job.place}/prompts.jsonl", split="train"),
        callbacks=[trainer_callback(timeline)],
    )
    run.train()
    return timeline.result()


def trl_dpo(job: SimpleNamespace) -> dict[str, Any]:
    """TRL's DPOTrainer with an adapter, without recomputation; `defaults` leave that."""
    import datasets
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    settings = {**trainer_settings(job), "max_length": job.length}
    if not job.defaults:
        settings |= best_settings(job) | {
            "gradient_checkpointing": False,
            "dataset_num_proc": 2,
            "model_init_kwargs": {"dtype": "bfloat16" if job.dtype == "bf16" else "float32"},
        }
    timeline = Timeline(job.device, pad_id(job))
    run = DPOTrainer(
        model=f"{job.place}/model",
        args=DPOConfig(**settings),
        train_dataset=datasets.load_dataset("json", data_files=f"{job.place}/pairs.jsonl", split="train"),
        peft_config=LoraConfig(r=64, lora_alpha=16, lora_dropout=job.dropout, target_modules=LINEAR),
        callbacks=[trainer_callback(timeline)],
    )
    run.train()
    return timeline.result()


def llamafactory_dpo(job: SimpleNamespace) -> dict[str, Any]:
    """LLaMA-Factory's DPO with an adapter, without recomputation."""
    from llamafactory.train.tuner import run_exp

    settings = (
        trainer_settings(job)
        | best_settings(job)
        | {
            "stage": "dpo",
            "do_train": True,
            "model_name_or_path": f"{job.place}/model",
            "dataset": "pairs",
            "dataset_dir": job.place,
            "template": "chatml",
            "cutoff_len": job.length,
            "finetuning_type": "lora",
            "lora_rank": 64,
            "lora_alpha": 16,
            "lora_dropout": job.dropout,
            "lora_target": "all",
            "disable_gradient_checkpointing": True,
            "preprocessing_num_workers": 2,
        }
    )
    timeline = Timeline(job.device, pad_id(job))
    run_exp(args=settings, callbacks=[trainer_callback(timeline)])
    return timeline.result()


def limit(job: SimpleNamespace) -> dict[str, Any]:
    """How many operations a second the machine does in the products of the model's matrices."""
    import time

    import torch

    dtype = torch.bfloat16 if job.dtype == "bf16" else torch.float32
    config = json.loads((Path(job.place) / "model" / "config.json").read_text("utf-8"))
    inner, outer = config["hidden_size"], config["intermediate_size"]
    x = torch.randn(job.batch * job.length, inner, dtype=dtype, device=job.device)
    w = torch.randn(outer, inner, dtype=dtype, device=job.device)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        x @ w.T
        if job.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return {"flops": 2 * x.shape[0] * inner * outer / sorted(times)[len(times) // 2]}


CASES = {
    case.__name__: case
    for case in (
        xtuner,
        bare,
        reference,
        trainer,
        trl,
        trl_dpo,
        llamafactory,
        llamafactory_dpo,
        unsloth,
        limit,
        *llava_cases.CASES,
    )
}
DEFAULTS = {
    "defaults": False,
    "packing": None,
    "adapter": None,
    "dropout": 0.1,
    "device": "cpu",
    "grouped": False,
}


def main() -> None:
    job = SimpleNamespace(**{**DEFAULTS, **json.loads(sys.argv[1])})
    os.chdir(job.scratch)
    print("\n" + json.dumps(CASES[job.case](job)))


if __name__ == "__main__":
    main()
