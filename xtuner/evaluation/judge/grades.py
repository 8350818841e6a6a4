"""A grade of 1 to 10 for each answer.

{"index": "own/3", "prediction": "4"}   ->   {..., "judge": 7, "judged": "It is right, but ...\\nGrade: 7"}

An answer without a grade has `judge_error` instead, and does not count in the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xtuner.errors import ConfigError
from xtuner.evaluation.judge.forms import GRADE
from xtuner.evaluation.judge.judge import Item, Judge, question_of
from xtuner.evaluation.run_folder import Line
from xtuner.evaluation.text.tasks import ANSWERS, Question, Task
from xtuner.language import translate

if TYPE_CHECKING:
    from xtuner.evaluation.text.settings import Settings


def make_judge(settings: Settings, tasks: Sequence[Task]) -> Judge | None:
    """The judge of the answers, if there is to be one; ConfigError if it has none to grade."""
    if settings.judge is None:
        return None
    if not any(task.kind == ANSWERS for task in tasks):
        what = "--judge grades answers, and no task is of the kind answers: leave it out"
        raise ConfigError(translate(what))
    return Judge(settings.judge, settings.judge_model, GRADE, settings.judge_prompt, settings.concurrency)


def grade_answers(
    judge: Judge, questions: Mapping[str, Question], lines: Mapping[int | str, Line], file: Path
) -> dict[int | str, Line]:
    """`lines` with the grades of the answers to `questions`, which are kept in `file`."""
    items = []
    for name, question in questions.items():
        if "prediction" in lines[name]:
            asked, answer = question_of(question.messages), str(lines[name]["prediction"])
            items.append(Item(name, {"question": asked, "reference": question.reference, "answer": answer}))
    graded = dict(lines)
    for name, verdict in judge.judge(items, file).items():
        found: Line = {"judged": verdict["reply"]}
        if "error" in verdict:
            found["judge_error"] = verdict["error"]
        else:
            found["judge"] = int(verdict["verdict"])
        graded[name] = {**lines[name], **found}
    return graded
