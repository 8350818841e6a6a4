"""`last_checkpoint`, and what a failed write says of it."""

from __future__ import annotations

from pathlib import Path

from xtuner.atomic import written
from xtuner.checkpoint_paths import LAST, find_last
from xtuner.errors import CheckpointError
from xtuner.language import translate


def name_newest(path: Path) -> None:
    """Make `path` the checkpoint that bare `--resume` continues from."""
    with written(path.parent / LAST) as part:
        part.write_text(str(path.resolve()), encoding="utf-8")


def cannot_write(path: Path, cause: object) -> CheckpointError:
    """The error for a failed write of `path`; it names the checkpoint that is left."""
    before = find_last(path.parent)
    kept = (
        translate("{path} is intact: free some space and continue with --resume", path=before)
        if before
        else translate("there is no earlier one")
    )
    return CheckpointError(
        translate("cannot write {path}: {cause}; {kept}", path=path, cause=cause, kept=kept)
    )
