"""Numbers of a task from the lines of its questions, and the files of a run."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from xtuner import atomic
from xtuner.evaluation.code.check import passes
from xtuner.evaluation.code.sandbox import PASSED
from xtuner.evaluation.run_folder import Line, write_json
from xtuner.evaluation.text.metrics import find_metric
from xtuner.evaluation.text.tasks import ANSWERS, CHOICES, CODE, Question, Task
from xtuner.html_page import html_page
from xtuner.language import language, translate

CUT = "{count:,} answers were cut at the length of --max-new-tokens or of the context"
JUDGE = "judge"
"""The metric of a judge's grades, and their field in a line."""
NAMED = 3
"""The number of questions with an error that a message names."""


@dataclass(frozen=True)
class Result:
    """The numbers of a task: of all questions, their standard errors, those of each group; and each answer's.

    `values` has a mapping from metric to number for each question, empty for one that could not be asked.
    """

    task: Task
    lines: Sequence[Line]
    values: Sequence[Mapping[str, float]]
    metrics: Mapping[str, float]
    standard_errors: Mapping[str, float]
    groups: Mapping[str, Mapping[str, float]]


def score_task(task: Task, lines: Sequence[Line], metrics: Sequence[str] = ()) -> Result:
    """The numbers of a task; a question that could not be asked counts as 0, but not for a judge."""
    if task.kind == CHOICES:
        values = [_of_choice(q, line, task.by_letter) for q, line in zip(task.questions, lines, strict=True)]
    elif task.kind == ANSWERS:
        found = {name: find_metric(name) for name in metrics}
        values = [
            {
                name: metric(q.shown, line["prediction"], q.reference or "", q.row)
                if "prediction" in line
                else 0.0
                for name, metric in found.items()
            }
            | ({JUDGE: float(line[JUDGE])} if JUDGE in line else {})
            for q, line in zip(task.questions, lines, strict=True)
        ]
    elif task.kind == CODE:
        values = [{"passed": float(line.get("outcome") == PASSED)} for line in lines]
    else:
        return Result(task, lines, [{} for _ in lines], _perplexity(task, lines), {}, {})
    of_questions = _of_samples(values, task.samples) if task.kind == CODE else values
    groups: dict[str, list[Mapping[str, float]]] = {}
    for question, value in zip(task.questions[:: task.samples], of_questions, strict=True):
        groups.setdefault(question.group, []).append(value)
    of_groups = {name: _means(own) for name, own in sorted(groups.items())} if len(groups) > 1 else {}
    return Result(task, lines, values, _means(of_questions), _standard_errors(of_questions), of_groups)


def _of_samples(values: Sequence[Mapping[str, float]], samples: int) -> list[dict[str, float]]:
    """pass@k of each question, from its answers."""
    passed = [value["passed"] > 0 for value in values]
    return [passes(passed[start : start + samples]) for start in range(0, len(passed), samples)]


def _of_choice(question: Question, line: Line, by_letter: bool) -> dict[str, float]:
    if "error" in line:
        return {"acc": 0.0} if by_letter else {"acc": 0.0, "acc_norm": 0.0}
    logprobs = line["logprobs"]
    found = {"acc": float(_largest(logprobs) == question.right)}
    if not by_letter:
        # The length of a choice without the space before it.
        by_length = [
            value / max(len(text) - 1, 1) for value, text in zip(logprobs, question.choices, strict=True)
        ]
        found["acc_norm"] = float(_largest(by_length) == question.right)
    return found


def _largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _perplexity(task: Task, lines: Sequence[Line]) -> dict[str, float]:
    scored = [(q.prompt, line) for q, line in zip(task.questions, lines, strict=True) if "error" not in line]
    total = -sum(line["logprob"] for _, line in scored)
    tokens = sum(line["tokens"] for _, line in scored)
    num_words = sum(len(re.split(r"\s+", text)) for text, _ in scored)
    num_bytes = sum(len(text.encode()) for text, _ in scored)
    return {
        "perplexity": _exp(total / max(tokens, 1)),
        "word_perplexity": _exp(total / max(num_words, 1)),
        "byte_perplexity": _exp(total / max(num_bytes, 1)),
        "bits_per_byte": total / max(num_bytes, 1) / math.log(2),
    }


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(numbers) for name, numbers in _by_name(values).items()}


def _standard_errors(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {
        name: statistics.stdev(numbers) / math.sqrt(len(numbers))
        for name, numbers in _by_name(values).items()
        if len(numbers) > 1
    }


def _by_name(values: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """The numbers of each metric, of those questions that have one."""
    found: dict[str, list[float]] = {}
    for value in values:
        for name, number in value.items():
            found.setdefault(name, []).append(number)
    return found


# --- shown ------------------------------------------------------------------------------------------------


def print_results(results: Sequence[Result]) -> None:
    """Print a table of all tasks and their groups."""
    # rich's markup would read [ ] in names.
    console = Console(highlight=False, markup=False, emoji=False)
    table = Table()
    for number, name in enumerate(("task", "questions", "metric", "value", "±")):
        table.add_column(translate(name), justify="right" if number in (1, 3, 4) else "left")
    for result in results:
        for number, (name, value) in enumerate(result.metrics.items()):
            first = (result.task.name, f"{result.task.num_questions:,}") if number == 0 else ("", "")
            error = f"{result.standard_errors[name]:.4f}" if name in result.standard_errors else ""
            table.add_row(*first, name, f"{value:.4f}", error)
        for group, metrics in result.groups.items():
            count = sum(q.group == group for q in result.task.questions[:: result.task.samples])
            for number, (name, value) in enumerate(metrics.items()):
                first = (f"  {group or '-'}", f"{count:,}") if number == 0 else ("", "")
                table.add_row(*first, name, f"{value:.4f}", "")
        table.add_section()
    console.print(table)


def write_results(
    folder: Path, model: str, results: Sequence[Result], judge: str | None = None, about_cut: str = CUT
) -> list[str]:
    """Write `results.json` and `answers.html`; lines that say what went wrong and where the files are.

    `about_cut` says that a `{count}` of answers reached their maximum length.
    """
    files = [folder / "results.json", folder / "answers.html"]
    tasks = {result.task.name: _as_json(result) for result in results}
    write_json(files[0], {"model": model, **({"judge": judge} if judge else {}), "tasks": tasks})
    with atomic.written(files[1]) as part:
        part.write_text(to_page(model, results, language()), encoding="utf-8")
    notes = []
    lines = [line for result in results for line in result.lines]
    if errors := [f"{line['index']}: {line['error']}" for line in lines if "error" in line]:
        more = ", ..." if len(errors) > NAMED else ""
        what = "{count:,} questions could not be asked; they count as wrong, and texts not at all: {errors}"
        notes.append(translate(what, count=len(errors), errors="; ".join(errors[:NAMED]) + more))
    if errors := [f"{line['index']}: {line['judge_error']}" for line in lines if "judge_error" in line]:
        more = ", ..." if len(errors) > NAMED else ""
        what = "{count:,} answers have no grade of the judge, left out of its mean: {errors}"
        notes.append(translate(what, count=len(errors), errors="; ".join(errors[:NAMED]) + more))
    if cut := sum("cut" in line for line in lines):
        notes.append(translate(about_cut, count=cut))
    return [*notes, translate("The results are in {out}", out=", ".join(map(str, files)))]


def _as_json(result: Result) -> dict[str, Any]:
    task = result.task
    return {
        "path": task.path,
        "kind": task.kind,
        "questions": task.num_questions,
        "samples": task.samples,
        "shots": task.shots,
        "metrics": dict(result.metrics),
        "standard_errors": dict(result.standard_errors),
        "groups": {name: dict(metrics) for name, metrics in result.groups.items()},
        **({"graded": sum(JUDGE in line for line in result.lines)} if JUDGE in result.metrics else {}),
    }


def to_page(model: str, results: Sequence[Result], lang: str) -> str:
    """A page with the numbers of all tasks and every answer."""
    legend = (
        f'<p class="sample">{translate("→ the choice of the model")} <mark>{translate("right")}</mark></p>'
    )
    body = "\n".join(_section(result) for result in results)
    return html_page(model, legend + body, lang)


def _section(result: Result) -> str:
    task = result.task
    numbers = "".join(
        f"<div><b>{value:.4f}</b><span>{escape(name)}</span></div>" for name, value in result.metrics.items()
    )
    groups = ""
    if result.groups:
        names = list(result.metrics)
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        lines = "".join(
            f"<tr><td>{escape(group or '-')}</td>"
            f"{''.join(f'<td>{own[name]:.4f}</td>' if name in own else '<td></td>' for name in names)}</tr>"
            for group, own in result.groups.items()
        )
        groups = f'<table class="scores"><tr><th></th>{head}</tr>{lines}</table>'
    shots = translate(", {shots} examples before each", shots=task.shots) if task.shots else ""
    about = translate("{count:,} questions", count=task.num_questions) + shots
    if task.samples > 1:
        about += translate(", {count} answers to each", count=task.samples)
    asked = "".join(
        _question(question, line, values, is_first=number % task.samples == 0)
        for number, (question, line, values) in enumerate(
            zip(task.questions, result.lines, result.values, strict=True)
        )
    )
    return (
        f'<h2>{escape(task.name)}</h2><p class="faint">{escape(task.path)}: {escape(about)}</p>'
        f'<div class="counts">{numbers}</div>{groups}<details open><summary>{translate("every answer")}'
        f"</summary>{asked}</details>"
    )


def _question(question: Question, line: Line, values: Mapping[str, float], is_first: bool) -> str:
    shown = []
    if is_first:
        shown = [f'<p class="faint">{escape(question.place)}</p><pre>{escape(question.shown)}</pre>']
    if "error" in line:
        shown.append(f"<pre>{escape(line['error'])}</pre>")
    elif question.code is not None:
        shown.append(_program(line))
    elif question.choices:
        chosen = _largest(line["logprobs"])
        for number, (text, value) in enumerate(zip(question.choices, line["logprobs"], strict=True)):
            word = f"<mark>{escape(text)}</mark>" if number == question.right else escape(text)
            sign = "→" if number == chosen else ""
            shown.append(f'<div><i>{sign}</i>{word} <span class="faint">{value:.3f}</span></div>')
    elif "prediction" in line:
        shown.append(f"<pre>{escape(line['prediction'])}</pre>")
        if question.reference is not None:
            shown.append(f"<pre><mark>{escape(question.reference)}</mark></pre>")
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        shown.append(f'<p class="faint">{escape(numbers)}</p>')
        if "judged" in line:
            grade = translate("judge: {verdict}", verdict=line.get(JUDGE) or line["judge_error"])
            shown.append(judged(grade, line["judged"]))
    else:
        each = -line["logprob"] / max(line["tokens"], 1)
        shown.append(f'<p class="faint">{translate("perplexity")} {_exp(each):.4g}</p>')
    first = next((value for name, value in values.items() if name != JUDGE), None)
    kind = "" if first is None else " right" if first > 0 else " wrong"
    return f'<div class="question{kind}">{"".join(shown)}</div>'


def judged(summary: str, reply: str) -> str:
    """What a judge says, folded below its verdict."""
    return f'<details><summary>{escape(summary)}</summary><pre lang="">{escape(reply)}</pre></details>'


OUTCOMES = {
    "passed": "the tests pass",
    "failed": "a test fails, or the program does not run",
    "exited": "the program ended before its tests had run",
    "time": "the program took too long",
    "memory": "the program took too much memory",
    "output": "the program wrote too much",
}
"""What the outcomes of programs mean."""


def _program(line: Line) -> str:
    """The code of an answer, and what was wrong with it."""
    shown = f"<pre>{escape(line['code'])}</pre>"
    passed = line["outcome"] == PASSED
    mark = "right" if passed else "wrong"
    shown += f'<div><span class="{mark}">{escape(translate(OUTCOMES[line["outcome"]]))}</span></div>'
    if line.get("stderr"):
        shown += f"<pre>{escape(line['stderr'])}</pre>"
    return shown
