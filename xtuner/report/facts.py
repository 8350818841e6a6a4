"""What is known of a training, from the files that it has left.

work_dir/20261129_034506/vis_data/config.py   text: the newest, with the options of the command line
                        /*.log                starts: begin, end, machine, warnings;  samples
                        /replay.json          record: packages, hardware, hashes of data and weights
work_dir/measured/checkpoints.json            table: of xtuner test --checkpoints
work_dir/**/results.json                      results: of xtuner eval
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtuner.chinese import CHINESE
from xtuner.errors import NotFoundError
from xtuner.evaluation.checkpoint_table import FILE, Table, read_table
from xtuner.language import translate
from xtuner.report.nearest import Nearest, find_nearest
from xtuner.work_dir import Checkpoint, Curve, checkpoints, log_records, read_curves, run_names

MEASURED, RECORD, RESULTS = "measured", "replay.json", "results.json"
_ITERATION = re.compile(r"Iter\(train\) \[\s*(\d+)/(\d+)\]")
_SAMPLES_BEGIN = re.compile(r"(before_train|after_train_iter|after_train) in EvaluateChatHook\.")
_SAMPLE = "Sample output:\n%s\n"
_SAMPLE_HEADS = tuple(text.partition("%s")[0] for text in (_SAMPLE, CHINESE[_SAMPLE]))
_RESUMED = "Resumed at iter %d of %d, saved at iter %d%s"
_RESUMED_AT = tuple(
    re.compile(re.escape(text.partition("%s")[0]).replace("%d", "(\\d+)"))
    for text in (_RESUMED, CHINESE[_RESUMED])
)
_WARNINGS = ("WARNING", "ERROR", "CRITICAL")


@dataclass
class Start:
    """One start of the training: its name, when it began and ended, on what, and what it warned of."""

    name: str
    began: str = ""
    ended: str = ""
    environment: str = ""
    warnings: Counter[str] = field(default_factory=Counter)


@dataclass
class Samples:
    """The sampled answers after `iteration` iterations, each below its prompt."""

    iteration: int
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Facts:
    """All that is known of the training in `work_dir`; `config` is the file that it left there."""

    work_dir: Path
    config: Path | None
    text: str
    nearest: Nearest | None
    starts: list[Start]
    samples: list[Samples]
    iterations: tuple[int, int] | None  # done, of all
    curves: dict[str, Curve]
    checkpoints: list[Checkpoint]
    table: Table
    results: list[tuple[Path, dict[str, Any]]]
    record: dict[str, Any]


def gather(work_dir: Path, results: Sequence[Path] = ()) -> Facts:
    """The facts of a work dir; `results`: further results.json, or folders with them."""
    names = run_names(work_dir)
    if not names:
        what = "there is no training in {folder}: name the work dir of xtuner train"
        raise NotFoundError(translate(what, folder=work_dir))
    for path in results:
        if not path.exists():
            raise NotFoundError(translate("there is no {path}", path=path))
    configs = sorted(path for path in work_dir.glob("*.py"))
    text = _newest_text(work_dir, names) or (configs[0].read_text("utf-8") if configs else "")
    starts, samples, iterations = _read_logs(work_dir, names[::-1])
    return Facts(
        work_dir=work_dir,
        config=configs[0] if configs else None,
        text=text,
        nearest=find_nearest(text),
        starts=starts,
        samples=samples,
        iterations=iterations,
        curves=read_curves(work_dir),
        checkpoints=checkpoints(work_dir),
        table=read_table(work_dir / MEASURED / FILE),
        results=list(_results([work_dir, *results])),
        record=_record(work_dir, names),
    )


def _newest_text(work_dir: Path, names: Iterable[str]) -> str:
    """The text of the config of the newest start that has left it."""
    for name in names:
        try:
            return (work_dir / name / "vis_data" / "config.py").read_text(encoding="utf-8")
        except OSError:
            continue
    return ""


def _read_logs(
    work_dir: Path, names: Iterable[str]
) -> tuple[list[Start], list[Samples], tuple[int, int] | None]:
    """The starts, the samples of all of them in order, and the last iteration of how many."""
    starts: list[Start] = []
    samples: list[Samples] = []
    last = None
    for name in names:
        start, is_sampling = Start(name), False
        iterations: tuple[int, int] | None = None
        for record in log_records(work_dir, name):
            start.began, start.ended = start.began or record.time, record.time
            if match := _progress(record.message):
                iterations = int(match[1]), int(match[2])
            if record.level in _WARNINGS:
                start.warnings[record.message] += 1
            if record.message.startswith("xtuner ") and not start.environment:
                start.environment = record.message
            if match := _SAMPLES_BEGIN.fullmatch(record.message):
                samples.append(Samples(iterations[0] if iterations else 0))
                is_sampling = True
            elif head := next((h for h in _SAMPLE_HEADS if record.message.startswith(h)), None):
                if is_sampling:
                    samples[-1].texts.append(record.message.removeprefix(head).strip("\n"))
            elif is_sampling and record.level == "INFO":
                is_sampling = False
        starts.append(start)
        last = iterations or last
    return starts, [found for found in samples if found.texts], last


def _progress(message: str) -> re.Match[str] | None:
    """The number of iterations done and that of all, where a message says them."""
    found = (pattern.match(message) for pattern in _RESUMED_AT)
    return _ITERATION.search(message) or next((match for match in found if match), None)


def _results(places: Iterable[Path]) -> Iterable[tuple[Path, dict[str, Any]]]:
    """The files of `xtuner eval`, with their content; other files of that name are left out."""
    for place in places:
        for path in [place] if place.is_file() else sorted(place.rglob(RESULTS)):
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(found, dict) and isinstance(found.get("tasks"), dict):
                yield path, found


def _record(work_dir: Path, names: Iterable[str]) -> dict[str, Any]:
    """The record of the first updates of the newest start that wrote one."""
    for name in names:
        try:
            found = json.loads((work_dir / name / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            return found
    return {}
