"""What a checkpoint holds of a run, and how a run continues from it: written and read in one file.

meta           iter, epoch, config text, seed, the config and tokenizer files of the model
state_dict     trained weights
data           key of the data, positions in streamed data
optimizer      its state                                     not in checkpoints without optimizer state
resume         next iter, random states, kept checkpoints    the same
"""

from __future__ import annotations

import functools
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtuner import __version__
from xtuner.atomic import restore_all
from xtuner.checkpoint_paths import find_last
from xtuner.config import Config
from xtuner.engine.checkpoints import sharded
from xtuner.engine.checkpoints.files import find_whole, is_sharded, open_checkpoint
from xtuner.engine.environment import describe_changes
from xtuner.engine.randomness import get_rng_state, set_rng_state
from xtuner.errors import CheckpointError
from xtuner.language import translate
from xtuner.log import logger

if TYPE_CHECKING:
    from xtuner.engine.run import Run, RunOptions


@dataclass
class Position:
    """Where a resumed run continues: the next iteration, and before it the position in streamed data and the
    random state.
    """

    iter: int
    data: Any = None
    rng: dict[str, Any] = field(default_factory=get_rng_state)


def state_of(run: Run, with_optimizer: bool = True, in_parts: bool = False) -> dict[str, Any]:
    """What a checkpoint holds: plain containers, numbers, text and tensors.

    Every process must come here. The tensors are on rank 0 alone; `in_parts`: each process has its own.
    """
    run.optim_wrapper.show_average()
    state = {
        "meta": {
            "iter": run.iter + 1,
            "epoch": (run.iter + 1) // run.train_loop.epoch_length,
            "epoch_length": run.train_loop.epoch_length,
            "cfg": run.cfg.text,
            "config_name": Path(run.cfg.filename).name,
            "experiment_name": run.experiment_name,
            "seed": run.seed,
            "time": time.strftime("%Y%m%d_%H%M%S"),
            "xtuner_version": __version__,
            "hf_files": run.model_files(),
            "trackers": run.visualizer.ids() if hasattr(run.visualizer, "ids") else {},
        },
        "state_dict": run.backend.model_parts() if in_parts else run.backend.model_state(),
        "data": {"key": getattr(run.train_dataloader.dataset, "key", None)},
    }
    if run.position.data is not None:
        state["data"]["positions"] = run.world.all_gather(run.position.data)
    if with_optimizer:
        # Between two windows the state of this moment counts: hooks may have drawn numbers too.
        between_windows = run.position.iter == run.iter + 1
        rng = get_rng_state() if between_windows else run.position.rng
        collect = run.backend.optimizer_parts if in_parts else run.backend.optimizer_state
        state["optimizer"] = collect(run.optim_wrapper)
        state["resume"] = {
            "iter": run.position.iter,
            "rng": rng,
            "num_skipped_updates": run.num_skipped_updates,
            "update_losses": list(run.update_losses),
            "kept_checkpoints": list(run.kept_checkpoints),
            "data_size": run.world.data_size,
        }
        if run.world.size > 1:
            state["resume"]["rng_of_ranks"] = run.world.all_gather(rng)
    return state


def find_source(cfg: Config, options: RunOptions, work_dir: Path) -> dict[str, Any] | None:
    """The checkpoint to resume from, or None for a new run."""
    asked = options.resume or cfg.get("resume")
    restore_all(work_dir, "*.pth")
    if not asked:
        if cfg.get("load_from"):
            open_checkpoint(cfg.load_from)  # a wrong path is reported before the model is loaded
        if last := find_last(work_dir):
            logger.warning(
                translate(
                    "%s is of an earlier run, and this one begins anew in the same work dir: checkpoints of "
                    "the same name are overwritten (--resume goes on from it)"
                ),
                last,
            )
        return None
    path = asked if isinstance(asked, str) else cfg.get("load_from") or find_whole(work_dir)
    logger.info(translate("Resuming from %s"), path)
    source = open_checkpoint(path, check=True)
    if "resume" not in source:
        raise CheckpointError(
            translate(
                "{path} was saved without optimizer state; start from its weights with load_from", path=path
            )
        )
    source["path"] = str(path)
    return source


def choose_seed(cfg: Config, options: RunOptions, source: dict[str, Any] | None) -> int:
    """The seed of a resumed run, of the command line, of the config, or a new one."""
    if source is not None:
        return source["meta"]["seed"]
    asked = options.seed if options.seed is not None else (cfg.get("randomness") or {}).get("seed")
    return random.SystemRandom().randrange(2**31) if asked is None else asked


def restore(run: Run, source: dict[str, Any] | None) -> None:
    """Put the run where its checkpoint left it, or give it the weights of `load_from`; rank 0 reads."""
    path = run.cfg.get("load_from")
    run.position = Position(0, run.train_dataloader.position())
    if not run.world.broadcast(source is not None):
        if path and not run.cfg.get("resume"):
            load_tensors(run, open_checkpoint(path, check=True) if run.world.is_first else None, False)
            logger.info(translate("Loaded the weights of %s"), path)
        return
    small = {k: v for k, v in (source or {}).items() if k not in sharded.TENSORS}
    small = run.world.broadcast(small)
    _check_same_data(run, small)
    if changes := describe_changes(small["meta"]["cfg"], run.cfg.text):
        logger.warning(
            translate("The config is not the one that %s was saved with:\n%s"), small["path"], changes
        )
    _go_on_in_stream(run, small)
    run.call_hooks("after_load_checkpoint", checkpoint=source or small)
    load_tensors(run, source)
    resume = small["resume"]
    run.tracker_ids = small["meta"].get("trackers", {})
    run.num_skipped_updates = resume["num_skipped_updates"]
    run.update_losses.extend(resume.get("update_losses", ()))
    path = Path(small["path"]).resolve()
    others = [p for p in resume["kept_checkpoints"] if Path(p).resolve() != path]
    run.kept_checkpoints = [*others, small["path"]]
    run.iter = _resumed_iter(run, resume)
    run.position = Position(run.iter, run.train_dataloader.position())
    saved_at = small["meta"]["iter"]
    again = translate(", within an update, which begins again") if run.iter < saved_at else ""
    logger.info(
        translate("Resumed at iter %d of %d, saved at iter %d%s"), run.iter, run.max_iters, saved_at, again
    )
    if run.iter >= run.max_iters:
        logger.warning(
            translate("The run was finished: nothing is left to train. Raise train_cfg to train longer")
        )


def load_tensors(run: Run, source: dict[str, Any] | None, with_optimizer: bool = True) -> None:
    """Load the weights and the optimizer state of `source`, which rank 0 has opened.

    Each process reads its own parts of a sharded checkpoint; else rank 0 reads all and hands it out.
    """
    backend, names = run.backend, sharded.TENSORS if with_optimizer else sharded.TENSORS[:1]
    saved = {name: source[name] for name in (*names, "sharded") if name in source} if source else {}
    if not run.world.broadcast(is_sharded(saved) and backend.can_save_parts):
        if is_sharded(saved):
            saved = sharded.read_whole(saved["sharded"]["folder"], saved)
        backend.load_model(saved.get("state_dict"))
        if with_optimizer:
            backend.load_optimizer(run.optim_wrapper, saved.get("optimizer"))
        return
    saved = run.world.broadcast(saved)
    folder = saved["sharded"]["folder"]
    if not all(run.world.all_gather(folder.is_dir())):
        raise CheckpointError(
            translate(
                "{path} is sharded and not on all machines: resume from a folder that all of them see, or "
                "make one file of it with xtuner convert checkpoint",
                path=folder,
            )
        )
    read = functools.partial(sharded.read, folder)
    backend.load_model_parts(saved["state_dict"], read)
    if with_optimizer:
        backend.load_optimizer_parts(run.optim_wrapper, saved["optimizer"], read)


def _check_same_data(run: Run, saved: dict[str, Any]) -> None:
    if saved["data"]["key"] == getattr(run.train_dataloader.dataset, "key", None):
        return
    what = translate(
        "{path} was trained on other data or data settings than this config has", path=saved["path"]
    )
    if not run.cfg.get("resume_on_other_data") or run.position.data is not None:
        raise CheckpointError(
            translate(
                "{what}, so its position in them means nothing: restore them, start from its weights "
                "with load_from, or set resume_on_other_data = True to continue at the same iteration "
                "of these",
                what=what,
            )
        )
    logger.warning(translate("%s: the run goes on at the same iteration of these"), what)


def _go_on_in_stream(run: Run, saved: dict[str, Any]) -> None:
    """Give each process its position in streamed data."""
    if run.position.data is None:
        return
    if "positions" not in saved["data"]:
        what = "{path} holds no position in this data: set train_dataloader and rollouts as they were"
        raise CheckpointError(translate(what, path=saved["path"]))
    positions = saved["data"]["positions"]
    if len(positions) != run.world.size:
        raise CheckpointError(
            translate(
                "{path} was saved by {count} processes, each with its own position in the streamed "
                "data, and this run has {here}: start as many",
                count=len(positions),
                path=saved["path"],
                here=run.world.size,
            )
        )
    run.train_dataloader.go_on_from(positions[run.world.rank])


def _resumed_iter(run: Run, resume: dict[str, Any]) -> int:
    """The iteration to do next; its random state is set where as many processes train as before."""
    states = resume.get("rng_of_ranks") or [resume["rng"]]
    if len(states) == run.world.size:
        set_rng_state(states[run.world.rank])
    before, now = resume.get("data_size", 1), run.world.data_size
    if before == now:
        return resume["iter"]
    # Together the processes read the same items in the same order, however many they are.
    there = resume["iter"] * before // now
    logger.warning(
        translate("Saved by %d readers of data, resumed by %d: its iter %d is iter %d here, an update has "
        "%.3g times the items, and dropout draws other numbers"),
        before, now, resume["iter"], there, now / before,
    )  # fmt: skip
    return there
