"""The table of all checkpoints of a run by all that was measured of them, and its file.

checkpoint          loss   perplexity   arc acc
base              2.4131      11.1688    0.4000
iter_100.pth      1.9012       6.6939    0.5100*
iter_200.pth      1.8711*      6.4954*   0.5000
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from xtuner.evaluation.run_folder import write_json
from xtuner.language import translate

FILE = "checkpoints.json"


@dataclass
class Part:
    """Numbers that were measured together, and the key of all that they depend on."""

    key: str
    metrics: dict[str, float]
    standard_errors: dict[str, float] = field(default_factory=dict)


@dataclass
class Row:
    """A checkpoint, with its parts by "validation" and "tasks"; `fault`: why it could not be measured."""

    name: str
    path: str | None
    parts: dict[str, Part] = field(default_factory=dict)
    fault: str | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """All numbers by name."""
        return {name: value for part in self.parts.values() for name, value in part.metrics.items()}


@dataclass(frozen=True)
class Table:
    """Rows, and for each number whether larger is better."""

    rows: Sequence[Row]
    better_if_larger: Mapping[str, bool]

    def best(self, name: str) -> list[str]:
        """The names of the rows with the best value of a number."""
        values = {row.name: row.metrics[name] for row in self.rows if name in row.metrics}
        values = {row: value for row, value in values.items() if not math.isnan(value)}
        best = (max if self.better_if_larger[name] else min)(values.values(), default=None)
        return [row for row, value in values.items() if value == best]

    @property
    def deciding(self) -> str | None:
        """The first number that differs between rows, else the first; None without numbers."""
        measured = {name: sum(name in row.metrics for row in self.rows) for name in self.better_if_larger}
        apart = (name for name, count in measured.items() if len(self.best(name)) < count)
        return next(apart, next(iter(measured), None))


def read_table(file: Path) -> Table:
    """The table in a file of `write_table`; one without rows if there is none, or it is damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        rows = [
            Row(r["name"], r["path"], {n: Part(**part) for n, part in r["parts"].items()}, r["fault"])
            for r in found["checkpoints"]
        ]
        return Table(rows, found["better_if_larger"])
    except (OSError, ValueError, KeyError, TypeError):
        return Table([], {})


def write_table(table: Table, file: Path) -> None:
    """Write the table as JSON, with the best checkpoints of each number."""
    content: dict[str, Any] = {
        "checkpoints": [dataclasses.asdict(row) for row in table.rows],
        "better_if_larger": dict(table.better_if_larger),
        "best": {name: table.best(name) for name in table.better_if_larger},
    }
    write_json(file, content)


def print_table(table: Table) -> None:
    """Print the table; where the terminal is too narrow, in parts one below the other."""
    console = Console(highlight=False, markup=False, emoji=False)
    limit = console.width if console.is_terminal else 10**6
    names = list(table.better_if_larger)
    while names:
        shown, width = _shown(table, names)
        count = len(names)
        while width > limit and count > 1:
            count -= 1
            shown, width = _shown(table, names[:count])
        console.width = width
        console.print(shown)
        names = names[count:]


def _shown(table: Table, names: Sequence[str]) -> tuple[RichTable, int]:
    """The table with the columns `names`, and its width."""
    shown = RichTable()
    shown.add_column(translate("checkpoint"), no_wrap=True)
    best = {name: table.best(name) for name in names}
    for name in names:
        # The task above its metric.
        shown.add_column(name.replace(" ", "\n", 1), justify="right", no_wrap=True, vertical="bottom")
    for row in table.rows:
        shown.add_row(row.name, *(_cell(row, name, best[name]) for name in names))
    return shown, Console(width=10**6).measure(shown).maximum


def _cell(row: Row, name: str, best: Sequence[str]) -> str:
    if name not in row.metrics:
        return "-  "
    value = row.metrics[name]
    text = f"{value:.4f}" if abs(value) < 10_000 else f"{value:.4g}"
    return f"{text} {'*' if row.name in best else ' '}"
