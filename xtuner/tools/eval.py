"""`xtuner eval MODEL --tasks FILE ...`: a language model on choices, answers, code and texts."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import Any

from xtuner.api.scores import check_options, measure
from xtuner.tools.arguments.answering import add_answering, add_judge, add_sampling, run
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner eval`."""
    parser = Parser(
        "xtuner eval",
        description="Measure a language model: choices by likelihood (MMLU, C-Eval, CMMLU, ARC, HellaSwag, "
        "your own), answers against references, code by its tests (HumanEval, MBPP, your own), perplexity.",
    )
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help="the model: a folder, a name on the hub, or the address of a server: http://host:8000/v1",
    )
    add(
        "--tasks",
        nargs="+",
        required=True,
        metavar="[KIND=]PATH",
        help="files or folders of questions; kinds: cmmlu, ceval, hellaswag, arc, mmlu, choices, answers, "
        "code, perplexity (found by the fields of the rows); with --harness names of its tasks",
    )
    add(
        "--shots",
        type=int,
        metavar="N",
        help="examples before each question (5 for MMLU, C-Eval, CMMLU; else 0)",
    )
    add("--limit", type=int, metavar="N", help="only the first N questions of each task")
    _add_code(parser)
    add("--work-dir", help="folder of the results (./work_dirs/eval_<name of the model>)")
    add("--batch-tokens", type=int, default=4096, help="tokens of choices and texts at a time (4096)")
    add(
        "--start-token",
        metavar="TEXT",
        help="at an address: what precedes texts of perplexity, if the server adds nothing",
    )
    _add_harness(parser)
    add_judge(
        parser, "answers also get a grade of 1 to 10 from the model at this address: http://host:8000/v1"
    )
    add_sampling(parser)
    add_answering(parser)
    args = parser.parse_args(argv)
    given = {name: value for name, value in vars(args).items() if value != parser.get_default(name)}
    check_options(vars(args), given)
    return args


def _add_code(parser: argparse.ArgumentParser) -> None:
    """Add how answers of code are asked for and run."""
    add = parser.add_argument
    add("--samples", type=int, default=1, metavar="N", help="answers to each question for code (1)")
    add(
        "--code-from",
        choices=["auto", "answer", "continuation"],
        default="auto",
        help="code is in the answer of a model with a prompt template, or continues the text of the question "
        "(auto: as the model was trained)",
    )
    add("--code-seconds", type=int, default=10, metavar="N", help="time of a program and its tests (10)")
    add("--code-memory", type=int, default=1024, metavar="MIB", help="memory of a program (1024)")


def _add_harness(parser: argparse.ArgumentParser) -> None:
    """Add the options of lm-evaluation-harness."""
    add = parser.add_argument
    add(
        "--harness",
        action="store_true",
        help="the tasks are those of EleutherAI's lm-evaluation-harness: arc_easy mmlu, ...",
    )
    add("--include-path", metavar="DIR", help="with --harness: a folder of own tasks in its YAML")
    add(
        "--apply-chat-template",
        action="store_true",
        help="with --harness: its prompts are messages in the tokenizer's chat template",
    )


def main(argv: list[str] | None = None) -> int:
    """Measure; returns 0 when the results are written."""
    args = parse_args(argv)
    return run("eval", args, argv, functools.partial(_measure, args))


def _measure(args: argparse.Namespace, settings: Any, world: Any) -> Sequence[str] | None:
    """The notes of an outcome, whose table is printed; None on other processes than the first."""
    outcome = measure(vars(args), world)
    if outcome is None:
        return None
    from xtuner.evaluation.text.results import print_results

    print_results(outcome.results)
    return outcome.notes
