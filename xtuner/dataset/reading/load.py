"""Load rows: `load_dataset` takes data files, and all that `datasets.load_dataset` takes.

    load_dataset("../data/x.json")                                   {"train": rows of the file}
    load_dataset("json", data_files=dict(train="x.jsonl"))           {"train": rows of the file}
    load_dataset("../data/*.jsonl"), load_dataset("../data")         {"train": rows of all the files}
    load_dataset("https://host/x.jsonl.gz")                          {"train": rows of the file}
    load_dataset("shard-{000..010}.tar")                             {"train": samples of WebDataset shards}
    load_dataset("tatsu-lab/alpaca")                                 as `datasets` returns it

This package reads JSON, JSON lines, tables, workbooks and shards, also compressed or remote ones, so that an
error can name file and line; `datasets` reads all else.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xtuner import hub
from xtuner.data_files import (
    FORMATS,
    LEFT_TO_DATASETS,
    PACKED,
    SHARDS,
    DataFiles,
    check_there,
    files_by_split,
    is_elsewhere,
    is_format,
    suffix_of,
)
from xtuner.dataset.reading.copies import fetched, unpacked
from xtuner.dataset.reading.files import FileRows, RowsFile
from xtuner.dataset.reading.json_files import open_json
from xtuner.dataset.reading.shards import ShardFile
from xtuner.dataset.reading.tables import ParquetFile, TableFile, read_csv, read_xlsx
from xtuner.errors import DataError, NotFoundError
from xtuner.language import translate

_OPENERS: dict[str, Callable[[Path, str], RowsFile]] = {
    ".json": open_json,
    ".jsonl": open_json,
    ".csv": functools.partial(TableFile, read_csv),
    ".tsv": functools.partial(TableFile, read_csv),
    ".xlsx": functools.partial(TableFile, read_xlsx),
    ".parquet": ParquetFile,
    SHARDS: ShardFile,
}
_LFS = b"version https://git-lfs.github.com/"

_HUB_PAGE = re.compile(r"(?:hf://|https://huggingface\.co/)datasets/([^/]+/[^/]+)/?$")
"""The URL of a data set on the hub; it contains the name."""

_NOT_HERE = (
    "there is no data set {path!r} on this machine, and the hub cannot be reached: give the path of a file, "
    "such as data.json, or fetch it where there is a network"
)


class RowsBySplit(dict):
    """Rows by the name of their split, such as `train`."""


def load_dataset(
    path: str | os.PathLike,
    name: str | None = None,
    data_dir: str | None = None,
    data_files: DataFiles | None = None,
    split: str | None = None,
    **options: Any,
) -> Any:
    """Rows by split, or the rows of `split` if given.

    `path` is a file, or what `datasets.load_dataset` takes: a format such as `json` with `data_files`, a
    folder or a hub name. Raises NotFoundError if a file does not exist and DataError if its content is wrong.
    """
    path = _HUB_PAGE.sub(r"\1", os.path.expanduser(path))
    if _is_saved(path):
        return _load_saved(path, split)
    plain_split = split is None or split.isidentifier()
    files = files_by_split(path, data_files)
    if files is not None and data_dir is None:
        for file in itertools.chain(*files.values()):
            check_there(file)
        if name is None and plain_split and not options and _ours(path, files):
            return _open_files(files, split)
        path = path if is_format(path) else _builder_of(files)
        data_files = {split: [str(_plain(file)) for file in group] for split, group in files.items()}
    try:
        return _load_with_datasets(path, name, data_dir, data_files, split, options)
    except DataError:
        names = itertools.chain(*files.values()) if files else map(str, sorted(Path(path).rglob("*.parquet")))
        for file in names:
            _check_parquet(file)
        raise


def _is_saved(path: str) -> bool:
    """Whether `path` is a folder written by `save_to_disk` of `datasets`."""
    is_split = all(os.path.isfile(os.path.join(path, name)) for name in ("state.json", "dataset_info.json"))
    return is_split or os.path.isfile(os.path.join(path, "dataset_dict.json"))


def _load_saved(path: str, split: str | None) -> Any:
    import datasets
    import pyarrow

    try:
        saved = datasets.load_from_disk(path)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(
            translate(
                "{path}: not a folder of save_to_disk, or a damaged one: {error}", path=path, error=error
            )
        ) from None
    by_split = saved if isinstance(saved, dict) else RowsBySplit(train=saved)
    return by_split if split is None else _of_split(by_split, split)


def _of_split(by_split: Mapping[str, Any], split: str) -> Any:
    if split not in by_split:
        raise DataError(
            translate(
                "there is no split {split!r}; the files have {names}",
                split=split,
                names=", ".join(map(repr, by_split)),
            )
        )
    return by_split[split]


def _ours(path: str, files: Mapping[str, list[str]]) -> bool:
    """Whether this package reads all the files, without `datasets`."""
    suffixes = {suffix_of(file) for group in files.values() for file in group}
    if is_format(path):
        return suffixes <= set(FORMATS.get(path, ()))
    # Parquet files alone are left to `datasets`; only this package reads them beside others.
    return suffixes <= _OPENERS.keys() - ({".parquet"} if len(suffixes) == 1 else set())


def _open_files(files: Mapping[str, list[str]], split: str | None) -> Any:
    rows = RowsBySplit((name, FileRows([_open(file) for file in group])) for name, group in files.items())
    return rows if split is None else _of_split(rows, split)


def _open(name: str) -> RowsFile:
    path = _plain(name)
    with open(path, "rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise DataError(
                translate(
                    "{name} is a pointer of git-lfs, not the data: git lfs pull downloads it", name=name
                )
            )
    return _OPENERS[path.suffix.lower()](path, name)


def _plain(name: str) -> Path:
    """The file of that name, or a local plain copy if it is compressed or remote."""
    path = fetched(name) if is_elsewhere(name) else Path(name)
    return unpacked(path, name) if path.suffix.lower() in PACKED else path


def _check_parquet(name: str) -> None:
    """DataError with the file's name if a Parquet file cannot be read to its end: `datasets` names none."""
    if suffix_of(name) == ".parquet":
        for _ in ParquetFile(_plain(name), name):
            pass


def _builder_of(files: Mapping[str, list[str]]) -> str:
    names = [file for group in files.values() for file in group]
    path = Path(names[0])
    suffix = suffix_of(names[0])
    kinds = sorted({suffix_of(name) for name in names})
    if len(kinds) > 1:
        raise DataError(
            translate(
                "files of different kinds ({kinds}) cannot be read together: {path}, ...",
                path=path,
                kinds=", ".join(kinds),
            )
        )
    formats = {s: name for name, suffixes in FORMATS.items() for s in suffixes} | LEFT_TO_DATASETS
    if suffix not in formats:
        raise DataError(
            translate(
                "{path}: data files may be {endings}; for others give the format by name, such as "
                "load_dataset(path='json', data_files='{name}')",
                path=path,
                name=path.name,
                endings=", ".join(sorted(formats)),
            )
        )
    return formats[suffix]


def _load_with_datasets(
    path: str,
    name: str | None,
    data_dir: str | None,
    data_files: DataFiles | None,
    split: str | None,
    options: Mapping[str, Any],
) -> Any:
    import datasets
    import pyarrow

    cached = Path(datasets.config.HF_DATASETS_CACHE) / path.replace("/", "___")
    if not (data_files or os.path.exists(path) or cached.is_dir() or hub.is_reachable()):
        raise NotFoundError(translate(_NOT_HERE, path=path))
    try:
        return datasets.load_dataset(
            path, name=name, data_dir=data_dir, data_files=data_files, split=split, **options
        )
    except datasets.exceptions.DatasetNotFoundError as error:
        raise NotFoundError(
            translate(
                "there is no data set {path!r}, neither here nor on the hub: {error}", path=path, error=error
            )
        ) from error
    except ConnectionError as error:
        raise NotFoundError(f"{translate(_NOT_HERE, path=path)} ({error})") from error
    except FileNotFoundError as error:
        raise NotFoundError(translate("{path!r} cannot be read: {error}", path=path, error=error)) from error
    except (datasets.exceptions.DatasetsError, pyarrow.ArrowException, OSError) as error:
        raise DataError(
            translate("{path!r} cannot be read: {error}", path=path, error=error.__cause__ or error)
        ) from error
