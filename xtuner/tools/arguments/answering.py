"""The arguments of commands that let a language model answer questions, and their run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from xtuner.log import start_console
from xtuner.model_folder import check_model_path
from xtuner.paths import check_adapter_path
from xtuner.tools.arguments.parser import bits
from xtuner.tools.arguments.processes import add_launcher, join_launched, run_in


def add_answering(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all such commands have."""
    add = parser.add_argument
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
    add("--torch-dtype", choices=["fp16", "bf16", "fp32", "auto"], default="fp16", help="precision (fp16)")
    add("--bits", type=bits, metavar="{4,8,None}", help="load the model quantised to so many bits (None)")
    add("--offload-folder", help="where layers go that fit neither GPU nor memory")
    add("--trust-remote-code", action="store_true", help="run Python files that the model brings along")
    add_launcher(parser)


def run(
    command: str,
    args: argparse.Namespace,
    argv: Sequence[str] | None,
    answer: Callable[[Any, Any], Sequence[str] | None],
) -> int:
    """Call `answer` with the settings and the world, in the processes that the environment asks for.

    What it returns on the first process is printed. Returns the exit code.
    """
    processes = join_launched(args)
    check_model_path(args.model)
    if args.adapter is not None:
        check_adapter_path(args.adapter)
    if processes is not None:
        return run_in(processes, command, argv)
    start_console()
    from xtuner.evaluation.text.measure import Settings
    from xtuner.parallel.world import make_world

    options = {name: value for name, value in vars(args).items() if name in Settings.__dataclass_fields__}
    world = make_world()
    lines = answer(Settings(**options), world)
    if lines is not None:
        print("\n".join(lines))
    world.close()
    return 0
