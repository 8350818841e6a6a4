"""Find the checkpoints of a work dir by name; none is opened.

iter_300.pth      a file; with DeepSpeed or in shards a folder
epoch_3.pth       the same, counted in epochs: the checkpoint at the end of an epoch has both names
last_checkpoint   the path of the newest
"""

from __future__ import annotations

import re
from pathlib import Path

from xtuner.errors import NotFoundError
from xtuner.language import translate
from xtuner.log import say_once
from xtuner.paths import near_it

LAST = "last_checkpoint"
MODEL_FILE = "mp_rank_00_model_states.pt"
# In a folder to which every process has written its part.
SHARDED_FILE = "state.pt"
_NAME = re.compile(r"(iter|epoch)_(\d+)\.pth")


def by_age(work_dir: Path) -> list[Path]:
    """Checkpoints of a work dir, newest first."""
    found = [p for pattern in ("iter_*.pth", "epoch_*.pth") for p in work_dir.glob(pattern)]
    files = [p for p in found if p.is_file() or is_folder(p)]
    files.sort(key=lambda p: p.stat().st_mtime_ns, reverse=True)
    named = work_dir / _last_name(work_dir)
    if named in files:
        # Copied files have new times, so `last_checkpoint` decides.
        files = [named, *(p for p in files if p != named)]
    return files


def find_checkpoints(work_dir: Path) -> list[Path]:
    """Checkpoints of a work dir, oldest first: by iterations, or by epochs; of both kinds by time."""
    found = by_age(work_dir)[::-1]
    counts = {path: count for path in found if (count := counted(path))}
    if len({unit for unit, _ in counts.values()}) > 1:
        return list(counts)
    return sorted(counts, key=lambda path: counts[path])


def is_folder(path: Path) -> bool:
    """Whether `path` is a checkpoint that is a folder."""
    return any((path / name).is_file() for name in (MODEL_FILE, SHARDED_FILE))


def _last_name(work_dir: Path) -> str:
    """The name of the checkpoint in the file `last_checkpoint`, `""` if there is none."""
    try:
        return Path((work_dir / LAST).read_text(encoding="utf-8").strip()).name
    except UnicodeDecodeError:
        say_once("{file} is damaged: the newest checkpoint is taken by its time", file=work_dir / LAST)
    except OSError:
        pass  # the work dir has no such file
    return ""


def find_last(work_dir: Path) -> Path | None:
    """The newest checkpoint of a work dir by its `last_checkpoint`, else by time, or None."""
    found = by_age(work_dir)
    return found[0] if found else None


def counted(path: Path) -> tuple[str, int] | None:
    """`("epoch", 3)` for `epoch_3.pth`; None for another name."""
    match = _NAME.fullmatch(path.name)
    return (match[1], int(match[2])) if match else None


def counted_otherwise(path: Path) -> list[Path]:
    """The `iter_*` checkpoints beside `epoch_3.pth`, or the `epoch_*` ones beside `iter_300.pth`."""
    count = counted(path)
    if count is None:
        return []
    return [p for p in by_age(path.parent) if (other := counted(p)) and other[0] != count[0]]


def check_exists(path: str | Path) -> None:
    """Raise NotFoundError if there is no checkpoint `path`, nor one that may be it by another name."""
    path = Path(path)
    if path.exists() or counted_otherwise(path):
        return
    newest = find_last(path.parent) if path.parent.is_dir() else None
    hint = translate("; the newest there is {newest}", newest=newest) if newest else near_it(path)
    raise NotFoundError(translate("there is no checkpoint {path!r}{hint}", path=str(path), hint=hint))
