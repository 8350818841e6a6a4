"""What is said of optimizers."""

from __future__ import annotations

_EN = "its package has had no release since 2024 or early 2025"
_OLD = "其软件包自 2024 年或 2025 年初起没有新版本"
_OTHER = "from pytorch_optimizer import {name}, of the package pytorch-optimizer"
_THERE = "from pytorch_optimizer import {name}，软件包为 pytorch-optimizer"

OPTIMIZERS = {
    f"{_EN}: use LoRA, 'AdamW8bit' or 'Adafactor' to save memory": (
        f"{_OLD}：请用 LoRA、'AdamW8bit' 或 'Adafactor' 节省内存"
    ),
    f"{_EN}: use LISAHook, which trains some layers at a time": f"{_OLD}：请用 LISAHook，它轮流训练各层",
    f"{_EN}: use 'Adafactor' or LISAHook": f"{_OLD}：请用 'Adafactor' 或 LISAHook",
    f"{_EN}: use 'Adafactor'": f"{_OLD}：请用 'Adafactor'",
    **{_OTHER.format(name=name): _THERE.format(name=name) for name in ("SOAP", "Shampoo", "Prodigy")},
    "optim_wrapper.optimizer is Muon, which torch has from 2.9 on; here is {version}": (
        "optim_wrapper.optimizer 为 Muon，torch 从 2.9 起才有；这里是 {version}"
    ),
    "optim_wrapper.optimizer: on the CPU {name} is {plain}, as its pages are those of a GPU": (
        "optim_wrapper.optimizer：在 CPU 上 {name} 即 {plain}，因为它的分页属于 GPU"
    ),
    "optim_wrapper.optimizer is {name}, which needs whole weights: train without --fsdp and --deepspeed": (
        "optim_wrapper.optimizer 为 {name}，它需要完整的权重：请不用 --fsdp 和 --deepspeed 训练"
    ),
    "optim_wrapper.optimizer is {name}, which was not tried with --deepspeed: use --fsdp, or neither": (
        "optim_wrapper.optimizer 为 {name}，未与 --deepspeed 一起试过：请用 --fsdp，或两者都不用"
    ),
    "param_scheduler beside {name}, which needs none: set param_scheduler = [] and warmup_steps in the "
    "optimizer": "{name} 不需要 param_scheduler：请设 param_scheduler = []，并在优化器中设 warmup_steps",
}
