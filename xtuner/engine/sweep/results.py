"""What came out of the variants: a table, a JSON file and a page with their curves.

WORK_DIR/sweep.json     options, status, final loss and best validation metric of each variant
WORK_DIR/sweep.html     the same, with the curves of all variants over each other
WORK_DIR/VARIANT/*/vis_data/scalars.json     where the numbers come from: one file for each start of a run
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from xtuner.atomic import written
from xtuner.checkpoint_paths import find_last
from xtuner.engine.hooks.validated import RULES
from xtuner.html_page import html_page
from xtuner.language import language, padded, translate
from xtuner.svg_curves import colour, svg_curves
from xtuner.work_dir import Curve, read_curves

JSON, PAGE = "sweep.json", "sweep.html"
WAITING, FINISHED, FAILED = "waiting", "finished", "failed"


@dataclass
class Result:
    """A variant: its status and numbers; `metric` is None without validation."""

    name: str
    options: Sequence[str]
    work_dir: str
    status: str = WAITING
    error: str = ""
    metric: str | None = None
    rule: str = "less"
    iters: int = 0
    final_loss: float | None = None
    best_value: float | None = None
    best_iter: int | None = None
    is_best: bool = False
    checkpoint: str | None = None
    curves: dict[str, Curve] = field(default_factory=dict)


@dataclass
class Results:
    """Variants by name, and the seed of those whose config has none."""

    variants: dict[str, Result] = field(default_factory=dict)
    seed: int | None = None


def read_results(work_dir: Path) -> Results:
    """The results of an earlier start of the sweep."""
    try:
        found = json.loads((work_dir / JSON).read_text(encoding="utf-8"))
        return Results({row["name"]: Result(**row) for row in found["variants"]}, found["seed"])
    except (OSError, ValueError, KeyError, TypeError):
        return Results()


def write_results(work_dir: Path, found: Results) -> None:
    """Bring the results up to date with the scalars on the disk, and write both files."""
    results = list(found.variants.values())
    for result in results:
        measure(result)
    mark_best(results)
    # Curves are in the folders of the variants.
    rows = [{name: v for name, v in asdict(result).items() if name != "curves"} for result in results]
    text = json.dumps({"seed": found.seed, "variants": rows}, indent=1, ensure_ascii=False) + "\n"
    for name, content in {JSON: text, PAGE: page(work_dir.name, results)}.items():
        with written(work_dir / name) as part:
            part.write_text(content, encoding="utf-8")


def measure(result: Result) -> None:
    """Fill in the numbers of a variant from its scalars."""
    work_dir = Path(result.work_dir)
    last = find_last(work_dir)
    result.checkpoint = None if last is None else str(work_dir / Path(last).name)
    curves = read_curves(work_dir)
    result.curves = {name: c for name, c in curves.items() if name == "loss" or name.startswith("val/")}
    loss = result.curves.get("loss", [])
    if loss:
        result.iters, result.final_loss = int(loss[-1][0]), loss[-1][1]
    # A NaN is no best value.
    measured = [p for p in result.curves.get(f"val/{result.metric}", []) if p[1] == p[1]]
    if measured:
        choose = min if result.rule == "less" else max
        step, result.best_value = choose(measured, key=lambda p: p[1])
        result.best_iter = int(step)


def mark_best(results: Sequence[Result]) -> None:
    """Mark the best variant: by its best validation metric if all that ended have one, else by final loss."""
    ended = [r for r in results if r.status == FINISHED]
    for result in results:
        result.is_best = False
    by_metric = bool(ended) and all(r.best_value is not None for r in ended)
    best: Result | None = None
    for result in ended:
        value = result.best_value if by_metric else result.final_loss
        if value is None or value != value:
            continue
        known = None if best is None else best.best_value if by_metric else best.final_loss
        if known is None or RULES[result.rule if by_metric else "less"](value, known):
            best = result
    if best is not None:
        best.is_best = True


def table(results: Sequence[Result]) -> list[str]:
    """The lines of the table for the terminal."""
    titles = _titles(results)
    rows = [titles, *(_cells(result)[: len(titles)] for result in results)]
    widths = [max(len(row[i]) for row in rows) + 2 for i in range(len(rows[0]))]
    lines = ["".join(padded(cell, width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    marks = ["", *(translate("<- best") if r.is_best else "" for r in results)]
    return [f"{line}{mark}".rstrip() for line, mark in zip(lines, marks, strict=True)]


def _titles(results: Sequence[Result]) -> list[str]:
    titles = [translate("variant"), translate("iters"), translate("final loss")]
    metrics = {r.metric for r in results if r.best_value is not None}
    metric = next(iter(metrics)) if len(metrics) == 1 else ""
    best = translate("best val {metric}", metric=metric).strip()
    return [*titles, best] if metrics else titles


def _cells(result: Result) -> list[str]:
    best = "-"
    if result.best_value is not None:
        best = translate("{value:.4f} at iter {iter}", value=result.best_value, iter=result.best_iter)
    loss = "-" if result.final_loss is None else f"{result.final_loss:.4f}"
    status = "" if result.status == FINISHED else f" ({translate(result.status)})"
    return [result.name, f"{result.iters}{status}", loss, best]


def page(title: str, results: Sequence[Result]) -> str:
    """The page with the table and the curves."""
    names = [result.name for result in results]
    head = "".join(f"<th>{escape(cell)}</th>" for cell in _titles(results))
    count = len(_titles(results))
    rows = "".join(_row(number, result, count) for number, result in enumerate(results))
    body = f'<table class="scores"><tr>{head}</tr>{rows}</table>'
    shown = dict.fromkeys(name for result in results for name in result.curves)
    for name in shown:
        curves: Mapping[str, Any] = {n: r.curves.get(name, []) for n, r in zip(names, results, strict=True)}
        body += f"<h2>{escape(name)}</h2>{svg_curves(curves, translate('iteration'))}"
    return html_page(title, body, language())


def _row(number: int, result: Result, num_cells: int) -> str:
    cells = _cells(result)[:num_cells]
    mark = f" <b>{translate('<- best')}</b>".replace("<-", "&larr;") if result.is_best else ""
    first = f'<span style="color: {colour(number)}">&#9644;</span> {escape(cells[0])}{mark}'
    return f"<tr><td>{first}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells[1:])}</tr>"
