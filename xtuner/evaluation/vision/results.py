"""Scores on the terminal, and the files of a run: a workbook with every answer, and JSON."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from xtuner import atomic
from xtuner.evaluation.vision.benchmarks import Scores
from xtuner.extras import install_extra
from xtuner.language import translate
from xtuner.log import logger

# Workbooks may not contain these.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
_MOST_LETTERS = 32_767  # in a cell of a workbook


def print_scores(title: str, scores: Scores) -> None:
    """Print the title, the table and the summary of a benchmark."""
    # rich's markup would read [ ] in names.
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    table = Table()
    for number, name in enumerate(scores.header):
        table.add_column(translate(name) if name else "", justify="right" if number else "left")
    for section in scores.sections:
        for line in section:
            table.add_row(*line)
        table.add_section()
    console.print(title)
    console.print(table, soft_wrap=False)
    if scores.summary:
        console.print(scores.summary)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write `rows` as the workbook `path`, or without openpyxl as .csv beside it; returns the file."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    try:
        import openpyxl  # noqa: F401
    except ImportError:
        path = path.with_suffix(".csv")
        what = translate("openpyxl is not installed, so the answers are in %s; for a workbook: %s")
        logger.warning(what, path, install_extra("excel"))
        with atomic.written(path) as part, part.open("w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file).writerows(lines)
        return path
    with atomic.written(path) as part:
        _write_workbook(part, lines)
    return path


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, (int, float)):
        return value
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _write_workbook(path: Path, lines: Iterable[Sequence[Any]]) -> None:
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell

    book = Workbook(write_only=True)
    sheet = book.create_sheet("answers")
    for line in lines:
        cells = []
        for value in line:
            text = _CONTROL.sub("\ufffd", value)[:_MOST_LETTERS] if isinstance(value, str) else value
            made = WriteOnlyCell(sheet, text)
            if isinstance(text, str):
                made.data_type = "s"  # an answer such as "=1+1" is text, not a formula
            cells.append(made)
        sheet.append(cells)
    book.save(path)
