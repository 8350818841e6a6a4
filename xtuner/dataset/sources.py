"""Where rows come from: `load_dataset` takes a plain file as well as what `datasets.load_dataset` takes.

    load_dataset("../data/x.json")                                   {"train": rows of the file}
    load_dataset("json", data_files=dict(train="x.jsonl"))           {"train": rows of the file}
    load_dataset("../data/*.jsonl"), load_dataset("../data")         {"train": rows of all the files}
    load_dataset("tatsu-lab/alpaca")                                 as `datasets` gives it

JSON, JSON lines, CSV and workbooks are read by this package, so that an error can name file and line; all
else goes to `datasets`.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xtuner import hub
from xtuner.dataset.rows import FileRows, ParquetFile, TableFile, open_json, read_csv, read_xlsx
from xtuner.errors import DataError, NotFoundError
from xtuner.paths import near_it

_OPENERS = {
    ".json": open_json,
    ".jsonl": open_json,
    ".csv": lambda path: TableFile(path, read_csv),
    ".xlsx": lambda path: TableFile(path, read_xlsx),
    ".parquet": ParquetFile,
}
_LEFT_TO_DATASETS = {".parquet": "parquet", ".arrow": "arrow", ".txt": "text"}
_BUILDERS = {"json": (".json", ".jsonl"), "csv": (".csv",), "xlsx": (".xlsx",)}
_SPLITS = {"train", "training", "test", "testing", "eval", "evaluation", "dev", "val", "valid", "validation"}
_PACKED = (".gz", ".zst", ".xz", ".bz2")

_NOT_HERE = (
    "there is no data set {!r} on this machine, and the hub cannot be reached: give the path of a file, such "
    "as load_dataset(path='data.json'), or fetch it where there is a network"
)

DataFiles = str | os.PathLike | Sequence[Any] | Mapping[str, Any]


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
    """Rows by split, or the rows of `split` where one is named.

    `path` is a file, or what `datasets.load_dataset` takes: a format such as `json` with `data_files`, a
    folder or a hub name. Raises NotFoundError for files that do not exist and DataError for what is in them.
    """
    path = os.fspath(path)
    plain_split = split is None or split.isidentifier()
    files = _files_by_split(path, data_files)
    if files is not None and data_dir is None:
        _check_exist(files)
        if name is None and plain_split and not options and _ours(path, files):
            return _open_files(files, split)
        if data_files is None:
            path, data_files = _builder_of(files), files
    return _load_with_datasets(path, name, data_dir, data_files, split, options)


def _files_by_split(path: str, data_files: DataFiles | None) -> dict[str, list[str]] | None:
    """The local files of each split, with patterns filled in, or None where `path` is no file or format."""
    if data_files is None:
        several = _in_folder_or_pattern(path)
        if several:
            return {"train": several}
        is_file = _suffix(path) in (*_OPENERS, *_LEFT_TO_DATASETS) or os.path.isfile(path)
        # No hub name looks like this.
        is_file |= path.startswith((".", "/", "~")) and not os.path.isdir(path)
        return {"train": [path]} if is_file and "://" not in path else None
    by_split = data_files if isinstance(data_files, Mapping) else {"train": data_files}
    files = {
        split: [os.fspath(f) for f in ([given] if isinstance(given, (str, os.PathLike)) else given)]
        for split, given in by_split.items()
    }
    if any("://" in file for group in files.values() for file in group) or not _is_format(path):
        return None
    return {
        split: [match for file in group for match in (sorted(glob.glob(file, recursive=True)) or [file])]
        for split, group in files.items()
    }


def _in_folder_or_pattern(path: str) -> list[str]:
    """The data files in a folder and below it, or that a pattern matches, by name; empty for anything else.

    A folder whose files or folders are named after splits is left to `datasets`, which knows them.
    """
    if "://" in path:
        return []
    if not os.path.isdir(path):
        is_pattern = glob.has_magic(path) and not os.path.exists(path)
        return sorted(filter(os.path.isfile, glob.glob(path, recursive=True))) if is_pattern else []
    found = [file for file in sorted(Path(path).rglob("*")) if _is_data(file, Path(path))]
    words = {word for file in found for word in re.split(r"[\W_]+", str(file.relative_to(path)).lower())}
    return [] if words & _SPLITS else [str(file) for file in found]


def _is_data(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    return not hidden and file.is_file() and _suffix(str(file)) in (*_OPENERS, ".parquet")


def _is_format(path: str) -> bool:
    return path in _BUILDERS or path in _LEFT_TO_DATASETS.values()


def _suffix(path: str) -> str:
    """The suffix that tells the format, without that of a packer."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _check_exist(files: Mapping[str, list[str]]) -> None:
    for split, group in files.items():
        for file in group:
            if os.path.isfile(file):
                continue
            if os.path.isdir(file):
                raise NotFoundError(
                    f"the data file of split {split!r} is a folder: {file}; name a file in it"
                )
            looked = f"(looked for {Path(file).resolve()})"
            raise NotFoundError(f"there is no data file {file} {looked}{near_it(file)}")


def _ours(path: str, files: Mapping[str, list[str]]) -> bool:
    """Whether this package reads all the files itself."""
    suffixes = {Path(file).suffix.lower() for group in files.values() for file in group}
    if _is_format(path):
        return suffixes <= set(_BUILDERS.get(path, ()))
    # Tables of one kind are left to `datasets`; only this package reads them beside others.
    return suffixes <= _OPENERS.keys() - ({".parquet"} if len(suffixes) == 1 else set())


def _open_files(files: Mapping[str, list[str]], split: str | None) -> Any:
    rows = RowsBySplit(
        (name, FileRows([_OPENERS[Path(file).suffix.lower()](Path(file)) for file in group]))
        for name, group in files.items()
    )
    if split is None:
        return rows
    if split not in rows:
        raise DataError(f"there is no split {split!r}; the files have {', '.join(map(repr, rows))}")
    return rows[split]


def _builder_of(files: Mapping[str, list[str]]) -> str:
    names = [file for group in files.values() for file in group]
    path = Path(names[0])
    suffix = _suffix(names[0])
    kinds = sorted({_suffix(name) for name in names})
    if len(kinds) > 1:
        raise DataError(f"files of the kinds {', '.join(kinds)} cannot be read together: {path}, ...")
    formats = {s: name for name, suffixes in _BUILDERS.items() for s in suffixes} | _LEFT_TO_DATASETS
    if suffix not in formats:
        raise DataError(
            f"{path}: data files may be {', '.join(sorted(formats))}; give the format by its name otherwise, "
            f"such as load_dataset(path='json', data_files='{path.name}')"
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

    cached = Path(datasets.config.HF_DATASETS_CACHE) / path.replace("/", "___")
    if not (data_files or os.path.exists(path) or cached.is_dir() or hub.is_reachable()):
        raise NotFoundError(_NOT_HERE.format(path))
    try:
        return datasets.load_dataset(
            path, name=name, data_dir=data_dir, data_files=data_files, split=split, **options
        )
    except datasets.exceptions.DatasetNotFoundError as error:
        raise NotFoundError(f"there is no data set {path!r}, neither here nor on the hub: {error}") from error
    except ConnectionError as error:
        raise NotFoundError(f"{_NOT_HERE.format(path)} ({error})") from error
    except datasets.exceptions.DatasetGenerationError as error:
        raise DataError(f"{path!r} cannot be read: {error.__cause__ or error}") from error
