"""The arguments of commands that measure a vision-language model, and their run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from xtuner.data_files import check_there, named_files
from xtuner.log import start_console
from xtuner.model_folder import check_model_path
from xtuner.paths import check_adapter_path
from xtuner.tools.arguments.parser import Parser, bits
from xtuner.tools.arguments.processes import add_launcher, join_launched, run_in


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
    which.add_argument("--llava", help="the folder with what makes a LLaVA of the model: projector, adapters")
    add("--visual-encoder", help="with --llava: the CLIP, a folder or a name on the hub")
    add("--visual-select-layer", type=int, help="with --llava: the layer of the CLIP that is seen (-2)")
    add("--prompt-template", help="form of the prompt (the one that the model was trained with)")
    add("--stop-words", nargs="+", default=[], help="texts that end an answer, besides the template's own")
    add("--torch-dtype", choices=["fp16", "bf16", "fp32", "auto"], default="fp16", help="precision (fp16)")
    add("--bits", type=bits, metavar="{4,8,None}", help="load the model quantised to so many bits (None)")
    add("--bot-name", default="BOT", help="what templates with a {bot_name} call the model (BOT)")
    add("--offload-folder", help="where layers go that fit neither GPU nor memory")
    add("--trust-remote-code", action="store_true", help="run Python files that the model brings along")
    add("--max-new-tokens", type=int, default=100, help="the longest answer, in tokens (100)")
    add("--batch-size", type=int, default=8, help="answers that are generated at a time (8)")
    add("--seed", type=int, default=0, help="has no effect: an answer is always the likeliest tokens")
    add_launcher(parser)
    return parser


def run(command: str, args: argparse.Namespace, argv: Sequence[str] | None) -> int:
    """Measure in this process, or in the processes that the environment asks for; returns the exit code."""
    processes = join_launched(args)
    _check_paths(args)
    if processes is not None:
        return run_in(processes, command, argv)
    start_console()
    from xtuner.evaluation.vision.measure import Settings, measure
    from xtuner.evaluation.vision.results import print_scores
    from xtuner.parallel.world import make_world

    options = {name: value for name, value in vars(args).items() if name in Settings.__dataclass_fields__}
    settings = Settings(args.model_name_or_path, **options)
    settings.check()
    world = make_world()
    outcome = measure(settings, world)
    if outcome is not None:
        if outcome.scores is not None:
            print_scores(outcome.title, outcome.scores)
        print("\n".join(outcome.notes))
    world.close()
    return 0


def _check_paths(args: argparse.Namespace) -> None:
    """Raise for paths that do not exist, before torch is imported."""
    check_model_path(args.model_name_or_path)
    for file in named_files(args.data_path) or ():
        check_there(file)
    if args.adapter is not None:
        check_adapter_path(args.adapter)
