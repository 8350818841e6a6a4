"""The arguments of commands that let a language model answer questions, and their run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from xtuner.api.scores import check_model, settings_of
from xtuner.tools.arguments.addresses import fetch_adapters, fetch_models
from xtuner.tools.arguments.model import add_loading
from xtuner.tools.arguments.processes import add_launcher, run_measurement


def add_answering(parser: argparse.ArgumentParser, *, adapter: bool = True) -> None:
    """Add the arguments that all such commands have; `adapter`: also the one of the model."""
    add = parser.add_argument
    if adapter:
        add("--adapter", help="the LoRA adapter to put on the model")
    add(
        "--metrics",
        nargs="+",
        default=[],
        metavar="NAME",
        help="of answers: exact, contains, numeric, boxed, letter, bleu, rouge1, rouge2, rougeL, or your own "
        "FILE.py:FUNCTION (those that fit the references)",
    )
    add("--prompt-template", help="form of questions that are answered (the one the model was trained with)")
    add("--system", metavar="TEXT", help="system text of questions that are answered")
    add("--stop-words", nargs="+", default=[], help="texts that end an answer, besides the template's own")
    add("--max-new-tokens", type=int, default=512, help="the longest answer, in tokens (512)")
    add("--batch-size", type=int, default=8, help="answers that are generated at a time (8)")
    add("--model-name", metavar="NAME", help="at an address: the model that is asked (its only one)")
    add("--concurrency", type=int, default=8, help="at an address: requests at a time, also to a judge (8)")
    add_loading(parser)
    add_launcher(parser)


def add_judge(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the model that judges answers; `what` says what it does."""
    add = parser.add_argument
    add("--judge", metavar="URL", help=what)
    add("--judge-model", metavar="NAME", help="with --judge: the model that judges (its only one)")
    add(
        "--judge-prompt", metavar="FILE", help="with --judge: your own prompt, with {question}, {answer}, ..."
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add how answers are sampled."""
    add = parser.add_argument
    add("--temperature", type=float, default=0.0, help="0: always the likeliest token (0)")
    add("--top-p", type=float, default=1.0, help="the likeliest tokens of that probability together (1)")
    add("--seed", type=int, default=0, help="seed of answers with a temperature (0)")


def run(
    command: str,
    args: argparse.Namespace,
    argv: Sequence[str] | None,
    answer: Callable[[Any, Any], Sequence[str] | None],
) -> int:
    """Run `answer` with the settings and the world; returns the exit code."""

    def measure(world: Any) -> Sequence[str] | None:
        return answer(settings_of(vars(args)), world)

    def check() -> None:
        fetch_models(args, "model")
        fetch_adapters(args)
        check_model(vars(args))

    return run_measurement(command, args, argv, check, measure)
