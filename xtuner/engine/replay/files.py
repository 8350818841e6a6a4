"""The file `replay.json`: what is in it, where it is, and reading it.

format     of this file
config     its file name and text        options    those of the command line that change the run
facts      what the updates depend on    initial    of each process the hash of the trained weights
updates    [{"update": 1, "iter": 0, "lr": [2e-4], "grad_norm": 1.93, "processes": [[batch, ...], ...]}]
batch      rows, samples, tokens, tensors (batches.py), items (how many the loss is a mean of), loss
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xtuner.errors import ConfigError, NotFoundError
from xtuner.language import translate

NAME = "replay.json"
FORMAT = 1
Record = dict[str, Any]


def find_record(place: Path) -> Path:
    """The record that `place` is, or the newest below it; NotFoundError if there is none."""
    if place.is_file():
        return place
    found = sorted(place.glob(NAME)) or sorted(place.glob(f"*/{NAME}"), key=lambda path: path.parent.name)
    if not found:
        what = translate("there is no {name} in {place} or in a folder in it", name=NAME, place=place)
        cure = translate("a run writes it unless replay_updates is 0, it is resumed, or the Trainer trains")
        raise NotFoundError(f"{what}: {cure}")
    return found[-1]


def read_record(path: Path) -> Record:
    """The record in a file, with at least one update; ConfigError for another file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        number, updates = record["format"], record["updates"]
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(translate("{path} is no record of a run's first updates", path=path)) from error
    if number != FORMAT:
        what = "{path} has format {number}, and this version of XTuner reads format {own}"
        raise ConfigError(translate(what, path=path, number=number, own=FORMAT))
    if not updates:
        raise ConfigError(translate("{path} has no update: the run ended before its first one", path=path))
    return record
