"""Check all names and arguments of a config in source text, before anything is imported.

dict(type=AdamWW)  ->  Fault("optim_wrapper.optimizer.type", "... has no 'AdamWW'. Did you mean 'AdamW'?")
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from xtuner.check.source import UNKNOWN, NameMissingError, look_up
from xtuner.config.arguments import Signature, signature_of, wrong_arguments
from xtuner.config.load import name_of
from xtuner.config.ref import Ref, as_ref, how_to_name, path_of
from xtuner.config.schema import Fault, wrong_value
from xtuner.config.unsupported import feature_of
from xtuner.errors import ConfigError, did_you_mean
from xtuner.language import translate

# `from_pretrained` accepts any argument; these are the ones of configs.
_FROM_PRETRAINED = {
    "pretrained_model_name_or_path",
    "trust_remote_code",
    "torch_dtype",
    "dtype",
    "quantization_config",
    "device_map",
    "attn_implementation",
    "padding_side",
    "revision",
    "cache_dir",
    "use_fast",
    "encode_special_tokens",
    "eos_token",
    "pad_token",
    "local_files_only",
    "low_cpu_mem_usage",
    "max_position_embeddings",
    "token",
    "subfolder",
    "ignore_mismatched_sizes",
    "use_flash_attention_2",
    "model_max_length",
}
# Names of transformers that every config has; its source text does not define them.
_CERTAIN = {
    f"transformers.{name}"
    for name in (
        "AutoModelForCausalLM.from_pretrained",
        "AutoModelForImageTextToText.from_pretrained",
        "AutoTokenizer.from_pretrained",
        "BitsAndBytesConfig",
        "CLIPImageProcessor.from_pretrained",
        "CLIPVisionModel.from_pretrained",
    )
}
# Modules that are small enough to import.
_LIGHT = "xtuner.utils."


@dataclass
class Names:
    """The faults, and the names that cannot be checked without importing."""

    faults: list[Fault] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)


def look_at(value: Any, path: str, names: Names) -> None:
    """Add to `names` each type in `value` that does not exist, and each argument that it does not accept."""
    if isinstance(value, Mapping):
        kind = value.get("type")
        target = _callee(kind, f"{path}.type", names)
        is_call = target is not None
        given = {k: v for k, v in value.items() if not (is_call and k == "type")}
        if isinstance(target, Signature):
            wrong = wrong_arguments(target, given, path, name_of(kind).rpartition(".")[2])
            names.faults += [Fault(f"{path}.{_key(message, path)}", message) for message in wrong]
        if is_call and re.match(r"transformers\..*\.from_pretrained$", name_of(kind)):
            _check_near(given, path, names)
        for key, inner in given.items():
            look_at(inner, f"{path}.{key}", names)
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            look_at(inner, f"{path}.{number}", names)
    elif isinstance(value, Ref):
        _find(value, path, names)
    elif isinstance(value, functools.partial):
        look_at([value.func, *value.args], path, names)
        look_at(dict(value.keywords), path, names)


class Made(NamedTuple):
    """A part that is built: whether its type is optional, the part is, and it may be an object already."""

    has_usual_type: bool = False
    may_be_absent: bool = True
    may_be_made: bool = False


MADE: dict[str, Made] = {
    "model": Made(),
    "model.llm": Made(),
    "model.lora": Made(may_be_made=True),
    "model.llm_lora": Made(may_be_made=True),
    "model.visual_encoder_lora": Made(may_be_made=True),
    "tokenizer": Made(),
    "train_dataloader.dataset": Made(may_be_absent=False),
    "train_dataloader.sampler": Made(),
    "train_dataloader.collate_fn": Made(),
    "val_dataloader.dataset": Made(),
    "val_dataloader.collate_fn": Made(),
    "test_dataloader.dataset": Made(may_be_absent=False),
    "test_dataloader.collate_fn": Made(),
    "optim_wrapper": Made(has_usual_type=True),
    "optim_wrapper.optimizer": Made(may_be_absent=False),
    "param_scheduler": Made(),
    "train_cfg": Made(has_usual_type=True),
    "val_cfg": Made(has_usual_type=True),
    "val_evaluator": Made(),
    "test_evaluator": Made(),
    "visualizer": Made(has_usual_type=True),
    "default_hooks.*": Made(),
    "custom_hooks": Made(),
}


def unmade(config: Mapping[str, Any]) -> list[Fault]:
    """Faults of the parts that are built: absent, not a dict, or with a `type` that does not exist."""
    found = []
    for place, made in MADE.items():
        parent, _, key = place.rpartition(".")
        above = config.get(parent) if parent else config
        if not made.may_be_absent and isinstance(above, Mapping) and above.get(key) is None:
            found.append(
                Fault(
                    place,
                    translate("{parent} has no {key}: add {key}=dict(type=...)", parent=parent, key=key),
                )
            )
        for path, value in _parts(config, place):
            if value is None:
                continue
            kind = value.get("type") if isinstance(value, Mapping) else None
            if not isinstance(value, Mapping):
                if not made.may_be_made:
                    found.append(Fault(path, wrong_value(path, value, "a dict(type=...)")))
            elif kind is None and not made.has_usual_type:
                found.append(
                    Fault(
                        path,
                        translate(
                            "{path} has no type: add type=..., the class that it is made of", path=path
                        ),
                    )
                )
            elif isinstance(kind, str) and as_ref(kind) is None and not _is_dotted(kind):
                message = translate(
                    "{path}.type is {kind!r}, which names nothing{how}",
                    path=path,
                    kind=kind,
                    how=how_to_name(kind),
                )
                found.append(Fault(f"{path}.type", message))
    return found


def _parts(config: Mapping[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    """The values at the path `place`, of a list one by one; `*` is any key."""
    values: list[tuple[str, Any]] = [("", config)]
    for part in place.split("."):
        inside = [(path, value) for path, value in values if isinstance(value, Mapping)]
        values = [
            (f"{path}.{key}" if path else key, value[key])
            for path, value in inside
            for key in (value if part == "*" else [part])
            if key in value
        ]
    for path, value in values:
        if isinstance(value, list):
            yield from ((f"{path}.{number}", item) for number, item in enumerate(value))
        else:
            yield path, value


def _is_dotted(text: str) -> bool:
    return "." in text and text.replace(".", "_").isidentifier()


def _key(message: str, path: str) -> str:
    """The argument at the start of a message."""
    rest = message[len(path) + 1 :]
    return rest.partition(" ")[0].rstrip(":")


def _check_near(given: Mapping[str, Any], path: str, names: Names) -> None:
    for key in given:
        hint = did_you_mean(key, _FROM_PRETRAINED)
        if key not in _FROM_PRETRAINED and hint:
            names.faults.append(
                Fault(
                    f"{path}.{key}",
                    translate("{path}.{key}: no model takes {key!r}.{hint}", path=path, key=key, hint=hint),
                )
            )


def _callee(kind: Any, path: str, names: Names) -> Any:
    """A Signature, UNKNOWN, or None if the dict is only a dict."""
    if kind is None:
        return None
    ref = as_ref(kind)
    if ref is None and isinstance(kind, str):
        ref = Ref(kind) if _is_dotted(kind) else None
    if ref is not None:
        return _find(ref, path, names)
    return signature_of(kind) or UNKNOWN if callable(kind) else None


def _missing_import(ref: Ref) -> str | None:
    """The imported name if it does not exist; None if the fault is in an attribute of it."""
    name, _ = ref._imported
    try:
        look_up(name)
    except NameMissingError:
        return name
    return None


def _find(ref: Ref, path: str, names: Names) -> Any:
    name = path_of(ref)
    if feature := feature_of(name):
        names.faults.append(Fault(path, f"{path}: {feature.sentence}", is_later=True))
        return UNKNOWN
    if name.startswith(_LIGHT):
        try:
            return signature_of(ref.resolve()) or UNKNOWN
        except ConfigError as error:
            names.faults.append(Fault(path, f"{path}: {error}"))
            return UNKNOWN
    try:
        found = look_up(name)
    except NameMissingError as error:
        names.faults.append(Fault(path, f"{path}: {ref._at(_missing_import(ref))}{error}"))
        return UNKNOWN
    if found is UNKNOWN and name not in _CERTAIN:
        names.unknown.add(name)
    return found
