"""The memory that runs are estimated to need beside what they take: peak resident set of `xtuner train`.

    python benchmarks/memory.py                 all cases, a minute or two
    python benchmarks/memory.py --only qlora    cases with that in their name
    python benchmarks/memory.py --write         also into RESULTS.md

Each case is a process of its own with one thread that trains a model of random weights for some iterations;
its peak is what the system counted for it (`ru_maxrss`), all of it: interpreter, libraries, files that were
mapped and read. The data was prepared by another process before. Its `process` and the 140 MB that training
adds were taken from the runs of CASES, none from those of HELD_OUT.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from results import machine, write_section

WIDTHS = dict(
    hidden_size=512,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=4,
    intermediate_size=1408,
    max_position_embeddings=4096,
)
ITERS = 6
QUANTIZATION = {
    16: "",
    8: "quantization_config=dict(type=BitsAndBytesConfig, load_in_8bit=True), ",
    4: "quantization_config=dict(type=BitsAndBytesConfig, load_in_4bit=True, bnb_4bit_quant_type='nf4', "
    "bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16), ",
}
ADAPTER = "lora=dict(type=LoraConfig, r=64, lora_alpha=16, lora_dropout={dropout})"
CONFIG = """\
import torch
from mmengine.dataset import DefaultSampler
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from peft import LoraConfig
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from xtuner.dataset import process_hf_dataset
from xtuner.dataset.collate_fns import default_collate_fn
from xtuner.dataset.map_fns import alpaca_map_fn, template_map_fn_factory
from xtuner.dataset.reading.load import load_dataset
from xtuner.engine.hooks import ThroughputHook
from xtuner.engine.runner import TrainLoop
from xtuner.model import SupervisedFinetune

path = {model!r}
tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path=path)
model = dict(
    type=SupervisedFinetune,
    use_activation_checkpointing={recompute!r},
    llm=dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=path,
             {quantization}torch_dtype=torch.{weights}),
    {adapter})
train_dataloader = dict(
    batch_size={batch},
    num_workers=0,
    dataset=dict(
        type=process_hf_dataset, dataset=dict(type=load_dataset, path={rows!r}), tokenizer=tokenizer,
        max_length={length}, dataset_map_fn=alpaca_map_fn,
        template_map_fn=dict(type=template_map_fn_factory, template='default'), pack_to_max_length=True),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=default_collate_fn))
optim_wrapper = dict(
    type={wrapper}, optimizer=dict(type=AdamW, lr=1e-4, fused={fused}), clip_grad=dict(max_norm=1),
    accumulative_counts={accumulate}{precision})
train_cfg = dict(type=TrainLoop, max_iters={iters})
default_hooks = dict(
    logger=dict(type=LoggerHook, interval=1),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=-1, save_last=False))
custom_hooks = [dict(type=ThroughputHook)]
randomness = dict(seed=0)
"""


class Case(NamedTuple):
    """One run; `vocab` in thousands."""

    family: str = "llama"
    method: str = "lora"
    dtype: str = "bf16"
    recompute: Any = False
    length: int = 1024
    vocab: int = 32
    batch: int = 1
    accumulate: int = 1
    fused: bool = True
    dropout: float = 0.1

    @property
    def name(self) -> str:
        words = [
            self.family,
            self.method,
            self.dtype,
            f"{self.batch} x {self.length}",
            f"{self.vocab}k",
        ]
        words += [f"recompute {self.recompute}"] if self.recompute else []
        words += [f"accumulate {self.accumulate}"] if self.accumulate > 1 else []
        return ", ".join(words)


CASES = [
    Case(),
    Case(recompute=True, length=2048),
    Case(length=2048, dtype="fp32"),
    Case("qwen2", length=2048, vocab=150),
    Case("internlm2", length=512, batch=2, accumulate=2),
    Case("qwen2", "full", length=512),
    Case("llama", "full", recompute=True, length=2048, accumulate=2),
    Case("llama", "full", "fp32", length=1024),
    Case("internlm2", "full", length=1024, vocab=150),
    Case("llama", "qlora", length=2048),
    Case("qwen3", "qlora", recompute=True, length=2048, vocab=150),
    Case("llama", "lora8", length=1024),
]
# Runs that no number of the estimate was taken from.
HELD_OUT = [
    Case("qwen3", length=768),
    Case("qwen2", "qlora", length=1536),
    Case("llama", "full", length=768, vocab=150, recompute=True),
    Case("mistral", length=640, batch=3),
]


def make_model(case: Case, place: Path) -> Path:
    """The folder of a model of random weights; tokenizer and texts are made once."""
    import torch
    from texts import alpaca_rows, make_tokenizer, write_rows
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from xtuner.model.loading import register_families

    register_families()
    if not (place / "tokenizer").exists():
        make_tokenizer(32000).save_pretrained(place / "tokenizer")
        write_rows(alpaca_rows(600), place / "rows.jsonl")
    folder = place / f"{case.family}-{case.vocab}"
    if not folder.exists():
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(place / "tokenizer")
        ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        config = AutoConfig.for_model(
            case.family, vocab_size=case.vocab * 1000, tie_word_embeddings=False, **WIDTHS, **ids
        )
        # Of weights that stay mapped, rows of the embedding that no text needs are never read.
        dtype = torch.float32 if case.vocab > 32 else torch.bfloat16
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def config_text(case: Case, place: Path, iters: int = ITERS) -> str:
    """The config of that run."""
    full, mixed = case.method == "full", case.dtype == "bf16"
    bits = {"qlora": 4, "lora8": 8}.get(case.method, 16)
    return CONFIG.format(
        model=str(place / f"{case.family}-{case.vocab}"),
        rows=str(place / "rows.jsonl"),
        recompute=case.recompute,
        quantization=QUANTIZATION[bits],
        weights="bfloat16" if mixed and not full else "float32",
        adapter="" if full else ADAPTER.format(dropout=case.dropout),
        batch=case.batch,
        length=case.length,
        wrapper="AmpOptimWrapper" if mixed else "OptimWrapper",
        precision=", dtype='bfloat16'" if mixed else "",
        fused=case.fused,
        accumulate=case.accumulate,
        iters=iters,
    )


def estimated(config: Path) -> Any:
    """The estimate for the run of that config."""
    from xtuner.config import load_config
    from xtuner.estimate.forecast import forecast

    return forecast(load_config(config))


def measured(case: Case, config: Path, environment: dict[str, str], is_prepared: bool) -> int:
    """The peak of the run's process, in bytes; `is_prepared`: rows of its length have been made tokens."""
    command = [
        sys.executable,
        "-m",
        "xtuner",
        "train",
        str(config),
        "--work-dir",
        str(config.parent / "work"),
    ]
    for iters in [ITERS] if is_prepared else [1, ITERS]:
        config.write_text(config_text(case, config.parent, iters), "utf-8")
        child = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        output = child.stdout.read() if child.stdout else ""
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            sys.exit(f"{output}\nThe run failed")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--place", type=Path, default=Path(tempfile.gettempdir()) / "xtuner-memory")
    args = parser.parse_args()
    args.place.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["XTUNER_CACHE"] = str(args.place / "cache")
    lines = ["| run | estimated | measured | off by |", "|---|---|---|---|"]
    prepared: set[int] = set()
    for case in CASES + HELD_OUT:
        if args.only in case.name:
            make_model(case, args.place)
            config = args.place / "config.py"
            config.write_text(config_text(case, args.place), "utf-8")
            need = estimated(config).memory.total
            took = measured(case, config, environment, case.length in prepared)
            prepared.add(case.length)
            held = " (held out)" if case in HELD_OUT else ""
            lines.append(
                f"| {case.name}{held} | {need / 1e6:.0f} MB | {took / 1e6:.0f} MB | {need / took - 1:+.1%} |"
            )
            print(lines[-1], flush=True)
    if args.write:
        text = f"`python benchmarks/memory.py`, {machine()}\n\n" + "\n".join(lines)
        write_section("Memory: estimated and measured", text)


if __name__ == "__main__":
    main()
