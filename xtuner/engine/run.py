"""One training run: the object that holds it and that every hook receives."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from xtuner import __version__, devices
from xtuner.checkpoint_paths import find_last
from xtuner.config import Builder, Config
from xtuner.credentials import without_credentials
from xtuner.engine import schedule
from xtuner.engine.backend import Backend
from xtuner.engine.environment import adapter_files, describe_environment, model_files
from xtuner.engine.history import History
from xtuner.engine.hooks import call_hooks
from xtuner.engine.malloc import keep_freed_memory
from xtuner.engine.reference import Reference
from xtuner.engine.resume import Position
from xtuner.engine.steps import Steps, complete
from xtuner.engine.trackers.facts import TrackedRun, credentials_of, flattened
from xtuner.errors import TrainingError
from xtuner.estimate.forecast import Forecast, memory_lines
from xtuner.language import translate
from xtuner.log import logger, start_file, stop_file
from xtuner.model.train_module import TrainModule
from xtuner.parallel.world import World, lost_peer


@dataclass(frozen=True)
class RunOptions:
    """The options of a run on the command line, besides its config."""

    work_dir: str | None = None
    resume: str | bool = False  # True: from the newest checkpoint
    seed: int | None = None
    fsdp: bool = False
    deepspeed: Mapping[str, Any] | None = None  # the content of its file
    forecast: Forecast | None = None  # the estimate of its memory and time


@dataclass
class Run:
    """One training run and all its parts; hooks receive it as `runner`."""

    cfg: Config
    work_dir: Path
    timestamp: str
    seed: int
    device: torch.device
    builder: Builder
    world: World
    backend: Backend
    model: TrainModule = None  # type: ignore[assignment]  # built after the data
    reference: Reference | None = None  # whose log-probabilities are computed before training
    weights_text: str = ""
    forecast: Forecast | None = None
    options: RunOptions = field(default_factory=RunOptions)
    train_dataloader: Any = None
    optim_wrapper: Any = None
    param_schedulers: list[schedule.Schedule] = field(default_factory=list)
    visualizer: Any = None
    tracker_ids: dict[str, str] = field(default_factory=dict)  # of the run that a resumed one goes on with
    hooks: list[Any] = field(default_factory=list)
    train_loop: Any = None
    val_loop: Any = None
    history: History = field(default_factory=History)
    iter: int = 0
    position: Position = field(default_factory=lambda: Position(0))
    num_skipped_updates: int = 0
    update_losses: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    max_nonfinite_updates: int = 5
    kept_checkpoints: list[str] = field(default_factory=list)
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    base: Any = None  # the loaded language model, where several runs share it

    @property
    def logger(self) -> logging.Logger:
        return logger

    @property
    def log_dir(self) -> Path:
        """The folder of this start of the run: its log and scalars."""
        return self.work_dir / self.timestamp

    @property
    def experiment_name(self) -> str:
        return f"{Path(self.cfg.filename).stem}_{self.timestamp}"

    @property
    def epoch(self) -> int:
        return self.iter // self.train_loop.epoch_length

    @property
    def max_iters(self) -> int:
        return self.train_loop.max_iters

    @property
    def max_epochs(self) -> float:
        return self.train_loop.max_epochs

    @property
    def rank(self) -> int:
        return self.world.rank

    @property
    def world_size(self) -> int:
        return self.world.size

    def learning_rates(self) -> list[float]:
        """The rate of each parameter group in this iteration."""
        length, bases = self.train_loop.epoch_length, self.optim_wrapper.base_lrs
        return [schedule.value_at(self.param_schedulers, base, self.iter, length) for base in bases]

    def call_hooks(self, moment: str, **kwargs: Any) -> None:
        """Call the method `moment` of every hook that has it, in order of priority."""
        call_hooks(self.hooks, moment, self, **kwargs)

    def saves_at(self) -> bool:
        """Whether a hook saves a checkpoint in the current iteration."""
        return any(hook.saves_at(self) for hook in self.hooks if hasattr(hook, "saves_at"))

    def save_now(self) -> None:
        """Let hooks save a checkpoint in the current iteration, before the run stops."""
        self.call_hooks("before_stop")

    def train(self) -> None:
        """Train to the end."""
        complete(self, self.steps())

    def steps(self) -> Steps:
        """The steps of training; log file, scalars and work dir are closed after errors too."""
        log_file = None
        keep_freed_memory(self.device)
        try:
            if self.world.is_first:
                log_file = start_file(self.log_dir / f"{self.timestamp}.log")
                if hasattr(self.visualizer, "describe"):
                    self.visualizer.describe(tracked(self))
                self.visualizer.open(self.log_dir, self.timestamp, self.cfg.text)
                (self.work_dir / Path(self.cfg.filename).name).write_text(self.cfg.text, encoding="utf-8")
            logger.info(translate("Checkpoints will be saved to %s."), self.work_dir)
            logger.info("%s", describe_environment(self.device))
            logger.info("%s", self.weights_text)
            if self.forecast is not None:
                logger.info("%s", "\n".join(memory_lines(self.forecast)))
            self.call_hooks("before_run")
            self.model.train()
            yield from self.train_loop.steps()
            self.call_hooks("after_run")
        except RuntimeError as error:
            if self.world.size > 1 and lost_peer(error):
                raise TrainingError(
                    translate("iter {iter}: another process of this run is gone", iter=self.iter + 1)
                ) from error
            raise
        except (KeyboardInterrupt, SystemExit):
            self.world.leave()
            last = find_last(self.work_dir)
            goes_on = translate("--resume goes on from {last}", last=last)
            cure = goes_on if last else translate("no checkpoint was written yet")
            logger.warning(translate("Stopped in iter %d; %s"), self.iter + 1, cure)
            raise
        finally:
            with self.held:
                self._close(log_file)

    def _close(self, log_file: logging.Handler | None) -> None:
        try:
            self.visualizer.close()
        except Exception as error:
            # An error of the run itself is more important than one of closing.
            logger.warning(
                translate("The visualizer could not be closed: %s: %s"), type(error).__name__, error
            )
        if log_file is not None:
            stop_file(log_file)

    def model_files(self) -> dict[str, Any]:
        """The files besides weights of the model or adapter folder that the run produces.

        Those of an adapter include a tokenizer if the run sets the tokens of the model (`model.tokenizer`).
        """
        llm: Any = self.model.parts().get("llm")
        if not self.world.is_first or llm is None:
            return {}
        of_adapter, tokenizer = self.model.uses_adapter, self.cfg.model.get("tokenizer")
        if not of_adapter:
            tokenizer = tokenizer or self.cfg.get("tokenizer")
        if tokenizer is not None:
            tokenizer = self.builder.build(tokenizer, "tokenizer")
        files, folder = {}, self.model.llm_folder
        if folder is not None:
            found = (adapter_files if of_adapter else model_files)(llm, tokenizer)
            files = {f"{folder}{name}": content for name, content in found.items()}
        return {**files, **self.model.extra_files()}


def tracked(run: Run) -> TrackedRun:
    """The facts about this start of the run that trackers show."""
    facts: dict[str, str | int] = {
        "seed": run.seed,
        "processes": run.world.size,
        "device": devices.name_of(run.device) if devices.is_accelerator(run.device) else run.device.type,
        "xtuner": __version__,
        "work_dir": str(run.work_dir),
    }
    return TrackedRun(
        run.work_dir,
        run.log_dir,
        run.timestamp,
        getattr(run.visualizer, "run_name", None) or f"{run.work_dir.resolve().name}_{run.timestamp}",
        without_credentials(run.cfg.text, credentials_of(run.cfg)),
        {**flattened(run.cfg), **{f"run.{name}": value for name, value in facts.items()}},
        getattr(run.visualizer, "project", None),
        run.tracker_ids,
    )
