"""The parts of a run that learns from rewards: batches of sampled answers, validation, hook.

Whatever cannot sample is refused here, before the model is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtuner.dataset.prompt_dataset import PromptDataset
from xtuner.engine.batches.indexed import Batches
from xtuner.engine.batches.rollouts import RolloutBatches, Rollouts
from xtuner.engine.reward_validation import RewardValLoop
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.rewards import faults

if TYPE_CHECKING:
    from xtuner.engine.run import Run
    from xtuner.model.train_module import TrainModule


def rollouts_of(run: Run) -> Rollouts:
    """The settings of `rollouts`; ConfigError for what cannot train with them."""
    cfg = run.cfg
    asked = {
        "deepspeed": run.backend.name == "deepspeed",
        "sequence_parallel_size": run.world.sequence_size > 1,
        "train_cfg.spike_ratio": cfg.train_cfg.get("spike_ratio"),
        "val_evaluator": cfg.get("val_evaluator"),
        "val_cfg": cfg.get("val_cfg"),
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise ConfigError(faults.not_together(name))
    rollouts = run.builder.build({"type": Rollouts, **cfg.get("rollouts", {})}, "rollouts")
    if not isinstance(rollouts, Rollouts):
        what = "rollouts.type is {kind}; use Rollouts of xtuner.engine.batches.rollouts"
        raise ConfigError(translate(what, kind=type(rollouts).__name__))
    return rollouts


def build_rollout_batches(run: Run, dataset: Any, prompts: Batches) -> RolloutBatches:
    """The batches of training, from those of its prompts."""
    check_prompts(dataset, "train_dataloader")
    count = run.cfg.optim_wrapper.get("accumulative_counts", 1)
    if (run.cfg.train_cfg.get("max_iters") or 0) % count:
        what = (
            "train_cfg.max_iters is {max_iters}, but an update takes accumulative_counts = {count} "
            "iterations: take a multiple of it"
        )
        raise ConfigError(translate(what, max_iters=run.cfg.train_cfg["max_iters"], count=count))
    return RolloutBatches(run, rollouts_of(run), prompts, count)


def build_reward_validation(run: Run, dataset: Any, name: str) -> RewardValLoop:
    """Validation by the mean reward on `dataset`, of the loader `name`."""
    check_prompts(dataset, name)
    return RewardValLoop(run, dataset, rollouts_of(run))


def check_prompts(dataset: Any, name: str) -> None:
    """ConfigError if `dataset`, of the loader `name`, has no prompts."""
    if not isinstance(dataset, PromptDataset):
        what = "{name}.dataset is a {kind}, but rollouts need prompts: use build_prompt_dataset"
        raise ConfigError(translate(what, name=name, kind=type(dataset).__name__))


def check_samples(run: Run, model: TrainModule) -> None:
    """ConfigError if only one of model and config samples answers."""
    kind, samples = type(model).__name__, bool(run.cfg.get("rollouts"))
    if model.learns_from_rewards and not samples:
        raise ConfigError(faults.no_rollouts(kind))
    if samples and not model.learns_from_rewards:
        what = "rollouts is given, but model.type is {kind}, which does not learn from rewards: use GRPO"
        raise ConfigError(translate(what, kind=kind))
