"""`xtuner replay WORK_DIR`: the first updates of a run again, and what is no longer as it was."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtuner.atomic import written
from xtuner.check.checks import check_config
from xtuner.config import parse_config, parse_option
from xtuner.estimate.configured import read_division
from xtuner.estimate.trainer import as_engine
from xtuner.language import translate
from xtuner.log import start_console
from xtuner.parallel.launch import join_launched, num_processes
from xtuner.recipes.sizes import known_sizes
from xtuner.tools.arguments.config import add_options, read_config
from xtuner.tools.arguments.parser import Parser, at_least_one
from xtuner.tools.arguments.processes import add_launcher, run_in

if TYPE_CHECKING:
    from xtuner.config.load import Config
    from xtuner.engine.replay.files import Record

EQUAL, DIFFERENT = 0, 1


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner replay`."""
    parser = Parser(
        "xtuner replay",
        description="Train the first updates of a run again, in a temporary folder, and say what differs, "
        "what it follows from, and by how much. Exit code: 0 equal, 1 different, 2 an error.",
    )
    add = parser.add_argument
    add("work_dir", metavar="WORK_DIR", help="the work dir of the run, one of its starts, or a replay.json")
    add("--updates", type=at_least_one, metavar="N", help="only the first N updates (all that were recorded)")
    add(
        "--tolerance",
        type=_tolerance,
        default=1e-3,
        metavar="FRACTION",
        help="by how much losses may differ, of gradient norms ten times as much (0.001)",
    )
    add("--config", metavar="CONFIG", help="a config to train with instead of the one recorded")
    add_options(parser)
    add("--save", metavar="FILE", help="also keep the new record, which replay reads too")
    add("--json", action="store_true", help="print JSON instead, for scripts")
    add_launcher(parser)
    return parser.parse_args(argv)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise argparse.ArgumentTypeError(translate("{text!r} is no number of at least 0", text=text))
    return value


def main(argv: list[str] | None = None) -> int:
    """Train again and compare; returns 0 if all is equal, else 1."""
    args = parse_args(argv)
    processes = join_launched(args.launcher)
    from xtuner.engine.replay.files import find_record, read_record

    record = read_record(find_record(Path(args.work_dir)))
    config = _config_of(record, args)
    if processes is not None:
        return run_in(processes, "replay", argv, results=(DIFFERENT,))
    start_console("WARNING")
    return _replay(record, config, args)


def _config_of(record: Record, args: argparse.Namespace) -> Config:
    """The config to train with: the recorded one, or another, with the options of the command line."""
    if args.config:
        return read_config(args.config, args.cfg_options)
    options = dict(parse_option(option) for option in args.cfg_options)
    return parse_config(record["config"]["text"], record["config"]["filename"], options)


def _replay(record: Record, config: Config, args: argparse.Namespace) -> int:
    from xtuner.engine.memory import explaining_out_of_memory
    from xtuner.engine.replay.rerun import options_of, rerun

    options = options_of(record, config)
    division = read_division(as_engine(config), *num_processes(), options.fsdp, options.deepspeed)
    checked = check_config(config, known_sizes, division)
    checked.raise_errors()
    count = min(args.updates or len(record["updates"]), len(record["updates"]))
    with explaining_out_of_memory(checked.forecast):
        return rerun(config, replace(options, forecast=checked.forecast), count, _tell(record, args))


def _tell(record: Record, args: argparse.Namespace) -> Callable[[Record, Any], int]:
    """A function of the new record and its tokenizer that prints the comparison: the exit code."""
    from xtuner.engine.replay.compare import compare
    from xtuner.engine.replay.table import table
    from xtuner.engine.replay.updates import Tolerance

    def tell(again: Record, tokenizer: Any) -> int:
        found = compare(record, again, Tolerance(args.tolerance), lambda token: _text(tokenizer, token))
        if args.save:
            with written(Path(args.save)) as part:
                part.write_text(json.dumps(again, ensure_ascii=False), encoding="utf-8")
        if args.json:
            print(json.dumps(asdict(found), ensure_ascii=False, indent=1))
        else:
            print("\n".join(table(found)))
        return EQUAL if found.is_equal else DIFFERENT

    return tell


def _text(tokenizer: Any, token: int) -> str:
    """The text of a token, `""` without a tokenizer or for an id that it has not."""
    decode = getattr(tokenizer, "decode", None)
    try:
        return "" if decode is None else decode([token])
    except (IndexError, KeyError, OverflowError):  # of another tokenizer
        return ""
