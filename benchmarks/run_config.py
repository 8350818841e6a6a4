"""The part of a config that all trainings of XTuner in the benchmarks share: all but model and data."""

from __future__ import annotations

from types import SimpleNamespace

# AdamW's rate in every program.
RATE = 2e-4
_RUN = """\
import torch
from mmengine.hooks import CheckpointHook, IterTimerHook, LoggerHook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from peft import LoraConfig
from torch.optim import AdamW

from timeline import TimelineHook
from xtuner.engine.hooks import ThroughputHook
from xtuner.engine.runner import TrainLoop

optim_wrapper = dict(
    type={wrapper},
    optimizer=dict(type=AdamW, lr={rate}, weight_decay=0, fused=True),
    clip_grad=dict(max_norm=1),
    {precision})
train_cfg = dict(type=TrainLoop, max_iters={updates})
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, log_metric_by_epoch=False, interval=1),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=-1, save_last=False))
custom_hooks = [
    dict(type=ThroughputHook),
    dict(type=TimelineHook, path={timeline!r}, device={device!r})]
randomness = dict(seed=0)
log_processor = dict(by_epoch=False, window_size=1)
"""


def run_text(job: SimpleNamespace) -> str:
    """Precision, optimizer, length and hooks of a training; its updates go to `scratch/timeline.json`."""
    mixed = job.dtype == "bf16"
    return _RUN.format(
        **vars(job),
        wrapper="AmpOptimWrapper" if mixed else "OptimWrapper",
        precision="dtype='bfloat16'" if mixed else "",
        rate=RATE,
        timeline=f"{job.scratch}/timeline.json",
    )
