import torch
from datasets import load_dataset
from mmengine.dataset import DefaultSampler
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.optim import AmpOptimWrapper, CosineAnnealingLR
from peft import LoraConfig
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer

from xtuner.dataset import process_hf_dataset
from xtuner.dataset.collate_fns import default_collate_fn
from xtuner.dataset.map_fns import alpaca_map_fn, template_map_fn_factory
from xtuner.engine.runner import TrainLoop
from xtuner.model import SupervisedFinetune
from xtuner.utils import PROMPT_TEMPLATE

model_path = "model"
data_path = "d.json"
prompt_template = PROMPT_TEMPLATE.default
max_length = 128
pack = False
lr = 2e-4
r = 4
max_iters = 6
interval = 2
tokenizer = dict(
    type=AutoTokenizer.from_pretrained,
    pretrained_model_name_or_path=model_path,
    trust_remote_code=True,
    padding_side="right",
)
model = dict(
    type=SupervisedFinetune,
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path=model_path,
        trust_remote_code=True,
        torch_dtype=torch.float32,
    ),
    lora=dict(type=LoraConfig, r=r, lora_alpha=16, lora_dropout=0.1, bias="none", task_type="CAUSAL_LM"),
)
train_dataloader = dict(
    batch_size=1,
    num_workers=0,
    dataset=dict(
        type=process_hf_dataset,
        dataset=dict(type=load_dataset, path=data_path),
        tokenizer=tokenizer,
        max_length=max_length,
        dataset_map_fn=alpaca_map_fn,
        template_map_fn=dict(type=template_map_fn_factory, template=prompt_template),
        remove_unused_columns=True,
        shuffle_before_pack=True,
        pack_to_max_length=pack,
    ),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=default_collate_fn),
)
optim_wrapper = dict(
    type=AmpOptimWrapper,
    optimizer=dict(type=AdamW, lr=lr),
    clip_grad=dict(max_norm=1),
    accumulative_counts=1,
    dtype="float32",
)
param_scheduler = [dict(type=CosineAnnealingLR, eta_min=0.0, by_epoch=False, begin=0, end=100)]
train_cfg = dict(type=TrainLoop, max_iters=max_iters)
default_hooks = dict(
    logger=dict(type=LoggerHook, interval=1),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=interval, max_keep_ckpts=2),
)
randomness = dict(seed=0)
