"""Files that are complete or absent, and what was left out on the way.

.dst.jsonl.part     rows are written here first
dst.jsonl           is replaced by it when all is well; on any failure `.part` is removed
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from xtuner.atomic import written
from xtuner.errors import ConfigError, DataError, NotFoundError
from xtuner.language import translate
from xtuner.locks import writing

NAMED = 3
"""How many of the rows left out a message names, for each reason."""


class RowWriter:
    """Writes rows as JSON: one per line, or as a list where the file is named `.json`."""

    def __init__(self, file: IO[bytes], as_list: bool) -> None:
        self.count = 0
        self._file = file
        self._as_list = as_list

    def write(self, row: Any) -> None:
        """Append one row."""
        self.write_line(json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass"))

    def write_line(self, line: bytes) -> None:
        """Append one row that is JSON already."""
        if self._as_list:
            self._file.write(b",\n" if self.count else b"[\n")
            self._file.write(line)
        else:
            self._file.write(line + b"\n")
        self.count += 1

    def finish(self) -> None:
        """Close the list, if it is one, and sync: the files appear together or not at all."""
        if self._as_list:
            self._file.write(b"\n]\n" if self.count else b"[]\n")
        self._file.flush()
        os.fsync(self._file.fileno())


class LeftOut:
    """How many rows were left out, for which reasons, and the first of them by name."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._places: dict[str, list[str]] = {}

    def add(self, reason: str, place: str) -> None:
        """Count one row."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        places = self._places.setdefault(reason, [])
        if len(places) < NAMED:
            places.append(place)

    def __str__(self) -> str:
        """One line for each reason, empty where nothing was left out."""
        lines = []
        for reason, count in self.counts.items():
            named = ", ".join(self._places[reason]) + (", ..." if count > NAMED else "")
            lines.append(
                translate("left out {count:,}: {reason} ({named})", count=count, reason=reason, named=named)
            )
        return "\n".join(lines)


def check_target(target: Path, sources: tuple[Path, ...], force: bool) -> None:
    """Raise ConfigError where writing `target` would destroy something."""
    if target.is_dir():
        raise ConfigError(translate("{target} is a folder: name a file to write", target=target))
    if any(target.resolve() == source.resolve() for source in sources):
        raise ConfigError(
            translate(
                "{target} is read by this command and cannot be its output: name another file", target=target
            )
        )
    if target.exists() and not force:
        raise ConfigError(translate("{target} exists: pass --force to replace it", target=target))


@contextmanager
def new_rows(*targets: Path) -> Iterator[list[RowWriter]]:
    """A writer for each target; the files appear together when the block ends without an error."""
    with ExitStack() as held:
        for target in targets:
            held.enter_context(writing(target, translate("the output")))
        yield from _new_rows(targets)


def _new_rows(targets: tuple[Path, ...]) -> Iterator[list[RowWriter]]:
    try:
        with ExitStack() as stack:
            parts = [stack.enter_context(written(target)) for target in targets]
            with ExitStack() as files:
                writers = [
                    RowWriter(files.enter_context(open(part, "wb")), target.suffix.lower() == ".json")
                    for part, target in zip(parts, targets, strict=True)
                ]
                yield writers
                for writer in writers:
                    writer.finish()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            names = ", ".join(map(str, targets))
            raise DataError(
                translate("{names} cannot be written: {error}", names=names, error=error.strerror)
            ) from error
        raise


def check_source(source: Path) -> None:
    """Raise NotFoundError where there is no such file."""
    if source.is_file():
        return
    what = (
        "the source {source} is a folder; name a file in it (looked for {place})"
        if source.is_dir()
        else "the source {source} does not exist (looked for {place})"
    )
    raise NotFoundError(translate(what, source=source, place=source.resolve()))


def line_of(source: Path, number: int) -> str:
    """The place of a line of a file, as messages name it."""
    return translate("{source} line {line}", source=source, line=number)


@contextmanager
def progress_bar(title: str, num_bytes: int | None = None) -> Iterator[Callable[[int, int], None]]:
    """A function to call with the bytes and rows done so far; draws nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [TextColumn(title), BarColumn()]
    if num_bytes is not None:
        columns += [DownloadColumn(), TimeRemainingColumn()]
    columns.append(TextColumn(translate("{task.fields[rows]:,} rows, {task.fields[rate]:,.0f} rows/s")))
    hidden = not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden) as progress:
        task = progress.add_task(title, total=num_bytes, rows=0, rate=0.0)

        def advance(done: int, rows: int) -> None:
            elapsed = progress.tasks[0].elapsed or 0
            rate = rows / elapsed if elapsed else 0.0
            progress.update(task, completed=done, rows=rows, rate=rate)

        yield advance
