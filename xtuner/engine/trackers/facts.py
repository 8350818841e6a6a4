"""The facts about a run that trackers show, made from its config and files alone.

dict(lr=2e-4, model=dict(lora=dict(r=16)))      ->  {"lr": 0.0002, "model.lora.r": 16}
{"loss": 2.5, "val/loss": 2.4, "iter": 10}      ->  {"train/loss": 2.5, "val/loss": 2.4}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtuner.config.load import name_of
from xtuner.config.ref import as_ref
from xtuner.credentials import HIDDEN, is_credential, without_credentials
from xtuner.work_dir import read_run, run_names

IDS_FILE = "trackers.json"
"""The file of a start, beside its scalars, with the ids of its trackers' runs."""

Value = str | int | float | bool


@dataclass(frozen=True)
class TrackedRun:
    """A start of a run, as trackers show it."""

    work_dir: Path
    log_dir: Path
    timestamp: str
    name: str
    config_text: str = ""
    config: Mapping[str, Value] = field(default_factory=dict)
    project: str | None = None
    # Of the run that this start goes on with: tracker -> its id there. Empty for a new run.
    ids: Mapping[str, str] = field(default_factory=dict)


def grouped(scalars: Mapping[str, float]) -> dict[str, float]:
    """Scalars with `train/` before those of training; `iter`, which is their step, is left out."""
    return {n if "/" in n else f"train/{n}": value for n, value in scalars.items() if n != "iter"}


def flattened(config: Mapping[str, Any]) -> dict[str, Value]:
    """Each setting by its path; classes by name, lists of plain values as text, credentials hidden."""
    return {path: _plain(path, value) for path, value in _leaves("", config) if value is not None}


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif isinstance(value, (list, tuple)) and any(isinstance(v, (Mapping, list, tuple)) for v in value):
        items = enumerate(value)
    else:
        yield path, value
        return
    for key, inner in items:
        yield from _leaves(f"{path}.{key}" if path else str(key), inner)


def _plain(path: str, value: Any) -> Value:
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (str, list, tuple)) and is_credential(_last(path)):
        return HIDDEN
    if isinstance(value, (list, tuple)):
        return without_credentials(json.dumps([_plain("", v) for v in value], ensure_ascii=False))
    ref = as_ref(value) if not isinstance(value, str) else None
    return without_credentials(value if isinstance(value, str) else name_of(value if ref is None else ref))


def credentials_of(config: Mapping[str, Any]) -> list[str]:
    """The texts in a config that are keys or passwords by their names."""
    return [v for path, v in _leaves("", config) if isinstance(v, str) and is_credential(_last(path))]


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def recorded(work_dir: Path, tracker: str, run_id: str) -> dict[str, int]:
    """The last step of each scalar that earlier starts in the work dir have written to that run."""
    last: dict[str, int] = {}
    for name in run_names(work_dir):
        file = work_dir / name / "vis_data" / IDS_FILE
        try:
            ids = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if ids.get(tracker) == run_id:
            for scalar, curve in read_run(work_dir, name).curves.items():
                last[scalar] = max(curve[-1][0], last.get(scalar, 0))
    # These come with all others, and are no curves.
    return {**last, **dict.fromkeys(("iter", "epoch"), max(last.values()))} if last else {}
