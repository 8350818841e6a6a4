"""The answers of a model to all rows of a file.

data.jsonl     {"question": "2+2?", "answer": "4"}
out.jsonl      {"id": "1", "messages": [...], "prediction": "4", "reference": "4", "numeric": 1.0}
               {"id": "2", "error": "data.jsonl line 2: the row asks nothing"}
.out.jsonl.run/    answers so far, from which the same command continues after a kill
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from xtuner import atomic, json_lines
from xtuner.evaluation.run_folder import Line
from xtuner.evaluation.text.measure import answer_tasks, metrics_of, name_of, settled
from xtuner.evaluation.text.metrics import Metric, find_metric
from xtuner.evaluation.text.settings import Settings
from xtuner.evaluation.text.tasks import Question, read_rows
from xtuner.language import translate
from xtuner.parallel.world import World


def predict(settings: Settings, data: str, out: str, world: World) -> list[str] | None:
    """Write the answers to `out`; lines that say what came of it, None on other processes than the first."""
    settings = settled(settings)
    task, errors = world.local_rank_0_first(lambda: read_rows(data, settings.limit))
    path = Path(out).expanduser().absolute()
    parts = path.with_name(f".{path.name}.run")
    with ExitStack() as held:
        _, lines = answer_tasks(settings, [task], parts, world, held)
        if not world.is_first:
            return None
        answered = [(question, lines[name_of(task, question)]) for question in task.questions]
        names = metrics_of(settings, task) if all(q.reference is not None for q in task.questions) else []
        metrics = {name: find_metric(name) for name in names}
        found = {question.index: _line(question, line, metrics) for question, line in answered}
        found |= {index: {"id": index, "error": error} for index, error in errors.items()}
        with atomic.written(path) as part, part.open("wb") as file:
            json_lines.append(file, [found[index] for index in sorted(found, key=int)])
    shutil.rmtree(parts)
    return [*_summary(list(found.values()), names), translate("The results are in {out}", out=out)]


def _line(question: Question, line: Line, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    made: dict[str, Any] = {"id": question.index, "messages": list(question.messages)}
    made |= {name: value for name, value in line.items() if name != "index"}
    if question.reference is not None:
        made["reference"] = question.reference
        if "prediction" in line:
            given = question.shown, line["prediction"], question.reference, question.row
            made |= {name: metric(*given) for name, metric in metrics.items()}
    return made


def _summary(lines: list[dict[str, Any]], names: list[str]) -> list[str]:
    answered = [line for line in lines if "prediction" in line]
    found = [translate("{count:,} rows answered", count=len(answered))]
    found += [
        f"{name}: {statistics.fmean(line[name] for line in answered):.4f}" for name in names if answered
    ]
    if cut := sum("cut" in line for line in answered):
        what = "{count:,} answers were cut at the length of --max-new-tokens or of the context"
        found.append(translate(what, count=cut))
    if errors := [f"{line['id']}: {line['error']}" for line in lines if "error" in line]:
        more = ", ..." if len(errors) > 3 else ""
        what = "{count:,} rows could not be read: {errors}"
        found.append(translate(what, count=len(errors), errors="; ".join(errors[:3]) + more))
    return found
