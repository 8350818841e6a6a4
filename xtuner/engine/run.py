"""One training run: the object that holds it, and how a config becomes one.

    cfg -> build_run(cfg, options) -> Run -> run.train()

Each part of the run is built by one function here; each top-level name of a config is read in one place.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xtuner import __version__, dist
from xtuner.config import Builder, Config
from xtuner.config.ref import as_ref, path_of
from xtuner.engine import checkpoint as ckpt
from xtuner.engine import schedule
from xtuner.engine.data import Batches
from xtuner.engine.history import History
from xtuner.engine.hooks import DEFAULT_HOOKS, call_hooks, sort_hooks
from xtuner.engine.optim import AmpOptimWrapper, OptimWrapper
from xtuner.engine.visual import Visualizer
from xtuner.errors import CheckpointError, ConfigError
from xtuner.log import logger, start_file, stop_file


@dataclass(frozen=True)
class RunOptions:
    """What the command line says about a run, beside its config."""

    work_dir: str | None = None
    resume: str | bool = False  # True: from the newest checkpoint
    seed: int | None = None


@dataclass
class Position:
    """Where a resumed run goes on: the iteration to do next and the random state in front of it."""

    iter: int
    rng: dict[str, Any] = field(default_factory=lambda: get_rng_state())


@dataclass
class Run:
    """One training run and all its parts; hooks receive it as `runner`."""

    cfg: Config
    work_dir: Path
    timestamp: str
    seed: int
    device: torch.device
    builder: Builder
    model: Any = None
    train_dataloader: Any = None
    optim_wrapper: Any = None
    param_schedulers: list[schedule.Schedule] = field(default_factory=list)
    visualizer: Any = None
    hooks: list[Any] = field(default_factory=list)
    train_loop: Any = None
    history: History = field(default_factory=History)
    iter: int = 0
    position: Position = field(default_factory=lambda: Position(0))
    num_skipped_updates: int = 0
    max_nonfinite_updates: int = 5
    kept_checkpoints: list[str] = field(default_factory=list)

    @property
    def logger(self):
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
        return dist.rank()

    @property
    def world_size(self) -> int:
        return dist.world_size()

    def learning_rates(self) -> list[float]:
        """The rate of each parameter group in this iteration."""
        length, bases = self.train_loop.epoch_length, self.optim_wrapper.base_lrs
        return [schedule.value_at(self.param_schedulers, base, self.iter, length) for base in bases]

    def call_hooks(self, moment: str, **kwargs: Any) -> None:
        """Call `moment` of every hook that has it, in order of priority."""
        call_hooks(self.hooks, moment, self, **kwargs)

    def train(self) -> None:
        """Train to the end; the log file and scalars are closed whatever happens."""
        log_file = start_file(self.log_dir / f"{self.timestamp}.log")
        try:
            self.visualizer.open(self.log_dir, self.timestamp, self.cfg.text)
            (self.work_dir / Path(self.cfg.filename).name).write_text(self.cfg.text, encoding="utf-8")
            logger.info("Checkpoints will be saved to %s.", self.work_dir)
            logger.info("%s", describe_environment(self.device))
            logger.info("%s", describe_weights(self.model))
            self.call_hooks("before_run")
            self.model.train()
            self.train_loop.run()
            self.call_hooks("after_run")
        finally:
            self.visualizer.close()
            stop_file(log_file)

    def state(self, with_optimizer: bool = True) -> dict[str, Any]:
        """What a checkpoint holds: plain containers, numbers, text and tensors."""
        state = {
            "meta": {
                "iter": self.iter + 1,
                "epoch": (self.iter + 1) // self.train_loop.epoch_length,
                "cfg": self.cfg.text,
                "config_name": Path(self.cfg.filename).name,
                "experiment_name": self.experiment_name,
                "seed": self.seed,
                "time": time.strftime("%Y%m%d_%H%M%S"),
                "xtuner_version": __version__,
                "hf_files": hf_files(self),
            },
            "state_dict": self.model.state_dict(),
            "data": {"key": getattr(self.train_dataloader.dataset, "key", None)},
        }
        if with_optimizer:
            # Between two windows the state of this moment counts: hooks may have drawn numbers too.
            at_border = self.position.iter == self.iter + 1
            state["optimizer"] = self.optim_wrapper.state_dict()
            state["resume"] = {
                "iter": self.position.iter,
                "rng": get_rng_state() if at_border else self.position.rng,
                "num_skipped_updates": self.num_skipped_updates,
                "kept_checkpoints": list(self.kept_checkpoints),
            }
        return state


def build_run(cfg: Config, options: RunOptions) -> Run:
    """The run that `cfg` and `options` describe, ready for `train()`; the cheap parts are built first."""
    if dist.world_size() > 1:
        raise ConfigError(
            "training with several processes is not available in this version; start one process"
        )
    work_dir = Path(options.work_dir or cfg.get("work_dir") or Path("work_dirs") / Path(cfg.filename).stem)
    source = find_resume(cfg, options, work_dir)
    seed = choose_seed(cfg, options, source)
    set_seed(seed, bool(cfg.get("randomness", {}).get("deterministic")))
    run = Run(cfg, work_dir, free_timestamp(work_dir), seed, dist.device(), Builder())
    run.max_nonfinite_updates = cfg.get("max_nonfinite_updates", run.max_nonfinite_updates)
    torch.backends.cudnn.benchmark = bool(cfg.get("env_cfg", {}).get("cudnn_benchmark"))
    run.train_dataloader = build_batches(run)
    run.model = build_model(run)
    run.optim_wrapper = build_optim_wrapper(run)
    run.train_loop = build_loop(run)
    run.param_schedulers = build_schedules(run)
    run.visualizer = build_visualizer(run)
    run.hooks = build_hooks(run)
    take_up(run, source)
    return run


def describe_environment(device: torch.device) -> str:
    """What a report of a fault should say about the machine."""
    import platform

    import transformers

    gpu = device.type == "cuda"
    what = torch.cuda.get_device_name(device) if gpu else f"CPU with {torch.get_num_threads()} threads"
    return (
        f"xtuner {__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, {what}"
    )


def describe_weights(model: torch.nn.Module) -> str:
    """How many numbers are trained, of how many."""
    # Four-bit weights are packed two to a byte and say how many they are.
    trained = frozen = 0
    for weight in model.parameters():
        if weight.requires_grad:
            trained += weight.numel()
        else:
            frozen += weight.numel() * (2 if type(weight).__name__ == "Params4bit" else 1)
    return f"Trained weights: {trained:,} of {trained + frozen:,} ({trained / (trained + frozen):.2%})"


def free_timestamp(work_dir: Path) -> str:
    """The time of day as a folder name that no other start of this run has taken."""
    while True:
        timestamp = time.strftime("%Y%m%d_%H%M%S")
        try:
            (work_dir / timestamp).mkdir(parents=True)
            return timestamp
        except FileExistsError:
            time.sleep(0.2)
        except OSError as error:
            raise ConfigError(f"cannot write to the work dir {work_dir}: {error.strerror}") from error


def find_resume(cfg: Config, options: RunOptions, work_dir: Path) -> dict[str, Any] | None:
    """The checkpoint to go on from, `None` for a new run."""
    asked = options.resume or cfg.get("resume")
    if not asked:
        return None
    path = asked if isinstance(asked, str) else cfg.get("load_from") or ckpt.find_whole(work_dir)
    logger.info("Resuming from %s", path)
    source = ckpt.load_checkpoint(path, check=True)
    if "resume" not in source:
        raise CheckpointError(
            f"{path} was saved without optimizer state; start from its weights with load_from instead"
        )
    source["path"] = str(path)
    return source


def choose_seed(cfg: Config, options: RunOptions, source: dict[str, Any] | None) -> int:
    """The seed of a resumed run, of the command line, of the config, or a new one."""
    if source is not None:
        return source["meta"]["seed"]
    asked = options.seed if options.seed is not None else cfg.get("randomness", {}).get("seed")
    return random.SystemRandom().randrange(2**31) if asked is None else asked


def set_seed(seed: int, deterministic: bool) -> None:
    """Seed every generator the run draws from."""
    logger.info("Seed: %d%s", seed, ", deterministic" if deterministic else "")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)


def get_rng_state() -> dict[str, Any]:
    """The state of every generator, as plain containers and tensors."""
    version, numbers, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=True)
    kind, keys, *rest = legacy
    state = {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put every generator where `get_rng_state` saw it."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].clone())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].clone())


def build_batches(run: Run) -> Batches:
    """The training data in batches, from `train_dataloader`."""
    cfg = dict(run.cfg.train_dataloader)
    path = "train_dataloader"
    # The tokenizers of our own model families are known to transformers from here on.
    from xtuner.model.loading import register_families

    register_families()
    dataset = run.builder.build(cfg.pop("dataset"), f"{path}.dataset")
    sampler_cfg = {"seed": run.seed, **cfg.pop("sampler")}
    sampler = run.builder.build(sampler_cfg, f"{path}.sampler", dataset=dataset)
    batch_size = cfg.pop("batch_size", 1)
    batch_cfg = cfg.pop("batch_sampler", None) or {
        "type": torch.utils.data.BatchSampler,
        "batch_size": batch_size,
    }
    batch_cfg = {"drop_last": cfg.pop("drop_last", False), **batch_cfg}
    batch_sampler = run.builder.build(batch_cfg, f"{path}.batch_sampler", sampler=sampler)
    collate_fn = build_collate(run, cfg.pop("collate_fn"), f"{path}.collate_fn")
    if cfg.get("num_workers"):
        start = run.cfg.get("env_cfg", {}).get("mp_cfg", {}).get("mp_start_method")
        cfg = {"multiprocessing_context": start, **cfg}
    # Batches start anew each epoch, and so do their workers.
    cfg.pop("persistent_workers", None)
    return Batches(dataset, batch_sampler, collate_fn, run.seed, **run.builder.build(cfg, path))


def build_collate(run: Run, cfg: Any, path: str) -> Any:
    """The function that makes a batch: `dict(type=f, **kwargs)` names it and arguments of every call."""
    import functools

    if not isinstance(cfg, dict):
        return run.builder.build(cfg, path)
    kwargs = {k: run.builder.build(v, f"{path}.{k}") for k, v in cfg.items() if k != "type"}
    return functools.partial(run.builder.build(cfg["type"], path), **kwargs)


def build_model(run: Run) -> Any:
    """The model, on the device of this process."""
    return run.builder.build(run.cfg.model, "model").to(run.device)


def build_optim_wrapper(run: Run) -> OptimWrapper:
    """The optimiser over what is trained, in its wrapper."""
    cfg = dict(run.cfg.optim_wrapper)
    params = [p for p in run.model.parameters() if p.requires_grad]
    if not params:
        raise ConfigError(
            "model has no weight to train: add lora=dict(type=LoraConfig, ...) or train the llm itself"
        )
    optimizer = run.builder.build(cfg.pop("optimizer"), "optim_wrapper.optimizer", params=params)
    late: dict[str, Any] = {"optimizer": optimizer}
    named = as_ref(cfg.get("type"))
    kind = named.resolve() if named else cfg.get("type")
    if kind is AmpOptimWrapper:
        late["device"] = run.device
    wrapper = run.builder.build({"type": OptimWrapper, **cfg}, "optim_wrapper", **late)
    if not isinstance(wrapper, OptimWrapper):
        name = path_of(named) if named else kind
        raise ConfigError(f"optim_wrapper.type is {name}; use AmpOptimWrapper or OptimWrapper")
    return wrapper


def build_loop(run: Run) -> Any:
    """The training loop, from `train_cfg`."""
    from xtuner.engine.runner import TrainLoop

    cfg = {k: v for k, v in run.cfg.train_cfg.items() if k != "by_epoch"}
    return run.builder.build(
        {"type": TrainLoop, **cfg}, "train_cfg", runner=run, dataloader=run.train_dataloader
    )


def build_schedules(run: Run) -> list[schedule.Schedule]:
    """The schedules of `param_scheduler`, in iterations."""
    cfg = run.cfg.get("param_scheduler") or []
    cfgs = cfg if isinstance(cfg, list) else [cfg]
    made = run.builder.build(cfgs, "param_scheduler")
    schedule.check(made)
    return [s.in_iters(run.train_loop.epoch_length) for s in made]


def build_visualizer(run: Run) -> Visualizer:
    """Where scalars go."""
    return run.builder.build(run.cfg.get("visualizer") or {"type": Visualizer}, "visualizer")


def build_hooks(run: Run) -> list[Any]:
    """Default hooks, those of the config in their place, and the user's own, in order of priority."""
    cfgs: dict[str, Any] = {name: {"type": kind} for name, kind in DEFAULT_HOOKS.items()}
    cfgs |= run.cfg.get("default_hooks") or {}
    named = [(f"default_hooks.{k}", v) for k, v in cfgs.items() if v is not None]
    named += [(f"custom_hooks.{i}", v) for i, v in enumerate(run.cfg.get("custom_hooks") or [])]
    hooks: list[tuple[Any, Any]] = []
    for path, cfg in named:
        priority = cfg.get("priority") if isinstance(cfg, dict) else None
        if isinstance(cfg, dict):
            cfg = {k: v for k, v in cfg.items() if k != "priority"}
        hooks.append((run.builder.build(cfg, path), priority))
    return sort_hooks(hooks)


def take_up(run: Run, source: dict[str, Any] | None) -> None:
    """Put the run where its checkpoint left it, or give it the weights of `load_from`."""
    path = run.cfg.get("load_from")
    if source is None:
        if path and not run.cfg.get("resume"):
            run.model.load_state_dict(ckpt.load_checkpoint(path, check=True)["state_dict"])
            logger.info("Loaded the weights of %s", path)
        run.position = Position(0)
        return
    key = getattr(run.train_dataloader.dataset, "key", None)
    if source["data"]["key"] != key:
        raise CheckpointError(
            f"{source['path']} was trained on other data or data settings than this config names, so "
            "its place in them means nothing: restore them, or start from its weights with load_from"
        )
    run.call_hooks("after_load_checkpoint", checkpoint=source)
    run.model.load_state_dict(source["state_dict"])
    run.optim_wrapper.load_state_dict(source["optimizer"])
    resume = source["resume"]
    run.iter = resume["iter"]
    run.num_skipped_updates = resume["num_skipped_updates"]
    run.kept_checkpoints = [*resume["kept_checkpoints"], source["path"]]
    set_rng_state(resume["rng"])
    run.position = Position(run.iter)
    logger.info("Resumed at iter %d of %d, saved at iter %d", run.iter, run.max_iters, source["meta"]["iter"])


def hf_files(run: Run) -> dict[str, Any]:
    """The small files that make full weights a model folder, so that conversion needs no other folder."""
    if run.model.uses_adapter:
        return {}
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        run.model.llm.config.save_pretrained(folder)
        if run.model.llm.generation_config is not None:
            run.model.llm.generation_config.save_pretrained(folder)
        if run.cfg.get("tokenizer") is not None:
            run.builder.build(run.cfg.tokenizer, "tokenizer").save_pretrained(folder)
        return {p.name: _file_content(p) for p in sorted(Path(folder).iterdir())}


def _file_content(path: Path) -> str | torch.Tensor:
    data = path.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError:
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)
