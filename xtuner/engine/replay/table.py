"""A comparison on the terminal: a line for each part, and the verdict."""

from __future__ import annotations

from xtuner.engine.replay.compare import Comparison
from xtuner.language import cells, translate


def table(found: Comparison) -> list[str]:
    """The lines to print.

    template             DIFFERS   train_dataloader.dataset.template_map_fn.template.SYSTEM: ...
    update 1 rows        equal     4 rows
    """
    rows = [(line.title, translate(line.state), line.detail) for line in found.lines]
    widths = [max(cells(row[column]) for row in rows) for column in (0, 1)]
    lines = []
    for row in rows:
        padded = [text + " " * (width - cells(text)) for text, width in zip(row[:2], widths, strict=True)]
        lines.append("  ".join([*padded, row[2]]).rstrip())
    return [*lines, "", found.verdict]
