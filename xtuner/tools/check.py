"""`xtuner check`: errors of a config, and the memory and time of its run, in half a second."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from xtuner.check.checks import Findings, check_config
from xtuner.config.schema import by_trainer
from xtuner.errors import ConfigError
from xtuner.estimate.configured import read_division
from xtuner.estimate.forecast import Forecast, memory_lines
from xtuner.estimate.memory import size_text
from xtuner.estimate.plan_table import plan_lines
from xtuner.estimate.trainer import as_engine
from xtuner.language import translate
from xtuner.parallel.launch import num_processes
from xtuner.recipes.deepspeed_files import deepspeed_settings
from xtuner.recipes.sizes import known_sizes
from xtuner.tools.arguments.config import add_config, add_options, read_config
from xtuner.tools.arguments.parser import Parser, at_least_one

if TYPE_CHECKING:
    from xtuner.engine.longest import Tried


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("xtuner check", description=__doc__)
    add_config(parser)
    add_options(parser)
    parser.add_argument(
        "--longest",
        action="store_true",
        help="also train two updates on the batch with the most tokens, and measure their memory",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead, for scripts")
    parser.add_argument(
        "--processes", type=at_least_one, metavar="N", help="plan a run by N processes, one for each GPU"
    )
    parser.add_argument("--per-node", type=at_least_one, metavar="M", help="of them on a machine (8)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Print the findings; returns 1 if a run would fail."""
    args = parse_args(argv)
    config = read_config(args.config, args.cfg_options)
    run = as_engine(config)
    named = run.get("deepspeed")
    zero = named if isinstance(named, Mapping) else deepspeed_settings(named) if named else None
    processes, per_node = (args.processes, 8) if args.processes else num_processes()
    division = read_division(run, processes, args.per_node or per_node, zero=zero)
    found = check_config(config, known_sizes, division, _try_rows)
    tried = None
    if args.longest and not found.errors:
        if by_trainer(config):
            raise ConfigError(
                translate("--longest tries the training of XTuner's engine, which this config does not use")
            )
        from xtuner.engine.longest import try_longest
        from xtuner.engine.run import RunOptions

        tried = try_longest(config, RunOptions(forecast=found.forecast))
    if args.json:
        print(json.dumps(_as_json(found, tried), ensure_ascii=False, indent=1))
    else:
        _print(args.config, found, tried)
        if args.processes and found.forecast is not None:
            print("\n".join(plan_lines(run, found.forecast)))
    return 1 if found.errors else 0


def _try_rows(cfg: Mapping[str, Any]) -> str | None:
    from xtuner.survey.first_rows import try_first_rows

    return try_first_rows(cfg)


def _print(name: str, found: Findings, tried: Tried | None) -> None:
    for fault in found.errors:
        print(f"xtuner: error: {' '.join(fault.message.split())}", file=sys.stderr)
    for fault in found.warnings:
        print(f"xtuner: warning: {fault.message}", file=sys.stderr)
    print(f"{name}: {_errors(len(found.errors))}{translate(', ')}{_warnings(len(found.warnings))}")
    if found.forecast is not None:
        print("\n".join(_forecast_lines(found.forecast)))
    else:
        print(translate("memory   unknown: there is no model folder here to read the sizes from"))
    if tried is not None:
        print(_longest_line(tried))
    if found.unchecked:
        print(translate("not checked here, but by train: {names}", names=", ".join(found.unchecked)))
    if not found.errors:
        print(translate("Next: {command}", command=f"xtuner train {shlex.quote(name)}"))


def _errors(count: int) -> str:
    return translate("{count} errors", count=count) if count else translate("no errors")


def _warnings(count: int) -> str:
    return translate("{count} warnings", count=count) if count else translate("no warnings")


def _forecast_lines(found: Forecast) -> list[str]:
    lines = memory_lines(found)
    if found.seconds is None:
        unknown = "time     unknown: the size of the data or the speed of this machine is not known"
        return [*lines, translate(unknown)]
    time = translate(
        "time     very roughly {duration} for {tokens:.2g} tokens",
        duration=_duration(found.seconds),
        tokens=found.num_tokens,
    )
    return [*lines, time]


def _longest_line(tried: Tried) -> str:
    return translate(
        "longest  batch {number} of {total} with {tokens:,} tokens: two updates took {duration} and {peak} "
        "at most. Its rows: {rows}",
        number=tried.number + 1,
        total=tried.num_batches,
        tokens=tried.num_tokens,
        duration=_duration(tried.seconds),
        peak=size_text(tried.peak),
        rows=tried.rows,
    )


_UNITS = ((86400, "{count:.0f} days"), (3600, "{count:.0f} hours"), (60, "{count:.0f} minutes"))


def _duration(seconds: float) -> str:
    for size, text in _UNITS:
        if seconds >= 2 * size:
            return translate(text, count=seconds / size)
    return translate("a second") if seconds < 1.5 else translate("{count:.0f} seconds", count=seconds)


def _as_json(found: Findings, tried: Tried | None) -> dict[str, Any]:
    needs = found.forecast
    return {
        "errors": [fault._asdict() for fault in found.errors],
        "warnings": [fault._asdict() for fault in found.warnings],
        "unchecked": found.unchecked,
        "memory": None
        if needs is None
        else {
            "total": needs.memory.total,
            "free": needs.machine.free_bytes,
            "device": needs.machine.name,
            "exact": needs.shape.is_exact,
            "processes": needs.division.processes,
            "host": needs.host,
            "parts": needs.memory.parts(),
        },
        "seconds": None if needs is None else needs.seconds,
        "longest": None if tried is None else asdict(tried),
    }
