"""Quantise a model to 4 bits by GPTQ or AWQ, which choose codes by what texts make of the layers' inputs.

llm-compressor needs older packages than XTuner has, so it is installed in an environment of its own:

    python -m venv .venv-llmcompressor
    .venv-llmcompressor/bin/python -m pip install "llmcompressor==0.14.0.1"
    .venv-llmcompressor/bin/python examples/quantise_with_data.py MERGED MERGED-gptq texts.txt --method gptq

The texts, one a line, are best such as the model will read. vLLM and transformers load what is written, in
the form of compressed-tensors, as that of xtuner convert quantize --format w4a16, which needs no texts.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model", help="the folder of a whole model; merge adapters first")
parser.add_argument("out", type=Path, help="the folder to write")
parser.add_argument("texts", type=Path, help="a text file, each line a text")
parser.add_argument("--method", choices=["gptq", "awq"], default="gptq")
parser.add_argument("--samples", type=int, default=512, help="how many texts are used at most (512)")
parser.add_argument(
    "--max-length", type=int, default=2048, help="longer texts are cut to so many tokens (2048)"
)
parser.add_argument("--group-size", type=int, default=128, help="columns that share a scale (128)")
args = parser.parse_args()

if args.out.exists():
    parser.error(f"{args.out} exists: name a new folder")
if (Path(args.model) / "adapter_config.json").is_file():
    parser.error(
        f"{args.model} is an adapter: merge it first, with xtuner convert merge BASE {args.model} OUT"
    )

tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype="auto")
lines = [line for line in args.texts.read_text("utf-8").splitlines() if line.strip()]
print(f"{min(len(lines), args.samples)} of {len(lines)} texts are used")
rows = [{"input_ids": tokenizer(line)["input_ids"][: args.max_length]} for line in lines[: args.samples]]

if not torch.accelerator.is_available():
    # AWQ pins memory for a GPU, also where there is none: an error of torch.
    IntermediatesCache.pin_memory = lambda *args, **kwargs: None
weights = {
    "num_bits": 4,
    "type": "int",
    "strategy": "group",
    "group_size": args.group_size,
    "symmetric": True,
}
layers = {
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    "ignore": ["lm_head", "re:.*visual.*", "re:.*vision.*", "re:.*projector.*"],
}
recipes = {
    "gptq": lambda: [GPTQModifier(**layers)],
    "awq": lambda: [AWQModifier(duo_scaling="both"), QuantizationModifier(**layers)],
}
oneshot(
    model=model,
    dataset=Dataset.from_list(rows),
    recipe=recipes[args.method](),
    max_seq_length=args.max_length,
    num_calibration_samples=len(rows),
    shuffle_calibration_samples=False,
)

# Beside its place first: an interrupted run leaves no folder that looks complete.
part = args.out.with_name(f".{args.out.name}.part")
shutil.rmtree(part, ignore_errors=True)
model.save_pretrained(part, save_compressed=True)
tokenizer.save_pretrained(part)
os.replace(part, args.out)
print(f"{args.out} is written")
