"""The top-level names of a config that the program reads, the keys of their dicts, and rules for values.

    RUN_KEYS   the names      VALUES   rules for single values      CLASHES   values that exclude each other

A name in no table is a variable of the user, unless nothing uses it and it is similar to one of them. A dict
with a `type` is checked against the signature of that type, see `names.py`.
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from xtuner.errors import ConfigError, did_you_mean
from xtuner.language import translate


class Fault(NamedTuple):
    """A fault of a config: its path, and a sentence with the value and the cure.

    `is_later`: the config is valid, but this version does not have the feature.
    """

    path: str
    message: str
    is_later: bool = False


# name -> its meaning
RUN_KEYS: dict[str, str] = {
    "model": "the model to train",
    "tokenizer": "the tokenizer, for hooks and conversion",
    "work_dir": "folder of the run",
    "train_dataloader": "data and its order",
    "train_cfg": "how long to train",
    "val_dataloader": "data of validation: held_out, a fraction of the training rows, or a dataset",
    "val_cfg": "the loop of validation",
    "val_evaluator": "metrics of answers that validation measures instead of the loss",
    "test_dataloader": "data of xtuner test, instead of val_dataloader",
    "test_cfg": "the loop of xtuner test",
    "test_evaluator": "metrics of answers that xtuner test measures instead of the loss",
    "rollouts": "how answers are sampled and rewarded, for a model that learns from rewards",
    "optim_wrapper": "optimiser, precision, clipping, accumulation",
    "param_scheduler": "learning rate over time",
    "default_hooks": "timer, logger, param_scheduler, checkpoint, sampler_seed",
    "custom_hooks": "further hooks",
    "bot_name": "name of the model in answers sampled during training",
    "load_from": "checkpoint with the initial weights of the run",
    "resume": "resume from load_from or the newest checkpoint",
    "resume_on_other_data": "resume from a checkpoint even if the data has changed",
    "launcher": "none, pytorch, slurm or mpi",
    "sequence_parallel_size": "number of processes that hold a part each of one sequence",
    "fsdp": "divide weights, gradients and optimiser state among the processes",
    "compile": "let torch compile the layers: True, or a dict of torch.compile's settings",
    "deepspeed": "train by ZeRO: a built-in name or a JSON file",
    "env_cfg": "process settings",
    "log_processor": "window and unit of log lines",
    "log_level": "the lowest level that is logged",
    "visualizer": "writers of scalars",
    "randomness": "seed and determinism",
    "replay_updates": "number of first updates that xtuner replay can run again, 0 for none",
    "max_nonfinite_updates": "stop after so many consecutive skipped updates: not finite, or a loss above "
    "train_cfg.spike_ratio",
    "framework": "mmengine, or huggingface: the Trainer of transformers trains",
}
# The names that are read only with framework = 'huggingface', and those of RUN_KEYS that are read then too.
TRAINER_KEYS: dict[str, str] = {
    "training_args": "TrainingArguments of transformers",
    "train_dataset": "data of the Trainer",
    "lora": "the adapter of `model`, which is a language model",
    "trainer": "the class of the Trainer",
}
_READ_BY_TRAINER = {
    "deepspeed",
    "framework",
    "launcher",
    "log_level",
    "model",
    "resume",
    "tokenizer",
    "work_dir",
}

_LOADER = (
    "dataset sampler batch_sampler collate_fn batch_size num_workers persistent_workers pin_memory "
    "drop_last prefetch_factor timeout worker_init_fn multiprocessing_context"
)
KEYS: dict[str, str] = {
    "train_dataloader": _LOADER,
    "val_dataloader": f"held_out {_LOADER}",
    "test_dataloader": _LOADER,
    "env_cfg": "cudnn_benchmark mp_cfg dist_cfg resource_limit",
    "env_cfg.mp_cfg": "mp_start_method opencv_num_threads omp_num_threads mkl_num_threads",
    "env_cfg.dist_cfg": "backend timeout",
    "randomness": "seed deterministic diff_rank_seed",
    "log_processor": "by_epoch window_size mean_pattern num_digits custom_cfg log_with_hierarchy",
    "optim_wrapper.clip_grad": "max_norm norm_type error_if_nonfinite",
    "optim_wrapper.paramwise_cfg": "custom_keys norm_decay_mult bias_decay_mult",
    "train_cfg": "by_epoch max_epochs max_iters val_interval val_begin spike_ratio",
    "default_hooks": "runtime_info timer logger param_scheduler validation checkpoint sampler_seed",
}
_DTYPES = ("float16", "bfloat16", "float32")
_LAUNCHERS = ("none", "pytorch", "slurm", "mpi")
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# What `replay_updates` is where a config does not say.
REPLAY_UPDATES = 3
REQUIRED = ("model", "train_dataloader", "optim_wrapper", "train_cfg")
REQUIRED_BY_TRAINER = ("model", "train_dataset", "training_args")
# The parts of a config that are built: every name in these must exist.
BUILT = (
    "train_dataloader",
    "model",
    "rollouts",
    "optim_wrapper",
    "param_scheduler",
    "train_cfg",
    "val_dataloader",
    "val_cfg",
    "val_evaluator",
    "test_dataloader",
    "test_cfg",
    "test_evaluator",
    "visualizer",
    "default_hooks",
    "custom_hooks",
)
_BUILT_BY_TRAINER = ("train_dataset", "model", "lora", "training_args", "trainer", "tokenizer")
# Keys in them that are not arguments of their types.
RUNS_OWN = ("priority", "paramwise_cfg")
# The similarity to a known name from which an unused name is a typing error.
_SIMILAR = 0.85


def passed_on(value: Any) -> Any:
    """A part of the config without the keys of RUNS_OWN, which are not arguments of its types."""
    if isinstance(value, list):
        return [passed_on(item) for item in value]
    if isinstance(value, Mapping):
        return {k: passed_on(v) for k, v in value.items() if k not in RUNS_OWN}
    return value


class Value(NamedTuple):
    """The rule of the value at `path`, as text and as function; an absent value is always valid."""

    path: str
    must_be: str
    holds: Callable[[Any], bool]
    may_be_none: bool = True


class Clash(NamedTuple):
    """Values that exclude each other: path, condition, and a sentence that may refer to values as `{a.b}`."""

    path: str
    when: Callable[[Callable[[str], Any]], bool]
    message: str


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(path: str, least: int, *, may_be_none: bool = True) -> Value:
    return Value(
        path,
        f"a whole number of at least {least}",
        lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least,
        may_be_none,
    )


def _above_zero(path: str) -> Value:
    return Value(path, "a number above 0", lambda v: _is_number(v) and v > 0)


def _between(path: str, least: float, most: float) -> Value:
    return Value(
        path,
        f"a number of at least {least}{'' if math.isinf(most) else f' and at most {most}'}",
        lambda v: _is_number(v) and least <= v <= most,
    )


def _text(path: str) -> Value:
    return Value(path, "a path as text", lambda v: isinstance(v, str) and v != "")


VALUES = (
    *(Value(key, "a dict", lambda v: isinstance(v, Mapping)) for key in REQUIRED),
    Value("framework", "one of mmengine, huggingface", lambda v: v in ("mmengine", "huggingface")),
    _whole("train_dataloader.batch_size", 1, may_be_none=False),
    _whole("train_dataloader.num_workers", 0, may_be_none=False),
    _whole("val_dataloader.batch_size", 1, may_be_none=False),
    _whole("optim_wrapper.accumulative_counts", 1, may_be_none=False),
    _whole("default_hooks.logger.interval", 1, may_be_none=False),
    Value("default_hooks.checkpoint.sharded", "True or False", lambda v: isinstance(v, bool)),
    Value("default_hooks.checkpoint.save_async", "True or False", lambda v: isinstance(v, bool)),
    _whole("log_processor.window_size", 1),
    _whole("randomness.seed", 0),
    _whole("max_nonfinite_updates", 1),
    _whole("replay_updates", 0, may_be_none=False),
    _whole("train_cfg.max_iters", 1),
    _above_zero("train_cfg.max_epochs"),
    _between("model.beta", 0, math.inf),
    _whole("train_cfg.val_interval", 1),
    Value("train_cfg.spike_ratio", "a number above 1", lambda v: _is_number(v) and v > 1),
    Value("val_dataloader.held_out", "a number above 0 and below 1", lambda v: _is_number(v) and 0 < v < 1),
    _between("optim_wrapper.optimizer.lr", 0, math.inf),
    _above_zero("optim_wrapper.clip_grad.max_norm"),
    _whole("model.lora.r", 1),
    _between("model.lora.lora_dropout", 0, 1),
    _whole("sequence_parallel_size", 1),
    Value("fsdp", "True or False", lambda v: isinstance(v, bool)),
    Value("compile", "True, False or a dict", lambda v: isinstance(v, (bool, dict))),
    Value("resume_on_other_data", "True or False", lambda v: isinstance(v, bool)),
    Value("deepspeed", "the name of built-in settings or a JSON file", lambda v: isinstance(v, str)),
    Value("launcher", f"one of {', '.join(_LAUNCHERS)}", lambda v: v in _LAUNCHERS),
    _text("work_dir"),
    _text("load_from"),
    Value(
        "optim_wrapper.dtype",
        f"one of {', '.join(_DTYPES)}",
        lambda v: str(v).removeprefix("torch.") in _DTYPES,
    ),
    *(
        Value(name, "a dict, or a list of dicts", lambda v: isinstance(v, (Mapping, list)))
        for name in ("val_evaluator", "test_evaluator")
    ),
    Value("rollouts", "a dict", lambda v: isinstance(v, Mapping)),
    _whole("rollouts.count", 2, may_be_none=False),
    _whole("rollouts.max_new_tokens", 1, may_be_none=False),
    _whole("rollouts.iterations", 1, may_be_none=False),
    _above_zero("rollouts.temperature"),
    Value("custom_hooks", "a list of dicts", lambda v: isinstance(v, list)),
    Value("log_level", f"one of {', '.join(_LOG_LEVELS)}", lambda v: v in _LOG_LEVELS),
)

_ABSENT = object()
_BITS = ("load_in_4bit", "load_in_8bit")
_QUANTIZATION = "model.llm.quantization_config"


def _is_quantized(get: Callable[[str], Any]) -> bool:
    return any(get(f"{_QUANTIZATION}.{name}") for name in _BITS)


CLASHES = (
    Clash(
        "train_cfg",
        lambda get: (
            get("train_cfg") is not None
            and (get("train_cfg.max_epochs") is None) == (get("train_cfg.max_iters") is None)
        ),
        "train_cfg needs either max_epochs or max_iters; it has max_epochs={train_cfg.max_epochs}, "
        "max_iters={train_cfg.max_iters}",
    ),
    Clash(
        "model.beta",
        lambda get: get("model.beta") == 0 and "GRPO" not in str(get("model.type")),
        "model.beta is {model.beta}; it must be a number above 0",
    ),
    Clash(
        "val_dataloader",
        lambda get: (
            get("val_dataloader") is not None
            and (get("val_dataloader.held_out") is None) == (get("val_dataloader.dataset") is None)
        ),
        "val_dataloader needs either held_out (a fraction of the training rows) or a dataset",
    ),
    Clash(
        _QUANTIZATION,
        # Other models may keep the language model frozen.
        lambda get: (
            _is_quantized(get)
            and "SupervisedFinetune" in str(get("model.type"))
            and not any(get(f"model.{k}") for k in ("lora", "peft_model"))
        ),
        "model.llm.quantization_config without model.lora: quantised weights cannot be trained; add "
        "lora=dict(type=LoraConfig, ...) or remove quantization_config",
    ),
    Clash(
        _QUANTIZATION,
        lambda get: all(get(f"{_QUANTIZATION}.{name}") for name in _BITS),
        "model.llm.quantization_config has both load_in_4bit and load_in_8bit; set one of them to False",
    ),
)


# The names in `model` of what is put on its language model.
ADAPTERS = ("lora", "llm_lora", "peft_model")


def trains_all(model: Mapping[str, Any]) -> bool:
    """Whether a config's `model` trains the language model itself: without an adapter, and not frozen."""
    return not model.get("freeze_llm") and not any(model.get(name) for name in ADAPTERS)


def by_trainer(config: Mapping[str, Any]) -> bool:
    """Whether the Trainer of transformers trains, instead of the engine."""
    return config.get("framework") == "huggingface"


def built_parts(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the parts of `config` that are built."""
    return _BUILT_BY_TRAINER if by_trainer(config) else BUILT


def data_parts(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the parts of `config` that hold data, that of training first."""
    loaders = ("train_dataloader", "val_dataloader", "test_dataloader")
    return ("train_dataset",) if by_trainer(config) else loaders


def check(config: Mapping[str, Any]) -> None:
    """ConfigError with all faults of `config`."""
    if faults := find_faults(config):
        raise ConfigError(*[fault.message for fault in faults])


def find_faults(config: Mapping[str, Any]) -> list[Fault]:
    """All faults of `config`, by the tables of this module."""
    faults = _missing(config)
    for path, allowed in KEYS.items():
        faults += _wrong_keys(config, path, allowed.split())
    for path, must_be, holds, may_be_none in VALUES:
        value = _at(config, path, _ABSENT)
        if value is not _ABSENT and not (holds(value) or (value is None and may_be_none)):
            faults.append(Fault(path, wrong_value(path, value, must_be)))
    faults += _clashes(config, {fault.path for fault in faults})
    return faults + _of_trainer(config) + _empty_schedules(config) + _misspelt(config)


def wrong_value(path: str, value: Any, must_be: str) -> str:
    """The message that the value at `path` is not as it must be."""
    _, is_choice, names = must_be.partition("one of ")
    if is_choice:
        return translate("{path} is {value!r}; use one of {names}", path=path, value=value, names=names)
    return translate(
        "{path} is {value!r}; it must be {what}", path=path, value=value, what=translate(must_be)
    )


def is_of_value(fault: Fault) -> bool:
    """Whether the fault is a wrong value at its path."""
    return fault.message.startswith(translate("{path} is ", path=fault.path))


def _missing(config: Mapping[str, Any]) -> list[Fault]:
    required = REQUIRED_BY_TRAINER if by_trainer(config) else REQUIRED
    return [
        Fault(
            key,
            translate(
                "the config has no {key}.{hint}", key=key, hint=did_you_mean(key, config.keys() - {key})
            ),
        )
        for key in required
        if config.get(key) is None
    ]


def _of_trainer(config: Mapping[str, Any]) -> list[Fault]:
    """Faults of a config for the Trainer: parts that are not dicts, and names that only the engine reads."""
    if not by_trainer(config):
        return []
    found = [
        Fault(key, wrong_value(key, config[key], "a dict"))
        for key in ("train_dataset", "training_args", "lora")  # VALUES has `model`
        if config.get(key) is not None and not isinstance(config[key], Mapping)
    ]
    for key in RUN_KEYS:
        # One process for a sequence is what the Trainer has.
        if key in _READ_BY_TRAINER or (key, config.get(key)) == ("sequence_parallel_size", 1):
            continue
        if config.get(key):
            message = translate(
                "framework = 'huggingface' does not read {key}: use training_args instead, or leave "
                "framework out",
                key=key,
            )
            found.append(Fault(key, message))
    return found


def _clashes(config: Mapping[str, Any], wrong: set[str]) -> list[Fault]:
    """The violated rules of CLASHES, without those of values that are wrong already."""
    found = []
    for path, when, message in CLASHES:
        if path in wrong or any(other.startswith(f"{path}.") for other in wrong):
            continue
        if when(lambda key: _at(config, key)):
            found.append(Fault(path, _filled(translate(message), config)))
    return found


def _filled(message: str, config: Mapping[str, Any]) -> str:
    pieces = message.split("{")
    text = pieces[0]
    for piece in pieces[1:]:
        key, _, rest = piece.partition("}")
        text += f"{_at(config, key)}{rest}"
    return text


def _at(config: Mapping[str, Any], path: str, absent: Any = None) -> Any:
    """The value at the dotted `path`, or `absent` if there is none."""
    value: Any = config
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return absent
        value = value[part]
    return value


def _wrong_keys(config: Mapping[str, Any], path: str, allowed: list[str]) -> list[Fault]:
    value = _at(config, path)
    if value is None or (isinstance(value, Mapping) and "type" in value):
        return []
    if not isinstance(value, Mapping):
        return [] if path in REQUIRED else [Fault(path, wrong_value(path, value, "a dict"))]
    found = []
    for key, inner in value.items():
        # The key of a hook may be any name.
        is_free = path == "default_hooks" and isinstance(inner, Mapping) and "type" in inner
        if key not in allowed and not is_free:
            hint = did_you_mean(key, allowed)
            found.append(
                Fault(
                    f"{path}.{key}",
                    translate("{path} has no key {key!r}.{hint}", path=path, key=key, hint=hint),
                )
            )
    return found


def _empty_schedules(config: Mapping[str, Any]) -> list[Fault]:
    """Faults of learning rate schedules that end before they begin."""
    schedules = config.get("param_scheduler")
    found = []
    for number, schedule in enumerate(schedules if isinstance(schedules, list) else []):
        begin, end = _at({"of": schedule}, "of.begin"), _at({"of": schedule}, "of.end")
        if _is_number(begin) and _is_number(end) and begin > end:
            path = f"param_scheduler.{number}"
            found.append(
                Fault(
                    path,
                    translate(
                        "{path} begins at {begin} and ends at {end}; it must end later",
                        path=path,
                        begin=begin,
                        end=end,
                    ),
                )
            )
    return found


def _misspelt(config: Mapping[str, Any]) -> list[Fault]:
    """Faults of names that the file assigns but does not use, and that are similar to a known name."""
    text = getattr(config, "text", None)
    if not isinstance(text, str):
        return []
    tree = ast.parse(text)
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    found = []
    known = RUN_KEYS | TRAINER_KEYS if by_trainer(config) else RUN_KEYS
    for name in config.keys() - used - known.keys():
        near = difflib.get_close_matches(name, [k for k in known if k not in config], n=1, cutoff=_SIMILAR)
        if near:
            message = translate(
                "{name}: nothing reads this name. Did you mean {near!r}? If it is your own, remove it or use "
                "it",
                name=name,
                near=near[0],
            )
            found.append(Fault(name, message))
    return sorted(found)
