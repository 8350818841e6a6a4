"""The arguments of commands that measure a vision-language model, and their run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from xtuner.data_files import check_there, named_files
from xtuner.paths import check_adapter_path
from xtuner.tools.arguments.addresses import fetch_adapters, find_model
from xtuner.tools.arguments.model import add_llava, add_loading
from xtuner.tools.arguments.parser import Parser
from xtuner.tools.arguments.processes import add_launcher, run_measurement


def make_parser(command: str, about: str) -> argparse.ArgumentParser:
    """Add the arguments that all such commands have."""
    parser = Parser(f"xtuner {command}", description=about)
    add = parser.add_argument
    add("model_name_or_path", help="the model: a folder or a name on the hub")
    add("--data-path", required=True, metavar="FILE", help="the questions: a file, a folder or a pattern")
    add("--image-folder", metavar="DIR", help="the folder of images that the data names by file")
    add("--work-dir", help="folder of the results (./work_dirs/<name of the data>)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--adapter", help="the LoRA adapter to put on the model")
    add_llava(parser, which)
    add("--prompt-template", help="form of the prompt (the one that the model was trained with)")
    add("--stop-words", nargs="+", default=[], help="texts that end an answer, besides the template's own")
    add_loading(parser)
    add("--bot-name", default="BOT", help="what templates with a {bot_name} call the model (BOT)")
    add("--max-new-tokens", type=int, default=100, help="the longest answer, in tokens (100)")
    add("--batch-size", type=int, default=8, help="answers that are generated at a time (8)")
    add("--seed", type=int, default=0, help="has no effect: an answer is always the likeliest tokens")
    add_launcher(parser)
    return parser


def run(command: str, args: argparse.Namespace, argv: Sequence[str] | None) -> int:
    """Measure; returns the exit code."""

    def measured(world: Any) -> Sequence[str] | None:
        from xtuner.evaluation.vision.measure import Settings, measure
        from xtuner.evaluation.vision.results import print_scores

        given = {name: value for name, value in vars(args).items() if name in Settings.__dataclass_fields__}
        outcome = measure(Settings(args.model_name_or_path, **given), world)
        if outcome is not None and outcome.scores is not None:
            print_scores(outcome.title, outcome.scores)
        return None if outcome is None else outcome.notes

    return run_measurement(command, args, argv, lambda: _check_paths(args), measured)


def _check_paths(args: argparse.Namespace) -> None:
    """Raise for paths that do not exist, before torch is imported."""
    find_model(args, "model_name_or_path")
    fetch_adapters(args)
    for file in named_files(args.data_path) or ():
        check_there(file)
    if args.adapter is not None:
        check_adapter_path(args.adapter)
