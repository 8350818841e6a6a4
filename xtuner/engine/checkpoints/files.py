"""Checkpoints on disk: complete or absent.

    iter_300.pth      written beside as .iter_300.pth.part, synced, renamed
    last_checkpoint   then its path, written the same way
    iter_100.pth      then the oldest beyond `max_keep_ckpts` is removed

A file is a zip archive of tensors with a checksum each, so a cut or altered one is recognised. It holds plain
containers only and loads without running anything from it.

    iter_300.pth/     of a run with DeepSpeed: a folder, its files named as that names them
        mp_rank_00_model_states.pt                          all but the optimiser's state
        bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt      that, whole
    zero_to_fp32.py   makes plain fp32 weights of such a folder
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from xtuner.atomic import remove as remove_checkpoint
from xtuner.atomic import restore_all, written
from xtuner.checkpoint_paths import (
    LAST,
    MODEL_FILE,
    by_age,
    check_exists,
    counted,
    counted_otherwise,
    find_last,
)
from xtuner.errors import CheckpointError, NotFoundError
from xtuner.language import translate
from xtuner.log import logger

OPTIMIZER_FILES = tuple(f"{kind}zero_pp_rank_0_mp_rank_00_optim_states.pt" for kind in ("bf16_", ""))
SCRIPT = "zero_to_fp32.py"
_SCRIPT_TEXT = '''"""python zero_to_fp32.py CHECKPOINT_FOLDER OUT.bin: its weights in fp32, as one file."""

import sys
from pathlib import Path

import torch

folder, out = sys.argv[1:]
state = torch.load(Path(folder) / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=True)
weights = {n: w.float() if w.is_floating_point() else w for n, w in state["state_dict"].items()}
torch.save(weights, out)
print(f"{len(weights)} weights in {out}")
'''


def save_checkpoint(
    state: dict[str, Any], path: Path, optimizer_file: str | None = None, is_newest: bool = True
) -> None:
    """Write `state` to `path`; on any failure what was there stays as it was.

    `optimizer_file`: make a folder, with the optimiser's state in a file of this name. `is_newest`: bare
    `--resume` goes on from it.
    """
    try:
        with written(path) as part:
            if optimizer_file is None or "optimizer" not in state:
                _save(state, part)
            else:
                part.mkdir()
                _save({k: v for k, v in state.items() if k != "optimizer"}, part / MODEL_FILE)
                _save({"optimizer": state["optimizer"]}, part / optimizer_file)
                (path.parent / SCRIPT).write_text(_SCRIPT_TEXT, encoding="utf-8")
        if is_newest:
            with written(path.parent / LAST) as part, open(part, "w", encoding="utf-8") as file:
                file.write(str(path.resolve()))
                _sync(file)
    # torch turns a failed write into a RuntimeError of its archive writer.
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__ or error
        before = find_last(path.parent)
        kept = (
            translate("{path} is intact: free some space and continue with --resume", path=before)
            if before
            else translate("there is no earlier one")
        )
        raise CheckpointError(
            translate("cannot write {path}: {cause}; {kept}", path=path, cause=cause, kept=kept)
        ) from error


def _save(state: dict[str, Any], path: Path) -> None:
    with open(path, "wb") as file:
        torch.save(state, file)
        _sync(file)


def clear_unfinished(folder: Path) -> None:
    """Remove what a killed run has left half-written in `folder`."""
    restore_all(folder, "*.pth")
    for part in folder.glob(".*.pth.part"):
        logger.info(translate("Removing %s, which an earlier run has not finished"), part)
        remove_checkpoint(part)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def load_checkpoint(path: str | Path, check: bool = False) -> dict[str, Any]:
    """The content of a checkpoint, its tensors mapped from the file; `check` compares all checksums first."""
    path = find_checkpoint(path)
    if path.is_dir() and not (path / MODEL_FILE).is_file():
        raise CheckpointError(
            translate("{path} is a folder, not a checkpoint; {cure}", path=path, cure=_cure_of_folder(path))
        )
    if fault := find_fault(path) if check else _find_open_fault(path):
        raise CheckpointError(translate("{path} is damaged: {fault}", path=path, fault=fault))
    first, *others = _files(path)
    found = _read(first)
    if "state_dict" in found:
        for file in others:
            found |= _read(file)
    elif isinstance(found.get("module"), dict):
        found = {"state_dict": found["module"]}  # of DeepSpeed itself, weights as the run computed with them
    if found and all(isinstance(value, torch.Tensor) for value in found.values()):
        found = {"state_dict": found}  # what a zero_to_fp32.py leaves
    if "state_dict" not in found:
        raise CheckpointError(translate("{path} is not a checkpoint: it has no 'state_dict'", path=path))
    return found


def find_checkpoint(path: str | Path) -> Path:
    """`path`, or where it is not there, the same checkpoint under its name by iterations or epochs."""
    path = Path(path)
    if path.exists():
        return path
    check_exists(path)
    asked = counted(path)
    for other in counted_otherwise(path):
        meta = _read(_files(other)[0]).get("meta", {}) if _find_open_fault(other) is None else {}
        length = meta.get("epoch_length")
        ended = {"iter": meta.get("iter"), "epoch": meta["iter"] / length if length else None}
        if asked is not None and ended[asked[0]] == asked[1]:
            logger.info(translate("%s is there as %s"), path, other.name)
            return other
    newest = find_last(path.parent)
    raise NotFoundError(
        translate(
            "there is no checkpoint {path!r}; the newest there is {newest}", newest=newest, path=str(path)
        )
    )


def _cure_of_folder(path: Path) -> str:
    if any(path.glob("zero_pp_rank_*_model_states.pt")):
        return translate(
            "ZeRO-3 left weights in parts there: make one file of them with the zero_to_fp32.py beside it"
        )
    inside = find_last(path)
    return translate("name one in it, such as {path}", path=inside) if inside else translate("it holds none")


def _files(path: Path) -> list[Path]:
    """The files that a checkpoint consists of, the weights first."""
    if not path.is_dir():
        return [path]
    return [path / MODEL_FILE, *(path / name for name in OPTIMIZER_FILES if (path / name).is_file())]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            translate("{path} cannot be read: {error}", path=path, error=first_line)
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(translate("{path} is not a checkpoint: it has no 'state_dict'", path=path))
    return found


def _find_open_fault(path: Path) -> str | None:
    whole = all(map(_is_archive, _files(path)))
    return None if whole else translate("it is cut off, or not a checkpoint")


def _is_archive(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def find_fault(path: Path) -> str | None:
    """What is wrong with the checkpoint, or None when all of it reads and its checksums agree."""
    if fault := _find_open_fault(path):
        return fault
    return next(filter(None, map(_find_wrong_sum, _files(path))), None)


def _find_wrong_sum(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    # A flipped bit in a header looks like another name, an encrypted part, an unknown compression, ...
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, RuntimeError) as error:
        return str(error) or translate("a part of it lies beyond its end")
    if bad:
        return translate("the checksum of {name} is wrong", name=bad)
    try:
        _read(path)  # maps the tensors, and so costs little
    except CheckpointError as error:
        return str(error)
    return None


def find_whole(work_dir: Path) -> Path:
    """The newest checkpoint that reads whole; damaged ones are named and passed over."""
    candidates = by_age(work_dir)
    if not candidates:
        raise NotFoundError(
            translate(
                "there is no checkpoint in {work_dir!r} to resume from; train without --resume",
                work_dir=str(work_dir),
            )
        )
    for path in candidates:
        fault = find_fault(path)
        if fault is None:
            return path
        logger.warning(translate("%s is damaged: %s; trying the one before it"), path, fault)
    raise CheckpointError(
        translate(
            "none of the {count} checkpoints in {work_dir} can be read in full",
            count=len(candidates),
            work_dir=work_dir,
        )
    )
