"""Builds a run from a config: a list of parts, each built by one function.

    cfg -> build_run(cfg, options) -> Run -> run.train()

Each top-level name of a config is read in one place.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from xtuner import dist
from xtuner.blocks import as_recompute
from xtuner.config import Builder, Config, build, check_names
from xtuner.config.build import callee_of
from xtuner.config.folders import check_folder, named_folders
from xtuner.config.ref import as_ref, path_of
from xtuner.config.schema import BUILT, REPLAY_UPDATES, passed_on
from xtuner.dataset.collate_fns import default_collate_fn, flat_collate_fn
from xtuner.dataset.items.streamed import Stream
from xtuner.dataset.samplers import DefaultSampler
from xtuner.engine import resume, schedule
from xtuner.engine.backend import Backend, make_backend
from xtuner.engine.batches.held_out import data_of_training, data_of_validation
from xtuner.engine.batches.indexed import Batches
from xtuner.engine.batches.source import BatchSource
from xtuner.engine.batches.streamed import StreamBatches, check_stream_config
from xtuner.engine.batches.validation import ValBatches
from xtuner.engine.build_rollouts import build_reward_validation, build_rollout_batches, check_samples
from xtuner.engine.checkpoints.files import load_checkpoint
from xtuner.engine.environment import describe_weights
from xtuner.engine.hooks import DEFAULT_HOOKS, sort_hooks
from xtuner.engine.hooks.rollouts import RolloutsHook
from xtuner.engine.image_features import store_features
from xtuner.engine.muon import Muon, by_matrix
from xtuner.engine.optim import AmpOptimWrapper, OptimWrapper
from xtuner.engine.params import check_device, parameter_groups, with_fastest_kernel
from xtuner.engine.randomness import set_seed
from xtuner.engine.reference import store_reference, take_reference
from xtuner.engine.replay.record import ReplayHook
from xtuner.engine.run import Run, RunOptions
from xtuner.engine.runner import TrainLoop
from xtuner.engine.validation import ValLoop
from xtuner.engine.visual import Visualizer
from xtuner.errors import ConfigError
from xtuner.estimate.configured import choose_recompute
from xtuner.language import translate
from xtuner.locks import writing
from xtuner.log import say_once
from xtuner.model import adaptive_ranks
from xtuner.model.adapter_methods import METHODS
from xtuner.model.adapters import adapter_type
from xtuner.model.compiled import compile_layers
from xtuner.model.loading import compute_dtype, register_families
from xtuner.model.recompute import free_memory
from xtuner.model.tokenizer import log_tokenizer_code
from xtuner.parallel.world import DEFAULT_TIMEOUT_SECONDS, World, make_world


def build_run(cfg: Config, options: RunOptions, world: World | None = None, base: Any = None) -> Run:
    """The run of `cfg` and `options`, ready for `train()`; the cheap parts are built first.

    `world`: its processes, by default those that this one was started with. `base`: its language model, where
    that is loaded already.
    """
    for name in BUILT:
        check_names(passed_on(cfg.get(name)), name)
    check_folders(cfg)
    world = world or make_world()
    world.split(cfg.get("sequence_parallel_size") or 1)
    work_dir = work_dir_of(cfg, options)
    with contextlib.ExitStack() as held:
        # The work dir may exist only on rank 0's machine: only rank 0 reads and writes there.
        if world.is_first:
            held.enter_context(writing(work_dir, translate("the work dir"), folder=True))
        run = build_parts(cfg, options, world, work_dir, base)
        run.held = held.pop_all()
    return run


def work_dir_of(cfg: Config, options: RunOptions) -> Path:
    """The work dir of the command line, of the config, or one by the name of the config."""
    return Path(options.work_dir or cfg.get("work_dir") or Path("work_dirs") / Path(cfg.filename).stem)


def build_parts(cfg: Config, options: RunOptions, world: World, work_dir: Path, base: Any = None) -> Run:
    """Build the run in a work dir that is locked for it."""
    source = resume.find_source(cfg, options, work_dir) if world.is_first else None
    seed = world.broadcast_via_store(lambda: resume.choose_seed(cfg, options, source))
    timestamp = world.broadcast_via_store(lambda: free_timestamp(work_dir))
    deterministic = bool((cfg.get("randomness") or {}).get("deterministic"))
    set_seed(seed, deterministic)
    backend = build_backend(cfg, options, world)
    run = Run(cfg, work_dir, timestamp, seed, dist.device(), Builder(), world, backend)
    run.options, run.forecast, run.base = options, options.forecast, base
    run.max_nonfinite_updates = cfg.get("max_nonfinite_updates", run.max_nonfinite_updates)
    torch.backends.cudnn.benchmark = bool((cfg.get("env_cfg") or {}).get("cudnn_benchmark"))
    run.train_dataloader = build_batches(run)
    run.val_loop = build_val_loop(run, "val_dataloader", "val_cfg")
    connect(run)
    run.model = build_model(run)
    run.optim_wrapper = build_optim_wrapper(run)
    store_reference(run)
    store_features(run)
    if world.rank and (cfg.get("randomness") or {}).get("diff_rank_seed", True):
        set_seed(seed + world.rank, deterministic)  # weights were equal on all ranks; dropout must differ
    run.train_loop = build_loop(run)
    choose_ranks(run)
    run.param_schedulers = build_schedules(run)
    run.visualizer = build_visualizer(run)
    run.hooks = build_hooks(run)
    resume.restore(run, source)
    return run


def check_folders(cfg: Config) -> None:
    """Raise NotFoundError or ModelError for a model or tokenizer that the config's path does not hold."""
    folders = list(named_folders(cfg))
    for folder in folders:
        check_folder(folder, cfg)
    for path in sorted({f.name for f in folders if f.holds == "tokenizer" and f.trusted}):
        log_tokenizer_code(path)


def free_timestamp(work_dir: Path) -> str:
    """The current time as a folder name that no other start of this run has used."""
    while True:
        timestamp = time.strftime("%Y%m%d_%H%M%S")
        try:
            (work_dir / timestamp).mkdir(parents=True)
            return timestamp
        except FileExistsError:
            time.sleep(0.2)
        except OSError as error:
            raise ConfigError(
                translate(
                    "cannot write to the work dir {work_dir}: {error}",
                    work_dir=work_dir,
                    error=error.strerror,
                )
            ) from error


def build_batches(run: Run) -> BatchSource:
    """The training data in batches, from `train_dataloader`."""
    cfg = dict(run.cfg.train_dataloader)
    path = "train_dataloader"
    # Registers the tokenizers of our own model families with transformers.
    register_families()
    del cfg["dataset"]
    dataset_cfg = data_of_training(run.cfg)
    dataset = run.world.local_rank_0_first(lambda: run.builder.build(dataset_cfg, f"{path}.dataset"))
    if isinstance(dataset, Stream):
        return build_stream_batches(run, cfg, dataset)
    sampler = build_sampler(run, cfg.pop("sampler", None), dataset)
    batch_size = cfg.pop("batch_size", 1)
    batch_cfg = cfg.pop("batch_sampler", None) or {
        "type": torch.utils.data.BatchSampler,
        "batch_size": batch_size,
    }
    batch_cfg = {"drop_last": cfg.pop("drop_last", False), **batch_cfg}
    batch_sampler = run.builder.build(batch_cfg, f"{path}.batch_sampler", sampler=sampler)
    collate_fn = build_collate(run, cfg.pop("collate_fn", None), f"{path}.collate_fn")
    kwargs = build_loader_kwargs(run, cfg)
    batches = Batches(dataset, batch_sampler, collate_fn, run.seed, run.world.data_rank, **kwargs)
    return build_rollout_batches(run, dataset, batches) if run.cfg.get("rollouts") else batches


def build_val_loop(run: Run, data: str, loop: str) -> ValLoop | None:
    """The validation by the names `data` and `loop` of the config, or None without data."""
    given = run.cfg.get(data)
    if given is None:
        return None
    loaded = ("batch_size", "num_workers", "collate_fn", "pin_memory")
    cfg = {k: v for k, v in run.cfg.train_dataloader.items() if k in loaded}
    cfg |= {k: v for k, v in given.items() if k not in ("dataset", "held_out")}
    unused = cfg.keys() & {"sampler", "batch_sampler", "drop_last"}
    if run.cfg.get("rollouts"):
        unused = given.keys() - {"dataset", "held_out"}
    if unused:
        say_once(
            "{data} reads every item once and in order: its {names} is not used",
            logging.INFO,
            data=data,
            names=", ".join(sorted(unused)),
        )
    dataset_cfg = data_of_validation(run.cfg, data)
    dataset = run.world.local_rank_0_first(lambda: run.builder.build(dataset_cfg, f"{data}.dataset"))
    if isinstance(dataset, Stream):
        raise ConfigError(
            translate("{data}.dataset: validation data must end; leave out streaming = True", data=data)
        )
    if run.cfg.get("rollouts"):
        return build_reward_validation(run, dataset, data)
    collate_fn = build_collate(run, cfg.pop("collate_fn", None), f"{data}.collate_fn")
    kwargs = build_loader_kwargs(run, {k: v for k, v in cfg.items() if k not in unused})
    reader = (run.world.data_rank, run.world.data_size)
    batches = ValBatches(dataset, kwargs.pop("batch_size", 1), collate_fn, *reader, **kwargs)
    loop_cfg = {"type": ValLoop, **(run.cfg.get(loop) or {})}
    evaluators = build_evaluators(run, f"{loop.removesuffix('_cfg')}_evaluator")
    return run.builder.build(loop_cfg, loop, runner=run, dataloader=batches, evaluators=evaluators)


def build_evaluators(run: Run, name: str) -> list[Any]:
    """The metrics of answers that the config has under `name`: one, a list of them, or none."""
    given = run.cfg.get(name)
    cfgs = [] if given is None else given if isinstance(given, list) else [given]
    if cfgs and run.world.sequence_size > 1:
        what = "{name} needs whole sequences: set sequence_parallel_size = 1, or leave it out"
        raise ConfigError(translate(what, name=name))
    found = [run.builder.build(cfg, f"{name}.{number}") for number, cfg in enumerate(cfgs)]
    for evaluator in found:
        if lacking := [
            m for m in ("process", "compute_metrics") if not callable(getattr(evaluator, m, None))
        ]:
            what = "{name}: {kind} is no metric: it has no method {method}"
            raise ConfigError(translate(what, name=name, kind=type(evaluator).__name__, method=lacking[0]))
    return found


def build_stream_batches(run: Run, cfg: dict[str, Any], dataset: Stream) -> StreamBatches:
    """Batches of data without a known length, from the rest of `train_dataloader`."""
    check_stream_config(run.cfg)
    collate_fn = build_collate(run, cfg.pop("collate_fn", None), "train_dataloader.collate_fn")
    cfg = {k: v for k, v in cfg.items() if k not in ("sampler", "batch_sampler", "drop_last")}
    batch_size, reader = cfg.pop("batch_size", 1), (run.world.data_rank, run.world.data_size)
    kwargs = build_loader_kwargs(run, cfg)
    return StreamBatches(dataset, batch_size, collate_fn, run.seed, *reader, **kwargs)


def build_loader_kwargs(run: Run, cfg: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the loader: the rest of `train_dataloader`."""
    if cfg.get("num_workers"):
        start = ((run.cfg.get("env_cfg") or {}).get("mp_cfg") or {}).get("mp_start_method")
        cfg = {"multiprocessing_context": start, **cfg}
    if cfg.get("persistent_workers"):
        say_once("persistent_workers is not used: workers are started for each epoch", logging.INFO)
    if cfg.get("worker_init_fn"):
        say_once(
            "worker_init_fn: random seeds that it sets are replaced before each batch, so that a resumed "
            "run draws the same numbers",
            logging.INFO,
        )
    kwargs = {k: v for k, v in cfg.items() if k != "persistent_workers"}
    return run.builder.build(kwargs, "train_dataloader")


def build_sampler(run: Run, cfg: Any, dataset: Any) -> Any:
    """The sampler of this process."""
    path, world = "train_dataloader.sampler", run.world
    if cfg is None:
        say_once("{path} is not set: items are shuffled (DefaultSampler)", logging.INFO, path=path)
        cfg = {"type": DefaultSampler, "shuffle": True}
    size = world.data_size
    rank_arguments = {"rank": world.data_rank, "world_size": size, "num_replicas": size}
    taken = inspect.signature(callee_of(cfg, path)).parameters
    late = {name: value for name, value in rank_arguments.items() if name in taken}
    made = run.builder.build({"seed": run.seed, **cfg}, path, dataset=dataset, **late)
    if world.data_size > 1 and not hasattr(made, "rank"):
        raise ConfigError(
            translate(
                "{path} is {kind}, which gives every process all items: use DefaultSampler, or a class "
                "that takes rank and world_size",
                path=path,
                kind=type(made).__name__,
            )
        )
    return made


def connect(run: Run) -> None:
    """Connect the processes, after the data is ready on all machines."""
    asked = (run.cfg.get("env_cfg") or {}).get("dist_cfg") or {}
    run.world.connect(asked.get("backend"), asked.get("timeout") or DEFAULT_TIMEOUT_SECONDS)
    run.world.connect_sequences()
    lengths = run.world.all_gather(len(run.train_dataloader))
    if len(set(lengths)) > 1:
        raise ConfigError(
            translate(
                "train_dataloader.sampler gives the processes {lengths} batches an epoch; all need the "
                "same number: set round_up=True in it",
                lengths=lengths,
            )
        )


def build_collate(run: Run, cfg: Any, path: str) -> Any:
    """The function that collates a batch, from `dict(type=f, **kwargs)`; it gets `kwargs` in every call."""
    if cfg is None:
        return flat_collate_fn
    given = cfg if isinstance(cfg, dict) else {"type": cfg}
    function = run.builder.build(given["type"], path)
    if function is default_collate_fn:
        # Padding would only be removed again, so its arguments have no effect.
        return flat_collate_fn
    kwargs = {k: run.builder.build(v, f"{path}.{k}") for k, v in given.items() if k != "type"}
    return functools.partial(function, **kwargs)


def build_backend(cfg: Config, options: RunOptions, world: World) -> Backend:
    """The backend of the options `fsdp` and `deepspeed`."""
    fsdp = options.fsdp or bool(cfg.get("fsdp"))
    if options.deepspeed is None:
        return make_backend(world, fsdp, autocast_dtype(cfg))
    if fsdp:
        raise ConfigError(translate("fsdp and deepspeed both shard the model: use one of them"))
    from xtuner.engine.zero import ZeroBackend

    return ZeroBackend(world, options.deepspeed, cfg.train_dataloader.get("batch_size", 1))


def autocast_dtype(cfg: Config) -> torch.dtype | None:
    """The dtype of matrix products in forward passes; None if it is that of the weights."""
    wrapper = cfg.optim_wrapper
    named = as_ref(wrapper.get("type"))
    if (named.resolve() if named else wrapper.get("type")) is not AmpOptimWrapper:
        return None
    return compute_dtype(wrapper.get("dtype") or torch.float16, dist.device())


def with_recompute(run: Run) -> Any:
    """`model` of the config; its recomputation is chosen by the estimate unless it is configured."""
    cfg = run.cfg.model
    name = "use_activation_checkpointing"
    if run.forecast is None or as_recompute(cfg.get(name)) is not None:
        return cfg
    takes = inspect.signature(build(cfg["type"])).parameters
    # Free memory differs by process, but sequence-parallel ranks must recompute the same.
    found, kind = run.forecast, run.device.type
    own = found.training.recompute
    if found.training.device != kind:
        # The estimate uses nvidia-smi, which containers may lack.
        training = replace(found.training, device=kind)
        own = choose_recompute(found.shape, training, free_memory(run.device), found.division)
    way = run.world.broadcast_via_store(lambda: own)
    return {**cfg, name: way} if name in takes else cfg


def build_model(run: Run) -> Any:
    """The model on the device of this process, wrapped by the backend."""
    with run.backend.loading():
        cfg = with_recompute(run)
        model = run.builder.build(cfg if run.base is None else {**cfg, "llm": run.base}, "model")
    if model.starts_from is not None:
        path = str(model.starts_from)
        model.start_from(load_checkpoint(path, with_optimizer=False)["state_dict"], path)
    if run.world.sequence_group is not None:
        model.enable_sequence_parallel(run.world.sequence_group)
    if settings := run.cfg.get("compile"):
        compile_layers(model.llm, {} if settings is True else settings)
    check_adapter(run, model)
    check_samples(run, model)
    run.weights_text = describe_weights(model)
    run.reference = take_reference(model, run.world)
    run.backend.wrap(model, run.device)
    return model


def check_adapter(run: Run, model: Any) -> None:
    """Raise ConfigError for an adapter whose weights cannot be divided among processes as asked."""
    kind = adapter_type(model.parts().get("llm"))
    if kind is None or not run.backend.divides:
        return
    if not METHODS[kind].divides:
        what = "model.lora.type: {kind} trains without --fsdp and --deepspeed: leave it out"
        raise ConfigError(translate(what, kind=kind))
    if run.backend.name != "fsdp":
        what = "model.lora.type: {kind} trains without --deepspeed: use --fsdp, or neither"
        raise ConfigError(translate(what, kind=kind))


def build_optim_wrapper(run: Run) -> OptimWrapper:
    """The optimizer of the trainable parameters, in its wrapper."""
    cfg = dict(run.cfg.optim_wrapper)
    trained = [p for p in run.model.parameters() if p.requires_grad]
    if not trained:
        raise ConfigError(
            translate(
                "model has no trainable parameter: add lora=dict(type=LoraConfig, ...) or train the "
                "llm itself"
            )
        )
    optimizer_cfg = dict(cfg.pop("optimizer"))
    named = as_ref(optimizer_cfg.get("type"))
    kind = named.resolve() if named else optimizer_cfg.get("type")
    check_device(optimizer_cfg, kind, run.device)
    check_divides(run, kind)
    optimizer_cfg = with_fastest_kernel(optimizer_cfg, kind, trained)
    lr, decay = optimizer_cfg.get("lr", 1e-3), optimizer_cfg.get("weight_decay", 1e-2)
    params = parameter_groups(run.model, cfg.pop("paramwise_cfg", None), lr, decay)
    if kind is Muon:
        params = by_matrix(run.model, params)
    optimizer = run.builder.build(optimizer_cfg, "optim_wrapper.optimizer", params=params)
    late: dict[str, Any] = {"optimizer": optimizer}
    named = as_ref(cfg.get("type"))
    kind = named.resolve() if named else cfg.get("type")
    if kind is AmpOptimWrapper:
        late["device"] = run.device
    wrapper = run.builder.build({"type": OptimWrapper, **cfg}, "optim_wrapper", **late)
    if not isinstance(wrapper, OptimWrapper):
        name = path_of(named) if named else kind
        raise ConfigError(
            translate("optim_wrapper.type is {name}; use AmpOptimWrapper or OptimWrapper", name=name)
        )
    run.backend.start(wrapper)
    return wrapper


def choose_ranks(run: Run) -> None:
    """Let the adapter choose its ranks after each update, if it is of a type that does."""
    llm = run.model.parts().get("llm")
    if adaptive_ranks.has_ranks(llm):
        updates = math.ceil(run.train_loop.max_iters / run.optim_wrapper.accumulative_counts)
        adaptive_ranks.start(llm, run.optim_wrapper.optimizer, updates)


def check_divides(run: Run, kind: Any) -> None:
    """Raise ConfigError for an optimizer that does not work on weights as processes divide them."""
    package = getattr(kind, "__module__", "").partition(".")[0]
    if run.backend.divides and kind is Muon:
        what = (
            "optim_wrapper.optimizer is {name}, which needs whole weights: train without --fsdp and "
            "--deepspeed"
        )
        raise ConfigError(translate(what, name=kind.__name__))
    if run.backend.divides and package == "schedulefree" and run.backend.name != "fsdp":
        what = (
            "optim_wrapper.optimizer is {name}, which was not tried with --deepspeed: use --fsdp, or neither"
        )
        raise ConfigError(translate(what, name=kind.__name__))
    if package == "schedulefree" and run.cfg.get("param_scheduler"):
        say_once(
            "param_scheduler beside {name}, which needs none: set param_scheduler = [] and warmup_steps in "
            "the optimizer",
            name=kind.__name__,
        )


def build_loop(run: Run) -> Any:
    """The training loop, from `train_cfg`."""
    cfg = {"type": TrainLoop, **run.cfg.train_cfg}
    return run.builder.build(cfg, "train_cfg", runner=run, dataloader=run.train_dataloader)


def build_schedules(run: Run) -> list[schedule.Schedule]:
    """The schedules of `param_scheduler`, in iterations."""
    cfg = run.cfg.get("param_scheduler") or []
    cfgs = cfg if isinstance(cfg, list) else [cfg]
    made = run.builder.build(cfgs, "param_scheduler")
    schedule.check(made)
    return [s.in_iters(run.train_loop.epoch_length) for s in made]


def build_visualizer(run: Run) -> Visualizer:
    """The visualizer, which writes scalars."""
    visualizer = run.builder.build({"type": Visualizer, **(run.cfg.get("visualizer") or {})}, "visualizer")
    if missing := [n for n in ("open", "add_scalars", "add_text", "close") if not hasattr(visualizer, n)]:
        raise ConfigError(
            translate(
                "visualizer is a {kind}, which has no {name}(): use Visualizer, and put your own "
                "backend in its vis_backends",
                kind=type(visualizer).__name__,
                name=missing[0],
            )
        )
    return visualizer


def build_hooks(run: Run) -> list[Any]:
    """Default hooks, replaced by those of the config, custom hooks and the recorder, in order of priority."""
    cfgs: dict[str, Any] = {name: {"type": kind} for name, kind in DEFAULT_HOOKS.items()}
    cfgs |= run.cfg.get("default_hooks") or {}
    named = [(f"default_hooks.{k}", v) for k, v in cfgs.items() if v is not None]
    named += [(f"custom_hooks.{i}", v) for i, v in enumerate(run.cfg.get("custom_hooks") or [])]
    hooks: list[tuple[Any, Any]] = [(ReplayHook(run.cfg.get("replay_updates", REPLAY_UPDATES)), None)]
    hooks += [(RolloutsHook(), None)] if run.cfg.get("rollouts") else []
    for path, cfg in named:
        priority = cfg.get("priority") if isinstance(cfg, dict) else None
        if isinstance(cfg, dict):
            cfg = {k: v for k, v in cfg.items() if k != "priority"}
        hooks.append((run.builder.build(cfg, path), priority))
    return sort_hooks(hooks)
