"""A config of transformers' Trainer with the keys of the engine, which the estimate reads.

training_args.per_device_train_batch_size, optim, fp16, ...  ->  train_dataloader, optim_wrapper, train_cfg
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xtuner.config.schema import by_trainer

# Values of transformers for arguments that are not given.
_BATCH, _EPOCHS = 8, 3
_SWITCHES = ("gradient_checkpointing", "activation_checkpointing")
_PRECISIONS = {"fp16": "float16", "bf16": "bfloat16"}
# A word in the name of an optimizer -> the class whose state is as large.
_OPTIMIZERS = {
    "adafactor": "Adafactor",
    "adagrad": "Adagrad",
    "ademamix": "AdEMAMix",
    "lion": "Lion",
    "rmsprop": "RMSprop",
    "schedule_free_sgd": "SGDScheduleFree",
    "sgd": "SGD",
}


def as_engine(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The run of a config of the Trainer with the keys of the engine; another config as it is."""
    if not by_trainer(config):
        return config
    arguments, model = _dict(config.get("training_args")), _dict(config.get("model"))
    dtype = next((name for key, name in _PRECISIONS.items() if arguments.get(key)), None)
    count = arguments.get("gradient_accumulation_steps", 1)
    return {
        "framework": config["framework"],
        "model": _model(model, config.get("lora"), arguments),
        "optim_wrapper": {
            "type": "AmpOptimWrapper" if dtype else "OptimWrapper",
            "dtype": dtype or "float32",
            "optimizer": _optimizer(arguments),
            "accumulative_counts": count,
        },
        "train_dataloader": {
            "batch_size": arguments.get("per_device_train_batch_size", _BATCH),
            "dataset": config.get("train_dataset"),
        },
        "train_cfg": _length(arguments, count),
        "fsdp": bool(arguments.get("fsdp")),
        "deepspeed": arguments.get("deepspeed") or config.get("deepspeed"),
    }


def _model(model: Mapping[str, Any], lora: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = dict(model) if "llm" in model else {"llm": model}
    if lora is not None:
        found["lora"] = lora
    switches = [arguments[name] for name in _SWITCHES if arguments.get(name) is not None]
    if switches:
        found["use_activation_checkpointing"] = any(switches)
    return found


def _optimizer(arguments: Mapping[str, Any]) -> dict[str, Any]:
    name = str(arguments.get("optim", "adamw_torch"))
    kind = next((kind for word, kind in _OPTIMIZERS.items() if word in name), "AdamW")
    return {"type": kind + "8bit" * ("8bit" in name), "fused": name.endswith("_fused")}


def _length(arguments: Mapping[str, Any], count: Any) -> dict[str, Any]:
    updates = arguments.get("max_steps")
    if isinstance(updates, int) and updates > 0 and isinstance(count, int):
        return {"max_iters": updates * count}
    return {"max_epochs": arguments.get("num_train_epochs", _EPOCHS)}


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
