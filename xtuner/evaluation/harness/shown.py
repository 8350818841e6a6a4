"""What lm-evaluation-harness returns -> the results of `xtuner eval`.

"results"   {"arc_easy": {"acc,none": 0.4, "acc_stderr,none": 0.09, ...}}
"samples"   {"arc_easy": [{"doc_id": 0, "arguments": [("Question: ...", " two"), ...], "acc": 1.0, ...}]}
Result      metrics {"acc": 0.4}, standard errors {"acc": 0.09}, a question and a line for each document

A group that the harness averages, such as mmlu, is one result with a row for each of its tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xtuner.evaluation.harness.model import HarnessModel
from xtuner.evaluation.run_folder import Line
from xtuner.evaluation.text.results import Result
from xtuner.evaluation.text.tasks import ANSWERS, CHOICES, PERPLEXITY, Question, Task

_KINDS = {
    "multiple_choice": CHOICES,
    "loglikelihood": CHOICES,
    "loglikelihood_rolling": PERPLEXITY,
    "generate_until": ANSWERS,
}


def results_of(found: Mapping[str, Any], names: Sequence[str], lm: HarnessModel) -> list[Result]:
    """The results of all tasks, in the order of `names` where these are tasks or groups."""
    groups: Mapping[str, Any] = found.get("groups", {})
    results: list[Result] = []
    covered: set[str] = set()
    for name in names:
        if name in groups:
            leaves = _leaves(name, found["group_subtasks"])
            results.append(_group(name, [_task(leaf, found, lm) for leaf in leaves], groups[name]))
            covered |= set(leaves)
    single = [_task(name, found, lm) for name in found["samples"] if name not in covered]
    order = {name: number for number, name in enumerate(names)}
    return sorted([*results, *single], key=lambda result: order.get(result.task.name, len(order)))


def _leaves(name: str, children: Mapping[str, Sequence[str]]) -> list[str]:
    """The tasks of a group, also those of groups in it."""
    own = children.get(name, [])
    return [leaf for child in own for leaf in _leaves(child, children)] if own else [name]


def _group(name: str, parts: Sequence[Result], numbers: Mapping[str, Any]) -> Result:
    metrics, errors = _numbers(numbers)
    task = Task(
        name,
        parts[0].task.kind,
        f"lm-eval: {name}",
        [question for part in parts for question in part.task.questions],
        parts[0].task.shots,
    )
    return Result(
        task,
        [line for part in parts for line in part.lines],
        [value for part in parts for value in part.values],
        metrics,
        errors,
        {part.task.name: {n: v for n, v in part.metrics.items() if n in metrics} for part in parts},
    )


def _task(name: str, found: Mapping[str, Any], lm: HarnessModel) -> Result:
    config = found["configs"][name]
    kind = config["output_type"]
    metrics, errors = _numbers(found["results"][name])
    by_document: dict[int, list[Mapping[str, Any]]] = {}
    for sample in found["samples"][name]:
        by_document.setdefault(sample["doc_id"], []).append(sample)
    questions, lines, values = [], [], []
    for number, samples in sorted(by_document.items()):
        questions.append(_question(name, number, kind, samples[0]))
        lines.append(_line(f"{name}/{number + 1}", kind, samples[0], lm))
        values.append(
            {
                _label(metric, sample["filter"]): float(sample[metric])
                for sample in samples
                for metric in sample["metrics"]
                if isinstance(sample[metric], (int, float))
            }
        )
    task = Task(name, _KINDS[kind], f"lm-eval: {name}", questions, int(found["n-shot"].get(name) or 0))
    return Result(task, lines, values, metrics, errors, {})


def _numbers(given: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics and their standard errors, by names as `acc` or `exact_match (strict-match)`."""
    metrics: dict[str, float] = {}
    errors: dict[str, float] = {}
    for key, value in given.items():
        metric, sign, chosen = key.partition(",")
        if not sign or isinstance(value, str) or value is None:
            continue
        if metric.endswith("_stderr"):
            errors[_label(metric.removesuffix("_stderr"), chosen)] = float(value)
        else:
            metrics[_label(metric, chosen)] = float(value)
    return metrics, errors


def _label(metric: str, chosen: str) -> str:
    """The name of a metric, with the filter of answers that it follows."""
    return metric if chosen == "none" else f"{metric} ({chosen})"


def _question(task: str, number: int, kind: str, sample: Mapping[str, Any]) -> Question:
    index, place = str(number + 1), f"{task} {number + 1}"
    arguments = sample["arguments"]
    if _KINDS[kind] == CHOICES:
        shown, choices = _choices(arguments)
        return Question(index, place, task, shown, choices=choices, right=_right(sample["target"], choices))
    text = str(arguments[0][0])
    if kind == "generate_until":
        return Question(index, place, task, text, reference=str(sample["target"]))
    return Question(index, place, task, text, prompt=text)


def _choices(arguments: Sequence[Sequence[str]]) -> tuple[str, list[str]]:
    """What stands before the choices, and the choices; of tasks with several contexts these are chosen."""
    contexts, texts = [str(one[0]) for one in arguments], [str(one[1]) for one in arguments]
    if len(texts) > 1 and len(set(texts)) == 1:
        return texts[0], contexts
    # Choices without the question follow, where a metric compares with them.
    count = sum(context == contexts[0] for context in contexts)
    return contexts[0], texts[:count]


def _right(target: Any, choices: Sequence[str]) -> int | None:
    if isinstance(target, int) and len(choices) > 1:
        return target
    stripped = [choice.strip() for choice in choices]
    return stripped.index(str(target).strip()) if str(target).strip() in stripped else None


def _line(index: str, kind: str, sample: Mapping[str, Any], lm: HarnessModel) -> Line:
    responses = [one[0] for one in sample["resps"]]
    if _KINDS[kind] == CHOICES:
        _, choices = _choices(sample["arguments"])
        return {"index": index, "logprobs": [float(value) for value, _ in responses[: len(choices)]]}
    line = lm.line_of(kind, sample["arguments"][0])
    if kind == "generate_until":
        return {"index": index, "prediction": str(responses[0]), **({"cut": True} if "cut" in line else {})}
    return {"index": index, "logprob": float(responses[0]), "tokens": int(line["tokens"])}
