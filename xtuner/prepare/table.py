"""Convert a table to conversations.

question         | answer                 {"conversation": [{"system": "You are a doctor.",
What is aspirin? | A pain reliever.  ->       "input": "What is aspirin?",
                                              "output": "A pain reliever."}]}
"""

from __future__ import annotations

import contextlib
import csv
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtuner.dataset.reading.tables import damage_named, separator
from xtuner.errors import DataError, did_you_mean
from xtuner.extras import install_extra
from xtuner.language import translate
from xtuner.log import logger
from xtuner.prepare.writing import LeftOut, check_source, check_target, line_of, new_rows, progress_bar

TEXTS = (".csv", ".tsv")
_EVERY = 500
_LONGEST_CELL = 1 << 30
_NUM_SNIFFED = 50
"""Number of lines that the separator is detected from."""


@dataclass(frozen=True)
class Line:
    """One line of a table: its number, its cells, and the bytes read so far (0 if unknown)."""

    number: int
    cells: Sequence[Any]
    num_bytes: int


def convert_table(
    source: Path,
    target: Path,
    input_column: str,
    output_column: str,
    *,
    system: str | None = None,
    sheet: str | None = None,
    encoding: str = "utf-8",
    force: bool = False,
) -> tuple[int, LeftOut]:
    """The number of conversations written to `target`, and what was left out.

    `system` is the name of a column, or else the system text of every conversation.
    """
    check_source(source)
    check_target(target, (source,), force)
    lines = read_lines(source, sheet, encoding)
    head = next(lines, None)
    if head is None:
        raise DataError(translate("{source} is empty: its first line must name the columns", source=source))
    names = ["" if name is None else str(name).strip() for name in head.cells]
    at_input, at_output = (_column(names, c, source, head.number) for c in (input_column, output_column))
    at_system = _column(names, system, source, head.number) if system in names else None
    if system is not None and at_system is None:
        logger.info(translate("no column is named %r: it is the system text of every row"), system)
    left_out = LeftOut()
    is_text = source.suffix.lower() in TEXTS
    with (
        progress_bar(source.name, source.stat().st_size if is_text else None) as advance,
        new_rows(target) as [rows],
    ):
        for done, line in enumerate(lines, start=1):
            reason = _fault(line.cells, len(names), {input_column: at_input, output_column: at_output})
            if reason == "":
                turn = {"input": _text(line.cells[at_input]), "output": _text(line.cells[at_output])}
                words = system if at_system is None else _text(_cell(line.cells, at_system))
                rows.write({"conversation": [{"system": words, **turn} if words else turn]})
            elif reason is not None:
                left_out.add(reason, line_of(source, line.number))
            if done % _EVERY == 0:
                advance(line.num_bytes, done)
        if not rows.count:
            raise DataError(
                translate(
                    "{source} has no row with both {input_column!r} and {output_column!r}. {left_out}",
                    source=source,
                    input_column=input_column,
                    output_column=output_column,
                    left_out=left_out,
                )
            )
    return rows.count, left_out


def read_lines(source: Path, sheet: str | None, encoding: str) -> Iterator[Line]:
    """The lines of a table, one at a time."""
    suffix = source.suffix.lower()
    if suffix in TEXTS:
        return _read_text(source, encoding)
    if suffix in (".xlsx", ".xlsm"):
        return _read_workbook(source, sheet)
    raise DataError(
        translate("{source}: a table is an .xlsx, .csv or .tsv file; save it as one of these", source=source)
    )


def _read_text(source: Path, encoding: str) -> Iterator[Line]:
    done = 0

    def decoded() -> Iterator[str]:
        nonlocal done
        with open(source, "rb") as file:
            for number, line in enumerate(file, start=1):
                done += len(line)
                try:
                    text = line.decode(encoding)
                except UnicodeDecodeError as error:
                    raise DataError(
                        translate(
                            "{source} line {number} byte {byte}: not valid {encoding}. Give its encoding, "
                            "such as --encoding gbk",
                            source=source,
                            number=number,
                            byte=error.start + 1,
                            encoding=encoding,
                        )
                    ) from None
                except LookupError:
                    raise DataError(
                        translate(
                            "there is no encoding {encoding!r}; try utf-8, gbk or big5", encoding=encoding
                        )
                    ) from None
                yield text.removeprefix("\ufeff") if number == 1 else text

    limit = csv.field_size_limit(_LONGEST_CELL)
    start = 1
    try:
        lines = decoded()
        first = list(itertools.islice(lines, _NUM_SNIFFED))
        mark = separator("".join(first), str(source), source.suffix.lower())
        reader = csv.reader(itertools.chain(first, lines), delimiter=mark, strict=True)
        for cells in reader:
            yield Line(start, cells, done)
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            translate("{source} line {start}: broken table: {error}", source=source, start=start, error=error)
        ) from None
    finally:
        csv.field_size_limit(limit)


def _read_workbook(source: Path, sheet: str | None) -> Iterator[Line]:
    try:
        import openpyxl
    except ImportError:
        raise DataError(
            translate(
                "{source}: reading .xlsx needs openpyxl: {command}, or save the sheet as .csv",
                source=source,
                command=install_extra("excel"),
            )
        ) from None
    with damage_named(str(source)), contextlib.ExitStack() as stack:
        book = openpyxl.load_workbook(source, read_only=True, data_only=True)
        stack.callback(book.close)
        if sheet is not None and sheet not in book.sheetnames:
            raise DataError(
                translate(
                    "{source} has no sheet {sheet!r}; it has {names}.{hint}",
                    source=source,
                    sheet=sheet,
                    names=", ".join(map(repr, book.sheetnames)),
                    hint=did_you_mean(sheet, book.sheetnames),
                )
            )
        if sheet is None and len(book.sheetnames) > 1:
            names = ", ".join(map(repr, book.sheetnames))
            logger.warning(
                translate("%s has the sheets %s: only the first is read; --sheet names another"),
                source,
                names,
            )
        cells = book[sheet or book.sheetnames[0]].iter_rows(values_only=True)
        for number, line in enumerate(cells, start=1):
            yield Line(number, line, 0)


def _column(names: list[str], wanted: str | None, source: Path, line: int) -> int:
    """The index of the column `wanted`."""
    if wanted not in names:
        known = ", ".join(repr(name) for name in names if name) or translate("(none)")
        hint = did_you_mean(str(wanted), names)
        raise DataError(
            translate(
                "{source} line {line} names no column {wanted!r}; it names {known}.{hint}",
                source=source,
                line=line,
                wanted=wanted,
                known=known,
                hint=hint,
            )
        )
    if names.count(wanted) > 1:
        raise DataError(
            translate(
                "{source} line {line} names {count} columns {wanted!r}: rename one",
                source=source,
                line=line,
                count=names.count(wanted),
                wanted=wanted,
            )
        )
    return names.index(wanted)


def _fault(cells: Sequence[Any], num_names: int, needed: dict[str, int]) -> str | None:
    """The reason why a line cannot be used; `""` if it can, None if it is empty."""
    if all(_is_empty(cell) for cell in cells):
        return None
    if not all(_is_empty(cell) for cell in cells[num_names:]):
        return translate("more cells than the {count} columns", count=num_names)
    for name, at in needed.items():
        if _is_empty(_cell(cells, at)):
            return translate("{name!r} is empty", name=name)
    return ""


def _cell(cells: Sequence[Any], at: int) -> Any:
    return cells[at] if at < len(cells) else None


def _is_empty(cell: Any) -> bool:
    return not _text(cell).strip()


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)
