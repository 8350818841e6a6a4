"""`xtuner test CONFIG --checkpoint P`: loss and perplexity of a checkpoint on held-out data.

With `--checkpoints WORK_DIR`: of all checkpoints of a run, and their answers to the questions of `--tasks`.
"""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from xtuner.check.checks import check_config
from xtuner.checkpoint_paths import check_exists
from xtuner.config import Config
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.log import start_console
from xtuner.parallel.launch import join_launched
from xtuner.recipes.sizes import known_sizes
from xtuner.tools.arguments.config import add_config, add_options, read_config
from xtuner.tools.arguments.parser import Parser
from xtuner.tools.arguments.processes import add_launcher, run_in

_OF_TASKS = ("tasks", "shots", "limit", "metrics", "max_new_tokens")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner test`."""
    parser = Parser(
        "xtuner test", description="Loss and perplexity on test_dataloader, or else on val_dataloader."
    )
    add_config(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="iter_300.pth (a file or DeepSpeed's folder), an adapter folder or a model folder "
        "(none: the model as training would start from it)",
    )
    which.add_argument(
        "--checkpoints",
        nargs="+",
        metavar="PATH",
        help="a work dir, or several checkpoints: a table of all of them, and of the model before training",
    )
    parser.add_argument(
        "--work-dir",
        help="folder of the log and the result (./work_dirs/<config name>; of a table WORK_DIR/measured)",
    )
    add_tasks(parser)
    add_options(parser)
    add_launcher(parser)
    return parser.parse_args(argv)


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """Add what `xtuner eval` measures besides."""
    add = parser.add_argument
    add(
        "--tasks",
        nargs="+",
        metavar="[KIND=]PATH",
        help="in the table: also the questions of xtuner eval",
    )
    add(
        "--shots",
        type=int,
        metavar="N",
        help="examples before each question (5 for MMLU, C-Eval, CMMLU; else 0)",
    )
    add("--limit", type=int, metavar="N", help="only the first N questions of each task")
    add("--metrics", nargs="+", metavar="NAME", help="of answers (those that fit the references)")
    add("--max-new-tokens", type=int, metavar="N", help="the longest answer, in tokens (512)")


def main(argv: list[str] | None = None) -> int:
    """Measure; returns 0 if it was completed."""
    args = parse_args(argv)
    config = read_config(args.config, args.cfg_options)
    if args.checkpoint is not None:
        check_exists(args.checkpoint)
    if args.checkpoints is None and (flag := next((f for f in _OF_TASKS if getattr(args, f)), None)):
        what = "--{flag} is for --checkpoints; xtuner eval asks a model in a folder"
        raise ConfigError(translate(what, flag=flag.replace("_", "-")))
    check_config(config, known_sizes).raise_errors()
    processes = join_launched(args.launcher, config)
    if processes is not None:
        return run_in(processes, "test", argv)
    start_console(config.get("log_level", "INFO"))
    from xtuner.parallel.world import make_world

    world = make_world()
    if args.checkpoints is not None:
        code = _measure_all(args, config, world)
        world.close()
        return code
    from xtuner.evaluation.validation_loss import measure

    metrics = measure(config, args.checkpoint, args.work_dir, world)
    if world.is_first:
        print("  ".join(f"{name}: {value:.4f}" for name, value in metrics.items()))
    world.close()
    return 0


def _measure_all(args: argparse.Namespace, config: Config, world: Any) -> int:
    """Measure all checkpoints, and print their table on the first process; 1 if none could be measured."""
    from xtuner.evaluation.checkpoint_table import print_table
    from xtuner.evaluation.checkpoints import BASE, measure_checkpoints
    from xtuner.evaluation.text.settings import Settings

    settings = None
    if args.tasks:
        given = {name: value for name in _OF_TASKS if (value := getattr(args, name)) is not None}
        settings = Settings(model=args.config, **given)
    table, file = measure_checkpoints(config, args.checkpoints, settings, args.work_dir, world)
    failed = all(row.fault is not None for row in table.rows if row.path is not None)
    if not world.is_first:
        return int(failed)
    print_table(table)
    print(translate("* the best of its column. The table is in {file}", file=file))
    for row in table.rows:
        if row.fault is not None:
            print(translate("{name} could not be measured: {fault}", name=row.name, fault=row.fault))
    name = table.deciding
    best = table.best(name) if name else []
    if BASE in best:
        print(translate("By {name} no checkpoint is better than the model before training", name=name))
    elif path := next((row.path for row in table.rows if row.name in best and row.path), None):
        print(translate("Best by {name}: {best}. Next:", name=name, best=path))
        print(f"xtuner convert pth_to_hf {shlex.quote(args.config)} {shlex.quote(path)} OUT")
    return int(failed)
