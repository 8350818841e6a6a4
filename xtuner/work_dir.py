"""What a training has left in its work dir; read-only, also while it writes.

work_dir/20261121_092003/vis_data/scalars.json             ->  Run.curves  {"loss": [(10, 7.1), ...], ...}
                        /vis_data/eval_outputs_iter_9.txt  ->  Run.samples [(9, ["answer 1", ...])]
                        /20261121_092003.log               ->  Run.progress (10, 720, "0:02:11"), log_records
work_dir/iter_95.pth, epoch_1.pth, last_checkpoint         ->  checkpoints

of all starts, as the training went on:
    20261121_092003              (10, 7.1), (20, 5.0), killed
    20261121_101500  resumed at 15:         (20, 5.1), (30, 4.3)
    read_curves                  (10, 7.1), (20, 5.1), (30, 4.3)
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_STAMP = re.compile(r"\d{8}_\d{6}")
_CHECKPOINT = re.compile(r"(iter|epoch)_(\d+)\.pth|best_.*\.pth")
_SAMPLES = re.compile(r"eval_outputs_iter_(\d+)\.txt")
_SAMPLE_HEAD = re.compile(r"^Eval output \d+:\n", re.MULTILINE)
_PROGRESS = re.compile(r"\[\s*(\d+)/(\d+)\].*?eta: ([\d:, days]+?)\s{2}")
_TAIL = 65536  # bytes read of a log
_RECORD = re.compile(r"(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - mmengine - ([A-Z]+) - ")

Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Run:
    """One start of a training, with its log so far."""

    name: str
    curves: dict[str, Curve]
    samples: list[tuple[int, list[str]]]
    progress: tuple[int, int, str] | None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint."""

    name: str
    num_bytes: int
    saved: datetime
    is_last: bool


@dataclass(frozen=True)
class LogRecord:
    """A message of a log, which may have several lines."""

    time: str
    level: str
    message: str


def run_names(work_dir: Path) -> list[str]:
    """The runs in `work_dir`, newest first."""
    if not work_dir.is_dir():
        return []
    return sorted(
        (p.name for p in work_dir.iterdir() if p.is_dir() and _STAMP.fullmatch(p.name)), reverse=True
    )


def find_work_dirs(folder: Path) -> list[Path]:
    """Folders with runs in `folder` and up to two levels below it, newest run first."""
    found: dict[Path, str] = {}
    for pattern in ("*/vis_data", "*/*/vis_data", "*/*/*/vis_data"):
        for path in folder.glob(pattern):
            if _STAMP.fullmatch(path.parent.name):
                work_dir = path.parent.parent
                found[work_dir] = max(found.get(work_dir, ""), path.parent.name)
    return sorted(found, key=lambda path: found[path], reverse=True)


def read_run(work_dir: Path, name: str) -> Run:
    """The run `name`, as far as it has been written."""
    folder = work_dir / name
    return Run(
        name,
        _curves(folder / "vis_data" / "scalars.json"),
        _samples(folder / "vis_data"),
        _progress(folder / f"{name}.log"),
    )


def read_curves(work_dir: Path) -> dict[str, Curve]:
    """All numbers of the training by step: what a later start has done again is that of the later start."""
    found: dict[str, dict[int, float]] = {}
    for name in reversed(run_names(work_dir)):
        curves = read_run(work_dir, name).curves
        begin = min((curve[0][0] for curve in curves.values()), default=math.inf)
        found = {key: {s: v for s, v in curve.items() if s < begin} for key, curve in found.items()}
        for key, curve in curves.items():
            found.setdefault(key, {}).update(curve)
    return {key: sorted(curve.items()) for key, curve in found.items() if curve}


def log_records(work_dir: Path, name: str) -> Iterator[LogRecord]:
    """The messages of the run `name`, one by one; none if it has no log."""
    try:
        file = (work_dir / name / f"{name}.log").open(encoding="utf-8", errors="replace")
    except OSError:
        return
    with file:
        head, lines = None, []
        for line in file:
            if match := _RECORD.match(line):
                if head is not None:
                    yield LogRecord(head[1], head[2], "".join(lines).rstrip())
                head, lines = match, [line[match.end() :]]
            else:
                lines.append(line)
        if head is not None:
            yield LogRecord(head[1], head[2], "".join(lines).rstrip())


def checkpoints(work_dir: Path) -> list[Checkpoint]:
    """The checkpoints in `work_dir`, newest first."""
    try:
        last = Path((work_dir / "last_checkpoint").read_text(encoding="utf-8", errors="replace").strip()).name
    except OSError:
        last = ""
    found = []
    for path in work_dir.glob("*.pth"):
        if _CHECKPOINT.fullmatch(path.name):
            files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
            size = sum(p.stat().st_size for p in files)
            saved = datetime.fromtimestamp(path.stat().st_mtime)
            found.append(Checkpoint(path.name, size, saved, path.name == last))
    return sorted(found, key=lambda c: c.saved, reverse=True)


def _curves(path: Path) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return {}
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the last line may be half written
        if not isinstance(row, dict):
            continue
        step = row.get("step")
        for key, value in row.items():
            if key not in ("step", "iter", "epoch") and isinstance(value, int | float):
                curves.setdefault(key, []).append((int(step or 0), float(value)))
    return curves


def _samples(folder: Path) -> list[tuple[int, list[str]]]:
    found = []
    for path in folder.glob("eval_outputs_iter_*.txt"):
        if match := _SAMPLES.fullmatch(path.name):
            text = path.read_text(encoding="utf-8", errors="replace")
            found.append((int(match[1]), [part.strip("\n") for part in _SAMPLE_HEAD.split(text)[1:]]))
    return sorted(found)


def _progress(path: Path) -> tuple[int, int, str] | None:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    matches = _PROGRESS.findall(text)
    return (int(matches[-1][0]), int(matches[-1][1]), matches[-1][2].strip()) if matches else None
