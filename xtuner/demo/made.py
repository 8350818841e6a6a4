"""Model folders that the demo makes: complete or absent, and kept for the next run with the same plan.

    folder      config.json, model.safetensors, ..., made_by_xtuner_demo.json

The folder appears when it is complete: it is written beside and renamed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from xtuner.atomic import written
from xtuner.errors import ConfigError
from xtuner.language import translate

STAMP = "made_by_xtuner_demo.json"
OnStep = Callable[[int, int, float], None]
"""Called with the number of steps done, that of all steps and the loss."""


@dataclass(frozen=True)
class Result:
    """What is in a folder; `reused` if it existed already. A patch of a picture is a token too."""

    folder: Path
    num_parameters: int
    num_tokens: int
    loss: float
    seconds: float
    reused: bool = False


class Trained(NamedTuple):
    """A model, with its tokenizer or image processor, and how its training went."""

    model: Any
    beside: Any
    loss: float
    num_tokens: int


def keep_or_make(folder: Path, key: str, make: Callable[[], Trained]) -> Result:
    """The folder that was made with the same key, or a new one of what `make` returns."""
    if (found := read_stamp(folder)) and found.pop("key") == key:
        return Result(folder=folder, reused=True, **found)
    start = time.perf_counter()
    trained = make()
    result = Result(
        folder=folder,
        num_parameters=trained.model.num_parameters(),
        num_tokens=trained.num_tokens,
        loss=round(trained.loss, 4),
        seconds=round(time.perf_counter() - start, 1),
    )
    stamp = {k: v for k, v in asdict(result).items() if k not in ("folder", "reused")}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with written(folder) as part:
        trained.model.save_pretrained(part)
        trained.beside.save_pretrained(part)
        (part / STAMP).write_text(json.dumps({"key": key, **stamp}), "utf-8")
    return result


def plan_key(plan: Any, data: Iterable[Any]) -> str:
    """A hash of the plan and the data, which the model depends on."""
    parts = [json.dumps(asdict(plan), sort_keys=True), *map(repr, data)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def read_stamp(folder: Path) -> dict | None:
    """What the stamp in `folder` says, None where there is no folder; never touches somebody else's files."""
    if not folder.exists():
        return None
    if not (folder / STAMP).exists():
        raise ConfigError(
            translate(
                "{folder} exists and was not made by `xtuner demo` (it has no {stamp}): choose "
                "another --work-dir or move it away",
                folder=folder,
                stamp=STAMP,
            )
        )
    return json.loads((folder / STAMP).read_text("utf-8"))


def mean_of_last(losses: Sequence[float]) -> float:
    """The mean loss of the last tenth of the steps."""
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)
