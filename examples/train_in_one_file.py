"""Fine-tune a model on instruction data in one file: no config, no hooks, no engine.

    python examples/train_in_one_file.py MODEL_FOLDER DATA.json OUT_FOLDER

DATA holds rows of the alpaca form: {"instruction": ..., "input": ..., "output": ...}. OUT_FOLDER gets a LoRA
adapter that peft and `xtuner chat MODEL_FOLDER --adapter OUT_FOLDER` load.
"""

from __future__ import annotations

import argparse
import itertools
import math

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from xtuner.dataset import process_hf_dataset
from xtuner.dataset.collate_fns import default_collate_fn
from xtuner.dataset.map_fns import alpaca_map_fn, template_map_fn_factory
from xtuner.dataset.reading.load import load_dataset
from xtuner.model import SupervisedFinetune
from xtuner.model.tokenizer import load_tokenizer
from xtuner.utils import PROMPT_TEMPLATE


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("--template", default="default")
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--accumulative-counts", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-4)
    return parser.parse_args(argv)


def learning_rate(update: int, updates: int, peak: float) -> float:
    """Linear warm-up over three percent of the updates, then cosine decay to zero."""
    warm_up = max(1, round(0.03 * updates))
    if update < warm_up:
        return peak * (update + 1) / warm_up
    return peak * (1 + math.cos(math.pi * (update - warm_up) / (updates - warm_up))) / 2


def batches(dataset, seed: int = 0):
    """Endless batches of one pack each, in a new order every epoch."""
    for epoch in itertools.count():
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed + epoch))
        for i in order.tolist():
            yield default_collate_fn([dataset[i]])["data"]


def main(argv: list[str] | None = None) -> list[float]:
    """Train; returns the loss of every update."""
    args = parse_args(argv)
    torch.manual_seed(0)
    tokenizer = load_tokenizer(args.model)

    # Rows -> conversations -> token ids and loss masks -> packs of max_length tokens.
    dataset = process_hf_dataset(
        load_dataset(args.data),
        tokenizer=tokenizer,
        max_length=args.max_length,
        dataset_map_fn=alpaca_map_fn,
        template_map_fn=template_map_fn_factory(template=PROMPT_TEMPLATE[args.template]),
    )

    # The base is frozen; adapters on every linear layer are trained in fp32.
    model = SupervisedFinetune(
        llm=dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=args.model),
        lora=LoraConfig(r=64, lora_alpha=16, lora_dropout=0.1, bias="none", task_type="CAUSAL_LM"),
    )
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], weight_decay=0.0)

    losses = []
    stream = batches(dataset)
    for update in range(args.updates):
        window = list(itertools.islice(stream, args.accumulative_counts))
        # The loss is the mean over the supervised tokens of the whole update, not a mean of means.
        num_items = sum(model.num_items(data) for data in window)
        total = 0.0
        for data in window:
            loss = model(data, num_items=num_items)["loss"]
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(update, args.updates, args.lr)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        print(f"update {update + 1}/{args.updates}  loss {total:.4f}")

    model.llm.save_pretrained(args.out)
    return losses


if __name__ == "__main__":
    main()
