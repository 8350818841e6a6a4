"""Checkpoints to which each process writes its own part, by torch.distributed.checkpoint.

    iter_300.pth/
        __0_0.distcp, __1_0.distcp   the tensors of processes 0 and 1
        .metadata                    which part of which tensor is where
        state.pt                     all but the tensors: weights and optimizer state as shapes on "meta"

    rank 0 makes .iter_300.pth.part -> all write and sync their files -> rank 0 adds state.pt, syncs, renames

A process that is killed at any moment leaves `.iter_300.pth.part`, which is no checkpoint. Any number of
processes reads it: each reads what it holds of a tensor. Nothing in it is run when it is read.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import mmap
import pickle
import zipfile
import zlib
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
import torch.distributed as torch_dist
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner, FileSystemReader
from torch.distributed.checkpoint import FileSystemWriter as _FileSystemWriter
from torch.distributed.checkpoint import metadata as dcp_metadata
from torch.distributed.checkpoint.api import CheckpointException

# The public functions warn where a process of several reads or writes alone.
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict
from torch.distributed.checkpoint.state_dict_saver import _save_state_dict
from torch.distributed.device_mesh import DeviceMesh

from xtuner.atomic import part_of, put_in_place, remove, restore, sync
from xtuner.checkpoint_paths import SHARDED_FILE
from xtuner.engine.checkpoints.archive import read_archive, save_archive
from xtuner.engine.checkpoints.newest import cannot_write, name_newest
from xtuner.errors import CheckpointError
from xtuner.language import translate
from xtuner.parallel.tensors import DTensor, map_tensors
from xtuner.parallel.world import World

TENSORS = ("state_dict", "optimizer")
_METADATA = ".metadata"
# The slowest process may need long to write; one that is gone is noticed at once.
_TIMEOUT = datetime.timedelta(hours=24)


class Separated(NamedTuple):
    """A state of a run, its weights and optimizer state apart."""

    described: dict[str, Any]  # with tensors on "meta" in place of those of TENSORS
    tensors: dict[str, torch.Tensor]  # those tensors; of tied weights one


def separate(state: dict[str, Any]) -> Separated:
    """The tensors of `state` apart from the rest."""
    tensors, described = {}, {}
    for key, tensor in _keyed(state):
        if key not in tensors:
            tensors[key] = tensor.detach()
            described[identity(tensor)] = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    whole = {
        name: map_tensors(value, lambda t: described[identity(t)]) if name in TENSORS else value
        for name, value in state.items()
    }
    return Separated(whole, tensors)


def _keyed(state: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of TENSORS with their keys; an object that is there twice has its first key twice."""
    keys: dict[Hashable, str] = {}
    for name in TENSORS:
        for path, tensor in _tensors(state.get(name), (name,)):
            yield keys.setdefault(identity(tensor), ".".join(path)), tensor


def identity(tensor: torch.Tensor) -> Hashable:
    """What tied weights have in common; of those in parts this process may have none, so no memory."""
    if isinstance(tensor, DTensor) or tensor.is_meta or not tensor.numel():
        return id(tensor)
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _tensors(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, (dict, list, tuple)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(inner, (*path, str(key)))


def _mapped(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """`map_tensors`, with one result for an object that is there twice."""
    made: dict[Hashable, Any] = {}

    def once(tensor: torch.Tensor) -> Any:
        if identity(tensor) not in made:
            made[identity(tensor)] = change(tensor)
        return made[identity(tensor)]

    return map_tensors(value, once)


class ShardedWriter:
    """Writes checkpoints together with the other processes, which all must do the same.

    It has a process group of its own, so that it may write in a thread beside the training.
    """

    def __init__(self, world: World) -> None:
        self.is_first = world.is_first
        self.size = world.size
        self._group = torch_dist.new_group(backend="gloo", timeout=_TIMEOUT) if world.size > 1 else None
        self.mesh = DeviceMesh.from_group(self._group, "cpu") if self._group else None

    def is_seen_by_all(self, folder: Path) -> bool:
        """Whether every process sees what rank 0 writes to `folder`."""
        probe = folder / ".seen_by_all"
        if self.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
        self._gather(None)
        seen = all(self._gather(probe.exists()))
        if self.is_first:
            probe.unlink()
        return seen

    def save(self, state: Separated, path: Path, is_newest: bool = True) -> None:
        """Write `state` to `path`; on any failure what was there stays, and every process raises."""
        part = part_of(path)
        try:
            self._on_first(lambda: _start(part, path))
            self._write_parts(state.tensors, part)
            self._on_first(lambda: _complete(state.described, part, path, is_newest))
        except _FailedError as error:
            if self.is_first:
                with contextlib.suppress(OSError):
                    remove(part)
            raise cannot_write(path, error) from error

    def _write_parts(self, tensors: dict[str, torch.Tensor], part: Path) -> None:
        planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        writer = _FileSystemWriter(part, sync_files=True)
        try:
            _save_state_dict(dict(tensors), writer, self._group, 0, self.size == 1, planner)
        except CheckpointException as error:
            raise _FailedError(_cause(error)) from error

    def _on_first(self, step: Callable[[], None]) -> None:
        """Do `step` on rank 0; every process raises what it raises."""
        fault = None
        if self.is_first:
            try:
                step()
            # torch turns a failed write into a RuntimeError of its archive writer.
            except (OSError, RuntimeError) as error:
                fault = str(error if isinstance(error, OSError) else error.__context__ or error)
        fault = self._gather(fault)[0]
        if fault is not None:
            raise _FailedError(fault)

    def _gather(self, value: Any) -> list[Any]:
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch_dist.all_gather_object(values, value, group=self._group)
        return values


class _FailedError(Exception):
    """A write failed, on this process or another."""


def _start(part: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    restore(path)
    remove(part)
    part.mkdir()


def _complete(described: dict[str, Any], part: Path, path: Path, is_newest: bool) -> None:
    checksum = zlib.crc32((part / _METADATA).read_bytes())
    save_archive({**described, "sharded": {"metadata_crc32": checksum}}, part / SHARDED_FILE)
    sync(part)
    put_in_place(part, path)
    if is_newest:
        name_newest(path)


def _cause(error: CheckpointException) -> str:
    """What went wrong on the first process that failed."""
    cause: Any = next(iter(error.failures.values()))[0]
    while not isinstance(cause, OSError) and cause.__context__ is not None:
        cause = cause.__context__
    return str(cause) or type(cause).__name__


def read(folder: Path, described: dict[str, Any], targets: dict[str, Any]) -> None:
    """Read tensors into `targets`, which has the form of `described`, the state or a part of it.

    Of a tensor in parts each process reads its own.
    """
    wanted: dict[str, torch.Tensor] = {}
    copies = []
    for (key, _), (_, target) in zip(_keyed(described), _keyed(targets), strict=True):
        if wanted.setdefault(key, target) is not target:
            copies.append((target, wanted[key]))
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        _load_state_dict(dict(wanted), _Reader(folder), no_dist=True, planner=planner)
    except CheckpointException as error:
        raise CheckpointError(
            translate("{path} cannot be read: {error}", path=folder, error=_cause(error))
        ) from error
    for target, source in copies:
        target.copy_(source)


def read_whole(
    folder: Path, described: dict[str, Any], empty: Callable[..., torch.Tensor] = torch.empty
) -> dict[str, Any]:
    """`described` with whole tensors; `empty(shape, dtype=)` makes the memory for one."""
    whole = {
        name: _mapped(value, lambda t: empty(t.shape, dtype=t.dtype)) if name in TENSORS else value
        for name, value in described.items()
    }
    read(folder, described, whole)
    return whole


class _Unpickler(pickle.Unpickler):
    """Reads the classes of which metadata consist, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        ours = (dcp_metadata.__name__, "torch.distributed.checkpoint.filesystem")
        if module in ours and name in _METADATA_CLASSES:
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), (torch.dtype, torch.layout)):
            return getattr(torch, name)
        if (module, name) in _PLAIN_CLASSES:
            return super().find_class(module, name)
        if (module, name) in _PATHS:
            return PurePosixPath
        raise pickle.UnpicklingError(f"{module}.{name}")


_METADATA_CLASSES = {
    "Metadata",
    "MetadataIndex",
    "TensorStorageMetadata",
    "ChunkStorageMetadata",
    "TensorProperties",
    "StorageMeta",
    "_MEM_FORMAT_ENCODING",
    "_StorageInfo",
}
_PLAIN_CLASSES = {("torch", "Size"), ("torch.serialization", "_get_layout")}
# Python 3.13 alone has its paths in a module of their own.
_PATHS = {("pathlib", "PosixPath"), ("pathlib._local", "PosixPath")}


class _Reader(FileSystemReader):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._metadata = _read_metadata(folder)

    def read_metadata(self) -> Any:
        return self._metadata


def _read_metadata(folder: Path) -> Any:
    try:
        with open(folder / _METADATA, "rb") as file:
            return _Unpickler(file).load()
    except Exception as error:
        raise CheckpointError(
            translate("{path} cannot be read: {error}", path=folder / _METADATA, error=error)
        ) from error


def find_fault(folder: Path) -> str | None:
    """What is wrong with the parts of a checkpoint, or None if all are there and all checksums agree."""
    try:
        saved = read_archive(folder / SHARDED_FILE)["sharded"]["metadata_crc32"]
        if zlib.crc32((folder / _METADATA).read_bytes()) != saved:
            return translate("the checksum of {name} is wrong", name=_METADATA)
        by_file: dict[str, list[Any]] = {}
        for info in _read_metadata(folder).storage_data.values():
            by_file.setdefault(info.relative_path, []).append(info)
        for name, infos in sorted(by_file.items()):
            _check_parts(folder / name, infos)
    except (CheckpointError, OSError, KeyError) as error:
        return str(error)
    return None


def _check_parts(path: Path, infos: list[Any]) -> None:
    """CheckpointError if a part in `path` is damaged: each tensor in it is an archive of torch."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for info in infos:
                part = io.BytesIO(content[info.offset : info.offset + info.length])
                with zipfile.ZipFile(part) as archive:
                    if bad := archive.testzip():
                        raise CheckpointError(
                            translate("the checksum of {name} is wrong", name=f"{path.name}: {bad}")
                        )
                part.seek(0)
                torch.load(part, map_location="cpu", weights_only=True)
    except (CheckpointError, OSError):
        raise
    # A flipped bit in a header looks like another name, an encrypted part, an unknown compression, ...
    except Exception as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            translate("{path} cannot be read: {error}", path=path, error=first_line)
        ) from error
