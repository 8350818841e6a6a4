"""Golden loss curves: the whole path from a config to scalars, on a tiny Llama, stays what it was.

A change that means to alter training writes new curves: XTUNER_WRITE_GOLDEN=1 make test.
"""

import json
import os
import textwrap
from pathlib import Path

import pytest

from xtuner.config import parse_config
from xtuner.engine.build import build_run
from xtuner.engine.run import RunOptions

CURVES = Path(__file__).with_name("loss_curves.json")
CONFIG = """
    import torch
    from datasets import load_dataset
    from mmengine.dataset import DefaultSampler
    from mmengine.hooks import LoggerHook
    from mmengine.optim import AmpOptimWrapper, CosineAnnealingLR, LinearLR
    from peft import LoraConfig
    from torch.optim import AdamW
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from xtuner.dataset import process_hf_dataset
    from xtuner.dataset.collate_fns import default_collate_fn
    from xtuner.dataset.map_fns import alpaca_map_fn, template_map_fn_factory
    from xtuner.engine.runner import TrainLoop
    from xtuner.model import SupervisedFinetune
    from xtuner.utils import PROMPT_TEMPLATE

    folder = ''
    data = ''
    lora_dropout = 0.0
    lora = dict(
        type=LoraConfig, r=8, lora_alpha=16, lora_dropout=lora_dropout, bias='none', task_type='CAUSAL_LM')
    quantization_config = None
    lr = 1e-2
    tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path=folder)
    model = dict(
        type=SupervisedFinetune, lora=lora,
        llm=dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=folder,
                 torch_dtype=torch.float32, quantization_config=quantization_config))
    train_dataloader = dict(
        batch_size=2,
        dataset=dict(
            type=process_hf_dataset, dataset=dict(type=load_dataset, path=data), tokenizer=tokenizer,
            max_length=48, dataset_map_fn=alpaca_map_fn,
            template_map_fn=dict(type=template_map_fn_factory, template=PROMPT_TEMPLATE.default)),
        sampler=dict(type=DefaultSampler, shuffle=True), collate_fn=dict(type=default_collate_fn))
    optim_wrapper = dict(
        type=AmpOptimWrapper, dtype='float32', optimizer=dict(type=AdamW, lr=lr, weight_decay=0),
        clip_grad=dict(max_norm=1), accumulative_counts=2)
    param_scheduler = [
        dict(type=LinearLR, start_factor=0.1, by_epoch=True, begin=0, end=0.5, convert_to_iter_based=True),
        dict(type=CosineAnnealingLR, eta_min=0.0, by_epoch=True, begin=0.5, end=3,
             convert_to_iter_based=True)]
    train_cfg = dict(type=TrainLoop, max_epochs=3)
    default_hooks = dict(logger=dict(type=LoggerHook, interval=4))
    randomness = dict(seed=0)
"""
NF4 = {"type": "transformers.BitsAndBytesConfig", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
CASES = {
    "lora": {},
    "dropout": {"lora_dropout": 0.1},
    "full": {"lora": None, "lr": 1e-3},
    "qlora": {"quantization_config": {**NF4, "bnb_4bit_compute_dtype": "torch.float32"}},
}


def losses(tmp_path, llama_dir, options):
    words = ["red", "green", "blue", "small", "large", "quick", "slow", "warm", "cold", "bright"]
    rows = [
        {"instruction": f"Say {a} and {b}.", "input": "", "output": f"{a} {b}"}
        for a in words
        for b in words[:3]
    ]
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows))
    config = parse_config(
        textwrap.dedent(CONFIG), "golden.py", {"folder": str(llama_dir), "data": str(data), **options}
    )
    run = build_run(config, RunOptions(work_dir=str(tmp_path / "run")))
    run.train()
    lines = (run.log_dir / "vis_data" / "scalars.json").read_text().splitlines()
    return [round(json.loads(line)["loss"], 4) for line in lines]


@pytest.mark.parametrize("case", list(CASES))
def test_the_loss_curve(case, tmp_path, llama_dir):
    found = losses(tmp_path, llama_dir, CASES[case])
    curves = json.loads(CURVES.read_text()) if CURVES.exists() else {}
    if os.environ.get("XTUNER_WRITE_GOLDEN"):
        CURVES.write_text(json.dumps({**curves, case: found}, indent=1) + "\n")
        return
    assert found[-1] < found[0]
    assert found == pytest.approx(curves[case], abs=2e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"model.lora.use_dora": True},
        {"model.lora.use_rslora": True},
        {"model.lora.init_lora_weights": "pissa"},
        {"optim_wrapper.paramwise_cfg": {"custom_keys": {"lora_B": {"lr_mult": 4.0}}}},
        {"custom_hooks": [{"type": "xtuner.engine.hooks.NEFTuneHook", "noise_alpha": 5}]},
        {"optim_wrapper.optimizer.type": "bitsandbytes.optim.AdamW8bit"},
        {"optim_wrapper.optimizer.foreach": True},
    ],
    ids=["dora", "rslora", "pissa", "lora_plus", "neftune", "8_bit", "foreach"],
)
def test_a_variant_learns(options, tmp_path, llama_dir):
    """Each technique trains through the real engine and ends lower than it began."""
    found = losses(tmp_path, llama_dir, options)
    assert found[-1] < found[0] - 0.1
