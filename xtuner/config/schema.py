"""Which top-level names of a config the program reads, and which keys their dicts may have.

A name that stands in no table here is the user's own variable. A dict with a `type` is checked when it
is built, against the signature of what it names.
"""

from __future__ import annotations

from typing import Any

from xtuner.errors import ConfigError, did_you_mean

# name -> what reads it
RUN_KEYS: dict[str, str] = {
    "model": "the model to train",
    "tokenizer": "the tokenizer, for hooks and conversion",
    "work_dir": "folder of the run",
    "train_dataloader": "data and its order",
    "train_cfg": "how long to train",
    "optim_wrapper": "optimiser, precision, clipping, accumulation",
    "param_scheduler": "learning rate over time",
    "default_hooks": "timer, logger, param_scheduler, checkpoint, sampler_seed",
    "custom_hooks": "further hooks",
    "load_from": "checkpoint whose weights the run starts from",
    "resume": "go on from load_from or the newest checkpoint",
    "launcher": "none, pytorch, slurm or mpi",
    "env_cfg": "process settings",
    "log_processor": "window and unit of log lines",
    "log_level": "how much is logged",
    "visualizer": "where scalars go",
    "randomness": "seed and determinism",
    "max_nonfinite_updates": "stop after so many updates in a row with a loss or gradient that is not finite",
}

# Names that configs of the original carry and this version has no reader for.
NOT_YET: dict[str, str] = {
    "val_dataloader": "validation",
    "val_evaluator": "validation",
    "test_dataloader": "evaluation during training",
    "test_evaluator": "evaluation during training",
}

_LOADER = (
    "dataset sampler batch_sampler collate_fn batch_size num_workers persistent_workers pin_memory "
    "drop_last prefetch_factor timeout worker_init_fn multiprocessing_context"
)
_KEYS: dict[str, str] = {
    "train_dataloader": _LOADER,
    "env_cfg": "cudnn_benchmark mp_cfg dist_cfg resource_limit",
    "env_cfg.mp_cfg": "mp_start_method opencv_num_threads omp_num_threads mkl_num_threads",
    "env_cfg.dist_cfg": "backend timeout",
    "randomness": "seed deterministic diff_rank_seed",
    "log_processor": "by_epoch window_size mean_pattern num_digits custom_cfg log_with_hierarchy",
    "train_cfg": "by_epoch max_epochs max_iters val_interval val_begin",
    "default_hooks": "runtime_info timer logger param_scheduler checkpoint sampler_seed",
}
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
REQUIRED = ("model", "train_dataloader", "optim_wrapper", "train_cfg")


def check(config: dict[str, Any]) -> None:
    """ConfigError for the first thing in `config` that cannot be meant."""
    for key in REQUIRED:
        if config.get(key) is None:
            raise ConfigError(f"the config has no {key}.{did_you_mean(key, config.keys() - {key})}")
    for key, feature in NOT_YET.items():
        if config.get(key) is not None:
            raise ConfigError(
                f"{key}: {feature} is not available in this version; remove {key} from the config"
            )
    for path, allowed in _KEYS.items():
        _check_keys(config, path, allowed.split())
    _check_rules(config)


def _check_keys(config: dict[str, Any], path: str, allowed: list[str]) -> None:
    value: Any = config
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None or (isinstance(value, dict) and "type" in value):
        return
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is {value!r}; it must be a dict")
    for key in value:
        # A hook may stand under a name of the user's choice.
        free = path == "default_hooks" and isinstance(value[key], dict) and "type" in value[key]
        if key not in allowed and not free:
            raise ConfigError(f"{path} has no key {key!r}.{did_you_mean(key, allowed)}")


def _check_rules(config: dict[str, Any]) -> None:
    for key in REQUIRED:
        if not isinstance(config[key], dict):
            raise ConfigError(f"{key} is {config[key]!r}; it must be a dict")
    loader, loop = config["train_dataloader"], config["train_cfg"]
    _check_number(loader, "train_dataloader.batch_size", int, least=1)
    _check_number(loader, "train_dataloader.num_workers", int, least=0)
    _check_number(config.get("randomness") or {}, "randomness.seed", int, least=0)
    _check_number(config, "max_nonfinite_updates", int, least=1)
    _check_number(loop, "train_cfg.max_iters", int, least=1)
    _check_number(loop, "train_cfg.max_epochs", (int, float), above=0)
    epochs, iters = loop.get("max_epochs"), loop.get("max_iters")
    if (epochs is None) == (iters is None):
        raise ConfigError(
            f"train_cfg needs either max_epochs or max_iters; it has max_epochs={epochs}, max_iters={iters}"
        )
    for key in ("work_dir", "load_from"):
        if not isinstance(config.get(key), (str, type(None))):
            raise ConfigError(f"{key} is {config[key]!r}; it must be a path as text")
    if config.get("log_level", "INFO") not in _LOG_LEVELS:
        raise ConfigError(f"log_level is {config['log_level']!r}; use one of {', '.join(_LOG_LEVELS)}")
    if config.get("sequence_parallel_size", 1) not in (1, None):
        raise ConfigError(
            f"sequence_parallel_size is {config['sequence_parallel_size']}; sequence parallelism is not "
            "available in this version: set sequence_parallel_size = 1"
        )


def _check_number(
    here: dict[str, Any],
    path: str,
    kind: type | tuple[type, ...],
    *,
    least: int | None = None,
    above: int | None = None,
) -> None:
    """What the last name of `path` is in `here` may be left out or None; else it is a number in its range."""
    value = here.get(path.rpartition(".")[2])
    if value is None:
        return
    fits = isinstance(value, kind) and not isinstance(value, bool)
    if not (fits and (least is None or value >= least) and (above is None or value > above)):
        noun = "a whole number" if kind is int else "a number"
        bound = f"of at least {least}" if above is None else f"above {above}"
        raise ConfigError(f"{path} is {value!r}; it must be {noun} {bound}")
