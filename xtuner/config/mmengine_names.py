"""Replacements of names that configs import from packages that this project does not need.

`SAME_JOB` maps a dotted name to ours, whether or not the other package is installed.
`BY_SHORT_NAME` maps registry names that configs have as text: `type='LinearLR'`.
`GONE` maps names without counterpart to a hint what to write instead.
"""

from __future__ import annotations

from xtuner.config.optimizer_names import OPTIMIZERS, REFUSED


def _move(source: str, target: str, names: str) -> dict[str, str]:
    return {f"{source}.{name}": f"{target}.{name}" for name in names.split()}


_HOOKS = (
    "CheckpointHook DistSamplerSeedHook EarlyStoppingHook Hook IterTimerHook LoggerHook ParamSchedulerHook "
    "RuntimeInfoHook"
)
_SCHEDULES = "LinearLR CosineAnnealingLR ConstantLR"
_VISUAL = "Visualizer LocalVisBackend TensorboardVisBackend WandbVisBackend"

SAME_JOB: dict[str, str] = {
    # torch's own takes matrices only; ours gives it those.
    "torch.optim.Muon": "xtuner.engine.muon.Muon",
    **_move("mmengine.hooks", "xtuner.engine.hooks", _HOOKS),
    **_move("mmengine.optim", "xtuner.engine.schedule", _SCHEDULES),
    **_move("mmengine.optim.scheduler", "xtuner.engine.schedule", _SCHEDULES),
    **_move("mmengine.optim", "xtuner.engine.optim", "OptimWrapper AmpOptimWrapper"),
    **_move("mmengine.optim.optimizer", "xtuner.engine.optim", "OptimWrapper AmpOptimWrapper"),
    **_move("mmengine.visualization", "xtuner.engine.visual", _VISUAL),
    **_move("mmengine.dataset", "xtuner.dataset.samplers", "DefaultSampler InfiniteSampler"),
    **_move("mmengine.dataset.sampler", "xtuner.dataset.samplers", "DefaultSampler InfiniteSampler"),
    "mmengine.evaluator.BaseMetric": "xtuner.evaluation.metrics.BaseMetric",
    "mmengine.evaluator.metric.BaseMetric": "xtuner.evaluation.metrics.BaseMetric",
    "mmengine.runner.IterBasedTrainLoop": "xtuner.engine.runner.TrainLoop",
    "mmengine.runner.EpochBasedTrainLoop": "xtuner.engine.runner.EpochBasedTrainLoop",
    "mmengine.runner.loops.IterBasedTrainLoop": "xtuner.engine.runner.TrainLoop",
    "mmengine.runner.loops.EpochBasedTrainLoop": "xtuner.engine.runner.EpochBasedTrainLoop",
    **{f"mmengine.runner.{name}": f"xtuner.engine.runner.{name}" for name in ("ValLoop", "TestLoop")},
    **{f"mmengine.runner.loops.{name}": f"xtuner.engine.runner.{name}" for name in ("ValLoop", "TestLoop")},
    # It converts, which is above the engine.
    "xtuner.engine.hooks.HFCheckpointHook": "xtuner.convert.hf_checkpoint_hook.HFCheckpointHook",
    # It measures answers, which is above the engine.
    "xtuner.engine.hooks.ForgettingHook": "xtuner.evaluation.forgetting.hook.ForgettingHook",
    "datasets.load_dataset": "xtuner.dataset.reading.load.load_dataset",
    # The earlier path, which is in configs saved by earlier runs.
    "xtuner.dataset.sources.load_dataset": "xtuner.dataset.reading.load.load_dataset",
}

BY_SHORT_NAME: dict[str, str] = {
    **{old.rpartition(".")[2]: new for old, new in SAME_JOB.items() if old.startswith("mmengine.")},
    "DatasetInfoHook": "xtuner.engine.hooks.DatasetInfoHook",
    "HFCheckpointHook": "xtuner.convert.hf_checkpoint_hook.HFCheckpointHook",
    "ForgettingHook": "xtuner.evaluation.forgetting.hook.ForgettingHook",
    "EvaluateChatHook": "xtuner.engine.hooks.EvaluateChatHook",
    "ThroughputHook": "xtuner.engine.hooks.ThroughputHook",
    "VarlenAttnArgsToMessageHubHook": "xtuner.engine.hooks.VarlenAttnArgsToMessageHubHook",
    "TrainLoop": "xtuner.engine.runner.TrainLoop",
    "LISAHook": "xtuner.engine.hooks.LISAHook",
    **OPTIMIZERS,
    **{name: f"xtuner.optimizers.{name}" for name in REFUSED},
}

GONE: dict[str, str] = {
    **{f"xtuner.optimizers.{name}": why for name, why in REFUSED.items()},
    "xtuner.registry.BUILDER": "write dict(type=TheClass, ...); any class or function can be a type",
    "xtuner.model.utils.LoadWoInit": "weights are never initialised twice; remove it",
    "mmengine.config.Config": "use xtuner.config.load_config",
    **{
        f"xtuner.parallel.sequence.{name}": "rows are cut and joined by the model itself: set "
        "sequence_parallel_size; the functions it uses are in xtuner.parallel.sequence.ulysses"
        for name in (
            "pad_for_sequence_parallel",
            "split_for_sequence_parallel",
            "gather_forward_split_backward",
            "split_forward_gather_backward",
            "reduce_sequence_parallel_loss",
            "init_sequence_parallel",
        )
    },
    "mmengine.utils.mkdir_or_exist": "use pathlib.Path(folder).mkdir(parents=True, exist_ok=True)",
    "mmengine.registry.HOOKS": "name the class itself: custom_hooks = [dict(type=MyHook)]",
}
