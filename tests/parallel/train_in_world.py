"""Trains cases one after the other in the processes it is started in; rank 0 writes the results.

python train_in_world.py FOLDER     FOLDER/cases.json  ->  FOLDER/<case>.pt: losses, weights, or the error
"""

import json
import sys
import textwrap
import warnings
from pathlib import Path

import torch
from counting import Counting

from xtuner.config import parse_config
from xtuner.engine.build import build_run
from xtuner.engine.run import RunOptions
from xtuner.errors import XTunerError
from xtuner.parallel.world import World, make_world

CONFIG = """
    import torch
    from datasets import load_dataset
    from mmengine.hooks import CheckpointHook, LoggerHook
    from mmengine.optim import AmpOptimWrapper
    from peft import LoraConfig
    from torch.optim import AdamW
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from xtuner.dataset import process_hf_dataset
    from xtuner.dataset.collate_fns import default_collate_fn
    from xtuner.dataset.map_fns import alpaca_map_fn, template_map_fn_factory
    from xtuner.engine.runner import TrainLoop
    from xtuner.model import SupervisedFinetune
    from xtuner.parallel.sequence import SequenceParallelSampler
    from xtuner.utils import PROMPT_TEMPLATE

    folder = ''
    data = ''
    lora = None
    quantization_config = None
    accumulative_counts = 1
    sequence_parallel_size = 1
    max_iters = 20
    interval = -1
    sharded = None
    save_async = False
    max_keep_ckpts = -1
    optimizer = dict(type=AdamW, lr=1e-3, weight_decay=0, eps=1e-5)
    load_from = None
    fsdp = False
    recompute = True
    tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path=folder)
    model = dict(
        type=SupervisedFinetune, lora=lora, use_activation_checkpointing=recompute,
        llm=dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=folder,
                 torch_dtype=torch.float32, quantization_config=quantization_config))
    train_dataloader = dict(
        batch_size=1,
        dataset=dict(
            type=process_hf_dataset, dataset=dict(type=load_dataset, path=data), tokenizer=tokenizer,
            max_length=64, dataset_map_fn=alpaca_map_fn, pack_to_max_length=True,
            template_map_fn=dict(type=template_map_fn_factory, template=PROMPT_TEMPLATE.default)),
        sampler=dict(type=SequenceParallelSampler, shuffle=True), collate_fn=dict(type=default_collate_fn))
    optim_wrapper = dict(
        type=AmpOptimWrapper, dtype='float32', optimizer=optimizer, clip_grad=dict(max_norm=1),
        accumulative_counts=accumulative_counts)
    train_cfg = dict(type=TrainLoop, max_iters=max_iters)
    default_hooks = dict(
        logger=dict(type=LoggerHook, interval=accumulative_counts),
        checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=interval, sharded=sharded,
                        save_async=save_async, max_keep_ckpts=max_keep_ckpts))
    log_processor = dict(window_size=accumulative_counts)
    randomness = dict(seed=0)
"""


def train(options: dict, work_dir: Path, world: World | None = None) -> dict:
    """Losses of each update and the weights at the end, or the error."""
    options = dict(options)
    resume = options.pop("resume", False)
    deepspeed = options.pop("deepspeed", None)
    hooks = options.pop("custom_hooks", [])
    config = parse_config(textwrap.dedent(CONFIG), "world.py", options)
    for hook in [hook for hook in hooks if "tokenizer" in hook]:
        hook["tokenizer"]["pretrained_model_name_or_path"] = options["folder"]
    config.custom_hooks = hooks
    try:
        run = build_run(config, RunOptions(str(work_dir), resume, deepspeed=deepspeed), world)
        counting = Counting(run)
        try:
            run.train()
        finally:
            counting.stop()
        state = run.backend.model_state()
    except XTunerError as error:
        return {"error": str(error)}
    if not run.world.is_first:
        return {}
    text = (run.log_dir / "vis_data" / "scalars.json").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    weights = {n: w.clone() for n, w in state.items()}
    return {
        "samples": [p.read_text() for p in sorted(run.log_dir.glob("vis_data/eval_outputs*"))],
        "losses": [line["loss"] for line in lines],
        "norms": [line.get("grad_norm") for line in lines],
        "metrics": {f"{name} {i}": line[name] for i, line in enumerate(lines) for name in run.model.metrics},
        "weights": weights,
        "backend": run.backend.name,
        "counted": counting.found,
    }


def main(folder: Path) -> None:
    """Train every case of `cases.json`."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
    world = make_world()
    for name, options in json.loads((folder / "cases.json").read_text()).items():
        found = train(options, folder / name, world)
        if world.is_first:
            torch.save(found, folder / f"{name}.pt")
    world.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
