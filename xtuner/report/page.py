"""The report as one self-contained page."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from xtuner.evaluation.checkpoint_table import Table
from xtuner.html_page import html_page
from xtuner.language import language, translate
from xtuner.report.facts import Facts, Samples
from xtuner.svg_curves import svg_curves
from xtuner.work_dir import Curve

# The first ones of the page, and those that are folded; others are between them.
FIRST_CURVES = ("loss", "lr", "grad_norm")
FOLDED_CURVES = ("tokens_per_sec", "memory", "time", "data_time")
_STYLE = """
table.sides { width: 100%; table-layout: fixed; }
table.sides td { vertical-align: top; padding: 0 8px 0 0; } table.sides p { margin: 8px 0 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: 0 20px; }
.added { color: var(--edge); } .removed { color: var(--warn-edge); }
@media (max-width: 600px) { table.sides tr, table.sides td { display: block; } }
"""


def to_page(facts: Facts, data: str, why_no_data: str) -> str:
    """The page; `data` is the part about the data sets, or `why_no_data` says why it lacks."""
    parts = [
        _numbers(facts),
        *_section("Curves", _curves(facts.curves)),
        *_section("Sampled answers", _samples(facts.samples)),
        *_section("Evaluation", _table(facts.table) + _results(facts.results)),
        *_section("Data", data or f'<p class="warning">{escape(why_no_data)}</p>'),
        *_section("Config", _config(facts)),
        *_section("Warnings", _warnings(facts)),
        *_section("Environment", _environment(facts)),
        *_section("To reproduce", _commands(facts)),
    ]
    title = translate("Report of {name}", name=facts.work_dir.resolve().name)
    return html_page(title, "\n".join(parts), language(), _STYLE)


def _section(title: str, content: str) -> Iterable[str]:
    return [f"<h2>{translate(title)}</h2>", content] if content else []


def _numbers(facts: Facts) -> str:
    """The most important numbers in boxes."""
    found: list[tuple[str, str]] = []
    if facts.iterations:
        done, total = facts.iterations
        found.append((translate("iterations, of all"), f"{done:,} / {total:,}"))
    for name, curve in facts.curves.items():
        if name == "loss":
            found.append((translate("loss, first and last"), f"{curve[0][1]:.4f} → {curve[-1][1]:.4f}"))
        elif name.startswith("val/"):
            found.append((translate("{name}, last", name=name), f"{curve[-1][1]:.4f}"))
    found.append((translate("starts"), f"{len(facts.starts):,}"))
    if began := next((start.began for start in facts.starts if start.began), ""):
        ended = next((start.ended for start in reversed(facts.starts) if start.ended), "")
        found += [(translate("began"), began), (translate("ended"), ended)]
    if facts.checkpoints:
        found.append((translate("newest checkpoint"), facts.checkpoints[0].name))
    boxes = "".join(f"<div><b>{escape(text)}</b><span>{escape(what)}</span></div>" for what, text in found)
    return f'<div class="counts">{boxes}</div>'


def _curves(curves: dict[str, Curve]) -> str:
    pictures = {name: svg_curves({name: curve}, translate("iteration")) for name, curve in curves.items()}
    others = sorted(name for name in curves if name not in (*FIRST_CURVES, *FOLDED_CURVES))
    folded = _grid(pictures, FOLDED_CURVES)
    shown = _grid(pictures, (*FIRST_CURVES, *others))
    return shown + (_folded(translate("speed and memory"), folded) if folded else "")


def _grid(pictures: dict[str, str], names: Iterable[str]) -> str:
    """The pictures of these names, side by side where there is room."""
    found = [(name, pictures[name]) for name in names if pictures.get(name)]
    cells = "".join(f"<div><h3>{escape(name)}</h3>{picture}</div>" for name, picture in found)
    return f'<div class="grid">{cells}</div>' if found else ""


def _samples(samples: Sequence[Samples]) -> str:
    """The first and the last ones side by side; those between them folded."""
    if not samples:
        return ""
    first, last = samples[0], samples[-1]
    shown = [first] if first is last else [first, last]
    rows = ""
    for number in range(max(len(one.texts) for one in shown)):
        cells = "".join(_answer(one, number) for one in shown if number < len(one.texts))
        rows += f"<tr>{cells}</tr>"
    between = "".join(
        f"<h3>{escape(_when(one))}</h3>"
        + "".join(f'<div class="sample">{escape(text)}</div>' for text in one.texts)
        for one in samples[1:-1]
    )
    between = _folded(translate("those between"), between) if between else ""
    return f'<table class="sides">{rows}</table>{between}'


def _answer(samples: Samples, number: int) -> str:
    text = f'<div class="sample">{escape(samples.texts[number])}</div>'
    return f'<td><p class="faint">{escape(_when(samples))}</p>{text}</td>'


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def _when(samples: Samples) -> str:
    if samples.iteration == 0:
        return translate("before training")
    return translate("after {count:,} iterations", count=samples.iteration)


def _table(table: Table) -> str:
    """All checkpoints by all that was measured, the best of each column in bold."""
    names = list(table.better_if_larger)
    if not table.rows:
        return ""
    best = {name: table.best(name) for name in names}
    rows = ""
    for row in table.rows:
        cells = f"<td>{escape(row.name)}</td>"
        for name in names:
            text = _number(row.metrics[name]) if name in row.metrics else "-"
            cells += f"<td><b>{text}</b></td>" if row.name in best[name] else f"<td>{text}</td>"
        rows += f"<tr>{cells}</tr>"
    heads = "".join(f"<th>{escape(name)}</th>" for name in (translate("checkpoint"), *names))
    return f'<table class="scores"><tr>{heads}</tr>{rows}</table>'


def _results(results: Iterable[tuple[Any, dict[str, Any]]]) -> str:
    """The numbers of each results.json."""
    parts = []
    for path, found in results:
        rows = "".join(
            f"<tr><td>{escape(task)}</td><td>{escape(name)}</td><td>{_number(value)}</td></tr>"
            for task, one in found["tasks"].items()
            for name, value in (one.get("metrics") or {}).items()
            if isinstance(value, int | float)
        )
        model = escape(str(found.get("model", "")))
        parts.append(f'<h3>{model}</h3><p class="faint">{escape(str(path))}</p>')
        parts.append(f'<table class="scores">{rows}</table>')
    return "".join(parts)


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isnan(value) or abs(value) < 10_000 else f"{value:.4g}"


def _config(facts: Facts) -> str:
    if not facts.text:
        return ""
    whole = _folded(translate("the whole config"), f"<pre>{escape(facts.text)}</pre>")
    if facts.nearest is None:
        return f"<p>{translate('no built-in config is like it')}</p>{whole}"
    what = translate("changed from the nearest built-in config, {name}:", name=facts.nearest.name)
    lines = "\n".join(
        f'<span class="{"added" if line.startswith("+") else "removed"}">{escape(line)}</span>'
        for line in facts.nearest.changes
    )
    return f"<p>{escape(what)}</p><pre>{lines}</pre>{whole}"


def _warnings(facts: Facts) -> str:
    """What the log warned of, each once with its number; a word where it did not."""
    counted: Counter[str] = Counter()
    for start in facts.starts:
        counted.update(start.warnings)
    if not counted:
        return f"<p>{translate('The log has no warnings.')}</p>"
    return "".join(
        f'<p class="warning">{escape(message)}{f" (× {count:,})" if count > 1 else ""}</p>'
        for message, count in counted.items()
    )


def _environment(facts: Facts) -> str:
    """What the run recorded of its machine, or else the line of its log."""
    recorded = facts.record.get("facts")
    groups = recorded if isinstance(recorded, dict) else {}
    rows = "".join(
        f"<tr><td>{escape(str(name))}</td><td>{escape(str(value))}</td></tr>"
        for group in ("hardware", "processes", "environment", "kernels", "packages")
        for name, value in groups.get(group, {}).items()
    )
    lines = dict.fromkeys(start.environment for start in facts.starts if start.environment)
    said = "".join(f"<p>{escape(line)}</p>" for line in lines)
    if not rows:
        return said
    table = f'<table class="scores">{rows}</table>'
    return said + _folded(translate("all that was recorded"), table)


def _commands(facts: Facts) -> str:
    """The commands that train again, compare, and convert."""
    if facts.config is None:
        return ""
    newest = facts.work_dir / facts.starts[-1].name / "vis_data" / "config.py"
    config = newest if newest.is_file() else facts.config
    train = ["xtuner", "train", str(config), "--work-dir", "AGAIN"]
    seed = facts.record.get("facts", {}).get("seed", {}).get("seed")
    if seed is not None:
        train += ["--seed", str(seed)]
    lines = [shlex.join(train)]
    if facts.record:
        lines.append(shlex.join(["xtuner", "replay", str(facts.work_dir)]))
    if facts.checkpoints:
        checkpoint = facts.work_dir / facts.checkpoints[0].name
        lines.append(shlex.join(["xtuner", "convert", "pth_to_hf", str(config), str(checkpoint), "OUT"]))
    return f"<pre>{escape(chr(10).join(lines))}</pre>"
