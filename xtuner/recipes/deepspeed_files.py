"""The settings of DeepSpeed, by the name of a built-in file or the path of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xtuner.errors import ConfigError, NotFoundError, did_you_mean
from xtuner.language import translate

DEEPSPEED = Path(__file__).parent / "deepspeed"


def deepspeed_names() -> list[str]:
    """deepspeed_zero1, ..., deepspeed_zero3_offload."""
    return sorted(path.stem for path in DEEPSPEED.glob("*.json"))


def deepspeed_file(name: str) -> Path:
    """The JSON file of a DeepSpeed setting."""
    if name not in deepspeed_names():
        raise NotFoundError(
            translate(
                "There is no built-in DeepSpeed setting named {name!r}.{hint} There are {names}; a "
                "path to a JSON file works too.",
                name=name,
                hint=did_you_mean(name, deepspeed_names()),
                names=", ".join(deepspeed_names()),
            )
        )
    return DEEPSPEED / f"{name}.json"


def deepspeed_settings(name: str) -> dict[str, Any]:
    """The settings of a JSON file or of a built-in name, with or without `deepspeed_` before it."""
    path = Path(name)
    if path.suffix == ".json" and not path.is_file():
        raise NotFoundError(translate("--deepspeed {name}: there is no such file", name=name))
    if not path.is_file():
        path = deepspeed_file(name if name.startswith("deepspeed_") else f"deepspeed_{name}")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            translate("--deepspeed {name}: {path} is no JSON: {error}", name=name, path=path, error=error)
        ) from error
    if not isinstance(settings, dict):
        raise ConfigError(
            translate(
                "--deepspeed {name}: {path} holds no settings, but {kind}",
                name=name,
                path=path,
                kind=type(settings).__name__,
            )
        )
    return settings
