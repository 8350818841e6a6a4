"""The first updates of a run again, in a temporary work dir."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from xtuner.config import Config
from xtuner.config.load import with_values
from xtuner.engine.build import build_run
from xtuner.engine.replay.facts import tokenizer_of
from xtuner.engine.replay.files import NAME, Record, read_record
from xtuner.engine.replay.record import ReplayHook
from xtuner.engine.run import RunOptions
from xtuner.parallel.world import World, make_world


def options_of(record: Record, config: Config) -> RunOptions:
    """The options of the recorded run, with its seed if neither config nor command line gave one."""
    options = RunOptions(**record["options"])
    if options.seed is None and (config.get("randomness") or {}).get("seed") is None:
        options = replace(options, seed=int(record["facts"]["seed"]["seed"]))
    return options


def rerun(
    config: Config,
    options: RunOptions,
    num_updates: int,
    judge: Callable[[Record, Any], int],
    world: World | None = None,
) -> int:
    """What `judge` returns, on rank 0, of the record of the first updates of `config` and of its tokenizer.

    Every process returns it. `world`: the processes; by default those that this one was started with, which
    part at the end. Hooks that only save, measure or show are left out: the numbers do not depend on them.
    """
    # A run that is resumed has no first updates; trackers show the recorded run, not this one.
    config = with_values(config, replay_updates=num_updates, resume=None, visualizer=None)
    with tempfile.TemporaryDirectory(prefix="xtuner-replay-") as folder:
        own = world or make_world()
        run = build_run(config, replace(options, work_dir=folder, resume=False), own)
        run.hooks = [_stopping(hook) for hook in run.hooks if getattr(hook, "in_replay", True)]
        run.train()
        found = judge(read_record(run.log_dir / NAME), tokenizer_of(run)) if own.is_first else 0
        found = own.broadcast(found)
        if world is None:
            own.close()
    return found


def _stopping(hook: Any) -> Any:
    return ReplayHook(hook.num_updates, stops=True) if isinstance(hook, ReplayHook) else hook
