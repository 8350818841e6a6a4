"""Training by the Trainer of transformers: configs with `framework = 'huggingface'`.

    model, lora       the language model, loaded, fused and isolated as for the engine
    train_dataset     packs, as flat batches
    training_args     length, precision, optimiser, schedule, saving
    trainer           Trainer or a subclass: loop and checkpoints are its own, the loss is the engine's

work_dir/checkpoint-300/    adapter or model, optimiser, schedule, random states
work_dir/                   adapter or model of the end
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from xtuner import dist
from xtuner.config import Builder, Config, build, check_names
from xtuner.config.build import callee_of
from xtuner.config.schema import built_parts
from xtuner.dataset.collate_fns import flat_collate_fn
from xtuner.dataset.items.streamed import Stream
from xtuner.engine.build import check_folders, free_timestamp
from xtuner.engine.environment import describe_environment, describe_weights
from xtuner.engine.hooks.logger import describe_values
from xtuner.engine.memory import peak_bytes
from xtuner.engine.randomness import set_seed
from xtuner.engine.run import RunOptions
from xtuner.errors import CheckpointError, ConfigError, NotFoundError
from xtuner.language import translate
from xtuner.locks import writing
from xtuner.log import logger, say_once, start_file, stop_file
from xtuner.model.loading import compute_dtype, register_families
from xtuner.model.sft import SupervisedFinetune
from xtuner.model.train_module import TrainModule
from xtuner.parallel.world import World, connect_alone, make_world
from xtuner.utils import IGNORE_INDEX

# Arguments of the Trainer that would replace parts of the model or its loss.
_REPLACED = ("label_smoothing_factor", "use_liger_kernel")
# Layers are recomputed as the model of the engine does it; transformers has two names.
_RECOMPUTE = ("gradient_checkpointing", "activation_checkpointing")
_RECOMPUTE_SETTINGS = ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")
_STATE = "trainer_state.json"


class WrappedFinetune(SupervisedFinetune):
    """The engine's loss, by calls of the model as the Trainer wraps it."""

    # A function: a module that is an attribute would be a part of this one.
    called: Callable[[], nn.Module | None] = staticmethod(lambda: None)

    def run(self, p: Any, model: Any = None, columns: Any = None) -> Any:
        return super().run(p, model or self.called(), columns)

    def head_apart(self) -> None:
        """None: the decoder alone would bypass the wrapper, which adds up gradients."""


def train_by_trainer(cfg: Config, options: RunOptions, world: World | None = None) -> Trainer:
    """Train as `cfg` and `options` say; returns the Trainer at its end."""
    for name in built_parts(cfg):
        check_names(cfg.get(name), name)
    check_folders(cfg)
    if options.fsdp:
        raise ConfigError(translate("--fsdp: with framework = 'huggingface' set training_args.fsdp"))
    world = world or make_world()
    training = cfg["training_args"]
    work_dir = work_dir_of(cfg, options)
    with contextlib.ExitStack() as held:
        if world.is_first:
            held.enter_context(writing(work_dir, translate("the work dir"), folder=True))
            held.enter_context(_log_file(cfg, work_dir))
        asked = options.resume or cfg.get("resume") or training.get("resume_from_checkpoint") or False
        source = _find_source(asked, work_dir)
        trainer = build_trainer(cfg, options, world, work_dir)
        assert trainer.model is not None
        logger.info(translate("Checkpoints will be saved to %s."), work_dir)
        logger.info("%s", describe_environment(trainer.args.device))
        logger.info("%s", describe_weights(trainer.model))
        if source:
            logger.info(translate("Resuming from %s"), source)
        trainer.train(resume_from_checkpoint=source)
        trainer.save_state()
        trainer.save_model()
        if world.is_first:
            logger.info("%s", _next_step(cfg, work_dir))
    world.close()
    return trainer


def work_dir_of(cfg: Config, options: RunOptions) -> Path:
    """The work dir of the command line, of the config, of its Trainer, or one by the name of the config."""
    named = options.work_dir or cfg.get("work_dir") or cfg["training_args"].get("output_dir")
    return Path(named or Path("work_dirs") / Path(cfg.filename).stem)


def build_trainer(cfg: Config, options: RunOptions, world: World, work_dir: Path) -> Trainer:
    """The Trainer of `cfg`, with its data and model."""
    builder = Builder()
    kind = _trainer_class(cfg)
    register_families()
    dataset = world.local_rank_0_first(lambda: builder.build(cfg["train_dataset"], "train_dataset"))
    if isinstance(dataset, Stream):
        raise ConfigError(
            translate("train_dataset: the Trainer needs to know its length; leave out streaming = True")
        )
    world.connect()
    args = _training_args(cfg, options, work_dir, builder)
    set_seed(args.seed, args.full_determinism)
    model = _model(cfg, args)
    tokenizer = cfg.get("tokenizer")
    trainer = _with_our_loss(kind, model)(
        model=model.llm,
        args=args,
        train_dataset=dataset,
        data_collator=collate,
        processing_class=None if tokenizer is None else builder.build(tokenizer, "tokenizer"),
        callbacks=[LogCallback()],
    )
    # Our loss is the sum over a batch divided by the items of the update, whatever the model accepts.
    trainer.model_accepts_loss_kwargs = True
    for printer in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(printer)
    return trainer


def collate(instances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A flat batch whose labels are the supervised tokens that are predicted, which the Trainer counts."""
    data = flat_collate_fn(instances)["data"]
    data["labels"][0, data["boundaries"][:-1]] = IGNORE_INDEX
    return data


def _trainer_class(cfg: Config) -> type[Trainer]:
    kind = build(cfg.get("trainer") or Trainer, "trainer")
    if not (isinstance(kind, type) and issubclass(kind, Trainer)):
        raise ConfigError(
            translate("trainer is {kind!r}; it must be Trainer of transformers or a subclass", kind=kind)
        )
    if kind.compute_loss is not Trainer.compute_loss:
        raise ConfigError(
            translate(
                "trainer is {kind}, whose compute_loss would be replaced by the loss of packed samples: "
                "remove it",
                kind=kind.__name__,
            )
        )
    return kind


def _with_our_loss(kind: type[Trainer], module: WrappedFinetune) -> type[Trainer]:
    def compute_loss(
        self: Trainer, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        def outputs(num_items_in_batch: torch.Tensor | None = None, **data: Any) -> Any:
            return module(data, num_items=num_items_in_batch)

        module.called = lambda: model
        # The Trainer calls the model, and scales its loss for the mean of gradients over processes.
        return Trainer.compute_loss(self, outputs, inputs, *args, **kwargs)  # type: ignore[arg-type]

    return type(kind.__name__, (kind,), {"compute_loss": compute_loss})


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    if arguments.get("remove_unused_columns"):
        say_once("training_args.remove_unused_columns is not used: samples of a pack need their boundaries")
    for name in _RECOMPUTE_SETTINGS:
        if arguments.get(name):
            say_once("training_args.{name} is not used: layers are recomputed by XTuner itself", name=name)
    for name in _REPLACED:
        if arguments.get(name):
            raise ConfigError(
                translate(
                    "training_args.{name} would replace the loss of packed samples: remove it", name=name
                )
            )
    if arguments.get("eval_strategy") not in (None, "no"):
        raise ConfigError(
            translate("training_args.eval_strategy: the Trainer gets no data for validation; remove it")
        )


def _training_args(cfg: Config, options: RunOptions, work_dir: Path, builder: Builder) -> TrainingArguments:
    unused = (*_RECOMPUTE, *_RECOMPUTE_SETTINGS)
    arguments = {key: value for key, value in cfg["training_args"].items() if key not in unused}
    _check_arguments(cfg["training_args"])
    arguments |= {"output_dir": str(work_dir), "remove_unused_columns": False, "disable_tqdm": True}
    arguments |= {} if options.seed is None else {"seed": options.seed}
    arguments |= {} if options.deepspeed is None else {"deepspeed": dict(options.deepspeed)}
    device = dist.device()
    if device.type == "cpu":
        arguments["use_cpu"] = True
    for name, wanted in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        if arguments.get(name):
            found = compute_dtype(wanted, device)
            arguments |= {"fp16": found == torch.float16, "bf16": found == torch.bfloat16}
            break
    args = builder.build(arguments, "training_args")
    zero = getattr(args, "hf_deepspeed_config", None)
    if zero is not None and zero.is_zero3():
        raise ConfigError(
            translate("framework = 'huggingface' does not train by ZeRO-3: use zero2, or leave framework out")
        )
    if zero is not None:
        connect_alone()
    if args.fsdp and device.type == "cpu":
        raise ConfigError(translate("accelerate ignores training_args.fsdp on a CPU: leave it out"))
    # A single process trains on one device: DataParallel would split the flat batch.
    args._n_gpu = min(args.n_gpu, 1)
    return args


def _model(cfg: Config, args: TrainingArguments) -> WrappedFinetune:
    given = dict(cfg["model"])
    kind = callee_of(given, "model")
    if kind is SupervisedFinetune:
        kwargs = {key: value for key, value in given.items() if key != "type"}
        kwargs = {
            key: value if key == "llm" else build(value, f"model.{key}") for key, value in kwargs.items()
        }
    elif isinstance(kind, type) and issubclass(kind, TrainModule):
        raise ConfigError(
            translate(
                "model is {kind}, which the Trainer cannot train: leave framework out", kind=kind.__name__
            )
        )
    else:
        kwargs = {"llm": given}
    if cfg.get("lora") is not None:
        kwargs["lora"] = build(cfg.get("lora"), "lora")
    switches = [cfg["training_args"].get(name) for name in _RECOMPUTE]
    if any(value is not None for value in switches):
        kwargs["use_activation_checkpointing"] = any(switches)
    model = WrappedFinetune(**kwargs)
    if args.deepspeed or args.fsdp:
        model.use_plain_layers()
    return model


class LogCallback(TrainerCallback):
    """Logs what the Trainer reports, in the form of the engine's log lines."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = self._logged_at = time.perf_counter()
        self._first = self._logged = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in logs:
            return
        now, done, end = time.perf_counter(), state.global_step, state.max_steps
        values = {"lr": logs["learning_rate"], "time": (now - self._logged_at) / max(1, done - self._logged)}
        values |= {name: logs[name] for name in ("loss", "grad_norm") if name in logs}
        left = (now - self._started) / max(1, done - self._first) * (end - done)
        self._logged_at, self._logged = now, done
        words = describe_values(values, left, peak_bytes(args.device) // 2**20)
        tag = f"Iter(train) [{done:>{len(str(end))}}/{end}]"
        logger.info("%s  %s", tag, words)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logger.info(translate("Saving checkpoint at %d iterations"), state.global_step)


def _find_source(asked: str | bool, work_dir: Path) -> str | None:
    """The folder of the checkpoint to resume from, or None for a new run."""
    if not asked:
        return None
    if isinstance(asked, str):
        if not (Path(asked) / _STATE).is_file():
            raise CheckpointError(
                translate("{path} is no checkpoint of the Trainer: it has no {file}", path=asked, file=_STATE)
            )
        return asked
    # The Trainer writes its state last: a folder without it was interrupted.
    found = {int(path.name.rpartition("-")[2]): path for path in work_dir.glob("checkpoint-[0-9]*")}
    whole = [number for number, path in found.items() if (path / _STATE).is_file()]
    if not whole:
        raise NotFoundError(
            translate(
                "there is no checkpoint in {work_dir!r} to resume from; train without --resume",
                work_dir=str(work_dir),
            )
        )
    return str(found[max(whole)])


@contextlib.contextmanager
def _log_file(cfg: Config, work_dir: Path) -> Iterator[None]:
    """A log file, and a copy of the config, in the work dir."""
    timestamp = free_timestamp(work_dir)
    handler = start_file(work_dir / timestamp / f"{timestamp}.log")
    (work_dir / Path(cfg.filename).name).write_text(cfg.text, encoding="utf-8")
    try:
        yield
    finally:
        stop_file(handler)


def _next_step(cfg: Config, work_dir: Path) -> str:
    llm = cfg["model"].get("llm") or cfg["model"]
    base = llm.get("pretrained_model_name_or_path")
    is_adapter = (work_dir / "adapter_config.json").is_file()
    words = [base, "--adapter", str(work_dir)] if is_adapter else [str(work_dir)]
    return translate("Done. Next:\n  {convert}", convert=shlex.join(["xtuner", "chat", *map(str, words)]))
