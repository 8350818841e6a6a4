"""`xtuner eval MODEL --tasks FILE ...`: a language model on choices, answers, code and texts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from xtuner.tools.arguments.answering import add_answering, add_sampling, run
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
        "code, perplexity (found by the fields of the rows)",
    )
    add(
        "--shots",
        type=int,
        metavar="N",
        help="examples before each question (5 for MMLU, C-Eval, CMMLU; else 0)",
    )
    add("--limit", type=int, metavar="N", help="only the first N questions of each task")
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
    add("--work-dir", help="folder of the results (./work_dirs/eval_<name of the model>)")
    add("--batch-tokens", type=int, default=4096, help="tokens of choices and texts at a time (4096)")
    add(
        "--start-token",
        metavar="TEXT",
        help="at an address: what precedes texts of perplexity, if the server adds nothing",
    )
    add_sampling(parser)
    add_answering(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure; returns 0 when the results are written."""
    return run("eval", parse_args(argv), argv, _measure)


def _measure(settings: Any, world: Any) -> Sequence[str] | None:
    from xtuner.evaluation.text.measure import measure
    from xtuner.evaluation.text.results import print_results

    outcome = measure(settings, world)
    if outcome is None:
        return None
    print_results(outcome.results)
    return outcome.notes
