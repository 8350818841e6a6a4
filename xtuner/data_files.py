"""The files that a call of `load_dataset` names, found out without opening one.

load_dataset("../data/*.jsonl")                            the files that match
load_dataset("json", data_files=dict(train="x.jsonl"))     x.jsonl
load_dataset("tatsu-lab/alpaca")                           None: `datasets` finds them
"""

from __future__ import annotations

import glob
import itertools
import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xtuner.errors import DataError, NotFoundError
from xtuner.extras import pip_install
from xtuner.language import translate
from xtuner.paths import near_it

READ = (".json", ".jsonl", ".csv", ".tsv", ".xlsx", ".parquet")
"""Suffixes of the formats that this package reads."""

SHARDS = ".tar"
"""The suffix of WebDataset shards; those in a folder are not read as rows, as they may hold only images."""

LEFT_TO_DATASETS = {".parquet": "parquet", ".arrow": "arrow", ".txt": "text"}
FORMATS = {"json": (".json", ".jsonl"), "csv": (".csv", ".tsv"), "xlsx": (".xlsx",)}
"""The formats that a config may name, with their suffixes."""

PACKED = (".gz", ".bz2", ".xz", ".zst")
WEB = ("http://", "https://")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "oss": "ossfs", "az": "adlfs"}
"""The package with which fsspec knows a protocol."""

_BRACES = re.compile(r"\{(?:(?P<first>\d+)\.\.(?P<last>\d+)|(?P<list>[^{},/]+(?:,[^{},/]+)+))\}")
_SPLITS = {"train", "training", "test", "testing", "eval", "evaluation", "dev", "val", "valid", "validation"}

DataFiles = str | os.PathLike | Sequence[Any] | Mapping[str, Any]


def named_files(path: str, data_files: DataFiles | None = None) -> list[str] | None:
    """The files and addresses that such a call reads, patterns filled in; None for what `datasets` finds."""
    files = files_by_split(os.path.expanduser(path), data_files)
    return None if files is None else list(itertools.chain(*files.values()))


def files_by_split(path: str, data_files: DataFiles | None) -> dict[str, list[str]] | None:
    """The files of each split, with patterns filled in, or None where `path` is no file or format."""
    if data_files is None:
        names = with_braces(path)
        if len(names) > 1:
            return {"train": [name for one in names for name in _in_folder_or_pattern(one) or [one]]}
        if is_elsewhere(path) and not _is_read(path):
            raise DataError(
                translate(
                    "{path} does not end like a data file ({endings}, ...): give the address of the "
                    "file itself, or download it and give its path",
                    path=path,
                    endings=", ".join((*READ, *LEFT_TO_DATASETS)[:5]),
                )
            )
        several = _in_folder_or_pattern(path)
        if several:
            return {"train": several}
        is_file = _is_read(path) or os.path.isfile(path)
        # No hub name looks like this.
        is_file |= (path.startswith((".", "/")) or path.count("/") > 1) and not os.path.isdir(path)
        return {"train": [path]} if is_file else None
    by_split = data_files if isinstance(data_files, Mapping) else {"train": data_files}
    files = {
        split: [
            name
            for file in ([given] if isinstance(given, (str, os.PathLike)) else given)
            for name in with_braces(os.path.expanduser(file))
        ]
        for split, given in by_split.items()
    }
    if any(is_elsewhere(file) and not _is_read(file) for group in files.values() for file in group):
        return None
    if not is_format(path):
        return None
    return {
        split: [match for file in group for match in (sorted(glob.glob(file, recursive=True)) or [file])]
        for split, group in files.items()
    }


def _in_folder_or_pattern(path: str) -> list[str]:
    """The data files in a folder and below it, or that a pattern matches, by name; empty for anything else.

    A folder whose files or folders are named after splits is left to `datasets`, which knows them.
    """
    if is_elsewhere(path):
        return []
    if not os.path.isdir(path):
        is_pattern = glob.has_magic(path) and not os.path.exists(path)
        return sorted(filter(os.path.isfile, glob.glob(path, recursive=True))) if is_pattern else []
    found = [file for file in sorted(Path(path).rglob("*")) if _is_data(file, Path(path))]
    words = {word for file in found for word in re.split(r"[\W_]+", str(file.relative_to(path)).lower())}
    return [] if words & _SPLITS else [str(file) for file in found]


def _is_data(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    return not hidden and file.is_file() and suffix_of(str(file)) in READ


def _is_read(name: str) -> bool:
    """Whether the name is that of a file whose format is known."""
    return suffix_of(name) in (*READ, *LEFT_TO_DATASETS, SHARDS)


def with_braces(name: str | os.PathLike) -> list[str]:
    """The names that one with braces stands for, as a shell fills them in: `{000..002}`, `{a,b}`.

    A name without braces, or of a file that is there, stands for itself.
    """
    name = os.fspath(name)
    match = _BRACES.search(name)
    if match is None or os.path.exists(name):
        return [name]
    if match["first"] is None:
        parts = match["list"].split(",")
    else:
        first, last = int(match["first"]), int(match["last"])
        width = len(match["first"]) if match["first"].startswith("0") else 0
        parts = [str(n).zfill(width) for n in range(first, last + 1)]
    rest = with_braces(name[match.end() :]) if parts else []
    return [name[: match.start()] + part + end for part in parts for end in rest]


def is_elsewhere(name: str) -> bool:
    """Whether that is an address rather than a path."""
    return "://" in name


def file_name(address: str) -> str:
    """The name of the file at an address, or of a path."""
    if address.lower().startswith(WEB):
        address = urllib.parse.unquote(urllib.parse.urlsplit(address).path)
    return address.rstrip("/").rpartition("/")[2]


def is_format(path: str) -> bool:
    """Whether that is the name of a format and no path."""
    return path in FORMATS or path in LEFT_TO_DATASETS.values()


def suffix_of(path: str) -> str:
    """The suffix that tells the format, without that of a packer."""
    suffixes = [suffix.lower() for suffix in Path(file_name(path)).suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def check_there(file: str) -> None:
    """NotFoundError where a file is not here, DataError for an address that this machine cannot read."""
    if is_elsewhere(file):
        check_protocol(file)
        return
    if os.path.isfile(file):
        return
    if os.path.isdir(file):
        raise NotFoundError(translate("the data file {file} is a folder: name a file in it", file=file))
    raise NotFoundError(
        translate(
            "there is no data file {file} (looked for {place}){near}",
            file=file,
            place=Path(file).resolve(),
            near=near_it(file),
        )
    )


def check_protocol(address: str) -> None:
    """DataError where nothing on this machine reads such addresses."""
    if address.lower().startswith(WEB):
        return
    import fsspec

    protocol = address.partition("://")[0]
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        cure = str(error).partition("\n")[0]
        if package:
            cure = translate(
                "the package {package}: {command}", package=package, command=pip_install(package)
            )
        raise DataError(translate("{address} needs {cure}", address=address, cure=cure)) from None
    except ValueError:
        raise DataError(
            translate(
                "{address}: the protocol {protocol!r} is not known; download the file and give its path",
                address=address,
                protocol=protocol,
            )
        ) from None
